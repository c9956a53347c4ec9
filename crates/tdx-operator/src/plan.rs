//! `plan`: TDMR layout of a host by the product's code, prediction of Linux's layout, and the
//! reasons for differences. Does not use the software machine.

use std::num::NonZero;

use tdx_abi::{PageRange, PageSize};
use tdx_host::layout::{self, Border, GiveUpReason, Layout, LayoutError, Limits, MapFrames, Note, Pamt4k};

use crate::{
    bootlog::Failure,
    cost::{Rates, cost},
    host::{Assumption, Host},
    images,
    layout::LayoutName,
    report::{GivenUpReport, LayoutReport, LinuxReport, PamtReport, PlanReport, Span, TOOL, TdmrReport},
    size, words,
};

/// Plans this layout on the host, with the limits of module 1.5.
pub fn plan(host: &Host, name: LayoutName, rates: Rates) -> PlanReport {
    let chosen = build(host, name, Limits::MODULE_1_5);
    let linux = build(host, LayoutName::Linux, Limits::MODULE_1_5);
    let dynamic = build(host, name, DYNAMIC).ok();
    let cost = chosen.as_ref().ok().map(|layout| cost(host, layout, dynamic.as_deref(), rates));
    let linux_report = predict(host, &linux);
    let differences = differences(host, name, &chosen, &linux_report, &linux);
    PlanReport {
        schema: "cleanslate/plan",
        version: 1,
        tool: TOOL,
        host: host.into(),
        layout: report(host, name, &chosen),
        linux: linux_report,
        differences,
        cost,
    }
}

/// Dynamic PAMT with one bit for each page, as the modules do of which we know (`tdx_abi.md`
/// section 5).
const DYNAMIC: Limits = Limits { pamt_4k: Pamt4k::Bitmap { bits: NonZero::<u16>::MIN }, ..Limits::MODULE_1_5 };

fn build(host: &Host, name: LayoutName, limits: Limits) -> Result<Box<Layout>, LayoutError> {
    let mut frames = MapFrames::new(host.memory());
    // An empty list of taken ranges has room, and nothing overlaps in it.
    let _ = frames.reserve(images::pages(host));
    let mut layout = Box::new(Layout::new());
    layout::build_with(&name, host.memory(), host.cmrs(), &limits, &mut frames, &mut layout)?;
    Ok(layout)
}

/// The layout as a report.
fn report(host: &Host, name: LayoutName, result: &Result<Box<Layout>, LayoutError>) -> LayoutReport {
    let limits = Limits::MODULE_1_5;
    let mut report = LayoutReport {
        layout: name.name(),
        result: "ok".to_owned(),
        error: None,
        tdmrs: Vec::new(),
        pamt_kb: None,
        given_up_bytes: 0,
        given_up: Vec::new(),
        max_tdmrs: limits.max_tdmrs,
        max_reserved_per_tdmr: limits.max_reserved_per_tdmr,
        notes: Vec::new(),
    };
    match result {
        Ok(layout) => {
            report.tdmrs = tdmrs(layout);
            report.pamt_kb = Some(layout.pamt_kb());
            report.given_up_bytes = layout.given_up_bytes(host.memory(), host.cmrs());
            report.given_up = layout
                .given_up(host.memory(), host.cmrs())
                .map(|part| GivenUpReport { range: part.range.into(), reason: reason(part.reason) })
                .collect();
            if let Some((_, error)) = refused(host, layout) {
                report.result = EIO.to_string();
                report.error = Some(error);
            }
            report.notes = layout.notes(host.memory(), host.cmrs()).map(|note| note_text(&note)).collect();
        }
        Err(error) => {
            report.result = error.errno().to_string();
            report.error = Some(error.to_string());
        }
    }
    report
}

