//! Walks the host's EPT for shared addresses of a TD. It is data of the host: it may point anywhere
//! and change at any time.

use crate::guest_memory;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const RIGHTS: u64 = 0b111;
const LARGE: u64 = 1 << 7;
const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;
const SUPPRESS_VE: u64 = 1 << 63;
/// Attempts if the host changes an entry at the same time.
const ATTEMPTS: usize = 16;

/// Where a shared address lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// In the page with this number.
    Page { page: u64, writable: bool },
    /// EPT violation, with the rights that the entries give. The CPU turns a convertible one into
    /// #VE.
    Violation { rights: u64, convertible: bool },
    /// EPT misconfiguration.
    Misconfiguration,
}

/// Walks four levels from the root. Sets accessed and dirty bits.
pub fn walk(root: u64, gpa: u64, access: u64) -> Found {
    let mut found = None;
    for _ in 0..ATTEMPTS {
        found = attempt(root, gpa, access);
        if found.is_some() {
            break;
        }
    }
    // The guest repeats the access.
    found.unwrap_or(Found::Violation { rights: 0, convertible: false })
}

/// `None` if an entry has changed meanwhile.
fn attempt(root: u64, gpa: u64, access: u64) -> Option<Found> {
    let mut table = root & ADDRESS;
    let mut rights = RIGHTS;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let at = table + 8 * (gpa >> shift & 511);
        let mut bytes = [0; 8];
        if !guest_memory::read(at, &mut bytes) {
            return Some(Found::Misconfiguration);
        }
        let entry = u64::from_le_bytes(bytes);
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
        let writes = access & WRITE != 0;
        let used = entry | ACCESSED | if leaf && writes { DIRTY } else { 0 };
        if used != entry && !guest_memory::compare_exchange(at, entry, used) {
            return None;
        }
        if leaf {
            let mask = (1 << shift) - 1;
            let address = entry & ADDRESS & !mask | gpa & mask;
            // Writable only once the dirty bit is set.
            return Some(Found::Page { page: address >> 12, writable: rights & WRITE != 0 && used & DIRTY != 0 });
        }
        table = entry & ADDRESS;
    }
    None
}
