/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The code of a TD, of which vmm.c builds TDs: one page at the top of the first 4 GiB, where a TD
 * starts. Each VCPU asks the VMM for commands (a read of port 0x503) and answers each by a write to
 * port 0x504. A command is an operation in bits 7:0 and an argument in bits 31:8. vmm.c has made
 * the page tables: 1 MiB at LOW one to one, private; the same memory, shared, at WINDOW.
 *
 * Interrupts are disabled until operation `enable`. Each VCPU then counts what comes to it, in
 * words at the bottom of its stack.
 */
#define BASE		0xfffff000
#define LOW		0xfff00000
#define PAGE_TABLES	0xffff8000
#define STACKS		0xffffe000
#define IDT		0xffffd000
#define WINDOW		0x40000000
#define SHARED		0x800000000000

#define CONSOLE		0x3f8
#define COMMAND		0x503
#define RESULT		0x504

#define HERE(label)	(label - guest + BASE)

/* TDCALL leaves, and what TDG.VP.VMCALL asks for. */
#define VP_VMCALL	0
#define VP_INFO		1
#define MEM_PAGE_ACCEPT	6
#define MAP_GPA		0x10001
#define VP_VEINFO_GET	3
#define INSTRUCTION_CPUID	10
#define INSTRUCTION_HLT	12
#define IO		30
#define INSTRUCTION_WRMSR	32

/* x2APIC. Those of the first line are virtualized, those of the second one are KVM's. */
#define X2APIC_TPR	0x808
#define X2APIC_PPR	0x80a
#define X2APIC_EOI	0x80b
#define X2APIC_IRR	0x820
#define X2APIC_SELF_IPI	0x83f
#define X2APIC_SVR	0x80f
#define X2APIC_ICR	0x830
#define X2APIC_LVTT	0x832
#define X2APIC_TMICT	0x838
#define X2APIC_TDCR	0x83e

/* Vectors, as in vmm.c, and the offset of their count. */
#define NMI		2
#define VE		20
#define DEVICE		0x41
#define TIMER		0x51
#define IPI		0x61
#define DEVICES		0
#define TIMERS		8
#define IPIS		16
#define NMIS		24

	.macro tdcall
	.byte 0x66, 0x0f, 0x01, 0xcc
	.endm

	.section .rodata
	.balign 4096
	.globl guest
guest:
	.code32
start:
	/* RCX is the number of the VCPU: KVM_TDX_INIT_VCPU's argument. */
	movl %ecx, %ebp
	movl $PAGE_TABLES, %eax
	movl %eax, %cr3
	movl %cr4, %eax
	orl $0x620, %eax
	movl %eax, %cr4
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	lgdt HERE(gdtr)
	ljmp $8, $HERE(start64)

	.code64
start64:
	movl $16, %eax
	movl %eax, %ss
	movl %eax, %ds
	movl %eax, %es
	/* 512 bytes of stack for each VCPU. */
	movl %ebp, %eax
	incl %eax
	shll $9, %eax
	movl $STACKS, %esp
	addl %eax, %esp

next:
	call ask
	movl %r11d, %eax
	movl %r11d, %ebx
	shrl $8, %ebx
	andl $0xff, %eax
	cmpl $(end_of_operations - operations) / 4, %eax
	jae unknown
	leaq operations(%rip), %rdx
	movslq (%rdx, %rax, 4), %rax
	addq %rdx, %rax
	call *%rax
	movq %rax, %r15
	movl $RESULT, %r14d
	call out
	jmp next
unknown:
	ud2

	.balign 4
operations:
	.long hello - operations
	.long accept - operations
	.long touch - operations
	.long share - operations
	.long store_shared - operations
	.long unshare - operations
	.long count - operations
	.long count_for_ever - operations
	.long info - operations
	.long load - operations
	.long cpuid - operations
	.long enable - operations
	.long wait - operations
	.long cpuid_ve - operations
	.long timer - operations
	.long send_ipi - operations
	.long priority - operations
	.long counted - operations
	.long disable - operations
end_of_operations:

/* Each operation: argument in RBX, result in RAX. */

hello:
	leaq text(%rip), %rbx
1:	movzbl (%rbx), %r15d
	testl %r15d, %r15d
	jz 2f
	movl $CONSOLE, %r14d
	call out
	incq %rbx
	jmp 1b
2:	xorl %eax, %eax
	ret

/* TDG.MEM.PAGE.ACCEPT of page RBX at LOW. If it is not there, the host must give it (AUG). */
accept:
	shlq $12, %rbx
	movl $LOW, %ecx
	addq %rbx, %rcx
	movl $MEM_PAGE_ACCEPT, %eax
	tdcall
	shrq $32, %rax
	ret

/* Stores to every line of private page RBX; the result is 0 if it then holds what was stored. */
touch:
	shlq $12, %rbx
	movl $LOW, %edi
	addq %rbx, %rdi
	movq %rdi, %rsi
	movl $64, %ecx
