//! PAMT areas, learned from the TDMR_INFO structures of SYS.CONFIG.

use tdx_abi::{KeyId, MAX_TDMRS, PAGE_SIZE, PhysAddr, Registers};
use tdx_machine::CpuId;

use super::{Tdx, touched};
use crate::ranges;

/// A PAMT area of a TDMR.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pamt {
    /// `PAMT_1G`, `PAMT_2M` or `PAMT_4K`.
    pub(super) name: &'static str,
    /// First page number.
    pub(super) first: u64,
    /// Page number behind the last.
    pub(super) end: u64,
}

impl Tdx {
    /// Records the PAMT areas after a successful SYS.CONFIG. Reads the bytes that the module has
    /// read, not the guest's memory, which another CPU may have changed since: a PAMT area that the
    /// module has not checked could lie in this program's memory.
    pub(super) fn learn_pamts(&mut self, cpu: CpuId, input: &Registers) {
        let mut staged = |address: u64, bytes: &mut [u8]| {
            let read = self.machine.read_shared(cpu, PhysAddr::new(address), bytes).is_ok();
            let _ = self.machine.flush_lines(cpu, touched(address, bytes.len() as u64), KeyId::HOST);
            read
        };
        for index in 0..input.rdx.min(MAX_TDMRS as u64) {
            let (mut pointer, mut table) = ([0; 8], [0; 64]);
            if !staged(input.rcx + 8 * index, &mut pointer) || !staged(u64::from_le_bytes(pointer), &mut table) {
                continue;
            }
            let word =
                |index: usize| table[8 * index..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_le_bytes(*bytes));
            for (name, at) in [("PAMT_1G", 2), ("PAMT_2M", 4), ("PAMT_4K", 6)] {
                let (base, size) = (word(at), word(at + 1));
                let (first, end) = (base / PAGE_SIZE, base.saturating_add(size).div_ceil(PAGE_SIZE));
                self.pamts.push(Pamt { name, first, end });
                self.future_pamt.push(first..end);
            }
        }
        self.future_pamt = ranges::normalize(core::mem::take(&mut self.future_pamt));
    }
}
