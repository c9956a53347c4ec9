//! The checks, each a function of the facts. A check never guesses: missing data is UNKNOWN, and a
//! conclusion or an unverified fact is marked as such.

mod agree;
mod cpu;
mod firmware;
mod handover;
mod kernel;
mod module;
mod remedy;
mod since_boot;
mod way;

use super::{facts::Facts, item::Item};
use crate::report::{Basis, CheckCategory, CheckFinding, Remedy, Status};
pub(super) use module::mem_total_kb;
pub(super) use since_boot::{PowerCycle, power_cycle};
pub(super) use way::outcome;

/// A question.
struct Rule {
    id: &'static str,
    title: &'static str,
    source: &'static str,
    look: fn(&Facts<'_>) -> Finding,
}

/// Questions that belong together.
struct Category {
    name: &'static str,
    title: &'static str,
    rules: &'static [Rule],
}

const CATEGORIES: [Category; 6] = [
    Category { name: "cpu", title: "The processor", rules: &cpu::RULES },
    Category { name: "firmware", title: "What the BIOS set up", rules: &firmware::RULES },
    Category { name: "kernel", title: "The kernel", rules: &kernel::RULES },
    Category { name: "module", title: "The TDX module", rules: &module::RULES },
    Category { name: "kexec", title: "What the next kernel finds", rules: &handover::RULES },
    Category { name: "data", title: "The data of this report", rules: &agree::RULES },
];

/// An answer.
struct Finding {
    status: Status,
    text: String,
    basis: Basis,
    evidence: Vec<String>,
    notes: Vec<String>,
    hint: Option<String>,
    remedies: Vec<Remedy>,
}

impl Finding {
    fn new(status: Status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            basis: Basis::Sourced,
            evidence: Vec::new(),
            notes: Vec::new(),
            hint: None,
            remedies: Vec::new(),
        }
    }

    fn pass(text: impl Into<String>) -> Self {
        Self::new(Status::Pass, text)
    }

    fn warn(text: impl Into<String>) -> Self {
        Self::new(Status::Warn, text)
    }

    fn fail(text: impl Into<String>) -> Self {
        Self::new(Status::Fail, text)
    }

    fn unknown(text: impl Into<String>) -> Self {
        Self::new(Status::Unknown, text)
    }

    fn basis(mut self, basis: Basis) -> Self {
        self.basis = basis;
        self
    }

    fn deduced(self) -> Self {
        self.basis(Basis::Deduced)
    }

    fn unverified(self) -> Self {
        self.basis(Basis::Unverified)
    }

    /// Evidence that may be there.
    fn evidences(mut self, evidence: Option<String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// What is worth knowing and was not seen here.
    fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What helps, what it gives and what it costs.
    fn remedies(mut self, remedies: Vec<Remedy>) -> Self {
        self.remedies = remedies;
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Asks every question, in a fixed order.
pub(super) fn ask(facts: &Facts<'_>) -> Vec<CheckCategory> {
    let answer = |rule: &Rule| {
        let Finding { status, text, basis, evidence, notes, hint, remedies } = (rule.look)(facts);
        let (id, title, source) = (rule.id, rule.title, rule.source);
        CheckFinding { id, title, status, text, basis, source, evidence, notes, hint, remedies }
    };
    let category = |category: &Category| {
        let checks: Vec<CheckFinding> = category.rules.iter().map(answer).collect();
        let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Pass);
        CheckCategory { name: category.name, title: category.title, status, checks }
    };
    CATEGORIES.iter().map(category).collect()
}

/// Whether a panic gives a dump; `None` if that was not seen.
pub(super) fn can_dump(facts: &Facts<'_>) -> Option<bool> {
    handover::can_dump(facts)
}

/// Whether an image is loaded, as far as the kernel says it.
pub(super) fn loaded(facts: &Facts<'_>, image: Item) -> Option<bool> {
    handover::flag(facts, image).ok()
}
