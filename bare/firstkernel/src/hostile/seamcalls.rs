//! SEAMCALLs with hostile operands: outside VMX operation, hypervisor addresses, random registers.

use core::arch::asm;
use metal::println;
use tdx_abi::{Leaf, Registers, Status};
use tdx_host::arch;

use super::memory::SLICE;
use crate::vmx;

/// Number of random SEAMCALLs.
pub const CALLS: u64 = 10_000;

/// SEAMCALL with any operands. Under seamvisor the module can take only memory of this guest.
fn seamcall(registers: Registers) -> Registers {
    let mut registers = registers;
    // SAFETY: ring 0, with fix-ups. Operands that the module may write to are outside the memory
    // that this kernel uses.
    unsafe { arch::seamcall(&mut registers) };
    registers
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// SEAMCALL raises #UD outside VMX operation, and VMXON fails with invalid regions.
pub fn outside_vmx_operation() {
    let status = seamcall(Registers::call(Leaf::SYS_INIT)).status();
    println!("hostile: SEAMCALL outside VMX operation: {status}");
    assert!(status == Status::UNDEFINED_OPCODE, "no #UD");
    invalid_vmxon_regions();
    assert!(vmx::enter(), "no VMX operation");
}

/// VMXON fails with regions that are unaligned, unmapped, or the hypervisor's.
fn invalid_vmxon_regions() {
    const VMXE: u64 = 1 << 13;
    // SAFETY: VMXE is legal on a CPU with VMX.
    unsafe { metal::registers::set_cr4(metal::registers::cr4() | VMXE) };
    for region in [SLICE.start, 123, u64::MAX, 0xffff_ffff_f000, 0x8000] {
        let failed: u8;
        // SAFETY: VMXON only reads the region.
        unsafe { asm!("vmxon [{}]", "setbe {}", in(reg) &raw const region, out(reg_byte) failed, options(nostack)) }
        assert!(failed == 1, "VMXON succeeded with region {region:#x}");
    }
}

/// SYS.CONFIG reads, and SYS.INFO writes, at hypervisor addresses, at addresses without memory, and
/// at the end of the address space.
pub fn with_hypervisor_operands() {
    assert!(!is_success(seamcall(Registers::call(Leaf::SYS_CONFIG).rcx(SLICE.start).rdx(64))));
    for address in [SLICE.start, SLICE.start + 0x10_0000, SLICE.end - 1024, 0xffff_ffff_f000, 1 << 51, !1023] {
        seamcall(Registers::call(Leaf::SYS_INFO).rcx(address).rdx(1024).r8(address).r9(32));
    }
}

/// Random leaves and operands.
pub fn random() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut successes = 0u64;
    for _ in 0..CALLS {
        let mut word = || match random.next() % 6 {
            0 => SLICE.start + random.next() % (SLICE.end - SLICE.start),
            1 => random.next() % (1 << 52),
            2 => (random.next() % (1 << 30)) & !0xfff,
            3 => random.next(),
            _ => random.next() % 64,
        };
        let (rcx, rdx, r8, r9) = (word(), word(), word(), word());
        let leaf = (random.next() % 80) | (u64::from(random.next().is_multiple_of(50)) * random.next());
        // SYS.INFO writes to its operands: keep them out of this kernel.
        let (rcx, r8) = if leaf & 0xffff == u64::from(Leaf::SYS_INFO.0) {
            (SLICE.start + rcx % 0xd0_0000, SLICE.start + r8 % 0xd0_0000)
        } else {
            (rcx, r8)
        };
        let output = seamcall(Registers { rax: leaf, rcx, rdx, r8, r9, ..Registers::default() });
        successes += u64::from(is_success(output));
    }
    println!("hostile: {CALLS} random SEAMCALLs, {successes} of them succeeded");
}

fn is_success(registers: Registers) -> bool {
    !registers.status().is_error()
}
