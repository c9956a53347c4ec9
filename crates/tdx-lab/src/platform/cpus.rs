//! The CPUs of a kernel on the software machine: runs tasks on them in turns, and stops them.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

use tdx_host::{
    gate::GateHandle,
    handover::{NmiStop, StopCpus, stop_this_cpu, stop_this_cpu_at_crash},
    platform::{Cpu, CpuId, CpuTask, Cpus, Step, TdxPlatform},
};

use super::{Deed, Lab, LabCpu, Operation};

/// All CPUs of a machine, seen from the one that the code runs on: CPU 0 unless it is told
/// otherwise.
#[derive(Clone)]
pub struct LabCpus<'l> {
    cpus: Vec<LabCpu<'l>>,
    platform: Option<TdxPlatform>,
    current: u32,
    lab: &'l Lab<'l>,
    gate: GateHandle<'l>,
}

impl<'l> LabCpus<'l> {
    /// Of this machine. `gate` is that of the kernel's [`tdx_host::Host`].
    pub fn new(lab: &'l Lab<'l>, gate: GateHandle<'l>, platform: Option<TdxPlatform>) -> Self {
        let count = lab.ask(tdx_machine::Machine::cpus);
        let cpus = (0..count).map(|number| LabCpu::new(lab, gate, number)).collect();
        Self { cpus, platform, current: 0, lab, gate }
    }

    /// The CPU this code runs on.
    pub fn this_cpu(&self) -> LabCpu<'l> {
        LabCpu::new(self.lab, self.gate, self.current)
    }

    /// Its number on the machine.
    pub(super) fn current(&self) -> tdx_machine::CpuId {
        tdx_machine::CpuId(self.current)
    }

    /// Goes on on another CPU: the one that panics, for example.
    pub fn move_to(&mut self, cpu: CpuId) {
        self.current = cpu.0;
    }

    /// Every CPU but the current one and those that have stopped or are offline.
    fn others(&self) -> impl Iterator<Item = &LabCpu<'l>> {
        let running = self.gate.activity().filter(|activity| !activity.stopped && activity.cpu.0 != self.current);
        running.filter_map(|activity| self.cpus.get(activity.cpu.0 as usize))
    }

    /// Something is sent to another CPU; it arrives unless a watcher says otherwise. False if
    /// nobody could think that it did.
    fn send(&self, operation: Operation, arrives: impl FnOnce()) -> bool {
        let mut heard = true;
        self.this_cpu().operate(operation, |deed| match deed {
            Deed::Skip => heard = false,
            Deed::Pretend => {}
            _ => arrives(),
        });
        heard
    }

    /// Runs the task on these CPUs, one step each in turn.
    fn run<T: CpuTask<LabCpu<'l>>>(&self, cpus: &[LabCpu<'l>], task: &T) {
        for cpu in cpus.iter().filter(|cpu| cpu.id().0 != self.current) {
            self.send(Operation::Ipi(tdx_machine::CpuId(cpu.id().0)), || ());
        }
        let mut running: Vec<_> = cpus.iter().map(|cpu| (cpu, T::Local::default())).collect();
        while !running.is_empty() {
            running.retain_mut(|(cpu, local)| task.step(cpu, local) == Step::Again);
        }
    }
}

// SAFETY: the task runs on every CPU of the machine, or one of each package, to its end.
unsafe impl<'l> Cpus for LabCpus<'l> {
    type Cpu = LabCpu<'l>;

    fn run_on_all<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        self.run(&self.cpus, task);
    }

    fn run_on_each_package<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        let mut done = Vec::new();
        for cpu in &self.cpus {
            if !done.contains(&cpu.package()) {
                done.push(cpu.package());
                self.run(std::slice::from_ref(cpu), task);
            }
        }
    }

    fn run_here<R>(&self, function: impl FnOnce(&LabCpu<'l>) -> R) -> R {
        function(&self.this_cpu())
    }
}

// SAFETY: a CPU has no turn of its own; one that has stopped has none but in `run_on_stopped`. What
// a watcher makes of it harms no memory of this program (`promise`).
unsafe impl<'l> StopCpus for LabCpus<'l> {
    type Cpu = LabCpu<'l>;

    fn this_cpu(&self) -> LabCpu<'l> {
        LabCpus::this_cpu(self)
    }

    fn stop_other_cpus(&self) -> u32 {
        let stop = |cpu: &LabCpu<'l>| {
            let target = tdx_machine::CpuId(cpu.id().0);
            self.send(Operation::Stop(target), || stop_this_cpu(*cpu, self.platform.as_ref()))
        };
        1 + self.others().filter(|cpu| !stop(cpu)).count() as u32
    }

    /// A CPU that was stopped waits in its handler, and goes on when the gate is open: nothing to
    /// be done.
    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        self.run(&self.cpus, task);
    }
}

// SAFETY: as above; every CPU of the machine is online.
unsafe impl NmiStop for LabCpus<'_> {
    fn stop_other_cpus(&self) {
        for cpu in self.others() {
            let target = tdx_machine::CpuId(cpu.id().0);
            self.send(Operation::Nmi(target), || stop_this_cpu_at_crash(cpu));
        }
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        (cpu.0 as usize) < self.cpus.len()
    }
}
