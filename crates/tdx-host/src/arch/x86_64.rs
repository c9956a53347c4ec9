//! SEAMCALL in two forms, MOVDIR64B, CLFLUSHOPT, MFENCE, WBINVD, CPUID, RDMSR.
//!
//! The functions that matter are naked: their bytes are the same in every build and stand in a
//! golden file (`tests/golden/instructions.txt`).

// UNSAFETY: this file is where instructions are executed; nothing above it needs `unsafe` to use
// what is safe here.
#![allow(unsafe_code)]

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use tdx_abi::Registers;

use crate::platform::{CpuidOutput, Msr};

/// Registers of the second SEAMCALL form: all that VP.ENTER passes, RBP apart, which the module may
/// clobber.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SavedRegisters {
    /// The registers of the first form.
    pub base: Registers,
    /// R14.
    pub r14: u64,
    /// R15.
    pub r15: u64,
    /// RBX.
    pub rbx: u64,
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
}

/// An instruction of this file that may fault, and where to go on.
///
/// A kernel's #UD, #GP and #PF handlers look the faulting RIP up in [`fault_fixups`]. On a hit they
/// set RAX to `0x8000_FF00_0000_0000 | vector` (for all but SEAMCALL: to anything) and return to
/// the fix-up address.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FaultFixup {
    instruction: i32,
    fixup: i32,
}

impl FaultFixup {
    /// Address of the instruction that may fault.
    pub fn instruction(&self) -> usize {
        relative(&self.instruction)
    }

    /// Address to continue at.
    pub fn fixup(&self) -> usize {
        relative(&self.fixup)
    }
}

/// An entry holds distances from itself, so that the table needs no relocation.
fn relative(field: &i32) -> usize {
    core::ptr::from_ref(field).addr().wrapping_add_signed(*field as isize)
}

/// All instructions of this crate that may fault, from the linker section `cleanslate_fixups`.
pub fn fault_fixups() -> &'static [FaultFixup] {
    unsafe extern "C" {
        #[link_name = "__start_cleanslate_fixups"]
        static START: [FaultFixup; 0];
        #[link_name = "__stop_cleanslate_fixups"]
        static STOP: [FaultFixup; 0];
    }
    let (start, stop) = (&raw const START, &raw const STOP);
    let bytes = stop.addr() - start.addr();
    // SAFETY: the linker defines both symbols as the borders of the section, which only the
    // `fixup!` macro below writes, in units of two aligned 32-bit words; it is read-only and lives
    // as long as the image.
    unsafe { core::slice::from_raw_parts(start.cast(), bytes / size_of::<FaultFixup>()) }
}

/// Puts a pair (label that may fault, label to continue at) into the section. `R` keeps it through
/// --gc-sections.
macro_rules! fixup {
    ($instruction:literal, $fixup:literal) => {
        concat!(
            ".pushsection cleanslate_fixups, \"aR\", @progbits\n",
            ".balign 4\n",
            ".long ",
            $instruction,
            " - .\n",
            ".long ",
            $fixup,
            " - .\n",
            ".popsection"
        )
    };
}

/// Executes SEAMCALL: RAX, RCX, RDX, R8 to R13 in and out. Carry (VMfailInvalid) becomes the
/// software status.
///
/// # SEAMCALL
/// Any leaf but VP.ENTER. Runs on the current CPU; faults with #UD outside VMX operation and with
/// #GP when SEAM is off.
///
/// # Safety
/// * Runs at CPL 0, and the #UD and #GP handlers apply [`fault_fixups`] (or the faults cannot
///   happen).
/// * The caller answers for what the leaf does to memory: pages given to the module must not be in
///   use.
pub unsafe fn seamcall(registers: &mut Registers) {
    // SAFETY: the caller's obligations are those of the naked function; the reference is valid for
    // reads and writes.
    unsafe { seamcall_naked(registers) }
}

/// Executes SEAMCALL with every general-purpose register but RSP; RBP is saved around it. The form
/// for VP.ENTER.
///
/// # SEAMCALL
/// As [`seamcall`].
///
/// # Safety
/// As [`seamcall`].
pub unsafe fn seamcall_saved(registers: &mut SavedRegisters) {
    // SAFETY: as in `seamcall`.
    unsafe { seamcall_saved_naked(registers) }
}

