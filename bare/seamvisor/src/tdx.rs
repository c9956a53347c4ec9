//! The software machine behind the guest's real memory: answers SEAMCALL, judges every access to
//! memory that is private or poisoned, and keeps exactly those pages out of the nested page tables.
//!
//! What it cannot see, it does not judge: see [`LIMITS`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use metal::println;
use spin::{Mutex, MutexGuard, Once};
use tdx_abi::{KeyId, Leaf, Line, LineRange, PAGE_SIZE, PhysAddr, Registers, Status};
use tdx_machine::{AccessError, CpuId, Machine, MachineCheck, MachineConfig, PartialStore};

use crate::nested::{Nested, Rights};
use crate::ranges::{self, Ranges};
use crate::{guest_memory, kick};

/// What differs from the software machine. Printed with the summary.
pub const LIMITS: &[&str] = &[
    "Stores to pages without a private or poisoned line are not seen: the host's own dirty lines are not tracked, and a missing CLFLUSH before a page is given goes unnoticed.",
    "A cached store to a watched page is written back at once: it stays in no cache.",
    "MFENCE cannot be intercepted: a MOVDIR64B is visible at once, and a missing fence goes unnoticed.",
    "Non-temporal stores are judged one by one; write combining to a full line is not modelled.",
    "Addresses with a KeyID other than 0 fault in the guest's page walk; shared (MKTME) KeyIDs cannot be used.",
    "WBINVD on one CPU writes back the lines that SEAMCALLs on that CPU left dirty; what a real last-level cache shares is not modelled.",
    "No guest of the guest: VM entry and TDH.VP.ENTER do not run code.",
    "DMA by devices is not judged, and nothing keeps it out of the hypervisor's own memory: devices are the guest's, and there is no IOMMU.",
];

/// How the guest touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A read.
    Load,
    /// An ordinary store to cacheable memory.
    Store,
    /// A store of less than a line that goes past the caches.
    Partial(PartialStore),
}

/// A machine check that the guest took, for the summary.
#[derive(Clone, Debug)]
pub struct Told {
    /// The registers, and why.
    pub check: MachineCheck,
    /// Where the guest was.
    pub rip: u64,
    /// What it was doing.
    pub instruction: String,
    /// What the line was.
    pub kind: &'static str,
    /// Lines that were private then. None are after a clean handover.
    pub private_then: u64,
}

/// PAMT of a TDMR, as SYS.CONFIG was given it.
#[derive(Clone, Copy, Debug)]
struct Pamt {
    name: &'static str,
    first: u64,
    end: u64,
}

/// The machine and what follows from its state.
pub struct Tdx {
    /// The software machine.
    pub machine: Machine,
    map: Nested,
    /// Pages that the guest cannot store to without leaving.
    watched: Ranges,
    /// Those that it cannot read either.
    closed: Ranges,
    /// Lines that a private KeyID owned when this was last looked at.
    private: Ranges,
    /// Pages of PAMT that the module may turn private and that are kept out of the map from the
    /// beginning: the other CPUs are then not disturbed by each TDMR.INIT.
    expected: Ranges,
    pamts: Vec<Pamt>,
    /// What lines were when they became private, by first line: survives the module's forgetting
    /// them.
    kinds: BTreeMap<u64, &'static str>,
    /// Machine checks so far.
    pub checks: Vec<Told>,
    /// SEAMCALLs that the machine does not model.
    pub refused: u64,
    /// CPUs in VMX operation, by bit.
    vmx: u64,
}

static TDX: Once<Mutex<Tdx>> = Once::new();