/// The TDMR table as a report.
pub fn tdmrs(layout: &Layout) -> Vec<TdmrReport> {
    let pamt = |level| move |tdmr: &layout::Tdmr| Span::from(tdmr.pamt(level));
    let row = |(index, tdmr): (usize, &layout::Tdmr)| TdmrReport {
        index,
        range: tdmr.range().into(),
        node: tdmr.node().0,
        reserved_count: tdmr.reserved().len(),
        reserved: tdmr.reserved().iter().copied().map(Span::from).collect(),
        pamt: PamtReport {
            small: pamt(PageSize::Size4K)(tdmr),
            large: pamt(PageSize::Size2M)(tdmr),
            huge: pamt(PageSize::Size1G)(tdmr),
        },
        pamt_bytes: tdmr.pamt_bytes(),
    };
    layout.tdmrs().iter().enumerate().map(row).collect()
}

/// What is no usable memory in a range.
fn holes(host: &Host, range: PageRange) -> Vec<Span> {
    let mut at = range.start();
    let mut out = Vec::new();
    for piece in host.memory().iter().map(|piece| piece.range).filter(|piece| piece.overlaps(range)) {
        let hole = PageRange::new(at, piece.start());
        if !hole.is_empty() {
            out.push(hole.into());
        }
        at = piece.end().max(at);
    }
    let last = PageRange::new(at, range.end());
    if !last.is_empty() {
        out.push(last.into());
    }
    out
}

/// What Linux would print. Its layout may still be refused by SYS.CONFIG, because Linux does not
/// look at CMRs.
fn predict(host: &Host, linux: &Result<Box<Layout>, LayoutError>) -> LinuxReport {
    let mut report = LinuxReport {
        result: "ok".to_owned(),
        error: None,
        tdmr: None,
        holes: Vec::new(),
        needed: None,
        allowed: None,
        tdmrs: None,
        pamt_kb: None,
        equals_log: None,
    };
    let layout = match linux {
        Ok(layout) => layout,
        Err(error) => {
            report.result = error.errno().to_string();
            report.error = Some(error.to_string());
            if let LayoutError::ReservedAreasExhausted { tdmr, needed, allowed }
            | LayoutError::TdmrsExhausted { tdmr, needed, allowed } = error
            {
                report.tdmr = Some((*tdmr).into());
                report.holes = holes(host, *tdmr);
                (report.needed, report.allowed) = (Some(*needed), Some(*allowed));
                report.equals_log = match host.logged().failure.as_ref().map(|at| at.value.0) {
                    Some(Failure::ReservedAreasExhausted(logged)) => Some(logged == *tdmr),
                    _ => None,
                };
            }
            return report;
        }
    };
    if let Some((tdmr, error)) = refused(host, layout) {
        report.result = EIO.to_string();
        report.error = Some(error);
        report.tdmr = Some(tdmr.into());
        return report;
    }
    report.tdmrs = Some(layout.tdmr_count());
    report.pamt_kb = Some(layout.pamt_kb());
    report.equals_log = host.logged().pamt_kb.map(|logged| logged == layout.pamt_kb());
    report
}

/// The errno Linux gives to a SEAMCALL that failed.
const EIO: i32 = -5;

/// Why SYS.CONFIG would refuse a layout that does not look at CMRs.
fn refused(host: &Host, layout: &Layout) -> Option<(PageRange, String)> {
    layout.notes(host.memory(), host.cmrs()).find_map(|note| match note {
        Note::NotConvertible { tdmr, range } => Some((
            tdmr,
            format!(
                "TDH.SYS.CONFIG rejects TDMR {tdmr}: {range} is outside all CMRs and not reserved \
                    (TDX_TDMR_OUTSIDE_CMRS)"
            ),
        )),
        _ => None,
    })
}