// The software status for carry is put together as Linux does: bits 63:32 = 0x8000FF00, bits 31:0 =
// 0xFFFF0000.
#[unsafe(naked)]
unsafe extern "sysv64" fn seamcall_naked(registers: *mut Registers) {
    naked_asm!(
        "push r12",
        "push r13",
        "push rdi",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "2: seamcall",
        "jnc 3f",
        "movabs rax, {vmfail}",
        "3: pop rdi",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "pop r13",
        "pop r12",
        "ret",
        fixup!("2b", "3b"),
        rax = const offset_of!(Registers, rax),
        rcx = const offset_of!(Registers, rcx),
        rdx = const offset_of!(Registers, rdx),
        r8 = const offset_of!(Registers, r8),
        r9 = const offset_of!(Registers, r9),
        r10 = const offset_of!(Registers, r10),
        r11 = const offset_of!(Registers, r11),
        r12 = const offset_of!(Registers, r12),
        r13 = const offset_of!(Registers, r13),
        vmfail = const tdx_abi::Status::VMFAIL_INVALID.raw(),
    )
}

#[unsafe(naked)]
unsafe extern "sysv64" fn seamcall_saved_naked(registers: *mut SavedRegisters) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rsi, [rdi + {rsi}]",
        "mov rdi, [rdi + {rdi}]",
        "2: seamcall",
        "jnc 3f",
        "movabs rax, {vmfail}",
        // RDI is an output, so the pointer comes back in RBP, which is restored below in any case.
        "3: pop rbp",
        "mov [rbp + {rax}], rax",
        "mov [rbp + {rcx}], rcx",
        "mov [rbp + {rdx}], rdx",
        "mov [rbp + {r8}], r8",
        "mov [rbp + {r9}], r9",
        "mov [rbp + {r10}], r10",
        "mov [rbp + {r11}], r11",
        "mov [rbp + {r12}], r12",
        "mov [rbp + {r13}], r13",
        "mov [rbp + {r14}], r14",
        "mov [rbp + {r15}], r15",
        "mov [rbp + {rbx}], rbx",
        "mov [rbp + {rsi}], rsi",
        "mov [rbp + {rdi}], rdi",
        // What the guest chose must not stay where speculation could use it. The pops below take
        // care of the rest.
        "xor ecx, ecx",
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "xor r10d, r10d",
        "xor r11d, r11d",
        "xor esi, esi",
        "xor edi, edi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        fixup!("2b", "3b"),
        rax = const offset_of!(SavedRegisters, base.rax),
        rcx = const offset_of!(SavedRegisters, base.rcx),
        rdx = const offset_of!(SavedRegisters, base.rdx),
        r8 = const offset_of!(SavedRegisters, base.r8),
        r9 = const offset_of!(SavedRegisters, base.r9),
        r10 = const offset_of!(SavedRegisters, base.r10),
        r11 = const offset_of!(SavedRegisters, base.r11),
        r12 = const offset_of!(SavedRegisters, base.r12),
        r13 = const offset_of!(SavedRegisters, base.r13),
        r14 = const offset_of!(SavedRegisters, r14),
        r15 = const offset_of!(SavedRegisters, r15),
        rbx = const offset_of!(SavedRegisters, rbx),
        rdi = const offset_of!(SavedRegisters, rdi),
        rsi = const offset_of!(SavedRegisters, rsi),
        vmfail = const tdx_abi::Status::VMFAIL_INVALID.raw(),
    )
}

/// 64 bytes of zeros on a line of their own: the source of every MOVDIR64B.
#[repr(align(64))]
struct ZeroLine([u8; 64]);
static ZERO: ZeroLine = ZeroLine([0; 64]);