/// SEAMCALLs, for the line numbers of the log.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Switches the machine on, with a map that shows all but `hidden` pages.
pub fn switch_on(config: MachineConfig, hidden: &[core::ops::Range<u64>]) -> Result<(), tdx_machine::ConfigError> {
    let machine = Machine::new(config)?;
    let map = Nested::identity();
    for page in hidden.iter().cloned().flatten() {
        map.set(page, Rights::Nothing);
    }
    TDX.call_once(|| {
        Mutex::new(Tdx {
            machine,
            map,
            watched: Ranges::new(),
            closed: Ranges::new(),
            private: Ranges::new(),
            expected: Ranges::new(),
            pamts: Vec::new(),
            kinds: BTreeMap::new(),
            checks: Vec::new(),
            refused: 0,
            vmx: 0,
        })
    });
    Ok(())
}

/// The machine, for one CPU at a time.
pub fn lock() -> MutexGuard<'static, Tdx> {
    match TDX.get() {
        Some(tdx) => tdx.lock(),
        None => panic!("the machine is not switched on"),
    }
}

/// Lines that `bytes` at `address` touch.
fn touched(address: u64, bytes: u64) -> LineRange {
    LineRange::touching(PhysAddr::new(address), bytes.max(1))
}

impl Tdx {
    /// The map of all CPUs.
    pub fn map(&self) -> &Nested {
        &self.map
    }

    /// VMXON has succeeded on this CPU, and VMXOFF has not followed.
    pub fn in_vmx_operation(&self, cpu: usize) -> bool {
        self.vmx >> cpu & 1 == 1
    }

    /// VMXON or VMXOFF.
    pub fn set_vmx_operation(&mut self, cpu: usize, on: bool) {
        let id = CpuId(cpu as u32);
        let done = if on { self.machine.vmxon(id) } else { self.machine.vmxoff(id) };
        match done {
            Ok(()) => self.vmx = self.vmx & !(1 << cpu) | u64::from(on) << cpu,
            Err(refusal) => println!("VMX operation of CPU {cpu}: {refusal}"),
        }
    }

    /// True if accesses to this page leave the guest because of what its lines are.
    pub fn watches(&self, page: u64) -> bool {
        ranges::contains(&self.watched, page)
    }