fn differences(
    host: &Host,
    name: LayoutName,
    chosen: &Result<Box<Layout>, LayoutError>,
    linux_report: &LinuxReport,
    linux: &Result<Box<Layout>, LayoutError>,
) -> Vec<String> {
    let mut out = Vec::new();
    if let (Some(false), Some(kb), Some(logged)) =
        (linux_report.equals_log, linux_report.pamt_kb, host.logged().pamt_kb)
    {
        let any = |is: fn(&Assumption) -> bool| host.assumptions().iter().any(is);
        let why = if any(|it| matches!(it, Assumption::OneNode | Assumption::NodesFromRanges { .. })) {
            "a NUMA node border inside a range makes one TDMR more, which a log without NUMA rows does \
                 not show; give it with \
             --node-border"
        } else if any(|it| matches!(it, Assumption::NodeBorders(_))) {
            "the given node borders or the log's memory map differ from those of the kernel"
        } else {
            "the nodes are known, so the log's memory map differs from that of the kernel, or that kernel \
                differs from the known ones"
        };
        out.push(format!("the log reports {logged} KB, the `linux` layout needs {kb} KB: {why}"));
    }
    if name == LayoutName::Linux {
        return out;
    }
    match (chosen, linux_report.error.as_ref()) {
        (Ok(_), Some(_)) if linux_report.needed.is_some() => out.push(
            "Linux takes the holes of a TDMR from its memory map, in which firmware leaves many small \
                 ones; `fit` takes them \
             from the CMRs, which the module checks against and in which those holes do not exist"
                .to_owned(),
        ),
        (Ok(_), Some(_)) => out.push("Linux ignores CMRs; `fit` omits or reserves memory outside all CMRs".to_owned()),
        (Err(_), None) => out.push("Linux finds a layout where `fit` finds none".to_owned()),
        _ => {}
    }
    if let (Ok(chosen), Ok(linux)) = (chosen, linux)
        && linux_report.error.is_none()
    {
        let ranges = |layout: &Layout| layout.tdmrs().iter().map(layout::Tdmr::range).collect::<Vec<_>>();
        if ranges(chosen) != ranges(linux) {
            let (ours, theirs) = (chosen.tdmr_count(), linux.tdmr_count());
            out.push(format!(
                "{} instead of {theirs}: Linux opens a TDMR for each memory range that reaches past the one before, \
                 `fit` where memory, a node or a limit of the module begins",
                words::count(ours as u64, "TDMR")
            ));
        }
        let areas = |layout: &Layout| layout.tdmrs().iter().map(|tdmr| tdmr.reserved().len()).sum::<usize>();
        if areas(chosen) != areas(linux) {
            let (ours, theirs) = (areas(chosen), areas(linux));
            out.push(format!(
                "{} instead of {theirs}: Linux reserves every hole of its memory map, `fit` only what no CMR \
                 covers, and PAMT",
                words::count(ours as u64, "reserved area")
            ));
        }
    }
    out
}

fn reason(reason: GiveUpReason) -> &'static str {
    match reason {
        GiveUpReason::OutsideCmrs => "in no CMR",
        GiveUpReason::ReservedAreas => "between reserved areas that were merged",
        GiveUpReason::Tdmrs => "in no TDMR: TDMR limit reached",
        GiveUpReason::PamtMemory => "in no TDMR: no memory for its PAMT",
    }
}

fn note_text(note: &Note) -> String {
    match *note {
        Note::Split { tdmr, border } => {
            let why = match border {
                Border::Memory => "memory starts there",
                Border::Node => "memory of another node starts there",
                Border::ReservedAreas => "the previous TDMR would exceed the reserved areas",
                Border::PamtMemory => "a single TDMR would need more contiguous PAMT memory than available",
            };
            format!("TDMR {tdmr} is separate from the previous one: {why}")
        }
        Note::Merged { tdmr, gap, pamt_bytes } => format!(
            "TDMR {tdmr} spans {gap} without usable memory to save a TDMR; costs {} of PAMT",
            size::human(pamt_bytes)
        ),
        Note::ReservedConvertible { tdmr, range } => {
            format!("TDMR {tdmr} reserves {range}, convertible but not in the memory map")
        }
        Note::NotConvertible { tdmr, range } => {
            format!("TDMR {tdmr} contains {range}, outside all CMRs and not reserved: rejected by SYS.CONFIG")
        }
        Note::RemotePamt { tdmr, pamt, node } => {
            format!("the PAMT of TDMR {tdmr} is on another node: {pamt} on {node}")
        }
        Note::PamtInPieces { tdmr } => format!(
            "the PAMTs of TDMR {tdmr} are not contiguous: no contiguous \
            range available"
        ),
        Note::GivenUp(part) => {
            format!("{} ({}) is given up: {}", part.range, size::human(part.range.bytes()), reason(part.reason))
        }
        _ => format!("{note:?}"),
    }
}
