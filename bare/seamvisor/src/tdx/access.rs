//! Guest accesses to trapped memory, as the machine sees them: load, store, MOVDIR64B, WBINVD.

use arrayvec::ArrayVec;
use metal::println;
use tdx_abi::{KeyId, LINES_PER_PAGE, Line, LineRange, PAGE_SIZE};
use tdx_machine::{AccessError, CpuId, MachineCheck, PartialStore};

use super::{Tdx, touched};
use crate::{counters, kick, ranges, translations};

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
        if access != Access::Load {
            self.take_from_td(cpu, address / PAGE_SIZE);
        }
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
                println!("access to {address:#x} by CPU {cpu} is not modeled: {refusal}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The host stores to a page: a TD that has used it finds out at its next access, on whatever
    /// CPU.
    fn take_from_td(&self, cpu: usize, page: u64) {
        if self.frames.has(page) {
            translations::invalidate();
            kick::flush_others(cpu);
        }
    }

    /// Lines of a page that this private KeyID does not own, or that are poisoned, by their number
    /// in the page.
    pub fn lines_not_of(&self, page: u64, key: KeyId) -> ArrayVec<u64, { LINES_PER_PAGE as usize }> {
        let is_lost = |line: &u64| {
            let line = Line::new(page * LINES_PER_PAGE + line);
            self.machine.owner(line) != Some(key) || self.machine.poison(line).is_some()
        };
        (0..LINES_PER_PAGE).filter(is_lost).collect()
    }

    /// True if a read of these bytes would raise no machine check.
    pub fn is_readable(&self, address: u64, bytes: u64) -> bool {
        self.machine.poisoned_runs(touched(address, bytes)).is_empty()
    }

    /// MOVDIR64B to lines of guest RAM. Visible at once.
    pub fn direct_store(&mut self, cpu: usize, lines: LineRange) {
        let id = CpuId(cpu as u32);
        match self.machine.direct_store(id, lines).and_then(|()| self.machine.fence(id)) {
            Ok(()) => counters::count_direct_stored(cpu, lines.len()),
            Err(refusal) => println!("MOVDIR64B to {lines} by CPU {cpu} is not modeled: {refusal}"),
        }
        let pages = lines.pages();
        for page in pages.start().index()..pages.end().index() {
            self.take_from_td(cpu, page);
        }
        let stored = [pages.start().index()..pages.end().index()];
        self.future_pamt = ranges::difference(&self.future_pamt, &stored);
    }

    /// WBINVD.
    pub fn write_back(&mut self, cpu: usize) {
        if let Err(refusal) = self.machine.wbinvd(CpuId(cpu as u32)) {
            println!("WBINVD by CPU {cpu} is not modeled: {refusal}");
        }
        self.sync_map(cpu);
    }
}
