//! Private lines by kind. How many there are the machine says; the names come from the table that the host gave to the
//! module. What is private and in no PAMT of that table stands apart, as `other`.

use tdx_abi::{Line, PageSize};
use tdx_host::layout::{Layout, Tdmr};
use tdx_machine::{CpuId, Machine};

use crate::report::{PrivateLines, TdmrLines};

/// Counts the lines that a private KeyID owns, on a copy of the machine whose caches are written back: what is dirty there
/// is private as well, only later.
pub(super) fn private(machine: &Machine, layout: &Layout) -> PrivateLines {
    let mut settled = machine.clone();
    for cpu in 0..settled.cpus() {
        // A machine has all the CPUs that it counts.
        let _ = settled.wbinvd(CpuId(cpu));
    }
    let in_pamt = |tdmr: &Tdmr, level| settled.private_lines_in(tdmr.pamt(level).lines());
    let by_tdmr: Vec<TdmrLines> = layout
        .tdmrs()
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
    let (pamt_4k, pamt_2m, pamt_1g) = (sum(|t| t.pamt_4k), sum(|t| t.pamt_2m), sum(|t| t.pamt_1g));
    let lines = settled.private_lines();
    let other = lines.saturating_sub(pamt_4k + pamt_2m + pamt_1g);
    PrivateLines { lines, pamt_4k, pamt_2m, pamt_1g, other, by_tdmr }
}

/// What a line is: `PAMT_4K` and the like, with the index of its TDMR.
pub(super) fn kind(layout: &Layout, line: Line) -> Option<(&'static str, usize)> {
    let names = [(PageSize::Size4K, "PAMT_4K"), (PageSize::Size2M, "PAMT_2M"), (PageSize::Size1G, "PAMT_1G")];
    layout.tdmrs().iter().enumerate().find_map(|(index, tdmr)| {
        let (_, name) = names.iter().find(|(level, _)| tdmr.pamt(*level).contains(line.page()))?;
        Some((*name, index))
    })
}
