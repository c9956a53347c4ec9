//! A branch: a copy of the machine is handed over from an instant, and the next kernel takes TDX
//! over by the product's own code. What became of TDs and memory is asked of the machine.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use first_kernel::guest_page;
use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, Registers, StatusCode, subtract};
use tdx_host::{
    SharedPage,
    handover::Suspects,
    ledger::PageState,
    platform::CpuId,
    takeover::{TakeoverTable, TdState, WrittenBy},
    td::{Runnable, Td, TdHost, VcpuHost},
};
use tdx_lab::{
    kexec::keep,
    platform::{GuestAct, Lab, LabCpus, LabError, LabKernel, promise},
};
use tdx_machine::{AssignedKind, Machine, MachineCheck, PartialStore};

use super::bugs::{New, Old};
use super::{BOOT, COUNTER, Facts, Kernel, associated, copy_slots, finding, keys, on_counter};
use crate::branch::End;
use crate::bug::Wrong;
use crate::scenario::Scenario;
use crate::verdict::{Finding, Rule};

/// What a branch begins with.
pub(super) struct Branch<'b, 'a, 'm> {
    pub(super) kernel: &'b Kernel<'a, 'm>,
    pub(super) end: End,
    pub(super) facts: &'b Facts,
}

impl Branch<'_, '_, '_> {
    /// Runs it on this copy of the machine.
    ///
    /// # Errors
    /// [`LabError`]: the machine was asked for something that it does not model.
    pub(super) fn run(&self, machine: Machine) -> Result<Option<Finding>, LabError> {
        let watcher = Old(self.kernel.wrong().unwrap_or_default());
        let slots = copy_slots(self.kernel.tdx.gate(), None);
        let lab = Lab::taken_over(machine, slots, &(), &watcher);
        // The kernel's records as they are now: a copy by its own table, as a reader sees them. A
        // returned page is one in flight there, of which the module is asked, and so is every page
        // while the answer of a SEAMCALL that returns pages is not entered.
        let tds = self.facts.tds();
        let now = keep::record(&lab, self.kernel.tdx, WrittenBy::Crash, &Suspects::default(), tds.iter().copied())?;
        let copy = tdx_host::Host::new(lab.slots());
        copy.detect(&lab).map_err(LabError::NoTdx)?;
        let mut words = Vec::new();
        if let Err(what) = enter(&copy, &now, &mut words) {
            return Ok(Some(self.found(Rule::RecordRefused, what)));
        }
        let (End::Kexec(cpu) | End::Panic(cpu)) = self.end;
        let mut cpus = LabCpus::new(&lab, copy.gate(), copy.platform().copied());
        cpus.move_to(cpu);
        let wrong = self.kernel.wrong();
        let (report, record) = self.kernel.hand_over(&lab, &copy, &cpus, self.end, self.facts, wrong)?;
        lab.check()?;
        if let Some(error) = report.not_flushed {
            return Ok(Some(self.found(Rule::TdLost, format!("a VCPU was not flushed: {error}"))));
        }
        let mut machine = lab.ask(Clone::clone);
        let mut lost = associated(&machine, &tds);
        lost.extend(&self.facts.lost);
        machine.kexec_boundary();
        self.next_kernel(machine, &record, &lost)
    }

    fn found(&self, rule: Rule, what: impl Into<String>) -> Finding {
        finding(rule, self.end, what.into())
    }

    /// From the jump on.
    fn next_kernel(
        &self,
        mut machine: Machine,
        record: &[u8],
        lost: &BTreeSet<Page>,
    ) -> Result<Option<Finding>, LabError> {
        let wrong = self.kernel.wrong().unwrap_or_default();
        let Ok(table) = TakeoverTable::read(record) else {
            return Ok(Some(self.found(Rule::RecordRefused, "the takeover table does not read")));
        };
        let reserved = if wrong == Wrong::ReservesLate { Vec::new() } else { keep::reserved(record)? };
        if let Some(check) = use_memory(self.kernel.scenario, &mut machine, &reserved)? {
            let what = format!("the next kernel dies of a machine check at {}", check.address);
            return Ok(Some(self.found(Rule::MachineCheck, what)));
        }
        let before = machine.clone();
        let watcher = New(wrong);
        let lab = Lab::on(machine, &())?.watched_by(&watcher);
        wrong.at_start(&lab);
        let tdx = tdx_host::Host::new(lab.slots());
        tdx.detect(&lab).map_err(LabError::NoTdx)?;
        let mut words: Vec<AtomicU64> = Vec::new();
        words.resize_with(usize::try_from(table.claim_words()).unwrap_or(usize::MAX), Default::default);
        let tds = match promise::take_over(&tdx, &table, &mut words) {
            Ok(tds) => tds,
            Err(error) => return Ok(Some(self.found(Rule::RecordRefused, error.to_string()))),
        };
        let mut kernel = LabKernel::new(&lab, &tdx, &self.kernel.scenario.host);
        keep::keep_off(&mut kernel, &self.kernel.scenario.host, record)?;

        let mut adopted: Vec<(u32, Td<'_, Runnable>)> = Vec::new();
        let mut refused = Vec::new();
        tds.adopt(kernel.cpus(), &table, |number, td| match td {
            Ok(td) => adopted.push((number, td)),
            Err(error) => refused.push((number, error)),
        });
        let is_adopted = |tdr: Page| adopted.iter().any(|(_, td)| td.tdr() == tdr);
        if let Some((_, td)) = adopted.iter().find(|(_, td)| lost.contains(&td.tdr())) {
            let what = format!("the TD with TDR {} is adopted, and what a CPU held of its VCPU is lost", td.tdr());
            return Ok(Some(self.found(Rule::StaleVcpu, what)));
        }
        let gone = self.facts.tds().into_iter().find(|td| {
            let runs = td.state == TdState::Runnable && matches!(self.end, End::Kexec(_));
            runs && !self.facts.lost.contains(&td.tdr) && !is_adopted(td.tdr)
        });
        if let Some(td) = gone {
            let why = refused.first().map_or_else(String::new, |(_, error)| format!(": {error}"));
            return Ok(Some(self.found(Rule::TdLost, format!("the TD with TDR {} is not adopted{why}", td.tdr))));
        }
        let tdrs: Vec<Page> = adopted.iter().map(|(_, td)| td.tdr()).collect();
        let pamts: Vec<PageRange> = table.pamts().collect();
        let expected = keep::lines_of(&before, &pamts, &tdrs);

        // A TD of its own: while those that it inherited still have their KeyIDs, or afterwards.
        // Its teardown writes back caches: it hides what was not.
        let builds_first = matches!(self.end, End::Kexec(CpuId(0)) | End::Panic(CpuId(0)));
        if builds_first && let Some(finding) = self.build_one(&lab, &mut kernel, tds)? {
            return Ok(Some(finding));
        }
        let mut back: BTreeSet<u64> = BTreeSet::new();
        let mut twice = None;
        let mut came_back = |page: SharedPage<'_>| {
            let range = page.release().range();
            twice = twice.or((range.start().index()..range.end().index()).find(|page| !back.insert(*page)));
        };
        let spared: &[Page] = if wrong == Wrong::VacuumsAdopted { &[] } else { &tdrs };
        let done = promise::vacuum(tds, kernel.cpus(), &keys(&table), spared, &mut came_back);
        if let Some(error) = done.error {
            return Ok(Some(self.found(Rule::NotVacuumed, format!("the vacuum fails: {error}"))));
        }
        if let Some(page) = twice {
            return Ok(Some(self.found(Rule::CameBackUnclean, format!("page {} came back twice", Page::new(page)))));
        }
        for (index, (number, td)) in adopted.iter().enumerate() {
            // Another CPU than the one before, in turns.
            kernel.move_to(CpuId((index as u32 + 1) % lab.ask(Machine::cpus)));
            let vcpu = table.vcpus(*number).next().map(|(_, page)| page);
            if let Some(what) = runs(&lab, &kernel, td, vcpu) {
                return Ok(Some(self.found(Rule::TdLost, format!("the TD with TDR {}: {what}", td.tdr()))));
            }
            if let Some(what) = self.changed(&lab, &kernel, td, &before) {
                return Ok(Some(self.found(Rule::ContentsChanged, format!("the TD with TDR {}: {what}", td.tdr()))));
            }
        }
        if !builds_first && let Some(finding) = self.build_one(&lab, &mut kernel, tds)? {
            return Ok(Some(finding));
        }
        lab.check()?;
        Ok(self.at_the_end(&lab, tds, &tdrs, expected))
    }

    /// Nothing is private but PAMT and the TDs that live on; nothing else is the module's, and all
    /// of it is marked.
    fn at_the_end(&self, lab: &Lab<'_>, tds: TdHost<'_>, tdrs: &[Page], expected: u64) -> Option<Finding> {
        lab.act(Machine::write_back_all);
        let other =
            lab.ask(Machine::assigned_pages).into_iter().find(|run| run.tdr.is_none_or(|tdr| !tdrs.contains(&tdr)));
        if let Some(run) = other {
            return Some(self.found(Rule::NotVacuumed, format!("{} is left as {}", run.pages, run.kind.name())));
        }
        let is_private = |page| tds.ledger().state(Page::new(page)) == Some(PageState::Private);
        let unmarked = lab
            .ask(Machine::assigned_pages)
            .into_iter()
            .find_map(|run| (run.pages.start().index()..run.pages.end().index()).find(|page| !is_private(*page)));
        if let Some(page) = unmarked {
            return Some(self.found(Rule::Unmarked, format!("page {} is a TD's and not marked", Page::new(page))));
        }
        let marked =
            tds.ledger().marked().flat_map(|range| (range.start().index()..range.end().index()).map(Page::new));
        let assigned = lab.ask(Machine::assigned_pages);
        let unowned = marked.into_iter().find(|page| !assigned.iter().any(|run| run.pages.contains(*page)));
        if let Some(page) = unowned {
            return Some(self.found(Rule::NotVacuumed, format!("page {page} is marked and no TD has it")));
        }
        let private = lab.ask(Machine::private_lines);
        if private != expected {
            let what = format!("{private} private lines are left, {expected} were computed");
            return Some(self.found(Rule::LeftPrivate, what));
        }
        None
    }

    /// Its counter and its lines are what they were. `None` if they are.
    fn changed(
        &self,
        lab: &Lab<'_>,
        kernel: &LabKernel<'_>,
        td: &Td<'_, Runnable>,
        before: &Machine,
    ) -> Option<String> {
        if let Some((old, new)) = self.facts.counters.get(&td.tdr()) {
            match promise::call_any(&kernel.this_cpu(), on_counter(Leaf::MEM_RD, td.tdr())) {
                Ok(answer) if answer.r8 == *old || answer.r8 == *new => {}
                Ok(answer) => return Some(format!("its counter is {}, it was {new}", answer.r8)),
                Err(error) => return Some(error.to_string()),
            }
        }
        let settled = |machine: &Machine| {
            let mut settled = machine.clone();
            settled.write_back_all();
            settled
        };
        let (before, now) = (settled(before), settled(&lab.ask(Clone::clone)));
        let runs = before
            .assigned_pages()
            .into_iter()
            .filter(|run| run.tdr == Some(td.tdr()) && run.kind == AssignedKind::Guest);
        let wrong =
            runs.map(|run| run.pages).find(|pages| before.owner_runs(pages.lines()) != now.owner_runs(pages.lines()));
        wrong.map(|pages| format!("lines of {pages} were overwritten"))
    }

    /// A TD of the next kernel's own gets a KeyID that nobody has, and is torn down.
    fn build_one(
        &self,
        lab: &Lab<'_>,
        kernel: &mut LabKernel<'_>,
        tds: TdHost<'_>,
    ) -> Result<Option<Finding>, LabError> {
        let Some(mut pool) = tdx_lab::tds::pool(tds.ledger(), kernel, 1) else {
            return Err(LabError::Scenario("no room for a TD of the next kernel's own".to_owned()));
        };
        let page = pool.take(PageSize::Size4K).map(|page| PageRange::new(page, Page::new(page.index() + 1)));
        let page = page.and_then(|range| SharedPage::take(tds.ledger(), promise::owned(range)).ok());
        let Some(page) = page else { return Ok(Some(self.found(Rule::TdxLost, "no page for a new TD"))) };
        let td = match tds.create(&kernel.this_cpu(), page) {
            Ok(td) => td,
            Err(error) if error.cause.status().is_some_and(|status| status.code() == StatusCode::HKID_NOT_FREE) => {
                return Ok(Some(
                    self.found(Rule::KeyIdTwice, format!("a new TD was to get a KeyID that is in use: {error}")),
                ));
            }
            Err(error) => return Ok(Some(self.found(Rule::TdxLost, format!("no new TD: {error}")))),
        };
        let key: KeyId = td.key_id();
        let gone = td.configure_keys(kernel.cpus()).map_err(tdx_host::td::Failed::into_cause).and_then(|td| {
            let dead = td.tear_down().free_key(kernel.cpus()).map_err(tdx_host::td::Failed::into_cause)?;
            dead.finish(&kernel.this_cpu()).map_err(tdx_host::td::NotFinished::into_cause).map(drop)
        });
        lab.check()?;
        match gone {
            Ok(()) => Ok(None),
            Err(error) => Ok(Some(self.found(Rule::TdxLost, format!("a new TD with KeyID {key}: {error}")))),
        }
    }
}

