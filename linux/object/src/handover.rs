//! Kexec and crash: checks at image load, caches of CPUs that stop, the reset before the jump.

use core::ffi::c_char;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tdx_host::{
    handover::{HandoverReport, KexecKind, NmiStop, Outcome, Policy, StopCause, StopCpus, stop_this_cpu_at_crash},
    platform::{CpuId, CpuTask, Step},
};

use crate::captured::Captured;
use crate::cpu::ThisCpu;
use crate::shares::start_count;
use crate::{EPERM, HOST, keep, shim};

/// The machine in `machine_kexec`: the kernel has stopped the other CPUs.
struct Alone {
    cpu: ThisCpu,
    /// Running CPUs, this one included.
    online: u32,
    /// `nr_cpu_ids`.
    possible: u32,
}

// SAFETY: the kernel has stopped the other CPUs (`cleanslate_stop_this_cpu`) and counts those that
// run.
unsafe impl StopCpus for Alone {
    type Cpu = ThisCpu;

    fn this_cpu(&self) -> ThisCpu {
        self.cpu
    }

    fn stop_other_cpus(&self) -> u32 {
        self.online
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<ThisCpu>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.cpu, &mut local) == Step::Again {
            shim::progress();
        }
    }
}

// SAFETY: the kernel has sent its NMIs, and a CPU that has run `cleanslate_stop_this_cpu_at_crash`
// halts.
unsafe impl NmiStop for Alone {
    /// The kernel has sent its NMIs.
    fn stop_other_cpus(&self) {}

    /// For CPUs that have made SEAMCALLs.
    fn is_online(&self, cpu: CpuId) -> bool {
        cpu.0 < self.possible
    }
}

/// Result of a handover.
#[repr(C)]
pub struct Handover {
    /// Lines that were written.
    pub lines: u64,
    /// CPUs that may still hold private lines.
    pub suspects: u32,
    /// No private memory is left, as far as it is tracked.
    pub clean: bool,
    /// TDX was kept for the next kernel with its TDs, and what no TD needs was reset.
    pub kept: bool,
    /// No private memory is left and no other CPU runs, with or without the steps of a kexec.
    pub none_left: bool,
    /// Other CPUs that were still running.
    pub running: u32,
    /// Why the reset was done without the steps of a kexec, or null. If TDX was kept: what the next
    /// kernel will miss, or null.
    pub forced: *const c_char,
    /// Lines that could not be written.
    pub left: u64,
}

impl Default for Handover {
    fn default() -> Self {
        Self {
            lines: 0,
            suspects: 0,
            clean: false,
            kept: false,
            none_left: false,
            running: 0,
            forced: core::ptr::null(),
            left: 0,
        }
    }
}

/// What was written, or could not be.
fn lines_of(report: &HandoverReport) -> Handover {
    let (lines, left) = match report.outcome {
        Outcome::Reset(count) | Outcome::Kept(count) => (count.lines, count.left),
        _ => (0, 0),
    };
    Handover { lines, suspects: report.suspects.may_hold_private_lines, left, ..Handover::default() }
}

fn kept(report: &HandoverReport) -> Handover {
    let forced = report.not_flushed.map_or(core::ptr::null(), |_| c"a VCPU could not be flushed".as_ptr());
    Handover { kept: true, clean: true, forced, ..lines_of(report) }
}

fn outcome(report: &HandoverReport) -> Handover {
    let clean = report.is_clean(&HOST.memory());
    Handover { clean, none_left: clean, ..lines_of(report) }
}

/// Reset all tracked memory.
pub const CLEANSLATE_POLICY_TRACKED: u32 = 0;
/// Ask the TDX module (TDH.SYS.DISABLE), then reset.
pub const CLEANSLATE_POLICY_MODULE: u32 = 1;
/// Refuse kexec images while memory may be private.
pub const CLEANSLATE_POLICY_REFUSE: u32 = 2;

/// Keep TDX for a next kernel that takes it over, else as [`CLEANSLATE_POLICY_TRACKED`].
pub const CLEANSLATE_POLICY_KEEP: u32 = 3;

/// The policy of the module parameter.
fn policy(number: u32) -> Policy {
    match number {
        CLEANSLATE_POLICY_KEEP => Policy::Keep,
        CLEANSLATE_POLICY_TRACKED => Policy::Tracked,
        CLEANSLATE_POLICY_MODULE => Policy::Module,
        _ => Policy::Refuse,
    }
}

/// Checks whether an image may be loaded for a kexec. 0, or a negative errno. Crash images are not
/// checked: they run in memory that was never private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_check_load(policy: u32) -> i32 {
    match HOST.check_image_load(self::policy(policy), KexecKind::Normal, &[]) {
        Ok(()) => 0,
        Err(_) => -EPERM,
    }
}

/// Writes back the caches of a CPU that stops for a kexec, or goes offline.
///
/// # Safety
/// `cpu` is this CPU. Interrupts are off, so that it makes no SEAMCALL meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_stop_this_cpu(cpu: u32) {
    // SAFETY: the caller's.
    HOST.stop_this_cpu(unsafe { ThisCpu::pinned_to(cpu) });
}

/// CPUs in [`cleanslate_stop_this_cpu_at_crash`].
static WRITING_BACK: AtomicU32 = AtomicU32::new(0);

/// Writes back the caches of a CPU that an NMI stops at a crash, if they may hold private lines.
///
/// # Safety
/// `cpu` is this CPU, in an NMI.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_stop_this_cpu_at_crash(cpu: u32) {
    WRITING_BACK.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the caller's.
    stop_this_cpu_at_crash(&unsafe { ThisCpu::pinned_to(cpu) });
    WRITING_BACK.fetch_sub(1, Ordering::SeqCst);
}

