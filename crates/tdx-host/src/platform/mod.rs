//! The traits that a kernel implements: CPUs, the few instructions, shared memory.
//!
//! Every trait whose implementer answers for memory is an `unsafe trait`; its `# Safety` section is
//! the contract, and the safe functions of this crate are safe because of it. No method is called
//! with a lock of this crate held: there is none.
//!
//! On hardware all instructions come from [`crate::arch`]; this compiles, and `bare/firstkernel` of
//! the repository runs it:
//!
//! ```no_run
//! use core::marker::PhantomData;
//! use core::ptr::with_exposed_provenance_mut as at;
//! use tdx_abi::{LineRange, Registers};
//! use tdx_host::arch;
//! use tdx_host::platform::{Cpu, CpuId, LineReset, PackageId};
//! use tdx_host::seamcall::Seamcall;
//! use tdx_host::{CpuGate, CpuSlot, Host};
//!
//! static SLOTS: [CpuSlot; 64] = [const { CpuSlot::new() }; 64];
//! static TDX: Host = Host::new(&SLOTS);
//! const DIRECT_MAP: usize = 0xffff_8880_0000_0000;
//!
//! struct ThisCpu(CpuId, PackageId, PhantomData<*const ()>);
//!
//! // SAFETY: executes the instruction and returns all registers.
//! unsafe impl Seamcall for ThisCpu {
//!     unsafe fn seamcall(&self, mut registers: Registers) -> Registers {
//!         // SAFETY: ring 0; the #UD and #GP handlers apply `arch::fault_fixups`; the pages are the caller's promise.
//!         unsafe { arch::seamcall(&mut registers) };
//!         registers
//!     }
//! }
//!
//! // SAFETY: MOVDIR64B of the direct map, which maps KeyID 0 write-back, and MFENCE.
//! unsafe impl LineReset for ThisCpu {
//!     unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
//!         let first = DIRECT_MAP + lines.start().start().get() as usize;
//!         // SAFETY: `detect` has found MOVDIR64B; the lines are RAM, mapped there, and the caller's to overwrite.
//!         unsafe { arch::movdir64b_zero(at(first), lines.len()) }
//!     }
//!
//!     fn fence(&self) {
//!         arch::mfence();
//!     }
//! }
//!
//! // SAFETY: made with preemption off and dropped before it is on again, so all methods act on the CPU with this number.
//! unsafe impl Cpu for ThisCpu {
//!     fn id(&self) -> CpuId {
//!         self.0
//!     }
//!
//!     fn package(&self) -> PackageId {
//!         self.1
//!     }
//!
//!     fn write_back_caches(&self) {
//!         // SAFETY: ring 0.
//!         unsafe { arch::wbinvd() };
//!     }
//!
//!     unsafe fn flush_lines(&self, lines: LineRange) {
//!         let first = DIRECT_MAP + lines.start().start().get() as usize;
//!         // SAFETY: every CPU with TDX has CLFLUSHOPT; the lines are the caller's own, mapped there.
//!         let left = unsafe { arch::clflushopt(at(first), lines.len()) };
//!         debug_assert_eq!(left, 0, "a page that the kernel has handed out is mapped");
//!     }
//!
//!     fn cpu_gate(&self) -> CpuGate<'_> {
//!         // SAFETY: this code runs on that CPU and stays there.
//!         unsafe { TDX.gate().cpu_gate(self.0) }
//!     }
//! }
//! ```

mod detect;
pub(crate) mod instruction;
mod owned;

use tdx_abi::{LineRange, PageRange, PhysAddr};

use crate::gate::CpuGate;
use instruction::Seamcall;

pub use crate::ids::{CpuId, NodeId, PackageId};
pub use detect::{CpuModel, CpuidOutput, LocalProcessor, Msr, NoTdx, Processor, TdxPlatform, detect};
pub use owned::{OutOfPages, OwnedPages};

/// What a reset needs from a CPU: MOVDIR64B and a fence. It has no SEAMCALL.
///
/// # Safety
/// * [`LineReset::reset_lines`] executes MOVDIR64B of 64 zero bytes with KeyID 0 on each line of
///   the range but for those that it counts, and on no other: a cached store, MOVNTI or REP STOS
///   does not clear poison, or makes it.
/// * [`LineReset::fence`] orders these stores before every later access of this CPU.
pub unsafe trait LineReset {
    /// One MOVDIR64B of zeros with KeyID 0 for each line. Weakly ordered until
    /// [`LineReset::fence`].
    ///
    /// Returns how many lines of the range it could not write, because no mapping of the kernel
    /// has them: 0 where all memory is mapped. They keep what they hold; what asked for the reset
    /// calls nothing clean then, and frees nothing.
    ///
    /// # Safety
    /// The lines are RAM, and hold nothing that anyone needs: they are overwritten with zeros.
    #[must_use = "lines that are left keep what they hold"]
    unsafe fn reset_lines(&self, lines: LineRange) -> u64;

