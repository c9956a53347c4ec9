//! Plays a scenario with the product's own code, watched by the explorer. Each run builds its
//! kernel anew; the machine may be one on which TDX is up already.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, OnceLock};

use tdx_abi::{KeyId, Leaf, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::{
    dynamic_pamt::DynamicPamt,
    gate::CpuSlot,
    handover::{KexecKind, offline_this_cpu},
    layout::{FrameRequest, FrameSource, Tdmr},
    ledger::Ledger,
    platform::{Cpu as _, CpuId, TdxPlatform},
};
use tdx_machine::{Machine, MachineConfig, PartialStore};

use super::branch::End;
use super::bug::Special;
use super::explorer::{Explorer, Plan, Tally};
use super::foreign;
use super::history::Phase;
use super::live::{Live, lock};
use super::scenario::{Scenario, Step, What};
use super::schedule::Scheduler;
use super::verdict::{Finding, Rule};
use first_kernel::{Move, Slot};
use tdx_lab::{
    platform::{Lab, LabCpus, LabError, LabKernel, promise},
    tds::{Custody, World, pool, track},
};
use tdx_operator::host::Host;

/// Steps of a build or of a teardown, with room for calls that fail.
const TRIES: usize = 64;

/// A machine on which the product has brought TDX up, and what its kernel knows then. Made once for
/// a host.
pub(super) struct Up {
    pub(super) machine: Machine,
    pub(super) gate: Vec<tdx_host::gate::CpuActivity>,
    platform: TdxPlatform,
    /// What its host has published. It has no slots, so no SEAMCALL is made through it.
    pub(super) tdx: Box<tdx_host::Host<'static>>,
    /// What the allocator has handed out.
    pub(super) taken: Vec<PageRange>,
    pub(super) pamts: Vec<(PageSize, PageRange)>,
}

fn config(scenario: &Scenario) -> impl FnOnce(&mut MachineConfig) {
    let module = scenario.module;
    move |config| config.module = Some(module)
}

fn bring_up(
    tdx: &tdx_host::Host<'_>,
    kernel: &mut LabKernel<'_>,
    host: &Host,
    dynamic_pamt: bool,
) -> Result<(), LabError> {
    let mut known = tdx
        .start_bring_up(kernel)
        .and_then(|bringup| bringup.sys_init()?.init_cpus()?.read_module_info())
        .map_err(LabError::scenario)?;
    if dynamic_pamt {
        known.use_dynamic_pamt().map_err(LabError::scenario)?;
    }
    let planned = known.plan(host.memory()).map_err(LabError::scenario)?;
    let ready = planned.configure().and_then(|bringup| bringup.configure_keys()?.init_tdmrs());
    ready.map(drop).map_err(LabError::scenario)
}

impl Up {
    /// Brings TDX up on the scenario's host, without faults.
    pub(super) fn new(scenario: &Scenario) -> Result<Self, LabError> {
        let lab = Lab::with_config(&scenario.host, &(), config(scenario))?;
        let live = Box::new(tdx_host::Host::new(lab.slots()));
        let platform = live.detect(&lab).map_err(LabError::NoTdx)?;
        let mut kernel = LabKernel::new(&lab, &live, &scenario.host);
        bring_up(&live, &mut kernel, &scenario.host, scenario.dynamic_pamt)?;
        lab.check()?;
        let tdx = Box::new(tdx_host::Host::new(&[]));
        promise::resume(&tdx, &live).map_err(LabError::scenario)?;
        let mut up = Self {
            machine: lab.ask(Clone::clone),
            gate: live.gate().activity().collect(),
            platform,
            tdx,
            taken: kernel.taken().to_vec(),
            pamts: Vec::new(),
        };
        let pamts = up.tdmrs().iter().flat_map(|tdmr| PageSize::ALL.map(|size| (size, tdmr.pamt(size))));
        up.pamts = pamts.filter(|(_, range)| !range.is_empty()).collect();
        Ok(up)
    }

    /// The TDMRs, ascending.
    pub(super) fn tdmrs(&self) -> &[Tdmr] {
        self.tdx.layout().map_or(&[], |layout| layout.tdmrs())
    }
}

/// What came of a run.
pub(super) struct Played {
    pub(super) tally: Tally,
    pub(super) bring_up: Option<bool>,
    pub(super) running: usize,
    pub(super) marked_pages: u64,
    /// Operations of the last step.
    pub(super) last_step: u64,
}

/// Plays the steps from power-on, or those after the bring-up on a machine with TDX up if
/// `up_first`.
///
/// # Errors
/// [`LabError`]: the host cannot be emulated, or the machine was asked for what it does not model.
/// A violation is no error.
pub(super) fn play(
    scenario: &Scenario,
    up: &Up,
    up_first: bool,
    plan: Plan<'_>,
    scheduler: Option<&Scheduler>,
) -> Result<Played, LabError> {
    let platform = up.platform;
    let (mut words, mut counts): (Vec<AtomicU64>, Vec<AtomicU32>) = (Vec::new(), Vec::new());
    // Each is lent once, to the records that live as long as this function.
    let (mut words_place, mut counts_place) = (Some(&mut words), Some(&mut counts));
    let slots: Box<[CpuSlot]> = if up_first {
        up.gate.iter().copied().map(CpuSlot::from).collect()
    } else {
        (0..scenario.host.cpus()).map(|_| CpuSlot::new()).collect()
    };
    let tdx = Box::new(tdx_host::Host::new(&slots));
    let pamt = OnceLock::new();
    let custody = OnceLock::new();
    let live = Live {
        host: &scenario.host,
        platform,
        tdx: &tdx,
        custody: &custody,
        allocated: Mutex::default(),
        pamts: &up.pamts,
        first_tdmr: up.tdmrs().first().map_or(PhysAddr::new(0), |tdmr| tdmr.range().base()),
    };
    let explorer = Explorer::new(&live, plan, scheduler);
    let lab = if up_first {
        promise::resume(&tdx, &up.tdx).map_err(LabError::scenario)?;
        Lab::taken_over(up.machine.clone(), Box::default(), &(), &explorer)
    } else {
        let lab = Lab::with_config(&scenario.host, &(), config(scenario))?.watched_by(&explorer);
        tdx.detect(&lab).map_err(LabError::NoTdx)?;
        lab
    };
    let mut kernel = LabKernel::new(&lab, &tdx, &scenario.host);
    let mut ready = up_first;
    let mut tried = None;
    if up_first {
        explorer.is_up();
        lock(&live.allocated).extend(&up.taken);
        for range in &up.taken {
            let _ = kernel.reserve(*range);
        }
    }
    let mut world: Option<World<'_, '_>> = None;
    let before_bring_up = scenario.steps.iter().rposition(|step| step.what == What::BringUp);
    let mut played = if up_first { before_bring_up.map_or(0, |at| at + 1) } else { 0 };
    let mut over = false;
    let mut complained = 0;
    let mut before_last = 0;
    loop {
        if ready && world.is_none() {
            let Some(words) = words_place.take() else { break };
            let host = track(&tdx, words)?;
            let ledger = host.ledger();
            let tds = u32::try_from(scenario.slots().max(1)).unwrap_or(1);
            let pool = pool(ledger, &mut kernel, tds).ok_or_else(|| no_room(tds))?;
            let custody = custody.get_or_init(|| Custody::new(pool));
            let params = kernel.allocate(FrameRequest::anywhere(2, None)).ok_or_else(|| no_room(tds))?.base();
            let pamt = if scenario.dynamic_pamt {
                let needed = DynamicPamt::words_needed(ledger);
                let Some(counts) = counts_place.take() else { break };
                counts.extend((0..needed).map(|_| AtomicU32::new(0)));
                let made = DynamicPamt::new(host, counts).map_err(LabError::scenario)?;
                Some(pamt.get_or_init(|| made))
            } else {
                None
            };
            world = Some(World::new(&lab, kernel.cpus().clone(), host, pamt, custody, params, scenario.slots()));
        }
        let Some(step) = scenario.steps.get(played).filter(|_| !over && !explorer.is_over()) else { break };
        explorer.at_step(played);
        before_last = explorer.operations();
        played += 1;
        kernel.move_to(step.cpu);
        if step.what == What::BringUp {
            if ready {
                return Err(LabError::Scenario(format!("line {}: TDX is up already", step.line)));
            }
            let result = bring_up(&tdx, &mut kernel, &scenario.host, scenario.dynamic_pamt);
            lab.check()?;
            ready = result.is_ok();
            tried = Some(ready);
        } else {
            over = make(&lab, &explorer, &live, scenario, kernel.cpus(), world.as_mut(), step)?;
        }
        complaints(&explorer, &live, &mut complained, step);
        lab.check()?;
    }
    if world.is_none() && scheduler.is_some() && !explorer.is_over() {
        return Err(LabError::Scenario("TDX is not up, so no CPUs can work beside each other".to_owned()));
    }
    if let (Some(world), Some(scheduler), false) = (&mut world, scheduler, explorer.is_over()) {
        beside(&lab, &explorer, &live, scenario, world, scheduler)?;
    } else {
        explorer.judge(&lab);
    }
    let running = world.iter().flat_map(|world| &world.slots).filter(|slot| matches!(slot, Slot::Runnable(..))).count();
    let marked_pages = tdx.ledger().map_or(0, Ledger::marked_pages);
    let last_step = explorer.operations() - before_last;
    drop(world);
    drop(kernel);
    lab.check()?;
    drop(lab);
    let tally = explorer.into_tally();
    if let Some(error) = tally.error.clone() {
        return Err(error);
    }
    Ok(Played { tally, bring_up: tried, running, marked_pages, last_step })
}

fn no_room(tds: u32) -> LabError {
    LabError::Scenario(format!("no TDMR has room for the pages of {tds} TDs"))
}

/// Pages that came back to the host's allocator and were not clean.
fn complaints(explorer: &Explorer<'_, '_, '_>, live: &Live<'_, '_>, told: &mut usize, step: &Step) {
    let Some(custody) = live.custody.get() else { return };
    for what in custody.complaints().into_iter().skip(*told) {
        *told += 1;
        let story = vec![format!("{step}"), what.clone()];
        explorer.report(Finding { rule: Rule::CameBackUnclean, what, story }, &step.to_string());
    }
}

/// Does a step on a host that may have TDX up. True if the scenario ends with it.
fn make<'w>(
    lab: &Lab<'_>,
    explorer: &Explorer<'_, '_, '_>,
    live: &Live<'_, '_>,
    scenario: &Scenario,
    cpus: &LabCpus<'w>,
    world: Option<&mut World<'w, '_>>,
    step: &Step,
) -> Result<bool, LabError> {
    let id = tdx_machine::CpuId(step.cpu.0);
    match step.what {
        What::Move(..) | What::Build(_) | What::TearDown(_) => {
            let Some(world) = world else {
                return Err(LabError::Scenario(format!("line {}: TDX is not up", step.line)));
            };
            world.move_to(step.cpu);
            move_td(explorer, world, step.what);
        }
        What::HostWrites => host_writes(lab, live, &scenario.host)?,
        What::Inject(fault, when) => lab.act(|machine| machine.inject(fault, when)),
        What::Heal(fault) => lab.act(|machine| machine.clear(fault)),
        What::Evict => lab.act(|machine| {
            for run in machine.dirty_runs() {
                machine.evict(run.lines, run.key);
            }
        }),
        What::StrayWrites => stray_writes(lab, id)?,
        What::ShutDown => {
            let _ = promise::call_any(&cpus.this_cpu(), Registers::call(Leaf::SYS_SHUTDOWN));
        }
        What::Update => update(lab, scenario, cpus),
        What::Foreign => {
            if let Some(world) = world {
                let key = foreign::last_key(live.platform.key_ids());
                foreign::live(lab, world, cpus.this_cpu(), key, !explorer.has(Special::TakesNoReference));
            }
        }
        What::MakeFatal(td) => {
            if let Some(tdr) = world.and_then(|world| world.slots.get(td)?.tdr()) {
                lab.act(|machine| machine.make_td_fatal(tdr));
            }
        }
        What::Offline => offline_this_cpu(cpus.this_cpu(), Some(&live.platform)),
        What::Kexec => {
            explorer.set_phase(Phase::Kexec(id));
            let kexec = live.tdx.kexec(scenario.policy, KexecKind::Normal);
            match kexec
                .map_err(|refused| refused.to_string())
                .and_then(|kexec| kexec.stop_other_cpus(cpus).map_err(|error| error.to_string()))
            {
                Ok(stopped) => {
                    let stopped = stopped.ask_module(|_| ()).write_back_caches();
                    let report = promise::reset(stopped, live.to_reset(scenario.policy));
                    let clean = report.is_clean(&live.tdx.memory());
                    explorer.handed_over(End::Kexec(step.cpu), report, clean);
                }
                Err(what) => {
                    let story = vec![step.to_string(), what.clone()];
                    explorer.report(Finding { rule: Rule::NotClean, what, story }, "kexec");
                }
            }
            return Ok(true);
        }
        What::KexecJump => jump(lab, explorer, live, scenario, cpus, id),
        What::Panic => {
            explorer.set_phase(Phase::Crash(id));
            stray_writes(lab, id)?;
            let report = live.tdx.crash(scenario.policy, &cpus.this_cpu(), cpus);
            let clean = report.is_clean(&live.tdx.memory());
            explorer.handed_over(End::Panic(step.cpu), report, clean);
            return Ok(true);
        }
        // Done by the player, or in a relay of kernels.
        What::BringUp | What::Keep | What::KeepPanic | What::Adopt | What::Vacuum => {}
    }
    Ok(false)
}

