//! Explains an address of a machine check: what lies there, and whether it may be private.
//! Lock-free, from any context and at any instant, VMX on or off; makes no SEAMCALL and does not
//! allocate.

use core::fmt;
use tdx_abi::{KeyId, Page, PageRange, PageSize, PhysAddr};

use super::memory::HostMemory;
use crate::layout::Layout;
use crate::ledger::PageState;

/// What an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressKind {
    /// PAMT that the module has. The level if the layout is known.
    Pamt(Option<PageSize>),
    /// Marked in the ledger: given to the module, on its way there, or returned and not reset.
    /// Never [`PageState::Shared`].
    Page(PageState),
    /// Memory that is never given to TDX nor reset: the crash kernel's.
    Reserved,
    /// In a TDMR, and marked there as unusable for TDX.
    ReservedArea,
    /// In a TDMR, and ordinary memory now.
    Shared,
    /// In no TDMR: never private.
    Outside,
}

impl AddressKind {
    /// A partial write to it poisons it.
    pub const fn may_be_private(self) -> bool {
        matches!(self, Self::Pamt(_) | Self::Page(_))
    }
}

/// What the host knows of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The address without KeyID bits.
    pub address: PhysAddr,
    /// The KeyID that the address carried; [`KeyId::HOST`] if none.
    pub key_id: KeyId,
    /// What is there.
    pub kind: AddressKind,
    /// The TDMR that the page lies in, or whose PAMT it is: index and range.
    pub tdmr: Option<(usize, PageRange)>,
}

/// Explains an address, as it stands in IA32_MCi_ADDR or anywhere else, with KeyID bits or without.
/// `layout` is that of the bring-up, if the caller can get at it.
///
/// Linux asks the module (PHYMEM.PAGE.RDMD), which cannot answer once VMX is off, and calls a page
/// that was returned and not reset an ordinary one.
pub fn explain(memory: &HostMemory<'_>, layout: Option<&Layout>, address: PhysAddr) -> Explanation {
    let (address, key_id) = match memory.platform() {
        Some(platform) => (platform.key_id_field().strip(address), platform.key_id_field().key_of(address)),
        None => (address, KeyId::HOST),
    };
    let page = address.page();
    let tdmrs = || layout.into_iter().flat_map(|layout| layout.tdmrs().iter().enumerate());
    if memory.pamts().any(|range| range.contains(page)) {
        let level_of = |(index, tdmr): (usize, &crate::layout::Tdmr)| {
            let level = PageSize::ALL.into_iter().find(|level| tdmr.pamt(*level).contains(page))?;
            Some((level, (index, tdmr.range())))
        };
        let (level, tdmr) = tdmrs().find_map(level_of).unzip();
        return Explanation { address, key_id, kind: AddressKind::Pamt(level), tdmr };
    }
    let around = tdmrs().find(|(_, tdmr)| tdmr.range().contains(page));
    let state = memory.ledger().and_then(|ledger| ledger.state(page));
    let kind = match (state, around) {
        (Some(state @ (PageState::Private | PageState::InFlight | PageState::Returned)), _) => AddressKind::Page(state),
        _ if memory.is_reserved(single(page)) => AddressKind::Reserved,
        (_, Some((_, tdmr))) if tdmr.reserved().iter().any(|area| area.contains(page)) => AddressKind::ReservedArea,
        // The ledger covers TDMRs alone, so that it knows them without the layout.
        (Some(PageState::Shared), _) | (None, Some(_)) => AddressKind::Shared,
        (None, None) => AddressKind::Outside,
    };
    Explanation { address, key_id, kind, tdmr: around.map(|(index, tdmr)| (index, tdmr.range())) }
}

fn single(page: Page) -> PageRange {
    PageRange::new(page, Page::new(page.index().saturating_add(1)))
}

impl fmt::Display for Explanation {
    /// `virt/tdx: 0x1234567040: PAMT_4K of TDMR 1 [0x1000000000, 0x2000000000), private: possible kernel bug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virt/tdx: {:#x}", self.address.get())?;
        if self.key_id != KeyId::HOST {
            write!(f, " (KeyID {})", self.key_id)?;
        }
        f.write_str(match self.kind {
            AddressKind::Pamt(Some(PageSize::Size4K)) => ": PAMT_4K",
            AddressKind::Pamt(Some(PageSize::Size2M)) => ": PAMT_2M",
            AddressKind::Pamt(Some(PageSize::Size1G)) => ": PAMT_1G",
            AddressKind::Pamt(None) => ": PAMT",
            AddressKind::Page(PageState::Private) => ": page of a TD",
            AddressKind::Page(PageState::InFlight) => ": page that a SEAMCALL may have given to the module",
            AddressKind::Page(_) => ": page that the module has returned and not reset",
            AddressKind::Reserved => ": memory of the crash kernel",
            AddressKind::ReservedArea => ": memory that TDX does not use",
            AddressKind::Shared => ": ordinary memory",
            AddressKind::Outside => ": memory outside every TDMR",
        })?;
        if let Some((index, range)) = self.tdmr {
            let preposition = if matches!(self.kind, AddressKind::Pamt(_)) { "of" } else { "in" };
            write!(f, " {preposition} TDMR {index} {range}")?;
        }
        f.write_str(if self.kind.may_be_private() { ", private: possible kernel bug" } else { ", not private" })
    }
}