    /// MFENCE: every earlier store of this CPU, weakly ordered ones included, is done before any
    /// later access.
    fn fence(&self);
}

/// A handle to the CPU that runs the code which holds it.
///
/// In a kernel the methods are the functions of [`crate::arch`].
///
/// # Safety
/// * A handle acts on the CPU that runs the code: as long as it exists the code is not moved to
///   another one (preemption off, or a pinned thread), and safe code cannot take the handle to
///   another CPU (the type is not `Send`).
/// * [`Cpu::id`] is the number of that CPU, the same at every call.
/// * [`Cpu::write_back_caches`] has written back and invalidated every line of every KeyID that
///   this CPU's caches held when it was called.
/// * [`Cpu::flush_lines`] has started to write back every dirty line of the range under KeyID 0,
///   and the next [`LineReset::fence`] waits for it.
/// * [`Cpu::cpu_gate`] is that of [`Cpu::id`] in the machine's one gate ([`crate::Host::gate`]):
///   that of the [`crate::Host`] which the kernel keeps until the handover, and replaces by no
///   other.
pub unsafe trait Cpu: Seamcall + LineReset {
    /// Which CPU this is.
    fn id(&self) -> CpuId;

    /// Which package it is in.
    fn package(&self) -> PackageId;

    /// The NUMA node whose memory is nearest. Decides in what order memory is reset, nothing else.
    /// `None`: not known, as without an implementation.
    fn node(&self) -> Option<NodeId> {
        None
    }

    /// WBINVD: writes back and invalidates every line this CPU may hold, of every KeyID. Orders
    /// nothing for another CPU.
    fn write_back_caches(&self);

    /// CLFLUSHOPT of each line under KeyID 0: the host's own dirty lines, before the module takes
    /// their page. Ordered by the next [`LineReset::fence`].
    ///
    /// # Safety
    /// The lines are RAM. (A kernel's direct map has no other, and CLFLUSHOPT faults where nothing
    /// is mapped.)
    unsafe fn flush_lines(&self, lines: LineRange);

    /// This CPU's part of the machine's one gate ([`crate::Host::gate`]). Every SEAMCALL of this
    /// crate passes it; a kernel's own SEAMCALLs (VP.ENTER) do the same.
    fn cpu_gate(&self) -> CpuGate<'_>;
}

/// Whether a task on a CPU has more to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Call again: there is more. The kernel may reschedule in between.
    Again,
    /// This CPU is done.
    Done,
}

/// Work for a set of CPUs, cut into short steps so that no CPU is held for long.
pub trait CpuTask<C: Cpu>: Sync {
    /// What one CPU keeps between its steps.
    type Local: Default;

    /// One short step on `cpu`. It takes no lock and does not wait.
    fn step(&self, cpu: &C, local: &mut Self::Local) -> Step;
}

/// The online CPUs. The kernel keeps CPU hotplug off while it lends one.
///
/// # Safety
/// * [`Cpus::run_on_all`] runs the task on every CPU that can make SEAMCALLs or hold private lines,
///   and returns after each has returned [`Step::Done`].
/// * [`Cpus::run_on_each_package`] runs it on one CPU of every package, and returns after that.
/// * All effects of the task are visible to the caller on return.
pub unsafe trait Cpus {
    /// A handle to one of them.
    type Cpu: Cpu;

    /// Runs the task on every online CPU until each has returned [`Step::Done`]; CPUs work in
    /// parallel where the kernel can. All effects of the task are visible to the caller on return.
    fn run_on_all<T: CpuTask<Self::Cpu>>(&self, task: &T);

    /// Runs the task on one CPU of each package, one package after another, until it has returned
    /// [`Step::Done`].
    fn run_on_each_package<T: CpuTask<Self::Cpu>>(&self, task: &T);

    /// Runs the function on the current CPU, pinned to it.
    fn run_here<R>(&self, function: impl FnOnce(&Self::Cpu) -> R) -> R;
}

/// Stores to physical memory, for what the module reads as shared memory: TDMR_INFO and the like.
///
/// Callers use [`OwnedPages::write`], which is safe.
///
/// # Safety
/// [`SharedMemory::write`] writes the bytes it is given, and nothing else.
pub unsafe trait SharedMemory {
    /// Copies `bytes` to physical memory at `address` through KeyID 0.
    ///
    /// # Safety
    /// The range is RAM that the caller owns, such as [`OwnedPages`].
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]);
}

/// A range of a NUMA node's usable memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeRange {
    /// The pages.
    pub range: PageRange,
    /// The node they belong to.
    pub node: NodeId,
}
