//! Records of the firmware: GHES (`{1}[Hardware Error]:`), and BERT and ERST, which report the
//! previous boot without a number.

use super::Records;
use super::fields::{hex, of_eax};
use crate::input::excerpt;

/// How a line of a CPER record begins, behind `[Hardware Error]:`.
const WORDS: [&str; 54] = [
    "It has been corrected",
    "event severity:",
    "Error ",
    "section_type:",
    "section type:",
    "section length:",
    "fru_id:",
    "fru_text:",
    "timestamp:",
    "precise tstamp:",
    "imprecise tstamp:",
    "error_type:",
    "error_status:",
    "physical_address:",
    "physical_address_mask:",
    "node:",
    "card:",
    "module:",
    "rank:",
    "bank:",
    "device:",
    "row:",
    "column:",
    "bit_position:",
    "requestor_id:",
    "responder_id:",
    "target_id:",
    "target_address:",
    "chip_id:",
    "DIMM location:",
    "processor_type:",
    "processor_isa:",
    "operation:",
    "flags:",
    "level:",
    "version_info:",
    "processor_id:",
    "IP:",
    "Local APIC_ID:",
    "CPUID Info:",
    "Check Information:",
    "Target Identifier:",
    "Requestor Identifier:",
    "Responder Identifier:",
    "Instruction Pointer:",
    "Context Information Structure",
    "Register ",
    "MSR Address:",
    "MM Register Address:",
    "Operation:",
    "Transaction Type:",
    "Level:",
    "Hardware error from APEI",
    "micro-architectural error",
];

impl Records {
    /// A line of the firmware; false if it is none.
    pub(super) fn firmware(&mut self, line: u64, message: &str) -> bool {
        if message.starts_with("BERT: ") || message.starts_with("ERST: ") {
            return true;
        }
        let (group, rest) = match numbered(message) {
            Some((group, rest)) => (Some(group), rest),
            None => match message.strip_prefix("[Hardware Error]:") {
                Some(rest) if self.is_of_firmware(rest) => (None, rest),
                _ => return false,
            },
        };
        let rest = rest.trim();
        let again = |severity: bool| group.is_none() && severity && rest.starts_with("event severity:");
        let same = self.done.iter().rposition(|record| record.firmware && record.group == group);
        if let Some(at) = same.filter(|&at| !again(self.done[at].severity)) {
            self.at = at;
        } else {
            let record = self.begin();
            (record.group, record.firmware) = (group, true);
        }
        let record = self.current();
        record.severity |= rest.starts_with("event severity:");
        record.corrected |= rest == "event severity: corrected" || rest.starts_with("It has been corrected");
        if let Some(kind) = rest
            .strip_prefix("error_type: ")
            .filter(|kind| ["ECC", "parity", "scrub"].iter().any(|word| kind.contains(word)))
        {
            record.ecc = Some(excerpt(kind));
        }
        if let Some(address) = rest.strip_prefix("physical_address: ") {
            record.address = hex(address.trim());
        }
        if let Some(place) = rest.strip_prefix("DIMM location: ") {
            record.dimm = Some(excerpt(place));
        }
        if let Some(version) = rest.strip_prefix("version_info: ") {
            record.cpu = hex(version.trim()).and_then(of_eax).or(record.cpu);
        }
        if record.cpuid_follows {
            let eax = rest.strip_prefix("00000000: ").and_then(|dump| hex(dump.split(' ').next()?));
            record.cpu = eax.and_then(of_eax).or(record.cpu);
        }
        record.cpuid_follows = rest == "CPUID Info:";
        self.see(line, message);
        true
    }

    /// True if a line without a number is one of a CPER record.
    fn is_of_firmware(&self, rest: &str) -> bool {
        let rest = rest.trim();
        let dump = rest.split_once(": ").is_some_and(|(offset, _)| offset.len() == 8 && hex(offset).is_some());
        let in_record = self.done.get(self.at).is_some_and(|record| record.firmware);
        WORDS.iter().any(|words| rest.starts_with(words)) || dump && in_record
    }
}

/// `{7}[Hardware Error]: text`.
fn numbered(message: &str) -> Option<(u64, &str)> {
    let (group, rest) = message.strip_prefix('{')?.split_once('}')?;
    Some((group.parse().ok()?, rest.strip_prefix("[Hardware Error]:")?))
}
