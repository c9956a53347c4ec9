//! CPUs that the C files hold in an interrupt handler, for the reset of an orderly kexec: they run
//! the tasks of the CPU that hands over, and nothing else, until the kernel stops them.

use core::ptr::{from_ref, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use tdx_host::{
    handover::StopCpus,
    platform::{Cpu as _, CpuTask, NodeRange, Step},
};

use crate::cpu::ThisCpu;
use crate::{HOST, nodes, shim};

/// What the captured CPUs are to do. On the stack of the CPU that hands over, which waits for all.
enum Job {
    /// Write back caches, as a CPU that stops.
    Stop,
    /// Run steps of a task.
    Run {
        /// [`steps`] of the task's type.
        steps: unsafe fn(*const (), &ThisCpu),
        task: *const (),
    },
}

/// The job at hand; null: leave.
static JOB: AtomicPtr<Job> = AtomicPtr::new(null_mut());
/// Counts jobs: each CPU does each once. Changed after `JOB`.
static JOBS: AtomicU32 = AtomicU32::new(0);
/// CPUs that have done the job at hand.
static DONE: AtomicU32 = AtomicU32::new(0);

/// Runs a task on this CPU until it is done.
///
/// # Safety
/// `task` points to a `T`.
unsafe fn steps<T: CpuTask<ThisCpu>>(task: *const (), cpu: &ThisCpu) {
    // SAFETY: the caller's. A task is `Sync`.
    let task = unsafe { &*task.cast::<T>() };
    let mut local = T::Local::default();
    while task.step(cpu, &mut local) == Step::Again {
        shim::progress();
    }
}

/// The CPU that hands over, and those that are captured.
pub struct Captured {
    cpu: ThisCpu,
    others: u32,
    /// CPUs, this one included.
    online: u32,
}

impl Captured {
    /// `online` counts all CPUs. Once, and before
    /// [`cleanslate_release_captured`].
    ///
    /// # Safety
    /// All online CPUs but this one are in [`cleanslate_captured`] or about to call it.
    pub unsafe fn new(cpu: ThisCpu, online: u32) -> Self {
        Self { cpu, others: online.saturating_sub(1), online }
    }

    /// Has all others do this, and this CPU `meanwhile`; returns when all are done.
    fn share(&self, job: &Job, meanwhile: impl FnOnce()) {
        DONE.store(0, Ordering::Relaxed);
        JOB.store(from_ref(job).cast_mut(), Ordering::Relaxed);
        JOBS.fetch_add(1, Ordering::Release);
        meanwhile();
        while DONE.load(Ordering::Acquire) < self.others {
            shim::progress();
            core::hint::spin_loop();
        }
    }
}

/// Lets the captured CPUs return from [`cleanslate_captured`]. After the handover, whatever came of
/// it: no task is at hand.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_release_captured() {
    JOB.store(null_mut(), Ordering::Relaxed);
    JOBS.fetch_add(1, Ordering::Release);
}

// SAFETY: by the contract of `new` the others run nothing but jobs, and a job ends when each has
// done it. The first one makes them run `stop_this_cpu`.
unsafe impl StopCpus for Captured {
    type Cpu = ThisCpu;

    fn this_cpu(&self) -> ThisCpu {
        self.cpu
    }

    fn stop_other_cpus(&self) -> u32 {
        self.share(&Job::Stop, || ());
        self.online - self.others
    }

    /// They stay captured: the reset is off, and the kernel stops them.
    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<ThisCpu>>(&self, task: &T) {
        let task = from_ref(task).cast();
        // SAFETY: the task, by its own type.
        self.share(&Job::Run { steps: steps::<T>, task }, || unsafe { steps::<T>(task, &self.cpu) });
    }

    fn memory_of_nodes(&self) -> &[NodeRange] {
        nodes::all()
    }
}

/// Does the jobs of the CPU that hands over until that one releases this CPU.
///
/// `is_clean`: other code has written back the caches of this CPU since its last SEAMCALL.
///
/// # Safety
/// `cpu` is this CPU. Interrupts are off since before the call of [`Captured::new`], and this CPU
/// makes no SEAMCALL any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_captured(cpu: u32, is_clean: bool) {
    // SAFETY: the caller's.
    let cpu = unsafe { ThisCpu::pinned_to(cpu) };
    let mut seen = 0;
    loop {
        let jobs = JOBS.load(Ordering::Acquire);
        if jobs == seen {
            shim::progress();
            core::hint::spin_loop();
            continue;
        }
        seen = jobs;
        // SAFETY: the CPU that hands over keeps a job until all have done it.
        match unsafe { JOB.load(Ordering::Relaxed).as_ref() } {
            None => return,
            // SAFETY: the caller's.
            Some(Job::Stop) if is_clean => unsafe { HOST.gate().cpu_is_clean(cpu.id()) },
            Some(Job::Stop) => HOST.stop_this_cpu(cpu),
            // SAFETY: the task, by its own type.
            Some(Job::Run { steps, task }) => unsafe { steps(*task, &cpu) },
        }
        DONE.fetch_add(1, Ordering::Release);
    }
}
