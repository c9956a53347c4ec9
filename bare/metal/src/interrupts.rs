//! GDT, IDT and TSS of each CPU, and exception entry. Every vector uses an IST stack: the prebuilt
//! `core` uses the red zone, so the CPU must never push onto a stack that Rust code runs on.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};
use tdx_host::arch::fault_fixups;

use crate::MAX_CPUS;
use crate::registers::wrmsr;

global_asm!(
    r#"
    .pushsection .text.interrupts, "ax", @progbits
    .balign 16
    .globl interrupt_entries
interrupt_entries:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    # Rust code changes XMM registers. FXRSTOR of one CPU races in QEMU 7.2 with VMRUN and VM exits
    # of the first one: it clears a flag of the first CPU in a word that holds those of SVM, too.
    sub rsp, 272
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps [rsp + 16 * \number], xmm\number
    .endr
    stmxcsr [rsp + 256]
    cld
    call metal_interrupt
    ldmxcsr [rsp + 256]
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\number, [rsp + 16 * \number]
    .endr
    add rsp, 272
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
    .popsection
"#
);

/// Registers at an exception or interrupt.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// #DB.
pub const DEBUG: u8 = 1;
/// #UD.
pub const INVALID_OPCODE: u8 = 6;
/// #DF.
pub const DOUBLE_FAULT: u8 = 8;
/// #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF.
pub const PAGE_FAULT: u8 = 14;
/// #MC.
pub const MACHINE_CHECK: u8 = 18;
/// #VE.
pub const VIRTUALIZATION_EXCEPTION: u8 = 20;
/// Vector of the interrupt that wakes a CPU from HLT.
pub const WAKE: u8 = 0x40;

/// Handler for exceptions and interrupts without a fix-up. Execution continues at the frame when it
/// returns.
pub type Handler = fn(&mut Frame);

static HANDLER: AtomicUsize = AtomicUsize::new(0);

/// Sets the handler of all CPUs.
pub fn handle_with(handler: Handler) {
    HANDLER.store(handler as usize, Ordering::Release);
}

/// Software-defined status of a SEAMCALL that faulted; the vector is added.
const FAULT_STATUS: u64 = 0x8000_ff00_0000_0000;

#[unsafe(no_mangle)]
extern "C" fn metal_interrupt(frame: &mut Frame) {
    let vector = frame.vector as u8;
    if matches!(vector, INVALID_OPCODE | GENERAL_PROTECTION)
        && let Some(fixup) = fault_fixups().iter().find(|fixup| fixup.instruction() as u64 == frame.rip)
    {
        frame.rax = FAULT_STATUS | u64::from(vector);
        frame.rip = fixup.fixup() as u64;
        return;
    }
    match HANDLER.load(Ordering::Acquire) {
        0 => unexpected(frame),
        handler => {
            // SAFETY: only `handle_with` stores here, and it stores a `Handler`.
            let handler: Handler = unsafe { core::mem::transmute(handler) };
            handler(frame);
        }
    }
}

/// Prints an unexpected exception and exits.
pub fn unexpected(frame: &Frame) -> ! {
    crate::console::print_unlocked(format_args!(
        "exception {} error {:#x} at {:#x} (CR2 {:#x}) on CPU {}\n{frame:x?}\n",
        frame.vector,
        frame.error,
        frame.rip,
        crate::registers::cr2(),
        cpu_number()
    ));
    crate::exit::exit(crate::exit::PANIC)
}

const STACK: usize = 32 << 10;

/// Number of IST stacks: NMI and machine check can interrupt every other handler, so each has its
/// own.
const STACKS: usize = 3;

#[repr(C, packed)]
struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved_2: u64,
    ist: [u64; 7],
    reserved_3: [u8; 10],
    io_map: u16,
}

#[repr(C, align(16))]
struct Gate {
    words: [u64; 2],
}

#[repr(C, align(4096))]
struct Cpu {
    /// CPU number, at GS:0.
    number: u64,
    gdt: [u64; 6],
    tss: Tss,
    stacks: [[u8; STACK]; STACKS],
}

#[repr(transparent)]
struct Cpus([UnsafeCell<Cpu>; MAX_CPUS]);

// SAFETY: each CPU accesses only its own entry, once, in `load`; afterwards only the processor
// does.
unsafe impl Sync for Cpus {}

#[repr(transparent)]
struct Idt(UnsafeCell<[Gate; 256]>);

// SAFETY: written by the boot CPU in `load`, before other CPUs run.
unsafe impl Sync for Idt {}

// SAFETY: all fields are integers, for which zero is valid.
static CPUS: Cpus = Cpus(unsafe { core::mem::zeroed() });
static IDT: Idt = Idt(UnsafeCell::new([const { Gate { words: [0; 2] } }; 256]));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

const CODE: u16 = 0x08;
const TSS_SELECTOR: u16 = 0x20;
const GS_BASE: u32 = 0xc000_0101;

/// Loads this CPU's descriptor tables. `cpu` is its number; each number is used once.
pub fn load(cpu: usize) {
    if cpu == 0 {
        fill_idt();
    }
    let cell = CPUS.0[cpu].get();
    // SAFETY: this CPU's own entry, which nothing refers to yet.
    unsafe {
        (*cell).number = cpu as u64;
        let tss = &raw mut (*cell).tss;
        for stack in 0..STACKS {
            let top = (&raw const (*cell).stacks[stack]).addr() + STACK;
            (&raw mut (*tss).ist).cast::<u64>().add(stack).write_unaligned(top as u64);
        }
        (&raw mut (*tss).io_map).write_unaligned(size_of::<Tss>() as u16);
        let base = tss.addr() as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        (*cell).gdt = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56,
            base >> 32,
        ];
        let gdt = TablePointer { limit: 47, base: (&raw const (*cell).gdt).addr() as u64 };
        let idt = TablePointer { limit: 256 * 16 - 1, base: IDT.0.get().addr() as u64 };
        asm!("lgdt [{}]", in(reg) &raw const gdt, options(nostack));
        asm!("ltr {:x}", in(reg) TSS_SELECTOR, options(nostack));
        asm!("lidt [{}]", in(reg) &raw const idt, options(nostack));
        wrmsr(GS_BASE, cell.addr() as u64);
    }
}

fn fill_idt() {
    unsafe extern "C" {
        static interrupt_entries: [u8; 0];
    }
    let first = (&raw const interrupt_entries).addr() as u64;
    for vector in 0..256u64 {
        let entry = first + 16 * vector;
        let stack: u64 = match vector as u8 {
            NMI => 2,
            MACHINE_CHECK => 3,
            _ => 1,
        };
        let low = entry & 0xffff | u64::from(CODE) << 16 | stack << 32 | 0x8e << 40 | (entry >> 16 & 0xffff) << 48;
        // SAFETY: only the boot CPU runs, and the table is not loaded yet.
        unsafe { (*IDT.0.get())[vector as usize].words = [low, entry >> 32] };
    }
}

/// The number of this CPU, as passed to [`load`].
pub(crate) fn cpu_number() -> usize {
    let number: u64;
    // SAFETY: GS points to this CPU's entry, whose first word is its number.
    unsafe { asm!("mov {}, gs:[0]", out(reg) number, options(nostack, readonly, preserves_flags)) }
    number as usize
}
