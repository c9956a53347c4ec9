//! A kernel on the software machine: runs tasks on its CPUs in turns, hands out pages of the memory map, stops CPUs.

use tdx_abi::{PageRange, PhysAddr};
use tdx_host::{
    handover::{NmiStop, StopCpus, stop_this_cpu, stop_this_cpu_at_crash},
    layout::{FrameRequest, FrameSource, MapFrames},
    platform::{CpuId, CpuTask, Cpus, SharedMemory, Step, TdxPlatform},
};

use super::{Lab, LabCpu};
use crate::{host::Host, images};

/// The kernel that brings TDX up. It runs on CPU 0 unless it is told otherwise.
pub struct LabKernel<'l> {
    lab: &'l Lab<'l>,
    cpus: Vec<LabCpu<'l>>,
    frames: MapFrames<'l>,
    platform: Option<TdxPlatform>,
    current: u32,
}

impl<'l> LabKernel<'l> {
    /// A kernel on all CPUs and all memory of the host, its own image and the loaded one in use.
    pub fn new(lab: &'l Lab<'l>, host: &'l Host, platform: Option<TdxPlatform>) -> Self {
        let mut frames = MapFrames::new(host.memory());
        // An empty list of taken ranges has room, and nothing overlaps in it.
        let _ = frames.reserve(images::pages(host));
        let count = lab.ask(tdx_machine::Machine::cpus);
        Self { lab, cpus: (0..count).map(|number| LabCpu::new(lab, number)).collect(), frames, platform, current: 0 }
    }

    /// Keeps a range for somebody else, e.g. the crash kernel. False if some of it is taken already.
    #[must_use]
    pub fn reserve(&mut self, range: PageRange) -> bool {
        self.frames.reserve(range)
    }

    /// The CPU this kernel runs on.
    pub fn this_cpu(&self) -> LabCpu<'l> {
        LabCpu::new(self.lab, self.current)
    }

    /// Goes on on another CPU: the one that panics, for example.
    pub fn move_to(&mut self, cpu: CpuId) {
        self.current = cpu.0;
    }

    /// Every CPU but the current one.
    fn others(&self) -> impl Iterator<Item = &LabCpu<'l>> {
        (0u32..).zip(&self.cpus).filter(|(number, _)| *number != self.current).map(|(_, cpu)| cpu)
    }

    /// Pages handed out or in use, ascending.
    pub fn taken(&self) -> &[PageRange] {
        self.frames.taken()
    }

    /// Runs the task on these CPUs, one step each in turn.
    fn run<T: CpuTask<LabCpu<'l>>>(cpus: &[LabCpu<'l>], task: &T) {
        let mut running: Vec<_> = cpus.iter().map(|cpu| (cpu, T::Local::default())).collect();
        while !running.is_empty() {
            running.retain_mut(|(cpu, local)| task.step(cpu, local) == Step::Again);
        }
    }
}

impl<'l> Cpus for LabKernel<'l> {
    type Cpu = LabCpu<'l>;

    fn run_on_all<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        Self::run(&self.cpus, task);
    }

    fn run_on_each_package<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        use tdx_host::platform::Cpu;
        let mut done = Vec::new();
        for cpu in &self.cpus {
            if !done.contains(&cpu.package()) {
                done.push(cpu.package());
                Self::run(std::slice::from_ref(cpu), task);
            }
        }
    }

    fn run_here<R>(&self, function: impl FnOnce(&LabCpu<'l>) -> R) -> R {
        function(&self.this_cpu())
    }
}

impl FrameSource for LabKernel<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        self.frames.allocate(request)
    }

    fn free(&mut self, range: PageRange) {
        self.frames.free(range);
    }
}

impl SharedMemory for LabKernel<'_> {
    fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        self.lab.try_act(|machine| machine.write_shared(tdx_machine::CpuId(0), address, bytes));
    }
}

impl<'l> StopCpus for LabKernel<'l> {
    type Cpu = LabCpu<'l>;

    fn this_cpu(&self) -> LabCpu<'l> {
        LabKernel::this_cpu(self)
    }

    fn stop_other_cpus(&self) -> u32 {
        for cpu in self.others() {
            stop_this_cpu(*cpu, self.platform.as_ref());
        }
        1
    }

    /// They all stop, so this is never asked for.
    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        Self::run(&self.cpus, task);
    }
}

impl NmiStop for LabKernel<'_> {
    /// Every CPU takes the NMI at once: none is inside SEAM, because SEAMCALLs do not overlap here.
    fn stop_other_cpus(&self) {
        for cpu in self.others() {
            stop_this_cpu_at_crash(cpu);
        }
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        (cpu.0 as usize) < self.cpus.len()
    }
}
