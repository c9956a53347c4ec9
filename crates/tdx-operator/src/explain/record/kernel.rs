//! Records as the kernel and EDAC print them.

use super::fields::{hex, keyed, signature, value_of};
use super::{Record, Records, VALID, in_page};
use crate::{input::excerpt, report::LogLine};

/// Lines of the machine-check code that speak of no error.
const HARMLESS: [&str; 12] = [
    "CPU supports ",
    "Using ",
    "CPU0: Thermal monitoring",
    "CMCI storm",
    "CPU0 BANK",
    "Machine check injector",
    "Machine check polling",
    "Erratum detected",
    "unknown CPU type",
    "mce argument",
    "Unable to init",
    "Disabling lock debugging",
];

impl Records {
    /// A line of the kernel; false if it is of no known form.
    pub(super) fn kernel(&mut self, line: u64, message: &str) -> bool {
        if let Some(rest) = message.strip_prefix("Kernel panic - not syncing: ") {
            let lower = rest.to_ascii_lowercase();
            if lower.contains("machine check") || lower.contains("broadcast exception handler") {
                self.go_to_severe();
                self.see(line, message);
                return true;
            }
            // What the firmware reported as fatal ends in this.
            if lower.starts_with("fatal hardware error") {
                let of_firmware = |record: &Record| record.firmware && !record.is_corrected() && self.is_near(record);
                if let Some(at) = self.done.iter().rposition(of_firmware) {
                    self.at = at;
                    self.see(line, message);
                } else {
                    self.logged.get_or_insert_with(|| LogLine { line, text: excerpt(message) });
                }
                return true;
            }
            return false;
        }
        if message.starts_with("Memory failure: ") || message.starts_with("dev_pagemap_mapping_shift: ") {
            let number = message.strip_prefix("Memory failure: ").and_then(|rest| hex(rest.split(':').next()?));
            match number {
                Some(number) => self.go_to_page(number),
                None => self.leave_firmware(),
            }
            let record = self.current();
            record.device_memory |= message.contains("dev_pagemap_mapping_shift");
            self.see(line, message);
            return true;
        }
        // Without its tags, as people quote it.
        if message.starts_with("Machine check: TDX private memory error") {
            self.leave_firmware();
            return self.record(line, message, message);
        }
        let begins = bank(message).is_some();
        let goes_on = self.done.get(self.at).is_some_and(|record| record.untagged)
            && (pairs(message) || ["PROCESSOR ", "RIP "].iter().any(|word| message.starts_with(word)));
        let Some(rest) = of_the_kernel(message).or((begins || goes_on).then_some(message)) else { return false };
        self.leave_firmware();
        let known = self.record(line, rest, message);
        if begins {
            self.current().untagged = true;
        }
        known
    }

    fn record(&mut self, line: u64, rest: &str, message: &str) -> bool {
        if let Some((global, number, status)) = bank(rest) {
            let record = self.begin();
            (record.global, record.bank, record.status) = (Some(global), number, Some(status));
        } else if let Some(text) = rest.strip_prefix("Machine check: ").or_else(|| rest.strip_prefix("Machine Check: "))
        {
            self.go_to_severe();
            let record = self.current();
            record.private_memory |= text.contains("TDX private memory error");
            record.in_td |= text.contains("SEAM non-root mode");
            // Words on TDX that are not known decide nothing.
            let known = record.private_memory || record.in_td || !text.contains("TDX");
            self.see(line, message);
            return known;
        } else if let Some(address) = user_access(rest) {
            self.begin().address = hex(address.trim());
        } else if let Some(page) = rest.strip_prefix("Uncorrected memory error in page ") {
            let page = page.split(' ').next().and_then(hex);
            self.begin().address = page.and_then(|page| page.checked_mul(4096));
        } else if rest.starts_with("Machine check events logged") {
            self.logged.get_or_insert_with(|| LogLine { line, text: excerpt(message) });
            return true;
        } else if rest.starts_with("Run the above through") || rest.starts_with("HANDLING MCE MEMORY ERROR") {
            return true;
        } else if let Some(processor) = rest.strip_prefix("PROCESSOR ") {
            self.current().cpu = processor.split(' ').next().and_then(signature);
        } else if [
            "RIP ",
            "RIP!",
            "Memory error not recovered",
            "CPUs not responding to MCE broadcast",
            "Fake kernel panic",
            "CPU#",
        ]
        .iter()
        .any(|words| rest.starts_with(words))
        {
            self.current();
        } else if pairs(rest) {
            let address = value_of(rest, "ADDR");
            let record = self.current();
            record.address = address.or(record.address);
        } else if let Some(text) = edac_count(rest) {
            if text.starts_with("0 ") {
                return true;
            }
            self.edac(text);
        } else {
            return HARMLESS.iter().any(|words| rest.starts_with(words)) || message.contains(": Thermal monitoring");
        }
        self.see(line, message);
        true
    }

