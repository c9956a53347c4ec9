//! Code of a hostile TD, one page: each attempt is one instruction, reported to the host by
//! TDG.VP.VMCALL with the number of the attempt in R12 and the exception that it raised in R13.

use core::arch::global_asm;

/// Guest address of the page.
pub const PLACE: u64 = 0xffff_f000;
/// Guest addresses of its page tables, and of a page for stack and IDT.
pub const ROOT: u64 = 0xffff_e000;
pub const GIGABYTES: u64 = 0xffff_d000;
pub const DATA: u64 = 0xffff_c000;

/// Exceptions.
const NONE: u64 = 0;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
const VIRTUALIZATION: u64 = 20;

/// Attempts in their order: what, and the exception that it must raise.
pub const ATTEMPTS: [(&str, u64); 17] = [
    ("VMRUN", UNDEFINED),
    ("CLGI", UNDEFINED),
    ("STGI", UNDEFINED),
    ("VMSAVE", UNDEFINED),
    ("INVLPGA", UNDEFINED),
    ("VMXON", UNDEFINED),
    ("SEAMCALL", UNDEFINED),
    ("HLT", VIRTUALIZATION),
    ("OUT 0xf4", VIRTUALIZATION),
    ("WBINVD", VIRTUALIZATION),
    ("RDMSR of VM_HSAVE_PA", VIRTUALIZATION),
    ("WRMSR of APIC_BASE", VIRTUALIZATION),
    ("WRMSR of EFER with SVME", PROTECTION),
    ("XSETBV with all ones", PROTECTION),
    ("CPUID of SVM", VIRTUALIZATION),
    ("RDPMC", PROTECTION),
    ("XSETBV with x87 and SSE", NONE),
];
/// R12 of the report after the last attempt; the guest then triple-faults.
pub const END: u64 = 0xff;
/// RCX at the start of a TD that reads a shared address instead, and then stores to it: the linear
/// address. R12 of the report between the two, with the word in R13.
pub const SHARED_WORD: u64 = 0x4000_0000;
pub const SHARED_READ: u64 = 0xfe;

