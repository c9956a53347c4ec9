//! The software machine under the product's traits: what `tdx-host` calls a CPU, an allocator or
//! shared memory is here a method of `tdx_machine::Machine`. Adds no behavior of its own.
//!
//! Deterministic: CPUs take turns, one step each, in the order of their numbers. A request that the
//! machine refuses to model stops the run with an error; it is never answered by a guess.

// UNSAFETY: implements `LocalProcessor`, which answers for memory.
#![allow(unsafe_code)]

mod act;
mod cpu;
mod cpus;
mod freeze;
mod guest;
mod kernel;
mod pool;
pub mod promise;

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tdx_abi::{Leaf, PageRange, PhysAddr, Registers, subtract};
use tdx_host::gate::CpuSlot;
use tdx_host::platform::{CpuModel, CpuidOutput, LocalProcessor, Msr, NoTdx, Processor};
use tdx_machine::{Begun, ConfigError, Machine, MachineConfig, ModuleProfile, MsrRead, Refusal};

use tdx_operator::{host::Host, progress::Progress};

pub use act::{Act, Deed, Operation, Watcher};
pub use cpu::LabCpu;
pub use cpus::LabCpus;
pub use freeze::Instant;
pub use guest::GuestAct;
pub use kernel::LabKernel;
pub use pool::Pool;

/// Why a scenario could not be run to its end. None of these is a verdict.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The host cannot be built in software.
    #[error("this host cannot be emulated: {0}")]
    Config(ConfigError),
    /// Something was asked of the machine that it does not model.
    #[error("the software machine does not model this: {0}")]
    Refused(Refusal),
    /// The host has no TDX.
    #[error("{0}")]
    NoTdx(NoTdx),
    /// What was asked for cannot be on this host.
    #[error("this scenario cannot be run here: {0}")]
    Scenario(String),
}

impl LabError {
    /// From the error of a step that the scenario needs.
    pub fn scenario(error: impl std::fmt::Display) -> Self {
        Self::Scenario(error.to_string())
    }
}

/// The machine of a host, shared by everything that plays a part of the kernel.
pub struct Lab<'p> {
    machine: Mutex<Machine>,
    refused: Mutex<Option<Refusal>>,
    progress: &'p dyn Progress,
    seamcalls: AtomicU64,
    expected_seamcalls: AtomicU64,
    slots: Box<[CpuSlot]>,
    freezer: freeze::Freezer,
    guest: Mutex<Vec<GuestAct>>,
    guest_did: AtomicUsize,
    unmapped: Mutex<Vec<PageRange>>,
    watcher: &'p dyn Watcher,
}

/// A SEAMCALL takes well under a microsecond here: this is often enough for a progress line and too
/// seldom to cost.
const SEAMCALLS_PER_REPORT: u64 = 4096;

impl<'p> Lab<'p> {
    /// A machine with module 1.5.01 after power-on, with all CPUs in VMX operation.
    ///
    /// # Errors
    /// [`LabError::Config`]: more packages than the module counts, for example.
    pub fn new(host: &Host, progress: &'p dyn Progress) -> Result<Self, LabError> {
        Self::with_module(host, ModuleProfile::V1_5_01, progress)
    }

