//! VMCB layout, intercept bits, exit codes and EVENTINJ encodings of AMD SVM. Source: AMD64
//! Architecture Programmer's Manual, volume 2, appendices B and C.

use alloc::boxed::Box;

/// EFER.SVME: set while any guest runs, and not seen by it.
pub const EFER_SVME: u64 = 1 << 12;

/// A segment register.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes, 12 bits: descriptor bits 47:40 and 55:52.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// A VMCB. Fields that this program does not use are padding.
#[repr(C, align(4096))]
pub struct Vmcb {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    pub intercept_1: u32,
    pub intercept_2: u32,
    pad_14: [u8; 0x40 - 0x14],
    pub io_permissions: u64,
    pub msr_permissions: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    pub virtual_interrupt: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info_1: u64,
    pub exit_info_2: u64,
    pub exit_interrupt: u64,
    pub nested_paging: u64,
    pad_98: [u8; 0xa8 - 0x98],
    pub inject: u64,
    pub nested_cr3: u64,
    pad_b8: [u8; 0x400 - 0xb8],
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    pad_4a0: [u8; 0x4cb - 0x4a0],
    pub cpl: u8,
    pad_4cc: [u8; 4],
    pub efer: u64,
    pad_4d8: [u8; 0x548 - 0x4d8],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    pad_580: [u8; 0x5d8 - 0x580],
    pub rsp: u64,
    pad_5e0: [u8; 0x5f8 - 0x5e0],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pad_610: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pad_628: [u8; 0x640 - 0x628],
    pub cr2: u64,
    pad_648: [u8; 0x668 - 0x648],
    pub pat: u64,
    pad_670: [u8; 0x1000 - 0x670],
}

/// Guest registers that VMRUN neither loads nor saves. RAX, RSP, RIP and RFLAGS are in the VMCB.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(16))]
pub struct GuestRegisters {
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub xmm: [[u64; 2]; 16],
}

impl Vmcb {
    /// A VMCB of zeros, on the heap.
    pub fn zeroed() -> Box<Self> {
        // SAFETY: it consists of integers, for which zero is valid.
        unsafe { Box::new_zeroed().assume_init() }
    }

    /// WRMSR of EFER by a guest. False if it raises #GP.
    pub fn set_efer(&mut self, value: u64) -> bool {
        const LME: u64 = 1 << 8;
        const LMA: u64 = 1 << 10;
        /// SCE, LME, LMA, NXE.
        const ALLOWED: u64 = 1 | LME | LMA | 1 << 11;
        let paging = self.cr0 >> 31 & 1 == 1;
        let switches = (value ^ self.efer) & LME != 0;
        if value & !ALLOWED != 0 || paging && switches {
            return false;
        }
        // LMA is read-only.
        self.efer = value & !LMA | self.efer & LMA | EFER_SVME;
        true
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Vmcb, tlb_control) == 0x5c);
    assert!(offset_of!(Vmcb, exit_code) == 0x70);
    assert!(offset_of!(Vmcb, inject) == 0xa8);
    assert!(offset_of!(Vmcb, cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, efer) == 0x4d0);
    assert!(offset_of!(Vmcb, rip) == 0x578);
    assert!(offset_of!(Vmcb, rsp) == 0x5d8);
    assert!(offset_of!(Vmcb, rax) == 0x5f8);
    assert!(offset_of!(Vmcb, star) == 0x600);
    assert!(offset_of!(Vmcb, cr2) == 0x640);
    assert!(offset_of!(Vmcb, pat) == 0x668);
    assert!(size_of::<Vmcb>() == 4096);
};

/// EXITCODE.
pub mod exit {
    pub const CR4_READ: u64 = 0x04;
    pub const CR4_WRITE: u64 = 0x14;
    pub const EXCEPTION: u64 = 0x40;
    pub const EXCEPTION_LAST: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    /// A virtual interrupt could be taken.
    pub const VINTR: u64 = 0x64;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const HLT: u64 = 0x78;
    /// INVLPGA takes an ASID, so it belongs to SVM.
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const NESTED_PAGE_FAULT: u64 = 0x400;
    pub const INVALID: u64 = u64::MAX;
    /// QEMU 7.2 stores 32 bits of it.
    pub const INVALID_OF_QEMU: u64 = u32::MAX as u64;
}

/// Reads of CR4.
pub const INTERCEPT_CR4_READ: u32 = 1 << 4;
/// Writes of CR4.
pub const INTERCEPT_CR4_WRITE: u32 = 1 << 20;
/// NMI, CPUID, INVD, HLT, INVLPGA, I/O, MSRs, shutdown.
pub const INTERCEPT_1: u32 = 1 << 1 | 1 << 18 | 1 << 22 | INTERCEPT_HLT | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// Virtual interrupts.
pub const INTERCEPT_VINTR: u32 = 1 << 4;
/// Interrupts.
pub const INTERCEPT_INTR: u32 = 1 << 0;
/// HLT.
pub const INTERCEPT_HLT: u32 = 1 << 24;
/// IRET.
pub const INTERCEPT_IRET: u32 = 1 << 20;
/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD.
pub const INTERCEPT_2: u32 = 0x7f | 1 << 9;

/// TLB control: VMRUN flushes all translations of this CPU. All guests of a CPU may share an
/// address space ID then, and one that enters after a change of its nested page tables sees it.
pub const FLUSH_TLB: u32 = 1;

/// EVENTINJ: valid.
const VALID: u64 = 1 << 31;
const TYPE_NMI: u64 = 2 << 8;
const TYPE_EXCEPTION: u64 = 3 << 8;
const WITH_ERROR_CODE: u64 = 1 << 11;

/// EVENTINJ for an exception without error code.
pub const fn exception(vector: u8) -> u64 {
    VALID | TYPE_EXCEPTION | vector as u64
}

/// EVENTINJ for an exception with an error code.
pub const fn exception_with_code(vector: u8, code: u32) -> u64 {
    exception(vector) | WITH_ERROR_CODE | (code as u64) << 32
}

/// True if EXITINTINFO holds INT n, INT3 or INTO. The exit leaves RIP at the instruction, and
/// delivery pushes RIP: an instruction whose delivery is repeated must be skipped before.
pub const fn is_software(info: u64) -> bool {
    const TYPE: u64 = 0b111 << 8;
    const TYPE_SOFTWARE: u64 = 4 << 8;
    const BREAKPOINT: u64 = 3;
    const OVERFLOW: u64 = 4;
    let exception = info & TYPE == TYPE_EXCEPTION && matches!(info & 0xff, BREAKPOINT | OVERFLOW);
    is_event(info) && (info & TYPE == TYPE_SOFTWARE || exception)
}

/// The vector, if EXITINTINFO holds an exception whose delivery the exit interrupted.
pub fn exception_vector(info: u64) -> Option<u8> {
    (info & (VALID | 0b111 << 8) == VALID | TYPE_EXCEPTION).then_some(info as u8)
}

/// EVENTINJ for an interrupt.
pub const fn interrupt(vector: u8) -> u64 {
    VALID | vector as u64
}

/// EVENTINJ for an NMI.
pub const NMI: u64 = VALID | TYPE_NMI | 2;

/// True if EXITINTINFO holds an event whose delivery the exit interrupted.
pub const fn is_event(info: u64) -> bool {
    info & VALID != 0
}
