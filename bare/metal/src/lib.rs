//! Bare-metal support for the programs of this workspace: boot from PVH to long mode, descriptor
//! tables, SMP, ports, console, heap, kernel images. Supports QEMU's `pc` and `q35`; independent of
//! TDX and SVM.
//!
//! The first 512 GiB are mapped one to one by 1 GiB pages: a physical address is a pointer.

#![no_std]

pub mod boot;
pub mod boot_data;
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

/// Maximum number of CPUs.
pub const MAX_CPUS: usize = 8;
