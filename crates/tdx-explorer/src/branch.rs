//! One branch: a copy of the machine is handed over from an instant, by the product's own code, and
//! the next kernel lives. The judge knows only the machine: who owns a line, what is poisoned, what
//! a cache still holds.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use tdx_abi::{KeyId, Leaf, LineRange, Page, PageRange, Registers, Status};
use tdx_host::{
    gate::{CpuSlot, GateHandle},
    handover::{HandoverReport, HostMemory, Kexec, KexecKind, Outcome, Policy, hand_over_crash},
    platform::CpuId,
};
use tdx_machine::{AccessError, Machine, MachineCheck, PartialStore};

use super::bug::{Bug, Moment, Past, Special};
use super::history::{History, Phase};
use super::live::{Live, lock};
use super::verdict::{Finding, Rule};
use tdx_lab::platform::{Act, Deed, GuestAct, Lab, LabCpus, LabError, Operation, Watcher, promise};
use tdx_operator::words;

/// How a kernel ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Kexec on this CPU.
    Kexec(CpuId),
    /// This CPU panics.
    Panic(CpuId),
}

impl core::fmt::Display for End {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Kexec(cpu) => write!(f, "kexec-{}", cpu.0),
            Self::Panic(cpu) => write!(f, "panic-{}", cpu.0),
        }
    }
}

/// Partial writes of a wild pointer or of a device, before a kernel ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stray {
    None,
    /// Every line that is private in memory. Lines that wait in a cache will be written over the
    /// poison.
    Memory,
    /// The same, after every private line has left its cache.
    AfterEviction,
}

/// A SEAMCALL under way on another CPU when a CPU panics.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) cpu: tdx_machine::CpuId,
    pub(super) registers: Registers,
    /// It ends before that CPU takes its NMI. Otherwise it ends after the reset, and the CPU never
    /// answers.
    pub(super) ends_in_time: bool,
    /// What a guest does that it enters.
    pub(super) guest: Vec<GuestAct>,
}

impl InFlight {
    /// The call, to its end, and what a guest does that it enters: an NMI is an exit. Poison comes
    /// after it, because a module that meets poison dies.
    fn happens(&self, lab: &Lab<'_>) {
        let status =
            lab.try_act(|machine| machine.seamcall(self.cpu, self.registers).map(|answer| Some(answer.status())));
        if self.registers.leaf_call().leaf() == Leaf::VP_ENTER && status == Some(Status::SUCCESS) {
            lab.let_guest(self.guest.iter().copied());
            let _ = lab.run_guest(self.cpu);
        }
        if self.ends_in_time {
            lab.act(|machine| stray_writes(machine, Stray::Memory));
        }
    }
}

/// CPUs that are in the module, or in a guest, in a machine whose calls overlap.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside {
    pub(super) cpus: Vec<tdx_machine::CpuId>,
    /// They leave before they take their NMI or IPI. Otherwise they never answer.
    pub(super) leaves: bool,
}

/// What a branch begins with.
pub(super) struct Branch<'a, 's, 'm> {
    pub(super) live: &'a Live<'s, 'm>,
    pub(super) policy: Policy,
    pub(super) end: End,
    pub(super) in_flight: Option<InFlight>,
    pub(super) inside: Inside,
    /// This CPU is between two operations and never answers.
    pub(super) silent: Option<tdx_machine::CpuId>,
    pub(super) stray: Stray,
    /// What the ledger shows, if that is not what it says now: the state between two of its stores.
    pub(super) marks: Option<&'a [PageRange]>,
    pub(super) bug: Option<&'static Bug>,
    pub(super) history: &'a History,
}

/// Watches a handover, and does it wrongly if there is a bug.
pub(super) struct Hands<'a, 's, 'm> {
    in_flight: Option<InFlight>,
    inside: Inside,
    silent: Option<tdx_machine::CpuId>,
    resets: Mutex<Vec<LineRange>>,
    wrong: Option<Wrong<'a, 's, 'm>>,
}

