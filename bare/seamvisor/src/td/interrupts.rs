//! Interrupts of the host that take a TD out. Its VMCS has "acknowledge interrupt on exit": the
//! interrupt is in service when the host sees the exit, with its vector in R9.

use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use spin::Once;

global_asm!(
    r#"
    .pushsection .text.acknowledge, "ax", @progbits
    .balign 16
    .globl acknowledge_entries
acknowledge_entries:
    .set vector, 0
    .rept 256
    .org acknowledge_entries + 16 * vector  # an error if an entry is longer
    .if vector != 2
    mov eax, vector
    and qword ptr [rsp + 16], -513  # no second one: IRET leaves IF clear
    .endif
    iretq
    .set vector, vector + 1
    .endr
    .popsection
"#
);

/// Descriptor table of the moment in which an interrupt is acknowledged. The host chooses vectors:
/// by the interrupt controller of the PC also those of exceptions, for which the ordinary handlers
/// would expect an error code.
#[repr(C, align(16))]
struct Table([[u64; 2]; 256]);

static TABLE: Once<Box<Table>> = Once::new();

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// A kick.
const NMI: usize = 2;
const ENTRY_BYTES: u64 = 16;
/// Present, interrupt gate; the code segment of `metal`.
const GATE: u64 = 0x8e << 40 | 0x08 << 16;

fn table() -> &'static Table {
    unsafe extern "C" {
        static acknowledge_entries: [u8; 0];
    }
    TABLE.call_once(|| {
        let first = (&raw const acknowledge_entries).addr() as u64;
        let gate = |vector: usize| {
            let entry = first + ENTRY_BYTES * vector as u64;
            // The IST stacks of the ordinary table: NMIs have their own.
            let stack = if vector == NMI { 2 } else { 1 };
            [entry & 0xffff | GATE | stack << 32 | (entry >> 16 & 0xffff) << 48, entry >> 32]
        };
        Box::new(Table(core::array::from_fn(gate)))
    })
}

/// Takes the pending interrupt from its controller without an end of interrupt. `None` if it has
/// gone.
pub fn acknowledge() -> Option<u8> {
    const NOTHING: u32 = u32::MAX;
    let pointer = Pointer { limit: (size_of::<Table>() - 1) as u16, base: core::ptr::from_ref(table()).addr() as u64 };
    let mut ordinary = Pointer { limit: 0, base: 0 };
    let mut vector = NOTHING;
    // SAFETY: IF and GIF are 1 between the two pairs alone, and are 0 afterwards as they were; the
    // instructions between them raise no exception. What arrives is taken on an IST stack, which
    // is free here, by an entry that changes EAX and the IF that its IRET restores, or nothing if
    // it is a kick. The ordinary table is in force again afterwards.
    unsafe {
        asm!(
            "sidt [{ordinary}]",
            "lidt [{pointer}]",
            "sti",
            "stgi",
            "nop",
            "nop",
            "clgi",
            "cli",
            "lidt [{ordinary}]",
            ordinary = in(reg) &raw mut ordinary,
            pointer = in(reg) &raw const pointer,
            inout("eax") vector,
        );
    }
    u8::try_from(vector).ok()
}
