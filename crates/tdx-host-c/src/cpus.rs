//! A C kernel under the traits of `tdx-host`: all its CPUs, its allocator, its memory.

use core::mem::needs_drop;
use tdx_abi::PhysAddr;
use tdx_host::handover::{NmiStop, StopCpus};
use tdx_host::layout::{FrameRequest, FrameSource, Places};
use tdx_host::platform::{CpuId, CpuTask, Cpus, OwnedPages, SharedMemory, Step};

use crate::cpu::PinnedCpu;
use crate::host::Host;
use crate::kernel::call;
use crate::work::{LOCAL_BYTES, TdxhWork, TdxhWorkLocal};

/// A kernel under the traits of `tdx-host`.
#[derive(Clone, Copy)]
pub(crate) struct KernelOf<'h>(pub(crate) &'h Host);

// SAFETY: by the contract of `Kernel::new`.
unsafe impl<'h> Cpus for KernelOf<'h> {
    type Cpu = PinnedCpu<'h>;

    fn run_on_all<T: CpuTask<PinnedCpu<'h>>>(&self, task: &T) {
        with_work(self.0, task, |work| call!(self.0.kernel, run_on_all, work));
    }

    fn run_on_each_package<T: CpuTask<PinnedCpu<'h>>>(&self, task: &T) {
        with_work(self.0, task, |work| call!(self.0.kernel, run_on_each_package, work));
    }

    fn run_here<R>(&self, function: impl FnOnce(&PinnedCpu<'h>) -> R) -> R {
        function(&PinnedCpu::new(self.0))
    }
}

// SAFETY: by the contract of `Kernel::new` the kernel's allocator hands out pages that nothing else
// uses, and takes them back.
unsafe impl FrameSource for KernelOf<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        let mut frames = self.0.kernel.frames;
        // SAFETY: as above.
        frames.allocate(request).map(|range| unsafe { OwnedPages::new(range) })
    }

    fn free(&mut self, pages: OwnedPages) {
        let mut frames = self.0.kernel.frames;
        frames.free(pages.into_range());
    }
}

// SAFETY: by the contract of `Kernel::new`.
unsafe impl SharedMemory for KernelOf<'_> {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        call!(self.0.kernel, write_shared, address.get(), bytes.as_ptr(), bytes.len());
    }
}

// SAFETY: by the contract of `Kernel::new`.
unsafe impl<'h> StopCpus for KernelOf<'h> {
    type Cpu = PinnedCpu<'h>;

    fn this_cpu(&self) -> PinnedCpu<'h> {
        PinnedCpu::new(self.0)
    }

    fn stop_other_cpus(&self) -> u32 {
        call!(self.0.kernel, stop_other_cpus)
    }

    fn resume_other_cpus(&self) {
        call!(self.0.kernel, resume_other_cpus);
    }

    fn run_on_stopped<T: CpuTask<PinnedCpu<'h>>>(&self, task: &T) {
        with_work(self.0, task, |work| call!(self.0.kernel, run_on_stopped, work));
    }
}

// SAFETY: by the contract of `Kernel::new`.
unsafe impl NmiStop for KernelOf<'_> {
    fn stop_other_cpus(&self) {
        call!(self.0.kernel, stop_other_cpus_by_nmi);
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        call!(self.0.kernel, is_online, cpu.0) != 0
    }
}

/// Lends a task to the kernel for the time of `run`.
fn with_work<'h, T: CpuTask<PinnedCpu<'h>>>(host: &'h Host, task: &T, run: impl FnOnce(*const TdxhWork)) {
    let (task, host) = (core::ptr::from_ref(task).cast(), core::ptr::from_ref(host).cast());
    // SAFETY: both pointers are valid until `run` returns, which is the kernel's callback; `task`
    // points to a `T`, and `host` to a `Host`.
    let work = unsafe { TdxhWork::new(step::<T>, task, host) };
    run(&raw const work);
}

/// # Safety
/// `work` was made by [`with_work`] with a task of type `T`, whose `run` has not returned; if
/// `local` has its id it was last used for this work on this CPU.
unsafe fn step<'h, T: CpuTask<PinnedCpu<'h>>>(work: &TdxhWork, local: &mut TdxhWorkLocal) -> Step {
    const {
        assert!(size_of::<T::Local>() <= LOCAL_BYTES && align_of::<T::Local>() <= align_of::<TdxhWorkLocal>());
        assert!(!needs_drop::<T::Local>(), "C forgets it without dropping it");
    }
    // SAFETY: `with_work` made both pointers from references that live until its `run` returns,
    // each with this very type. `CpuTask` is `Sync`, and so is `Host`: other CPUs may use them at
    // the same time.
    let (task, host) = unsafe { (&*work.task.cast::<T>(), &*work.host.cast::<Host>()) };
    let place = local.value.as_mut_ptr().cast::<T::Local>();
    if local.id != work.id {
        // SAFETY: the place is large enough (asserted above). It is aligned: 16 bytes into a type
        // of that alignment.
        unsafe { place.write(T::Local::default()) };
        (local.id, local.done) = (work.id, 0);
    }
    if local.done != 0 {
        return Step::Done;
    }
    // SAFETY: the id says that a `T::Local` was written there for this work, and `local` is
    // borrowed for this caller alone.
    let step = task.step(&PinnedCpu::new(host), unsafe { &mut *place });
    local.done = (step == Step::Done).into();
    step
}
