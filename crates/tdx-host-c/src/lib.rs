//! The C interface of `tdx-host`, for kernels written in C. `include/tdx_host.h` is its manual:
//! what each function does, its errors, and what its caller must see to.
//!
//! It adds no policy and keeps no state of its own: storage comes from the caller, work goes to
//! `tdx-host`, results are numbers. It does not allocate, unwind or take a lock, and answers a
//! pointer that is null, misaligned or not initialized with an error. (`extern "C"` aborts where
//! Rust would unwind; the library is built with `panic = "abort"`.)
//!
//! The static library is linked from this crate in `staticlib/`, a workspace of its own, because it
//! needs a panic handler.

#![no_std]
#![warn(missing_docs)]
// UNSAFETY: every function takes pointers from C. What C must promise stands in the header and
// under `# Safety`; what can be checked is checked in `storage`, before anything is dereferenced.
#![allow(unsafe_code)]

mod bring_up;
mod c_enum;
mod cpu;
mod cpus;
mod crash;
mod detect;
mod error;
mod explain;
mod host;
mod instructions;
mod kernel;
mod kexec;
mod layout;
mod ledger;
mod leftovers;
mod names;
mod pages;
mod range;
mod report;
mod result;
mod seamcall;
mod storage;
mod text;
mod work;

pub use bring_up::*;
pub use crash::*;
pub use detect::*;
pub use error::*;
pub use explain::*;
pub use host::*;
pub use instructions::*;
pub use kernel::*;
pub use kexec::*;
pub use layout::*;
pub use ledger::*;
pub use leftovers::*;
pub use names::*;
pub use pages::*;
pub use range::*;
pub use report::*;
pub use result::*;
pub use seamcall::*;
pub use storage::*;
pub use work::*;

/// Version of this interface: it grows with every change that a compiled caller would notice.
pub const TDXH_ABI_VERSION: u32 = 4;
