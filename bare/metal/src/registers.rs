//! I/O ports, MSRs, control registers, HLT: one instruction for each function.

use core::arch::asm;

/// Writes a byte to an I/O port.
///
/// # Safety
/// The access has no effect on memory that Rust owns.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: ring 0; the caller promises that the device does not change memory that Rust owns.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes a word to an I/O port.
///
/// # Safety
/// As [`out8`].
pub unsafe fn out16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes a double word to an I/O port. Not `nomem`, because it may start a DMA.
///
/// # Safety
/// As [`out8`], or the device writes only to memory that is lent to it.
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// As [`out8`].
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// WRMSR.
///
/// # Safety
/// The register exists, the value is valid, and no state that Rust code relies on changes.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: promised by the caller.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// RDMSR of a register that exists.
///
/// # Safety
/// The register exists.
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: promised by the caller.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Reads CR2: the linear address of the last page fault.
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads CR3: the physical address of the root page table.
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reading CR3 changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads CR4.
pub fn cr4() -> u64 {
    let value;
    // SAFETY: reading CR4 changes nothing.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Writes CR4.
///
/// # Safety
/// The bits are supported, and PAE, OSFXSR and OSXMMEXCPT stay set.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: promised by the caller.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Reads the time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Halts with interrupts enabled until the next interrupt, then disables them again.
pub fn wait_for_interrupt() {
    // SAFETY: handlers run on IST stacks and return here.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Halts forever. NMI and INIT are still taken.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts stay disabled.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