    /// What EDAC counts belongs to the record of the same time with the same page or error code;
    /// a corrected error to none of an error that was not.
    fn edac(&mut self, text: &str) {
        let corrected = text.contains(" CE ");
        let page = keyed(text, "page").filter(|page| *page != 0);
        let code = code(text);
        let same = |record: &Record| {
            let valid = record.status.filter(|status| status & VALID != 0);
            let agrees = page.is_some_and(|page| in_page(record, page))
                || code.is_some() && valid.map(|status| status as u32) == code;
            let as_severe = (valid.is_none() && !record.counted) || record.is_corrected() == corrected;
            agrees && as_severe && !(valid.is_none() && record.status.is_some()) && self.is_near(record)
        };
        if let Some(at) = self.done.iter().rposition(same) {
            self.at = at;
        } else {
            let record = self.begin();
            (record.counted, record.address) = (true, page.and_then(|page| page.checked_mul(4096)));
        }
        let record = self.current();
        record.corrected |= corrected;
        record.ecc = Some(excerpt(text));
        let place = text.split_once(" on ").map(|(_, rest)| rest.split([' ', '(']).next().unwrap_or_default());
        record.dimm = place.filter(|place| !place.is_empty()).map(excerpt).or(record.dimm.take());
    }
}

/// `err_code:0x0008:0x00c2`: bits 31:0 of the bank's status.
fn code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("err_code:")?;
    let (model, rest) = rest.split_once(':')?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (model, code) = (u16::try_from(hex(model)?).ok()?, u16::try_from(hex(&rest[..end])?).ok()?);
    Some(u32::from(model) << 16 | u32::from(code))
}

fn user_access(rest: &str) -> Option<&str> {
    let words = ["Uncorrected hardware memory error in user-access at ", "Kernel accessed poison in user space at "];
    words.iter().find_map(|words| rest.strip_prefix(words))
}

/// What follows the words of the machine-check code or of EDAC.
fn of_the_kernel(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("mce: ").or_else(|| message.strip_prefix("MCE: ")).unwrap_or(message);
    if let Some(rest) = rest.strip_prefix("[Hardware Error]: ") {
        return Some(rest);
    }
    if rest.len() < message.len() {
        return Some(rest);
    }
    let (place, rest) = message.strip_prefix("EDAC ")?.split_once(": ")?;
    place.contains("MC").then_some(rest)
}

/// `CPU 147: Machine Check Exception: f Bank 1: bd80000000100134`, the global status, the number of
/// the bank and its status.
fn bank(rest: &str) -> Option<(u64, Option<u64>, u64)> {
    let (_, after) = rest.strip_prefix("CPU ")?.split_once(": Machine Check")?;
    let (global, status) = after.split_once(" Bank ")?;
    let global = global.rsplit(' ').next().and_then(hex)?;
    let (number, status) = status.split_once(": ")?;
    Some((global, number.trim().parse().ok(), hex(status.trim())?))
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
