//! Machine-check records of a log in every form: kernel, EDAC, firmware (GHES, BERT, ERST), mcelog,
//! rasdaemon. Collects fields; does not judge.

mod amd;
mod fields;
mod firmware;
mod kernel;
mod mcelog;
mod rasdaemon;

use tdx_host::platform::CpuModel;

pub(super) use firmware::Section;

use crate::{
    bootlog::{Source, Split},
    input::excerpt,
    report::LogLine,
};

/// Lines of a record that are kept.
const MAX_EVIDENCE: usize = 12;
/// Records that are kept.
const MAX_RECORDS: usize = 64;
/// Lines of one event follow each other within this time, in microseconds.
const NEAR: u64 = 10_000_000;
/// The same in lines, where a line has no time since boot.
const NEAR_LINES: u64 = 32;

/// IA32_MCi_STATUS: there is an error in the bank.
pub(super) const VALID: u64 = 1 << 63;
/// IA32_MCi_STATUS: the error was not corrected.
const UNCORRECTED: u64 = 1 << 61;

/// One record: a bank of a machine check, or a report of the firmware.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that a line says, and any may come together")]
pub(super) struct Record {
    /// Group of an APEI report; `None` for a record of the previous boot (BERT, ERST).
    group: Option<u64>,
    /// IA32_MCi_STATUS.
    pub(super) status: Option<u64>,
    /// Number of the bank.
    bank: Option<u64>,
    /// IA32_MCG_STATUS.
    pub(super) global: Option<u64>,
    /// Physical address, which may carry a KeyID.
    pub(super) address: Option<u64>,
    pub(super) cpu: Option<CpuModel>,
    /// The kernel names private memory.
    pub(super) private_memory: bool,
    /// It happened while a TD ran.
    pub(super) in_td: bool,
    /// The page is that of a device, e.g. persistent memory.
    pub(super) device_memory: bool,
    /// A line says that the error was corrected.
    pub(super) corrected: bool,
    /// Firmware, EDAC, mcelog or rasdaemon name the failure of a memory controller.
    pub(super) ecc: Option<String>,
    /// Where the memory module is.
    pub(super) dimm: Option<String>,
    /// It comes from the firmware.
    pub(super) firmware: bool,
    /// What the section of the firmware's record is about.
    pub(super) section: Option<Section>,
    /// The device that it names.
    pub(super) device: Option<String>,
    /// The device was given data that were poisoned before.
    pub(super) got_poison: bool,
    /// The kernel decodes it for a CPU of AMD.
    decoded: bool,
    /// It is a line of EDAC alone, without a record of the machine-check code.
    counted: bool,
    /// Records of corrected errors that say the same, itself included.
    pub(super) times: u64,
    /// Its lines have no tags: `mcelog --ascii` takes them so, and older kernels wrote them so.
    untagged: bool,
    /// The firmware gave the severity of this event.
    severity: bool,
    /// The next line is a hex dump of CPUID.
    cpuid_follows: bool,
    /// Line of its first evidence.
    pub(super) first_line: u64,
    /// Its last line, and when that was written in microseconds since boot.
    last: (u64, Option<u64>),
    pub(super) evidence: Vec<LogLine>,
}

impl Record {
    /// True if the error was corrected: the bank decides, then the words.
    pub(super) fn is_corrected(&self) -> bool {
        match self.status {
            Some(status) if status & VALID != 0 => status & UNCORRECTED == 0,
            Some(_) => false,
            None => self.corrected,
        }
    }

    /// True for an error of a device or of the way to it.
    pub(super) fn is_of_device(&self) -> bool {
        matches!(self.section, Some(Section::Device(_)))
    }

    /// Records of a storm that say the same.
    fn same_as(&self, other: &Self) -> bool {
        let both = |record: &Self| {
            record.is_corrected() && (!record.firmware || record.section.is_some()) && !record.private_memory
        };
        let what = |record: &Self| (record.status, record.global, record.address, record.cpu, record.bank);
        let place = |record: &Self| (record.section.clone(), record.device.clone(), record.got_poison);
        both(self)
            && both(other)
            && what(self) == what(other)
            && (&self.ecc, &self.dimm) == (&other.ecc, &other.dimm)
            && place(self) == place(other)
    }
}

