//! Machine-check records of a log in every form: kernel, EDAC, firmware (GHES, BERT, ERST), mcelog,
//! rasdaemon. Collects fields; does not judge.

mod fields;
mod firmware;
mod kernel;
mod mcelog;
mod rasdaemon;

use tdx_host::platform::CpuModel;

use crate::{
    bootlog::{Source, Split},
    input::excerpt,
    report::LogLine,
};

/// Lines of a record that are kept.
const MAX_EVIDENCE: usize = 12;
/// Records that are kept.
const MAX_RECORDS: usize = 64;

/// One record: a bank of a machine check, or a report of the firmware.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that a line says, and any may come together")]
pub(super) struct Record {
    /// Group of an APEI report; `None` for a record of the previous boot (BERT, ERST).
    group: Option<u64>,
    /// IA32_MCi_STATUS.
    pub(super) status: Option<u64>,
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
    /// Its lines have no tags: `mcelog --ascii` takes them so, and older kernels wrote them so.
    untagged: bool,
    /// The firmware gave the severity of this event.
    severity: bool,
    /// The next line is a hex dump of CPUID.
    cpuid_follows: bool,
    /// Line of its first evidence.
    pub(super) first_line: u64,
    pub(super) evidence: Vec<LogLine>,
}

/// The records of one boot, as they come.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) done: Vec<Record>,
    /// Records beyond what is kept.
    pub(super) left_out: u64,
    /// First line that says that something was logged elsewhere.
    pub(super) logged: Option<LogLine>,
    /// Which of `done` the next line belongs to.
    at: usize,
    /// Lines without a time stamp belong to a record of mcelog.
    mcelog: bool,
}

impl Records {
    /// Takes a message; false if it is of no known form.
    pub(super) fn take(&mut self, line: u64, split: &Split<'_>) -> bool {
        let message = split.text;
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
        if message.contains("mce_record: ") || message.contains("mc_event: ") {
            return self.rasdaemon(line, message);
        }
        if self.firmware(line, message) {
            return true;
        }
        self.kernel(line, message)
    }

    fn begin(&mut self) -> &mut Record {
        if self.done.len() >= MAX_RECORDS {
            // Drop the last one: the first records of a storm show its cause.
            self.left_out += 1;
            self.done.pop();
        }
        self.done.push(Record::default());
        self.at = self.done.len() - 1;
        self.current()
    }

    fn current(&mut self) -> &mut Record {
        if self.done.is_empty() {
            self.done.push(Record::default());
        }
        let at = self.at.min(self.done.len() - 1);
        &mut self.done[at]
    }

    /// The kernel's lines belong to the kernel's own record, though the firmware's may stand
    /// between them.
    fn leave_firmware(&mut self) {
        if let Some(at) = self.done.iter().rposition(|record| !record.firmware) {
            self.at = at;
        }
    }

    /// A page frame number belongs to the record with an address in that page, if there is one;
    /// the address may carry a KeyID above the bits of memory.
    fn go_to_page(&mut self, number: Option<u64>) {
        let same = |record: &Record| {
            let page = record.address.map(|address| address >> 12);
            number.is_some() && (page == number || page.map(|page| page & MEMORY_PAGES) == number)
        };
        if let Some(at) = self.done.iter().rposition(same) {
            self.at = at;
        }
    }

    /// Keeps a line as evidence of the current record.
    fn see(&mut self, line: u64, message: &str) {
        let record = self.current();
        if record.evidence.is_empty() {
            record.first_line = line;
        }
        if record.evidence.len() < MAX_EVIDENCE {
            record.evidence.push(LogLine { line, text: excerpt(message) });
        }
    }
}

/// Page numbers of up to 64 TiB of memory, as far as any CPU with TDX addresses below its KeyIDs.
const MEMORY_PAGES: u64 = (1 << (46 - 12)) - 1;

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
            assert!(take(
                &mut records,
                line,
                "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c00004000010090"
            ));
        }
        assert_eq!((records.done.len(), records.left_out), (MAX_RECORDS, 1000 - MAX_RECORDS as u64));
        for line in 0..1000 {
            take(&mut records, line, "Memory failure: 0x1: x");
        }
        assert!(records.done.iter().all(|record| record.evidence.len() <= MAX_EVIDENCE));
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
