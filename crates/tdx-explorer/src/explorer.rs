//! Watches a scenario and, at every instant, branches: a copy of the machine is handed over in
//! every way, while the original waits. No prefix is run again. What it sees of a branch is
//! [`super::branch`]'s verdict; what it sees of an instant itself are the two rules that hold
//! between any two operations: what is private is marked, and no old line of the host can land on
//! it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tdx_abi::{KeyId, Leaf, Page, PageRange, Registers, StatusCode, subtract, union};
use tdx_host::{
    handover::{HandoverReport, Policy},
    platform::CpuId,
};
use tdx_machine::{AssignedRun, Machine};

use super::branch::{Branch, End, InFlight, Inside, Stray};
use super::bug::{Bug, Moment, Past, Special};
use super::history::{History, Phase};
use super::live::{Live, Marks, copy_slots, lock};
use super::rng::Rng;
use super::schedule::Scheduler;
use super::verdict::{Finding, Rule};
use tdx_lab::platform::{Act, Deed, Lab, LabError, Operation, Watcher};
use tdx_operator::progress::Progress;
use tdx_operator::words;

/// What kind of point an instant is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum InstantKind {
    /// Between two operations.
    Between,
    /// Between two stores to the ledger or to the record.
    Store,
    /// Inside a SEAMCALL, as another CPU sees it.
    InFlight,
    /// The same, with what the call does done and its locks held: others go on beside it.
    Held,
}

impl InstantKind {
    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Between => "between operations",
            Self::Store => "ledger store",
            Self::InFlight | Self::Held => "inside a SEAMCALL",
        }
    }
}

/// What is to be explored.
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
#[derive(Clone, Copy)]
pub(super) struct Plan<'p> {
    pub(super) policy: Policy,
    pub(super) kexec: bool,
    pub(super) panic: bool,
    /// SEAMCALLs of CPUs beside each other overlap.
    pub(super) overlapping: bool,
    pub(super) bug: Option<&'static Bug>,
    /// The first finding ends it.
    pub(super) stop_at_first: bool,
    /// Every instant is written down.
    pub(super) timeline: bool,
    /// Branches begin at this step, from 0: what comes before has been explored elsewhere.
    pub(super) from_step: usize,
    /// And at this point of the schedule.
    pub(super) from_point: u64,
    /// Only this instant is branched from.
    pub(super) only: Option<u64>,
    /// Of so many instants, one is branched from: the last.
    pub(super) every: u64,
    /// Called at each instant.
    pub(super) progress: &'p dyn Progress,
}

/// An instant, for the time line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TimePoint {
    pub(super) instant: u64,
    pub(super) step: usize,
    pub(super) kind: InstantKind,
    pub(super) cpu: u32,
    /// Private lines of memory.
    pub(super) private: u64,
    /// Lines that the kernel has marked.
    pub(super) marked: u64,
    pub(super) text: String,
    pub(super) branches: u64,
    pub(super) broken: Option<Rule>,
}

/// A finding, where it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) instant: u64,
    pub(super) operation: u64,
    pub(super) step: usize,
    pub(super) text: String,
    pub(super) end: Option<End>,
    pub(super) kind: InstantKind,
    pub(super) finding: Finding,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) operations: u64,
    /// Points, branched from or not.
    pub(super) points: u64,
    pub(super) instants: u64,
    pub(super) branches: u64,
    pub(super) violations: u64,
    pub(super) found: Vec<Found>,
    pub(super) timeline: Vec<TimePoint>,
    pub(super) coverage: BTreeMap<(Leaf, StatusCode, InstantKind), u64>,
    pub(super) error: Option<LabError>,
    /// What the module held when it held most.
    pub(super) peak: Vec<AssignedRun>,
}

/// CPUs besides the acting one that panic at an instant: those whose caches may hold private lines
/// first.
const MOST_PANICS: usize = 7;

/// Findings that are kept; more are counted.
const KEPT: usize = 16;

#[derive(Default)]
struct Inner {
    history: History,
    seen: Marks,
    record: Vec<PageRange>,
    tally: Tally,
    begun: bool,
}