/// Writes zeros to `lines` lines from `first` on, one MOVDIR64B each, up to the first that is not
/// mapped. Not ordered: call [`mfence`] after the last range. Returns the lines that are left: not
/// 0 if the instruction faulted and the kernel's handler applied [`fault_fixups`]. A kernel takes a
/// page with a memory error out of its direct map.
///
/// # Safety
/// * The CPU has MOVDIR64B (CPUID.7.0:ECX bit 28), or this raises #UD; a handler of #UD that
///   applies [`fault_fixups`] then returns here with all lines left.
/// * `first` is 64-byte aligned. `lines * 64` bytes from it on are the caller's to overwrite, and
///   hold nothing that is in use. They are mapped writable, write-back, with KeyID 0; or they are
///   not mapped, and the #PF handler applies [`fault_fixups`].
#[must_use = "lines that are left keep what they hold"]
pub unsafe fn movdir64b_zero(first: *mut u8, lines: u64) -> u64 {
    // SAFETY: the caller answers for the destination; the source is 64 readable bytes.
    unsafe { movdir64b_naked(first, lines, ZERO.0.as_ptr()) }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn movdir64b_naked(first: *mut u8, lines: u64, source: *const u8) -> u64 {
    naked_asm!(
        "test rsi, rsi",
        "je 3f",
        "2: movdir64b rdi, [rdx]",
        "add rdi, 64",
        "dec rsi",
        "jne 2b",
        "3: mov rax, rsi",
        "ret",
        fixup!("2b", "3b"),
    )
}

/// CLFLUSHOPT of `lines` lines from `first` on, up to the first that is not mapped. Not ordered:
/// call [`mfence`] after the last range. Returns the lines that are left, as [`movdir64b_zero`].
///
/// # Safety
/// * The CPU has CLFLUSHOPT (CPUID.7.0:EBX bit 23; every CPU with TDX has), or this raises #UD, as
///   [`movdir64b_zero`].
/// * `first` is 64-byte aligned. `lines * 64` bytes from it on are mapped, or the #PF handler
///   applies [`fault_fixups`].
#[must_use = "lines that are left may be in a cache"]
pub unsafe fn clflushopt(first: *const u8, lines: u64) -> u64 {
    // SAFETY: CLFLUSHOPT changes no memory that a program can observe; the caller answers for the
    // mapping.
    unsafe { clflushopt_naked(first, lines) }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn clflushopt_naked(first: *const u8, lines: u64) -> u64 {
    naked_asm!(
        "test rsi, rsi",
        "je 3f",
        "2: clflushopt [rdi]",
        "add rdi, 64",
        "dec rsi",
        "jne 2b",
        "3: mov rax, rsi",
        "ret",
        fixup!("2b", "3b"),
    )
}

/// MFENCE: orders every earlier store of this CPU, the weakly ordered ones of MOVDIR64B included,
/// before later accesses.
pub fn mfence() {
    // SAFETY: MFENCE has no operands and no effect but ordering. Without `nomem` the compiler moves
    // no access across it.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) }
}

/// WBINVD: writes back and invalidates all caches of this CPU.
///
/// # Safety
/// Runs at CPL 0, or this raises #GP.
pub unsafe fn wbinvd() {
    // SAFETY: WBINVD changes no memory that a program can observe; the privilege level is the
    // caller's.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) }
}

/// PREFETCHT0: a hint to load the line that holds this value. Never faults.
pub(crate) fn prefetch<T>(value: &T) {
    // SAFETY: PREFETCHT0 changes no register and no memory, and does not fault, whatever the
    // address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(core::ptr::from_ref(value).cast());
    }
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidOutput {
    let output = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidOutput { eax: output.eax, ebx: output.ebx, ecx: output.ecx, edx: output.edx }
}

/// RDMSR; `None` if the register does not exist and the kernel's #GP handler applied the fix-up.
///
/// # Safety
/// Runs at CPL 0 with a #GP handler that applies [`fault_fixups`].
pub unsafe fn rdmsr(msr: Msr) -> Option<u64> {
    let (low, high, ok): (u32, u32, u32);
    // SAFETY: reading an MSR of this crate's list has no side effect; a #GP is fixed up by the
    // caller's handler and leaves `ok` at 0.
    unsafe {
        asm!(
            "xor {ok:e}, {ok:e}",
            "2: rdmsr",
            "mov {ok:e}, 1",
            "3:",
            fixup!("2b", "3b"),
            in("ecx") msr.0,
            out("eax") low,
            out("edx") high,
            ok = out(reg) ok,
            options(nostack),
        );
    }
    (ok == 1).then_some(u64::from(high) << 32 | u64::from(low))
}