1:	movq %rdi, (%rdi)
	addq $64, %rdi
	decl %ecx
	jnz 1b
	movl $64, %ecx
	xorl %eax, %eax
2:	movq (%rsi), %rdx
	xorq %rsi, %rdx
	orq %rdx, %rax
	addq $64, %rsi
	decl %ecx
	jnz 2b
	ret

/* The first word of private page RBX. */
load:
	shlq $12, %rbx
	movl $LOW, %edi
	addq %rbx, %rdi
	movl (%rdi), %eax
	ret

/* TDG.VP.VMCALL <MapGPA>: page RBX is to be shared, or private. */
share:
	movabsq $SHARED, %r12
	jmp 1f
unshare:
	xorl %r12d, %r12d
1:	shlq $12, %rbx
	movl $LOW, %eax
	addq %rax, %r12
	addq %rbx, %r12
	movl $4096, %r13d
	movl $MAP_GPA, %r11d
	call vmcall
	movq %r10, %rax
	ret

/* A word for the host to every line of shared page RBX. */
store_shared:
	shlq $12, %rbx
	movl $WINDOW, %edi
	addq %rbx, %rdi
	movl $64, %ecx
	movabsq $0x6465726168732061, %rdx
1:	movq %rdx, (%rdi)
	addq $64, %rdi
	decl %ecx
	jnz 1b
	xorl %eax, %eax
	ret

/* RBX * 1024 turns, in which the host's interrupts take the VCPU out. */
count:
	movl %ebx, %ecx
	shll $10, %ecx
1:	decl %ecx
	jnz 1b
	xorl %eax, %eax
	ret

/* A counter in private page RBX, for ever. */
count_for_ever:
	shlq $12, %rbx
	movl $LOW, %edi
	addq %rbx, %rdi
1:	incq (%rdi)
	jmp 1b

/* TDG.VP.INFO: width of guest addresses. */
info:
	movl $VP_INFO, %eax
	tdcall
	movl %ecx, %eax
	ret

/* TDG.VP.VMCALL <Instruction.CPUID>, RBX times: KVM handles it. */
cpuid:
1:	movl $INSTRUCTION_CPUID, %r11d
	movl $0x40000000, %r12d
	xorl %r13d, %r13d
	call vmcall
	decl %ebx
	jnz 1b
	xorl %eax, %eax
	ret

/* Loads the IDT, enables the APIC and interrupts. */
enable:
	/* Vectors are above 0x1f except NMI and #VE: any other exception is a triple fault. */
	movl $IDT, %edi
	leaq on_nmi(%rip), %rsi
	movl $NMI, %eax
	call gate
	leaq on_ve(%rip), %rsi
	movl $VE, %eax
	call gate
	leaq on_device(%rip), %rsi
	movl $DEVICE, %eax
	call gate
	leaq on_timer(%rip), %rsi
	movl $TIMER, %eax
	call gate
	leaq on_ipi(%rip), %rsi
	movl $IPI, %eax
	call gate
	lidt idtr(%rip)
	movl $X2APIC_SVR, %r12d
	movl $0x1ff, %r13d
	call wrmsr
	sti
	xorl %eax, %eax
	ret

/* The gate of vector EAX is RSI. Each VCPU stores the same. */
gate:
	shll $4, %eax
	addl %edi, %eax
	movw %si, (%rax)
	movl $0x8e000008, 2(%rax)
	shrl $16, %esi
	movw %si, 6(%rax)
	ret

disable:
	cli
	xorl %eax, %eax
	ret

/*
 * Idles until the count at offset BL is BH or more, and gives the count. By turns: a HLT, which is
 * #VE, and TDG.VP.VMCALL <Instruction.HLT> in the shadow of STI. An interrupt that comes between
 * the look at the count and the HLT must end it.
 */
wait:
	call count_at
	movzbl %bh, %ebx
1:	cli
	movq (%rdi), %rax
	cmpq %rbx, %rax
	jae 3f
	testb $1, %al
	jz 2f
	sti
	hlt
	jmp 1b
2:	movl $INSTRUCTION_HLT, %r11d
	xorl %r12d, %r12d
	xorl %r10d, %r10d
	movl $0x1c00, %ecx
	xorl %eax, %eax
	sti
	tdcall
	jmp 1b
3:	sti
	ret

/* The count at offset BL. */
counted:
	call count_at
	movq (%rdi), %rax
	ret

/* RDI: the count at offset BL of this VCPU. */
count_at:
	movq %rsp, %rdi
	andq $~511, %rdi
	movzbl %bl, %eax
	addq %rax, %rdi
	ret

/* CPUID of a leaf of KVM, which is #VE: EBX. */
cpuid_ve:
	movl $0x40000000, %eax
	xorl %ecx, %ecx
	cpuid
	movl %ebx, %eax
	ret