/// The records of one boot, as they come.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) done: Vec<Record>,
    /// Records beyond what is kept.
    pub(super) left_out: u64,
    /// First line that says that something was logged elsewhere.
    pub(super) logged: Option<LogLine>,
    /// First line of a summary that counts records and does not show them.
    pub(super) counted: Option<LogLine>,
    /// Lines that say that nothing of a kind was recorded.
    pub(super) nothing: Vec<LogLine>,
    /// Which of `done` the next line belongs to.
    at: usize,
    /// Lines without a time stamp belong to a record of mcelog.
    mcelog: bool,
    /// The line that is read, and when it was written.
    now: (u64, Option<u64>),
}

impl Records {
    /// Takes a message; false if it is of no known form.
    pub(super) fn take(&mut self, line: u64, split: &Split<'_>) -> bool {
        let message = split.text;
        self.now = (line, split.since_boot);
        match split.source {
            Source::Program(ident) if ident.starts_with("mcelog") => return self.mcelog(line, message),
            Source::Program(ident) if ident.starts_with("rasdaemon") => return self.rasdaemon(line, message),
            Source::Program(_) => return false,
            Source::Kernel => {}
        }
        if split.stamped {
            self.mcelog = false;
        } else if self.mcelog(line, message) || self.rasdaemon(line, message) {
            return true;
        }
        if ["mce_record: ", "mc_event: ", "extlog_mem_event: "].iter().any(|event| message.contains(event)) {
            return self.rasdaemon(line, message);
        }
        if self.amd(line, message) || self.firmware(line, message) {
            return true;
        }
        self.kernel(line, message)
    }

    fn begin(&mut self) -> &mut Record {
        self.join_equal();
        if self.done.len() >= MAX_RECORDS {
            // The first records of a storm show its cause. One that was not corrected stays as
            // long as there is another to drop.
            self.left_out += 1;
            let drop = self.done.iter().rposition(Record::is_corrected);
            let drop = drop.or_else(|| self.done.iter().rposition(|record| !record.private_memory));
            self.done.remove(drop.unwrap_or(MAX_RECORDS - 1));
        }
        self.done.push(Record { times: 1, last: self.now, ..Record::default() });
        self.at = self.done.len() - 1;
        self.current()
    }

    /// Joins the last record, which is complete, to an earlier one that says the same.
    pub(super) fn join_equal(&mut self) {
        let Some((last, others)) = self.done.split_last_mut() else { return };
        if let Some(first) = others.iter_mut().find(|first| first.same_as(last)) {
            first.times += last.times;
            first.last = last.last;
            let room = MAX_EVIDENCE.saturating_sub(first.evidence.len());
            first.evidence.extend(last.evidence.drain(..).take(room));
            self.done.pop();
        }
    }

    fn current(&mut self) -> &mut Record {
        if self.done.is_empty() {
            self.done.push(Record { times: 1, last: self.now, ..Record::default() });
        }
        let at = self.at.min(self.done.len() - 1);
        &mut self.done[at]
    }

    /// The kernel's lines belong to the kernel's own record, though the firmware's or EDAC's may
    /// stand between them.
    fn leave_firmware(&mut self) {
        if let Some(at) = self.done.iter().rposition(|record| !record.firmware && !record.counted) {
            self.at = at;
        }
    }

    /// True if the line that is read may be of the same event.
    fn is_near(&self, record: &Record) -> bool {
        match (self.now.1, record.last.1) {
            (Some(now), Some(then)) => now.abs_diff(then) <= NEAR,
            _ => self.now.0.abs_diff(record.last.0) <= NEAR_LINES,
        }
    }

    /// What ends a machine check in a panic belongs to the last record of an error that was not
    /// corrected, if that was just now; else to a record of its own.
    fn go_to_severe(&mut self) {
        let severe =
            |record: &Record| !record.firmware && !record.counted && !record.is_corrected() && self.is_near(record);
        match self.done.iter().rposition(severe) {
            Some(at) => self.at = at,
            None => {
                self.begin();
            }
        }
    }

