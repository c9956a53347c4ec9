//! Guest memory access and guest page table walks. Refuses addresses outside the guest's RAM,
//! because page tables and operands are guest data and may point anywhere.
//!
//! The guest's RAM is mapped one to one for good, and nothing of this program is in it: `main`
//! takes the slice out of the memory map, and the last reference, to the file that was loaded,
//! ends before the guest runs. From then on this program accesses it by the instructions here
//! alone, at any time in which the guest's CPUs do.

use alloc::vec::Vec;
use core::arch::asm;
use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use spin::Once;

use crate::vmcb::Vmcb;
use crate::{guest_bytes, ranges};

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
    // SAFETY: `holds`: RAM of the guest, which is mapped, and to which there is no reference (see
    // above). The buffer is the caller's alone.
    unsafe { guest_bytes::copy(with_exposed_provenance(address as usize), buffer.as_mut_ptr(), buffer.len()) };
    true
}

/// Writes guest memory. False, and nothing is written, if some of it is not the guest's RAM.
#[must_use]
pub fn write(address: u64, bytes: &[u8]) -> bool {
    if !holds(address, bytes.len()) {
        return false;
    }
    // SAFETY: as in `read`, with `bytes` as the caller's side, which is only read.
    unsafe { guest_bytes::copy(bytes.as_ptr(), with_exposed_provenance_mut(address as usize), bytes.len()) };
    true
}

/// An aligned word of guest memory, read at once. `None` if it is not the guest's RAM.
pub fn load(address: u64) -> Option<u64> {
    let word = word(address)?;
    let value;
    // SAFETY: RAM of the guest, as in `read`. An aligned word is read at once.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) word, options(nostack, preserves_flags, readonly)) }
    Some(value)
}

/// Replaces an aligned word if it is `old`. False if it is not, or is not the guest's RAM.
#[must_use]
pub fn compare_exchange(address: u64, old: u64, new: u64) -> bool {
    let Some(word) = word(address) else { return false };
    let found: u64;
    // SAFETY: RAM of the guest, as in `read`, of which the page tables of this program allow
    // stores.
    unsafe {
        asm!("lock cmpxchg [{}], {}", in(reg) word, in(reg) new, inout("rax") old => found, options(nostack));
    }
    found == old
}

/// Replaces an aligned word, at once. The old one; `None` if it is not the guest's RAM.
pub fn swap(address: u64, new: u64) -> Option<u64> {
    let word = word(address)?;
    let mut value = new;
    // SAFETY: RAM of the guest, as in `compare_exchange`.
    unsafe { asm!("xchg [{}], {}", in(reg) word, inout(reg) value, options(nostack, preserves_flags)) }
    Some(value)
}

/// Clears bits of an aligned word, at once. `None` if it is not the guest's RAM.
pub fn clear_bits(address: u64, bits: u64) -> Option<()> {
    let word = word(address)?;
    // SAFETY: RAM of the guest, as in `compare_exchange`.
    unsafe { asm!("lock and [{}], {}", in(reg) word, in(reg) !bits, options(nostack)) }
    Some(())
}

fn word(address: u64) -> Option<*mut u64> {
    (address.is_multiple_of(8) && holds(address, 8)).then(|| with_exposed_provenance_mut(address as usize))
}

/// Zeroes guest memory. Does nothing if some of it is not the guest's RAM.
pub fn clear(address: u64, length: u64) {
    if holds(address, length as usize) {
        // SAFETY: as in `read`.
        unsafe { guest_bytes::clear(with_exposed_provenance_mut(address as usize), length as usize) };
    }
}

/// Translation of a guest linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Guest physical address.
    pub address: u64,
    /// Index into the PAT MSR, from PWT, PCD and PAT of the entry.
    pub pat_index: u32,
    /// Every entry allows writes.
    writable: bool,
    /// Every entry allows accesses by user-mode code.
    user: bool,
}

/// Error code of a page fault: the page is there; write; user mode.
const PRESENT: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const USER: u32 = 1 << 2;

/// Translates the address of a data access of the guest's current instruction. Otherwise the error
/// code of its page fault. Protection keys are not looked at.
pub fn access(vmcb: &Vmcb, linear: u64, write: bool) -> Result<Mapping, u32> {
    const WRITE_PROTECT: u64 = 1 << 16;
    const SMAP: u64 = 1 << 21;
    const ALIGNMENT_CHECK: u64 = 1 << 18;
    let by_user = vmcb.cpl == 3;
    let code = if write { WRITE } else { 0 } | if by_user { USER } else { 0 };
    let mapping = translate(vmcb, linear).ok_or(code)?;
    let allowed = if by_user {
        mapping.user && (mapping.writable || !write)
    } else {
        let prevented = mapping.user && vmcb.cr4 & SMAP != 0 && vmcb.rflags & ALIGNMENT_CHECK == 0;
        !prevented && (mapping.writable || !write || vmcb.cr0 & WRITE_PROTECT == 0)
    };
    if allowed { Ok(mapping) } else { Err(code | PRESENT) }
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
        return Some(Mapping { address: linear & 0xffff_ffff, pat_index: 0, writable: true, user: true });
    }
    if vmcb.efer & LONG_MODE_ACTIVE == 0 {
        return None;
    }
    let mut table = vmcb.cr3 & ADDRESS;
    let (mut writable, mut user) = (true, true);
    let levels: u32 = if vmcb.cr4 & LA57 == 0 { 4 } else { 5 };
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = read(table + 8 * (linear >> shift & 511))?;
        if entry & 1 == 0 {
            return None;
        }
        writable &= entry & 1 << 1 != 0;
        user &= entry & 1 << 2 != 0;
        let large = level > 0 && entry & 0x80 != 0;
        if large || level == 0 {
            let mask = (1 << shift) - 1;
            let pat = if large { entry >> 12 & 1 } else { entry >> 7 & 1 };
            let pat_index = (entry >> 3 & 0b11 | pat << 2) as u32;
            let address = entry & ADDRESS & !mask | linear & mask;
            return Some(Mapping { address, pat_index, writable, user });
        }
        table = entry & ADDRESS;
    }
    None
}

/// Linear address of CS:RIP.
pub fn linear_rip(vmcb: &Vmcb) -> u64 {
    if bitness(vmcb) == 64 { vmcb.rip } else { vmcb.cs.base.wrapping_add(vmcb.rip) & 0xffff_ffff }
}

/// Advances RIP past an emulated instruction and ends its interrupt shadow.
pub fn skip(vmcb: &mut Vmcb, bytes: u64) {
    vmcb.rip = vmcb.rip.wrapping_add(bytes);
    if bitness(vmcb) != 64 {
        vmcb.rip &= 0xffff_ffff;
    }
    vmcb.interrupt_shadow = 0;
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
