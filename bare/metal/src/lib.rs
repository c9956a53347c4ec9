//! What both programs of this workspace need of a PC: the way from QEMU's PVH entry to Rust in long
//! mode, descriptor tables, CPUs, ports, a console, a heap. It knows nothing of TDX or of SVM, and
//! refuses to know any machine but QEMU's `pc` and `q35`.
//!
//! Memory is mapped one to one, the first 512 GiB, by pages of 1 GiB: a physical address is a
//! pointer.

#![no_std]

pub mod boot;
pub mod clock;
pub mod console;
pub mod exit;
pub mod fw_cfg;
pub mod heap;
pub mod image;
pub mod interrupts;
pub mod lapic;
mod libc;
pub mod registers;
pub mod smp;

/// CPUs that these programs use at most.
pub const MAX_CPUS: usize = 8;
