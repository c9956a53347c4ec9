//! Nested page tables of a TD's virtual CPU. They are filled by its nested page faults, and hold
//! what a TLB could: emptied when translations change, and when they are full.
//!
//! A TD that needs more tables for one instruction than there are faults again and again. Each
//! fault is a VM exit, so that interrupts and kicks still take it out.

use alloc::vec::Vec;

use crate::owned_page::OwnedPage;

/// Tables below the root of one virtual CPU.
const MAX_TABLES: usize = 24;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Present, writable, user (as nested entries must be), accessed, dirty.
const OPEN: u64 = 0x67;

/// Nested page tables of one virtual CPU.
#[derive(Debug)]
pub struct Tables {
    root: OwnedPage,
    below: Vec<OwnedPage>,
    /// Of [`crate::translations`], when the tables were last emptied.
    generation: u64,
}

impl Tables {
    /// Empty tables. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        Some(Self { root: OwnedPage::new()?, below: Vec::with_capacity(MAX_TABLES), generation: 0 })
    }

    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.root.address()
    }

    /// Forgets all translations if some have changed since.
    pub fn refresh(&mut self, generation: u64) {
        if self.generation != generation {
            self.clear();
            self.generation = generation;
        }
    }

    fn clear(&mut self) {
        self.root.clear();
        self.below.clear();
    }

    /// Maps the page of a guest address to a frame. False if there is no memory.
    pub fn map(&mut self, gpa: u64, frame: u64, writable: bool) -> bool {
        // Two tables are missing below an existing one at most, three below the root.
        if self.below.len() + 3 > MAX_TABLES {
            self.clear();
        }
        let mut at = self.root.address();
        for level in [3, 2, 1] {
            let slot = gpa >> (12 + 9 * level);
            let Some(table) = self.table(at) else { return false };
            let entry = table.entry(slot);
            at = if entry & PRESENT == 0 {
                let Some(next) = OwnedPage::new() else { return false };
                let address = next.address();
                table.set_entry(slot, address | OPEN);
                self.below.push(next);
                address
            } else {
                entry & ADDRESS
            };
        }
        let rights = if writable { OPEN } else { OPEN & !WRITABLE };
        let Some(table) = self.table(at) else { return false };
        table.set_entry(gpa >> 12, frame & ADDRESS | rights);
        true
    }

    fn table(&self, address: u64) -> Option<&OwnedPage> {
        core::iter::once(&self.root).chain(&self.below).find(|table| table.address() == address)
    }
}
