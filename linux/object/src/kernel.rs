//! Linux as `tdx-host` sees it during a bring-up: its CPUs, pages, and memory that the module
//! reads.

use core::ffi::c_void;
use tdx_abi::{Page, PageRange, PageSize, PhysAddr};
use tdx_host::{
    layout::{FrameRequest, FrameSource, MapFrames},
    platform::{CpuId, CpuTask, Cpus, SharedMemory, Step},
};

use crate::cpu::ThisCpu;
use crate::shim;

/// Where pages for PAMTs come from.
pub struct Linux<'m> {
    /// Memory that was reserved for them at boot; without it the kernel's allocator is asked, which
    /// has no large pieces.
    pub pool: Option<&'m mut MapFrames<'static>>,
}

/// # Safety
/// `task` points to a `T`.
extern "C" fn run<T: CpuTask<ThisCpu>>(task: *mut c_void) {
    // SAFETY: `run_on` passes a `T` that lives until all CPUs are done, and a task is `Sync`.
    let task = unsafe { &*task.cast::<T>() };
    let (cpu, mut local) = (ThisCpu(CpuId(shim::this_cpu())), T::Local::default());
    while task.step(&cpu, &mut local) == Step::Again {
        shim::rest();
    }
}

impl Cpus for Linux<'_> {
    type Cpu = ThisCpu;

    fn run_on_all<T: CpuTask<ThisCpu>>(&self, task: &T) {
        // SAFETY: `run::<T>` takes a `T`; the shim waits for all.
        unsafe { shim::on_all(run::<T>, core::ptr::from_ref(task).cast_mut().cast()) };
    }

    fn run_on_each_package<T: CpuTask<ThisCpu>>(&self, task: &T) {
        // SAFETY: as above.
        unsafe { shim::on_each_package(run::<T>, core::ptr::from_ref(task).cast_mut().cast()) };
    }

    fn run_here<R>(&self, function: impl FnOnce(&ThisCpu) -> R) -> R {
        shim::pinned(|cpu| function(&ThisCpu(CpuId(cpu))))
    }
}

impl FrameSource for Linux<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        if let Some(pool) = &mut self.pool {
            return pool.allocate(request);
        }
        let base = shim::allocate(request.pages, request.node.map(|node| node.0), request.within)?;
        Some(PageRange::new(base.page(), Page::new(base.page().index() + request.pages)))
    }

    fn free(&mut self, range: PageRange) {
        match &mut self.pool {
            Some(pool) => pool.free(range),
            None => shim::free(range.base(), range.pages()),
        }
    }
}

impl SharedMemory for Linux<'_> {
    fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        // SAFETY: pages of this object, by the trait's contract, and mapped; the source is
        // elsewhere.
        unsafe { shim::map(address).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

/// Pages for TDs: the kernel's own.
pub struct KernelPages;

impl first_kernel::Pages for KernelPages {
    fn take(&self, size: PageSize) -> Option<Page> {
        shim::allocate(size.pages(), None, FrameRequest::ANYWHERE).map(PhysAddr::page)
    }

    fn give_back(&self, range: PageRange) {
        shim::free(range.base(), range.pages());
    }
}