    /// As [`Self::new`], with another module.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_module(host: &Host, module: ModuleProfile, progress: &'p dyn Progress) -> Result<Self, LabError> {
        Self::with_config(host, progress, |config| config.module = Some(module))
    }

    /// As [`Self::new`], with changes to the machine: another module, an adversary that evicts.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_config(
        host: &Host,
        progress: &'p dyn Progress,
        change: impl FnOnce(&mut MachineConfig),
    ) -> Result<Self, LabError> {
        let mut config = config(host);
        change(&mut config);
        Self::on(Machine::new(config).map_err(LabError::Config)?, progress)
    }

    /// A kernel's view of a machine as it stands; all CPUs enter VMX operation.
    ///
    /// # Errors
    /// [`LabError::Refused`], which no machine gives here.
    pub fn on(mut machine: Machine, progress: &'p dyn Progress) -> Result<Self, LabError> {
        for cpu in 0..machine.cpus() {
            machine.vmxon(tdx_machine::CpuId(cpu)).map_err(LabError::Refused)?;
        }
        let slots = (0..machine.cpus()).map(|_| CpuSlot::new()).collect();
        Ok(Self::taken_over(machine, slots, progress, &()))
    }

    /// The machine of a kernel as it stands and its slots, watched.
    pub fn taken_over(
        machine: Machine,
        slots: Box<[CpuSlot]>,
        progress: &'p dyn Progress,
        watcher: &'p dyn Watcher,
    ) -> Self {
        Self {
            slots,
            freezer: freeze::Freezer::default(),
            guest: Mutex::default(),
            guest_did: AtomicUsize::new(0),
            unmapped: Mutex::default(),
            machine: Mutex::new(machine),
            refused: Mutex::new(None),
            progress,
            seamcalls: AtomicU64::new(0),
            expected_seamcalls: AtomicU64::new(0),
            watcher,
        }
    }

    /// The same laboratory, watched from now on.
    #[must_use]
    pub fn watched_by(self, watcher: &'p dyn Watcher) -> Self {
        Self { watcher, ..self }
    }

    /// Takes pages out of the kernel's mappings, as Linux does with a page with a memory error
    /// (`set_mce_nospec()`): a reset does not reach them from now on.
    pub fn unmap(&self, pages: PageRange) {
        lock(&self.unmapped).push(pages);
    }

    /// The parts of these pages that are mapped.
    fn mapped(&self, pages: PageRange) -> Vec<PageRange> {
        let unmapped = lock(&self.unmapped);
        unmapped.iter().fold(vec![pages], |parts, gone| subtract(parts, [*gone]).collect())
    }

    /// A slot for each CPU, for the [`tdx_host::Host`] of the kernel.
    pub fn slots(&self) -> &[CpuSlot] {
        &self.slots
    }

    /// Looks at the machine.
    pub fn ask<R>(&self, question: impl FnOnce(&Machine) -> R) -> R {
        question(&lock(&self.machine))
    }

    /// Acts on the machine: faults, adversaries, the next kernel.
    pub fn act<R>(&self, action: impl FnOnce(&mut Machine) -> R) -> R {
        action(&mut lock(&self.machine))
    }

    /// As [`Self::act`], for an action that the machine may refuse. The traits of the product have
    /// no way to refuse: the refusal is remembered for [`Self::check`], and the default goes back.
    pub fn try_act<R: Default>(&self, action: impl FnOnce(&mut Machine) -> Result<R, Refusal>) -> R {
        self.act(action).unwrap_or_else(|refusal| {
            lock(&self.refused).get_or_insert(refusal);
            R::default()
        })
    }

    /// Runs the kernel's code until it returns, or until it has come to this instant and stops
    /// there for good: then `None`.
    pub fn until<R>(&self, instant: Instant, function: impl FnOnce() -> R) -> Option<R> {
        self.freezer.run(instant, function)
    }

    /// Points between two operations of the kernel so far: what [`Instant::Nth`] counts.
    pub fn instants(&self) -> u64 {
        self.freezer.ticks()
    }

    /// Says how many SEAMCALLs the run will make, for the progress line.
    pub fn expect_seamcalls(&self, count: u64) {
        self.expected_seamcalls.store(count, Ordering::Relaxed);
    }

    /// The first request that the machine refused, if one was.
    ///
    /// # Errors
    /// [`LabError::Refused`].
    pub fn check(&self) -> Result<(), LabError> {
        lock(&self.refused).map_or(Ok(()), |refusal| Err(LabError::Refused(refusal)))
    }

    /// A kernel's ordinary stores on CPU 0, to memory that is its own.
    pub fn write_shared(&self, address: PhysAddr, bytes: &[u8]) {
        self.write_from(tdx_machine::CpuId(0), address, bytes);
    }

    fn write_from(&self, cpu: tdx_machine::CpuId, address: PhysAddr, bytes: &[u8]) {
        self.operate(cpu, Operation::Write(address, bytes.len()), |_| {
            self.try_act(|machine| machine.write_shared(cpu, address, bytes));
            Operation::Write(address, bytes.len())
        });
    }

    /// An operation of a CPU on the platform, between two points where the kernel may be stopped.
    /// Reports what it has become when it is done.
    fn operate(&self, cpu: tdx_machine::CpuId, operation: Operation, perform: impl FnOnce(Deed) -> Operation) {
        let act = Act { cpu, operation };
        self.freezer.tick();
        let operation = perform(self.watcher.before(self, &act));
        self.watcher.after(self, &Act { operation, ..act }, None);
        self.freezer.tick();
    }

    fn seamcall(&self, cpu: tdx_machine::CpuId, registers: Registers) -> Registers {
        let count = self.seamcalls.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_multiple_of(SEAMCALLS_PER_REPORT) {
            self.progress.step("SEAMCALLs", count, self.expected_seamcalls.load(Ordering::Relaxed));
        }
        // A refused call must look like a failure, or the host would go on with made-up registers.
        let dead = Registers { rax: tdx_abi::Status::VMFAIL_INVALID.raw(), ..registers };
        let enters = registers.leaf_call().leaf() == Leaf::VP_ENTER;
        let overlaps = self.watcher.overlaps();
        let answer = if overlaps && !enters {
            self.overlapping(cpu, registers)
        } else {
            self.try_act(|machine| machine.seamcall(cpu, registers).map(Some))
        };
        let mut answer = answer.unwrap_or(dead);
        if enters && answer.status() == tdx_abi::Status::SUCCESS {
            if overlaps {
                self.watcher.inside(self, &Act { cpu, operation: Operation::Seamcall(registers) });
            }
            answer.rax = self.run_guest(cpu).raw();
        }
        self.freezer.after_call(registers.leaf_call().leaf());
        answer
    }
}

