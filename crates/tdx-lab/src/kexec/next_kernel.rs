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
    let mut report = NextKernelReport {
        bytes_written: 0,
        bytes_checked: 0,
        lines_poisoned: 0,
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
        for piece in host.memory() {
            let used = machine.use_memory(BOOT_CPU, piece.range, PartialStore::NonTemporal)?;
            report.lines_poisoned += used.lines_poisoned;
            report.fatal_lines += used.lines_fatal;
            let mut read = piece.range.bytes();
            if let Some(check) = used.first.filter(|_| report.machine_check.is_none()) {
                read = check.address.get() - piece.range.base().get();
                report.machine_checks = 1;
                report.machine_check = Some(story(machine, layout, &check, boundary));
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
    Ok(report)
}

fn story(machine: &Machine, layout: &Layout, check: &MachineCheck, boundary: u64) -> MachineCheckReport {
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
    let story = vec![
        format!(
            "The first kernel gave the line to the TDX module ({what}) and jumped without turning it back into a normal one."
        ),
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
    };

    /// A reset whose caches were not written back first: the lines come back when they are evicted, under the next kernel.
    #[test]
    fn lines_that_wait_in_a_cache_are_found() {
        let toml = include_str!("../../../../fixtures/made-up/spr-small.toml");
        let host = Host::from_reader("small", toml.as_bytes(), &HostOptions::default()).unwrap();
        let lab = Lab::new(&host, &()).unwrap();
        let platform = detect(&lab).unwrap();
        let record = <PrivateMemory>::new();
        let mut layout = Box::new(Layout::new());
        let mut kernel = LabKernel::new(&lab, &host, Some(platform));
        bringup::run(&mut kernel, platform, &record, &mut layout, host.memory(), Algorithm::Fit).unwrap();
        for range in record.pamt_ranges() {
            kernel.this_cpu().reset_lines(range.lines());
        }
        kernel.this_cpu().fence();
        let waiting = lab.ask(Machine::dirty_private_lines);
        assert!(waiting > 0 && lab.ask(Machine::private_lines) == 0);
        lab.act(Machine::kexec_boundary);
        let report = lab.act(|machine| run(machine, &host, &layout)).unwrap();
        assert_eq!((report.fatal_lines, report.machine_checks), (waiting, 1));
        // Every line was read once before the eviction, and that was no harm.
        assert_eq!((report.bytes_written, report.bytes_checked), (host.memory_bytes(), host.memory_bytes()));
        let check = report.machine_check.unwrap();
        assert!(["PAMT_2M", "PAMT_1G"].contains(&check.kind), "{check:?}");
    }
}
