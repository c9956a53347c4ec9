//! Reads private memory of the TD on a CPU by linear address, through the TD's own page tables.

use tdx_machine::CpuId;

use crate::guest_memory;
use crate::owned_page::BYTES;
use crate::tdx::Tdx;
use crate::vmcb::Vmcb;

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

/// Translates a linear address by the guest's page tables, which are private memory.
fn translate(tdx: &mut Tdx, cpu: usize, vmcb: &Vmcb, linear: u64) -> Option<u64> {
    let read = |gpa: u64| {
        let mut entry = [0; 8];
        read_physical(tdx, cpu, gpa, &mut entry).then(|| u64::from_le_bytes(entry))
    };
    guest_memory::translate_with(vmcb, linear, read).map(|mapping| mapping.address)
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
