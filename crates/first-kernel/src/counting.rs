//! A guest that counts: what its memory holds at first, and what it reports.
//!
//! It adds one to a word of its memory and to a register, and reports both by TDG.VP.VMCALL, with
//! the number of times that it was started. If the two differ or it was started twice, it has not
//! run on but begun again.

use tdx_abi::{Leaf, Page, Registers};

use crate::hypervisor::GuestMap;

/// Its pages, the last ones below 4 GiB: data, two page tables, code. A CPU begins 16 bytes below
/// 4 GiB.
pub const COUNTING: GuestMap = GuestMap { measured: 0xffffc..0x10_0000, augmented: 0..0, large: 0 };

/// The code from the first byte of its page on: a CPU comes from [`START`] in 32-bit mode, without
/// paging.
const CODE: [u8; 110] = [
    0xb8, 0x00, 0xe0, 0xff, 0xff, //        mov eax, 0xffffe000
    0x0f, 0x22, 0xd8, //                    mov cr3, eax
    0x0f, 0x20, 0xe0, //                    mov eax, cr4
    0x83, 0xc8, 0x20, //                    or eax, 0x20        PAE; long mode is enabled already
    0x0f, 0x22, 0xe0, //                    mov cr4, eax
    0x0f, 0x20, 0xc0, //                    mov eax, cr0
    0x0d, 0x00, 0x00, 0x00, 0x80, //        or eax, 0x80000000
    0x0f, 0x22, 0xc0, //                    mov cr0, eax
    0x0f, 0x01, 0x15, 0x68, 0xf0, 0xff, 0xff, // lgdt [0xfffff068]
    0xea, 0x2a, 0xf0, 0xff, 0xff, 0x08, 0x00, // jmp 8:0xfffff02a
    0xbf, 0x00, 0xc0, 0xff, 0xff, //        mov edi, 0xffffc000, in 64-bit mode from here on
    0x48, 0xff, 0x47, 0x08, //              inc qword ptr [rdi + 8]     starts
    0x31, 0xdb, //                          xor ebx, ebx
    0x48, 0xff, 0x07, //                 1: inc qword ptr [rdi]
    0x48, 0xff, 0xc3, //                    inc rbx
    0x49, 0x89, 0xdb, //                    mov r11, rbx
    0x4c, 0x8b, 0x67, 0x08, //              mov r12, [rdi + 8]
    0x4c, 0x8b, 0x2f, //                    mov r13, [rdi]
    0x31, 0xc0, //                          xor eax, eax        TDG.VP.VMCALL
    0xb9, 0x00, 0x3c, 0x00, 0x00, //        mov ecx, 0x3c00     that passes R10 to R13
    0x45, 0x31, 0xd2, //                    xor r10d, r10d
    0x66, 0x0f, 0x01, 0xcc, //              tdcall
    0xeb, 0xe0, //                          jmp 1b
    0x0f, 0x1f, 0x00, //                    nop
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // the GDT
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xaf, 0x00, // a 64-bit code segment
    0x0f, 0x00, 0x58, 0xf0, 0xff, 0xff, //  limit and address of the GDT
];

/// Where a CPU begins, in the page of the code: `jmp` to its first byte.
const START: (usize, &[u8]) = (0xff0, &[0xe9, 0x0b, 0xf0, 0xff, 0xff]);

/// The first table maps the second one: present, writable.
const TABLE: [u8; 8] = u64::to_le_bytes(0xffff_d000 | 0b11);
/// The second one maps the fourth GiB by one page of 1 GiB.
const LARGE: [u8; 8] = u64::to_le_bytes(0xc000_0000 | 0x83);

/// What a page of [`COUNTING`] holds at first: bytes at their offsets, and zeros elsewhere.
pub const fn counting_page(page: u64) -> &'static [(usize, &'static [u8])] {
    match page {
        0xfffff => &[(0, &CODE), START],
        0xffffe => &[(0, &TABLE)],
        0xffffd => &[(24, &LARGE)],
        _ => &[],
    }
}

/// What such a TD reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// The word in its memory.
    pub memory: u64,
    /// The register.
    pub register: u64,
    /// Times that it was started.
    pub starts: u64,
}

/// How VP.ENTER of such a TD has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It has reported.
    Reported(Count),
    /// An interrupt of the host of this vector, which was acknowledged and is in service.
    Interrupt(u8),
    /// Something else.
    Other(tdx_abi::Status),
}

/// The operands of VP.ENTER for this VCPU.
pub fn enter_counting(vcpu: Page) -> Registers {
    Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())
}

/// Reads what VP.ENTER has returned.
pub const fn counting_exit(registers: &Registers) -> Exit {
    /// Exit reasons.
    const INTERRUPT: u64 = 1;
    const TDCALL: u64 = 77;
    match registers.rax {
        TDCALL => Exit::Reported(Count { memory: registers.r13, register: registers.r11, starts: registers.r12 }),
        INTERRUPT => Exit::Interrupt(registers.r9 as u8),
        _ => Exit::Other(registers.status()),
    }
}
