//! Walks the host's EPT for shared addresses of a TD (SDM volume 3, 29.3). It is data of the host:
//! it may point anywhere and change at any time.

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Rights of an entry, and of an access in the exit qualification: read, write, execute.
pub const READ: u64 = 1 << 0;
/// Write.
pub const WRITE: u64 = 1 << 1;
/// Execute.
pub const EXECUTE: u64 = 1 << 2;
const RIGHTS: u64 = READ | WRITE | EXECUTE;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const SUPPRESS_VE: u64 = 1 << 63;
/// Attempts if the host changes an entry at the same time.
const ATTEMPTS: usize = 16;

/// The memory that holds the tables.
pub trait Memory {
    /// Reads an aligned word, atomically. `None` if it is no memory.
    fn read(&self, address: u64) -> Option<u64>;
    /// Replaces an aligned word if it is `old`, atomically.
    fn compare_exchange(&self, address: u64, old: u64, new: u64) -> bool;
}

/// Where a shared address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// In this page.
    Page {
        /// Number of the page of 4 KiB.
        page: u64,
        /// It can be mapped writable: the dirty bit is set.
        writable: bool,
    },
    /// EPT violation.
    Violation {
        /// What the entries allow.
        rights: u64,
        /// The CPU turns it into #VE.
        convertible: bool,
    },
    /// EPT misconfiguration.
    Misconfiguration,
}

/// Walks four levels from the root, and sets accessed and dirty bits.
pub fn walk(memory: &impl Memory, root: u64, gpa: u64, access: u64) -> Found {
    for _ in 0..ATTEMPTS {
        if let Some(found) = attempt(memory, root, gpa, access) {
            return found;
        }
    }
    // The host changes the entry again and again: it gets the exit, and the guest repeats the
    // access.
    Found::Violation { rights: 0, convertible: false }
}

/// `None` if an entry has changed meanwhile.
fn attempt(memory: &impl Memory, root: u64, gpa: u64, access: u64) -> Option<Found> {
    let mut table = root & ADDRESS;
    let mut rights = RIGHTS;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let at = table + 8 * (gpa >> shift & 511);
        let Some(entry) = memory.read(at) else { return Some(Found::Misconfiguration) };
        rights &= entry;
        let leaf = level == 0 || entry & LARGE != 0;
        let convertible = entry & SUPPRESS_VE == 0;
        if entry & RIGHTS == 0 {
            return Some(Found::Violation { rights: 0, convertible });
        }
        if entry & (READ | WRITE) == WRITE || leaf && level > 2 {
            return Some(Found::Misconfiguration);
        }
        if leaf && rights & access != access {
            return Some(Found::Violation { rights, convertible });
        }
        let dirty = if leaf && access & WRITE != 0 { DIRTY } else { 0 };
        let used = entry | ACCESSED | dirty;
        if used != entry && !memory.compare_exchange(at, entry, used) {
            return None;
        }
        if leaf {
            let mask = (1 << shift) - 1;
            let address = entry & ADDRESS & !mask | gpa & mask;
            return Some(Found::Page { page: address >> 12, writable: rights & WRITE != 0 && used & DIRTY != 0 });
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// Words that are there.
    #[derive(Default)]
    struct Words {
        words: RefCell<BTreeMap<u64, u64>>,
        /// The host changes each word that is to be replaced, this many times.
        changes: RefCell<usize>,
    }

    impl Memory for Words {
        fn read(&self, address: u64) -> Option<u64> {
            self.words.borrow().get(&address).copied()
        }

        fn compare_exchange(&self, address: u64, old: u64, new: u64) -> bool {
            let mut words = self.words.borrow_mut();
            if *self.changes.borrow() > 0 {
                *self.changes.borrow_mut() -= 1;
                return false;
            }
            words.insert(address, new) == Some(old)
        }
    }

    const ROOT: u64 = 0x1000;
    const GPA: u64 = 1 << 47 | 0x1234;

    /// Tables of 4 KiB each at 0x1000 to 0x4000, with this leaf.
    fn tables(leaf: u64) -> Words {
        let words = Words::default();
        for (address, value) in [(ROOT + 8 * 256, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4008, leaf)] {
            words.words.borrow_mut().insert(address, value);
        }
        words
    }

    fn leaf_of(words: &Words) -> u64 {
        words.read(0x4008).unwrap()
    }

    #[test]
    fn a_read_sets_accessed_and_a_write_dirty() {
        let words = tables(0x5_0000 | RIGHTS);
        let read = walk(&words, ROOT | 0x5e, GPA, READ);
        assert_eq!(read, Found::Page { page: 0x50, writable: false }, "a clean page is mapped read-only");
        assert_eq!(leaf_of(&words), 0x5_0000 | RIGHTS | ACCESSED);
        assert_eq!(walk(&words, ROOT, GPA, WRITE), Found::Page { page: 0x50, writable: true });
        assert_eq!(leaf_of(&words), 0x5_0000 | RIGHTS | ACCESSED | DIRTY);
        assert_eq!(words.read(0x3000).unwrap() & (ACCESSED | DIRTY), ACCESSED, "tables are never dirty");
        assert_eq!(walk(&words, ROOT, GPA, READ), Found::Page { page: 0x50, writable: true });
    }

    #[test]
    fn an_entry_without_rights_is_an_exit_or_an_exception() {
        let found = |leaf: u64| walk(&tables(leaf), ROOT, GPA, READ);
        assert_eq!(found(SUPPRESS_VE), Found::Violation { rights: 0, convertible: false });
        assert_eq!(found(0), Found::Violation { rights: 0, convertible: true });
    }

    #[test]
    fn rights_of_all_levels_count() {
        let words = tables(0x5_0000 | RIGHTS | SUPPRESS_VE);
        words.words.borrow_mut().insert(0x3000, 0x4000 | READ);
        let violation = Found::Violation { rights: READ, convertible: false };
        assert_eq!(walk(&words, ROOT, GPA, WRITE), violation);
        assert_eq!(walk(&words, ROOT, GPA, EXECUTE), violation);
        assert_eq!(leaf_of(&words) & DIRTY, 0);
    }

    #[test]
    fn misconfigurations() {
        assert_eq!(walk(&tables(0x5_0000 | WRITE), ROOT, GPA, READ), Found::Misconfiguration, "write-only");
        assert_eq!(walk(&tables(7), 0x9_0000, GPA, READ), Found::Misconfiguration, "a root that is no memory");
        let words = tables(7);
        words.words.borrow_mut().insert(ROOT + 8 * 256, LARGE | RIGHTS);
        assert_eq!(walk(&words, ROOT, GPA, READ), Found::Misconfiguration, "a page of 512 GiB");
    }

    #[test]
    fn large_pages() {
        let words = tables(0);
        words.words.borrow_mut().insert(0x3000, 0x60_0000 | LARGE | RIGHTS | DIRTY);
        assert_eq!(walk(&words, ROOT, GPA | 0x1f_f000, READ), Found::Page { page: 0x7ff, writable: true });
    }

    #[test]
    fn a_change_at_the_same_time_is_seen() {
        let words = tables(0x5_0000 | RIGHTS);
        words.changes.replace(3);
        assert_eq!(walk(&words, ROOT, GPA, WRITE), Found::Page { page: 0x50, writable: true });
        let words = tables(0x5_0000 | RIGHTS);
        words.changes.replace(usize::MAX);
        assert_eq!(walk(&words, ROOT, GPA, WRITE), Found::Violation { rights: 0, convertible: false });
    }
}
