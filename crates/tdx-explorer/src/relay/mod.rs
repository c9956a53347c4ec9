//! Scenarios of policy `keep`: one kernel after another on the same machine, each of which takes
//! the TDX module over from the one before, with its TDs. At every operation of each of them, in
//! the middle of a handover, of an adoption and of a vacuum too, a copy of the machine is handed
//! over by kexec and by a panic on each CPU; the next kernel uses all memory that the takeover
//! table does not name, adopts, runs, tears down, and the machine is asked what became of it.

mod bugs;
mod next;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock};

use first_kernel::{KeptTd, Move, Slot, guest_page};
use tdx_abi::{Leaf, Page, PageRange, PageSize, Registers, Status};
use tdx_host::{
    gate::CpuSlot,
    handover::{HandoverReport, KexecKind, Policy},
    layout::{FrameRequest, FrameSource},
    platform::CpuId,
    takeover::{Entry, TakeoverTable, TdState, WrittenBy},
    td::VcpuHost,
};
use tdx_lab::{
    kexec::keep,
    platform::{Act, Deed, Lab, LabCpus, LabError, LabKernel, Operation, Watcher, promise},
    tds::{Custody, GUEST_PAGES, World, pool, track},
};
use tdx_machine::Machine;

use super::branch::End;
use super::bug::Wrong;
use super::explorer::{Found, InstantKind, Plan, Tally, TimePoint};
use super::live::{copy_slots, lock};
use super::play::{Played, Up};
use super::run::{Explored, unmet};
use super::scenario::{Scenario, Step, What};
use super::verdict::{Finding, Rule};

/// Findings that are kept; more are counted.
const KEPT: usize = 16;

const BOOT: tdx_machine::CpuId = tdx_machine::CpuId(0);

/// Steps of a build or of a teardown, with room for calls that fail.
const TRIES: usize = 64;

/// The guest page with the counter of each TD.
const COUNTER: u64 = GUEST_PAGES - 1;

fn on_counter(leaf: Leaf, tdr: Page) -> Registers {
    Registers::call(leaf).rcx(guest_page(COUNTER, PageSize::Size4K).address()).rdx(tdr.start().get())
}

/// What a counter may show: one value, or two while it is being written.
type Counters = BTreeMap<Page, (u64, u64)>;

/// What is known of a kernel at an instant.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// TDs that it has built or adopted.
    own: Vec<KeptTd>,
    /// TDs of the table that it inherited, which it has neither adopted nor torn down.
    inherited: Vec<KeptTd>,
    counters: Counters,
    /// TDs of which a CPU held a VCPU when its VMX operation ended.
    lost: BTreeSet<Page>,
    /// A handover is under way.
    hands_over: bool,
}

impl Facts {
    /// All TDs, for the table.
    fn tds(&self) -> Vec<KeptTd> {
        self.inherited.iter().chain(&self.own).copied().collect()
    }

    /// What this kernel has now. Of a TD that is gone nothing is remembered: its TDR may be that of
    /// another one.
    fn set_own(&mut self, own: Vec<KeptTd>) {
        let before = std::mem::replace(&mut self.own, own);
        let is_gone = |tdr: &Page| self.own.iter().all(|td| td.tdr != *tdr);
        let gone: Vec<Page> = before.iter().map(|td| td.tdr).filter(is_gone).collect();
        self.forget(gone);
    }

    fn forget(&mut self, tdrs: impl IntoIterator<Item = Page>) {
        for tdr in tdrs {
            self.counters.remove(&tdr);
            self.lost.remove(&tdr);
        }
    }

    /// VCPUs that a kexec flushes. Of a TD that was not adopted it flushes none: they were flushed
    /// before, or what their CPUs held is lost. A TD without a KeyID has none to flush.
    fn to_flush(&self, wrong: Option<Wrong>) -> Vec<Page> {
        let vcpus = |tds: &[KeptTd]| tds.iter().filter(|td| td.key_id.is_some()).filter_map(|td| td.vcpu).collect();
        match wrong {
            Some(Wrong::NoFlush) => Vec::new(),
            Some(Wrong::FlushesLost) => vcpus(&self.tds()),
            _ => vcpus(&self.own),
        }
    }
}

