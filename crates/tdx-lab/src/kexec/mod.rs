//! The main job: a kernel brings TDX up on the host's memory with the product's own code, kexecs under a policy, and the next
//! kernel writes and reads all of memory. The machine counts; the verdict is the machine's.

mod kernel_log;
mod lines;
mod next_kernel;

use tdx_abi::{TdxFeatures0, subtract};
use tdx_host::{
    bringup::{Bringup, BringupError, ModuleInfo},
    handover::{HandoverReport, HostMemory, Kexec, KexecKind, LeftPrivate, NothingToDo, Outcome, Policy},
    layout::{Algorithm, Layout},
    platform::{TdxPlatform, detect},
    private_memory::PrivateMemory,
};

use crate::{
    host::Host,
    images,
    plan::{algorithm_name, tdmrs},
    platform::{Lab, LabError, LabKernel, Progress},
    report::{
        BringupReport, HandoverSummary, KexecReport, LIMITS, ResetReport, SeamcallCount, TOOL, UnwoundReport, Verdict,
    },
};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KexecOptions {
    /// What the handover does with private memory.
    pub policy: Policy,
    /// How TDMRs are laid out.
    pub algorithm: Algorithm,
}

/// The name of a policy on the command line.
pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::Tracked => "tracked",
        Policy::Module => "module",
        Policy::ModuleOnly => "module-only",
        Policy::Pamt => "pamt",
        Policy::Everything => "everything",
        Policy::None => "none",
        Policy::Refuse => "refuse",
    }
}

/// Runs it from power-on to the verdict. A bring-up that fails is unwound and the kexec goes on without TDX.
///
/// # Errors
/// [`LabError`]: the host cannot be emulated. A machine check is not an error but a verdict.
pub fn run(host: &Host, options: KexecOptions, progress: &dyn Progress) -> Result<KexecReport, LabError> {
    let lab = Lab::new(host, progress)?;
    let platform = detect(&lab).map_err(LabError::NoTdx)?;
    let record = Box::new(<PrivateMemory>::new());
    let mut layout = Box::new(Layout::new());
    let mut kernel = LabKernel::new(&lab, host, Some(platform));

    let mut log = vec![kernel_log::key_ids(&platform)];
    let result = bring_up(&lab, &mut kernel, platform, &record, &mut layout, host, options.algorithm, &mut log);
    lab.check()?;
    let features = result.as_ref().ok().map(|module| module.features);
    let bringup = bringup_report(host, &lab, &layout, &result, log);
    let private_before = lab.ask(|machine| lines::private(machine, &layout));

    let stored = lab.ask(|machine| machine.counters().lines_direct_stored);
    let (handover, jumps) = hand_over(&lab, &kernel, host, options.policy, &platform, features, &record);
    if jumps {
        lab.act(tdx_machine::Machine::kexec_boundary);
    }
    lab.check()?;
    let reset = reset_report(&lab, stored);
    let next_kernel = jumps.then(|| lab.act(|machine| next_kernel::run(machine, host, &layout)));
    let next_kernel = next_kernel.transpose().map_err(LabError::Refused)?;
    let verdict = Verdict::over(next_kernel.as_ref());
    Ok(KexecReport {
        schema: "cleanslate/kexec",
        version: 1,
        tool: TOOL,
        host: host.into(),
        verdict,
        policy: policy_name(options.policy),
        layout: algorithm_name(options.algorithm),
        bringup,
        private_before,
        handover,
        reset,
        next_kernel,
        limits: LIMITS,
    })
}

/// All steps of a bring-up, with what the kernel prints on the way.
#[expect(clippy::too_many_arguments, reason = "each is a part that a kernel owns apart from the others")]
fn bring_up<'k>(
    lab: &Lab<'_>,
    kernel: &'k mut LabKernel<'_>,
    platform: TdxPlatform,
    record: &'k PrivateMemory,
    layout: &'k mut Layout,
    host: &Host,
    algorithm: Algorithm,
    log: &mut Vec<String>,
) -> Result<ModuleInfo, BringupError> {
    let known = Bringup::start(kernel, platform, record, layout)?.sys_init()?.init_cpus()?.read_module_info()?;
    log.extend(kernel_log::module(known.module()));
    let planned = known.plan(host.memory(), algorithm)?;
    let gib = planned.layout().tdmrs().iter().map(|tdmr| tdmr.range().bytes() >> 30).sum::<u64>();
    // Module 1.5.01 takes 256 calls for each GiB; the rest of a bring-up is lost in that.
    lab.expect_seamcalls(256 * gib);
    let ready = planned.configure()?.configure_keys()?.init_tdmrs()?;
    Ok(ready.module)
}

