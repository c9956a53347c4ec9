//! Hands the machine to the next kernel: which policy, in which order, and an honest account of what was left.
//!
//! The order is a type. Each state offers only the next step, so none can be left out or swapped:
//!
//! ```text
//! Kexec<Loaded> --stop_other_cpus--> Kexec<Alone> --write_back_caches--> Kexec<WrittenBack> --reset--> HandoverReport, jump
//! ```
//!
//! Last SEAMCALL, then the caches, then the flag, then the reset, then the jump. Once the caches are written back the
//! CPU's handle is gone but for [`crate::platform::LineReset`]: a SEAMCALL would make PAMT lines private and dirty again.
//!
//! A kernel on a machine without TDX calls the same functions with no platform; there is then nothing to do.

mod kexec;
mod policy;

pub use kexec::{Alone, HandoverReport, Kexec, Loaded, NotAlone, Outcome, StopCpus, WrittenBack, stop_this_cpu};
pub use policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_image_load};
