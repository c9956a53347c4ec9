//! Pages owned by the TDX module, by kind: the kinds and their numbers, which C shares.

use tdx_abi::PamtPageType;

/// Index of TDRs in [`Pages`].
pub const CLEANSLATE_PAGES_TDR: usize = 0;
/// Index of TDCXs.
pub const CLEANSLATE_PAGES_TDCX: usize = 1;
/// Index of TDVPRs.
pub const CLEANSLATE_PAGES_TDVPR: usize = 2;
/// Index of pages of the secure EPT.
pub const CLEANSLATE_PAGES_SEPT: usize = 3;
/// Index of pages of guests.
pub const CLEANSLATE_PAGES_GUEST: usize = 4;
/// Index of pages that hold PAMT entries (Dynamic PAMT), two for each 2 MiB.
pub const CLEANSLATE_PAGES_PAMT_PAIR: usize = 5;
/// Kinds of pages.
pub const CLEANSLATE_PAGES_KINDS: usize = 6;

/// 4 KiB pages owned by the TDX module, by kind.
#[repr(C)]
#[derive(Default)]
pub struct Pages {
    /// By `CLEANSLATE_PAGES_*`.
    pub count: [u64; CLEANSLATE_PAGES_KINDS],
}

/// Index of a page in [`Pages`].
pub(crate) fn kind(page: PamtPageType) -> Option<usize> {
    match page {
        PamtPageType::TDR => Some(CLEANSLATE_PAGES_TDR),
        PamtPageType::TDCX => Some(CLEANSLATE_PAGES_TDCX),
        PamtPageType::TDVPR => Some(CLEANSLATE_PAGES_TDVPR),
        PamtPageType::EPT => Some(CLEANSLATE_PAGES_SEPT),
        PamtPageType::REG => Some(CLEANSLATE_PAGES_GUEST),
        PamtPageType::PAMT => Some(CLEANSLATE_PAGES_PAMT_PAIR),
        _ => None,
    }
}