impl Lab<'_> {
    /// A SEAMCALL with a middle.
    fn overlapping(&self, cpu: tdx_machine::CpuId, registers: Registers) -> Option<Registers> {
        match self.try_act(|machine| machine.begin_seamcall(cpu, registers).map(Some))? {
            Begun::Returned(answer) => Some(answer),
            Begun::Inside => {
                self.watcher.inside(self, &Act { cpu, operation: Operation::Seamcall(registers) });
                self.try_act(|machine| machine.finish_seamcall(cpu).map(Some))
            }
        }
    }

    /// The CPU leaves the module, or its guest: what an NMI or an IPI waits for, or makes it do.
    pub fn leave(&self, cpu: tdx_machine::CpuId) {
        if self.ask(|machine| machine.is_in_module(cpu)) {
            self.try_act(|machine| machine.finish_seamcall(cpu).map(drop));
        } else if self.ask(|machine| machine.is_inside(cpu)) {
            self.run_guest(cpu);
        }
    }
}

impl Processor for Lab<'_> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        let output = self.try_act(|machine| machine.cpuid(tdx_machine::CpuId(0), leaf, subleaf));
        CpuidOutput { eax: output.eax, ebx: output.ebx, ecx: output.ecx, edx: output.edx }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        match self.try_act(|machine| machine.rdmsr(tdx_machine::CpuId(0), msr.0).map(Some)) {
            Some(MsrRead::Value(value)) => Some(value),
            Some(MsrRead::GeneralProtection) | None => None,
        }
    }
}

// SAFETY: the answers of the machine on which everything is handed over that this program calls a
// host's memory (`promise`).
unsafe impl LocalProcessor for Lab<'_> {}

/// A thread of a kernel that was stopped for good may have held the lock; what it guards is whole
/// between any two operations.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine of a host: CPU n sits in package n modulo their number.
fn config(host: &Host) -> MachineConfig {
    let CpuModel { family, model, stepping, .. } = host.cpu();
    let cpu_model = tdx_machine::CpuModel { family, model, stepping };
    MachineConfig {
        key_ids: Some(host.key_ids()),
        key_id_field: host.key_id_field(),
        ..MachineConfig::new(cpu_model, host.cpus(), host.packages(), host.cmrs().iter().copied())
    }
}
