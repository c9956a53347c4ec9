//! Accesses to the hypervisor's memory and beyond the nested map.

use core::arch::asm;
use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// The hypervisor's memory, which its memory map reserves.
pub const SLICE: Range<u64> = (2 << 20)..(16 << 20);

/// The hypervisor's memory reads as ones, and stores to it are dropped.
pub fn hypervisor_reads_as_ones() {
    for address in (SLICE.start..SLICE.end).step_by(0x3_f008) {
        let word = with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: not memory of this kernel.
        let read = unsafe {
            word.write_volatile(0x0bad_0bad_0bad_0bad);
            word.read_volatile()
        };
        assert!(read == u64::MAX, "{address:#x} of the hypervisor reads as {read:#x}");
    }
}

/// Memory beyond the nested map reads as ones, without an endless fault.
pub fn beyond_the_map() {
    const TABLES: u64 = 160 << 20;
    const WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    // The tables map the first 1 TiB one to one.
    let word = |address: u64, value: u64| {
        // SAFETY: memory that this kernel does not use, mapped one to one.
        unsafe { with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
    };
    for index in 0..512 {
        word(TABLES + 8 * index, 0);
        word(TABLES + 0x1000 + 8 * index, index << 30 | LARGE | WRITABLE);
        word(TABLES + 0x2000 + 8 * index, (512 + index) << 30 | LARGE | WRITABLE);
    }
    word(TABLES, (TABLES + 0x1000) | WRITABLE);
    word(TABLES + 8, (TABLES + 0x2000) | WRITABLE);
    let read: u64;
    // SAFETY: the new tables map all that the old ones do, for the length of two accesses; CR3 is
    // restored.
    unsafe {
        asm!(
            "mov {old}, cr3", "mov cr3, {new}", "mov qword ptr [{far}], 1", "mov {read}, [{far}]", "mov cr3, {old}",
            old = out(reg) _, new = in(reg) TABLES, far = in(reg) 512u64 << 30, read = out(reg) read,
        );
    }
    assert!(read == u64::MAX, "memory at 512 GiB reads {read:#x}");
}

/// Stores and copies across the border between memory of this kernel and the hypervisor's.
pub fn across_hypervisor_border() {
    let border = with_exposed_provenance_mut::<u64>(SLICE.end as usize);
    // SAFETY: the first bytes of this kernel's image are the PVH note, which is not used after
    // boot; they are restored. Below is the hypervisor's memory.
    unsafe {
        let before = border.read_volatile();
        let (place, word): (*mut u64, u64) = (border.byte_sub(4), 0x1122_3344_5566_7788);
        asm!("mov [{place}], {word}", place = in(reg) place, word = in(reg) word, options(nostack));
        let word: u64;
        asm!("mov {word}, [{place}]", place = in(reg) place, word = out(reg) word, options(nostack));
        assert!(word == 0x1122_3344_ffff_ffff, "across the border: {word:#x}");
        border.write_volatile(before);
        let from = with_exposed_provenance::<u8>((SLICE.end - 4096) as usize);
        let mut page = [0u8; 4096];
        asm!("rep movsb", inout("rcx") 4096u64 => _, inout("rsi") from => _, inout("rdi") page.as_mut_ptr() => _, options(nostack));
        assert!(page.iter().all(|byte| *byte == 0xff), "a copy out of the hypervisor is not all ones");
    }
}
