//! A kernel on the software machine: its CPUs, the pages of the memory map that it hands out, and
//! shared memory.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

use tdx_abi::{PageRange, PhysAddr};
use tdx_host::{
    handover::{NmiStop, StopCpus},
    layout::{FrameRequest, FrameSource, MapFrames, Places},
    platform::{CpuId, CpuTask, Cpus, NodeRange, OwnedPages, SharedMemory},
};

use super::{Deed, Lab, LabCpu, LabCpus, Operation, promise};
use tdx_operator::{host::Host, images};

/// The kernel that brings TDX up. It runs on CPU 0 unless it is told otherwise.
pub struct LabKernel<'l> {
    lab: &'l Lab<'l>,
    cpus: LabCpus<'l>,
    frames: MapFrames<'l>,
    memory: &'l [NodeRange],
}

impl<'l> LabKernel<'l> {
    /// A kernel on all CPUs and all memory of the host, its own image and the loaded one in use.
    /// `tdx` is what it knows of TDX, with the platform detected if there is one.
    pub fn new(lab: &'l Lab<'l>, tdx: &'l tdx_host::Host<'_>, host: &'l Host) -> Self {
        let mut frames = MapFrames::new(host.memory());
        // An empty list of taken ranges has room, and nothing overlaps in it.
        let _ = frames.reserve(images::pages(host));
        Self { lab, cpus: LabCpus::new(lab, tdx.gate(), tdx.platform().copied()), frames, memory: host.memory() }
    }

    /// Reserves a range for another user, e.g. the crash kernel. False if some of it is taken
    /// already.
    #[must_use]
    pub fn reserve(&mut self, range: PageRange) -> bool {
        self.frames.reserve(range)
    }

    /// The CPU this kernel runs on.
    pub fn this_cpu(&self) -> LabCpu<'l> {
        self.cpus.this_cpu()
    }

    /// Goes on on another CPU: the one that panics, for example.
    pub fn move_to(&mut self, cpu: CpuId) {
        self.cpus.move_to(cpu);
    }

    /// Its CPUs.
    pub fn cpus(&self) -> &LabCpus<'l> {
        &self.cpus
    }

    /// Pages handed out or in use, ascending.
    pub fn taken(&self) -> &[PageRange] {
        self.frames.taken()
    }
}

// SAFETY: those of `LabCpus`.
unsafe impl<'l> Cpus for LabKernel<'l> {
    type Cpu = LabCpu<'l>;

    fn run_on_all<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        self.cpus.run_on_all(task);
    }

    fn run_on_each_package<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        self.cpus.run_on_each_package(task);
    }

    fn run_here<R>(&self, function: impl FnOnce(&LabCpu<'l>) -> R) -> R {
        self.cpus.run_here(function)
    }
}

// SAFETY: `MapFrames` hands out each page of the map once.
unsafe impl FrameSource for LabKernel<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        let mut range = None;
        let wanted = Operation::Allocate(request.pages);
        self.cpus.this_cpu().operate_to(wanted, |deed| {
            if deed != Deed::Skip {
                range = self.frames.allocate(request);
            }
            range.map_or(wanted, Operation::Allocated)
        });
        range.map(promise::owned)
    }

    fn free(&mut self, pages: OwnedPages) {
        let range = pages.into_range();
        self.cpus.this_cpu().operate(Operation::Free(range), |_| self.frames.free(range));
    }
}

// SAFETY: writes these bytes of the machine's memory.
unsafe impl SharedMemory for LabKernel<'_> {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        self.lab.write_from(self.cpus.current(), address, bytes);
    }
}

// SAFETY: as `LabCpus`.
unsafe impl<'l> StopCpus for LabKernel<'l> {
    type Cpu = LabCpu<'l>;

    fn this_cpu(&self) -> LabCpu<'l> {
        self.cpus.this_cpu()
    }

    fn stop_other_cpus(&self) -> u32 {
        StopCpus::stop_other_cpus(&self.cpus)
    }

    fn resume_other_cpus(&self) {
        self.cpus.resume_other_cpus();
    }

    fn run_on_stopped<T: CpuTask<LabCpu<'l>>>(&self, task: &T) {
        self.cpus.run_on_stopped(task);
    }

    fn memory_of_nodes(&self) -> &[NodeRange] {
        self.memory
    }
}

// SAFETY: as `LabCpus`.
unsafe impl NmiStop for LabKernel<'_> {
    fn stop_other_cpus(&self) {
        NmiStop::stop_other_cpus(&self.cpus);
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        self.cpus.is_online(cpu)
    }
}
