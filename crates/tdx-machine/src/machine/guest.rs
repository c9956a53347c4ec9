//! Guests: a CPU that a VCPU runs on belongs to the guest until it leaves.
//!
//! The host enters with SEAMCALL VP.ENTER ([`Machine::seamcall`] then answers at once, success
//! meaning "inside"), a scenario says what the guest does, and [`Machine::leave_vcpu`] gives what
//! VP.ENTER returns.

use tdx_abi::{Page, PageSize, Registers, Status};

use super::Machine;
use crate::events::Event;
use crate::module::{AfterExit, GuestMapping, GuestOutcome, TdExit, VcpuOnCpu};
use crate::{CpuId, CpuidOutput, Refusal};

impl Machine {
    /// An interrupt takes the VCPU on this CPU out of its TD. Gives RAX of VP.ENTER, whose low half
    /// is the exit reason; the software status of a dead module if it died of poison on the way, or
    /// before.
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn leave_vcpu(&mut self, cpu: CpuId) -> Result<Status, Refusal> {
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        match module.leave(&mut self.hardware, cpu).ok_or(Refusal::NoGuestOnCpu { cpu })? {
            Ok(_) if module.is_dead() => Ok(Status::VMFAIL_INVALID),
            Ok(status) => Ok(status),
            Err(check) => {
                module.die();
                self.hardware.record.push(self.hardware.step, Event::ModuleDied { cpu, check: Some(check) });
                Ok(Status::VMFAIL_INVALID)
            }
        }
    }

    /// The guest on this CPU accepts the pending page (TDG.MEM.PAGE.ACCEPT): every line of it is
    /// written with MOVDIR64B under the TD's KeyID.
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn guest_accept(&mut self, cpu: CpuId, gpa: u64, size: PageSize) -> Result<GuestOutcome, Refusal> {
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        let outcome = module.guest_accept(&mut self.hardware, cpu, gpa, size);
        self.counted(outcome)
    }

    /// The guest on this CPU stores to the line at this guest address: dirty under the TD's KeyID.
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn guest_store(&mut self, cpu: CpuId, gpa: u64) -> Result<GuestOutcome, Refusal> {
        self.guest_access(cpu, gpa, true)
    }

    /// The guest on this CPU loads the line at this guest address.
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn guest_load(&mut self, cpu: CpuId, gpa: u64) -> Result<GuestOutcome, Refusal> {
        self.guest_access(cpu, gpa, false)
    }

    fn guest_access(&mut self, cpu: CpuId, gpa: u64, store: bool) -> Result<GuestOutcome, Refusal> {
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        let outcome = module.guest_access(&mut self.hardware, cpu, gpa, store);
        self.counted(outcome)
    }

    /// A machine check in a guest is one of the machine.
    fn counted(&mut self, outcome: Result<GuestOutcome, Refusal>) -> Result<GuestOutcome, Refusal> {
        if let Ok(GuestOutcome::MachineCheck(check)) = outcome {
            self.hardware.record.counters.machine_checks += 1;
            self.hardware.record.push(self.hardware.step, Event::MachineCheck(check));
        }
        outcome
    }

    /// The VM that runs on this CPU; 0 is L1. `None`: the CPU is the host's.
    pub fn vm_on(&self, cpu: CpuId) -> Option<u8> {
        self.module.as_ref().and_then(|module| module.vm_on(cpu))
    }

    /// The VCPU that runs on this CPU. `None`: the CPU is the host's.
    pub fn vcpu_on(&self, cpu: CpuId) -> Option<VcpuOnCpu> {
        self.module.as_ref()?.vcpu_on(cpu)
    }

    /// The page of a private address of the guest on this CPU. `None`: no guest, or an EPT
    /// violation: not mapped, blocked, shared, or its TD is fatal. Translations that the guest
    /// had before are not looked at.
    pub fn guest_mapping(&self, cpu: CpuId, gpa: u64) -> Option<GuestMapping> {
        self.module.as_ref()?.guest_mapping(cpu, gpa)
    }

    /// The NMI that the host asked for by VP.WR is injected into the guest on this CPU. True if
    /// there was one.
    pub fn take_pending_nmi(&mut self, cpu: CpuId) -> bool {
        self.module.as_mut().is_some_and(|module| module.take_pending_nmi(cpu))
    }

    /// The guest on this CPU exits, and the module handles the exit. A module that has died
    /// handles none: VP.ENTER ends with the software status of a dead module, as in
    /// [`Self::leave_vcpu`].
    ///
    /// # Errors
    /// No VCPU is on this CPU, or an exit that is not modeled.
    pub fn td_exit(&mut self, cpu: CpuId, exit: TdExit) -> Result<AfterExit, Refusal> {
        if let Some(left) = self.leave_dead_module(cpu)? {
            return Ok(left);
        }
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        let interrupt = self.faults.is_interrupt_pending();
        module.td_exit(&mut self.hardware, cpu, exit, interrupt)
    }

    /// An exit of a guest whose module has died: VP.ENTER ends.
    fn leave_dead_module(&mut self, cpu: CpuId) -> Result<Option<AfterExit>, Refusal> {
        if !self.module.as_ref().is_some_and(crate::module::Module::is_dead) {
            return Ok(None);
        }
        let status = self.leave_vcpu(cpu)?;
        Ok(Some(AfterExit::Host(Registers { rax: status.raw(), ..Registers::default() })))
    }

    /// The CPU that the guest is on turns an EPT violation into #VE, as the entry of the host's
    /// EPT for shared addresses asks for. A module that has died: as [`Self::td_exit`].
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn convertible_ept_violation(&mut self, cpu: CpuId, exit: TdExit) -> Result<AfterExit, Refusal> {
        if let Some(left) = self.leave_dead_module(cpu)? {
            return Ok(left);
        }
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        module.convertible_ept_violation(&mut self.hardware, cpu, exit)
    }

    /// #VE, for an exit that [`Self::td_exit`] refuses and that the module turns into one: CPUID,
    /// RDMSR, WRMSR. A module that has died: as [`Self::td_exit`].
    ///
    /// # Errors
    /// No VCPU is on this CPU.
    pub fn guest_virtualization_exception(&mut self, cpu: CpuId, exit: TdExit) -> Result<AfterExit, Refusal> {
        if let Some(left) = self.leave_dead_module(cpu)? {
            return Ok(left);
        }
        self.hardware.next_step();
        let module = self.module.as_mut().ok_or(Refusal::NoGuestOnCpu { cpu })?;
        module.guest_virtualization_exception(cpu, exit)
    }

    /// What CPUID answers in the guest on this CPU: EAX and EBX, ECX and EDX, without what depends
    /// on the VCPU (APIC id, OSXSAVE, OSPKE, the size of the XSAVE area). `None`: #VE, which is
    /// also the answer where the values are not known.
    pub fn guest_cpuid(&self, cpu: CpuId, leaf: u32, sub_leaf: u32) -> Option<CpuidOutput> {
        self.module.as_ref()?.guest_cpuid(cpu, leaf, sub_leaf)
    }

    /// The TD of this TDR is fatal from now on, as after an error that the module cannot contain.
    /// False if there is none.
    pub fn make_td_fatal(&mut self, tdr: Page) -> bool {
        self.module.as_mut().is_some_and(|module| module.make_fatal(tdr))
    }
}
