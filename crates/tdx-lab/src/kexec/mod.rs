//! The main job: a kernel brings TDX up on the host's memory with the product's own code, runs TDs,
//! kexecs or panics under a policy, and the next kernel uses memory. The machine counts; the
//! verdict is the machine's.

mod bring_up;
mod handover;
pub mod keep;
mod kernel_log;
mod lines;
mod next_kernel;
mod scenario;

use first_kernel::TdPhase;
use tdx_abi::{Leaf, PageRange};
use tdx_host::{
    handover::{LeftoverTable, OldMemory},
    ledger::Ledger,
    takeover::WrittenBy,
    td::TdHost,
};
use tdx_machine::{CpuId, PartialStore};

use bring_up::{Plan, bring_up, bringup_report};
use handover::{Handed, reset_report};
use lines::PrivateMap;
use next_kernel::Footprint;
pub use scenario::{Hole, KexecOptions, Next};

use crate::{
    platform::{Instant, Lab, LabError, LabKernel},
    report::{
        HoleReport, KexecReport, LedgerReport, LeftoverTableReport, ScenarioReport, StrayReport, TdReport, Verdict,
    },
    tds::{Hypervisor, LabTd, pool, track},
};
use tdx_machine::LIMITS;
use tdx_operator::{
    host::Host,
    images,
    progress::Progress,
    report::{Address, TOOL},
};

/// SYS.TDMR.INIT calls after which [`Hole::BringUp`] stops the kernel: half of the first GiB.
const BRING_UP_STOPS_AFTER: u64 = 128;