    /// SEAMCALL.
    pub fn seamcall(&mut self, cpu: usize, input: Registers) -> Registers {
        let id = CpuId(cpu as u32);
        let leaf = input.leaf_call().leaf();
        self.stage(leaf, &input);
        let answer = match self.machine.seamcall(id, input) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.refused += 1;
                println!("seamcall refused cpu={cpu} leaf={leaf}: {refusal}");
                Registers { rax: Status::VMFAIL_INVALID.raw(), ..input }
            }
        };
        let number = CALLS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        println!("seamcall {number} cpu={cpu} {leaf} -> {:#018x} {}", answer.rax, answer.status());
        if !answer.status().is_error() {
            self.after(id, leaf, &input);
        }
        self.settle(cpu);
        answer
    }

    /// Gives the machine the bytes that the module will read. They arrive past the caches, as full
    /// lines, so nothing else changes.
    fn stage(&mut self, leaf: Leaf, input: &Registers) {
        match leaf {
            Leaf::SYS_CONFIG => {
                let count = input.rdx.min(tdx_abi::MAX_TDMRS as u64);
                self.copy_in(input.rcx, 8 * count);
                for index in 0..count {
                    let mut pointer = [0; 8];
                    if guest_memory::read(input.rcx.wrapping_add(8 * index), &mut pointer) {
                        self.copy_in(u64::from_le_bytes(pointer), tdx_abi::STRUCTURE_ALIGN);
                    }
                }
            }
            Leaf::MNG_INIT => self.copy_in(input.rdx, 1024),
            _ => {}
        }
    }

    fn copy_in(&mut self, address: u64, bytes: u64) {
        let lines = touched(address, bytes);
        for line in lines.start().index()..lines.end().index() {
            let address = PhysAddr::new(line * tdx_abi::LINE_SIZE);
            // What is private or poisoned has no bytes that the module could read.
            if self.watches(address.page().index()) {
                continue;
            }
            let mut bytes = [0; tdx_abi::LINE_SIZE as usize];
            if guest_memory::read(address.get(), &mut bytes) {
                // The address is below the limit, or the guest would not have it.
                let _ = self.machine.dma_write(tdx_machine::DeviceId(0), address, &bytes);
            }
        }
    }

    /// Consequences of a call that succeeded: what it wrote for the host, and what it told us.
    fn after(&mut self, cpu: CpuId, leaf: Leaf, input: &Registers) {
        match leaf {
            Leaf::SYS_INFO => {
                for (address, bytes) in [(input.rcx, 1024), (input.r8, 512)] {
                    self.copy_out(cpu, address, bytes);
                }
            }
            Leaf::SYS_CONFIG => self.learn_pamts(cpu, input),
            _ => {}
        }
    }

    fn copy_out(&mut self, cpu: CpuId, address: u64, bytes: usize) {
        let mut buffer = alloc::vec![0; bytes];
        let lines = touched(address, bytes as u64);
        if self.machine.read_shared(cpu, PhysAddr::new(address), &mut buffer).is_ok()
            && !guest_memory::write(address, &buffer)
        {
            println!("seamcall output at {address:#x} is not the guest's memory: dropped");
        }
        // The module's own stores: they must not linger in a cache that the guest knows nothing of.
        let _ = self.machine.flush_lines(cpu, lines, KeyId::HOST);
    }

    /// From the bytes that the module has read: what stands in the guest's memory now another CPU
    /// may have written meanwhile, and a PAMT that lies where the module never took one would be a
    /// way into this program.
    fn learn_pamts(&mut self, cpu: CpuId, input: &Registers) {
        let mut staged = |address: u64, bytes: &mut [u8]| {
            let read = self.machine.read_shared(cpu, PhysAddr::new(address), bytes).is_ok();
            let _ = self.machine.flush_lines(cpu, touched(address, bytes.len() as u64), KeyId::HOST);
            read
        };
        for index in 0..input.rdx.min(tdx_abi::MAX_TDMRS as u64) {
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
                self.expected.push(first..end);
            }
        }
        self.expected = ranges::normal(core::mem::take(&mut self.expected));
    }

    /// An access of the guest. `bytes` lie in one page.
    ///
    /// # Errors
    /// The machine check that it is.
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
            self.close(cpu, address / PAGE_SIZE);
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

    /// Puts a page back into the map if nothing is left on it to be judged: after a store, which
    /// may have made its last private line a shared one.
    pub fn reopen(&mut self, page: u64) {
        let pages = [page..page + 1];
        let lines = page * tdx_abi::LINES_PER_PAGE..(page + 1) * tdx_abi::LINES_PER_PAGE;
        let range = LineRange::new(Line::new(lines.start), Line::new(lines.end));
        // Whoever stores to a page does not wait for the module to take it.
        self.expected = ranges::difference(&self.expected, &pages);
        let stays = self.machine.private_lines_in(range) > 0 || !self.machine.poisoned_runs(range).is_empty();
        if !stays && self.watches(page) {
            self.map.set(page, Rights::All);
            self.watched = ranges::difference(&self.watched, &pages);
            self.closed = ranges::difference(&self.closed, &pages);
            self.private = ranges::difference(&self.private, core::slice::from_ref(&lines));
        }
    }

    /// A page has poison: not even a read goes unseen any more.
    fn close(&mut self, cpu: usize, page: u64) {
        if !ranges::contains(&self.closed, page) {
            self.map.set(page, Rights::Nothing);
            self.closed.push(page..page + 1);
            self.closed = ranges::normal(core::mem::take(&mut self.closed));
            kick::flush_others(cpu);
        }
    }

    /// A read of these bytes would raise no machine check.
    pub fn is_readable(&self, address: u64, bytes: u64) -> bool {
        self.machine.poisoned_runs(touched(address, bytes)).is_empty()
    }

    /// A MOVDIR64B of some lines, which belong to the guest. Visible at once.
    pub fn direct_store(&mut self, cpu: usize, lines: LineRange) {
        let id = CpuId(cpu as u32);
        let stored = self.machine.direct_store(id, lines).and_then(|()| self.machine.fence(id));
        if let Err(refusal) = stored {
            println!("MOVDIR64B to {lines} by CPU {cpu} is not modelled: {refusal}");
        }
        let pages = lines.pages();
        let stored = [pages.start().index()..pages.end().index()];
        self.expected = ranges::difference(&self.expected, &stored);
    }

    /// WBINVD.
    pub fn write_back(&mut self, cpu: usize) {
        if let Err(refusal) = self.machine.wbinvd(CpuId(cpu as u32)) {
            println!("WBINVD by CPU {cpu} is not modelled: {refusal}");
        }
        self.settle(cpu);
    }

    /// Brings the nested page tables in line with the machine, after anything that may have changed
    /// who owns what.
    pub fn settle(&mut self, cpu: usize) {
        let private: Ranges = ranges::normal(
            self.machine
                .all_owner_runs()
                .iter()
                .map(|run| run.lines.start().index()..run.lines.end().index())
                .collect(),
        );
        let per_page = PAGE_SIZE / tdx_abi::LINE_SIZE;
        let pages = |lines: &core::ops::Range<u64>| lines.start / per_page..lines.end.div_ceil(per_page);
        let poisoned = self.machine.all_poisoned_runs();
        let closed = ranges::normal(
            poisoned.iter().map(|run| pages(&(run.lines.start().index()..run.lines.end().index()))).collect(),
        );
        let private_pages = private.iter().map(pages);
        let watched =
            ranges::normal(private_pages.chain(closed.iter().cloned()).chain(self.expected.iter().cloned()).collect());
        let newly_watched = ranges::difference(&watched, &self.watched);
        let newly_closed = ranges::difference(&closed, &self.closed);
        let reopened = ranges::difference(&self.closed, &closed);
        for page in newly_watched.iter().chain(&reopened).cloned().flatten() {
            self.map.set(page, Rights::Read);
        }
        for page in newly_closed.iter().cloned().flatten() {
            self.map.set(page, Rights::Nothing);
        }
        for page in ranges::difference(&self.watched, &watched).into_iter().flatten() {
            self.map.set(page, Rights::All);
        }
        if !newly_watched.is_empty() || !newly_closed.is_empty() {
            kick::flush_others(cpu);
        }
        // A read with KeyID 0 of a line that has just become private gives zeros.
        for lines in ranges::difference(&private, &self.private) {
            let address = lines.start * tdx_abi::LINE_SIZE;
            guest_memory::clear(address, (lines.end - lines.start) * tdx_abi::LINE_SIZE);
            for page in pages(&lines) {
                let kind = self.kind_now(page);
                self.kinds.insert(page, kind);
            }
        }
        self.watched = watched;
        self.closed = closed;
        self.private = private;
    }

    fn kind_now(&self, page: u64) -> &'static str {
        if let Some(pamt) = self.pamts.iter().find(|pamt| (pamt.first..pamt.end).contains(&page)) {
            return pamt.name;
        }
        let runs = self.machine.assigned_pages();
        let run = runs.iter().find(|run| run.pages.contains(tdx_abi::Page::new(page)));
        run.map_or("returned page", |run| run.kind.name())
    }

    /// The module dies in the `count`-th call of a leaf.
    pub fn die(&mut self, leaf: tdx_abi::Leaf, count: u64) {
        self.machine.inject(tdx_machine::Fault::Crash, tdx_machine::When::CallOf(leaf, count));
    }

    /// What a line was when it became private.
    pub fn kind(&self, line: Line) -> &'static str {
        self.kinds.get(&line.page().index()).copied().unwrap_or("memory that was never private")
    }
}