/* One interrupt of the APIC's timer, behind RBX turns of 16 cycles. */
timer:
	movl $X2APIC_TDCR, %r12d
	movl $3, %r13d
	call wrmsr
	movl $X2APIC_LVTT, %r12d
	movl $TIMER, %r13d
	call wrmsr
	movl $X2APIC_TMICT, %r12d
	movq %rbx, %r13
	call wrmsr
	xorl %eax, %eax
	ret

/* To the VCPU of number RBX. */
send_ipi:
	movl $X2APIC_ICR, %r12d
	movq %rbx, %r13
	shlq $32, %r13
	orq $IPI, %r13
	call wrmsr
	xorl %eax, %eax
	ret

/* An interrupt to itself, held back by the task priority: 0 if it came in time and not before. */
priority:
	movl $IPIS, %ebx
	call count_at
	movl $0x60, %eax
	movl $X2APIC_TPR, %ecx
	call wrmsr_here
	movq (%rdi), %rbx
	movl $IPI, %eax
	movl $X2APIC_SELF_IPI, %ecx
	call wrmsr_here
	nop
	subq (%rdi), %rbx
	movl $X2APIC_PPR, %ecx
	rdmsr
	xorl $0x60, %eax
	orl %eax, %ebx
	movl $X2APIC_IRR + IPI / 32, %ecx
	rdmsr
	xorl $1 << (IPI % 32), %eax
	orl %eax, %ebx
	movq (%rdi), %rsi
	xorl %eax, %eax
	movl $X2APIC_TPR, %ecx
	call wrmsr_here
	nop
	incq %rsi
	subq (%rdi), %rsi
	movl %ebx, %eax
	orl %esi, %eax
	ret

wrmsr_here:
	xorl %edx, %edx
	wrmsr
	ret

	.macro count offset
	pushq %rax
	movq %rsp, %rax
	andq $~511, %rax
	incq \offset(%rax)
	.endm

on_nmi:
	count NMIS
	popq %rax
	iretq
on_device:
	count DEVICES
	jmp end_of_interrupt
on_timer:
	count TIMERS
	jmp end_of_interrupt
on_ipi:
	count IPIS
end_of_interrupt:
	pushq %rcx
	pushq %rdx
	xorl %eax, %eax
	movl $X2APIC_EOI, %ecx
	call wrmsr_here
	popq %rdx
	popq %rcx
	popq %rax
	iretq

/* #VE of CPUID and HLT: asks the host. What it asks for has R10 to R15. */
on_ve:
	pushq %r15
	pushq %r14
	pushq %r13
	pushq %r12
	pushq %r11
	pushq %r10
	pushq %r9
	pushq %r8
	pushq %rdx
	pushq %rcx
	pushq %rax
	movl $VP_VEINFO_GET, %eax
	tdcall
	/* Exit reason, instruction length. */
	movl %r10d, %r10d
	addq %r10, 88(%rsp)
	cmpl $INSTRUCTION_HLT, %ecx
	je 1f
	cmpl $INSTRUCTION_CPUID, %ecx
	jne unknown
	movl (%rsp), %r12d
	movl 8(%rsp), %r13d
	movl $INSTRUCTION_CPUID, %r11d
	call vmcall
	movq %r12, (%rsp)
	movq %r13, %rbx
	movq %r14, 8(%rsp)
	movq %r15, 16(%rsp)
	jmp 2f
	/* Interrupts are blocked if they were where HLT is. */
1:	movq 104(%rsp), %r12
	shrl $9, %r12d
	notl %r12d
	andl $1, %r12d
	movl $INSTRUCTION_HLT, %r11d
	call vmcall
2:	popq %rax
	popq %rcx
	popq %rdx
	popq %r8
	popq %r9
	popq %r10
	popq %r11
	popq %r12
	popq %r13
	popq %r14
	popq %r15
	iretq

/* TDG.VP.VMCALL <Instruction.WRMSR>: R13 to MSR R12, which is KVM's. */
wrmsr:
	movl $INSTRUCTION_WRMSR, %r11d
	jmp vmcall

/* TDG.VP.VMCALL <Instruction.IO>: a read of 4 bytes, to R11. */
ask:
	movl $4, %r12d
	xorl %r13d, %r13d
	movl $COMMAND, %r14d
	xorl %r15d, %r15d
	movl $IO, %r11d
	jmp vmcall

/* A write of R15 to port R14. */
out:
	movl $4, %r12d
	movl $1, %r13d
	movl $IO, %r11d

/* R10 to R15 are passed, nothing else. */
vmcall:
	xorl %r10d, %r10d
	movl $0xfc00, %ecx
	xorl %eax, %eax
	tdcall
	ret

text:	.asciz "hello from a TD\n"
	.balign 8
gdt:	.quad 0
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
idtr:	.word 0xfff
	.quad IDT
gdtr:	.word . - gdt - 1
	.long HERE(gdt)
	.org guest + 0xff0
	.code32
	jmp start
	.org guest + 0x1000
	.section .note.GNU-stack, "", @progbits