/// Runs it from power-on to the verdict. A bring-up that fails is unwound and the handover goes on
/// without TDX.
///
/// # Errors
/// [`LabError`]: the host cannot be emulated, or cannot run so many TDs. A machine check is not an
/// error but a verdict.
pub fn run(host: &Host, options: KexecOptions, progress: &dyn Progress) -> Result<KexecReport, LabError> {
    if options.hole == Some(Hole::Returned) && options.tds == 0 {
        return Err(LabError::Scenario(
            "the hole `returned` is about a page of a TD: ask for one TD at least".to_owned(),
        ));
    }
    if options.keeps() && matches!(options.hole, Some(Hole::BringUp | Hole::DeadModule)) {
        return Err(LabError::Scenario("policy `keep` needs a TDX module that is up and alive".to_owned()));
    }
    let lab = Lab::with_module(host, options.module(), progress)?;
    let mut words = Vec::new();
    let tdx = Box::new(tdx_host::Host::new(lab.slots()));
    let platform = tdx.detect(&lab).map_err(LabError::NoTdx)?;
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    let crash_kernel = if options.crash { images::crash_pages(host) } else { PageRange::default() };
    if !kernel.reserve(crash_kernel) {
        return Err(LabError::Scenario("no room for a crash kernel".to_owned()));
    }
    if !crash_kernel.is_empty() {
        tdx.reserve(&[crash_kernel]).map_err(LabError::scenario)?;
    }

    let mut log = vec![kernel_log::key_ids(&platform)];
    let mut plan = Plan::default();
    let mut up = || bring_up(&lab, &tdx, &mut kernel, host, options.layout, &mut log, &mut plan);
    let result = match options.hole {
        Some(Hole::BringUp) => lab.until(Instant::AfterCall(Leaf::SYS_TDMR_INIT, BRING_UP_STOPS_AFTER), up),
        _ => Some(up()),
    };
    lab.check()?;
    let tdmrs = plan.tdmrs.clone();
    let bringup = bringup_report(host, &lab, plan, result.as_ref(), log);

    let ready = matches!(result, Some(Ok(_)));
    let tds = if ready && options.tds > 0 {
        run_tds(&lab, &mut kernel, track(&tdx, &mut words)?, options)?
    } else {
        Vec::new()
    };
    if options.hole == Some(Hole::DeadModule) {
        kill_module(&lab, &kernel);
    }
    lab.check()?;

    let map = lab.ask(|machine| PrivateMap::of(machine, &tdmrs));
    let private_before = map.count();
    let ledger_report = tdx.ledger().map(ledger_report);
    // A module that meets poison dies, and its TDs with it: this panic has another reason.
    let stray_lines = if options.crash && !options.keeps() { stray_stores(&lab, &map)? } else { Vec::new() };
    if options.keeps() {
        keep::write_words(&kernel.this_cpu(), &tds)?;
    }

    let stored = lab.ask(|machine| machine.counters().lines_direct_stored);
    let Handed { summary, uncleaned, table, jumps, suspects } = if options.crash {
        handover::crash(&kernel, options.policy, tdx.memory())
    } else {
        handover::kexec(&kernel, host, options.policy, tdx.memory(), &keep::vcpus(&tds))
    };
    lab.check()?;
    let mut record = if options.keeps() && ready && jumps {
        let by = if options.crash { WrittenBy::Crash } else { WrittenBy::Kexec };
        Some(keep::record(&lab, &tdx, by, &suspects, tds.iter().filter_map(LabTd::kept))?)
    } else {
        None
    };
    if jumps {
        lab.act(tdx_machine::Machine::kexec_boundary);
    }
    let reset = reset_report(&lab, stored);
    let footprint = if options.crash { Footprint::vmcore(host, crash_kernel) } else { Footprint::everything(host) };
    let footprint = match &record {
        Some(record) => footprint.without(&keep::reserved(record)?),
        None => footprint,
    };
    let heeding = table.as_deref().map(|table| heed(&lab, table, &footprint, &map)).transpose()?;
    let next_kernel = jumps.then(|| lab.act(|machine| next_kernel::run(machine, &footprint, &map)));
    let mut next_kernel = next_kernel.transpose().map_err(LabError::Refused)?;
    if let Some(check) = next_kernel.as_mut().and_then(|next| next.machine_check.as_mut()) {
        check.explained = tdx.explain(check.address.0).to_string();
    }
    let verdict = Verdict::over(next_kernel.as_ref());
    let kept = match &mut record {
        Some(record) if verdict == Verdict::Clean => {
            Some(keep::take_over(&lab.ask(Clone::clone), host, record, options.next(), &tds)?)
        }
        _ => None,
    };
    let verdict = verdict.with_kept(kept.as_ref());
    if let Some(next) = &mut next_kernel
        && verdict == Verdict::Clean
        && ready
        && !options.crash
        && kept.is_none()
    {
        next.tdx = Some(tdx_again(&lab, host, options)?);
    }
    Ok(KexecReport {
        schema: "cleanslate/kexec",
        version: 1,
        tool: TOOL,
        host: host.into(),
        verdict,
        policy: options.policy.name(),
        scenario: ScenarioReport {
            kind: if options.crash { "crash" } else { "kexec" },
            module: options.module_name(),
            hole: options.hole.map(|hole| HoleReport { name: hole.name(), story: hole.story() }),
            crash_kernel: (!crash_kernel.is_empty()).then(|| crash_kernel.into()),
            stray_lines,
        },
        layout: options.layout.name(),
        bringup,
        tds: tds.iter().map(LabTd::report).collect::<Vec<TdReport>>(),
        ledger: ledger_report,
        private_before,
        handover: summary,
        uncleaned,
        leftover_table: heeding,
        reset,
        next_kernel,
        kept,
        limits: LIMITS,
    })
}

