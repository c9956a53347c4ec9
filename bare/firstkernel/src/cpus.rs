//! Work on all CPUs: jobs, stop for kexec with acknowledgement, NMI stop for a crash.
//!
//! One job at a time. Idle CPUs wait in HLT for the wake-up interrupt.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use metal::lapic::{self, Ipi};
use metal::{clock, interrupts, registers};
use tdx_host::{
    handover::{NmiStop, StopCpus, stop_this_cpu_at_crash},
    platform::{CpuId, CpuTask, Cpus, PackageId, Step},
};

use crate::cpu::{HardwareCpu, TDX};
use crate::vmx;

/// A job: a function and its argument, valid until every CPU has completed it.
struct Job {
    run: AtomicUsize,
    argument: AtomicPtr<()>,
    /// CPUs that run the job, one bit each. The others only acknowledge it.
    targets: AtomicU64,
    number: AtomicU64,
    done: AtomicU32,
}

static JOB: Job = Job {
    run: AtomicUsize::new(0),
    argument: AtomicPtr::new(ptr::null_mut()),
    targets: AtomicU64::new(0),
    number: AtomicU64::new(0),
    done: AtomicU32::new(0),
};

static ONLINE: AtomicU32 = AtomicU32::new(1);
static PACKAGES: [AtomicU32; metal::MAX_CPUS] = [const { AtomicU32::new(0) }; metal::MAX_CPUS];
static CRASHING: AtomicBool = AtomicBool::new(false);
static CRASHED: AtomicU32 = AtomicU32::new(0);

/// Time for a CPU to stop, in microseconds. Linux: one second.
const STOP_TIME: u64 = 1_000_000;

/// Runs jobs on a CPU other than the boot CPU.
pub fn run_jobs(cpu: usize) -> ! {
    let mut seen = 0;
    PACKAGES[cpu].store(tdx_host::platform::Cpu::package(&HardwareCpu::this()).0, Ordering::Release);
    loop {
        // Interrupts are enabled only in the wait, so a wake-up after the check is not lost.
        while JOB.number.load(Ordering::Acquire) == seen {
            registers::wait_for_interrupt();
        }
        seen = JOB.number.load(Ordering::Acquire);
        if JOB.targets.load(Ordering::Acquire) >> cpu & 1 == 1 {
            // SAFETY: `post` stores a function of this type, with an argument that lives until all
            // CPUs are done with it.
            unsafe {
                let run: unsafe fn(*const ()) = core::mem::transmute(JOB.run.load(Ordering::Acquire));
                run(JOB.argument.load(Ordering::Acquire));
            }
        }
        JOB.done.fetch_add(1, Ordering::AcqRel);
    }
}

/// The CPUs of this kernel, from the boot CPU.
#[derive(Clone, Copy, Debug)]
pub struct AllCpus;

impl AllCpus {
    /// Sets the number of online CPUs.
    pub fn set_online(count: usize) {
        ONLINE.store(count as u32, Ordering::Release);
    }

    /// Number of online CPUs.
    pub fn count() -> u32 {
        ONLINE.load(Ordering::Acquire)
    }

    fn others() -> u64 {
        ((1 << Self::count()) - 1) & !(1 << metal::smp::this_cpu())
    }

    /// Posts a job for some CPUs.
    ///
    /// # Safety
    /// `argument` is what `run` takes, may be used by several CPUs at once, and lives until
    /// [`Self::wait`] has returned true. One job at a time.
    unsafe fn post(targets: u64, run: unsafe fn(*const ()), argument: *const ()) {
        JOB.run.store(run as usize, Ordering::Release);
        JOB.argument.store(argument.cast_mut(), Ordering::Release);
        JOB.targets.store(targets, Ordering::Release);
        JOB.done.store(0, Ordering::Release);
        JOB.number.fetch_add(1, Ordering::AcqRel);
        for cpu in (0..Self::count()).filter(|cpu| Self::others() >> cpu & 1 == 1) {
            lapic::send(cpu, Ipi::Fixed(interrupts::WAKE));
        }
    }

    /// Waits until all CPUs have completed or acknowledged the job. False after `micros`.
    fn wait(micros: u64) -> bool {
        let others = Self::others().count_ones();
        clock::wait_for(micros, || JOB.done.load(Ordering::Acquire) == others)
    }