/// A runtime update of the module, as far as it goes: a later step shows whether TDs go on.
fn update(lab: &Lab<'_>, scenario: &Scenario, cpus: &LabCpus<'_>) {
    let call = |cpu: CpuId, input: Registers| {
        let mut cpus = cpus.clone();
        cpus.move_to(cpu);
        promise::call_any(&cpus.this_cpu(), input)
    };
    let here = cpus.this_cpu().id();
    // What a kernel reads of MODULE_HV.
    let handoff = u64::from(scenario.module.has_dynamic_pamt());
    if call(here, Registers::call(Leaf::SYS_SHUTDOWN).rcx(handoff)).is_err() {
        return;
    }
    lab.act(|machine| machine.load_module(scenario.module));
    let every = (0..scenario.host.cpus()).map(|cpu| (CpuId(cpu), Leaf::SYS_LP_INIT));
    for (cpu, leaf) in std::iter::once((here, Leaf::SYS_INIT)).chain(every).chain([(here, Leaf::SYS_UPDATE)]) {
        if call(cpu, Registers::call(leaf)).is_err() {
            return;
        }
    }
}

/// A device writes a part of every line that is private in memory.
fn stray_writes(lab: &Lab<'_>, cpu: tdx_machine::CpuId) -> Result<(), LabError> {
    let stray = |machine: &mut Machine| {
        machine
            .all_owner_runs()
            .into_iter()
            .try_for_each(|run| machine.partial_write(cpu, run.lines, KeyId::HOST, PartialStore::Dma).map(drop))
    };
    lab.act(stray).map_err(LabError::Refused)
}