/// The TDs of the first kernel, each at its phase; with [`Hole::Returned`] a page of the first is
/// on its way back.
fn run_tds<'h>(
    lab: &Lab<'_>,
    kernel: &mut LabKernel<'_>,
    host: TdHost<'h>,
    options: KexecOptions,
) -> Result<Vec<LabTd<'h>>, LabError> {
    let Some(pool) = pool(host.ledger(), kernel, options.tds) else {
        return Err(LabError::Scenario(format!("no TDMR has room for the pages of {} TDs", options.tds)));
    };
    let mut hypervisor = Hypervisor::new(lab, kernel, host, pool);
    if options.keeps() {
        hypervisor = hypervisor.of_debug_tds();
    }
    let mut tds = Vec::new();
    for number in 0..options.tds {
        tds.push(hypervisor.live(number, TdPhase::of(number)).map_err(LabError::scenario)?);
    }
    if let (Some(Hole::Returned), Some(first)) = (options.hole, tds.first_mut()) {
        hypervisor.leave_returned(first).map_err(LabError::scenario)?;
    }
    Ok(tds)
}

/// The module dies in a call that changes nothing.
fn kill_module(lab: &Lab<'_>, kernel: &LabKernel<'_>) {
    lab.act(|machine| machine.inject(tdx_machine::Fault::Crash, tdx_machine::When::Call(1)));
    let _ = tdx_host::seamcall::call(&kernel.this_cpu(), tdx_abi::Registers::call(Leaf::PHYMEM_PAGE_RDMD));
}

/// Why the kernel dies: a wild pointer writes a part of one line of each kind of private memory,
/// which poisons them.
fn stray_stores(lab: &Lab<'_>, map: &PrivateMap) -> Result<Vec<StrayReport>, LabError> {
    let mut stray = Vec::new();
    for (line, kind) in map.one_of_each() {
        let lines = tdx_abi::LineRange::single(line);
        lab.act(|machine| machine.partial_write(CpuId(0), lines, tdx_abi::KeyId::HOST, PartialStore::NonTemporal))
            .map_err(LabError::Refused)?;
        stray.push(StrayReport { address: Address(line.start()), kind });
    }
    Ok(stray)
}

fn ledger_report(ledger: &Ledger<'_>) -> LedgerReport {
    LedgerReport {
        bytes: ledger.bytes(),
        covered_bytes: ledger.ranges().map(PageRange::bytes).sum(),
        marked_pages: ledger.marked_pages(),
        unknown_to_module_pages: ledger.unknown_to_module().map(PageRange::pages).sum(),
        leaked_pages: ledger.leaked_pages(),
    }
}

/// What the table of leftovers says to the next kernel, and what becomes of one that heeds it, on a
/// copy of the machine.
fn heed(lab: &Lab<'_>, table: &[u8], footprint: &Footprint, map: &PrivateMap) -> Result<LeftoverTableReport, LabError> {
    let read = LeftoverTable::read(table).map_err(LabError::scenario)?;
    let OldMemory::Listed(leftovers) = read.old_memory else {
        return Ok(LeftoverTableReport { bytes: table.len(), entries: None, verdict_if_heeded: None });
    };
    let mut pages: Vec<PageRange> = leftovers.map(|left| left.range).collect();
    pages.sort_unstable_by_key(|range| range.start());
    let verdict_if_heeded = if pages.is_empty() {
        None
    } else {
        let mut machine = lab.ask(Clone::clone);
        let next = next_kernel::run(&mut machine, &footprint.without(&pages), map).map_err(LabError::Refused)?;
        Some(Verdict::over(Some(&next)))
    };
    Ok(LeftoverTableReport { bytes: table.len(), entries: u32::try_from(pages.len()).ok(), verdict_if_heeded })
}

/// The next kernel brings TDX up itself: it works if the module was disabled, and the module's word
/// if not.
fn tdx_again(lab: &Lab<'_>, host: &Host, options: KexecOptions) -> Result<String, LabError> {
    let again = Lab::on(lab.ask(Clone::clone), &())?;
    let tdx = Box::new(tdx_host::Host::new(again.slots()));
    tdx.detect(&again).map_err(LabError::NoTdx)?;
    let mut kernel = LabKernel::new(&again, &tdx, host);
    let result = bring_up(&again, &tdx, &mut kernel, host, options.layout, &mut Vec::new(), &mut Plan::default());
    Ok(match result {
        Ok(_) => "TDX brought up again".to_owned(),
        Err(error) => error.to_string(),
    })
}