    fn run<T: CpuTask<HardwareCpu>>(targets: u64, task: &T) {
        // SAFETY: the task is `Sync`, and it lives until the wait below is over, which has no end
        // but that.
        unsafe { Self::post(targets, run_task::<T>, ptr::from_ref(task).cast()) };
        if targets >> metal::smp::this_cpu() & 1 == 1 {
            complete(task);
        }
        while !Self::wait(STOP_TIME) {}
    }

    /// Every CPU leaves VMX operation, in which INIT is blocked, and the others wait for SIPI of
    /// the next kernel.
    pub fn park_others() {
        Self::run(u64::MAX, &LeaveVmx);
        for cpu in (0..Self::count()).filter(|cpu| Self::others() >> cpu & 1 == 1) {
            lapic::send(cpu, Ipi::Init);
        }
    }
}

/// VMXOFF. Not before the handover is done with SEAMCALLs: what a CPU holds of a VCPU that was not
/// flushed is lost.
struct LeaveVmx;

impl CpuTask<HardwareCpu> for LeaveVmx {
    type Local = ();

    fn step(&self, _cpu: &HardwareCpu, (): &mut ()) -> Step {
        vmx::leave();
        Step::Done
    }
}

/// # Safety
/// `task` points to a `T` that several CPUs may use.
unsafe fn run_task<T: CpuTask<HardwareCpu>>(task: *const ()) {
    // SAFETY: promised by the caller.
    complete(unsafe { &*task.cast::<T>() });
}

fn complete<T: CpuTask<HardwareCpu>>(task: &T) {
    let (cpu, mut local) = (HardwareCpu::this(), T::Local::default());
    while task.step(&cpu, &mut local) == Step::Again {}
}

/// # Safety
/// None; the type is that of a job.
unsafe fn stop(_argument: *const ()) {
    TDX.stop_this_cpu(HardwareCpu::this());
}

// SAFETY: a job is done when every CPU has seen it to its end, and the effects of each are released
// to the CPU that waits.
unsafe impl Cpus for AllCpus {
    type Cpu = HardwareCpu;

    fn run_on_all<T: CpuTask<HardwareCpu>>(&self, task: &T) {
        Self::run(u64::MAX, task);
    }

    fn run_on_each_package<T: CpuTask<HardwareCpu>>(&self, task: &T) {
        PACKAGES[metal::smp::this_cpu()]
            .store(tdx_host::platform::Cpu::package(&HardwareCpu::this()).0, Ordering::Release);
        let package = |cpu: u32| PackageId(PACKAGES[cpu as usize].load(Ordering::Acquire));
        for cpu in 0..Self::count() {
            if (0..cpu).all(|before| package(before) != package(cpu)) {
                Self::run(1 << cpu, task);
            }
        }
    }

    fn run_here<R>(&self, function: impl FnOnce(&HardwareCpu) -> R) -> R {
        function(&HardwareCpu::this())
    }
}

// SAFETY: `stop` is a job: `wait` counts the CPUs that have come to its end, and a CPU does nothing
// but jobs.
unsafe impl StopCpus for AllCpus {
    type Cpu = HardwareCpu;

    fn this_cpu(&self) -> HardwareCpu {
        HardwareCpu::this()
    }

    fn stop_other_cpus(&self) -> u32 {
        // SAFETY: `stop` uses no argument.
        unsafe { Self::post(u64::MAX, stop, ptr::null()) };
        if Self::wait(STOP_TIME) { 1 } else { 1 + Self::others().count_ones() - JOB.done.load(Ordering::Acquire) }
    }

    /// Nothing to do: a stopped CPU waits for the next job.
    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<HardwareCpu>>(&self, task: &T) {
        Self::run(u64::MAX, task);
    }
}

// SAFETY: `nmi` halts behind `stop_this_cpu_at_crash`; the wait is bounded; online is what has come
// up.
unsafe impl NmiStop for AllCpus {
    fn stop_other_cpus(&self) {
        CRASHING.store(true, Ordering::SeqCst);
        for cpu in (0..Self::count()).filter(|cpu| Self::others() >> cpu & 1 == 1) {
            lapic::send(cpu, Ipi::Nmi);
        }
        let others = Self::others().count_ones();
        clock::wait_for(STOP_TIME, || CRASHED.load(Ordering::Acquire) >= others);
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        cpu.0 < Self::count()
    }
}

/// NMI handler: stops this CPU if another one is handling a crash.
pub fn nmi() {
    if CRASHING.load(Ordering::SeqCst) {
        stop_this_cpu_at_crash(&HardwareCpu::this());
        vmx::leave();
        CRASHED.fetch_add(1, Ordering::AcqRel);
        registers::halt();
    }
}
