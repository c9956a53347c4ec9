//! Ports, model-specific and control registers. Thin: each function is one instruction.

use core::arch::asm;

/// Writes a byte to an I/O port.
///
/// # Safety
/// The device behind the port does nothing to memory that Rust owns.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: ring 0; the caller answers for the device.
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

/// Writes a double word to an I/O port. Not `nomem`: fw_cfg's DMA is started so.
///
/// # Safety
/// As [`out8`]; or the device writes to memory that is lent to it.
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
/// The register exists, the value is legal, and what it changes is nothing that Rust relies on.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's.
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
    // SAFETY: the caller's.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// CR2: the address of the last page fault.
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// CR3: the page tables in use.
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reading CR3 changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// CR4.
pub fn cr4() -> u64 {
    let value;
    // SAFETY: reading CR4 changes nothing.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Sets CR4.
///
/// # Safety
/// The bits exist, and those that this program relies on (PAE, OSFXSR, OSXMMEXCPT) stay.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is always there in long mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Interrupts on for one HLT, then off again: sleeps until something comes.
pub fn wait_for_interrupt() {
    // SAFETY: handlers run on their own stacks and return here.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Halts for good; only an NMI or INIT comes through.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts stay off.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
