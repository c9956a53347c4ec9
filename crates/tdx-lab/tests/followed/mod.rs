//! An observer of SEAMCALLs beside an emulated module: `tdx_host::follow` keeps a ledger from the
//! operands alone, and after each call it is compared with the owner of every line and with the
//! module's own PAMT.
//!
//! * Superset: a page with a private line is marked, or is PAMT.
//! * No page becomes private in a call that does not name it, by the table of `tdx_host::effect`,
//!   and none in a call that fails unless the table has its status.
//! * The pages that the ledger shows as the module's are those that its PAMT has assigned: a page
//!   that came back is not one of them.
#![allow(dead_code)] // each test binary uses its own part

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

use tdx_abi::{Leaf, LineRange, Page, PageRange, PageSize, PhysAddr, Registers, TdmrInfo};
use tdx_host::effect::{self, LeafEffect, Written};
use tdx_host::follow::{ModuleEvent, Moves};
use tdx_host::ledger::{Ledger, PageState};
use tdx_machine::{CpuId, Machine, OwnerRun};
use zerocopy::IntoBytes;

use super::promise::{self, Observe as _, Refs};

/// R8 of SYS.CONFIG: Dynamic PAMT.
const DYNAMIC_PAMT: u64 = tdx_abi::SYS_CONFIG_DYNAMIC_PAMT;

/// How a page became private that a call names: leaf, version, the register, and the status of a
/// call that failed.
pub type Seen = BTreeSet<(u16, u8, &'static str, Option<u32>)>;

/// The observer.
pub struct Followed {
    ledger: Ledger<'static>,
    refs: Refs,
    pamts: Vec<PageRange>,
    /// Named by the SYS.CONFIG under way.
    named_pamts: Vec<PageRange>,
    dynamic_pamt: bool,
    /// Private lines of PAMT.
    pamt_lines: u64,
    /// Lines were reset since `lines` and `owned` were read.
    reset_since: bool,
    lines: u64,
    /// Private lines by page, but for PAMT.
    owned: BTreeMap<Page, u64>,
    /// What is wrong.
    pub problems: Vec<String>,
    pub seen: Seen,
    /// Page moves that were compared.
    pub compared: u64,
}

fn ledger(memory: PageRange) -> Ledger<'static> {
    let words: Vec<AtomicU64> = (0..Ledger::words_needed([memory])).map(|_| AtomicU64::new(0)).collect();
    Ledger::new([memory], words.leak()).unwrap()
}

pub fn pages_of(range: PageRange) -> impl Iterator<Item = Page> {
    (range.start().index()..range.end().index()).map(Page::new)
}

impl Followed {
    /// Over `memory`, which is whole 2 MiB pages. Its ledger lives as long as the test.
    pub fn new(memory: PageRange) -> Self {
        Self {
            ledger: ledger(memory),
            refs: Refs::default(),
            pamts: Vec::new(),
            named_pamts: Vec::new(),
            dynamic_pamt: false,
            pamt_lines: 0,
            reset_since: false,
            lines: 0,
            owned: BTreeMap::new(),
            problems: Vec::new(),
            seen: Seen::new(),
            compared: 0,
        }
    }

    /// A fresh machine: nothing is private. What was [`seen`](Self::seen) stays.
    pub fn start(&mut self, machine: &Machine) {
        for range in self.ledger.marked().collect::<Vec<_>>() {
            for page in pages_of(range) {
                let page = PageRange::new(page, Page::new(page.index() + 1));
                // From whatever state, by the transitions there are.
                let _ = promise::Mark::mark_private(&self.ledger, page);
                let _ = promise::Mark::mark_returned(&self.ledger, page);
                promise::Mark::mark_shared(&self.ledger, page).unwrap();
            }
        }
        assert_eq!(self.ledger.marked_pages(), 0);
        self.refs = Refs::default();
        self.pamts.clear();
        (self.dynamic_pamt, self.pamt_lines) = (false, 0);
        self.read(machine);
    }

    fn read(&mut self, machine: &Machine) {
        self.owned = self.owned_lines(machine);
        self.lines = machine.private_lines();
    }

