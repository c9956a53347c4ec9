//! What a kernel does with TDX in its life, from the first TD to the reset before the jump, through
//! the traits of `tdx-host` alone. Its bring-up is [`tdx_host::Host::bring_up`].
//!
//! The software machine (`tdx-lab`), the kernel on real instructions (`bare/firstkernel`) and the
//! Linux test module run this code, and the SEAMCALLs of the first two must be the same
//! (`cargo xtask boots`). It does not depend on any of them.

#![no_std]
#![warn(missing_docs)]

mod counting;
mod error;
mod handover;
mod hypervisor;
mod keep;
mod life;
mod phase;

use tdx_abi::PageRange;
use tdx_host::{
    bringup::Kernel,
    layout::{FrameRequest, Layout, Tdmr},
    platform::OwnedPages,
};

pub use counting::{COUNTING, Count, Exit, counting_exit, counting_page, enter_counting};
pub use error::StepError;
pub use handover::{AnyPolicy, Comparison, Handed, HandedOutcome, NotHandedOver, crash, kexec};
pub use hypervisor::{Backend, Build, GuestMap, Hypervisor, Move, Slot, Stuck, guest_page, td_params};
pub use keep::{KeptTd, write_takeover};
pub use life::{Copied, PAGES_PER_TD, Pages, Plain, RangePages, live};
pub use phase::TdPhase;

/// Pages for this many TDs, inside a TDMR.
pub fn allocate<K: Kernel>(kernel: &mut K, layout: &Layout, tds: u32) -> Option<OwnedPages> {
    allocate_in(kernel, layout.tdmrs().iter().map(Tdmr::range), tds)
}

/// Pages for this many TDs, inside one of these ranges.
pub fn allocate_in<K: Kernel>(
    kernel: &mut K,
    mut ranges: impl Iterator<Item = PageRange>,
    tds: u32,
) -> Option<OwnedPages> {
    let pages = PAGES_PER_TD * u64::from(tds) + 512;
    ranges.find_map(|within| kernel.allocate(FrameRequest { within, ..FrameRequest::anywhere(pages, None) }))
}
