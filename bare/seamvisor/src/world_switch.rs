//! World switch: VMRUN with the registers that it neither loads nor saves.

use core::arch::naked_asm;

use crate::vmcb::{GuestRegisters, Vmcb};

/// Runs the guest until the next VM exit. The upper halves of YMM, the x87 state, MXCSR and DR0 to
/// DR3 are not switched: this program does no floating-point arithmetic, and sets no breakpoint.
///
/// To the caller this is a function of the System V ABI: it restores the stack and RBX, RBP and R12
/// to R15, clears DF, and every other register is the caller's to save. VMRUN and VM exit restore
/// CR0, CR3, CR4, EFER, GDTR, IDTR and the segments but FS, GS, TR and LDTR, which are in `host`
/// meanwhile, with the MSRs of SYSCALL and SYSENTER.
///
/// # Safety
/// - SVM is enabled on this CPU, GIF is 0, and `VM_HSAVE_PA` is a page that nothing else uses.
/// - The three pointers are to memory that is mapped one to one, because VMRUN, VMLOAD and VMSAVE
///   take them as physical addresses, and that nothing else uses during the call.
/// - `vmcb` has nested paging, with tables that map no memory to which this program has a
///   reference.
/// - `vmcb` intercepts what would change the state of this program otherwise: the instructions of
///   SVM, `VM_HSAVE_PA`, EFER, the reset ports, NMI and shutdown.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn run(registers: *mut GuestRegisters, vmcb: *mut Vmcb, host: *mut Vmcb) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "mov rax, cr0",
        "push rax",
        "push rdi",
        // FS, GS, TR, LDTR and the system-call MSRs are not switched by VMRUN.
        "mov rax, rdx",
        "vmsave rax",
        "mov rax, rsi",
        "vmload rax",
        "movups xmm0, [rdi + 112]",
        "movups xmm1, [rdi + 128]",
        "movups xmm2, [rdi + 144]",
        "movups xmm3, [rdi + 160]",
        "movups xmm4, [rdi + 176]",
        "movups xmm5, [rdi + 192]",
        "movups xmm6, [rdi + 208]",
        "movups xmm7, [rdi + 224]",
        "movups xmm8, [rdi + 240]",
        "movups xmm9, [rdi + 256]",
        "movups xmm10, [rdi + 272]",
        "movups xmm11, [rdi + 288]",
        "movups xmm12, [rdi + 304]",
        "movups xmm13, [rdi + 320]",
        "movups xmm14, [rdi + 336]",
        "movups xmm15, [rdi + 352]",
        "mov rcx, [rdi]",
        "mov rdx, [rdi + 8]",
        "mov rbx, [rdi + 16]",
        "mov rbp, [rdi + 24]",
        "mov rsi, [rdi + 32]",
        "mov r8, [rdi + 48]",
        "mov r9, [rdi + 56]",
        "mov r10, [rdi + 64]",
        "mov r11, [rdi + 72]",
        "mov r12, [rdi + 80]",
        "mov r13, [rdi + 88]",
        "mov r14, [rdi + 96]",
        "mov r15, [rdi + 104]",
        "mov rdi, [rdi + 40]",
        "vmrun rax",
        // QEMU 7.2 restores the host's CR0 before its CR4 and EFER. After an exit with EFER.LME=1,
        // CR4.PAE=0 and CR0.PG=0 it keeps the guest's CR0: the host continues without paging, which
        // an identity map survives, and the next VMRUN switches nested paging off for the guest.
        "push rdi",
        "mov rdi, cr0",
        "test edi, edi",
        "js 2f", // bit 31: PG
        "mov rdi, [rsp + 16]",
        "mov cr0, rdi",
        "2:",
        "vmsave rax",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rcx",
        "mov [rdi + 8], rdx",
        "mov [rdi + 16], rbx",
        "mov [rdi + 24], rbp",
        "mov [rdi + 32], rsi",
        "pop rcx",
        "mov [rdi + 40], rcx",
        "mov [rdi + 48], r8",
        "mov [rdi + 56], r9",
        "mov [rdi + 64], r10",
        "mov [rdi + 72], r11",
        "mov [rdi + 80], r12",
        "mov [rdi + 88], r13",
        "mov [rdi + 96], r14",
        "mov [rdi + 104], r15",
        "movups [rdi + 112], xmm0",
        "movups [rdi + 128], xmm1",
        "movups [rdi + 144], xmm2",
        "movups [rdi + 160], xmm3",
        "movups [rdi + 176], xmm4",
        "movups [rdi + 192], xmm5",
        "movups [rdi + 208], xmm6",
        "movups [rdi + 224], xmm7",
        "movups [rdi + 240], xmm8",
        "movups [rdi + 256], xmm9",
        "movups [rdi + 272], xmm10",
        "movups [rdi + 288], xmm11",
        "movups [rdi + 304], xmm12",
        "movups [rdi + 320], xmm13",
        "movups [rdi + 336], xmm14",
        "movups [rdi + 352], xmm15",
        "pop rdi",
        "pop rcx", // CR0
        "pop rax",
        "vmload rax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "cld",
        "ret",
    )
}

const _: () = assert!(core::mem::offset_of!(GuestRegisters, xmm) == 112);