    /// Lines that are private, by page, but for those of PAMT.
    fn owned_lines(&self, machine: &Machine) -> BTreeMap<Page, u64> {
        let mut pages = BTreeMap::new();
        for run in machine.all_owner_runs() {
            let touched = run.lines.pages();
            if self.pamts.iter().any(|pamt| pamt.intersection(touched) == touched) {
                continue;
            }
            for page in pages_of(touched).filter(|page| !self.is_pamt(*page)) {
                let lines = PageRange::new(page, Page::new(page.index() + 1)).lines().intersection(run.lines);
                *pages.entry(page).or_default() += lines.len();
            }
        }
        pages
    }

    pub fn ledger(&self) -> &Ledger<'static> {
        &self.ledger
    }

    fn moves<'c>(&self, call: &'c Registers) -> Option<Moves<'c>> {
        let leaf = call.leaf_call();
        let moves = Moves::of(call, self.dynamic_pamt).ok();
        assert!(moves.is_some() || (effect::row(leaf).is_none() && leaf.reserved() == 0));
        moves
    }

    pub fn before(&mut self, machine: &mut Machine, call: &Registers) {
        if std::mem::take(&mut self.reset_since) {
            self.read(machine);
        }
        let Some(moves) = self.moves(call) else { return };
        // An operand that no memory lies behind is for the module to refuse.
        let _ = moves.seen_before(&self.ledger, &self.refs);
        if call.leaf_call().leaf() == Leaf::SYS_CONFIG {
            self.named_pamts = pamts(machine, call);
        }
    }

    pub fn after(&mut self, machine: &Machine, call: &Registers, answer: &Registers) {
        let moves = self.moves(call);
        let failed = answer.status().is_error();
        if let Some(moves) = &moves
            && let Err(problem) = moves.seen_after(&self.ledger, answer)
            && !failed
        {
            self.problems.push(format!("{call:x?}: {problem}"));
        }
        if ModuleEvent::of(call, answer, self.pamt_lines > 0) == Some(ModuleEvent::Forgot) {
            promise::seen_forgotten(&self.ledger);
        }
        match call.leaf_call().leaf() {
            Leaf::SYS_CONFIG if !failed => {
                self.pamts.append(&mut self.named_pamts);
                self.dynamic_pamt = call.r8 & DYNAMIC_PAMT != 0;
            }
            Leaf::SYS_CONFIG => self.named_pamts.clear(),
            _ => {}
        }
        self.check_new(machine, Some((call, answer, moves.as_ref())));
        if effect::row(call.leaf_call()).is_some_and(|row| row.effect == LeafEffect::MovesPages) {
            self.check_assigned(machine, call);
        }
    }

    /// A guest has run.
    pub fn guest_left(&mut self, machine: &Machine) {
        self.check_new(machine, None);
    }

    pub fn reset(&mut self, lines: LineRange) {
        if let Err(problem) = promise::seen_reset(&self.ledger, lines.pages(), &self.refs) {
            self.problems.push(format!("reset of {lines}: {problem}"));
        }
        self.reset_since = true;
    }

    /// Every private line lies in a marked page or in PAMT.
    pub fn owners(&mut self, runs: &[OwnerRun]) {
        for run in runs {
            for page in pages_of(run.lines.pages()) {
                if !self.is_marked(page) && !self.is_pamt(page) {
                    self.problems.push(format!("page {page} is private (KeyID {}) and not marked", run.key));
                }
            }
        }
    }

    fn is_marked(&self, page: Page) -> bool {
        self.ledger.state(page).is_some_and(|state| state != PageState::Shared)
    }

    fn is_pamt(&self, page: Page) -> bool {
        self.pamts.iter().any(|range| range.contains(page))
    }

    /// Pages that have more private lines than before are named by the call, or were the module's
    /// already.
    fn check_new(&mut self, machine: &Machine, made: Option<(&Registers, &Registers, Option<&Moves<'_>>)>) {
        // No SEAMCALL makes a line ordinary memory, so lines that are as many are the same.
        if machine.private_lines() == self.lines {
            return;
        }
        let owned = self.owned_lines(machine);
        let before: u64 = self.owned.values().sum();
        if machine.private_lines() - owned.values().sum::<u64>() > self.lines - before
            && !made.is_some_and(|(call, answer, _)| {
                call.leaf_call().leaf() == Leaf::SYS_TDMR_INIT && !answer.status().is_error()
            })
        {
            self.problems.push(format!("PAMT became private in {made:x?}"));
        }
        let more = owned.iter().filter(|(page, lines)| self.owned.get(page).is_none_or(|before| before < *lines));
        for page in more.map(|(page, _)| *page).collect::<Vec<_>>() {
            if let Err(problem) = self.is_named(page, made) {
                self.problems.push(format!("page {page} became private {problem}"));
            }
        }
        self.lines = machine.private_lines();
        self.pamt_lines = self.lines - owned.values().sum::<u64>();
        self.owned = owned;
    }

    fn is_named(
        &mut self,
        page: Page,
        made: Option<(&Registers, &Registers, Option<&Moves<'_>>)>,
    ) -> Result<(), String> {
        let Some((call, answer, moves)) = made else {
            let taken = self.ledger.state(page) == Some(PageState::Private);
            return if taken { Ok(()) } else { Err("in a guest, and was not taken".into()) };
        };
        let (leaf, version, status) = (call.leaf_call().leaf(), call.leaf_call().version(), answer.status());
        let at = || format!("in {call:x?}, {status}");
        let taken = moves.and_then(|moves| moves.taken().iter().position(|range| range.contains(page)));
        let Some(index) = taken else { return Err(at()) };
        self.compared += 1;
        let row = effect::row(call.leaf_call()).ok_or_else(at)?;
        let there: Vec<_> = row.takes.iter().filter(|take| is_there(take, call, self.dynamic_pamt)).collect();
        let allowed = match there[index].written {
            Written::OnSuccess => !status.is_error(),
            Written::AlsoOn(failures) => !status.is_error() || failures.contains(&status.code()),
            _ => false,
        };
        let register = there[index].register.name();
        self.seen.insert((leaf.0, version, register, status.is_error().then_some(status.code().0)));
        if allowed { Ok(()) } else { Err(format!("against the table {}", at())) }
    }

    /// What the ledger shows as the module's is what PAMT has assigned.
    fn check_assigned(&mut self, machine: &Machine, call: &Registers) {
        if machine.module_state() != Some(tdx_machine::SysState::Ready) {
            return;
        }
        let assigned: BTreeSet<Page> =
            machine.assigned_pages().into_iter().flat_map(|run| pages_of(run.pages)).collect();
        let private: BTreeSet<Page> = self
            .ledger
            .marked()
            .flat_map(pages_of)
            .filter(|page| self.ledger.state(*page) == Some(PageState::Private))
            .collect();
        if let Some(page) = assigned.symmetric_difference(&private).next() {
            let who = if private.contains(page) { "the ledger alone" } else { "the module alone" };
            self.problems.push(format!("page {page}: {who} has it after {call:x?}"));
        }
    }
}

/// The register names a page: as `Moves::of` decides, from outside.
fn is_there(take: &effect::Take, call: &Registers, dynamic_pamt: bool) -> bool {
    let value = take.register.of(call);
    match take.there {
        effect::There::Always => true,
        effect::There::UnlessAllOnes => value != u64::MAX,
        effect::There::UnlessAllOnesOrZero => value != u64::MAX && value != 0,
        effect::There::PairOf2M => dynamic_pamt && call.rcx & 7 == 1,
    }
}

/// The PAMTs that a SYS.CONFIG names; none if its operands name no memory.
fn pamts(machine: &mut Machine, call: &Registers) -> Vec<PageRange> {
    let mut ranges = Vec::new();
    let field = machine.config().key_id_field;
    let cpu = (0..machine.cpus()).map(CpuId).find(|cpu| machine.vm_on(*cpu).is_none()).unwrap();
    for index in 0..call.rdx.min(64) {
        let mut pointer = [0; 8];
        let at = field.strip(PhysAddr::new(call.rcx.wrapping_add(8 * index)));
        if machine.read_shared(cpu, at, &mut pointer).is_err() {
            break;
        }
        let mut info = TdmrInfo::default();
        let at = field.strip(PhysAddr::new(u64::from_le_bytes(pointer)));
        if machine.read_shared(cpu, at, info.as_mut_bytes()).is_err() {
            break;
        }
        for level in PageSize::ALL {
            let (base, size) = info.pamt(level);
            ranges.extend(PageRange::from_base_size(PhysAddr::new(base), size));
        }
    }
    ranges
}