/// A faulty kernel's handover, and the past that it goes by. A right one needs none.
struct Wrong<'a, 's, 'm> {
    live: &'a Live<'s, 'm>,
    bug: &'static Bug,
    history: Mutex<History>,
    /// What the module held when the handover began.
    assigned: Vec<PageRange>,
}

impl<'a, 's, 'm> Hands<'a, 's, 'm> {
    fn new(branch: &Branch<'a, 's, 'm>, machine: &Machine) -> Self {
        let wrong = branch.bug.map(|bug| Wrong {
            live: branch.live,
            bug,
            history: Mutex::new(branch.past()),
            assigned: machine.assigned_pages().into_iter().map(|run| run.pages).collect(),
        });
        let (in_flight, inside) = (branch.in_flight.clone(), branch.inside.clone());
        Self { in_flight, inside, silent: branch.silent, resets: Mutex::default(), wrong }
    }
}

impl Wrong<'_, '_, '_> {
    fn past<R>(&self, history: &History, question: impl FnOnce(Past<'_>) -> R) -> R {
        let assigned = |page| self.assigned.iter().any(|range| range.contains(page));
        let field = self.live.platform.key_id_field();
        question(Past { history, pamts: self.live.pamts, field, assigned: &assigned })
    }

    /// What is left of a reset by a kernel that forgets.
    fn remembered(&self, forgets: fn(&Past<'_>, Page) -> bool, history: &History, lines: LineRange) -> Vec<LineRange> {
        let pages = lines.pages();
        let all = (pages.start().index()..pages.end().index()).map(Page::new);
        let kept = all.filter(|page| !self.past(history, |past| forgets(&past, *page)));
        let ranges = tdx_abi::union(kept.map(|page| PageRange::new(page, Page::new(page.index() + 1))), []);
        ranges.map(|range| range.lines().intersection(lines)).collect()
    }

    /// What it does instead of an operation.
    fn deed(&self, act: &Act) -> Deed {
        let mut history = lock(&self.history);
        history.begins(act, |page| self.live.is_marked(page));
        if self.bug.special == Some(Special::WritesBackLate)
            && act.operation == Operation::WriteBack
            && !matches!(history.phase, Phase::Kexec(cpu) | Phase::Crash(cpu) if cpu == act.cpu)
        {
            history.postponed.push(act.cpu);
            return Deed::Skip;
        }
        match (self.past(&history, |past| (self.bug.deed)(&Moment { past, act })), act.operation, self.bug.forgets) {
            (Deed::AsIs, Operation::Reset(lines), Some(forgets)) => {
                Deed::Lines(self.remembered(forgets, &history, lines))
            }
            (deed, _, _) => deed,
        }
    }

    fn ended(&self, act: &Act, answer: Option<&mut Registers>) {
        let mut history = lock(&self.history);
        history.ended(act, answer.as_deref());
        if let Some(answer) = answer {
            self.past(&history, |past| (self.bug.answer)(&Moment { past, act }, answer));
        }
    }
}

impl Watcher for Hands<'_, '_, '_> {
    fn before(&self, lab: &Lab<'_>, act: &Act) -> Deed {
        let deed = self.wrong.as_ref().map_or(Deed::AsIs, |wrong| wrong.deed(act));
        if matches!((act.operation, &deed), (Operation::Nmi(_) | Operation::Stop(_), Deed::Skip | Deed::Pretend)) {
            // A bug: nothing stops that CPU.
            return deed;
        }
        if let (Some(call), Operation::Nmi(target) | Operation::Stop(target)) = (&self.in_flight, act.operation)
            && call.cpu == target
        {
            if !call.ends_in_time {
                return Deed::Skip;
            }
            // Its NMI waits until it has left SEAM.
            call.happens(lab);
        }
        if let Operation::Nmi(target) | Operation::Stop(target) = act.operation {
            if self.silent == Some(target) || (!self.inside.leaves && self.inside.cpus.contains(&target)) {
                return Deed::Skip;
            }
            lab.leave(target);
        }
        if let Operation::Reset(lines) = act.operation {
            match &deed {
                Deed::Lines(parts) => lock(&self.resets).extend(parts),
                Deed::Skip => {}
                _ => lock(&self.resets).push(lines),
            }
        }
        deed
    }

    fn after(&self, _lab: &Lab<'_>, act: &Act, answer: Option<&mut Registers>) {
        if let Some(wrong) = &self.wrong {
            wrong.ended(act, answer);
        }
    }
}

