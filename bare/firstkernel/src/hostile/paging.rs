//! VM exits in modes that the emulated CPU handles wrongly.

use core::arch::global_asm;
use metal::registers;

use super::memory::SLICE;

global_asm!(
    r#"
    .pushsection .text.hostile, "ax", @progbits
    .globl hostile_exit_without_pae
hostile_exit_without_pae:       # edi: address; returns the word there in eax
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push 0x18
    lea rax, [rip + hostile_32]
    push rax
    retfq
    .code32
hostile_32:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax                # PG off: leaves long mode, EFER.LME stays set
    mov esi, cr4
    mov eax, esi
    and eax, 0xffffffdf
    mov cr4, eax                # PAE off
    xor eax, eax
    cpuid                       # VM exit
    mov edx, [edi]
    mov cr4, esi
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    push 0x08
    mov eax, offset hostile_64
    push eax
    retf
    .code64
hostile_64:
    mov eax, edx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .popsection
"#
);

unsafe extern "sysv64" {
    fn hostile_exit_without_pae(address: u32) -> u32;
}

/// A VM exit with EFER.LME=1, CR4.PAE=0 and CR0.PG=0, which CPUs can be in between two
/// instructions. QEMU 7.2 then leaves CR0.PG of the host clear, and with it nested paging off from
/// the next VMRUN on, unless the hypervisor sets it again. The hypervisor's memory must read as
/// ones.
pub fn exit_without_pae() {
    let address = SLICE.start as u32;
    let before = (registers::cr3(), registers::cr4());
    // SAFETY: interrupts are disabled and no NMI is pending. Code, stack and GDT are below 4 GiB
    // and mapped one to one, so they are at the same addresses without paging. CR0, CR4 and the
    // mode are restored; the word that is read is not memory of this kernel.
    let word = unsafe { hostile_exit_without_pae(address) };
    assert!(word == u32::MAX, "{address:#x} of the hypervisor reads {word:#x} without paging");
    assert!(before == (registers::cr3(), registers::cr4()), "control registers have changed");
}
