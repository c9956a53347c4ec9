//! What is at an address? For a machine-check handler.

use core::ffi::c_char;
use tdx_abi::{PageSize, PhysAddr};
use tdx_host::handover::{AddressKind, Explanation};
use tdx_host::ledger::PageState;

use crate::c_enum::c_enum;
use crate::host::{Host, TdxhHost};
use crate::range::TdxhRange;
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::output;
use crate::text::text;

c_enum! {
    /// What an address is.
    pub enum TdxhAddressKind as "tdxh_address_kind" {
        /// PAMT of a level that is not known.
        Pamt = 0, "TDXH_ADDRESS_PAMT";
        /// PAMT for 4 KiB pages.
        Pamt4k = 1, "TDXH_ADDRESS_PAMT_4K";
        /// PAMT for 2 MiB pages.
        Pamt2m = 2, "TDXH_ADDRESS_PAMT_2M";
        /// PAMT for 1 GiB pages.
        Pamt1g = 3, "TDXH_ADDRESS_PAMT_1G";
        /// A page that the module has.
        Private = 4, "TDXH_ADDRESS_PRIVATE";
        /// A page that a SEAMCALL may have given.
        InFlight = 5, "TDXH_ADDRESS_IN_FLIGHT";
        /// A page that was returned and not reset.
        Returned = 6, "TDXH_ADDRESS_RETURNED";
        /// Memory that is never touched.
        Reserved = 7, "TDXH_ADDRESS_RESERVED";
        /// In a TDMR, but not usable for TDX.
        ReservedArea = 8, "TDXH_ADDRESS_RESERVED_AREA";
        /// In a TDMR, and ordinary memory now.
        Shared = 9, "TDXH_ADDRESS_SHARED";
        /// In no TDMR.
        Outside = 10, "TDXH_ADDRESS_OUTSIDE";
    }
}

impl From<AddressKind> for TdxhAddressKind {
    fn from(kind: AddressKind) -> Self {
        match kind {
            AddressKind::Pamt(None) => Self::Pamt,
            AddressKind::Pamt(Some(PageSize::Size4K)) => Self::Pamt4k,
            AddressKind::Pamt(Some(PageSize::Size2M)) => Self::Pamt2m,
            AddressKind::Pamt(Some(PageSize::Size1G)) => Self::Pamt1g,
            AddressKind::Page(PageState::Private) => Self::Private,
            AddressKind::Page(PageState::InFlight) => Self::InFlight,
            AddressKind::Page(PageState::Returned) => Self::Returned,
            AddressKind::Reserved => Self::Reserved,
            AddressKind::ReservedArea => Self::ReservedArea,
            AddressKind::Page(PageState::Shared) | AddressKind::Shared => Self::Shared,
            AddressKind::Outside => Self::Outside,
        }
    }
}

/// The TDMR of an address that lies in none.
pub const TDXH_NO_TDMR: u32 = u32::MAX;

/// `struct tdxh_explanation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhExplanation {
    /// The address without KeyID bits.
    pub address: u64,
    /// [`TdxhAddressKind`].
    pub kind: u32,
    /// The KeyID that the address carried.
    pub key_id: u32,
    /// 1: a partial write to it poisons it.
    pub may_be_private: u32,
    /// Index of the TDMR, or [`TDXH_NO_TDMR`].
    pub tdmr: u32,
    /// The TDMR.
    pub tdmr_range: TdxhRange,
    /// The same as a line of a log: ASCII, ends with a zero byte.
    pub text: [c_char; TDXH_EXPLANATION_TEXT_SIZE],
}

/// Bytes of [`TdxhExplanation::text`], the final zero included: the longest explanation has 140
/// characters.
pub const TDXH_EXPLANATION_TEXT_SIZE: usize = 192;

impl From<Explanation> for TdxhExplanation {
    fn from(found: Explanation) -> Self {
        let (tdmr, range) = found.tdmr.unzip();
        Self {
            address: found.address.get(),
            kind: TdxhAddressKind::from(found.kind) as u32,
            key_id: found.key_id.get().into(),
            may_be_private: found.kind.may_be_private().into(),
            tdmr: tdmr.map_or(TDXH_NO_TDMR, |index| index as u32),
            tdmr_range: range.map_or_else(TdxhRange::default, Into::into),
            text: text(&found),
        }
    }
}

/// Explains an address. See the header.
///
/// # Safety
/// `host` was initialized; `explanation` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_explain(
    host: *mut TdxhHost,
    address: u64,
    explanation: *mut TdxhExplanation,
) -> TdxhResult {
    let look = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled.
        let found = unsafe { Host::of(host)? }.tdx.explain(PhysAddr::new(address));
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(explanation, found.into()) }
    };
    flat(look())
}
