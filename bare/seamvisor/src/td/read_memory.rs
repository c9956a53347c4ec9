//! Reads private memory of the TD on a CPU by linear address, through the TD's own page tables.

use tdx_machine::CpuId;

use crate::owned_page::BYTES;
use crate::tdx::Tdx;
use crate::vmcb::Vmcb;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGING: u64 = 1 << 31;
const LONG_MODE_ACTIVE: u64 = 1 << 10;
const LA57: u64 = 1 << 12;

/// Reads bytes of one page. False if it is not a private page that the guest has.
fn read_physical(tdx: &mut Tdx, cpu: usize, gpa: u64, buffer: &mut [u8]) -> bool {
    match tdx.machine.guest_mapping(CpuId(cpu as u32), gpa) {
        Some(mapping) if !mapping.pending => {
            let frame = tdx.frames.get(mapping.page.index());
            frame.is_some_and(|frame| frame.read(gpa as usize % BYTES, buffer) == buffer.len())
        }
        _ => false,
    }
}

/// Walks the guest's page tables: 4-level, 5-level, or paging off.
fn translate(tdx: &mut Tdx, cpu: usize, vmcb: &Vmcb, linear: u64) -> Option<u64> {
    if vmcb.cr0 & PAGING == 0 {
        return Some(linear & 0xffff_ffff);
    }
    if vmcb.efer & LONG_MODE_ACTIVE == 0 {
        return None;
    }
    let levels: u32 = if vmcb.cr4 & LA57 == 0 { 4 } else { 5 };
    let mut table = vmcb.cr3 & ADDRESS;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let mut entry = [0; 8];
        if !read_physical(tdx, cpu, table + 8 * (linear >> shift & 511), &mut entry) {
            return None;
        }
        let entry = u64::from_le_bytes(entry);
        if entry & 1 == 0 {
            return None;
        }
        if level == 0 || entry & 0x80 != 0 {
            let mask = (1 << shift) - 1;
            return Some(entry & ADDRESS & !mask | linear & mask);
        }
        table = entry & ADDRESS;
    }
    None
}

/// Reads bytes at a linear address. False if some are not readable.
pub fn read(tdx: &mut Tdx, cpu: usize, vmcb: &Vmcb, linear: u64, buffer: &mut [u8]) -> bool {
    let mut done = 0;
    while done < buffer.len() {
        let at = linear.wrapping_add(done as u64);
        let piece = (BYTES - at as usize % BYTES).min(buffer.len() - done);
        let Some(gpa) = translate(tdx, cpu, vmcb, at) else { return false };
        if !read_physical(tdx, cpu, gpa, &mut buffer[done..done + piece]) {
            return false;
        }
        done += piece;
    }
    true
}
