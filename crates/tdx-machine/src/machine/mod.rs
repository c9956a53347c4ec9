//! The machine as a host sees it. Every method is one operation: it is done when it returns, and
//! nothing else happens meanwhile except what the adversary of the configuration does.

mod guest;
mod host;
mod next_kernel;
mod overlap;
mod query;

use alloc::sync::Arc;
use tdx_abi::{Registers, Status};

use crate::events::Event;
use crate::fault::{Fault, Faults, Lock, LockMode, When};
use crate::hardware::Hardware;
use crate::module::{Answer, Module, SysState};
use crate::processor::{self, CpuidOutput, MsrRead};
use crate::{ConfigError, CpuId, MachineConfig, ModuleProfile, PackageId, Refusal};

pub use next_kernel::MemoryUse;
pub use overlap::Begun;
pub use query::{DirtyRun, OwnerRun};

/// A machine. Cloning takes a snapshot; both go on on their own.
#[derive(Clone, Debug)]
pub struct Machine {
    hardware: Hardware,
    module: Option<Module>,
    faults: Faults,
}

/// Where a SEAMCALL is.
enum Outcome {
    Returned(Registers),
    InFlight,
}

impl Machine {
    /// A machine after power-on: memory is normal and zero, no CPU is in VMX operation, the module
    /// has been loaded by the BIOS and waits for SYS.INIT.
    ///
    /// # Errors
    /// [`ConfigError`] says why such a machine cannot exist.
    pub fn new(config: MachineConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let module = config.module.map(|_| Module::new(&config));
        Ok(Self { hardware: Hardware::new(config), module, faults: Faults::default() })
    }