fn bringup_report(
    host: &Host,
    lab: &Lab<'_>,
    layout: &Layout,
    result: &Result<ModuleInfo, BringupError>,
    mut log: Vec<String>,
) -> BringupReport {
    let calls = lab.ask(|machine| machine.counters().seamcalls.clone());
    let mut report = BringupReport {
        result: "ok".to_owned(),
        error: None,
        log: Vec::new(),
        module: None,
        tdmrs: layout.tdmr_count(),
        pamt_kb: layout.pamt_kb(),
        equals_log: None,
        tdmr_table: tdmrs(layout),
        seamcalls: calls
            .into_iter()
            .map(|((leaf, status), count)| SeamcallCount {
                leaf: leaf.to_string(),
                status: status.with(0).to_string(),
                count,
            })
            .collect(),
        unwound: None,
    };
    match result {
        Ok(module) => {
            log.extend(kernel_log::up(layout));
            report.module = Some(module.version.to_string());
            report.equals_log = host.logged().pamt_kb.map(|kb| kb == layout.pamt_kb());
        }
        Err(error) => {
            log.extend(kernel_log::failed(error));
            report.result = error.errno().to_string();
            report.error = Some(error.to_string());
            let unwound = error.unwound;
            report.unwound = Some(UnwoundReport { reset_lines: unwound.reset_lines, freed_bytes: unwound.freed_bytes });
        }
    }
    report.log = log;
    report
}

/// The handover, and whether the jump happens.
fn hand_over(
    lab: &Lab<'_>,
    kernel: &LabKernel<'_>,
    host: &Host,
    policy: Policy,
    platform: &TdxPlatform,
    features: Option<TdxFeatures0>,
    record: &PrivateMemory,
) -> (HandoverSummary, bool) {
    let stays = |outcome, why: String| (HandoverSummary { outcome, why, lines: 0, ranges: 0 }, false);
    let memory =
        HostMemory { platform: Some(platform), features, record, ledger: None, gate: lab.gate(), untouched: &[] };
    let kexec = match Kexec::begin(policy, KexecKind::Normal, memory) {
        Ok(kexec) => kexec,
        Err(refused) => return stays("refused", refused.to_string()),
    };
    let stopped = match kexec.stop_other_cpus(kernel) {
        Ok(stopped) => stopped,
        Err(error) => return stays("not-alone", error.to_string()),
    };
    let images = images::pages(host);
    let memory = host.memory().iter().map(|piece| piece.range);
    let report = stopped.ask_module(|_| ()).write_back_caches().reset(subtract(memory, [images]));
    (summary(&report), true)
}

fn summary(report: &HandoverReport) -> HandoverSummary {
    let (outcome, why) = match report.outcome {
        Outcome::Reset(_) => ("reset", "every line that may have been private was written with MOVDIR64B"),
        Outcome::NothingToDo(reason) => ("nothing-to-do", nothing_to_do(reason)),
        Outcome::LeftPrivate(LeftPrivate::PolicyNone) => ("left-private", "the policy is to reset nothing"),
        Outcome::LeftPrivate(LeftPrivate::ModuleOnly) => ("left-private", "what the module does not clear stays"),
        Outcome::LeftPrivate(_) => ("left-private", "this kernel comes back and goes on using TDX"),
    };
    let (lines, ranges) = match report.outcome {
        Outcome::Reset(count) => (count.lines, count.ranges),
        _ => (0, 0),
    };
    HandoverSummary { outcome, why: why.to_owned(), lines, ranges }
}

fn nothing_to_do(reason: NothingToDo) -> &'static str {
    match reason {
        NothingToDo::NoTdx => "this machine has no TDX",
        NothingToDo::NoPrivateMemory => "no memory was ever handed to the module",
        NothingToDo::NoErratum => "this CPU does not have the partial-write erratum: leftovers do no harm",
        _ => "nothing that could do harm",
    }
}

fn reset_report(lab: &Lab<'_>, stored_before: u64) -> ResetReport {
    lab.ask(|machine| ResetReport {
        lines: machine.counters().lines_direct_stored - stored_before,
        private_lines_left: machine.private_lines(),
        dirty_private_lines_left: machine.dirty_private_lines(),
        poisoned_lines_left: machine.all_poisoned_runs().iter().map(|run| run.lines.len()).sum(),
    })
}