/// Explores one run of a scenario.
pub(super) struct Explorer<'a, 's, 'm> {
    live: &'a Live<'s, 'm>,
    plan: Plan<'a>,
    scheduler: Option<&'a Scheduler>,
    step: AtomicUsize,
    inner: Mutex<Inner>,
    last: Mutex<Option<(End, HandoverReport, bool)>>,
}

impl<'a, 's, 'm> Explorer<'a, 's, 'm> {
    pub(super) fn new(live: &'a Live<'s, 'm>, plan: Plan<'a>, scheduler: Option<&'a Scheduler>) -> Self {
        Self { live, plan, scheduler, step: AtomicUsize::new(0), inner: Mutex::default(), last: Mutex::default() }
    }

    /// The step that the acting CPU is at: of those beside each other, the number of its list after
    /// the steps before.
    fn current_step(&self) -> usize {
        self.step.load(Ordering::Relaxed) + Scheduler::me().unwrap_or(0)
    }

    /// The scenario is at this step; CPUs beside each other are at the first after it, and at the
    /// next, and so on.
    pub(super) fn at_step(&self, step: usize) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// The kernel begins to hand over, or is back.
    pub(super) fn set_phase(&self, phase: Phase) {
        lock(&self.inner).history.phase = phase;
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> u64 {
        lock(&self.inner).tally.operations
    }

    /// Enough has been found.
    pub(super) fn is_over(&self) -> bool {
        let inner = lock(&self.inner);
        inner.tally.error.is_some() || (self.plan.stop_at_first && inner.tally.violations > 0)
    }

    /// TDX is up already.
    pub(super) fn is_up(&self) {
        let history = &mut lock(&self.inner).history;
        (history.key_configs, history.tdmr_inits) = (1, 1);
    }

    /// The scenario's own handover is over; it is judged when every CPU is done.
    pub(super) fn handed_over(&self, end: End, report: HandoverReport, clean: bool) {
        *lock(&self.last) = Some((end, report, clean));
    }

    /// Lets the next kernel live after the scenario's own handover, if there was one.
    pub(super) fn judge(&self, lab: &Lab<'_>) {
        let Some((end, report, clean)) = lock(&self.last).take() else { return };
        let history = lock(&self.inner).history.clone();
        let branch = Branch {
            live: self.live,
            policy: self.plan.policy,
            end,
            in_flight: None,
            inside: Inside::default(),
            silent: None,
            stray: Stray::None,
            marks: None,
            bug: self.plan.bug,
            history: &history,
        };
        let mut machine: Machine = lab.ask(Clone::clone);
        match branch.judge(&mut machine, &report, clean) {
            Ok(None) => self.plan.progress.explored(1, 0),
            Ok(Some(finding)) => {
                self.report(finding, "after the scenario's own handover");
                self.plan.progress.explored(1, 1);
            }
            Err(error) => lock(&self.inner).tally.error = Some(error),
        }
        lock(&self.inner).tally.branches += 1;
    }

    /// The kernel has this bug.
    pub(super) fn has(&self, special: Special) -> bool {
        self.plan.bug.is_some_and(|bug| bug.special == Some(special))
    }

    pub(super) fn into_tally(self) -> Tally {
        self.inner.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).tally
    }

    /// Something that the player of the scenario has seen itself.
    pub(super) fn report(&self, finding: Finding, text: &str) {
        let step = self.current_step();
        let tally = &mut lock(&self.inner).tally;
        tally.violations += 1;
        if tally.found.len() < KEPT {
            let (instant, operation) = (tally.points, tally.operations);
            let kind = InstantKind::Between;
            tally.found.push(Found { instant, operation, step, text: text.to_owned(), end: None, kind, finding });
        }
    }

