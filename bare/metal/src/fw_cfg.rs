//! QEMU fw_cfg: files passed by QEMU's `-fw_cfg` option, and the number of CPUs.

use core::ptr::{addr_of, addr_of_mut};

use crate::registers::{in8, out16, out32};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;

const CPU_COUNT: u16 = 0x05;
const DIRECTORY: u16 = 0x19;

/// A fw_cfg file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    select: u16,
    /// Size in bytes.
    pub size: u32,
}

fn select(key: u16) {
    // SAFETY: fw_cfg's selector touches no memory.
    unsafe { out16(SELECTOR, key) }
}

fn byte() -> u8 {
    // SAFETY: as above, for the data port.
    unsafe { in8(DATA) }
}

fn bytes<const N: usize>() -> [u8; N] {
    core::array::from_fn(|_| byte())
}

/// Number of CPUs of the virtual machine.
pub fn cpu_count() -> u32 {
    select(CPU_COUNT);
    u32::from(u16::from_le_bytes(bytes()))
}

/// Finds a file by name.
pub fn find(name: &str) -> Option<File> {
    select(DIRECTORY);
    let count = u32::from_be_bytes(bytes());
    for _ in 0..count {
        let size = u32::from_be_bytes(bytes());
        let key = u16::from_be_bytes(bytes());
        let _reserved: [u8; 2] = bytes();
        let stored: [u8; 56] = bytes();
        let end = stored.iter().position(|byte| *byte == 0).unwrap_or(stored.len());
        if &stored[..end] == name.as_bytes() {
            return Some(File { select: key, size });
        }
    }
    None
}

/// DMA control block, big-endian.
#[repr(C, align(16))]
struct Dma {
    control: u32,
    length: u32,
    address: u64,
}

const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SELECT: u32 = 8;

/// Copies a file to memory by DMA. False if QEMU reports an error.
///
/// # Safety
/// `to` points to `file.size` bytes that belong to the caller, mapped one to one.
#[must_use]
pub unsafe fn read(file: File, to: *mut u8) -> bool {
    let mut dma = Dma {
        control: (u32::from(file.select) << 16 | DMA_SELECT | DMA_READ).to_be(),
        length: file.size.to_be(),
        address: (to.addr() as u64).to_be(),
    };
    let at = addr_of_mut!(dma).addr() as u64;
    // SAFETY: the device writes to `to`, which the caller lends, and to the control block, which
    // lives until the transfer is complete. The read is volatile, because the device writes the
    // block.
    unsafe {
        out32(DMA_HIGH, ((at >> 32) as u32).to_be());
        out32(DMA_LOW, (at as u32).to_be());
        loop {
            let control = u32::from_be(addr_of!(dma.control).read_volatile());
            if control & !DMA_ERROR == 0 {
                return control == 0;
            }
            core::hint::spin_loop();
        }
    }
}
