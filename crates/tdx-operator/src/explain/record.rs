//! Machine-check records of a log: kernel, EDAC, firmware first (APEI) and mcelog formats. Collects
//! fields; does not judge.

use tdx_host::platform::CpuModel;

use crate::{input::excerpt, report::LogLine};

/// Lines of a record that are kept.
const MAX_EVIDENCE: usize = 12;

/// One record: a bank of a machine check, or a report of the firmware.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that a line says, and any may come together")]
pub(super) struct Record {
    /// Group of an APEI report.
    group: Option<u64>,
    /// IA32_MCi_STATUS.
    pub(super) status: Option<u64>,
    /// IA32_MCG_STATUS.
    pub(super) global: Option<u64>,
    pub(super) address: Option<u64>,
    pub(super) cpu: Option<CpuModel>,
    /// The kernel names private memory.
    pub(super) private_memory: bool,
    /// It happened while a TD ran.
    pub(super) in_td: bool,
    /// The page is that of a device, e.g. persistent memory.
    pub(super) device_memory: bool,
    /// Somebody says that the error was corrected.
    pub(super) corrected: bool,
    /// The firmware, or EDAC, names error-correcting memory.
    pub(super) ecc: Option<String>,
    /// It comes from the firmware.
    pub(super) firmware: bool,
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
    mcelog: bool,
}

/// Records that are kept.
const MAX_RECORDS: usize = 64;

impl Records {
    /// Takes a message; false if it is of no known form.
    pub(super) fn take(&mut self, line: u64, message: &str) -> bool {
        if self.mcelog_text(line, message) {
            return true;
        }
        if let Some((group, rest)) = firmware(message) {
            self.firmware(line, group, rest, message);
            return true;
        }
        if let Some(rest) = message.strip_prefix("Kernel panic - not syncing: ") {
            if rest.contains("machine check") {
                self.see(line, message);
                return true;
            }
            return false;
        }
        if message.starts_with("Memory failure: ") || message.starts_with("dev_pagemap_mapping_shift: ") {
            self.go_to_page(message);
            let record = self.current();
            record.device_memory |= message.contains("dev_pagemap_mapping_shift");
            self.see(line, message);
            return true;
        }
        let Some(rest) = kernel(message) else { return false };
        self.leave_firmware();
        self.kernel(line, rest, message)
    }

    fn kernel(&mut self, line: u64, rest: &str, message: &str) -> bool {
        if let Some((global, status)) = bank(rest) {
            let record = self.begin();
            (record.global, record.status) = (Some(global), Some(status));
        } else if let Some(text) = rest.strip_prefix("Machine check: ").or_else(|| rest.strip_prefix("Machine Check: "))
        {
            let record = self.current();
            record.private_memory |= text.contains("TDX private memory error");
            record.in_td |= text.contains("SEAM non-root mode");
        } else if let Some(address) = rest.strip_prefix("Uncorrected hardware memory error in user-access at ") {
            self.begin().address = hex(address.trim());
        } else if rest.starts_with("Machine check events logged") {
            self.logged.get_or_insert_with(|| LogLine { line, text: excerpt(message) });
            return true;
        } else if rest.starts_with("Run the above through") || rest.starts_with("HANDLING MCE MEMORY ERROR") {
            return true;
        } else if let Some(processor) = rest.strip_prefix("PROCESSOR ") {
            self.current().cpu = processor.split(' ').next().and_then(signature);
        } else if rest.starts_with("RIP ") || rest.starts_with("Memory error not recovered") {
            self.current();
        } else if pairs(rest) {
            let address = value_of(rest, "ADDR");
            let record = self.current();
            record.address = address.or(record.address);
        } else if let Some(text) = edac_count(rest) {
            let record = self.current();
            record.corrected |= text.contains(" CE ");
            record.ecc = Some(excerpt(text));
        } else {
            return false;
        }
        self.see(line, message);
        true
    }

