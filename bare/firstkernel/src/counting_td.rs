//! VP.ENTER of a TD that counts ([`first_kernel::COUNTING`]), on a CPU of the caller's choice.

use core::arch::asm;
use core::fmt;

use first_kernel::{Count, Exit, counting_exit, enter_counting};
use spin::Mutex;
use tdx_abi::{Leaf, Page, Status};
use tdx_host::{
    arch::{self, SavedRegisters},
    gate::Closed,
    platform::{Cpu, CpuId, CpuTask, Cpus, Step},
    td::{AdoptError, Runnable, Td, VcpuHost},
};

use crate::cpu::HardwareCpu;
use crate::cpus::AllCpus;

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
        loop {
            let mut registers = SavedRegisters { base: enter_counting(self.vcpu), ..SavedRegisters::default() };
            {
                let _inside = cpu.cpu_gate().enter(Leaf::VP_ENTER).map_err(RunError::Gate)?;
                // SAFETY: ring 0, with fix-ups. What the TD reaches of this kernel's memory is the
                // caller's promise.
                unsafe { arch::seamcall_saved(&mut registers) };
            }
            match counting_exit(&registers.base) {
                Exit::Reported(count) => return Ok(count),
                Exit::Interrupt(_) => {
                    // SAFETY: this kernel handles its interrupts; the one that is pending is taken.
                    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
                }
                Exit::Other(status) => return Err(RunError::Exit(status)),
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
/// `vcpu` is one of a TD that counts ([`first_kernel::COUNTING`]). In `resume`, its TD; descriptor
/// and EPT are two pages of zeros that nothing else uses as long as the TD lives.
pub unsafe fn run(on: CpuId, vcpu: Page, times: u32, resume: Resume<'_>) -> Result<(Count, u64), RunError> {
    let task = Run { on, vcpu, resume, times, result: Mutex::new(Err(RunError::NoCpu)) };
    AllCpus.run_on_all(&task);
    task.result.into_inner()
}
