//! What a kernel gives to this crate: CPUs, the few instructions, shared memory. Small traits,
//! defined by how they are used; no method of them is called with a lock of this crate held,
//! because there is none.
//!
//! # What an implementer answers for
//!
//! The compiler cannot check these; everything above rests on them.
//!
//! * A [`Cpu`] handle acts on the CPU that runs the code. Whoever holds one is not moved:
//!   preemption off, or a pinned thread.
//! * [`LineReset::reset_lines`] is MOVDIR64B of 64 bytes with KeyID 0, and nothing else: not a
//!   cached store, not MOVNTI, not REP STOS.
//! * [`Cpu::admission`] is that of the kernel's one gate, and of this CPU.
//! * [`Cpus::run_on_all`] reaches every CPU that can make SEAMCALLs or hold private lines, and
//!   returns after all are done.
//! * [`crate::layout::FrameSource`] hands out pages that nobody else uses, and none that firmware
//!   or the crash kernel owns.
//!
//! On hardware all instructions come from [`crate::arch`]; this compiles, and `bare/firstkernel` of
//! the repository runs it:
//!
//! ```no_run
//! use core::ptr::with_exposed_provenance_mut as at;
//! use tdx_abi::{LineRange, Registers};
//! use tdx_host::arch;
//! use tdx_host::gate::{Admission, CpuSlot, Gate};
//! use tdx_host::platform::{Cpu, CpuId, LineReset, PackageId};
//! use tdx_host::seamcall::Seamcall;
//!
//! static GATE: Gate<[CpuSlot; 64]> = Gate::new([const { CpuSlot::new() }; 64]);
//! const DIRECT_MAP: usize = 0xffff_8880_0000_0000;
//!
//! struct ThisCpu(CpuId, PackageId);
//!
//! impl Seamcall for ThisCpu {
//!     fn seamcall(&self, mut registers: Registers) -> Registers {
//!         // SAFETY: ring 0; the #UD and #GP handlers apply `arch::fault_fixups`; pages come from the ledger alone.
//!         unsafe { arch::seamcall(&mut registers) };
//!         registers
//!     }
//! }
//!
//! impl LineReset for ThisCpu {
//!     fn reset_lines(&self, lines: LineRange) {
//!         let first = DIRECT_MAP + lines.start().start().get() as usize;
//!         // SAFETY: `detect` has found MOVDIR64B; the lines are mapped there, and hold nothing in use.
//!         unsafe { arch::movdir64b_zero(at(first), lines.len()) };
//!     }
//!
//!     fn fence(&self) {
//!         arch::mfence();
//!     }
//! }
//!
//! impl Cpu for ThisCpu {
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
//!     fn flush_lines(&self, lines: LineRange) {
//!         let first = DIRECT_MAP + lines.start().start().get() as usize;
//!         // SAFETY: every CPU with TDX has CLFLUSHOPT; the lines are mapped there.
//!         unsafe { arch::clflushopt(at(first), lines.len()) };
//!     }
//!
//!     fn admission(&self) -> Admission<'_> {
//!         GATE.admission(self.0)
//!     }
//! }
//! ```

mod detect;

use core::fmt;
use tdx_abi::{LineRange, PageRange, PhysAddr};

use crate::gate::Admission;
use crate::seamcall::Seamcall;

pub use detect::{CpuModel, CpuidOutput, Msr, NoTdx, Processor, TdxPlatform, detect};

/// A logical processor, by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CpuId(pub u32);

/// A processor package (socket), by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PackageId(pub u32);

/// A NUMA node, by the kernel's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u32);

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}", self.0)
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package {}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// What the reset needs from a CPU, and all it gets: after a reset has begun no SEAMCALL is
/// possible through this trait.
pub trait LineReset {
    /// One MOVDIR64B of zeros with KeyID 0 for each line, ascending. Weakly ordered until
    /// [`LineReset::fence`].
    ///
    /// Nothing but a full 64-byte direct store will do: a cached, a non-temporal or a split store
    /// does not clear poison, or makes it.
    fn reset_lines(&self, lines: LineRange);

    /// MFENCE: every earlier store of this CPU, weakly ordered ones included, is done before any
    /// later access.
    fn fence(&self);
}

/// The CPU that runs the code which holds this handle: having one is the proof of being pinned to
/// that CPU.
///
/// Every method acts on this CPU only. In a kernel they are the functions of [`crate::arch`].
pub trait Cpu: Seamcall + LineReset {
    /// Which CPU this is.
    fn id(&self) -> CpuId;

    /// Which package it sits in.
    fn package(&self) -> PackageId;

    /// WBINVD: writes back and invalidates every line this CPU may hold, of every KeyID. Orders
    /// nothing for another CPU.
    fn write_back_caches(&self);

    /// CLFLUSHOPT of each line under KeyID 0: the host's own dirty lines, before the module takes
    /// their page. Ordered by the next [`LineReset::fence`].
    fn flush_lines(&self, lines: LineRange);

    /// This CPU's access to the kernel's one [`crate::gate::Gate`]: `gate.admission(self.id())`.
    /// Every SEAMCALL of this crate passes it; a kernel's own SEAMCALLs (VP.ENTER) do the same.
    fn admission(&self) -> Admission<'_>;
}

/// What a task on a CPU says after each step.
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

/// The online CPUs. The kernel holds CPU hotplug off while it lends one.
pub trait Cpus {
    /// A handle to one of them.
    type Cpu: Cpu;

    /// Runs the task on every online CPU until each has said [`Step::Done`]; CPUs work in parallel
    /// where the kernel can. All effects of the task are visible to the caller on return.
    fn run_on_all<T: CpuTask<Self::Cpu>>(&self, task: &T);

    /// Runs the task on one CPU of each package, one package after another, until it has said
    /// [`Step::Done`].
    fn run_on_each_package<T: CpuTask<Self::Cpu>>(&self, task: &T);

    /// Runs the function on the current CPU, pinned to it.
    fn run_here<R>(&self, function: impl FnOnce(&Self::Cpu) -> R) -> R;
}

/// Host memory that the module reads and writes as shared memory: TDMR_INFO and the like.
pub trait SharedMemory {
    /// Copies `bytes` to physical memory at `address` through KeyID 0. The range is owned by this
    /// crate: it came from a [`crate::layout::FrameSource`].
    fn write(&mut self, address: PhysAddr, bytes: &[u8]);
}

/// A range of a NUMA node's usable memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeRange {
    /// The pages.
    pub range: PageRange,
    /// The node they belong to.
    pub node: NodeId,
}
