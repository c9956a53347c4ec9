//! The guest's memory as this program may touch it, and the guest's own page tables. Refuses every
//! address that is not the guest's: page tables and operands come from the guest, and may point
//! anywhere.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use spin::Once;

use crate::ranges;
use crate::vmcb::Vmcb;

/// Addresses of RAM that the guest has.
static RAM: Once<Vec<Range<u64>>> = Once::new();

/// Says what the guest has.
pub fn is_at(ram: Vec<Range<u64>>) {
    RAM.call_once(|| ranges::normal(ram));
}

/// What the guest has.
pub fn ram() -> &'static [Range<u64>] {
    RAM.get().map_or(&[], Vec::as_slice)
}

fn holds(address: u64, length: usize) -> bool {
    let Some(end) = address.checked_add(length as u64) else { return false };
    ram().iter().any(|range| range.start <= address && end <= range.end)
}

/// Copies guest memory out. False if some of it is not the guest's.
#[must_use]
pub fn read(address: u64, buffer: &mut [u8]) -> bool {
    if !holds(address, buffer.len()) {
        return false;
    }
    let from = with_exposed_provenance::<u8>(address as usize);
    // SAFETY: RAM of the guest, mapped one to one, and never memory of this program. The guest may
    // write meanwhile: bytes, for which every value is legal.
    unsafe { core::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// Copies into guest memory. False if some of it is not the guest's; then nothing is written.
#[must_use]
pub fn write(address: u64, bytes: &[u8]) -> bool {
    if !holds(address, bytes.len()) {
        return false;
    }
    let to = with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: as above.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    true
}

/// Writes zeros. Skips what is not the guest's.
pub fn clear(address: u64, length: u64) {
    if holds(address, length as usize) {
        let to = with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: as above.
        unsafe { to.write_bytes(0, length as usize) };
    }
}

/// How a page of the guest is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Physical address of the byte asked for.
    pub address: u64,
    /// PWT, PCD and PAT of its entry: an index into the PAT register.
    pub pat_index: u32,
}

const PAGING: u64 = 1 << 31;
const LONG_MODE_ACTIVE: u64 = 1 << 10;
const LA57: u64 = 1 << 12;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the guest's page tables for a linear address: four or five levels, or none. `None`: not
/// mapped, or tables of a kind that nobody uses in long mode.
pub fn translate(vmcb: &Vmcb, linear: u64) -> Option<Mapping> {
    if vmcb.cr0 & PAGING == 0 {
        return Some(Mapping { address: linear & 0xffff_ffff, pat_index: 0 });
    }
    if vmcb.efer & LONG_MODE_ACTIVE == 0 {
        return None;
    }
    let mut table = vmcb.cr3 & ADDRESS;
    let levels: u32 = if vmcb.cr4 & LA57 == 0 { 4 } else { 5 };
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let mut entry = [0; 8];
        if !read(table + 8 * (linear >> shift & 511), &mut entry) {
            return None;
        }
        let entry = u64::from_le_bytes(entry);
        if entry & 1 == 0 {
            return None;
        }
        let large = level > 0 && entry & 0x80 != 0;
        if large || level == 0 {
            let mask = (1 << shift) - 1;
            let pat = if large { entry >> 12 & 1 } else { entry >> 7 & 1 };
            let pat_index = (entry >> 3 & 0b11 | pat << 2) as u32;
            return Some(Mapping { address: entry & ADDRESS & !mask | linear & mask, pat_index });
        }
        table = entry & ADDRESS;
    }
    None
}

/// Longest instruction.
pub const LONGEST: usize = 15;

/// The bytes at CS:RIP, as many as can be read. Page by page: the second may not be there.
pub fn instruction(vmcb: &Vmcb) -> ([u8; LONGEST], usize) {
    let mut bytes = [0; LONGEST];
    let linear = if vmcb.efer & LONG_MODE_ACTIVE != 0 && vmcb.cs.attributes & 0x200 != 0 {
        vmcb.rip
    } else {
        vmcb.cs.base.wrapping_add(vmcb.rip) & 0xffff_ffff
    };
    let mut length = 0;
    while length < LONGEST {
        let at = linear.wrapping_add(length as u64);
        let piece = (4096 - (at % 4096) as usize).min(LONGEST - length);
        let Some(mapping) = translate(vmcb, at) else { break };
        if !read(mapping.address, &mut bytes[length..length + piece]) {
            break;
        }
        length += piece;
    }
    (bytes, length)
}

/// 16, 32 or 64: how the processor decodes at CS:RIP.
pub fn bitness(vmcb: &Vmcb) -> u32 {
    const LONG: u16 = 0x200;
    const DEFAULT_32: u16 = 0x400;
    if vmcb.efer & LONG_MODE_ACTIVE != 0 && vmcb.cs.attributes & LONG != 0 {
        64
    } else if vmcb.cs.attributes & DEFAULT_32 != 0 {
        32
    } else {
        16
    }
}