#[derive(Default)]
struct Known {
    facts: Facts,
    tally: Tally,
}

/// One kernel, watched.
struct Kernel<'a, 'm> {
    scenario: &'a Scenario,
    plan: Plan<'a>,
    tdx: &'a tdx_host::Host<'m>,
    /// The table that it inherited.
    left: Option<&'a [u8]>,
    step: Mutex<usize>,
    known: Mutex<Known>,
}

/// What one kernel leaves to the next.
struct Baton {
    machine: Machine,
    record: Option<Vec<u8>>,
    counters: Counters,
    lost: BTreeSet<Page>,
    tally: Tally,
    /// TDs that run, and marked pages, at the end of the kernel's life.
    running: usize,
    marked_pages: u64,
}

/// Plays it, and branches from every instant.
///
/// # Errors
/// [`LabError`]: it cannot be played.
pub(super) fn explore(scenario: &Scenario, up: &Up, plan: Plan<'_>) -> Result<Explored, LabError> {
    let mut baton = Baton {
        machine: up.machine.clone(),
        record: None,
        counters: Counters::new(),
        lost: BTreeSet::new(),
        tally: Tally::default(),
        running: 0,
        marked_pages: 0,
    };
    if scenario.steps.first().is_none_or(|step| step.what != What::BringUp) {
        return Err(LabError::Scenario("the first step of policy keep is `bring-up`".to_owned()));
    }
    let mut from = 1;
    loop {
        let end = scenario.steps.iter().skip(from).position(|step| step.what.keeps()).map(|at| from + at + 1);
        let to = end.unwrap_or(scenario.steps.len());
        baton = live(scenario, up, plan, baton, from..to)?;
        from = to;
        if end.is_none() || from == scenario.steps.len() || (plan.stop_at_first && baton.tally.violations > 0) {
            break;
        }
    }
    if let Some(error) = baton.tally.error {
        return Err(error);
    }
    let Baton { tally, running, marked_pages, .. } = baton;
    let played = Played { tally, bring_up: Some(true), running, marked_pages, last_step: 0 };
    let unmet = unmet(scenario, &played);
    Ok(Explored { unmet, ..Explored::of(played.tally, None) })
}

