//! Turns private lines back into normal ones: MOVDIR64B over ranges, then a fence. Makes no
//! SEAMCALL and cannot.
//!
//! [`reset_ranges`] is for one CPU and fences after each range. [`ParallelReset`] lets many CPUs
//! share the work, cut by bytes, each the memory of its own NUMA node first.
//!
//! # Example
//!
//! What it is for, on the software machine:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! use tdx_abi::{KeyId, LineRange};
//! # use tdx_host::Cpu;
//! use tdx_host::reset::reset_ranges;
//! use tdx_machine::{CpuId, PartialStore};
//!
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! // TDX is up. A store of less than a line to PAMT: nothing happens.
//! let layout = tdx.layout().expect("TDX is up");
//! let line = layout.pamt_ranges().next().expect("there is PAMT").lines().start();
//! hardware.machine().partial_write(CpuId(0), LineRange::single(line), KeyId::HOST, PartialStore::NonTemporal)?;
//! // But the line is poisoned, and a read would be a machine check.
//! assert!(hardware.machine().poison(line).is_some());
//!
//! // Caches first, then the reset. It clears the poison, too.
//! for number in 0..4 {
//!     kernel.cpu_number(number).write_back_caches();
//! }
//! // SAFETY: the PAMTs belong to the layout, and no SEAMCALL is made any more.
//! let done = unsafe { reset_ranges(&kernel.cpu(), layout.pamt_ranges()) };
//! assert_eq!(done.lines * 64, layout.pamt_bytes());
//! assert_eq!(hardware.machine().private_lines(), 0);
//! assert!(hardware.machine().poison(line).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod nodes;
mod parallel;

use tdx_abi::PageRange;

use crate::platform::LineReset;

pub use nodes::{MAX_NODES, NodeMap};
pub use parallel::{ParallelReset, Place};

/// What a reset did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResetCount {
    /// 64-byte lines written, each once.
    pub lines: u64,
    /// Ranges they lie in.
    pub ranges: u64,
    /// 64-byte lines that no mapping has: not written, and as private as before.
    pub left: u64,
}

/// Writes every line of the ranges once and fences after each range.
///
/// # Safety
/// The ranges are RAM and hold nothing that anyone needs: they are overwritten with zeros. No
/// SEAMCALL makes a line of them private any more, and the dirty lines of private KeyIDs are
/// written back on every CPU; otherwise an older line may land on top of the reset.
pub unsafe fn reset_ranges<R: LineReset + ?Sized>(cpu: &R, ranges: impl IntoIterator<Item = PageRange>) -> ResetCount {
    let mut done = ResetCount::default();
    for range in ranges {
        if range.is_empty() {
            continue;
        }
        // SAFETY: the caller's promise.
        let left = unsafe { cpu.reset_lines(range.lines()) };
        cpu.fence();
        done.lines += range.lines().len() - left;
        done.left += left;
        done.ranges += 1;
    }
    done
}
