//! Nested page tables: an identity map shared by all CPUs, with per-page rights, and per-CPU tables
//! that map further pages for a single step. Hidden pages are never mapped.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use arrayvec::ArrayVec;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use crate::hidden::{self, MAPPED_PAGES};

/// Guest access rights to a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Read, write, execute.
    All,
    /// Read and execute: the page has private lines, which only a write can poison.
    Read,
    /// Not present: the page has poisoned lines, or is hidden.
    NotPresent,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// Present, writable, user (as nested entries must be), accessed, dirty.
const OPEN: u64 = 0x67;
const LARGE: u64 = 0x80;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;
/// Physical address of a zeroed table.
fn table() -> u64 {
    let layout = Layout::new::<crate::vmcb::Vmcb>();
    // SAFETY: the layout has a size.
    let page = unsafe { alloc_zeroed(layout) };
    if page.is_null() {
        handle_alloc_error(layout);
    }
    page.expose_provenance() as u64
}

fn read(table: u64, index: u64) -> u64 {
    // SAFETY: `table` is one of our tables, mapped one to one, and the index is below 512.
    // Volatile: the processor writes accessed and dirty bits.
    unsafe { with_exposed_provenance::<u64>((table + 8 * (index & 511)) as usize).read_volatile() }
}

fn write(table: u64, index: u64, entry: u64) {
    // SAFETY: as above. One aligned store: another CPU's walk sees the old entry or the new one.
    unsafe { with_exposed_provenance_mut::<u64>((table + 8 * (index & 511)) as usize).write_volatile(entry) }
}

/// Copies one of our tables over another.
fn copy(from: u64, to: u64) {
    for index in 0..512 {
        write(to, index, read(from, index));
    }
}

/// Index of an address in the table of a level: 0 maps pages, 3 is the root.
const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * level) & 511
}

/// The nested page tables that all CPUs share.
pub struct Nested {
    root: u64,
}

impl Nested {
    /// Maps the first 512 GiB one to one, by 1 GiB pages.
    pub fn identity() -> Self {
        let (root, gigabytes) = (table(), table());
        write(root, 0, gigabytes | OPEN);
        for gigabyte in 0..512 {
            write(gigabytes, gigabyte, gigabyte << 30 | OPEN | LARGE);
        }
        Self { root }
    }

    /// Physical address of the root table, for the VMCB.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The level 0 table for an address. Splits large pages on the way.
    fn leaf_table(&self, address: u64) -> u64 {
        let mut at = self.root;
        for level in [3, 2, 1] {
            let slot = index(address, level);
            let entry = read(at, slot);
            if entry & LARGE == 0 || level == 3 {
                at = entry & ADDRESS;
                continue;
            }
            let (below, step) = (table(), PAGE << (9 * (level - 1)));
            let kind = if level == 2 { LARGE } else { 0 };
            for part in 0..512 {
                write(below, part, ((entry & ADDRESS) + part * step) | entry & 0x67 | kind);
            }
            write(at, slot, below | OPEN);
            at = below;
        }
        at
    }

    /// Sets the rights of a page. CPUs may use the old entry from their TLB until their next VM
    /// exit. A hidden page is never mapped; pages beyond the map have no entry.
    pub fn set(&self, page: u64, rights: Rights) {
        if page >= MAPPED_PAGES || rights != Rights::NotPresent && hidden::is_hidden(page) {
            return;
        }
        let address = page * PAGE;
        let without = match rights {
            Rights::All => 0,
            Rights::Read => WRITABLE,
            Rights::NotPresent => PRESENT,
        };
        write(self.leaf_table(address), index(address, 0), address | OPEN & !without);
    }
}

/// Pages that can be mapped for a step: an instruction has up to three operands, each of which may
/// cross a page boundary.
pub const MAX_STEP_PAGES: usize = 6;

/// Pages to map for a step, each with the frame that backs it.
pub type StepPages = ArrayVec<(u64, u64), MAX_STEP_PAGES>;

/// Nested page tables of one CPU: a copy of the shared ones with further pages mapped.
pub struct StepTables {
    root: u64,
    tables: [u64; 3 * MAX_STEP_PAGES],
}

impl StepTables {
    /// Allocates the tables.
    pub fn new() -> Self {
        Self { root: table(), tables: core::array::from_fn(|_| table()) }
    }

    /// Maps these pages in addition to those of the shared tables. Returns the physical address of
    /// the root.
    pub fn map(&mut self, map: &Nested, pages: &[(u64, u64)]) -> u64 {
        copy(map.root, self.root);
        let mut free = self.tables.iter().copied();
        for (page, frame) in pages.iter().take(MAX_STEP_PAGES) {
            let address = page * PAGE;
            if *page < MAPPED_PAGES {
                // Split large pages of the shared tables first: tables are copied, not split,
                // below.
                map.leaf_table(address);
            }
            let mut at = self.root;
            for level in [3, 2, 1] {
                let entry = read(at, index(address, level));
                let below = entry & ADDRESS;
                // A table that was already copied for an earlier page is used again.
                let ours = entry & PRESENT != 0 && self.tables.contains(&below);
                let next = if ours { below } else { free.next().unwrap_or(below) };
                if !ours {
                    if entry & PRESENT == 0 {
                        (0..512).for_each(|index| write(next, index, 0));
                    } else {
                        copy(below, next);
                    }
                    write(at, index(address, level), next | OPEN);
                }
                at = next;
            }
            write(at, index(address, 0), (frame * PAGE) | OPEN);
        }
        self.root
    }
}
