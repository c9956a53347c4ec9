//! What private memory is for, at one instant: PAMT by the table that the host gave to the module,
//! everything else by the module's own PAMT. What is private and known to neither was returned, or
//! only written to.

use tdx_abi::{Line, LineRange, PageSize};
use tdx_host::layout::Tdmr;
use tdx_machine::{AssignedKind, AssignedRun, CpuId, Machine};

use crate::report::{PrivateLines, TdmrLines};

/// A map of private memory, taken before the handover changes it.
#[derive(Clone, Debug)]
pub(super) struct PrivateMap {
    tdmrs: Vec<Tdmr>,
    assigned: Vec<AssignedRun>,
    /// The machine with all caches written back: what is dirty there is private as well, only
    /// later.
    settled: Machine,
}

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    /// `PAMT_4K` and the like.
    pub(super) name: &'static str,
    /// Index of the TDMR whose PAMT it is in, or in which it lies.
    pub(super) tdmr: Option<usize>,
}

impl PrivateMap {
    pub(super) fn of(machine: &Machine, tdmrs: &[Tdmr]) -> Self {
        let mut settled = machine.clone();
        for cpu in 0..settled.cpus() {
            // A machine has all the CPUs that it counts.
            let _ = settled.wbinvd(CpuId(cpu));
        }
        Self { tdmrs: tdmrs.to_vec(), assigned: machine.assigned_pages(), settled }
    }

    /// The TDMRs of the host's table.
    pub(super) fn tdmr(&self, index: usize) -> Option<&Tdmr> {
        self.tdmrs.get(index)
    }

    /// Counts the lines that a private KeyID owns, by kind.
    pub(super) fn count(&self) -> PrivateLines {
        let in_pamt = |tdmr: &Tdmr, level| self.settled.private_lines_in(tdmr.pamt(level).lines());
        let by_tdmr: Vec<TdmrLines> = self
            .tdmrs
            .iter()
            .enumerate()
            .map(|(index, tdmr)| TdmrLines {
                tdmr: index,
                pamt_4k: in_pamt(tdmr, PageSize::Size4K),
                pamt_2m: in_pamt(tdmr, PageSize::Size2M),
                pamt_1g: in_pamt(tdmr, PageSize::Size1G),
            })
            .collect();
        let sum = |lines: fn(&TdmrLines) -> u64| by_tdmr.iter().map(lines).sum::<u64>();
        let assigned = |kinds: &[AssignedKind]| {
            let runs = self.assigned.iter().filter(|run| kinds.contains(&run.kind));
            runs.map(|run| self.settled.private_lines_in(run.pages.lines())).sum::<u64>()
        };
        let mut lines = PrivateLines {
            lines: self.settled.private_lines(),
            pamt_4k: sum(|t| t.pamt_4k),
            pamt_2m: sum(|t| t.pamt_2m),
            pamt_1g: sum(|t| t.pamt_1g),
            tdr: assigned(&[AssignedKind::Tdr]),
            control: assigned(&[AssignedKind::Tdcx, AssignedKind::Tdvpr]),
            sept: assigned(&[AssignedKind::Sept]),
            guest: assigned(&[AssignedKind::Guest]),
            dynamic_pamt: assigned(&[AssignedKind::PamtPair]),
            returned: 0,
            other: 0,
            by_tdmr,
        };
        let in_tdmrs = self.tdmrs.iter().map(|tdmr| self.settled.private_lines_in(tdmr.range().lines())).sum::<u64>();
        let pamt_in_tdmrs = self.tdmrs.iter().map(|tdmr| self.pamt_lines_in(tdmr.range().lines())).sum::<u64>();
        let pamt = lines.pamt_4k + lines.pamt_2m + lines.pamt_1g;
        let known = lines.tdr + lines.control + lines.sept + lines.guest + lines.dynamic_pamt;
        lines.returned = in_tdmrs.saturating_sub(pamt_in_tdmrs + known);
        lines.other = lines.lines.saturating_sub(pamt + known + lines.returned);
        lines
    }

    /// What a line is, if it was private.
    pub(super) fn kind(&self, line: Line) -> Option<Kind> {
        let page = line.page();
        let tables = [(PageSize::Size4K, "PAMT_4K"), (PageSize::Size2M, "PAMT_2M"), (PageSize::Size1G, "PAMT_1G")];
        let pamt = self.tdmrs.iter().enumerate().find_map(|(index, tdmr)| {
            let (_, name) = tables.iter().find(|(level, _)| tdmr.pamt(*level).contains(page))?;
            Some(Kind { name, tdmr: Some(index) })
        });
        let inside = self.tdmrs.iter().position(|tdmr| tdmr.range().contains(page));
        pamt.or_else(|| {
            let run = self.assigned.iter().find(|run| run.pages.contains(page))?;
            Some(Kind { name: run.kind.name(), tdmr: inside })
        })
        .or_else(|| {
            self.settled.owner(line)?;
            Some(Kind { name: "returned page", tdmr: inside })
        })
    }

    /// The lowest private line of each kind there is.
    pub(super) fn one_of_each(&self) -> Vec<(Line, &'static str)> {
        let mut found: Vec<(Line, &'static str)> = Vec::new();
        for run in self.settled.all_owner_runs() {
            // A run of one owner may pass from one page to the next of another kind.
            let mut line = run.lines.start();
            while line < run.lines.end() {
                if let Some(kind) = self.kind(line)
                    && found.iter().all(|(_, name)| *name != kind.name)
                {
                    found.push((line, kind.name));
                }
                line = self.end_of_kind(line).min(run.lines.end());
            }
        }
        found
    }

    /// The first line after `line` that may be of another kind.
    fn end_of_kind(&self, line: Line) -> Line {
        let page = line.page();
        let tables = self.tdmrs.iter().flat_map(|tdmr| PageSize::ALL.map(|level| tdmr.pamt(level)));
        let ranges = tables.chain(self.assigned.iter().map(|run| run.pages));
        match ranges.into_iter().find(|range| range.contains(page)) {
            Some(range) => range.end().first_line(),
            None => tdx_abi::Page::new(page.index() + 1).first_line(),
        }
    }

    fn pamt_lines_in(&self, lines: LineRange) -> u64 {
        let tables = self.tdmrs.iter().flat_map(|tdmr| PageSize::ALL.map(|level| tdmr.pamt(level)));
        tables.map(|table| self.settled.private_lines_in(table.lines().intersection(lines))).sum()
    }
}
