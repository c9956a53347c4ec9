//! Guest memory access and guest page table walks. Refuses addresses outside the guest's RAM,
//! because page tables and operands are guest data and may point anywhere.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

use crate::ranges;
use crate::vmcb::Vmcb;

/// Address ranges of the guest's RAM.
static RAM: Once<Vec<Range<u64>>> = Once::new();

/// Sets the guest's RAM. Once.
pub fn set_ram(ram: Vec<Range<u64>>) {
    RAM.call_once(|| ranges::normalize(ram));
}

/// Address ranges of the guest's RAM, sorted.
pub fn ram() -> &'static [Range<u64>] {
    RAM.get().map_or(&[], Vec::as_slice)
}

fn holds(address: u64, length: usize) -> bool {
    let Some(end) = address.checked_add(length as u64) else { return false };
    ram().iter().any(|range| range.start <= address && end <= range.end)
}

/// True if all of it is the guest's RAM.
pub fn is_ram(address: u64, bytes: u64) -> bool {
    holds(address, bytes as usize)
}

/// Reads guest memory. False if some of it is not the guest's RAM.
#[must_use]
pub fn read(address: u64, buffer: &mut [u8]) -> bool {
    if !holds(address, buffer.len()) {
        return false;
    }
    let from = with_exposed_provenance::<u8>(address as usize);
    // SAFETY: RAM of the guest, mapped one to one, and never memory of this program. The guest may
    // write it concurrently; every byte value is valid.
    unsafe { core::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// Writes guest memory. False, and nothing is written, if some of it is not the guest's RAM.
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

/// An aligned word of guest memory, read at once. `None` if it is not the guest's RAM.
pub fn load(address: u64) -> Option<u64> {
    Some(word(address)?.load(Ordering::SeqCst))
}

/// Replaces an aligned word if it is `old`. False if it is not, or is not the guest's RAM.
#[must_use]
pub fn compare_exchange(address: u64, old: u64, new: u64) -> bool {
    word(address).is_some_and(|word| word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok())
}

fn word(address: u64) -> Option<&'static AtomicU64> {
    if !address.is_multiple_of(8) || !holds(address, 8) {
        return None;
    }
    let word = with_exposed_provenance_mut::<u64>(address as usize);
    // SAFETY: RAM of the guest, mapped one to one for good, aligned, and never memory of this
    // program. Other CPUs of the guest, and `read` on their behalf, may access it concurrently;
    // every value is valid.
    Some(unsafe { AtomicU64::from_ptr(word) })
}

/// Zeroes guest memory. Does nothing if some of it is not the guest's RAM.
pub fn clear(address: u64, length: u64) {
    if holds(address, length as usize) {
        let to = with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: as above.
        unsafe { to.write_bytes(0, length as usize) };
    }
}

/// Translation of a guest linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Guest physical address.
    pub address: u64,
    /// Index into the PAT MSR, from PWT, PCD and PAT of the entry.
    pub pat_index: u32,
}

const PAGING: u64 = 1 << 31;
const LONG_MODE_ACTIVE: u64 = 1 << 10;
const LA57: u64 = 1 << 12;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the guest's page tables: 4-level, 5-level, or paging off. `None` if the address is not
/// mapped, or the guest uses 32-bit or PAE paging, which is not supported.
pub fn translate(vmcb: &Vmcb, linear: u64) -> Option<Mapping> {
    translate_with(vmcb, linear, load)
}

/// [`translate`], with page tables that `read` gives the entries of by guest physical address.
pub fn translate_with(vmcb: &Vmcb, linear: u64, mut read: impl FnMut(u64) -> Option<u64>) -> Option<Mapping> {
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
        let entry = read(table + 8 * (linear >> shift & 511))?;
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

/// Linear address of CS:RIP.
pub fn linear_rip(vmcb: &Vmcb) -> u64 {
    if bitness(vmcb) == 64 { vmcb.rip } else { vmcb.cs.base.wrapping_add(vmcb.rip) & 0xffff_ffff }
}

/// Maximum instruction length in bytes.
pub const MAX_INSTRUCTION: usize = 15;

/// Reads the instruction bytes at CS:RIP and returns how many are readable: the instruction may end
/// before an unmapped page.
pub fn instruction(vmcb: &Vmcb) -> ([u8; MAX_INSTRUCTION], usize) {
    let mut bytes = [0; MAX_INSTRUCTION];
    let linear = linear_rip(vmcb);
    let mut length = 0;
    while length < MAX_INSTRUCTION {
        let at = linear.wrapping_add(length as u64);
        let piece = (4096 - (at % 4096) as usize).min(MAX_INSTRUCTION - length);
        let Some(mapping) = translate(vmcb, at) else { break };
        if !read(mapping.address, &mut bytes[length..length + piece]) {
            break;
        }
        length += piece;
    }
    (bytes, length)
}

/// Operating mode at CS:RIP: 16, 32 or 64 bits.
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
