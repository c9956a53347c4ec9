//! The next kernel: it knows nothing of TDX and uses all of usable memory, as kernels do. Partial stores first, then reads.

use tdx_host::layout::Layout;
use tdx_machine::{CpuId, Machine, MachineCheck, MachineCheckReason, PartialStore, Refusal};

use super::lines;
use crate::{
    host::Host,
    report::{Address, MachineCheckReport, NextKernelReport},
};

/// The CPU that jumped.
const BOOT_CPU: CpuId = CpuId(0);

/// Uses all of memory, on a machine that has passed the kexec boundary.
///
/// Memory is used once as it was found, and, if a cache still held private lines, once more after they have been evicted:
/// nothing says that they wait.
pub(super) fn run(machine: &mut Machine, host: &Host, layout: &Layout) -> Result<NextKernelReport, Refusal> {
    let boundary = machine.step();
    let late = machine.counters().lines_late_private;
    let mut report = NextKernelReport {
        bytes_written: 0,
        bytes_checked: 0,
        lines_poisoned: 0,
        lines_lost: 0,
        fatal_lines: 0,
        machine_checks: 0,
        machine_check: None,
    };
    for pass in 0..2 {
        let dirty = machine.dirty_private_runs();
        if pass == 1 {
            if dirty.is_empty() {
                break;
            }
            for run in dirty {
                machine.evict(run.lines, run.key);
            }
        }
        // Poison stays, so the last pass counts all of it.
        report.fatal_lines = 0;
        for piece in host.memory() {
            let used = machine.use_memory(BOOT_CPU, piece.range, PartialStore::NonTemporal)?;
            report.lines_poisoned += used.lines_poisoned;
            report.fatal_lines += used.lines_fatal;
            let mut read = piece.range.bytes();
            if let Some(check) = used.first.filter(|_| report.machine_check.is_none()) {
                read = check.address.get() - piece.range.base().get();
                report.machine_checks = 1;
                report.machine_check = Some(story(machine, layout, &check, boundary, pass == 1));
            } else if report.machine_check.is_some() {
                read = 0;
            }
            // The second pass writes and reads the same bytes again.
            if pass == 0 {
                report.bytes_written += piece.range.bytes();
                report.bytes_checked += read;
            }
        }
    }
    report.lines_lost = machine.counters().lines_late_private - late;
    Ok(report)
}

/// `evicted`: no read was fatal until private lines came out of a cache.
fn story(machine: &Machine, layout: &Layout, check: &MachineCheck, boundary: u64, evicted: bool) -> MachineCheckReport {
    let line = check.line();
    let kind = lines::kind(layout, line);
    let key_id = machine.owner(line).map(tdx_abi::KeyId::get);
    let tdmr_range = kind.and_then(|(_, index)| layout.tdmrs().get(index)).map(tdx_host::layout::Tdmr::range);
    let what = kind.map_or_else(|| "no PAMT".to_owned(), |(name, index)| format!("{name} of TDMR {index}"));
    let poisoned_by = match check.reason {
        MachineCheckReason::Poison(cause) => {
            let kernel = if cause.step > boundary { "the next kernel" } else { "the first kernel" };
            format!("{kernel}: {} of less than 64 bytes by {}", cause.store, cause.by)
        }
        MachineCheckReason::Integrity => "nobody: integrity failure".to_owned(),
    };
    let read_by = format!("the next kernel: {}", check.cpu);
    let origin = if evicted {
        format!(
            "The first kernel gave the line to the TDX module ({what}) and jumped while a cache still held it dirty under its \
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
        kind: kind.map_or("unknown", |(name, _)| name),
        tdmr: kind.map(|(_, index)| index),
        tdmr_range: tdmr_range.map(Into::into),
        key_id,
        poisoned_by,
        read_by,
        mci_status: format!("{:#018x}", check.status),
        mci_misc: format!("{:#x}", check.misc),
        mcg_status: format!("{:#x}", check.mcg_status),
        log: format!("mce: [Hardware Error]: {check}"),
        story,
    }
}

#[cfg(test)]
mod tests {
    use tdx_host::{
        bringup,
        layout::Algorithm,
        platform::{LineReset, detect},
        private_memory::PrivateMemory,
    };

    use super::*;
    use crate::{
        host::HostOptions,
        platform::{Lab, LabKernel},
        report::Verdict,
    };

    fn small(model: &str) -> Host {
        let toml = include_str!("../../../../fixtures/made-up/spr-small.toml").replace("\"spr\"", model);
        Host::from_reader("small", toml.as_bytes(), &HostOptions::default()).unwrap()
    }

    /// A reset without write-back: what the machine has in its caches at the jump, and what the next kernel meets.
    fn reset_without_write_back(host: &Host) -> (u64, NextKernelReport) {
        let lab = Lab::new(host, &()).unwrap();
        let platform = detect(&lab).unwrap();
        let record = <PrivateMemory>::new();
        let mut layout = Box::new(Layout::new());
        let mut kernel = LabKernel::new(&lab, host, Some(platform));
        bringup::run(&mut kernel, platform, &record, &mut layout, host.memory(), Algorithm::Fit).unwrap();
        for range in record.pamt_ranges() {
            kernel.this_cpu().reset_lines(range.lines());
        }
        kernel.this_cpu().fence();
        let waiting = lab.ask(Machine::dirty_private_lines);
        assert!(waiting > 0 && lab.ask(Machine::private_lines) == 0);
        lab.act(Machine::kexec_boundary);
        (waiting, lab.act(|machine| run(machine, host, &layout)).unwrap())
    }

    /// Without the erratum nobody dies, but the lines still land on the next kernel's data: that is not clean.
    #[test]
    fn lines_that_wait_in_a_cache_are_lost_data_without_the_erratum() {
        let (waiting, report) = reset_without_write_back(&small("\"gnr\""));
        assert_eq!((report.machine_checks, report.lines_lost), (0, waiting));
        assert_eq!(Verdict::over(Some(&report)), Verdict::DataLost);
        assert!(!Verdict::DataLost.is_good());
    }

    /// A reset whose caches were not written back first: the lines come back when they are evicted, under the next kernel.
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