/// The life of one kernel: the first builds TDs, each other one takes them over, and builds more.
fn live(
    scenario: &Scenario,
    up: &Up,
    plan: Plan<'_>,
    baton: Baton,
    steps: std::ops::Range<usize>,
) -> Result<Baton, LabError> {
    let Baton { mut machine, record, counters, lost, tally, .. } = baton;
    let slots: Box<[CpuSlot]> = if record.is_none() {
        up.gate.iter().copied().map(CpuSlot::from).collect()
    } else {
        (0..machine.cpus()).map(|_| CpuSlot::new()).collect()
    };
    let table = record.as_deref().map(TakeoverTable::read).transpose().map_err(LabError::scenario)?;
    if let Some(record) = &record
        && let Some(check) = next::use_memory(scenario, &mut machine, &keep::reserved(record)?)?
    {
        return Err(LabError::Scenario(format!("a kernel dies of a machine check at {}", check.address)));
    }
    let mut words = Vec::new();
    let tdx = Box::new(tdx_host::Host::new(&slots));
    let custody = OnceLock::new();
    let inherited = table.as_ref().map_or_else(Vec::new, listed);
    let facts = Facts { inherited, counters, lost, ..Facts::default() };
    let kernel = Kernel {
        scenario,
        plan,
        tdx: &tdx,
        left: record.as_deref(),
        step: Mutex::new(steps.start),
        known: Mutex::new(Known { facts, tally }),
    };
    // VMX operation, before anybody watches.
    let machine = Lab::on(machine, &())?.ask(Clone::clone);
    let lab = Lab::taken_over(machine, Box::default(), &(), &kernel);
    let mut pages = LabKernel::new(&lab, &tdx, &scenario.host);
    let tds = if let (Some(record), Some(table)) = (&record, &table) {
        tdx.detect(&lab).map_err(LabError::NoTdx)?;
        keep::keep_off(&mut pages, &scenario.host, record)?;
        words.resize_with(usize::try_from(table.claim_words()).unwrap_or(usize::MAX), Default::default);
        promise::take_over(&tdx, table, &mut words).map_err(LabError::scenario)?
    } else {
        promise::resume(&tdx, &up.tdx).map_err(LabError::scenario)?;
        for range in &up.taken {
            let _ = pages.reserve(*range);
        }
        track(&tdx, &mut words)?
    };
    let slots = scenario.slots().max(1);
    let room = u32::try_from(slots).ok().and_then(|slots| pool(tds.ledger(), &mut pages, slots));
    let no_room = || LabError::Scenario("no TDMR has room for the TDs".to_owned());
    let custody = custody.get_or_init(|| room.map(Custody::new)).as_ref().ok_or_else(no_room)?;
    let params = pages.allocate(FrameRequest::anywhere(2, None)).ok_or_else(no_room)?.base();
    let mut world = World::new(&lab, pages.cpus().clone(), tds, None, custody, params, slots).of_debug_tds();

    let mut left = None;
    let mut told = 0;
    for at in steps {
        let Some(step) = scenario.steps.get(at).filter(|_| !kernel.is_over()) else { break };
        *lock(&kernel.step) = at;
        pages.move_to(step.cpu);
        world.move_to(step.cpu);
        match (step.what, &table) {
            (What::Keep | What::KeepPanic, _) => left = Some(kernel.leave(&lab, pages.cpus(), step)?),
            (What::Adopt, Some(table)) => kernel.adopt(&mut world, table)?,
            (What::Vacuum, Some(table)) => kernel.vacuum(&world, table)?,
            (What::BringUp, _) => return Err(LabError::Scenario(format!("line {}: TDX is up already", step.line))),
            (What::Adopt | What::Vacuum, None) => {
                return Err(LabError::Scenario(format!("line {}: this kernel inherited no TDX", step.line)));
            }
            (what, left) => {
                if let (What::Move(td, Move::Enter), Some(_)) = (what, left) {
                    enter(&world, td, step)?;
                }
                kernel.move_td(&mut world, what);
            }
        }
        for what in custody.complaints().into_iter().skip(told) {
            told += 1;
            kernel.report(Finding { rule: Rule::CameBackUnclean, story: vec![step.to_string(), what.clone()], what });
        }
        lab.check()?;
    }
    let running = world.slots.iter().filter(|slot| matches!(slot, Slot::Runnable(..))).count();
    let marked_pages = tds.ledger().marked_pages();
    drop((world, pages));
    let Known { facts, tally } = std::mem::take(&mut *lock(&kernel.known));
    let (counters, mut lost) = (facts.counters, facts.lost);
    let (machine, record) = match left {
        Some((machine, record, associated)) => {
            lost.extend(associated);
            (machine, Some(record))
        }
        None => (lab.ask(Clone::clone), record.clone()),
    };
    Ok(Baton { machine, record, counters, lost, tally, running, marked_pages })
}

/// The TDs of a table.
fn listed(table: &TakeoverTable<'_>) -> Vec<KeptTd> {
    let of_td = |entry| match entry {
        Entry::Td { td, state, tdr, key_id } => {
            let vcpu = table.vcpus(td).next().map(|(_, page)| page);
            Some(KeptTd { state, tdr, key_id, vcpu })
        }
        _ => None,
    };
    table.entries().filter_map(of_td).collect()
}

/// KeyIDs by TDR.
fn keys<'t>(table: &TakeoverTable<'t>) -> impl Iterator<Item = (Page, tdx_abi::KeyId)> + Clone + use<'t> {
    table.entries().filter_map(|entry| match entry {
        Entry::Td { tdr, key_id: Some(key), .. } => Some((tdr, key)),
        _ => None,
    })
}

/// A TD that may be adopted is entered: what the VCPU needs of its host comes first, and neither
/// may fail.
fn enter(world: &World<'_, '_>, td: usize, step: &Step) -> Result<(), LabError> {
    let Some(Slot::Runnable(td, vcpu)) = world.slots.get(td) else {
        return Err(LabError::Scenario(format!("line {}: there is no TD {td} that runs", step.line)));
    };
    let cpu = world.cpus().this_cpu();
    promise::resume_vcpu(td, &cpu, *vcpu, &VcpuHost::default()).map_err(LabError::scenario)?;
    let enter = Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start());
    promise::call_any(&cpu, enter).map(drop).map_err(LabError::scenario)
}

