//! Guest accesses to trapped memory, as the machine sees them: load, store, MOVDIR64B, WBINVD.

use metal::println;
use tdx_abi::{KeyId, LineRange, PAGE_SIZE};
use tdx_machine::{AccessError, CpuId, MachineCheck, PartialStore};

use super::{Tdx, touched};
use crate::ranges;

/// Kind of a guest access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A read.
    Load,
    /// A store to cacheable memory, or a full line past the caches.
    Store,
    /// A store of less than a line past the caches.
    Partial(PartialStore),
}

impl Tdx {
    /// Performs an access of the guest. `bytes` lie in one page.
    ///
    /// # Errors
    /// The machine check that the access raises.
    pub fn access(&mut self, cpu: usize, address: u64, bytes: u64, access: Access) -> Result<(), MachineCheck> {
        let (id, lines) = (CpuId(cpu as u32), touched(address, bytes));
        let result = match access {
            Access::Load => self.machine.load(id, lines, KeyId::HOST),
            Access::Store => {
                let stored = self.machine.store(id, lines, KeyId::HOST).map_err(AccessError::from);
                self.machine.evict(lines, KeyId::HOST);
                stored
            }
            Access::Partial(kind) => {
                self.machine.partial_write(id, lines, KeyId::HOST, kind).map(drop).map_err(AccessError::from)
            }
        };
        if matches!(access, Access::Partial(_)) && !self.is_readable(address, bytes) {
            self.unmap(cpu, address / PAGE_SIZE);
        }
        match result {
            Err(AccessError::MachineCheck(check)) => Err(check),
            Err(AccessError::Refused(refusal)) => {
                println!("access to {address:#x} by CPU {cpu} is not modelled: {refusal}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// True if a read of these bytes would raise no machine check.
    pub fn is_readable(&self, address: u64, bytes: u64) -> bool {
        self.machine.poisoned_runs(touched(address, bytes)).is_empty()
    }

    /// MOVDIR64B to lines of guest RAM. Visible at once.
    pub fn direct_store(&mut self, cpu: usize, lines: LineRange) {
        let id = CpuId(cpu as u32);
        let stored = self.machine.direct_store(id, lines).and_then(|()| self.machine.fence(id));
        if let Err(refusal) = stored {
            println!("MOVDIR64B to {lines} by CPU {cpu} is not modelled: {refusal}");
        }
        let pages = lines.pages();
        let stored = [pages.start().index()..pages.end().index()];
        self.future_pamt = ranges::difference(&self.future_pamt, &stored);
    }

    /// WBINVD.
    pub fn write_back(&mut self, cpu: usize) {
        if let Err(refusal) = self.machine.wbinvd(CpuId(cpu as u32)) {
            println!("WBINVD by CPU {cpu} is not modelled: {refusal}");
        }
        self.sync_map(cpu);
    }
}
