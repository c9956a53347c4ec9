//! Owner maps of the vectors against those of the machine.
//!
//! Both must name the same lines, exactly. They must name the same KeyID too, with one exception: a
//! page that the module had under one KeyID and then under another may have lines for which the
//! vector still names an earlier one.
//!
//! The recorder saw writes by what they changed in the pages the module had mapped, and the module
//! keeps mappings of a page under its earlier KeyID for a while. So a line that the module filled
//! with MOVDIR64B under the new KeyID is attributed to the old one if its bytes changed:
//! `td-reu-0000` names KeyID 33 for exactly those 13 lines of a new TDR page, zeroed under KeyID
//! 32, that were not zero in the TDCS page it had been. The lines in between are attributed to 32.
//! No processor can do that; on a real one the module would read those lines with the wrong key and
//! die.

use std::collections::{BTreeMap, BTreeSet};

use tdx_abi::{KeyId, Leaf, LineRange, Page, PhysAddr, Registers, Status};
use tdx_machine::OwnerRun;

/// Under which private KeyIDs the module has mapped each page.
#[derive(Default)]
pub(super) struct Owners {
    keys: BTreeMap<Page, BTreeSet<KeyId>>,
    /// The owner map after the last step.
    last: Vec<OwnerRun>,
    global: Option<KeyId>,
    /// KeyID of each TD, by its TDR page.
    tds: BTreeMap<Page, KeyId>,
}

/// Comparison of two owner maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Same,
    /// The same lines; for some the vector names an earlier KeyID of their page.
    EarlierKey,
    /// They differ at this run.
    Different(usize),
}

impl Owners {
    /// Notes pages that a call maps although it need not write them: MNG.CREATE before it looks at
    /// the KeyID, and MEM.PAGE.RELOCATE of a page that is pending.
    pub(super) fn note_call(&mut self, input: Registers, status: Status) {
        let page = |register| PhysAddr::new(register).page();
        let ok = status == Status::SUCCESS;
        let (mapped, key) = match input.leaf_call().leaf() {
            Leaf::SYS_CONFIG if ok => return self.global = Some(KeyId::new(input.r8 as u16)),
            Leaf::MNG_CREATE => {
                if ok {
                    self.tds.insert(page(input.rcx), KeyId::new(input.rdx as u16));
                }
                (page(input.rcx), self.global)
            }
            Leaf::MEM_PAGE_RELOCATE => (page(input.r8), self.tds.get(&page(input.rdx)).copied()),
            _ => return,
        };
        self.keys.entry(mapped).or_default().extend(key);
    }

    /// Notes the owners after a step.
    pub(super) fn note(&mut self, runs: Vec<OwnerRun>) {
        let mut old = self.last.iter().peekable();
        for run in &runs {
            while old.next_if(|last| last.lines.start() < run.lines.start()).is_some() {}
            if old.peek() == Some(&run) {
                continue;
            }
            let pages = run.lines.pages();
            for page in (pages.start().index()..pages.end().index()).map(Page::new) {
                self.keys.entry(page).or_default().insert(run.key);
            }
        }
        self.last = runs;
    }

    /// Compares maps of the same ranges, ascending.
    pub(super) fn compare(&self, expected: &[OwnerRun], got: &[OwnerRun]) -> Verdict {
        let Some(first) = (0..expected.len().max(got.len())).find(|index| expected.get(*index) != got.get(*index))
        else {
            return Verdict::Same;
        };
        if owned(expected) != owned(got) {
            return Verdict::Different(first);
        }
        let unacceptable = expected.iter().position(|run| {
            let here = got.iter().filter(|other| other.key != run.key);
            here.map(|other| run.lines.intersection(other.lines)).any(|lines| !self.had_key(lines, run.key))
        });
        unacceptable.map_or(Verdict::EarlierKey, Verdict::Different)
    }

    /// Did the module have every page of these lines under this KeyID at some time?
    fn had_key(&self, lines: LineRange, key: KeyId) -> bool {
        let pages = lines.pages();
        (pages.start().index()..pages.end().index())
            .all(|page| self.keys.get(&Page::new(page)).is_some_and(|keys| keys.contains(&key)))
    }
}

/// The owned lines, whoever owns them, as maximal runs.
fn owned(runs: &[OwnerRun]) -> Vec<LineRange> {
    let mut joined: Vec<LineRange> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.end() == run.lines.start() => *last = LineRange::new(last.start(), run.lines.end()),
            _ => joined.push(run.lines),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::Line;

    fn run(start: u64, end: u64, key: u16) -> OwnerRun {
        OwnerRun { lines: LineRange::new(Line::new(start), Line::new(end)), key: KeyId::new(key) }
    }

    #[test]
    fn only_an_earlier_key_of_the_same_page_is_accepted() {
        let mut owners = Owners::default();
        owners.note(vec![run(0, 64, 33), run(64, 128, 34)]);
        owners.note(vec![run(0, 64, 32), run(64, 128, 34)]);
        let got = [run(0, 64, 32), run(64, 128, 34)];
        assert_eq!(owners.compare(&got, &got), Verdict::Same);
        assert_eq!(owners.compare(&[run(0, 1, 33), run(1, 64, 32), run(64, 128, 34)], &got), Verdict::EarlierKey);
        assert_eq!(owners.compare(&[run(0, 1, 34), run(1, 64, 32), run(64, 128, 34)], &got), Verdict::Different(0));
        assert_eq!(owners.compare(&[run(0, 64, 32), run(64, 128, 33)], &got), Verdict::Different(1));
        // Which lines are owned is exact.
        assert_eq!(owners.compare(&[run(0, 63, 32), run(64, 128, 34)], &got), Verdict::Different(0));
        assert_eq!(owners.compare(&[run(0, 64, 32)], &got), Verdict::Different(1));
        assert_eq!(owners.compare(&[], &got), Verdict::Different(0));
    }
}
