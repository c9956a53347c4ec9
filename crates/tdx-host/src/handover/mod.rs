//! Hands the machine to the next kernel: which policy, in which order, and an honest account of what was left. It refuses to
//! make a SEAMCALL once the reset has begun, and to call clean what it cannot prove.
//!
//! # Orderly kexec
//!
//! The order is a type. Each state offers only the next step, so none can be left out or swapped:
//!
//! ```text
//! Kexec<Loaded> --stop_other_cpus--> Kexec<Stopped> --ask_module--> Kexec<Asked> --write_back_caches--> Kexec<WrittenBack>
//!     ^               |                                                              --reset--> HandoverReport, jump
//!     \---StopError---/
//! ```
//!
//! Gate closed, other CPUs stopped with their caches written back, SYS.DISABLE if the policy wants it, caches once more where
//! they may hold private lines, reset on all CPUs, jump.
//!
//! Linux asks the module while the other CPUs still run. Here they have stopped: a CPU that does not stop then leaves a
//! host that goes on as before, module and TDs with it, and no old private line can land on what the module has cleared.
//!
//! # Crash
//!
//! [`hand_over_crash`], from any CPU at any instant: no lock, no allocation, no SEAMCALL, no step that waits for another CPU
//! but the kernel's own bounded wait for the NMI.
//!
//! A kernel on a machine without TDX calls the same functions with no platform; there is then nothing to do.

mod crash;
mod explain;
mod kexec;
mod leftovers;
mod memory;
mod module;
mod policy;
mod report;
mod stop;

pub use crash::{NmiStop, hand_over_crash, stop_this_cpu_at_crash};
pub use explain::{AddressKind, Explanation, explain};
pub use kexec::{Asked, Kexec, Loaded, Stopped, WrittenBack};
pub use leftovers::{LeftoverTable, Leftovers, OldMemory, TableError, Written};
pub use memory::HostMemory;
pub use module::{DISABLE_CALLS, ModuleAnswer};
pub use policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_crash_image, check_image_load};
pub use report::{CameBack, HandoverKind, HandoverReport, Leftover, LeftoverKind, LeftoverReason, Outcome};
pub use stop::{MAX_NAMED, StopCause, StopCpus, StopError, Suspects, offline_this_cpu, stop_this_cpu};
