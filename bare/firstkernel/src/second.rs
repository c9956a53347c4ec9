//! The second kernel: uses all memory page by page, by partial stores followed by reads. It does
//! not use TDX; it reads the table of leftovers only to explain a machine check.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use metal::boot::{self, Boot};
use metal::println;
use spin::Once;
use tdx_abi::{PageRange, PhysAddr, subtract};
use tdx_host::handover::{LeftoverKind, LeftoverReason, LeftoverTable, OldMemory};

use crate::memory::usable;

const TABLE: usize = 16 << 10;

/// A copy of the first kernel's table of leftovers.
static LEFTOVERS: Once<[u8; TABLE]> = Once::new();

/// Size of the table in bytes.
pub const TABLE_BYTES: u64 = TABLE as u64;

/// Writes and reads every line of usable memory outside this kernel. Returns the number of lines.
pub fn use_all_memory(boot: &Boot) -> u64 {
    if let Some(module) = boot.module {
        LEFTOVERS.call_once(|| {
            let mut table = [0; TABLE];
            let length = TABLE.min(module.size as usize);
            // SAFETY: the first kernel has written the table there, and nothing has overwritten it.
            unsafe {
                let from = with_exposed_provenance_mut::<u8>(module.address as usize);
                table[..length].copy_from_slice(core::slice::from_raw_parts(from, length));
            }
            table
        });
    }
    let (start, end) = boot::image();
    let own = PageRange::inside(PhysAddr::new(start), PhysAddr::new(end));
    let memory = usable(boot);
    let free = || subtract(memory.iter().map(|part| part.range), [own]);
    let mut lines = 0;
    for page in free().flat_map(|range| range.start().index()..range.end().index()) {
        for line in lines_of(page) {
            // SAFETY: RAM outside this kernel. MOVNTI writes 8 bytes past the caches: a partial
            // write.
            unsafe { asm!("movnti [{}], {}", in(reg) line, in(reg) PATTERN, options(nostack, preserves_flags)) }
        }
        tdx_host::arch::mfence();
        for line in lines_of(page) {
            // SAFETY: as above, a read.
            let value = unsafe { line.read_volatile() };
            if value != PATTERN {
                println!("second kernel: {line:p} reads {value:#x}, expected {PATTERN:#x}");
                metal::exit::exit(metal::exit::FAILURE);
            }
            lines += 1;
        }
    }
    lines
}

/// The stored value.
const PATTERN: u64 = 0x5555_5555_5555_5555;

/// The first word of each line of a page.
fn lines_of(page: u64) -> impl Iterator<Item = *mut u64> {
    (0..tdx_abi::LINES_PER_PAGE).map(move |line| with_exposed_provenance_mut((page * 4096 + line * 64) as usize))
}

/// What the table of leftovers says about an address.
pub fn explain(address: PhysAddr) -> &'static str {
    let Some(table) = LEFTOVERS.get() else { return "no table of leftovers" };
    match LeftoverTable::read(table).map(|table| table.old_memory) {
        Err(_) => "invalid table of leftovers",
        Ok(OldMemory::AllPrivate) => "any memory of the first kernel may be private, by its table",
        Ok(OldMemory::Listed(mut leftovers)) => {
            match leftovers.find(|left| left.range.contains(address.page())).map(|left| (left.kind, left.reason)) {
                Some((LeftoverKind::Pamt, LeftoverReason::NotReset)) => {
                    "PAMT of the first kernel, not reset by its policy"
                }
                Some((LeftoverKind::Page, LeftoverReason::NotReset)) => {
                    "page of a TD of the first kernel, not reset by its policy"
                }
                Some(_) => "private memory of the first kernel that could not be reset",
                None => "not private, by the table of the first kernel",
            }
        }
    }
}
