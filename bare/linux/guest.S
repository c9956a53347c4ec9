/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The code of a TD, of which vmm.c builds TDs: one page at the top of the first 4 GiB, where a TD
 * starts. Each VCPU asks the VMM for commands (a read of port 0x503) and answers each by a write to
 * port 0x504. A command is an operation in bits 7:0 and an argument in bits 31:8. vmm.c has made
 * the page tables: 1 MiB at LOW one to one, private; the same memory, shared, at WINDOW.
 */
#define BASE		0xfffff000
#define LOW		0xfff00000
#define PAGE_TABLES	0xffff8000
#define STACKS		0xffffe000
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
#define INSTRUCTION_CPUID	10
#define IO		30

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
gdtr:	.word . - gdt - 1
	.long HERE(gdt)
	.org guest + 0xff0
	.code32
	jmp start
	.org guest + 0x1000
	.section .note.GNU-stack, "", @progbits