    fn past<R>(&self, lab: &Lab<'_>, history: &History, question: impl FnOnce(Past<'_>) -> R) -> R {
        let assigned = |page| lab.ask(|machine| machine.assigned_pages().iter().any(|run| run.pages.contains(page)));
        question(Past {
            history,
            pamts: self.live.pamts,
            field: self.live.platform.key_id_field(),
            assigned: &assigned,
        })
    }

    /// The first page that the product has marked and the kernel, with its bug, has not.
    fn first_forgotten(&self, lab: &Lab<'_>, history: &History, pages: PageRange) -> Option<Page> {
        let forgets = self.plan.bug?.forgets?;
        let mut all = (pages.start().index()..pages.end().index()).map(Page::new);
        self.past(lab, history, |past| all.find(|page| forgets(&past, *page)))
    }

    /// The states of the ledger between what was seen last and now: one store after another.
    fn between(seen: &[PageRange], now: &[PageRange]) -> Vec<Vec<PageRange>> {
        const WORD: u64 = 32;
        let changed = union(subtract(seen.to_vec(), now.iter().copied()), subtract(now.to_vec(), seen.iter().copied()));
        let mut words: Vec<u64> =
            changed.flat_map(|range| range.start().index() / WORD..range.end().index().div_ceil(WORD)).collect();
        words.dedup();
        let word = |index: u64| PageRange::new(Page::new(index * WORD), Page::new((index + 1) * WORD));
        let mut state = seen.to_vec();
        let mut states = Vec::new();
        // The last of them is what stands there now.
        for index in words.iter().take(words.len().saturating_sub(1)) {
            let word = word(*index);
            let rest = subtract(state, [word]).collect::<Vec<_>>();
            let new = now.iter().map(|range| range.intersection(word)).filter(|range| !range.is_empty());
            state = union(rest, new.collect::<Vec<_>>()).collect();
            states.push(state.clone());
        }
        states
    }

    /// CPUs besides this one that run, as many as are tried.
    fn others(&self, acting: CpuId) -> impl Iterator<Item = CpuId> + use<> {
        let running = self.live.tdx.gate().activity().filter(|activity| !activity.stopped && activity.cpu != acting);
        let mut running: Vec<_> = running.collect();
        running.sort_by_key(|activity| activity.may_hold_private_lines.is_none());
        running.into_iter().take(MOST_PANICS).map(|activity| activity.cpu)
    }

    /// The ends that a kernel can come to at this instant.
    fn ends(&self, phase: Phase, acting: CpuId) -> Vec<End> {
        let mut ends = Vec::new();
        if phase == Phase::Life && self.plan.kexec {
            ends.push(End::Kexec(acting));
        }
        if self.plan.panic && !matches!(phase, Phase::Crash(_)) {
            ends.push(End::Panic(acting));
            ends.extend(self.others(acting).map(End::Panic));
        }
        ends
    }

    /// Looks at an instant, and branches from it.
    fn visit(&self, lab: &Lab<'_>, inner: &mut Inner, act: &Act, kind: InstantKind, marks: Option<&[PageRange]>) {
        inner.tally.points += 1;
        let instant = inner.tally.points;
        // A crash handover is the end: nothing branches from it.
        if matches!(inner.history.phase, Phase::Crash(_))
            || self.current_step() < self.plan.from_step
            || self.scheduler.is_some_and(|scheduler| scheduler.points() < self.plan.from_point)
            || self.plan.only.is_some_and(|only| only != instant)
            || !instant.is_multiple_of(self.plan.every)
        {
            return;
        }
        inner.tally.instants += 1;
        let broken_before = inner.tally.violations;
        let machine: Machine = lab.ask(Clone::clone);
        let acting = CpuId(act.cpu.0);
        let in_flight: Vec<Option<InFlight>> = match (kind, act.operation) {
            (InstantKind::InFlight, Operation::Seamcall(registers)) => {
                let guest = lab.guest_acts();
                let call = |ends_in_time| InFlight { cpu: act.cpu, registers, ends_in_time, guest: guest.clone() };
                vec![Some(call(true)), Some(call(false))]
            }
            _ => vec![None],
        };
        // CPUs that are inside do nothing else before they have left.
        let held: Vec<tdx_machine::CpuId> =
            (0..machine.cpus()).map(tdx_machine::CpuId).filter(|cpu| machine.is_inside(*cpu)).collect();
        let is_free = |cpu: &CpuId| held.iter().all(|held| held.0 != cpu.0);
        let ends: Vec<End> = match kind {
            InstantKind::InFlight | InstantKind::Held => {
                let others: Vec<CpuId> = self.others(acting).filter(is_free).collect();
                let first = others.first().copied().map(End::Kexec).filter(|_| self.plan.kexec);
                others.into_iter().map(End::Panic).filter(|_| self.plan.panic).chain(first).collect()
            }
            _ => {
                let ends = self.ends(inner.history.phase, acting).into_iter();
                ends.filter(|end| matches!(end, End::Kexec(cpu) | End::Panic(cpu) if is_free(cpu))).collect()
            }
        };
        // They leave when they are stopped, or never in time.
        let leaves: &[bool] = if held.is_empty() { &[true] } else { &[true, false] };
        let step = self.current_step();
        let mut broken = None;
        let mut branches = 0;
        let mut keep = |tally: &mut Tally, end, finding: Finding| {
            broken = broken.or(Some(finding.rule));
            tally.violations += 1;
            if tally.found.len() < KEPT {
                let text = describe(act, inner.history.last, kind);
                let operation = tally.operations;
                tally.found.push(Found { instant, operation, step, text, end, kind, finding });
            }
        };
        // Which line is poisoned when, by chance, but the same chance every time.
        let mut rng = Rng::new(instant);
        let untold = (kind == InstantKind::InFlight && self.has(Special::SlotAfterCall)).then_some(acting);
        let other = ends.iter().find(|end| matches!(end, End::Panic(cpu) if *cpu != acting)).copied();
        let silent = other
            .filter(|_| kind != InstantKind::InFlight && kind != InstantKind::Held)
            .map(|end| (end, Some(act.cpu)));
        for (end, silent) in ends.into_iter().map(|end| (end, None)).chain(silent) {
            for (in_flight, leaves) in
                in_flight.iter().flat_map(|call| leaves.iter().map(move |leaves| (call, *leaves)))
            {
                // An IPI waits like an NMI; what comes of a call that ends is the next instant.
                if matches!((end, in_flight), (End::Kexec(_), Some(call)) if call.ends_in_time) {
                    continue;
                }
                let stray = match (end, rng.below(4)) {
                    (End::Kexec(_), 0 | 1) => Stray::None,
                    (End::Panic(_), 0..=2) | (End::Kexec(_), 2) => Stray::Memory,
                    _ => Stray::AfterEviction,
                };
                let branch = Branch {
                    live: self.live,
                    policy: self.plan.policy,
                    end,
                    in_flight: in_flight.clone(),
                    inside: Inside { cpus: held.clone(), leaves },
                    silent,
                    stray,
                    marks,
                    bug: self.plan.bug,
                    history: &inner.history,
                };
                branches += 1;
                match branch.run(machine.clone(), copy_slots(self.live.tdx.gate(), untold)) {
                    Ok(None) => {}
                    Ok(Some(finding)) => keep(&mut inner.tally, Some(end), finding),
                    Err(error) => inner.tally.error = inner.tally.error.take().or(Some(error)),
                }
                if self.plan.stop_at_first && inner.tally.violations > 0 {
                    break;
                }
            }
        }
        if !matches!(kind, InstantKind::InFlight | InstantKind::Held)
            && let Some(finding) = self.look(lab, &machine, &inner.history, marks)
        {
            keep(&mut inner.tally, None, finding);
        }
        inner.tally.branches += branches;
        self.plan.progress.explored(branches, inner.tally.violations - broken_before);
        if let Operation::Seamcall(_) = act.operation
            && let Some((leaf, code)) = inner.history.last.filter(|_| kind == InstantKind::Between)
        {
            *inner.tally.coverage.entry((leaf, code, kind)).or_default() += branches;
        } else if let (Operation::Seamcall(registers), InstantKind::InFlight | InstantKind::Held) =
            (act.operation, kind)
        {
            let key = (registers.leaf_call().leaf(), StatusCode::SUCCESS, InstantKind::InFlight);
            *inner.tally.coverage.entry(key).or_default() += branches;
        }
        if self.plan.timeline {
            let pages = |runs: &[AssignedRun]| runs.iter().map(|run| run.pages.pages()).sum::<u64>();
            let held = machine.assigned_pages();
            if pages(&held) > pages(&inner.tally.peak) {
                inner.tally.peak = held;
            }
            let text = describe(act, inner.history.last, kind);
            let private = machine.private_lines();
            let marked = union(self.live.tdx.pamt_ranges(), self.live.marks().marked);
            let marked = marked.map(|range| range.bytes() / tdx_abi::LINE_SIZE).sum();
            let cpu = act.cpu.0;
            inner.tally.timeline.push(TimePoint { instant, step, kind, cpu, private, marked, text, branches, broken });
        }
    }

    /// A reset of the original itself, which may hit a page in use as well as that of a branch.
    fn judge_reset(&self, inner: &mut Inner, act: &Act, lines: tdx_abi::LineRange) {
        let everything = self.plan.policy == Policy::Everything && matches!(inner.history.phase, Phase::Kexec(_));
        let in_use = self.live.first_in_use(lines.pages()).filter(|_| !everything);
        let Some(page) = in_use else { return };
        let what = format!("page {page} is in use and is reset");
        let tally = &mut inner.tally;
        tally.violations += 1;
        if tally.found.len() < KEPT {
            let kind = InstantKind::Between;
            let text = describe(act, inner.history.last, kind);
            let finding = Finding { rule: Rule::ResetInUse, story: vec![what.clone()], what };
            let (instant, operation, step) = (tally.points, tally.operations, self.current_step());
            tally.found.push(Found { instant, operation, step, text, end: None, kind, finding });
        }
    }

    /// The rules that hold between any two operations.
    fn look(
        &self,
        lab: &Lab<'_>,
        machine: &Machine,
        history: &History,
        marks: Option<&[PageRange]>,
    ) -> Option<Finding> {
        let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
        let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
        let poisoned = machine.all_poisoned_runs().into_iter().map(|run| run.lines);
        let now = self.live.marks();
        let marked: Vec<PageRange> =
            union(self.live.tdx.pamt_ranges(), marks.map_or(now.marked, <[PageRange]>::to_vec)).collect();
        // From the first SYS.KEY.CONFIG on the module may write PAMT whenever it likes.
        let pamt_may_be_private = (history.key_configs > 0 && history.given_up.is_empty()).then_some(self.live.pamts);
        let pamts = pamt_may_be_private.into_iter().flatten().map(|(_, range)| *range);
        for pages in owned.chain(dirty).chain(poisoned).map(tdx_abi::LineRange::pages).chain(pamts) {
            let unmarked = subtract([pages], marked.iter().copied()).next().map(PageRange::start);
            if let Some(page) = unmarked.or_else(|| self.first_forgotten(lab, history, pages)) {
                let what = format!(
                    "page {page}, {}, may be private and is not marked",
                    history.describe(page, self.live.pamt_of(page))
                );
                return Some(Finding { rule: Rule::Unmarked, story: vec![what.clone()], what });
            }
        }
        machine.dirty_runs().into_iter().filter(|run| run.key == KeyId::HOST).find_map(|run| {
            let lines = machine.owner_runs(run.lines).first()?.lines;
            let page = lines.start().page();
            let what = format!(
                "CPU {} holds dirty lines of the host over {} at {page}: evicted now, they overwrite it",
                run.cpu.0,
                history.describe(page, self.live.pamt_of(page))
            );
            Some(Finding { rule: Rule::HostLineOverPrivate, story: vec![what.clone()], what })
        })
    }
}