/// TDs of which a CPU holds a VCPU.
fn associated(machine: &Machine, tds: &[KeptTd]) -> BTreeSet<Page> {
    const NUM_ASSOC_VCPUS: u64 = 0x10 << 56 | 2;
    let mut copy = machine.clone();
    let mut holds = |tdr: &Page| {
        let read = Registers::call(Leaf::MNG_RD).rcx_address(tdr.start()).rdx(NUM_ASSOC_VCPUS);
        copy.seamcall(BOOT, read).is_ok_and(|answer| answer.status() == Status::SUCCESS && answer.r8 > 0)
    };
    tds.iter().map(|td| td.tdr).filter(|tdr| holds(tdr)).collect()
}

impl Kernel<'_, '_> {
    fn is_over(&self) -> bool {
        let known = lock(&self.known);
        known.tally.error.is_some() || (self.plan.stop_at_first && known.tally.violations > 0)
    }

    fn wrong(&self) -> Option<Wrong> {
        self.plan.bug.and_then(|bug| bug.relay)
    }

    /// Something that is wrong in the scenario itself.
    fn report(&self, finding: Finding) {
        let step = *lock(&self.step);
        let tally = &mut lock(&self.known).tally;
        tally.violations += 1;
        if tally.found.len() < KEPT {
            let (instant, operation, kind) = (tally.points, tally.operations, InstantKind::Between);
            let text = "after the step".to_owned();
            tally.found.push(Found { instant, operation, step, text, end: None, kind, finding });
        }
    }

