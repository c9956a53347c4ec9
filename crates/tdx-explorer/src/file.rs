//! Scenario files. TOML, schema `cleanslate-scenario`; unknown keys and words are errors with line,
//! column and the rule.

use std::ops::Range;

use serde::Deserialize;
use tdx_abi::{Leaf, Operand, PageSize, StatusCode};
use tdx_host::{handover::Policy, platform::CpuId};
use tdx_machine::{Fault, ModuleProfile, When};
use toml::Spanned;

use super::scenario::{Expect, Scenario, Step, What};
use first_kernel::Move;
use tdx_lab::tds::GUEST_PAGES;
use tdx_operator::{
    host::{Host, HostOptions},
    input::{InputError, Rule, harmless},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    schema: Spanned<String>,
    version: Spanned<u32>,
    name: Spanned<String>,
    about: String,
    host: Spanned<HostTable>,
    module: Option<Spanned<String>>,
    policy: Option<Spanned<String>>,
    ends: Option<Spanned<Vec<String>>>,
    steps: Vec<Spanned<StepRow>>,
    #[serde(default)]
    concurrent: Vec<Spanned<Concurrent>>,
    overlapping: Option<Spanned<bool>>,
    #[serde(default)]
    expect: ExpectTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct HostTable {
    model: Option<String>,
    packages: Option<u32>,
    cpus: u32,
    key_ids: Option<String>,
    memory: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StepRow {
    #[serde(rename = "do")]
    what: String,
    #[serde(default)]
    cpu: Option<u32>,
    td: Option<usize>,
    page: Option<u64>,
    size: Option<String>,
    leaf: Option<String>,
    nth: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Concurrent {
    cpu: u32,
    steps: Vec<Spanned<StepRow>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ExpectTable {
    bring_up: Option<Spanned<String>>,
    running: Option<usize>,
    marked_pages: Option<u64>,
    #[serde(default)]
    instants: u64,
}

/// Bytes of a scenario file; a long one has a few thousand.
pub const FILE_LIMIT: usize = 1 << 20;

/// Steps that a scenario may have; a long one has a few dozen.
const MOST_STEPS: usize = 4096;

/// Reads a scenario.
///
/// # Errors
/// [`InputError`] with line, column and the rule.
pub fn parse(file: &str, text: &str) -> Result<Scenario, InputError> {
    if text.len() > FILE_LIMIT {
        return Err(InputError::of_file(file, Rule::TooLarge { limit: FILE_LIMIT as u64 }));
    }
    let source = Source { file, text };
    let parsed: File = toml::from_str(text).map_err(|error| {
        let at = error.span().unwrap_or(0..0);
        source.error(&at, error.message().replace('\n', "; "))
    })?;
    source.scenario(&parsed)
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, at: &Range<usize>) -> u64 {
        1 + self.text.bytes().take(at.start).filter(|byte| *byte == b'\n').count() as u64
    }

    /// From 1.
    fn column(&self, at: &Range<usize>) -> usize {
        let before = self.text.get(..at.start).unwrap_or_default();
        1 + before.chars().rev().take_while(|c| *c != '\n').count()
    }

    fn error(&self, at: &Range<usize>, rule: String) -> InputError {
        let line = self.line(at);
        let quoted = self.text.lines().nth(usize::try_from(line - 1).unwrap_or(0)).unwrap_or_default();
        InputError::at_line(self.file, line, quoted, Rule::Scenario { column: self.column(at), rule })
    }

    fn word<T: Copy>(&self, word: &Spanned<String>, words: &[(&str, T)]) -> Result<T, InputError> {
        if let Some((_, value)) = words.iter().find(|(name, _)| name == word.get_ref()) {
            return Ok(*value);
        }
        let all: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        Err(self.error(&word.span(), format!("one of {} is expected", all.join(", "))))
    }

    fn scenario(&self, parsed: &File) -> Result<Scenario, InputError> {
        if parsed.schema.get_ref() != "cleanslate-scenario" {
            return Err(self.error(&parsed.schema.span(), "the schema is `cleanslate-scenario`".to_owned()));
        }
        if *parsed.version.get_ref() != 1 {
            return Err(self.error(&parsed.version.span(), "the version is 1".to_owned()));
        }
        let name = parsed.name.get_ref();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            let rule = "a name is made of lower-case letters, digits and `-`: it is typed on a command line";
            return Err(self.error(&parsed.name.span(), rule.to_owned()));
        }
        let host = self.host(name, &parsed.host)?;
        let (module, dynamic_pamt) = match &parsed.module {
            None => (ModuleProfile::V1_5_01, false),
            Some(word) => self.word(
                word,
                &[
                    ("1.5.01", (ModuleProfile::V1_5_01, false)),
                    ("1.5.25", (ModuleProfile::V1_5_25, false)),
                    ("sys-disable", (ModuleProfile::V1_5_01.with_sys_disable(), false)),
                    ("dynamic-pamt", (ModuleProfile::V1_5_25, true)),
                ],
            )?,
        };
        let policies = [
            ("tracked", Policy::Tracked),
            ("module", Policy::Module),
            ("everything", Policy::Everything),
            ("keep", Policy::Keep),
        ];
        let policy = parsed.policy.as_ref().map_or(Ok(Policy::Tracked), |word| self.word(word, &policies))?;
        if let Some(word) = parsed.module.as_ref().filter(|_| policy == Policy::Keep && dynamic_pamt) {
            return Err(self.error(&word.span(), "under policy keep PAMT is static".to_owned()));
        }
        let (mut kexec, mut panic) = (true, true);
        if let Some(ends) = &parsed.ends {
            (kexec, panic) = (false, false);
            for end in ends.get_ref() {
                match end.as_str() {
                    "kexec" => kexec = true,
                    "panic" => panic = true,
                    _ => return Err(self.error(&ends.span(), "ends are kexec and panic".to_owned())),
                }
            }
        }
        let cpus = host.cpus();
        let steps = self.steps(&parsed.steps, 0, cpus)?;
        let mut concurrent: Vec<Vec<Step>> = Vec::new();
        let wrong = steps.iter().position(|step| !step.what.can_be_with(policy));
        if let Some((at, step)) = wrong.and_then(|at| Some((parsed.steps.get(at)?.span(), steps.get(at)?))) {
            let other = if policy == Policy::Keep { "no step of policy keep" } else { "a step of policy keep alone" };
            return Err(self.error(&at, format!("{other}: {}", step.what)));
        }
        if let Some(row) = parsed.concurrent.first().filter(|_| policy == Policy::Keep) {
            return Err(self.error(&row.span(), "under policy keep CPUs do not work beside each other".to_owned()));
        }
        if let Some(end) = steps.iter().position(|step| matches!(step.what, What::Kexec | What::Panic))
            && (end + 1 < steps.len() || !parsed.concurrent.is_empty())
        {
            let at = parsed.steps.get(end).map_or(0..0, Spanned::span);
            return Err(self.error(&at, "nothing comes after this: the kernel has handed over".to_owned()));
        }
        let overlapping = parsed.overlapping.as_ref().is_some_and(|overlapping| *overlapping.get_ref());
        if let Some(at) = parsed.overlapping.as_ref().filter(|_| overlapping && parsed.concurrent.len() < 2) {
            let rule = "calls overlap where CPUs work beside each other: two lists of `concurrent`";
            return Err(self.error(&at.span(), rule.to_owned()));
        }
        let mut seen = Vec::new();
        for row in &parsed.concurrent {
            let table = row.get_ref();
            if seen.contains(&table.cpu) {
                return Err(self.error(&row.span(), format!("CPU {} has two lists of steps", table.cpu)));
            }
            seen.push(table.cpu);
            if table.steps.is_empty() {
                return Err(self.error(&row.span(), "a list of steps is empty".to_owned()));
            }
            let steps = self.steps(&table.steps, table.cpu, cpus)?;
            let shared = steps
                .iter()
                .filter_map(Step::td)
                .find(|td| concurrent.iter().flatten().filter_map(Step::td).any(|other| other == *td));
            if let Some(td) = shared {
                return Err(self.error(&row.span(), format!("TD {td} is in two lists: each CPU has TDs of its own")));
            }
            if let Some((step, _)) = steps
                .iter()
                .zip(&table.steps)
                .find(|(step, _)| step.cpu.0 != table.cpu || !step.what.can_be_beside(overlapping))
            {
                let rule = format!("`{}` cannot be done beside others, or not on {}", step.what, step.cpu);
                return Err(self.error(&row.span(), rule));
            }
            concurrent.push(steps);
        }
        let bring_up = parsed.expect.bring_up.as_ref();
        let expect = Expect {
            bring_up: bring_up.map(|word| self.word(word, &[("ok", true), ("fails", false)])).transpose()?,
            running: parsed.expect.running,
            marked_pages: parsed.expect.marked_pages,
            instants: parsed.expect.instants,
        };
        let (name, about) = (name.clone(), harmless(&parsed.about));
        Ok(Scenario {
            name,
            about,
            host,
            module,
            dynamic_pamt,
            policy,
            kexec,
            panic,
            steps,
            concurrent,
            overlapping,
            expect,
        })
    }

    /// A host in the form of a host file, so that there is one reader for both.
    fn host(&self, name: &str, table: &Spanned<HostTable>) -> Result<Host, InputError> {
        let host = table.get_ref();
        let mut text = format!(
            "schema = \"cleanslate-host\"\nversion = 1\nname = {name:?}\n[cpu]\nmodel = {:?}\npackages = {}\ncpus = {}\n",
            host.model.as_deref().unwrap_or("spr"),
            host.packages.unwrap_or(1),
            host.cpus
        );
        let key_ids = host.key_ids.as_deref().unwrap_or("[32, 64)");
        text.extend([format!("[tdx]\nkey_ids = {key_ids:?}\n")]);
        text.extend(host.memory.iter().map(|range| format!("[[memory]]\nrange = {range:?}\n")));
        Host::from_reader(name, text.as_bytes(), &HostOptions::default())
            .map_err(|error| self.error(&table.span(), format!("the host: `{}`: {}", error.value, error.rule)))
    }

    fn steps(&self, rows: &[Spanned<StepRow>], cpu: u32, cpus: u32) -> Result<Vec<Step>, InputError> {
        if let Some(row) = rows.get(MOST_STEPS) {
            return Err(self.error(&row.span(), format!("a scenario has at most {MOST_STEPS} steps")));
        }
        let mut steps = Vec::new();
        for row in rows {
            let at = row.span();
            let table = row.get_ref();
            let cpu = table.cpu.unwrap_or(cpu);
            if cpu >= cpus {
                return Err(self.error(&at, format!("there is no CPU {cpu}: the host has {cpus}")));
            }
            let what = self.what(&at, table)?;
            steps.push(Step { cpu: CpuId(cpu), what, line: self.line(&at) });
        }
        Ok(steps)
    }

    fn what(&self, at: &Range<usize>, row: &StepRow) -> Result<What, InputError> {
        let Some((_, keys)) = STEPS.iter().find(|(name, _)| *name == row.what) else {
            let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
            return Err(self.error(at, format!("`{}` is not a step; steps are {}", row.what, names.join(", "))));
        };
        let given = [
            ("td", row.td.is_some()),
            ("page", row.page.is_some()),
            ("size", row.size.is_some()),
            ("leaf", row.leaf.is_some()),
            ("nth", row.nth.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !keys.contains(key)) {
            return Err(self.error(at, format!("`{}` has no `{key}`", row.what)));
        }
        let td = row.td.unwrap_or(0);
        if td >= 8 {
            return Err(self.error(at, "TDs are numbered 0 to 7".to_owned()));
        }
        let page = row.page.unwrap_or(0);
        if page >= GUEST_PAGES {
            return Err(self.error(at, format!("guest pages are numbered 0 to {}", GUEST_PAGES - 1)));
        }
        let size = match row.size.as_deref() {
            None | Some("4K") => PageSize::Size4K,
            Some("2M") => PageSize::Size2M,
            Some(_) => return Err(self.error(at, "a size is 4K or 2M".to_owned())),
        };
        let fault = |fault| -> Result<What, InputError> { Ok(What::Inject(fault, self.when(at, row)?)) };
        Ok(match row.what.as_str() {
            "bring-up" => What::BringUp,
            "host-writes" => What::HostWrites,
            "build-step" => What::Move(td, Move::Build),
            "build" => What::Build(td),
            "augment" => What::Move(td, Move::Augment(page, size)),
            "enter" => What::Move(td, Move::Enter),
            "remove" => What::Move(td, Move::Remove(page, size)),
            "relocate" => What::Move(td, Move::Relocate(page)),
            "demote" => What::Move(td, Move::Demote(page)),
            "promote" => What::Move(td, Move::Promote(page)),
            "tear-down-step" => What::Move(td, Move::TearDown),
            "tear-down" => What::TearDown(td),
            "reclaim-one" => What::Move(td, Move::ReclaimOne),
            "evict" => What::Evict,
            "stray-writes" => What::StrayWrites,
            "shut-down" => What::ShutDown,
            "update" => What::Update,
            "foreign-td" => What::Foreign,
            "make-fatal" => What::MakeFatal(td),
            "offline" => What::Offline,
            "kexec" => What::Kexec,
            "kexec-jump" => What::KexecJump,
            "panic" => What::Panic,
            "keep" => What::Keep,
            "keep-panic" => What::KeepPanic,
            "adopt" => What::Adopt,
            "vacuum" => What::Vacuum,
            "fault-no-entropy" => fault(Fault::NoEntropy)?,
            "fault-no-entropy-always" => What::Inject(Fault::NoEntropy, When::Always),
            "heal-no-entropy" => What::Heal(Fault::NoEntropy),
            "fault-late-always" => What::Inject(Fault::LateFailure, When::Always),
            "heal-late" => What::Heal(Fault::LateFailure),
            "fault-interrupt-always" => What::Inject(Fault::InterruptPending, When::Always),
            "fault-interrupt" => fault(Fault::InterruptPending)?,
            "fault-key-engine" => fault(Fault::KeyEngineNoEntropy)?,
            "fault-late" => fault(Fault::LateFailure)?,
            "fault-refused" => fault(Fault::Answer(StatusCode::OPERAND_INVALID.operand(Operand::RCX)))?,
            "module-dies" => fault(Fault::Crash)?,
            // The table of steps has no other name.
            _ => What::Heal(Fault::InterruptPending),
        })
    }

    fn when(&self, at: &Range<usize>, row: &StepRow) -> Result<When, InputError> {
        let nth = row.nth.unwrap_or(1);
        if nth == 0 {
            return Err(self.error(at, "calls are counted from 1".to_owned()));
        }
        match &row.leaf {
            None => Ok(When::Call(nth)),
            Some(name) => {
                let short = name.strip_prefix("TDH.").unwrap_or(name);
                let leaf = (0..=0x7fu16).map(Leaf).find(|leaf| leaf.to_string().strip_prefix("TDH.") == Some(short));
                let leaf = leaf.ok_or_else(|| {
                    self.error(at, format!("`{name}` is no leaf; write MNG.CREATE, MEM.PAGE.AUG ..."))
                })?;
                Ok(When::CallOf(leaf, nth))
            }
        }
    }
}

const TD: &[&str] = &["td"];
const PAGE: &[&str] = &["td", "page"];
const SIZED: &[&str] = &["td", "page", "size"];
const FAULT: &[&str] = &["leaf", "nth"];

/// Every step, and which keys it has besides `do` and `cpu`.
const STEPS: [(&str, &[&str]); 39] = [
    ("bring-up", &[]),
    ("host-writes", &[]),
    ("build", TD),
    ("build-step", TD),
    ("augment", SIZED),
    ("enter", TD),
    ("remove", SIZED),
    ("relocate", PAGE),
    ("demote", PAGE),
    ("promote", PAGE),
    ("tear-down", TD),
    ("tear-down-step", TD),
    ("reclaim-one", TD),
    ("evict", &[]),
    ("stray-writes", &[]),
    ("shut-down", &[]),
    ("update", &[]),
    ("foreign-td", &[]),
    ("make-fatal", TD),
    ("offline", &[]),
    ("kexec", &[]),
    ("kexec-jump", &[]),
    ("panic", &[]),
    ("keep", &[]),
    ("keep-panic", &[]),
    ("adopt", &[]),
    ("vacuum", &[]),
    ("fault-no-entropy", FAULT),
    ("fault-no-entropy-always", &[]),
    ("heal-no-entropy", &[]),
    ("fault-interrupt", FAULT),
    ("fault-interrupt-always", &[]),
    ("heal-interrupt", &[]),
    ("fault-late", FAULT),
    ("fault-late-always", &[]),
    ("heal-late", &[]),
    ("fault-key-engine", FAULT),
    ("fault-refused", FAULT),
    ("module-dies", FAULT),
];
