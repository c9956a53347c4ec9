//! SEAMCALLs that overlap: a CPU that is in the module while others go on.

use tdx_abi::{Leaf, Registers, Status};

use super::{Machine, Outcome};
use crate::{CpuId, Refusal};

/// How [`Machine::begin_seamcall`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// The CPU is in the module until [`Machine::finish_seamcall`].
    Inside,
    /// The instruction failed before the module ran, or the module died: what SEAMCALL returns.
    Returned(Registers),
}

impl Machine {
    /// This CPU is in the module, or in a guest.
    pub fn is_inside(&self, cpu: CpuId) -> bool {
        self.is_in_module(cpu) || self.vm_on(cpu).is_some()
    }

    /// A SEAMCALL has begun on this CPU and not finished.
    pub fn is_in_module(&self, cpu: CpuId) -> bool {
        self.hardware.is_in_module(cpu)
    }

    /// A SEAMCALL begins on this CPU, which makes no other operation before it has finished. What
    /// the call does is done now; the locks that it took stay taken, so calls of other CPUs find
    /// the module as they would find it with a CPU inside: OPERAND_BUSY with the operand, SYS_BUSY.
    ///
    /// A failed call holds the locks that it took before it failed.
    ///
    /// # Errors
    /// As [`Self::seamcall`]; and VP.ENTER is refused: a VCPU that is inside is its call in flight.
    pub fn begin_seamcall(&mut self, cpu: CpuId, registers: Registers) -> Result<Begun, Refusal> {
        let leaf = registers.leaf_call().leaf();
        if leaf == Leaf::VP_ENTER {
            return Err(Refusal::LeafNotModeled { leaf });
        }
        match self.call(cpu, registers, true)? {
            Outcome::InFlight => {
                self.hardware.set_in_module(cpu, true);
                Ok(Begun::Inside)
            }
            Outcome::Returned(answer) => {
                self.hardware.record.seamcall(leaf, answer.status());
                Ok(Begun::Returned(answer))
            }
        }
    }

    /// The SEAMCALL on this CPU returns these registers. RAX is VMfailInvalid if the module has
    /// died meanwhile.
    ///
    /// # Errors
    /// No SEAMCALL is in flight on this CPU.
    pub fn finish_seamcall(&mut self, cpu: CpuId) -> Result<Registers, Refusal> {
        let module = self.module.as_mut().ok_or(Refusal::NoCallInFlight { cpu })?;
        let (leaf, mut answer) = module.finish(cpu).ok_or(Refusal::NoCallInFlight { cpu })?;
        if module.is_dead() {
            answer.rax = Status::VMFAIL_INVALID.raw();
        }
        self.hardware.set_in_module(cpu, false);
        self.hardware.next_step();
        self.hardware.record.seamcall(leaf, answer.status());
        Ok(answer)
    }
}
