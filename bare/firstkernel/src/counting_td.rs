//! A TD that counts: its memory, and VP.ENTER on a CPU of the caller's choice.
//!
//! It adds one to a word of its memory and to a register, and reports both with TDG.VP.VMCALL, with
//! the number of times that it was started. If the two differ or it was started twice, it has not
//! run on but begun again.

use core::arch::{asm, global_asm};
use core::fmt;

use first_kernel::GuestMap;
use spin::Mutex;
use tdx_abi::{Leaf, PAGE_SIZE, Page, Registers, Status};
use tdx_host::{
    arch::{self, SavedRegisters},
    gate::Closed,
    platform::{Cpu, CpuId, CpuTask, Cpus, Step},
    td::{AdoptError, Runnable, Td, VcpuHost},
};

use crate::cpu::HardwareCpu;
use crate::cpus::AllCpus;

/// Its pages, the last ones below 4 GiB: data, two page tables, code. A CPU begins 16 bytes below
/// 4 GiB.
pub const MAP: GuestMap = GuestMap { measured: 0xffffc..0x10_0000, augmented: 0..0, large: 0 };

/// Present, writable; a page of 1 GiB.
const TABLE: u64 = 0b11;
const LARGE: u64 = 0x83;

global_asm!(
    r#"
    .pushsection .rodata.counting_td, "a", @progbits
    .balign 4096
    .globl counting_td_code
counting_td_code:
    .code32
counting_td_32:
    mov eax, 0xffffe000
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                # PAE; long mode is enabled already
    mov cr4, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    .byte 0x0f, 0x01, 0x15      # lgdt [disp32]
    .long 0xfffff000 + counting_td_gdtr - counting_td_code
    .byte 0xea                  # jmp 8:counting_td_64
    .long 0xfffff000 + counting_td_64 - counting_td_code
    .word 8
    .code64
counting_td_64:
    mov edi, 0xffffc000
    inc qword ptr [rdi + 8]     # starts
    xor ebx, ebx
1:  inc qword ptr [rdi]
    inc rbx
    mov r11, rbx
    mov r12, [rdi + 8]
    mov r13, [rdi]
    xor eax, eax                # TDG.VP.VMCALL that passes R10 to R13
    mov ecx, 0x3c00
    xor r10d, r10d
    .byte 0x66, 0x0f, 0x01, 0xcc
    jmp 1b
    .balign 8
counting_td_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
counting_td_gdtr:
    .word 15
    .long 0xfffff000 + counting_td_gdt - counting_td_code
    .org counting_td_code + 0xff0
    .code32
    jmp counting_td_32
    .org counting_td_code + 0x1000
    .code64
    .popsection
"#
);

unsafe extern "C" {
    static counting_td_code: [u8; PAGE_SIZE as usize];
}

/// What a page of [`MAP`] holds at first.
pub fn contents(page: u64) -> [u8; PAGE_SIZE as usize] {
    let mut bytes = [0; PAGE_SIZE as usize];
    let (index, word) = match page {
        // SAFETY: the code above, which is one page and constant.
        0xfffff => return unsafe { counting_td_code },
        0xffffe => (0, 0xffff_d000 | TABLE),
        0xffffd => (3, 0xc000_0000 | LARGE),
        _ => (0, 0),
    };
    bytes[8 * index..][..8].copy_from_slice(&u64::to_le_bytes(word));
    bytes
}

/// What the TD reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    /// The word in its memory.
    pub memory: u64,
    /// The register.
    pub register: u64,
    /// Times that it was started.
    pub starts: u64,
}

/// Why a TD did not report.
#[derive(Clone, Copy, Debug)]
pub enum RunError {
    /// This kernel is at its handover.
    Gate(Closed),
    /// It could not be made this CPU's.
    NotResumed(AdoptError),
    /// RAX of VP.ENTER: a status, or an exit reason that was not expected.
    Exit(Status),
    /// No CPU of this number has run it.
    NoCpu,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate(closed) => closed.fmt(f),
            Self::NotResumed(error) => error.fmt(f),
            Self::Exit(rax) => write!(f, "VP.ENTER: RAX {:#x}, {rax}", rax.raw()),
            Self::NoCpu => f.write_str("there is no such CPU"),
        }
    }
}

/// A VCPU of an adopted TD, and what it is told of this kernel before its first VP.ENTER.
pub type Resume<'a> = Option<(&'a Td<'static, Runnable>, VcpuHost)>;

/// VP.ENTER on one CPU, until the TD has reported a few times.
struct Run<'a> {
    on: CpuId,
    vcpu: Page,
    resume: Resume<'a>,
    times: u32,
    result: Mutex<Result<(Count, u64), RunError>>,
}

impl Run<'_> {
    fn run(&self, cpu: HardwareCpu) -> Result<(Count, u64), RunError> {
        if let Some((td, host)) = &self.resume {
            // SAFETY: by the contract of `run`.
            unsafe { td.resume_vcpu(&cpu, self.vcpu, host) }.map_err(RunError::NotResumed)?;
        }
        let first = metal::registers::tsc();
        let mut count = self.enter(cpu)?;
        for _ in 1..self.times {
            count = self.enter(cpu)?;
        }
        Ok((count, first))
    }

    fn enter(&self, cpu: HardwareCpu) -> Result<Count, RunError> {
        /// Exit reasons.
        const INTERRUPT: u64 = 1;
        const TDCALL: u64 = 77;
        loop {
            let base = Registers::call(Leaf::VP_ENTER).rcx_address(self.vcpu.start());
            let mut registers = SavedRegisters { base, ..SavedRegisters::default() };
            {
                let _inside = cpu.cpu_gate().enter(Leaf::VP_ENTER).map_err(RunError::Gate)?;
                // SAFETY: ring 0, with fix-ups. What the TD reaches of this kernel's memory is the
                // caller's promise.
                unsafe { arch::seamcall_saved(&mut registers) };
            }
            match registers.base.rax {
                TDCALL => {
                    let Registers { r11: register, r12: starts, r13: memory, .. } = registers.base;
                    return Ok(Count { memory, register, starts });
                }
                INTERRUPT => {
                    // SAFETY: this kernel handles its interrupts; the one that is pending is taken.
                    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
                }
                _ => return Err(RunError::Exit(registers.base.status())),
            }
        }
    }
}

impl CpuTask<HardwareCpu> for Run<'_> {
    type Local = ();

    fn step(&self, cpu: &HardwareCpu, (): &mut ()) -> Step {
        if cpu.id() == self.on {
            *self.result.lock() = self.run(*cpu);
        }
        Step::Done
    }
}

/// Lets a TD report a few times, on this CPU. Its last report, and the time-stamp counter before
/// the first VP.ENTER. With `resume` its VCPU is made this kernel's before that.
///
/// # Errors
/// [`RunError`].
///
/// # Safety
/// `vcpu` is one of a TD that counts ([`contents`]). In `resume`, its TD; descriptor and EPT are
/// two pages of zeros that nothing else uses as long as the TD lives.
pub unsafe fn run(on: CpuId, vcpu: Page, times: u32, resume: Resume<'_>) -> Result<(Count, u64), RunError> {
    let task = Run { on, vcpu, resume, times, result: Mutex::new(Err(RunError::NoCpu)) };
    AllCpus.run_on_all(&task);
    task.result.into_inner()
}
