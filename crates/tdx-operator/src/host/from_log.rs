//! Host from the facts of a log: what the log contains, then what can be derived, then defaults;
//! the last two are listed as assumptions.

use tdx_abi::{KeyIdPartition, PageRange};
use tdx_host::platform::{CpuModel, NodeRange};

use super::{Assumption, Host, HostOptions, Logged, key_id_field, memory, nodes};
use crate::{
    bootlog::{BootLog, Chosen, CpuHint, Speaker},
    cpu_model::SAPPHIRE_RAPIDS,
    input::{InputError, Rule},
};

/// The split most logs of the field show: `[32, 64)`.
pub(super) const USUAL_KEY_IDS: KeyIdPartition = KeyIdPartition::new(31, 32);
/// Most TDX hosts have two packages.
pub(super) const USUAL_PACKAGES: u32 = 2;
/// Enough to have several CPUs of one package at work; a real host has more, which changes nothing
/// but the time.
pub(super) const CPUS_PER_PACKAGE: u32 = 4;

/// The value of the source, or the usual value with an entry in the assumptions.
pub(super) fn or_assume<T: Copy>(
    given: Option<T>,
    usual: T,
    assumptions: &mut Vec<Assumption>,
    assumption: impl FnOnce(T) -> Assumption,
) -> T {
    given.unwrap_or_else(|| {
        assumptions.push(assumption(usual));
        usual
    })
}

pub(super) fn build(file: &str, chosen: &Chosen, options: &HostOptions) -> Result<Host, InputError> {
    let log = &chosen.log;
    let mut assumptions = Vec::new();
    match log.speaker.as_ref().map(|at| (at.line, at.value.0, &at.value.1)) {
        Some((line, Speaker::TdGuest, text)) => return Err(InputError::at_line(file, line, text, Rule::Guest)),
        Some((line, Speaker::Esxi, text)) => return Err(InputError::at_line(file, line, text, Rule::Esxi)),
        Some((line, Speaker::VirtualMachine, _)) => assumptions.push(Assumption::VirtualMachine { line }),
        Some((line, Speaker::RootPartition, _)) => assumptions.push(Assumption::RootPartition { line }),
        Some((_, Speaker::TdPartitioning | Speaker::Xen, _)) | None => {}
    }
    if chosen.count > 1 {
        let (number, count, line) = (chosen.number, chosen.count, chosen.first_line);
        assumptions.push(Assumption::Boot { number, count, line });
    }
    if let Some(at) = &log.fold {
        assumptions.push(Assumption::Joined { line: at.line, fold: at.value });
    }
    if log.is_empty() {
        return Err(InputError::of_file(file, Rule::NotABootLog));
    }
    if !log.has_memory() {
        return Err(no_memory(file, log));
    }
    let ranges = memory::usable(log, &mut assumptions);
    if ranges.is_empty() {
        return Err(no_usable_memory(file, log));
    }
    let mut cmrs: Vec<PageRange> = log.cmrs.iter().map(|cmr| cmr.value).collect();
    if cmrs.is_empty() {
        assumptions.push(Assumption::CmrsFromMemory);
        cmrs = memory::cmrs_of(&ranges);
    }
    let key_ids = log.key_ids.map(|at| at.value);
    let key_ids = or_assume(key_ids, USUAL_KEY_IDS, &mut assumptions, Assumption::KeyIds);
    check_width(file, log, key_ids)?;
    let memory = place(file, log, &ranges, &cmrs, options, &mut assumptions)?;
    let cpu = cpu(log, &mut assumptions);
    let (packages, cpus) = cpus(log, &mut assumptions);
    history(log, &mut assumptions);
    Ok(Host {
        name: file.to_owned(),
        memory,
        cmrs,
        key_ids,
        cpu,
        packages,
        cpus,
        logged: Logged {
            kernel: log.kernel.as_ref().map(|at| at.value.clone()),
            module: log.module.map(|at| at.value),
            pamt_kb: log.pamt_kb.map(|at| at.value),
            failure: log.failure.clone(),
        },
        assumptions,
    })
}

/// The log says something about TDX or nodes, and nothing about memory: quotes the most specific
/// line.
fn no_memory(file: &str, log: &BootLog) -> InputError {
    let failure = log.failure.as_ref().map(|at| (at.line, at.value.1.as_str()));
    let last = log.last_tdx.as_ref().map(|at| (at.line, at.value.as_str()));
    match failure.or(last) {
        Some((line, text)) => InputError::at_line(file, line, text, Rule::NoMemory),
        None => InputError::of_file(file, Rule::NoMemory),
    }
}

fn no_usable_memory(file: &str, log: &BootLog) -> InputError {
    let last = log.e820.last().map(|at| (at.line, at.value.range.to_string()));
    let last = last.or_else(|| log.iomem.last().map(|at| (at.line, at.value.to_string())));
    let last = last.or_else(|| log.early_nodes.last().map(|at| (at.line, at.value.range.to_string())));
    match last.or_else(|| log.cmrs.last().map(|at| (at.line, at.value.to_string()))) {
        Some((line, text)) => InputError::at_line(file, line, &text, Rule::NoUsableMemory),
        None => InputError::of_file(file, Rule::NoUsableMemory),
    }
}