/// An operation in words.
fn describe(act: &Act, last: Option<(Leaf, StatusCode)>, kind: InstantKind) -> String {
    let cpu = act.cpu.0;
    let what = match (act.operation, last) {
        (Operation::Seamcall(registers), _) if kind == InstantKind::InFlight => {
            format!("inside {}", registers.leaf_call().leaf())
        }
        (Operation::Seamcall(registers), _) if kind == InstantKind::Held => {
            format!("inside {}, done and not returned", registers.leaf_call().leaf())
        }
        (Operation::Seamcall(_), Some((leaf, code))) if kind == InstantKind::Between => format!("{leaf}: {code:?}"),
        (Operation::Seamcall(registers), _) => format!("before {}", registers.leaf_call().leaf()),
        (Operation::Reset(lines), _) => format!("MOVDIR64B to {}", lines.pages()),
        (Operation::Fence, _) => "fence".to_owned(),
        (Operation::WriteBack, _) => "WBINVD".to_owned(),
        (Operation::Flush(lines), _) => format!("CLFLUSHOPT of {}", lines.pages()),
        (Operation::Write(address, bytes), _) => format!("{} written at {address}", words::count(bytes as u64, "byte")),
        (Operation::Allocate(pages), _) => format!("{} allocated", words::count(pages, "page")),
        (Operation::Allocated(range), _) => format!("{range} allocated"),
        (Operation::Free(range), _) => format!("{range} freed"),
        (Operation::Ipi(target), _) => format!("IPI to CPU {}", target.0),
        (Operation::Stop(target), _) => format!("CPU {} stopped", target.0),
        (Operation::Nmi(target), _) => format!("NMI to CPU {}", target.0),
    };
    format!("CPU {cpu}: {what}")
}