    /// As [`Self::new`], but every CPU is in VMX operation, SYS.INIT has succeeded once and
    /// SYS.LP.INIT on every CPU: the precondition of the conformance vectors.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_initialized_module(config: MachineConfig) -> Result<Self, ConfigError> {
        let mut machine = Self::new(config)?;
        for cpu in &mut machine.hardware.cpus {
            cpu.vmx = true;
        }
        if let Some(module) = &mut machine.module {
            module.skip_to_lp_init_done();
        }
        Ok(machine)
    }

    /// What the machine is made of.
    pub fn config(&self) -> &MachineConfig {
        &self.hardware.config
    }

    /// Number of CPUs; they are numbered from 0.
    pub fn cpus(&self) -> u32 {
        self.hardware.cpu_count()
    }

    /// The package of a CPU.
    ///
    /// # Errors
    /// No such CPU.
    pub fn package_of(&self, cpu: CpuId) -> Result<PackageId, Refusal> {
        if cpu.index() < self.hardware.cpus.len() {
            Ok(self.hardware.package_of(cpu))
        } else {
            Err(Refusal::NoSuchCpu { cpu })
        }
    }

    /// CPUID on a CPU; all are alike.
    ///
    /// # Errors
    /// No such CPU, or a leaf that is not modeled.
    pub fn cpuid(&self, cpu: CpuId, leaf: u32, subleaf: u32) -> Result<CpuidOutput, Refusal> {
        self.hardware.check_cpu(cpu)?;
        processor::cpuid(&self.hardware.config, leaf, subleaf)
    }

    /// RDMSR on a CPU; all are alike.
    ///
    /// # Errors
    /// No such CPU, or an MSR that is not modeled.
    pub fn rdmsr(&self, cpu: CpuId, msr: u32) -> Result<MsrRead, Refusal> {
        self.hardware.check_cpu(cpu)?;
        processor::rdmsr(&self.hardware.config, msr)
    }

    /// An MSR that the module reads changes on a CPU.
    ///
    /// # Errors
    /// No such CPU.
    pub fn set_msr(&mut self, cpu: CpuId, msr: u32, value: u64) -> Result<(), Refusal> {
        let state = self.hardware.cpus.get_mut(cpu.index()).ok_or(Refusal::NoSuchCpu { cpu })?;
        state.msrs.retain(|(number, _)| *number != msr);
        state.msrs.push((msr, value));
        Ok(())
    }

    /// A module is loaded in place of the one that is there, as P-SEAMLDR does for an update: it
    /// starts from the beginning, memory stays as it is, and the handoff data of the old module
    /// stays where SYS.SHUTDOWN left it.
    pub fn load_module(&mut self, profile: ModuleProfile) {
        self.hardware.step += 1;
        let config = MachineConfig { module: Some(profile), ..(*self.hardware.config).clone() };
        let mut module = Module::new(&config);
        if let Some(old) = self.module.take() {
            module.inherit(old);
        }
        for cpu in (0..self.hardware.cpu_count()).map(CpuId) {
            self.hardware.set_in_guest(cpu, false);
            self.hardware.set_in_module(cpu, false);
        }
        self.hardware.config = Arc::new(config);
        self.module = Some(module);
    }

    /// VMXON. Without effect if the CPU is in VMX operation already.
    ///
    /// # Errors
    /// No such CPU.
    pub fn vmxon(&mut self, cpu: CpuId) -> Result<(), Refusal> {
        self.set_vmx(cpu, true)
    }

    /// VMXOFF: SEAMCALL raises #UD on this CPU from here on.
    ///
    /// # Errors
    /// No such CPU.
    pub fn vmxoff(&mut self, cpu: CpuId) -> Result<(), Refusal> {
        self.set_vmx(cpu, false)
    }

    fn set_vmx(&mut self, cpu: CpuId, on: bool) -> Result<(), Refusal> {
        self.hardware.check_cpu(cpu)?;
        self.hardware.next_step();
        if let Some(state) = self.hardware.cpus.get_mut(cpu.index()) {
            state.vmx = on;
        }
        Ok(())
    }

    /// SEAMCALL on a CPU. If the instruction fails before the module runs, RAX is one of the
    /// software codes of [`Status`] and the other registers are as on entry. Orders no direct
    /// store.
    ///
    /// # Errors
    /// No such CPU, or a leaf that the real module may have and this one does not model.
    pub fn seamcall(&mut self, cpu: CpuId, registers: Registers) -> Result<Registers, Refusal> {
        let answer = match self.call(cpu, registers, false)? {
            Outcome::Returned(answer) => answer,
            Outcome::InFlight => return self.finish_seamcall(cpu),
        };
        self.hardware.record.seamcall(registers.leaf_call().leaf(), answer.status());
        Ok(answer)
    }

    /// One operation: SEAMCALL, which stays in the module if it is to be `in_flight`.
    fn call(&mut self, cpu: CpuId, registers: Registers, in_flight: bool) -> Result<Outcome, Refusal> {
        self.hardware.check_cpu(cpu)?;
        if registers.rax >> 63 == 1 {
            return Err(Refusal::SeamldrNotModeled);
        }
        self.hardware.next_step();
        self.execute(cpu, registers, in_flight)
    }

    fn execute(&mut self, cpu: CpuId, registers: Registers, in_flight: bool) -> Result<Outcome, Refusal> {
        let software = |status: Status| Outcome::Returned(Registers { rax: status.raw(), ..registers });
        if !self.hardware.cpus.get(cpu.index()).is_some_and(|state| state.vmx) {
            return Ok(software(Status::UNDEFINED_OPCODE));
        }
        if !self.hardware.config.seam_enabled {
            return Ok(software(Status::GENERAL_PROTECTION));
        }
        let Some(module) = self.module.as_mut().filter(|module| !module.is_dead()) else {
            return Ok(software(Status::VMFAIL_INVALID));
        };
        let faults = self.faults.clone();
        let conditions = self.faults.begin(registers.leaf_call().leaf());
        if let Some(status) = conditions.answer {
            return Ok(software(status));
        }
        let check = if conditions.crash {
            None
        } else {
            match module.seamcall(&mut self.hardware, cpu, registers, conditions, in_flight) {
                Answer::Registers(registers) => return Ok(Outcome::Returned(registers)),
                Answer::InFlight => return Ok(Outcome::InFlight),
                Answer::Refused(refusal) => {
                    // Nothing happened, so no fault has been used up.
                    self.faults = faults;
                    return Err(refusal);
                }
                Answer::MachineCheck(check) => Some(check),
            }
        };
        module.die();
        self.hardware.record.push(self.hardware.step, Event::ModuleDied { cpu, check });
        Ok(software(Status::VMFAIL_INVALID))
    }

    /// Switches a condition on. Several may be on at once.
    pub fn inject(&mut self, fault: Fault, when: When) {
        self.faults.inject(fault, when);
    }

    /// Switches a condition off, however often it was injected.
    pub fn clear(&mut self, fault: Fault) {
        self.faults.clear(fault);
    }

    /// A CPU that is stopped in the middle of a SEAMCALL holds this lock until it is released.
    /// Taking a lock that is held already adds nothing, except that a shared lock counts its
    /// readers.
    pub fn hold(&mut self, lock: Lock, mode: LockMode) {
        if let Some(module) = &mut self.module {
            module.hold(lock, mode);
        }
    }

    /// The lock is given back. Without effect if nobody holds it.
    pub fn release(&mut self, lock: Lock, mode: LockMode) {
        if let Some(module) = &mut self.module {
            module.release(lock, mode);
        }
    }

    /// The module's global state; `None` if no module is loaded or it is dead.
    pub fn module_state(&self) -> Option<SysState> {
        self.module.as_ref().filter(|module| !module.is_dead()).map(Module::state)
    }
}
