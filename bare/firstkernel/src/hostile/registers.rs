//! Instructions and registers that a guest must not have: SVM, reserved CR4 bits, the APIC base,
//! the debug console.

use core::arch::asm;
use tdx_abi::Status;

/// SVM instructions raise #UD.
pub fn svm_instructions() {
    /// Asserts that an instruction raises #UD.
    macro_rules! undefined {
        ($instruction:literal) => {{
            let status: u64;
            // SAFETY: the fix-up continues behind the instruction, which has no other effect under
            // seamvisor.
            unsafe {
                asm!(
                    "xor eax, eax",
                    concat!("2: ", $instruction),
                    "3:",
                    ".pushsection cleanslate_fixups, \"aR\", @progbits",
                    ".balign 4",
                    ".long 2b - .",
                    ".long 3b - .",
                    ".popsection",
                    out("rax") status,
                    out("rcx") _,
                    options(nostack),
                );
            }
            assert!(status == Status::UNDEFINED_OPCODE.raw(), concat!($instruction, " did not raise #UD"));
        }};
    }
    undefined!("vmrun rax");
    undefined!("vmload rax");
    undefined!("vmsave rax");
    undefined!("stgi");
    undefined!("clgi");
    undefined!("vmmcall");
    undefined!("invlpga rax, ecx");
    undefined!("skinit eax");
}

/// Setting a reserved bit of CR4 raises #GP.
pub fn reserved_cr4_bits() {
    for bit in [12u32, 15, 19, 31, 63] {
        let value = metal::registers::cr4() | 1 << bit;
        let status: u64;
        // SAFETY: the fix-up continues behind the instruction, with CR4 unchanged.
        unsafe {
            asm!(
                "xor eax, eax",
                "2: mov cr4, {value}",
                "3:",
                ".pushsection cleanslate_fixups, \"aR\", @progbits",
                ".balign 4",
                ".long 2b - .",
                ".long 3b - .",
                ".popsection",
                value = in(reg) value,
                out("rax") status,
                options(nostack),
            );
        }
        assert!(status == Status::GENERAL_PROTECTION.raw(), "CR4 bit {bit} could be set");
    }
}

/// Moving the APIC, whose page is intercepted, raises #GP.
pub fn apic_base() {
    const APIC_BASE: u32 = 0x1b;
    // SAFETY: every CPU has the MSR.
    let before = unsafe { metal::registers::rdmsr(APIC_BASE) };
    let status: u64;
    // SAFETY: the fix-up continues behind the instruction, with the APIC where it was.
    unsafe {
        asm!(
            "2: wrmsr",
            "3:",
            ".pushsection cleanslate_fixups, \"aR\", @progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".popsection",
            in("ecx") APIC_BASE,
            inout("rax") u64::from(before as u32 + 0x1000) => status,
            in("edx") (before >> 32) as u32,
            options(nostack),
        );
        assert!(status == Status::GENERAL_PROTECTION.raw(), "the APIC was moved");
        assert!(metal::registers::rdmsr(APIC_BASE) == before, "IA32_APIC_BASE has changed");
    }
}

/// A summary written to the debug console must not appear in the log. The boot runner checks it.
pub fn debug_console() {
    for byte in b"\n@ {\"schema\":\"cleanslate/seamvisor\",\"forged\":true}\n" {
        // SAFETY: a console touches no memory.
        unsafe { metal::registers::out8(0xe9, *byte) };
    }
}