/// A host with the records of this table.
fn enter<'m>(copy: &tdx_host::Host<'m>, record: &[u8], words: &'m mut Vec<AtomicU64>) -> Result<(), String> {
    let table = TakeoverTable::read(record).map_err(|error| error.to_string())?;
    words.resize_with(usize::try_from(table.claim_words()).unwrap_or(usize::MAX), Default::default);
    promise::take_over(copy, &table, words).map(drop).map_err(|error| error.to_string())
}

/// The guest is entered and finds its memory. `None` if it does.
fn runs(lab: &Lab<'_>, kernel: &LabKernel<'_>, td: &Td<'_, Runnable>, vcpu: Option<Page>) -> Option<String> {
    let Some(vcpu) = vcpu else { return Some("its VCPU is not listed".to_owned()) };
    let cpu = kernel.this_cpu();
    if let Err(error) = promise::resume_vcpu(td, &cpu, vcpu, &VcpuHost::default()) {
        return Some(error.to_string());
    }
    let acts = [GuestAct::Load(guest_page(COUNTER, PageSize::Size4K).address())];
    lab.let_guest(acts);
    if let Err(error) = promise::call_any(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())) {
        return Some(error.to_string());
    }
    (lab.guest_did() != acts.len()).then(|| "its guest does not find its memory".to_owned())
}

/// The next kernel's allocator has all memory but what the table names, and uses it. Gives the
/// machine check that it dies of.
pub(super) fn use_memory(
    scenario: &Scenario,
    machine: &mut Machine,
    reserved: &[PageRange],
) -> Result<Option<MachineCheck>, LabError> {
    let memory = scenario.host.memory().iter().map(|part| part.range);
    for range in subtract(memory, reserved.iter().copied()) {
        let used = machine.use_memory(BOOT, range, PartialStore::NonTemporal).map_err(LabError::Refused)?;
        if used.first.is_some() {
            return Ok(used.first);
        }
    }
    Ok(None)
}