/// CPUs that are writing back their caches at a crash.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_writing_back() -> u32 {
    WRITING_BACK.load(Ordering::SeqCst)
}

/// Notes that other code has written back the caches of a CPU that stops, or is offline.
///
/// # Safety
/// The CPU has made no SEAMCALL since, and makes none before it calls this object again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_cpu_is_clean(cpu: u32) {
    // SAFETY: the caller's.
    unsafe { HOST.gate().cpu_is_clean(CpuId(cpu)) };
}

/// Right before the jump of a kexec; the kernel has stopped the other CPUs.
pub const CLEANSLATE_KEXEC: u32 = 0;
/// Right before the jump into a crash kernel.
pub const CLEANSLATE_CRASH: u32 = 1;
/// On all CPUs; the others are in [`cleanslate_captured`](crate::captured::cleanslate_captured).
pub const CLEANSLATE_TOGETHER: u32 = 2;
/// Right before the jump of a kexec, after [`CLEANSLATE_TOGETHER`].
pub const CLEANSLATE_REST: u32 = 3;

/// All memory was reset by all CPUs together, and no SEAMCALL was made since.
static COMPLETE: AtomicBool = AtomicBool::new(false);

/// A SEAMCALL is about to be made: what was reset may become private again. In its way on every
/// CPU: it only reads, but for once.
pub fn seamcall_is_made() {
    if COMPLETE.load(Ordering::Relaxed) {
        COMPLETE.store(false, Ordering::SeqCst);
    }
}

/// The steps of a kexec, up to the reset.
fn kexec(policy: Policy, cpus: &impl StopCpus<Cpu = ThisCpu>) -> Result<Handover, Handover> {
    let refused = Handover { forced: c"this kexec should have been refused".as_ptr(), ..Handover::default() };
    let kexec = HOST.kexec(policy, KexecKind::Normal).map_err(|_| refused)?;
    match kexec.stop_other_cpus(cpus) {
        Ok(stopped) if policy == Policy::Keep => {
            let report = keep::leave(stopped);
            report.map(|report| kept(&report)).map_err(|why| Handover { forced: why.as_ptr(), ..Handover::default() })
        }
        Ok(stopped) => Ok(outcome(&stopped.ask_module(|_| shim::progress()).write_back_caches().reset())),
        Err(error) => {
            let (forced, running) = match error.cause {
                StopCause::NotAlone(suspects) => (c"other CPUs are still running", suspects.not_stopped),
                StopCause::HandoverUnderWay => (c"another handover was under way", 0),
                StopCause::OtherGate => (c"this CPU is not of this host", 0),
                _ => (c"the other CPUs could not be stopped", 0),
            };
            Err(Handover { running, forced: forced.as_ptr(), ..Handover::default() })
        }
    }
}

/// Resets all memory that may be private. `cpu` is this CPU, `online` counts running CPUs,
/// `possible` is `nr_cpu_ids`. `when` is one of the four above.
///
/// # Safety
/// With interrupts off, right before the jump into the next kernel: nothing else writes to memory
/// that is reset, and nothing uses it later. [`CLEANSLATE_TOGETHER`]: all other CPUs that run are
/// in `cleanslate_captured`, or about to call it and run nothing else, and this one runs nothing
/// else up to the jump either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_hand_over(
    policy: u32,
    cpu: u32,
    online: u32,
    possible: u32,
    when: u32,
) -> Handover {
    start_count();
    // SAFETY: the caller's: interrupts are off from here to the jump.
    let this_cpu = unsafe { ThisCpu::pinned_to(cpu) };
    let alone = Alone { cpu: this_cpu, online, possible };
    let policy = self::policy(policy);
    // What is not kept is reset, and then there is no table for the next kernel.
    let at_any_price = || {
        keep::wipe();
        let policy = if policy == Policy::Keep { Policy::Tracked } else { policy };
        outcome(&HOST.crash(policy, &alone.cpu, &alone))
    };
    // Past the point of no return: reset regardless of policy or running CPUs.
    let in_spite_of = |why: Handover| {
        let done = at_any_price();
        let none_left = done.none_left && online == 1;
        Handover { clean: false, none_left, running: why.running, forced: why.forced, ..done }
    };
    if policy != Policy::Keep && when != CLEANSLATE_REST {
        keep::wipe();
    }
    match when {
        CLEANSLATE_CRASH => at_any_price(),
        CLEANSLATE_TOGETHER => {
            // SAFETY: the caller's.
            let others = unsafe { Captured::new(this_cpu, online) };
            let done = kexec(policy, &others);
            COMPLETE.store(done.as_ref().is_ok_and(|done| done.clean && !done.kept), Ordering::SeqCst);
            // What is missing here is done before the jump.
            done.unwrap_or_else(|why| why)
        }
        CLEANSLATE_REST if keep::is_kept() && online == 1 => {
            Handover { clean: true, kept: true, ..Handover::default() }
        }
        CLEANSLATE_REST if COMPLETE.load(Ordering::SeqCst) && online == 1 => {
            Handover { clean: true, none_left: true, ..Handover::default() }
        }
        CLEANSLATE_REST => in_spite_of(Handover {
            running: online.saturating_sub(1),
            forced: c"not all were reset by all CPUs together".as_ptr(),
            ..Handover::default()
        }),
        _ => kexec(policy, &alone).unwrap_or_else(in_spite_of),
    }
}