const BOOT: tdx_machine::CpuId = tdx_machine::CpuId(0);

impl Branch<'_, '_, '_> {
    /// Runs it on this copy of the machine.
    ///
    /// # Errors
    /// [`LabError`]: the machine was asked for something that it does not model.
    pub(super) fn run(self, mut machine: Machine, slots: Box<[CpuSlot]>) -> Result<Option<Finding>, LabError> {
        // A module that meets poison dies, and does not end its call.
        if self.in_flight.is_none() {
            stray_writes(&mut machine, self.stray);
        }
        let owned = machine.all_owner_runs();
        let hands = Hands::new(&self, &machine);
        let lab = Lab::taken_over(machine, slots, &(), &hands);
        let copy = tdx_host::Host::new(lab.slots());
        if self.live.tdx.gate().is_closed() {
            copy.gate().close();
        }
        let mut words: Vec<AtomicU64> = Vec::new();
        let between = self.marks.and_then(|marks| self.live.ledger_with(marks, &mut words));
        let memory = promise::memory_of_copy(self.live.tdx.memory(), copy.gate(), between.as_ref());
        let silent = self.silent_cpu().is_some();
        let Some(report) = self.hand_over(&lab, memory) else {
            lab.check()?;
            let unchanged = lock(&hands.resets).is_empty() && lab.ask(Machine::all_owner_runs) == owned;
            return Ok(self.put_off(copy.gate(), silent && unchanged));
        };
        let clean = report.is_clean(&memory);
        let late_before = lab.ask(|machine| machine.counters().lines_late_private);
        self.after_the_reset(&lab, &hands);
        lab.check()?;

        let judge = Judge { branch: &self, report: &report, clean, late_before };
        let resets = lock(&hands.resets).clone();
        if let Some(finding) = judge.resets(&resets) {
            return Ok(Some(finding));
        }
        if silent && !clean {
            // The host has said that it cannot vouch for this: that is all it can do.
            return Ok(None);
        }
        lab.act(|machine| judge.all(machine))
    }

    /// The CPU that never answers.
    fn silent_cpu(&self) -> Option<tdx_machine::CpuId> {
        let inside = self.inside.cpus.first().filter(|_| !self.inside.leaves).copied();
        self.in_flight.as_ref().filter(|call| !call.ends_in_time).map(|call| call.cpu).or(inside).or(self.silent)
    }

    /// The past, as it is when the handover begins.
    fn past(&self) -> History {
        let mut history = self.history.clone();
        history.kexec_was_under_way = matches!(history.phase, Phase::Kexec(_));
        history.phase = match self.end {
            End::Kexec(cpu) => Phase::Kexec(tdx_machine::CpuId(cpu.0)),
            End::Panic(cpu) => Phase::Crash(tdx_machine::CpuId(cpu.0)),
        };
        history
    }

    /// What the next kernel finds after a handover that the scenario has run itself.
    pub(super) fn judge(
        &self,
        machine: &mut Machine,
        report: &HandoverReport,
        clean: bool,
    ) -> Result<Option<Finding>, LabError> {
        let late_before = machine.counters().lines_late_private;
        Judge { branch: self, report, clean, late_before }.all(machine)
    }

    /// A kexec that was not begun: only because a CPU does not stop, with nothing changed, and then
    /// the host can go on.
    fn put_off(&self, gate: GateHandle<'_>, rightly: bool) -> Option<Finding> {
        let what = match (rightly, gate.is_closed()) {
            (true, false) => return None,
            (true, true) => "the kexec was put off, and the gate stays closed: no SEAMCALL is possible any more",
            (false, _) => "the kexec was put off although every CPU can stop, or memory was changed",
        };
        let story = vec![format!("{} begins a kexec", self.end), what.to_owned()];
        Some(Finding { rule: Rule::NotClean, what: what.to_owned(), story })
    }

    /// `None` if it was not begun.
    fn hand_over(&self, lab: &Lab<'_>, memory: HostMemory<'_>) -> Option<HandoverReport> {
        let mut cpus = LabCpus::new(lab, memory.gate(), Some(self.live.platform));
        match self.end {
            End::Kexec(cpu) => {
                cpus.move_to(cpu);
                let kexec = Kexec::begin(self.policy, KexecKind::Normal, memory).ok()?;
                let stopped = kexec.stop_other_cpus(&cpus).ok()?;
                let ready = stopped.ask_module(|_| ()).write_back_caches();
                Some(promise::reset(ready, self.live.to_reset(self.policy)))
            }
            End::Panic(cpu) => {
                cpus.move_to(cpu);
                Some(hand_over_crash(self.policy, &cpus.this_cpu(), &cpus, &memory))
            }
        }
    }

    fn has(&self, special: Special) -> bool {
        self.bug.is_some_and(|bug| bug.special == Some(special))
    }

    /// What other CPUs still do, and what a faulty kernel does.
    fn after_the_reset(&self, lab: &Lab<'_>, hands: &Hands<'_, '_, '_>) {
        self.inside.cpus.iter().for_each(|cpu| lab.leave(*cpu));
        if let Some(call) = self.in_flight.as_ref().filter(|call| !call.ends_in_time) {
            call.happens(lab);
        }
        if let Some(wrong) = &hands.wrong {
            let history = lock(&wrong.history);
            let extra = wrong.past(&history, |past| (wrong.bug.also_resets)(&past));
            for range in extra {
                lock(&hands.resets).push(range.lines());
                let _ = lab.act(|machine| machine.direct_store(BOOT, range.lines()).and_then(|()| machine.fence(BOOT)));
            }
            for cpu in &history.postponed {
                let _ = lab.act(|machine| machine.wbinvd(*cpu));
            }
            if self.has(Special::CallsAfterReset) {
                let registers = Registers::call(Leaf::SYS_TDMR_INIT).rcx_address(self.live.first_tdmr);
                let _ = lab.act(|machine| machine.seamcall(BOOT, registers));
            }
        }
    }
}