    /// A page frame number belongs to the record with an address in that page, or to one of the
    /// same time that was not corrected and has no address; else to a record of its own. The
    /// address may carry a KeyID above the bits of memory.
    fn go_to_page(&mut self, number: u64) {
        let without = |record: &Record| {
            record.address.is_none() && !record.firmware && !record.is_corrected() && self.is_near(record)
        };
        let found = self.done.iter().rposition(|record| in_page(record, number));
        if let Some(at) = found.or_else(|| self.done.iter().rposition(without)) {
            self.at = at;
        } else {
            self.begin().address = number.checked_mul(4096);
        }
    }

    /// Keeps a line as evidence of the current record.
    fn see(&mut self, line: u64, message: &str) {
        let now = self.now;
        let record = self.current();
        if record.evidence.is_empty() {
            record.first_line = line;
        }
        record.last = now;
        if record.evidence.len() < MAX_EVIDENCE {
            record.evidence.push(LogLine { line, text: excerpt(message) });
        }
    }
}

/// Bits of a page number at which KeyIDs may begin on CPUs with TDX.
const KEY_ID_BITS: core::ops::Range<u32> = 41 - 12..52 - 12;

/// True if the address is in this page, with or without a KeyID above the bits of memory.
fn in_page(record: &Record, number: u64) -> bool {
    let Some(page) = record.address.map(|address| address >> 12) else { return false };
    page == number || KEY_ID_BITS.into_iter().any(|bit| page & ((1 << bit) - 1) == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootlog::split;

    fn take(records: &mut Records, line: u64, message: &str) -> bool {
        records.take(line, &split(message))
    }

    #[test]
    fn the_forms_of_a_record() {
        let mut records = Records::default();
        for message in [
            "mce: [Hardware Error]: CPU 178: Machine Check Exception: f Bank 1: bd80000000100134",
            "mce: [Hardware Error]: RIP 10:<ffffffff981d7af3> {futex_wait_setup+0x83/0xf0}",
            "mce: [Hardware Error]: TSC 49a1e6001c1 ADDR 80f7ada400 MISC 86 PPIN <stripped>",
            "mce: [Hardware Error]: PROCESSOR 0:806f4 TIME 1741091252 SOCKET 1 APIC c5 microcode 2b000571",
        ] {
            assert!(take(&mut records, 1, message), "{message}");
        }
        let [record] = &records.done[..] else { panic!("{records:?}") };
        assert_eq!((record.status, record.global), (Some(0xbd80_0000_0010_0134), Some(0xf)));
        assert_eq!(record.address, Some(0x80_f7ad_a400));
        assert_eq!(record.cpu.map(|cpu| (cpu.intel, cpu.family, cpu.model)), Some((true, 6, 0x8f)));
        assert!(!take(&mut records, 2, "mce: [Hardware Error]: a form of tomorrow"));
        assert!(!take(&mut records, 3, "CPU 9 BANK 9"), "mcelog text begins with `MCE n`");
    }

    #[test]
    fn a_storm_is_bounded() {
        let mut records = Records::default();
        for line in 0..1000 {
            let bank = format!("mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c{line:06x}00010090");
            assert!(take(&mut records, line, &bank));
        }
        assert_eq!((records.done.len(), records.left_out), (MAX_RECORDS, 1000 - MAX_RECORDS as u64));
        for line in 1000..2000 {
            take(&mut records, line, "Memory failure: 0x1: x");
            take(&mut records, line, "Kernel panic - not syncing: Fatal machine check");
        }
        assert!(records.done.iter().all(|record| record.evidence.len() <= MAX_EVIDENCE));
    }

    const CORRECTED: &str = "[    1.000000] mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 13: 9c00004001010091";
    const FATAL: &str =
        "[   10.000000] mce: [Hardware Error]: CPU 4: Machine Check Exception: 5 Bank 1: bd80000000100134";
    const AT: &str = "[   10.000000] mce: [Hardware Error]: TSC 1 ADDR 2a3b4c5640 MISC 86";

    #[test]
    fn equal_corrected_records_are_counted_and_drop_no_other() {
        let mut records = Records::default();
        for line in 0..70 {
            take(&mut records, line, CORRECTED);
        }
        let tdx = "[   10.000001] mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug.";
        for (line, message) in (70..).zip([FATAL, AT, tdx]) {
            take(&mut records, line, message);
        }
        for line in 80..91 {
            take(&mut records, line, CORRECTED);
        }
        records.join_equal();
        let [corrected, poison] = &records.done[..] else { panic!("{records:?}") };
        assert_eq!((corrected.times, poison.private_memory, records.left_out), (81, true, 0));
        for line in 0..200 {
            let bank = format!("mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c{line:06x}00010090");
            take(&mut records, line + 100, &bank);
        }
        assert!(records.done.iter().any(|record| record.private_memory));
    }

    #[test]
    fn what_comes_later_begins_a_record() {
        let edac = |page: &str, kind: &str| {
            format!(
                "[   10.100000] EDAC MC0: 1 {kind} memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0 (channel:0 slot:0 page:{page} offset:0x0)"
            )
        };
        for (first, then, records_of, is_corrected) in [
            (&[FATAL, AT][..], edac("0x99a7c40", "CE"), 2, false),
            (&[FATAL, AT], edac("0x2a3b4c5", "CE"), 2, false),
            (&[FATAL, AT], edac("0x2a3b4c5", "UE"), 1, false),
            (&[FATAL, AT], edac("0x2a3b4c5", "UE").replace("   10.1", " 9011.1"), 2, false),
            (&[FATAL, AT], edac("0x2a3b4c5", "CE").replace(": 1 CE", ": 0 CE"), 1, false),
            (&[FATAL, AT], edac("0x0", "UE").replace("offset", "err_code:0x0010:0x0134 offset"), 1, false),
            (&[CORRECTED], "[  900.0] Memory failure: 0x2a3b4c5: recovery action for x: Failed".to_owned(), 2, true),
            (&[CORRECTED], "[  900.0] Kernel panic - not syncing: Fatal local machine check".to_owned(), 2, true),
            (&[CORRECTED], "[    1.1] Kernel panic - not syncing: Fatal local machine check".to_owned(), 2, true),
            (&[FATAL], "[   10.1] Kernel panic - not syncing: Fatal local machine check".to_owned(), 1, false),
            (&[FATAL], "[   10.1] Memory failure: 0x2a3b4c5: recovery action for x: Failed".to_owned(), 1, false),
            (&[FATAL, AT], "[  900.0] Memory failure: 0x2a3b4c5: x".to_owned(), 1, false),
            (&[CORRECTED], "memory_failure_event: pfn=0x2a3b4c5 page_type=x".to_owned(), 2, true),
        ] {
            let mut records = Records::default();
            for (line, message) in (1..).zip(first.iter().copied().chain([then.as_str()])) {
                assert!(take(&mut records, line, message), "{message}");
            }
            assert_eq!(records.done.len(), records_of, "{then}: {records:#?}");
            assert_eq!(records.done[0].is_corrected(), is_corrected, "{then}");
        }
    }

    #[test]
    fn records_of_mcelog_end_at_the_next() {
        let mut records = Records::default();
        for message in [
            "Hardware event. This is not a software error.",
            "MCE 0",
            "CPU 3 BANK 14 TSC 1a2b3c4d5e6f",
            "a line of a newer mcelog",
            "MemCtrl: Corrected patrol scrub error",
            "STATUS 8c000140001000c1 MCGSTATUS 0",
            "CPUID Vendor Intel Family 6 Model 143 Step 8",
            "Hardware event. This is not a software error.",
            "MCE 1",
            "STATUS be00000200a00091 MCGSTATUS 5",
        ] {
            take(&mut records, 1, message);
        }
        let [first, second] = &records.done[..] else { panic!("{records:?}") };
        assert!(first.corrected && first.ecc.is_some() && first.cpu.is_some());
        assert_eq!((second.status, second.cpu), (Some(0xbe00_0002_00a0_0091), None));
    }

    #[test]
    fn the_firmware_names_the_cpu() {
        for lines in [
            &[
                "[Hardware Error]: event severity: fatal",
                "[Hardware Error]:   CPUID Info:",
                "[Hardware Error]:   00000000: 000c06f2 00000000 4c200800 00000000",
            ][..],
            &["{1}[Hardware Error]: event severity: fatal", "{1}[Hardware Error]:   version_info: 0x00000000000c06f2"],
        ] {
            let mut records = Records::default();
            for line in lines {
                assert!(take(&mut records, 1, line), "{line}");
            }
            let cpu = records.done[0].cpu.map(|cpu| (cpu.family, cpu.model));
            assert_eq!((records.done.len(), cpu), (1, Some((6, 0xcf))), "{lines:?}");
        }
    }
}
