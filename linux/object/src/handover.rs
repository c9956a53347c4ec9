//! The way out: stopping CPUs, the reset before the jump, and what is refused at image load.

use tdx_host::{
    handover::{
        HandoverReport, HostMemory, HostParts, Kexec, KexecKind, LedgerRef, LiveLedger, NmiStop, Outcome, Policy,
        StopCpus, check_image_load, hand_over_crash, stop_this_cpu, stop_this_cpu_at_crash,
    },
    ledger::Ledger,
    platform::{CpuId, CpuTask, Step},
};

use crate::cpu::{GATE, ThisCpu};
use crate::{EPERM, RECORD, host, ledger, platform};

/// The machine as `machine_kexec` finds it: the kernel has stopped the other CPUs.
struct Alone {
    cpu: ThisCpu,
    /// CPUs that run, this one included.
    online: u32,
    /// CPUs that there can be.
    possible: u32,
}

// SAFETY: the kernel has stopped the other CPUs (`cleanslate_stop_this_cpu`) and counts those that run.
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
        while task.step(&self.cpu, &mut local) == Step::Again {}
    }
}

// SAFETY: the kernel has sent its NMIs, and a CPU that has run `cleanslate_stop_this_cpu_at_crash` halts.
unsafe impl NmiStop for Alone {
    /// The kernel has sent its NMIs.
    fn stop_other_cpus(&self) {}

    /// Asked about CPUs that have made SEAMCALLs.
    fn is_online(&self, cpu: CpuId) -> bool {
        cpu.0 < self.possible
    }
}

/// What a handover did.
#[repr(C)]
#[derive(Default)]
pub struct Handover {
    /// Lines rewritten.
    pub lines: u64,
    /// CPUs that may still hold private lines.
    pub suspects: u32,
    /// Nothing private is left, as far as this module knows.
    pub clean: bool,
    /// Some CPU has not stopped.
    pub not_alone: bool,
}

/// What is private, as of now.
pub fn memory() -> HostMemory<'static> {
    let parts = HostParts {
        platform: platform(),
        features: host::features(),
        record: &RECORD,
        ledger: LedgerRef::Live(&InUse),
        gate: GATE.handle(),
        reserved: &[],
    };
    // SAFETY: this object has one of each, and uses them for everything.
    unsafe { HostMemory::new(parts) }
}

/// The ledger of this module's TDs, or of the kernel's.
struct InUse;

impl LiveLedger for InUse {
    fn ledger(&self) -> Option<&Ledger<'_>> {
        ledger()
    }
}

fn told(report: &HandoverReport) -> Handover {
    let lines = match report.outcome {
        Outcome::Reset(count) => count.lines,
        _ => 0,
    };
    let suspects = report.suspects.may_hold_private_lines;
    Handover { lines, suspects, clean: report.is_clean(&memory()), not_alone: false }
}

/// `policy=none`, for comparison: nothing is reset. No policy of `tdx-host`.
const NONE: u32 = 1;

/// The policies that the module's parameter can name, but [`NONE`].
fn policy(number: u32) -> Policy {
    match number {
        0 => Policy::Tracked,
        _ => Policy::Refuse,
    }
}

/// May an image be loaded for a kexec? 0, or a negative errno. A crash image always may: it lives
/// in memory that was never private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_check_load(policy: u32) -> i32 {
    if policy == NONE {
        return 0;
    }
    match check_image_load(self::policy(policy), KexecKind::Normal, &memory(), &[]) {
        Ok(()) => 0,
        Err(_) => -EPERM,
    }
}

/// The kernel stops this CPU for good: its caches are written back.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_stop_this_cpu(cpu: u32) {
    // SAFETY: the kernel calls this on that CPU, with interrupts off.
    stop_this_cpu(unsafe { ThisCpu::pinned_to(cpu) }, platform());
}

/// An NMI stops this CPU because another panics: its caches are written back if they may hold
/// private lines.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_stop_this_cpu_at_crash(cpu: u32) {
    // SAFETY: the kernel calls this on that CPU, in an NMI.
    stop_this_cpu_at_crash(&unsafe { ThisCpu::pinned_to(cpu) });
}

/// Resets all that may be private. `online` counts the CPUs that run, of which this is `cpu`;
/// `possible` those that there can be.
///
/// # Safety
/// Called right before the jump into the next kernel, with interrupts off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_hand_over(
    policy: u32,
    cpu: u32,
    online: u32,
    possible: u32,
    crash: bool,
) -> Handover {
    // SAFETY: the caller's: interrupts are off from here to the jump.
    let alone = Alone { cpu: unsafe { ThisCpu::pinned_to(cpu) }, online, possible };
    if policy == NONE {
        let clean = memory().private_ranges().next().is_none();
        return Handover { clean, ..Handover::default() };
    }
    let policy = self::policy(policy);
    if crash {
        return told(&hand_over_crash(policy, &alone.cpu, &alone, &memory()));
    }
    // From here nobody comes back, whatever the policy was to refuse, and whoever still runs.
    let at_any_price = || told(&hand_over_crash(policy, &alone.cpu, &alone, &memory()));
    let Ok(kexec) = Kexec::begin(policy, KexecKind::Normal, memory()) else { return at_any_price() };
    match kexec.stop_other_cpus(&alone) {
        Ok(stopped) => told(&stopped.ask_module(|_| ()).write_back_caches().reset()),
        Err(_) => Handover { not_alone: true, clean: false, ..at_any_price() },
    }
}