/// Pages that one CPU writes before another goes on: where memory begins, and PAMT is likely to
/// lie; and further on.
const TURN: (u64, u64) = (512, 32 << 10);
/// How far it is from one to the other.
const NEAR: u64 = 4096;

/// The host's own stores, which wait in the caches of all CPUs, a piece here and a piece there.
fn host_writes(lab: &Lab<'_>, live: &Live<'_, '_>, host: &Host) -> Result<(), LabError> {
    let pool = live.custody.get().map(Custody::range);
    for range in live.in_use() {
        let range = pool.map_or(range, |pool| pool.intersection(range));
        let mut at = range.start().index();
        while at < range.end().index() {
            let turn = if at < range.start().index() + NEAR { TURN.0 } else { TURN.1 };
            let end = (at / turn * turn + turn).min(range.end().index());
            let part = PageRange::new(tdx_abi::Page::new(at), tdx_abi::Page::new(end));
            let cpu = tdx_machine::CpuId((at / turn) as u32 % host.cpus());
            lab.act(|machine| machine.store(cpu, part.lines(), KeyId::HOST)).map_err(LabError::Refused)?;
            at = end;
        }
    }
    Ok(())
}

/// The old kernel comes back from a kexec jump: TDX must be as it was.
fn jump(
    lab: &Lab<'_>,
    explorer: &Explorer<'_, '_, '_>,
    live: &Live<'_, '_>,
    scenario: &Scenario,
    cpus: &LabCpus<'_>,
    id: tdx_machine::CpuId,
) {
    let settled = |machine: &Machine| {
        let mut settled = machine.clone();
        for cpu in 0..settled.cpus() {
            let _ = settled.wbinvd(tdx_machine::CpuId(cpu));
        }
        settled.all_owner_runs()
    };
    let before = lab.ask(settled);
    explorer.set_phase(Phase::Kexec(id));
    let kind = if explorer.has(Special::JumpResets) { KexecKind::Normal } else { KexecKind::Jump };
    if let Ok(kexec) = live.tdx.kexec(scenario.policy, kind)
        && let Ok(stopped) = kexec.stop_other_cpus(cpus)
    {
        let _ = stopped.ask_module(|_| ()).write_back_caches().reset();
    }
    explorer.set_phase(Phase::Life);
    promise::open(live.tdx.gate());
    if lab.ask(settled) != before {
        let what = "TDX's memory is not what it was before the kexec jump".to_owned();
        let story = vec!["a kexec jump, and back".to_owned(), what.clone()];
        explorer.report(Finding { rule: Rule::JumpChangedTdx, what, story }, "kexec jump");
    }
}