    /// A step of a TD's life, and the list of TDs after it.
    fn move_td(&self, world: &mut World<'_, '_>, what: What) {
        let (td, moves, until): (usize, Move, fn(&Slot<'_>) -> bool) = match what {
            What::Move(td, what) => (td, what, |_| true),
            What::Build(td) => (td, Move::Build, |slot| matches!(slot, Slot::Runnable(..))),
            What::TearDown(td) => (td, Move::TearDown, |slot| matches!(slot, Slot::Empty)),
            _ => return,
        };
        for _ in 0..TRIES {
            world.make(td, moves);
            lock(&self.known).facts.set_own(world.slots.iter().filter_map(Slot::kept).collect());
            if let (Some(slot @ Slot::Runnable(..)), Move::Build | Move::Enter) = (world.slots.get(td), moves)
                && let Some(tdr) = slot.tdr()
            {
                self.count(world.cpus(), tdr);
            }
            if self.is_over() || world.slots.get(td).is_none_or(until) {
                break;
            }
        }
    }

    /// The guest counts on.
    fn count(&self, cpus: &LabCpus<'_>, tdr: Page) {
        let old = lock(&self.known).facts.counters.get(&tdr).map_or(0, |(_, new)| *new);
        lock(&self.known).facts.counters.insert(tdr, (old, old + 1));
        let written = promise::call_any(&cpus.this_cpu(), on_counter(Leaf::MEM_WR, tdr).r8(old + 1));
        let new = if written.is_ok() { old + 1 } else { old };
        lock(&self.known).facts.counters.insert(tdr, (new, new));
    }

    /// The TDs of the table that can run get the first slots.
    fn adopt(&self, world: &mut World<'_, '_>, table: &TakeoverTable<'_>) -> Result<(), LabError> {
        let listed = listed(table);
        let (tds, cpus) = (world.tds(), world.cpus().clone());
        let mut slots = world.slots.iter_mut().filter(|slot| matches!(slot, Slot::Empty));
        let mut homeless = false;
        tds.adopt(&cpus, table, |number, td| {
            let entry = usize::try_from(number).ok().and_then(|number| listed.get(number.wrapping_sub(1)));
            let (Ok(td), Some(entry)) = (td, entry) else { return };
            let (Some(vcpu), Some(slot)) = (entry.vcpu, slots.next()) else {
                homeless = true;
                return;
            };
            *slot = Slot::Runnable(td, vcpu);
            let facts = &mut lock(&self.known).facts;
            facts.inherited.retain(|other| other.tdr != entry.tdr);
            facts.own.extend(slot.kept());
        });
        if homeless { Err(LabError::scenario("there is no slot for an adopted TD")) } else { Ok(()) }
    }

    /// All TDs that were not adopted are dying from here on.
    fn vacuum(&self, world: &World<'_, '_>, table: &TakeoverTable<'_>) -> Result<(), LabError> {
        let tdrs: Vec<Page> = {
            let facts = &mut lock(&self.known).facts;
            if self.wrong() != Some(Wrong::VacuumsUntold) {
                facts.inherited.iter_mut().for_each(|td| td.state = TdState::Dying);
            }
            facts.own.iter().map(|td| td.tdr).collect()
        };
        let done = promise::vacuum(world.tds(), world.cpus(), &keys(table), &tdrs, |_| ());
        done.error.map_or(Ok(()), |error| Err(LabError::scenario(error)))?;
        let facts = &mut lock(&self.known).facts;
        let gone = std::mem::take(&mut facts.inherited);
        facts.forget(gone.iter().map(|td| td.tdr));
        Ok(())
    }

    /// The scenario's own handover: the machine after it, the table, and the TDs of which a CPU
    /// held a VCPU.
    fn leave(
        &self,
        lab: &Lab<'_>,
        cpus: &LabCpus<'_>,
        step: &Step,
    ) -> Result<(Machine, Vec<u8>, BTreeSet<Page>), LabError> {
        let end = match step.what {
            What::Keep => End::Kexec(step.cpu),
            _ => End::Panic(step.cpu),
        };
        let facts = {
            let facts = &mut lock(&self.known).facts;
            facts.hands_over = true;
            facts.clone()
        };
        let (_, record) = self.hand_over(lab, self.tdx, cpus, end, &facts, None)?;
        let mut machine = lab.ask(Clone::clone);
        let associated = associated(&machine, &facts.tds());
        machine.kexec_boundary();
        Ok((machine, record, associated))
    }

    /// Hands over by the product's own code, or wrongly, and writes the table.
    fn hand_over(
        &self,
        lab: &Lab<'_>,
        tdx: &tdx_host::Host<'_>,
        cpus: &LabCpus<'_>,
        end: End,
        facts: &Facts,
        wrong: Option<Wrong>,
    ) -> Result<(HandoverReport, Vec<u8>), LabError> {
        let in_flight: Vec<PageRange> =
            tdx.ledger().into_iter().flat_map(|ledger| ledger.unknown_to_module()).collect();
        let (report, by) = match end {
            End::Kexec(_) => {
                let kexec = tdx.kexec(Policy::Keep, KexecKind::Normal).map_err(LabError::scenario)?;
                let stopped = kexec.stop_other_cpus(cpus).map_err(LabError::scenario)?;
                let flushed = stopped.flush_vcpus(&facts.to_flush(wrong));
                (flushed.write_back_caches().reset(), WrittenBy::Kexec)
            }
            End::Panic(_) => (tdx.crash(Policy::Keep, &cpus.this_cpu(), cpus), WrittenBy::Crash),
        };
        if let Some(wrong) = wrong {
            wrong.after_handover(lab, &in_flight, end);
        }
        if let (Some(Wrong::TableNotWiped), End::Panic(_), Some(left)) = (wrong, end, self.left) {
            return Ok((report, left.to_vec()));
        }
        let record = keep::record(lab, tdx, by, &report.suspects, facts.tds().into_iter())?;
        Ok((report, wrong.map_or(Ok(record.clone()), |wrong| wrong.record(lab, &record))?))
    }

    /// The ends that this kernel can come to now.
    fn ends(&self, hands_over: bool) -> Vec<End> {
        let cpus = || (0..self.scenario.host.cpus()).map(CpuId);
        let kexec = cpus().map(End::Kexec).filter(|_| self.plan.kexec && !hands_over);
        kexec.chain(cpus().map(End::Panic).filter(|_| self.plan.panic)).collect()
    }

    /// Branches from an instant.
    fn visit(&self, lab: &Lab<'_>, act: &Act, text: &str) {
        let mut known = lock(&self.known);
        let known = &mut *known;
        known.tally.points += 1;
        let instant = known.tally.points;
        let over = known.tally.error.is_some() || (self.plan.stop_at_first && known.tally.violations > 0);
        // Before the takeover, and in a crash, this kernel knows nothing that it could hand over.
        let skip = over
            || self.tdx.ledger().is_none()
            || self.plan.only.is_some_and(|only| only != instant)
            || !instant.is_multiple_of(self.plan.every);
        if skip {
            return;
        }
        known.tally.instants += 1;
        let step = *lock(&self.step);
        let machine: Machine = lab.ask(Clone::clone);
        let (mut branches, mut broken) = (0, None);
        for end in self.ends(known.facts.hands_over) {
            branches += 1;
            let branch = next::Branch { kernel: self, end, facts: &known.facts };
            match branch.run(machine.clone()) {
                Ok(None) => {}
                Ok(Some(finding)) => {
                    broken = broken.or(Some(finding.rule));
                    known.tally.violations += 1;
                    if known.tally.found.len() < KEPT {
                        let (operation, kind) = (known.tally.operations, InstantKind::Between);
                        let (text, end) = (text.to_owned(), Some(end));
                        known.tally.found.push(Found { instant, operation, step, text, end, kind, finding });
                    }
                    if self.plan.stop_at_first {
                        break;
                    }
                }
                Err(error) => known.tally.error = known.tally.error.take().or(Some(error)),
            }
        }
        known.tally.branches += branches;
        self.plan.progress.explored(branches, u64::from(broken.is_some()));
        if self.plan.timeline {
            let held = machine.assigned_pages();
            let pages = |runs: &[tdx_machine::AssignedRun]| runs.iter().map(|run| run.pages.pages()).sum::<u64>();
            if pages(&held) > pages(&known.tally.peak) {
                known.tally.peak = held;
            }
            let marked = tdx_abi::union(self.tdx.pamt_ranges(), self.tdx.ledger().into_iter().flat_map(|l| l.marked()));
            known.tally.timeline.push(TimePoint {
                instant,
                step,
                kind: InstantKind::Between,
                cpu: act.cpu.0,
                private: machine.private_lines(),
                marked: marked.map(|range| range.bytes() / tdx_abi::LINE_SIZE).sum(),
                text: text.to_owned(),
                branches,
                broken,
            });
        }
    }
}

impl Watcher for Kernel<'_, '_> {
    fn before(&self, lab: &Lab<'_>, act: &Act) -> Deed {
        self.visit(lab, act, &format!("CPU {}: before {}", act.cpu.0, words(act)));
        lock(&self.known).tally.operations += 1;
        Deed::AsIs
    }

