//! Linux under the traits of `tdx-host`: CPUs, page allocator, memory that the TDX module reads.

use core::ffi::c_void;
use tdx_abi::PhysAddr;
use tdx_host::{
    layout::{FrameRequest, FrameSource, MapFrames, Places},
    platform::{CpuTask, Cpus, OwnedPages, SharedMemory, Step},
};

use crate::cpu::ThisCpu;
use crate::{pool, shim};

/// Linux.
pub struct Linux<'m, 'p> {
    pool: Option<&'m mut MapFrames<'p>>,
}

impl<'m, 'p> Linux<'m, 'p> {
    /// Pages are from the page allocator.
    pub fn without_pool() -> Self {
        Self { pool: None }
    }

    /// Pages are from memory that was reserved at boot, if there is such a pool.
    ///
    /// # Safety
    /// The pool is the range of `pool::set`, for this object alone, and no other `MapFrames` of it
    /// hands out pages.
    pub unsafe fn with_pool(pool: Option<&'m mut MapFrames<'p>>) -> Self {
        Self { pool }
    }
}

/// # Safety
/// `task` points to a `T`.
unsafe extern "C" fn run<T: CpuTask<ThisCpu>>(task: *mut c_void) {
    // SAFETY: the caller's; `run_on_all` and `run_on_each_package` pass a `T` that lives until all
    // CPUs are done, and a task is `Sync`.
    let task = unsafe { &*task.cast::<T>() };
    // SAFETY: the C files run this in a kthread bound to its CPU.
    let (cpu, mut local) = (unsafe { ThisCpu::pinned_to(shim::this_cpu()) }, T::Local::default());
    while task.step(&cpu, &mut local) == Step::Again {
        shim::cond_resched();
    }
}

// SAFETY: the C files run the work on every online CPU, or one of each package, with CPU hotplug
// excluded, and wait for all.
unsafe impl Cpus for Linux<'_, '_> {
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
        // SAFETY: migration is disabled as long as the function runs.
        shim::pinned(|cpu| function(&unsafe { ThisCpu::pinned_to(cpu) }))
    }
}

// SAFETY: by the contract of `with_pool` the pool is for this module alone, and `MapFrames` hands
// out each page of it once; other pages are from the page allocator and go back there.
unsafe impl FrameSource for Linux<'_, '_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        if let Some(pool) = &mut self.pool {
            // SAFETY: as above.
            return pool.allocate(request).map(|range| unsafe { OwnedPages::new(range) });
        }
        shim::allocate(request.pages, request.node.map(|node| node.0), request.within)
    }

    fn free(&mut self, pages: OwnedPages) {
        match &mut self.pool {
            Some(pool) if pool::holds(pages.range()) => pool.free(pages.into_range()),
            _ => shim::free(pages),
        }
    }
}

// SAFETY: copies the bytes.
unsafe impl SharedMemory for Linux<'_, '_> {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        // SAFETY: the caller owns the range, which is mapped; the source is elsewhere.
        unsafe { shim::map(address).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}
