//! Code of a hostile TD, one page: each attempt is one instruction, reported to the host by
//! TDG.VP.VMCALL with the number of the attempt in R12 and the exception that it raised in R13.

use core::arch::global_asm;

/// Guest address of the page.
pub const PLACE: u64 = 0xffff_f000;
/// Guest addresses of its page tables, and of a page for stack and IDT.
pub const ROOT: u64 = 0xffff_e000;
pub const GIGABYTES: u64 = 0xffff_d000;
pub const DATA: u64 = 0xffff_c000;
/// And of a page below it, in which an IDT begins that ends in it.
pub const IDT: u64 = 0xffff_b000;

/// Exceptions.
const NONE: u64 = 0;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
const VIRTUALIZATION: u64 = 20;

/// Attempts in their order: what, and the exception that it must raise.
pub const ATTEMPTS: [(&str, u64); 22] = [
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
    ("RDMSR of the x2APIC's ID", VIRTUALIZATION),
    ("WRMSR of a task priority of nine bits", PROTECTION),
    ("WRMSR to the x2APIC's EOI", NONE),
    ("WRMSR of 1 to the x2APIC's EOI", PROTECTION),
    ("an interrupt to itself with a reserved vector", VIRTUALIZATION),
];
/// R12 of the report after the last attempt; the guest then triple-faults.
pub const END: u64 = 0xff;
/// RCX at the start of a TD that reads a shared address instead, and then stores to it: the linear
/// address. R12 of the report between the two, with the word in R13.
pub const SHARED_WORD: u64 = 0x4000_0000;
pub const SHARED_READ: u64 = 0xfe;
/// RCX at the start of a TD that takes interrupts instead.
pub const INTERRUPTS: u64 = 1;

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
    lea rsi, [rip + hostile_td_nmi]
    lea rbx, [rdi + 2 * 16]
    call hostile_td_gate
    lea rsi, [rip + hostile_td_0x41]
    lea rbx, [rdi + 0x41 * 16]
    call hostile_td_gate
    lea rsi, [rip + hostile_td_0x42]
    lea rbx, [rdi + 0x42 * 16]
    call hostile_td_gate
    push rdi
    sub rsp, 2
    mov word ptr [rsp], 0x5ff
    lidt [rsp]
    add rsp, 10
    cmp ebp, 1
    je hostile_td_interrupts
    ja hostile_td_shared
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
    HOSTILE_TRY 17, "mov ecx, 0x802; rdmsr"
    HOSTILE_TRY 18, "mov ecx, 0x808; mov eax, 0x100; xor edx, edx; wrmsr"
    HOSTILE_TRY 19, "mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr"
    HOSTILE_TRY 20, "mov ecx, 0x80b; mov eax, 1; xor edx, edx; wrmsr"
    HOSTILE_TRY 21, "mov ecx, 0x83f; mov eax, 15; xor edx, edx; wrmsr"
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

    .macro HOSTILE_WRMSR msr, value
    mov ecx, \msr
    mov eax, \value
    xor edx, edx
    wrmsr
    .endm
hostile_td_interrupts:          # R13: the vectors that came since the last report, a byte each
    xor r13d, r13d
    xor ebp, ebp
    HOSTILE_WRMSR 0x83f, 0x41   # to itself, while interrupts are disabled
    HOSTILE_REPORT 1
    sti
    mov [rdi + 0x800], rsp      # before the interrupt: the shadow of STI
    nop
    cli
    HOSTILE_REPORT 2
    HOSTILE_WRMSR 0x808, 0x40   # held back by the task priority
    HOSTILE_WRMSR 0x83f, 0x41
    sti
    nop
    shl r13, 8
    mov ecx, 0x80a              # processor priority
    rdmsr
    or r13, rax
    HOSTILE_REPORT 3
    HOSTILE_WRMSR 0x808, 0
    nop
    HOSTILE_REPORT 4
    HOSTILE_REPORT 5            # the host posts 0x41 and 0x42
    nop
    HOSTILE_REPORT 6            # the host asks for an NMI, and for another one in its handler
    HOSTILE_REPORT 8
    # The gate of vector 0x50 is in the page of the stack, that of 0x30 in the page below.
    lea rsi, [rip + hostile_td_0x50]
    lea rbx, [rdi - 0x400 + 0x50 * 16]
    call hostile_td_gate
    lea rsi, [rip + hostile_td_0x30]
    lea rbx, [rdi - 0x400 + 0x30 * 16]
    call hostile_td_gate
    lea rsi, [rdi - 0x400]
    push rsi
    sub rsp, 2
    mov word ptr [rsp], 0x5ff
    lidt [rsp]
    add rsp, 10
    HOSTILE_REPORT 9            # the host forgets the translations: each delivery exits
    int 0x50
    int 0x30
    HOSTILE_REPORT 10           # the host breaks the descriptor: it never comes to the next one
    HOSTILE_REPORT 11
    ud2
hostile_td_0x50:
    shl r13, 8
    or r13, 0x50
    iretq
hostile_td_0x30:
    shl r13, 8
    or r13, 0x30
    iretq
hostile_td_0x41:
    shl r13, 8
    or r13, 0x41
    cmp qword ptr [rdi + 0x800], 0
    jne hostile_td_eoi
    dec r13                     # 0x40: it came in the shadow
    jmp hostile_td_eoi
hostile_td_0x42:
    shl r13, 8
    or r13, 0x42
hostile_td_eoi:
    push rax
    push rcx
    push rdx
    HOSTILE_WRMSR 0x80b, 0
    pop rdx
    pop rcx
    pop rax
    iretq
hostile_td_nmi:
    push rax
    push rcx
    inc ebp                     # depth
    lea r13d, [rbp + 1]
    HOSTILE_REPORT 7
    dec ebp
    pop rcx
    pop rax
    iretq

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
