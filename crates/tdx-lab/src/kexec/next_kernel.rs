//! The next kernel: it knows nothing of TDX and uses memory as kernels do. Partial stores first,
//! then reads. A crash kernel uses its own memory and reads the rest.

use tdx_abi::{KeyId, PageRange, subtract};
use tdx_machine::{AccessError, CpuId, Machine, MachineCheck, MachineCheckReason, PartialStore, Refusal};

use super::lines::PrivateMap;
use crate::report::{MachineCheckReport, NextKernelReport};
use tdx_operator::{host::Host, report::Address};

/// The CPU that jumped.
const BOOT_CPU: CpuId = CpuId(0);

/// What a kernel does with memory.
#[derive(Clone, Debug)]
pub(super) struct Footprint {
    /// It writes a part of every line of these pages, and reads them back.
    uses: Vec<PageRange>,
    /// It only reads these.
    reads: Vec<PageRange>,
}

impl Footprint {
    /// A kernel that replaces the old one: all memory is its own.
    pub(super) fn everything(host: &Host) -> Self {
        Self { uses: host.memory().iter().map(|piece| piece.range).collect(), reads: Vec::new() }
    }

    /// The same kernel, but it keeps off these pages.
    pub(super) fn without(&self, pages: &[PageRange]) -> Self {
        let rest =
            |ranges: &[PageRange]| ranges.iter().flat_map(|range| subtract([*range], pages.iter().copied())).collect();
        Self { uses: rest(&self.uses), reads: rest(&self.reads) }
    }

    /// A crash kernel: it lives in its reserved memory and reads the rest, /proc/vmcore.
    pub(super) fn vmcore(host: &Host, own: PageRange) -> Self {
        let memory = host.memory().iter().map(|piece| piece.range);
        Self { uses: vec![own], reads: subtract(memory, [own]).collect() }
    }
}

/// A kernel runs on a machine that has passed the kexec boundary.
///
/// Memory is used once as it was found, and, if a cache still held private lines, once more after
/// they have been evicted: nothing says that they wait.
pub(super) fn run(machine: &mut Machine, footprint: &Footprint, map: &PrivateMap) -> Result<NextKernelReport, Refusal> {
    let boundary = machine.step();
    let mut report = NextKernelReport::default();
    for pass in 0..2 {
        let dirty = machine.dirty_private_runs();
        if pass == 1 {
            if dirty.is_empty() {
                break;
            }
            for run in dirty {
                let own = footprint.uses.iter().map(|range| range.lines().intersection(run.lines).len());
                report.lines_lost += own.sum::<u64>();
                machine.evict(run.lines, run.key);
            }
        }
        // Poison stays, so the last pass counts all of it.
        report.fatal_lines = 0;
        for range in &footprint.uses {
            let used = machine.use_memory(BOOT_CPU, *range, PartialStore::NonTemporal)?;
            report.lines_poisoned += used.lines_poisoned;
            report.fatal_lines += used.lines_fatal;
            let read = judge(&mut report, machine, map, *range, used.first, boundary, pass == 1);
            // The second pass writes and reads the same bytes again.
            if pass == 0 {
                report.bytes_written += range.bytes();
                report.bytes_checked += read;
            }
        }
        for range in &footprint.reads {
            report.fatal_lines += machine.poisoned_runs(range.lines()).iter().map(|run| run.lines.len()).sum::<u64>();
            let check = match machine.load(BOOT_CPU, range.lines(), KeyId::HOST) {
                Ok(()) => None,
                Err(AccessError::MachineCheck(check)) => Some(check),
                Err(AccessError::Refused(refusal)) => return Err(refusal),
            };
            let read = judge(&mut report, machine, map, *range, check, boundary, pass == 1);
            if pass == 0 {
                report.bytes_checked += read;
            }
        }
    }
    Ok(report)
}

/// Writes down the first machine check, and says how many bytes of the range a kernel could read
/// before it died.
fn judge(
    report: &mut NextKernelReport,
    machine: &Machine,
    map: &PrivateMap,
    range: PageRange,
    check: Option<MachineCheck>,
    boundary: u64,
    evicted: bool,
) -> u64 {
    if report.machine_check.is_some() {
        return 0;
    }
    let Some(check) = check else { return range.bytes() };
    report.machine_checks = 1;
    report.machine_check = Some(story(machine, map, &check, boundary, evicted));
    check.address.get() - range.base().get()
}