    fn after(&self, lab: &Lab<'_>, act: &Act, _answer: Option<&mut Registers>) {
        self.visit(lab, act, &format!("CPU {}: after {}", act.cpu.0, words(act)));
    }
}

/// An operation in words.
fn words(act: &Act) -> String {
    match act.operation {
        Operation::Seamcall(registers) => registers.leaf_call().leaf().to_string(),
        Operation::Reset(lines) => format!("MOVDIR64B to {}", lines.pages()),
        Operation::Fence => "a fence".to_owned(),
        Operation::WriteBack => "WBINVD".to_owned(),
        Operation::Flush(lines) => format!("CLFLUSHOPT of {}", lines.pages()),
        Operation::Write(address, _) => format!("a store to {address}"),
        Operation::Allocate(_) | Operation::Allocated(_) => "an allocation".to_owned(),
        Operation::Free(range) => format!("{range} is freed"),
        Operation::Ipi(target) => format!("an IPI to CPU {}", target.0),
        Operation::Stop(target) => format!("CPU {} is stopped", target.0),
        Operation::Nmi(target) => format!("an NMI to CPU {}", target.0),
    }
}

/// A finding, with its story.
fn finding(rule: Rule, end: End, what: String) -> Finding {
    let how = match end {
        End::Kexec(cpu) => format!("{cpu} hands over by kexec, and TDX stays up"),
        End::Panic(cpu) => format!("{cpu} panics, and TDX stays up"),
    };
    Finding { rule, story: vec![how, what.clone()], what }
}
