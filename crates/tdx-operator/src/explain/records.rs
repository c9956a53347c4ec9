//! The machine-check records of a boot as a whole: two reports of one error are one record, and
//! what is said where a log speaks of records and shows none.

use super::{boot_facts::Boot, key_id, record::Record, record::Records};
use crate::report::{Basis, Judgement, LogFinding, LogLine, Topic};

/// Lines between two records of one event.
const NEAR: u64 = 16;
/// Lines of a record that are kept.
const MAX_EVIDENCE: usize = 12;

/// Puts two reports of one error together: a report of the firmware and the kernel's record of the
/// same page (or one without an address, where the kernel's carries a KeyID), and the kernel's line
/// on a user's access and the bank of the same page.
pub(super) fn merge(boot: &mut Boot) {
    while let Some((other, main)) = of_one_error(boot).or_else(|| of_one_access(boot)) {
        let firmware = boot.records.done.remove(other);
        let Some(main) = boot.records.done.get_mut(if other < main { main - 1 } else { main }) else { return };
        main.cpu = main.cpu.or(firmware.cpu);
        main.device_memory |= firmware.device_memory;
        main.ecc = main.ecc.take().or(firmware.ecc);
        main.dimm = main.dimm.take().or(firmware.dimm);
        main.evidence.extend(firmware.evidence);
        main.evidence.sort_by_key(|line| line.line);
        main.evidence.dedup();
        main.evidence.truncate(MAX_EVIDENCE);
    }
}

/// A record of the firmware, and the kernel's of the same error.
fn of_one_error(boot: &Boot) -> Option<(usize, usize)> {
    let records = &boot.records.done;
    let private = |record: &Record| record.address.is_some_and(|at| key_id::of(at, &boot.log, &boot.calls).is_some());
    let near = |a: &Record, b: &Record| a.first_line.abs_diff(b.first_line) <= NEAR;
    let page = |record: &Record| record.address.map(|address| address >> 12);
    let bare = |record: &Record| record.address.is_none() && record.ecc.is_none();
    let kernel = |record: &Record| !record.firmware && !record.is_corrected();
    records.iter().enumerate().find_map(|(other, firmware)| {
        if !firmware.firmware || firmware.is_corrected() || firmware.is_of_device() {
            return None;
        }
        let same = |record: &Record| {
            kernel(record)
                && near(record, firmware)
                && (page(record).is_some() && page(record) == page(firmware) || private(record) && bare(firmware))
        };
        Some((other, records.iter().position(same)?))
    })
}

/// A record without a bank, and one with it, of the same page and the same time.
fn of_one_access(boot: &Boot) -> Option<(usize, usize)> {
    let records = &boot.records.done;
    let kernel = |record: &Record| !record.firmware && !record.is_corrected();
    records.iter().enumerate().find_map(|(other, access)| {
        let page = access.address.map(|address| address >> 12)?;
        if access.status.is_some() || !kernel(access) {
            return None;
        }
        let same = |record: &Record| {
            kernel(record)
                && record.status.is_some()
                && record.address.map(|address| address >> 12) == Some(page)
                && record.first_line.abs_diff(access.first_line) <= NEAR
        };
        Some((other, records.iter().position(same)?))
    })
}

/// What is said of a boot without a record.
pub(super) fn without(records: &Records) -> Option<LogFinding> {
    if !records.done.is_empty() {
        return None;
    }
    let finding = |judgement, rule, evidence, cause: &str, remedy: &str| LogFinding {
        topic: Topic::MachineCheck,
        judgement,
        rule,
        basis: Basis::Sourced,
        evidence,
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
        boot: 0,
    };
    let one = |line: &LogLine| vec![line.clone()];
    if let Some(line) = &records.logged {
        let remedy = "give the record: `ras-mc-ctl --errors`, `journalctl -u mcelog`, `journalctl -u rasdaemon`, or \
            `dmesg` of the next boot, which has the firmware's record (BERT)";
        let cause = "an error of the hardware was logged, and its record is not in this log";
        return Some(finding(Judgement::Undecidable, "record-not-in-log", one(line), cause, remedy));
    }
    if let Some(line) = &records.counted {
        let cause = "this summary counts errors, and shows no record of them";
        let remedy = "give the records: `ras-mc-ctl --errors`, or `journalctl -u mcelog` where mcelog counts";
        return Some(finding(Judgement::Undecidable, "record-not-in-log", one(line), cause, remedy));
    }
    if records.nothing.is_empty() {
        return None;
    }
    let memory = |line: &LogLine| ["No Memory errors", "No MCE errors"].iter().any(|word| line.text.starts_with(word));
    let about = if records.nothing.iter().any(memory) { "" } else { "; it says nothing on memory or machine checks" };
    let cause = format!(
        "rasdaemon has recorded no error of {}{about}. It knows only what happened while it ran on this host, and a \
         machine check that ends in a panic is not among it",
        if records.nothing.len() > 1 { "these kinds" } else { "this kind" }
    );
    let remedy = "for an error that ended in a panic give the panic's own lines (serial console, pstore, vmcore-dmesg) or \
        `dmesg` of the next boot (BERT)";
    Some(finding(Judgement::Info, "none-recorded", records.nothing.clone(), &cause, remedy))
}