    fn firmware(&mut self, line: u64, group: u64, rest: &str, message: &str) {
        if let Some(at) = self.done.iter().rposition(|record| record.group == Some(group)) {
            self.at = at;
        } else {
            let record = self.begin();
            (record.group, record.firmware) = (Some(group), true);
        }
        let record = self.current();
        let rest = rest.trim();
        record.corrected |= rest == "event severity: corrected";
        if let Some(kind) = rest.strip_prefix("error_type: ").filter(|kind| kind.contains("ECC")) {
            record.ecc = Some(excerpt(kind));
        }
        if let Some(address) = rest.strip_prefix("physical_address: 0x") {
            record.address = hex(address);
        }
        self.see(line, message);
    }

    /// `MCE 0`, and the lines that follow it.
    fn mcelog_text(&mut self, line: u64, message: &str) -> bool {
        if message.strip_prefix("MCE ").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            self.begin();
            self.mcelog = true;
            self.see(line, message);
            return true;
        }
        if !self.mcelog {
            return false;
        }
        let words = [
            "CPU ",
            "RIP ",
            "MISC ",
            "ADDR ",
            "TIME ",
            "MCG status:",
            "MCi status:",
            "MCA: ",
            "STATUS ",
            "MCGCAP ",
            "CPUID ",
            "SRAR",
            "SRAO",
            "UCNA",
            "Uncorrected error",
            "Corrected error",
            "Error enabled",
            "HARDWARE ERROR",
            "Hardware event",
            "PPIN ",
            "SOCKETID ",
        ];
        if !words.iter().any(|word| message.starts_with(word)) {
            self.mcelog = false;
            return false;
        }
        let record = self.current();
        record.address = value_of(message, "ADDR").or(record.address);
        record.status = value_of(message, "STATUS").or(record.status);
        record.global = value_of(message, "MCGSTATUS").or(record.global);
        record.cpu = mcelog_cpu(message).or(record.cpu);
        self.see(line, message);
        true
    }

    fn begin(&mut self) -> &mut Record {
        if self.done.len() >= MAX_RECORDS {
            // The last one makes way: the first of a storm say what it is about.
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

    /// `Memory failure: 0xPFN: ..` belongs to the record with an address in that page, if there is
    /// one.
    fn go_to_page(&mut self, message: &str) {
        let number = message.strip_prefix("Memory failure: 0x").and_then(|rest| hex(rest.split(':').next()?));
        let same = |record: &Record| number.is_some() && record.address.map(|address| address >> 12) == number;
        if let Some(at) = self.done.iter().rposition(same) {
            self.at = at;
        }
    }

    /// Keeps a line as evidence of the current record.
    fn see(&mut self, line: u64, message: &str) {
        let record = self.current();
        if record.evidence.len() < MAX_EVIDENCE {
            record.evidence.push(LogLine { line, text: excerpt(message) });
        }
    }
}

/// What follows the words of the machine-check code or of EDAC.
fn kernel(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("mce: ").unwrap_or(message);
    if let Some(rest) = rest.strip_prefix("[Hardware Error]: ") {
        return Some(rest);
    }
    if rest.len() < message.len() {
        return Some(rest);
    }
    let (place, rest) = message.strip_prefix("EDAC ")?.split_once(": ")?;
    place.contains("MC").then_some(rest)
}

/// `{7}[Hardware Error]: text`.
fn firmware(message: &str) -> Option<(u64, &str)> {
    let (group, rest) = message.strip_prefix('{')?.split_once('}')?;
    Some((group.parse().ok()?, rest.strip_prefix("[Hardware Error]:")?))
}

/// `CPU 147: Machine Check Exception: f Bank 1: bd80000000100134`, the global status and the
/// bank's.
fn bank(rest: &str) -> Option<(u64, u64)> {
    let (_, after) = rest.strip_prefix("CPU ")?.split_once(": Machine Check")?;
    let (global, status) = after.split_once(" Bank ")?;
    let global = global.rsplit(' ').next().and_then(hex)?;
    Some((global, hex(status.split_once(": ")?.1.trim())?))
}

/// `1 CE memory scrubbing error on ..`, `1 UE memory read error on ..`.
fn edac_count(rest: &str) -> Option<&str> {
    let (count, after) = rest.split_once(' ')?;
    let counted = count.bytes().all(|b| b.is_ascii_digit()) && (after.starts_with("CE ") || after.starts_with("UE "));
    counted.then_some(rest)
}

/// True for `TSC 0 ADDR 1 MISC 2`.
fn pairs(rest: &str) -> bool {
    ["TSC ", "ADDR ", "MISC ", "SYND ", "PPIN "].iter().any(|word| rest.starts_with(word))
}

/// The hex number after a word.
fn value_of(text: &str, word: &str) -> Option<u64> {
    let mut words = text.split(' ');
    words.find(|found| *found == word)?;
    words.next().and_then(hex)
}

fn hex(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// `0:806f4`: vendor (0 is Intel) and CPUID.1:EAX.
fn signature(text: &str) -> Option<CpuModel> {
    let (vendor, eax) = text.split_once(':')?;
    let eax = u32::try_from(hex(eax)?).ok()?;
    let (base_family, base_model) = (eax >> 8 & 0xf, eax >> 4 & 0xf);
    let family = if base_family == 0xf { base_family + (eax >> 20 & 0xff) } else { base_family };
    let model = if matches!(base_family, 6 | 0xf) { base_model | (eax >> 16 & 0xf) << 4 } else { base_model };
    Some(CpuModel { intel: vendor == "0", family, model, stepping: eax & 0xf })
}

/// `CPUID Vendor Intel Family 6 Model 85`, decimal.
fn mcelog_cpu(message: &str) -> Option<CpuModel> {
    let (vendor, rest) = message.strip_prefix("CPUID Vendor ")?.split_once(" Family ")?;
    let (family, model) = rest.split_once(" Model ")?;
    let model = model.split(' ').next()?;
    Some(CpuModel { intel: vendor == "Intel", family: family.parse().ok()?, model: model.parse().ok()?, stepping: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_record() {
        let mut records = Records::default();
        for message in [
            "mce: [Hardware Error]: CPU 178: Machine Check Exception: f Bank 1: bd80000000100134",
            "mce: [Hardware Error]: RIP 10:<ffffffff981d7af3> {futex_wait_setup+0x83/0xf0}",
            "mce: [Hardware Error]: TSC 49a1e6001c1 ADDR 80f7ada400 MISC 86 PPIN <stripped>",
            "mce: [Hardware Error]: PROCESSOR 0:806f4 TIME 1741091252 SOCKET 1 APIC c5 microcode 2b000571",
        ] {
            assert!(records.take(1, message), "{message}");
        }
        let [record] = &records.done[..] else { panic!("{records:?}") };
        assert_eq!((record.status, record.global), (Some(0xbd80_0000_0010_0134), Some(0xf)));
        assert_eq!(record.address, Some(0x80_f7ad_a400));
        assert_eq!(record.cpu.map(|cpu| (cpu.intel, cpu.family, cpu.model)), Some((true, 6, 0x8f)));
        assert!(!records.take(2, "mce: [Hardware Error]: a form of tomorrow"));
        assert!(!records.take(3, "CPU 9 BANK 9"), "mcelog text begins with `MCE n`");
    }

    #[test]
    fn a_storm_is_bounded() {
        let mut records = Records::default();
        for line in 0..1000 {
            assert!(records.take(line, "mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 7: 8c00004000010090"));
        }
        assert_eq!((records.done.len(), records.left_out), (MAX_RECORDS, 1000 - MAX_RECORDS as u64));
        for line in 0..1000 {
            records.take(line, "Memory failure: 0x1: x");
        }
        assert!(records.done.iter().all(|record| record.evidence.len() <= MAX_EVIDENCE));
    }
}
