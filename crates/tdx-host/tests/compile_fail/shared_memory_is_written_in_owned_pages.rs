#![forbid(unsafe_code)]

use tdx_abi::PhysAddr;
use tdx_host::platform::{Cpu, SharedMemory};

/// A store to any address.
fn anywhere<M: SharedMemory>(memory: &mut M, image: PhysAddr) {
    memory.write(image, &[0; 64]);
}

/// CLFLUSHOPT of what is not mapped.
fn flushed<C: Cpu>(cpu: &C) {
    cpu.flush_lines(tdx_abi::PageRange::default().lines());
}

fn main() {}