fn move_td(explorer: &Explorer<'_, '_, '_>, world: &mut World<'_, '_>, what: What) {
    match what {
        What::Move(td, what) => world.make(td, what),
        What::Build(td) => {
            for _ in 0..TRIES {
                if explorer.is_over() || matches!(world.slots.get(td), Some(Slot::Runnable(..))) {
                    break;
                }
                world.make(td, Move::Build);
            }
        }
        What::TearDown(td) => {
            for _ in 0..TRIES {
                if explorer.is_over() || matches!(world.slots.get(td), Some(Slot::Empty)) {
                    break;
                }
                world.make(td, Move::TearDown);
            }
        }
        _ => {}
    }
}

/// The concurrent part, each list of steps on a thread of its own, one operation at a time.
fn beside<'w>(
    lab: &'w Lab<'w>,
    explorer: &Explorer<'_, '_, '_>,
    live: &Live<'_, '_>,
    scenario: &Scenario,
    world: &mut World<'w, '_>,
    scheduler: &Scheduler,
) -> Result<(), LabError> {
    explorer.at_step(scenario.steps.len());
    let failed = Mutex::new(None);
    let back = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, steps) in scenario.concurrent.iter().enumerate() {
            let Some(cpu) = steps.first().map(|step| step.cpu) else { continue };
            let mut mine = world.share(cpu, steps.iter().filter_map(Step::td));
            let failed = &failed;
            threads.push(scope.spawn(move || {
                scheduler.run(thread, || {
                    for step in steps {
                        let cpus = mine.cpus().clone();
                        match make(lab, explorer, live, scenario, &cpus, Some(&mut mine), step) {
                            Ok(false) if !explorer.is_over() => {}
                            Ok(_) => break,
                            Err(error) => {
                                lock(failed).get_or_insert(error);
                                break;
                            }
                        }
                    }
                    mine
                })
            }));
        }
        // Whatever comes, frozen threads must end.
        let end = scheduler.end_when_dropped();
        scheduler.wait_for_all();
        explorer.judge(lab);
        drop(end);
        // What a stopped CPU held does not come back.
        let worlds = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        worlds.flatten().collect::<Vec<_>>()
    });
    for other in back {
        world.take_back(other);
    }
    lock(&failed).take().map_or(Ok(()), Err)
}