/// `evicted`: no read was fatal until private lines came out of a cache.
fn story(
    machine: &Machine,
    map: &PrivateMap,
    check: &MachineCheck,
    boundary: u64,
    evicted: bool,
) -> MachineCheckReport {
    let line = check.line();
    let kind = map.kind(line);
    let key_id = machine.owner(line).map(tdx_abi::KeyId::get);
    let tdmr = kind.and_then(|kind| kind.tdmr);
    let tdmr_range = tdmr.and_then(|index| map.tdmr(index)).map(tdx_host::layout::Tdmr::range);
    let what = match (kind, tdmr) {
        (Some(kind), Some(index)) => format!("{} of TDMR {index}", kind.name),
        (Some(kind), None) => kind.name.to_owned(),
        (None, _) => "nothing the host knows of".to_owned(),
    };
    let poisoned_by = match check.reason {
        MachineCheckReason::Poison(cause) => {
            let kernel = if cause.step > boundary { "the next kernel" } else { "the dying kernel" };
            format!("{kernel}: {} of less than 64 bytes by {}", cause.store, cause.by)
        }
        MachineCheckReason::Integrity => "nobody: integrity failure".to_owned(),
    };
    let read_by = format!("the next kernel: {}", check.cpu);
    let origin = if evicted {
        format!(
            "The first kernel gave the line to the TDX module ({what}) and jumped while a cache still \
                 held it dirty under its \
             private KeyID. It was written back later and made the line private again, reset or not."
        )
    } else {
        format!(
            "The first kernel gave the line to the TDX module ({what}) and jumped while it was still private in memory."
        )
    };
    let story = vec![
        origin,
        "Private memory survives kexec; on this CPU a partial write to it poisons the line, silently.".to_owned(),
        "The read consumed the poison, and the kernel calls it a hardware error.".to_owned(),
    ];
    MachineCheckReport {
        address: Address(check.address),
        kind: kind.map_or("unknown", |kind| kind.name),
        tdmr,
        tdmr_range: tdmr_range.map(Into::into),
        key_id,
        poisoned_by,
        read_by,
        mci_status: format!("{:#018x}", check.status),
        mci_misc: format!("{:#x}", check.misc),
        mcg_status: format!("{:#x}", check.mcg_status),
        log: format!("mce: [Hardware Error]: {check}"),
        explained: String::new(),
        story,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        platform::{Lab, LabKernel, promise},
        report::Verdict,
    };
    use tdx_operator::host::HostOptions;

    fn small(model: &str) -> Host {
        let toml = include_str!("../../../../fixtures/made-up/spr-small.toml").replace("\"spr\"", model);
        Host::from_reader("small", toml.as_bytes(), &HostOptions::default()).unwrap()
    }

    /// A reset without write-back: what the machine has in its caches at the jump, and what the
    /// next kernel meets.
    fn reset_without_write_back(host: &Host) -> (u64, NextKernelReport) {
        let lab = Lab::new(host, &()).unwrap();
        let tdx = tdx_host::Host::new(lab.slots());
        tdx.detect(&lab).unwrap();
        let mut kernel = LabKernel::new(&lab, &tdx, host);
        tdx.bring_up(&mut kernel, host.memory()).unwrap();
        promise::reset_alone(&kernel.this_cpu(), tdx.pamt_ranges());
        let waiting = lab.ask(Machine::dirty_private_lines);
        assert!(waiting > 0 && lab.ask(Machine::private_lines) == 0);
        let map = lab.ask(|machine| PrivateMap::of(machine, tdx.layout().unwrap().tdmrs()));
        lab.act(Machine::kexec_boundary);
        (waiting, lab.act(|machine| run(machine, &Footprint::everything(host), &map)).unwrap())
    }

    /// Without the erratum there is no machine check, but the lines still land on the next kernel's
    /// data: that is not clean.
    #[test]
    fn lines_that_wait_in_a_cache_are_lost_data_without_the_erratum() {
        let (waiting, report) = reset_without_write_back(&small("\"gnr\""));
        assert_eq!((report.machine_checks, report.lines_lost), (0, waiting));
        assert_eq!(Verdict::over(Some(&report)), Verdict::DataLost);
        assert!(!Verdict::DataLost.is_good());
    }

    /// A reset whose caches were not written back first: the lines come back when they are evicted,
    /// under the next kernel.
    #[test]
    fn lines_that_wait_in_a_cache_are_found() {
        let host = small("\"spr\"");
        let (waiting, report) = reset_without_write_back(&host);
        assert_eq!(Verdict::over(Some(&report)), Verdict::MachineCheck);
        assert_eq!((report.fatal_lines, report.machine_checks), (waiting, 1));
        // Every line was read once before the eviction, and that was no harm.
        assert_eq!((report.bytes_written, report.bytes_checked), (host.memory_bytes(), host.memory_bytes()));
        let check = report.machine_check.unwrap();
        assert!(["PAMT_2M", "PAMT_1G"].contains(&check.kind), "{check:?}");
    }
}