fn stray_writes(machine: &mut Machine, stray: Stray) {
    if stray == Stray::None {
        return;
    }
    if stray == Stray::AfterEviction {
        for run in machine.dirty_private_runs() {
            machine.evict(run.lines, run.key);
        }
    }
    // A device, which no CPU stands for; one that is inside does nothing.
    let cpu = (0..machine.cpus()).map(tdx_machine::CpuId).find(|cpu| !machine.is_inside(*cpu)).unwrap_or(BOOT);
    for run in machine.all_owner_runs() {
        // Lines that exist, and KeyID 0.
        let _ = machine.partial_write(cpu, run.lines, KeyId::HOST, PartialStore::Dma);
    }
}

/// What a handover did, in words.
fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reset(count) => {
            let (lines, ranges) = (words::count(count.lines, "line"), words::count(count.ranges, "range"));
            format!("the handover writes {lines} in {ranges} with MOVDIR64B")
        }
        Outcome::NothingToDo(why) => format!("the handover resets nothing: {why:?}"),
        Outcome::Kept(count) => {
            let lines = words::count(count.lines, "line");
            format!("the handover keeps TDX, and writes {lines} that no TD needs with MOVDIR64B")
        }
        Outcome::LeftPrivate(why) => format!("the handover leaves private memory as it is: {why:?}"),
    }
}

/// Lets the next kernel live, and says what it dies of.
struct Judge<'a, 'b, 's, 'm> {
    branch: &'a Branch<'b, 's, 'm>,
    report: &'a HandoverReport,
    clean: bool,
    late_before: u64,
}

impl Judge<'_, '_, '_, '_> {
    /// No page in use may be reset. A kexec that resets all memory has no users left to
    /// use it.
    fn resets(&self, resets: &[LineRange]) -> Option<Finding> {
        if self.branch.policy == Policy::Everything && matches!(self.branch.end, End::Kexec(_)) {
            return None;
        }
        let page = resets.iter().find_map(|lines| self.branch.live.first_in_use(lines.pages()))?;
        Some(self.finding(Rule::ResetInUse, format!("page {page} is in use and was reset")))
    }