/// Memory must stay below the KeyID bits of an address.
fn check_width(file: &str, log: &BootLog, key_ids: KeyIdPartition) -> Result<(), InputError> {
    use crate::bootlog::E820Type::Usable;
    let bits = key_id_field(key_ids).shift();
    let e820 = log.e820.iter().filter(|row| row.value.kind == Usable).map(|row| (row.line, row.value.range.end));
    let iomem = log.iomem.iter().map(|row| (row.line, row.value.end));
    let early = log.early_nodes.iter().map(|row| (row.line, row.value.range.end));
    let cmrs = log.cmrs.iter().map(|row| (row.line, row.value.limit()));
    match e820.chain(iomem).chain(early).chain(cmrs).find(|(_, end)| end.get() > 1 << bits) {
        Some((line, end)) => {
            Err(InputError::at_line(file, line, &end.to_string(), Rule::BeyondAddressWidth { end, bits }))
        }
        None => Ok(()),
    }
}

/// Gives each piece of memory its node.
fn place(
    file: &str,
    log: &BootLog,
    ranges: &[PageRange],
    cmrs: &[PageRange],
    options: &HostOptions,
    assumptions: &mut Vec<Assumption>,
) -> Result<Vec<NodeRange>, InputError> {
    let rows = [&log.early_nodes, &log.srat, &log.numa].into_iter().find(|rows| !rows.is_empty());
    let given = &options.node_borders;
    if let Some(rows) = rows {
        if !given.is_empty() {
            return Err(InputError::of_file(file, Rule::NodeBorderKnown));
        }
        let (memory, outside) = nodes::from_rows(ranges, rows);
        if outside > 0 {
            assumptions.push(Assumption::OutsideNodes { bytes: outside });
        }
        return Ok(memory);
    }
    if !given.is_empty() {
        nodes::check_borders(ranges, given).map_err(|rule| InputError::of_file(file, rule))?;
        assumptions.push(Assumption::NodeBorders(given.clone()));
        return Ok(nodes::from_borders(ranges, given));
    }
    let borders = nodes::borders_of(cmrs);
    let memory = nodes::from_borders(ranges, &borders);
    assumptions.push(match u32::try_from(borders.len()) {
        Ok(0) | Err(_) => Assumption::OneNode,
        Ok(borders) => Assumption::NodesFromRanges { nodes: borders + 1 },
    });
    Ok(memory)
}

fn cpu(log: &BootLog, assumptions: &mut Vec<Assumption>) -> CpuModel {
    let hint = log.cpu_hint.map(|at| (at.line, at.value));
    match (log.cpu, hint) {
        (Some(cpu), _) if cpu.value.intel => cpu.value,
        (Some(cpu), _) => {
            assumptions.push(Assumption::CpuReplaced { line: cpu.line, model: SAPPHIRE_RAPIDS });
            SAPPHIRE_RAPIDS
        }
        (None, Some((line, CpuHint::Model(model)))) => {
            assumptions.push(Assumption::CpuFromComment { model, line });
            model
        }
        (None, Some((line, CpuHint::NotIntel))) => {
            assumptions.push(Assumption::CpuReplaced { line, model: SAPPHIRE_RAPIDS });
            SAPPHIRE_RAPIDS
        }
        (None, None) => {
            assumptions.push(Assumption::Cpu(SAPPHIRE_RAPIDS));
            SAPPHIRE_RAPIDS
        }
    }
}

/// Packages and CPUs.
fn cpus(log: &BootLog, assumptions: &mut Vec<Assumption>) -> (u32, u32) {
    let known_nodes = {
        let rows = [&log.early_nodes, &log.srat, &log.numa].into_iter().find(|rows| !rows.is_empty());
        let mut nodes: Vec<_> = rows.into_iter().flatten().map(|row| row.value.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        u32::try_from(nodes.len()).unwrap_or(1)
    };
    let per_node = known_nodes > 0;
    let usual = if per_node { known_nodes } else { USUAL_PACKAGES };
    let packages = log.packages.map(|at| at.value);
    let packages = or_assume(packages, usual, assumptions, |packages| Assumption::Packages { packages, per_node });
    let cpus = log.cpus.or(log.allowed_cpus).map(|at| at.value);
    // The kernel counts the packages that could be there, and each that is has a CPU.
    let packages = cpus.map_or(packages, |cpus| packages.min(cpus));
    let cpus = or_assume(cpus, packages.saturating_mul(CPUS_PER_PACKAGE), assumptions, Assumption::Cpus);
    (packages, cpus)
}

/// What the log's kernel did, where it tells that the log or the comparison is not whole.
fn history(log: &BootLog, assumptions: &mut Vec<Assumption>) {
    if let Some(at) = &log.failure {
        assumptions.push(Assumption::LinuxFailed { line: at.line, text: at.value.1.clone() });
    } else if let (Some(last), None, None) = (log.cmrs.last(), log.pamt_kb, log.initialized) {
        assumptions.push(Assumption::MayBeCut { line: last.line });
    }
    if let Some(line) = log.dynamic_pamt {
        assumptions.push(Assumption::DynamicPamt { line });
    }
}
