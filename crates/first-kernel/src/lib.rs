//! What a kernel does with TDX in its life, from bring-up to the reset before the jump, through the
//! traits of `tdx-host` alone.
//!
//! The software machine (`tdx-lab`), the kernel on real instructions (`bare/firstkernel`) and the
//! Linux test module run this code, and the SEAMCALLs of the first two must be the same
//! (`cargo xtask boots`). It does not depend on any of them.

#![no_std]
#![warn(missing_docs)]

mod error;
mod handover;
mod hypervisor;
mod life;
mod phase;

use core::sync::atomic::AtomicU64;
use tdx_abi::{PageRange, TdxFeatures0};
use tdx_host::{
    bringup::{Bringup, BringupError, Kernel, ModuleInfo, ModuleKnown, Planned, Started},
    key_ids::KeyIds,
    layout::{FrameRequest, Layout},
    ledger::Ledger,
    platform::{NodeRange, OwnedPages, TdxPlatform},
};

pub use error::StepError;
pub use handover::{AnyPolicy, Comparison, Handed, HandedOutcome, NotHandedOver, crash, kexec};
pub use hypervisor::{Backend, Build, GuestMap, Hypervisor, Move, Slot, Stuck, guest_page, td_params};
pub use life::{PAGES_PER_TD, Pages, RangePages, live};
pub use phase::TdPhase;

/// Brings TDX up, from [`Bringup::start`] on.
///
/// # Errors
/// [`BringupError`], after everything was undone.
pub fn bring_up<K: Kernel>(started: Bringup<'_, K, Started>, memory: &[NodeRange]) -> Result<ModuleInfo, BringupError> {
    finish(plan(look(started)?, memory)?)
}

// Each part has its own frame, which is gone when the next begins: the stack of a kernel is small.

#[inline(never)]
fn look<K: Kernel>(started: Bringup<'_, K, Started>) -> Result<Known<'_, K>, BringupError> {
    started.sys_init()?.init_cpus()?.read_module_info()
}

#[inline(never)]
fn plan<'k, K: Kernel>(known: Known<'k, K>, memory: &[NodeRange]) -> Result<Plan<'k, K>, BringupError> {
    known.plan(memory)
}

#[inline(never)]
fn finish<K: Kernel>(planned: Plan<'_, K>) -> Result<ModuleInfo, BringupError> {
    Ok(planned.configure()?.configure_keys()?.init_tdmrs()?.module)
}

type Known<'k, K> = Bringup<'k, K, ModuleKnown>;
type Plan<'k, K> = Bringup<'k, K, Planned>;

/// 64-bit words that the ledger of a layout needs.
pub fn ledger_words(layout: &Layout) -> u64 {
    Ledger::words_needed(layout.tdmrs().iter().map(tdx_host::layout::Tdmr::range))
}

/// The ledger over the TDMRs.
///
/// # Errors
/// As [`Ledger::new`].
pub fn ledger<'m>(layout: &Layout, words: &'m mut [AtomicU64]) -> Result<Ledger<'m>, tdx_host::ledger::LedgerError> {
    let ranges: [PageRange; tdx_abi::MAX_TDMRS] =
        core::array::from_fn(|index| layout.tdmrs().get(index).map(tdx_host::layout::Tdmr::range).unwrap_or_default());
    Ledger::new(ranges.into_iter().take(layout.tdmr_count()), words)
}

/// Pages for this many TDs, inside a TDMR.
pub fn allocate<K: Kernel>(kernel: &mut K, layout: &Layout, tds: u32) -> Option<OwnedPages> {
    let pages = PAGES_PER_TD * u64::from(tds) + 512;
    layout
        .tdmrs()
        .iter()
        .find_map(|tdmr| kernel.allocate(FrameRequest { within: tdmr.range(), ..FrameRequest::anywhere(pages, None) }))
}

/// Words that the KeyIDs of a machine need at most: KeyIDs have 16 bits.
pub const KEY_ID_WORDS: usize = 64;

/// The private KeyIDs.
///
/// # Errors
/// As [`KeyIds::new`].
pub fn key_ids<'m>(
    platform: &TdxPlatform,
    words: &'m mut [AtomicU64],
) -> Result<KeyIds<'m>, tdx_host::key_ids::KeyIdsError> {
    KeyIds::new(platform.key_ids(), words)
}

/// What TDX_FEATURES0 says, if the module was asked.
pub fn features(module: Option<&ModuleInfo>) -> Option<TdxFeatures0> {
    module.map(|module| module.features)
}
