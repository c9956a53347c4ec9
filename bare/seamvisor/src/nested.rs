//! Nested page tables: one identity map for all CPUs, in which pages are closed and opened, and a
//! CPU's own detour round it for the length of one instruction. Refuses to show the guest any page
//! of this program.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// What the guest may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Everything.
    All,
    /// It is private: a read is harmless, a store is not.
    Read,
    /// It is poisoned, or not the guest's.
    Nothing,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// Present, writable, user (as nested entries must be), accessed, dirty.
const OPEN: u64 = 0x67;
const LARGE: u64 = 0x80;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;
/// Pages that the map has.
pub const PAGES: u64 = (512 << 30) / PAGE;

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

/// The map of all CPUs.
pub struct Nested {
    root: u64,
}

impl Nested {
    /// The first 512 GiB one to one, by pages of 1 GiB.
    pub fn identity() -> Self {
        let (root, gigabytes) = (table(), table());
        write(root, 0, gigabytes | OPEN);
        for gigabyte in 0..512 {
            write(gigabytes, gigabyte, gigabyte << 30 | OPEN | LARGE);
        }
        Self { root }
    }

    /// What VMRUN takes.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The table of the lowest level for an address, large pages on the way split.
    fn pages(&self, address: u64) -> u64 {
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

    /// Sets the rights of a page. A CPU that has the old entry in its TLB goes on using it. A page
    /// that is not the guest's stays closed, and beyond the map there is nothing to open.
    pub fn set(&self, page: u64, rights: Rights) {
        if page >= PAGES || rights != Rights::Nothing && crate::is_hidden(page) {
            return;
        }
        let address = page * PAGE;
        let without = match rights {
            Rights::All => 0,
            Rights::Read => WRITABLE,
            Rights::Nothing => PRESENT,
        };
        write(self.pages(address), index(address, 0), address | OPEN & !without);
    }
}

/// Pages that a detour can show: an instruction may touch some, each across a border.
pub const DETOUR_PAGES: usize = 6;

/// A CPU's own tables, in which some pages are there that others do not see.
pub struct Detour {
    root: u64,
    tables: [u64; 3 * DETOUR_PAGES],
}

impl Detour {
    /// Its tables.
    pub fn new() -> Self {
        Self { root: table(), tables: core::array::from_fn(|_| table()) }
    }

    /// The common map, with these pages shown: each as the frame given beside it. Returns the root.
    pub fn show(&mut self, map: &Nested, pages: &[(u64, u64)]) -> u64 {
        copy(map.root, self.root);
        let mut free = self.tables.iter().copied();
        for (page, frame) in pages.iter().take(DETOUR_PAGES) {
            let address = page * PAGE;
            if *page < PAGES {
                // The common map must have tables all the way down, or there would be nothing to
                // copy.
                map.pages(address);
            }
            let mut at = self.root;
            for level in [3, 2, 1] {
                let entry = read(at, index(address, level));
                let below = entry & ADDRESS;
                // A table of ours, from a page before this one, is gone on with.
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