    /// The next kernel, and then the host's own word.
    fn all(&self, machine: &mut Machine) -> Result<Option<Finding>, LabError> {
        let found = self.next_kernel(machine)?;
        if found.is_some() || self.clean {
            return Ok(found);
        }
        let what = format!("the host does not vouch for it, and could: {}", self.report.suspects);
        Ok(Some(self.finding(Rule::NotClean, what)))
    }

    fn next_kernel(&self, machine: &mut Machine) -> Result<Option<Finding>, LabError> {
        machine.kexec_boundary();
        let mut found = self.use_memory(machine)?;
        let waiting = machine.dirty_private_runs();
        if found.is_none() && !waiting.is_empty() {
            // Nothing says when they leave the cache: now, under the next kernel.
            for run in &waiting {
                machine.evict(run.lines, run.key);
            }
            found = self.use_memory(machine)?;
        }
        if found.is_some() {
            return Ok(found);
        }
        let late = machine.counters().lines_late_private - self.late_before;
        if late > 0 {
            let what = format!("{} landed on memory that was reset", words::count(late, "old private cache line"));
            return Ok(Some(self.finding(Rule::LateWriteBack, what)));
        }
        let private = machine.private_lines();
        let harmless = !self.branch.live.platform.has_partial_write_erratum();
        if private > 0 && self.clean && !harmless {
            return Ok(Some(
                self.finding(Rule::LeftPrivate, format!("still private: {}", words::count(private, "line"))),
            ));
        }
        Ok(None)
    }

    fn use_memory(&self, machine: &mut Machine) -> Result<Option<Finding>, LabError> {
        for part in self.branch.live.host.memory() {
            let check = match self.branch.end {
                End::Kexec(_) => {
                    machine.use_memory(BOOT, part.range, PartialStore::NonTemporal).map_err(LabError::Refused)?.first
                }
                End::Panic(_) => match machine.load(BOOT, part.range.lines(), KeyId::HOST) {
                    Ok(()) => None,
                    Err(AccessError::MachineCheck(check)) => Some(check),
                    Err(AccessError::Refused(refusal)) => return Err(LabError::Refused(refusal)),
                },
            };
            if let Some(check) = check {
                return Ok(Some(self.dies(&check)));
            }
        }
        Ok(None)
    }

    fn dies(&self, check: &MachineCheck) -> Finding {
        let branch = self.branch;
        let page = check.address.page();
        let kind = branch.history.describe(page, branch.live.pamt_of(page));
        let what = format!("the next kernel dies of a machine check at {}, in {kind}", check.address);
        self.finding(Rule::MachineCheck, what)
    }

    /// With what the handover said about itself.
    fn finding(&self, rule: Rule, what: String) -> Finding {
        let mut story = Vec::new();
        match self.branch.end {
            End::Kexec(cpu) => story.push(format!("{cpu} begins a kexec")),
            End::Panic(cpu) => story.push(format!("{cpu} panics")),
        }
        match self.branch.stray {
            Stray::None => {}
            Stray::Memory => story.push("partial writes have hit every private line before".to_owned()),
            Stray::AfterEviction => {
                story.push("every private line has left its cache, and partial writes have hit it".to_owned());
            }
        }
        if let Some(cpu) = self.branch.silent {
            story.push(format!("CPU {} never answers", cpu.0));
        }
        if let Some(call) = &self.branch.in_flight {
            let leaf = call.registers.leaf_call().leaf();
            let end = if call.ends_in_time { "leaves before it takes the NMI" } else { "does not leave in time" };
            story.push(format!("CPU {} is inside {leaf} and {end}", call.cpu.0));
        }
        story.push(told(&self.report.outcome));
        story.push(if self.clean { "the host says: clean" } else { "the host says: not clean" }.to_owned());
        story.push(what.clone());
        Finding { rule, what, story }
    }
}