impl Watcher for Explorer<'_, '_, '_> {
    fn overlaps(&self) -> bool {
        self.plan.overlapping && Scheduler::me().is_some()
    }

    fn inside(&self, lab: &Lab<'_>, act: &Act) {
        let mut inner = lock(&self.inner);
        if !(self.plan.stop_at_first && inner.tally.violations > 0) && inner.history.phase == Phase::Life {
            self.visit(lab, &mut inner, act, InstantKind::Held, None);
        }
        drop(inner);
        if let Some(scheduler) = self.scheduler {
            scheduler.point_inside();
        }
    }

    fn before(&self, lab: &Lab<'_>, act: &Act) -> Deed {
        if let Some(scheduler) = self.scheduler {
            scheduler.point();
            // An IPI's work waits until its CPU has left the module.
            while self.overlaps() && lab.ask(|machine| machine.is_inside(act.cpu)) {
                scheduler.give_way();
            }
        }
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if !(self.plan.stop_at_first && inner.tally.violations > 0) {
            let now = self.live.marks();
            let record: Vec<PageRange> = self.live.tdx.pamt_ranges().collect();
            if !inner.begun || now != inner.seen || record != inner.record {
                inner.begun = true;
                for marks in Self::between(&inner.seen.marked, &now.marked) {
                    self.visit(lab, inner, act, InstantKind::Store, Some(&marks));
                }
                (inner.seen, inner.record) = (now, record);
                self.visit(lab, inner, act, InstantKind::Store, None);
            }
        }
        inner.tally.operations += 1;
        inner.history.begins(act, |page| self.live.is_marked(page));
        if matches!(act.operation, Operation::Seamcall(_)) && inner.history.phase == Phase::Life {
            self.visit(lab, inner, act, InstantKind::InFlight, None);
        }
        if matches!(act.operation, Operation::Stop(_)) && self.has(Special::DoesNotStop) {
            tdx_lab::platform::promise::open(self.live.tdx.gate());
            return Deed::Pretend;
        }
        let deed = match self.plan.bug {
            Some(bug) => self.past(lab, &inner.history, |past| (bug.deed)(&Moment { past, act })),
            None => Deed::AsIs,
        };
        if let (Operation::Stop(target) | Operation::Nmi(target), Deed::AsIs) = (act.operation, &deed) {
            // What stops it waits until it has left the module.
            lab.leave(target);
        }
        // Its thread must not go on inside its own handler.
        if let Some(scheduler) = self.scheduler.filter(|_| deed == Deed::AsIs) {
            scheduler.stops(act.operation);
        }
        if let (Operation::Reset(lines), Deed::AsIs) = (act.operation, &deed) {
            self.judge_reset(inner, act, lines);
        }
        deed
    }

    fn after(&self, lab: &Lab<'_>, act: &Act, answer: Option<&mut Registers>) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        match act.operation {
            Operation::Allocated(range) => {
                let mut allocated = lock(&self.live.allocated);
                let at = allocated.partition_point(|held| held.start() < range.start());
                allocated.insert(at, range);
            }
            Operation::Free(range) => lock(&self.live.allocated).retain(|held| *held != range),
            _ => {}
        }
        inner.history.ended(act, answer.as_deref());
        let busy = answer
            .as_ref()
            .is_some_and(|answer| matches!(answer.status().code(), StatusCode::OPERAND_BUSY | StatusCode::SYS_BUSY));
        if let (Some(bug), Some(answer)) = (self.plan.bug, answer) {
            self.past(lab, &inner.history, |past| (bug.answer)(&Moment { past, act }, answer));
        }
        if !(self.plan.stop_at_first && inner.tally.violations > 0) {
            self.visit(lab, inner, act, InstantKind::Between, None);
        }
        drop(guard);
        if let Some(scheduler) = self.scheduler.filter(|_| busy && self.overlaps()) {
            scheduler.give_way();
        }
    }
}
