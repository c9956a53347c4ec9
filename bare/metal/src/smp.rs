//! SMP bring-up: INIT-SIPI, a real-mode trampoline in low memory, a stack for each CPU.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::lapic::{self, Ipi};
use crate::{MAX_CPUS, clock, fw_cfg, interrupts};

/// Physical address of the trampoline page, below 1 MiB.
pub const TRAMPOLINE: u64 = 0x8000;

global_asm!(
    r#"
    .pushsection .text.trampoline, "ax", @progbits
    .code16
    .globl ap_trampoline
ap_trampoline:
    cli
    cld
    xor ax, ax
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16    # lgdt [disp16] with a 32-bit base
    .word 0x8000 + ap_gdt_pointer - ap_trampoline
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                # jmp 0x18:ap_32
    .long 0x8000 + ap_32 - ap_trampoline
    .word 0x18
    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
ap_gdt_pointer:
    .word 31
    .long 0x8000 + ap_gdt - ap_trampoline
    .code32
ap_32:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff             # caches on: INIT leaves CD and NW set
    or eax, 0x80000001
    mov cr0, eax
    .byte 0xea                      # jmp 0x08:ap_64
    .long ap_64
    .word 0x08
    .globl ap_trampoline_end
ap_trampoline_end:
    .code64
ap_64:
    mov rsp, [ap_stack]
    lgdt [rip + boot_gdt_pointer]
    call processor_setup
    mov rdi, [ap_number]
    xor ebp, ebp
    call metal_ap_entry
    ud2
    .popsection

    .pushsection .bss.trampoline, "aw", @nobits
    .balign 8
    .globl ap_stack
ap_stack: .skip 8
    .globl ap_number
ap_number: .skip 8
    .popsection
"#
);

unsafe extern "C" {
    static ap_trampoline: [u8; 0];
    static ap_trampoline_end: [u8; 0];
    static ap_stack: AtomicU64;
    static ap_number: AtomicU64;
}

unsafe extern "Rust" {
    /// Main function of the program on every other CPU, with interrupts disabled.
    safe fn kernel_ap_main(cpu: usize) -> !;
}

const STACK: usize = 64 << 10;

#[repr(align(16))]
struct Stack {
    _bytes: [u8; STACK],
}

struct Stacks([UnsafeCell<Stack>; MAX_CPUS]);

// SAFETY: each element is the stack of one CPU, and is accessed by that CPU only.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks([const { UnsafeCell::new(Stack { _bytes: [0; STACK] }) }; MAX_CPUS]);

/// CPUs that have started, the boot CPU included.
static RUNNING: AtomicU64 = AtomicU64::new(1);

#[unsafe(no_mangle)]
extern "C" fn metal_ap_entry(cpu: usize) -> ! {
    interrupts::load(cpu);
    lapic::enable();
    RUNNING.fetch_add(1, Ordering::AcqRel);
    kernel_ap_main(cpu)
}

/// Number of CPUs that have started, the boot CPU included.
pub fn cpu_count() -> usize {
    RUNNING.load(Ordering::Acquire) as usize
}

/// Number of the CPU that executes this. CPU n has APIC ID n.
pub fn this_cpu() -> usize {
    interrupts::cpu_number()
}

/// Starts all CPUs of the virtual machine, at most [`MAX_CPUS`], and returns their number.
///
/// # Safety
/// The page at [`TRAMPOLINE`] is unused.
pub unsafe fn start_all() -> usize {
    lapic::enable();
    let wanted = (fw_cfg::cpu_count() as usize).clamp(1, MAX_CPUS);
    // SAFETY: the page is unused, promised by the caller, and mapped one to one; the trampoline is
    // shorter than a page.
    unsafe {
        let (from, end) = (&raw const ap_trampoline, &raw const ap_trampoline_end);
        let to = with_exposed_provenance_mut::<u8>(TRAMPOLINE as usize);
        to.copy_from_nonoverlapping(from.cast(), end.addr() - from.addr());
    }
    for cpu in 1..wanted {
        // SAFETY: words of the image, read only by the CPU that starts; CPUs start one at a time.
        unsafe {
            ap_stack.store((STACKS.0[cpu].get().addr() + STACK) as u64, Ordering::SeqCst);
            ap_number.store(cpu as u64, Ordering::SeqCst);
        }
        lapic::send(cpu as u32, Ipi::Init);
        clock::wait_for(1_000, || false);
        lapic::send(cpu as u32, Ipi::Startup((TRAMPOLINE >> 12) as u8));
        let started = clock::wait_for(2_000_000, || RUNNING.load(Ordering::Acquire) > cpu as u64);
        assert!(started, "CPU {cpu} did not start");
    }
    wanted
}
