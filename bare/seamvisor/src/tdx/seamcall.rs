//! SEAMCALL: copies operands in, calls the emulated module, copies results out, updates the nested
//! page tables.

use core::sync::atomic::{AtomicU64, Ordering};
use metal::println;
use tdx_abi::{
    KeyId, LINE_SIZE, Leaf, MAX_TDMRS, PAGE_SIZE, PhysAddr, Registers, STRUCTURE_ALIGN, SYS_CONFIG_DYNAMIC_PAMT, Status,
};
use tdx_machine::{CpuId, DeviceId};

use super::{Tdx, touched};
use crate::{guest_memory, translations};

/// Address bits of a physical address, without those of the hint of Dynamic PAMT and the page
/// offset.
const PHYSICAL: u64 = 0x000f_ffff_ffff_f000;

/// Number of SEAMCALLs so far, for the log.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Tdx {
    /// Executes SEAMCALL. Returns the registers after the call.
    pub fn seamcall(&mut self, cpu: usize, input: Registers) -> Registers {
        let id = CpuId(cpu as u32);
        let leaf = input.leaf_call().leaf();
        self.copy_operands_in(leaf, &input);
        let assumed = leaf == Leaf::SYS_CONFIG && self.assumes_dynamic_pamt;
        let r8 = if assumed { input.r8 | SYS_CONFIG_DYNAMIC_PAMT } else { input.r8 };
        let output = match self.machine.seamcall(id, Registers { r8, ..input }) {
            Ok(output) => output,
            Err(refusal) => {
                self.refused += 1;
                println!("seamcall refused cpu={cpu} leaf={leaf}: {refusal}");
                Registers { rax: Status::VMFAIL_INVALID.raw(), ..input }
            }
        };
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let enters = leaf == Leaf::VP_ENTER && !output.status().is_error();
        if enters {
            // Lines that are stored to are private already.
            return output;
        }
        // A sweep asks for every page: one line for many.
        if leaf != Leaf::PHYMEM_PAGE_RDMD || output.status().is_error() || number < 4096 || number.is_multiple_of(4096)
        {
            println!("seamcall {number} cpu={cpu} {leaf} -> {:#018x} {}", output.rax, output.status());
        }
        if !output.status().is_error() {
            self.complete(id, leaf, &input);
            self.follow_tds(leaf, &input, &output);
        }
        self.sync_map(cpu);
        output
    }

    /// Copies the structures that the module will read from guest memory to the machine, past the
    /// caches and by full lines, so that nothing else changes.
    fn copy_operands_in(&mut self, leaf: Leaf, input: &Registers) {
        match leaf {
            Leaf::SYS_CONFIG => {
                let count = input.rdx.min(MAX_TDMRS as u64);
                self.copy_in(input.rcx, 8 * count);
                for index in 0..count {
                    let mut pointer = [0; 8];
                    if guest_memory::read(input.rcx.wrapping_add(8 * index), &mut pointer) {
                        self.copy_in(u64::from_le_bytes(pointer), STRUCTURE_ALIGN);
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
            let address = PhysAddr::new(line * LINE_SIZE);
            // The module cannot read private or poisoned lines as host memory.
            if self.is_trapped(address.page().index()) {
                continue;
            }
            let mut bytes = [0; LINE_SIZE as usize];
            if guest_memory::read(address.get(), &mut bytes) {
                // Cannot fail: the address is guest RAM, which lies below the machine's limit.
                let _ = self.machine.dma_write(DeviceId(0), address, &bytes);
            }
        }
    }

    /// Completes a successful call: copies results to guest memory and records PAMT areas.
    fn complete(&mut self, cpu: CpuId, leaf: Leaf, input: &Registers) {
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

    /// Follows contents of private pages, virtual CPUs and translations of TDs over a successful
    /// call.
    fn follow_tds(&mut self, leaf: Leaf, input: &Registers, output: &Registers) {
        let page = |address: u64| (address & PHYSICAL) / PAGE_SIZE;
        // Level in bits 2:0.
        let pages = |first: u64, level: u64| first..first + (1 << (9 * level.min(2)));
        match leaf {
            Leaf::MEM_PAGE_ADD if !self.frames.fill(page(input.r8), input.r9) => {
                println!("no room for the contents of {:#x}: its TD is fatal", input.r8);
                self.machine.make_td_fatal(PhysAddr::new(input.rdx).page());
            }
            Leaf::MEM_PAGE_AUG => self.frames.remove(pages(page(input.r8), input.rcx & 0b111)),
            Leaf::MEM_PAGE_REMOVE => self.frames.remove(pages(page(output.rcx), input.rcx & 0b111)),
            Leaf::MEM_PAGE_RELOCATE => self.frames.relocate(page(output.rcx), page(input.r8)),
            Leaf::PHYMEM_PAGE_RECLAIM => {
                let first = page(input.rcx);
                self.frames.remove(pages(first, output.r8 & 0b111));
                self.births.remove(&first);
            }
            Leaf::VP_INIT => {
                self.inits += 1;
                self.births.insert(page(input.rcx), self.inits);
            }
            // The module forgets every TD and the PAMTs. It refuses this while a virtual CPU is
            // inside.
            Leaf::SYS_DISABLE => {
                self.frames.clear();
                self.births.clear();
                self.pamts.clear();
                self.future_pamt.clear();
            }
            _ => {}
        }
        if matches!(
            leaf,
            Leaf::MEM_RANGE_BLOCK
                | Leaf::MEM_PAGE_REMOVE
                | Leaf::MEM_PAGE_RELOCATE
                | Leaf::MEM_PAGE_PROMOTE
                | Leaf::MEM_PAGE_DEMOTE
                | Leaf::PHYMEM_PAGE_RECLAIM
                | Leaf::SYS_DISABLE
                | Leaf::VP_WR
        ) {
            translations::invalidate();
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
        // The module's stores are now in guest memory: leave no copy in the machine's caches.
        let _ = self.machine.flush_lines(cpu, lines, KeyId::HOST);
    }
}