global_asm!(
    r#"
    .pushsection .rodata.hostile_td, "a", @progbits
    .balign 4096
    .globl hostile_td_code
hostile_td_code:
    .macro HOSTILE_TDCALL
    .byte 0x66, 0x0f, 0x01, 0xcc
    .endm
    .macro HOSTILE_REPORT number
    mov r12d, \number
    xor eax, eax
    mov ecx, 0x3c00
    xor r10d, r10d
    xor r11d, r11d
    HOSTILE_TDCALL
    .endm
    # One attempt: instructions, after which R13 has the exception that they have raised, or 0.
    .macro HOSTILE_TRY number, instructions
    lea r15, [rip + 9f]
    xor r13d, r13d
    \instructions
9:  push r13
    mov eax, 3                  # VEINFO.GET, so that the next #VE is not #DF
    HOSTILE_TDCALL
    pop r13
    HOSTILE_REPORT \number
    .endm

    .code32
hostile_td_32:
    mov ebp, ecx                # what VP.INIT was given
    mov eax, 0xffffe000
    mov cr3, eax
    mov eax, cr4
    or eax, 0x40620             # PAE, MCE, FXSR, XMM exceptions, OSXSAVE
    mov cr4, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0x0f, 0x01, 0x15      # lgdt [disp32]
    .long 0xfffff000 + hostile_td_gdtr - hostile_td_code
    .byte 0xea                  # jmp 8:hostile_td_64
    .long 0xfffff000 + hostile_td_64 - hostile_td_code
    .word 8
    .code64
hostile_td_64:
    mov eax, 16
    mov ss, eax
    mov ds, eax
    mov es, eax
    mov esp, 0xffffcff0
    mov edi, 0xffffc000
    lea rsi, [rip + hostile_td_6]
    lea rbx, [rdi + 6 * 16]
    call hostile_td_gate
    lea rsi, [rip + hostile_td_13]
    lea rbx, [rdi + 13 * 16]
    call hostile_td_gate
    lea rsi, [rip + hostile_td_20]
    lea rbx, [rdi + 20 * 16]
    call hostile_td_gate
    push rdi
    sub rsp, 2
    mov word ptr [rsp], 0x1ff
    lidt [rsp]
    add rsp, 10
    test ebp, ebp
    jnz hostile_td_shared
    HOSTILE_TRY 0, "mov eax, 0x200000; .byte 0x0f, 0x01, 0xd8" # vmrun
    HOSTILE_TRY 1, ".byte 0x0f, 0x01, 0xdd" # clgi
    HOSTILE_TRY 2, ".byte 0x0f, 0x01, 0xdc" # stgi
    HOSTILE_TRY 3, "mov eax, 0x200000; .byte 0x0f, 0x01, 0xdb" # vmsave
    HOSTILE_TRY 4, ".byte 0x0f, 0x01, 0xdf" # invlpga
    HOSTILE_TRY 5, ".byte 0xf3, 0x0f, 0xc7, 0x33" # vmxon [rbx]
    HOSTILE_TRY 6, ".byte 0x66, 0x0f, 0x01, 0xcf" # seamcall
    HOSTILE_TRY 7, "hlt"
    HOSTILE_TRY 8, "mov al, 0x10; out 0xf4, al"
    HOSTILE_TRY 9, "wbinvd"
    HOSTILE_TRY 10, "mov ecx, 0xc0010117; rdmsr"
    HOSTILE_TRY 11, "mov ecx, 0x1b; xor eax, eax; xor edx, edx; wrmsr"
    HOSTILE_TRY 12, "mov ecx, 0xc0000080; mov eax, 0x1d01; xor edx, edx; wrmsr"
    HOSTILE_TRY 13, "xor ecx, ecx; mov eax, 0xffffffff; mov edx, 0xffffffff; xsetbv"
    HOSTILE_TRY 14, "mov eax, 0x8000000a; xor ecx, ecx; cpuid"
    HOSTILE_TRY 15, "xor ecx, ecx; rdpmc"
    HOSTILE_TRY 16, "xor ecx, ecx; mov eax, 3; xor edx, edx; xsetbv"
    # State that must be gone when VP.ENTER returns: the x87 stack, DR0.
    fld1
    mov eax, 0x12345678
    mov dr0, rax
    HOSTILE_REPORT 0xff
    push 0
    push 0
    lidt [rsp]
    ud2

hostile_td_shared:              # R13: what is read at a shared address
    mov rax, [rbp]
    mov r13, rax
    HOSTILE_REPORT 0xfe
    mov qword ptr [rbp], 0x0bad
    HOSTILE_REPORT 0xff
    ud2

hostile_td_gate:                # rsi: handler, rbx: gate
    mov [rbx], si
    mov word ptr [rbx + 2], 8
    mov word ptr [rbx + 4], 0x8e00
    shr rsi, 16
    mov [rbx + 6], si
    mov qword ptr [rbx + 8], 0
    ret
hostile_td_6:
    mov r13d, 6
    mov [rsp], r15
    iretq
hostile_td_13:
    mov r13d, 13
    add rsp, 8
    mov [rsp], r15
    iretq
hostile_td_20:
    mov r13d, 20
    mov [rsp], r15
    iretq
    .balign 8
hostile_td_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
hostile_td_gdtr:
    .word 23
    .long 0xfffff000 + hostile_td_gdt - hostile_td_code
    .org hostile_td_code + 0xff0
    .code32
    jmp hostile_td_32
    .org hostile_td_code + 0x1000
    .code64
    .popsection
"#
);

unsafe extern "C" {
    static hostile_td_code: [u8; 4096];
}

/// The page.
pub fn page() -> &'static [u8; 4096] {
    // SAFETY: the blob above, which is 4096 bytes long and constant.
    unsafe { &hostile_td_code }
}
