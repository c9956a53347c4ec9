//! Records of the firmware: GHES (`{1}[Hardware Error]:`), and BERT and ERST, which report the
//! previous boot without a number.

use super::fields::{hex, of_eax};
use super::{Record, Records};
use crate::{input::excerpt, report::LogLine};

/// How a line of a CPER record begins, behind `[Hardware Error]:`.
const WORDS: [&str; 55] = [
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
    "Hardware error detected on CPU",
    "micro-architectural error",
];

/// What a section of a CPER record is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::explain) enum Section {
    /// Memory.
    Memory,
    /// A CPU.
    Processor,
    /// A device or the way to it: PCIe, CXL, the IOMMU.
    Device(&'static str),
    /// One whose contents the kernel does not decode.
    Unknown(String),
}

/// Sections that the kernel knows by number only (UEFI), and none of which is about memory.
const BY_NUMBER: [(&str, &str); 5] = [
    ("c5753963-3b84-4095-bf78-eddad3f9c9dd", "PCI"),
    ("eb5e4685-ca66-4769-b6a2-26068b001326", "PCI"),
    ("5b51fef7-c79d-4434-8f1b-aa62de3e2c64", "IOMMU"),
    ("71761d37-32b2-45cd-a7d0-b0fedd93e8cf", "IOMMU"),
    ("036f84e1-7f37-428c-a79e-575fdfaa84ec", "IOMMU"),
];

/// Bit 12 of the uncorrectable errors of PCIe: the data of a packet are poisoned.
const POISONED_TLP: u64 = 1 << 12;

impl Section {
    /// `section_type: PCIe error`, `section type: unknown, 036f84e1-..`.
    fn parse(rest: &str) -> Option<Self> {
        let text = rest.strip_prefix("section_type:").or_else(|| rest.strip_prefix("section type:"))?.trim();
        let number = text.strip_prefix("unknown, ").unwrap_or_default().to_ascii_lowercase();
        Some(match text {
            "memory error" => Self::Memory,
            "general processor error" | "IA32/X64 processor error" => Self::Processor,
            _ if text.starts_with("PCIe") => Self::Device("PCIe"),
            "CXL DRAM Event" | "CXL General Media Event" | "CXL Memory Module Event" => {
                Self::Device("the memory of a CXL device")
            }
            _ if text.starts_with("CXL") => Self::Device("CXL"),
            _ => match BY_NUMBER.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => Self::Device(name),
                None => Self::Unknown(excerpt(text)),
            },
        })
    }
}

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
        self.go_to_section(group, rest);
        let record = self.current();
        record.severity |= rest.starts_with("event severity:");
        record.corrected |= rest == "event severity: corrected" || rest.starts_with("It has been corrected");
        // The severity of a section says more than that of the whole event.
        if let Some((_, kind)) = section_begins(rest).and_then(|_| rest.split_once("type: ")) {
            record.corrected = kind == "corrected";
        }
        record.section = Section::parse(rest).or(record.section.take());
        if let Some(kind) = rest
            .strip_prefix("error_type: ")
            .filter(|kind| ["ECC", "parity", "scrub"].iter().any(|word| kind.contains(word)))
            .filter(|_| !matches!(record.section, Some(Section::Device(_) | Section::Unknown(_))))
        {
            record.ecc = Some(excerpt(kind.split_once(", ").map_or(kind, |(_, name)| name)));
        }
        if let Some(address) = rest.strip_prefix("physical_address: ") {
            record.address = hex(address.trim());
        }
        // Firmware that does not know the module says so in its place.
        if let Some(place) = rest.strip_prefix("DIMM location: ").filter(|place| !place.starts_with("not present")) {
            record.dimm = Some(excerpt(place));
        } else if record.dimm.is_none() && rest.starts_with("node:") && rest.contains("card:") {
            record.dimm = Some(excerpt(rest));
        }
        if let Some(Section::Device(_)) = record.section {
            let named = ["device_id: ", "agent_address: "].iter().find_map(|word| rest.strip_prefix(word));
            record.device = named.filter(|name| name.contains(':')).map(excerpt).or(record.device.take());
            let errors = rest.strip_prefix("aer_uncor_status: ").and_then(|rest| hex(rest.split(',').next()?));
            record.got_poison |= errors.is_some_and(|errors| errors & POISONED_TLP != 0);
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

    /// Goes to the record of an event, or begins one: for each event, and for each section of it.
    fn go_to_section(&mut self, group: Option<u64>, rest: &str) {
        let same = self.done.iter().rposition(|record| record.firmware && record.group == group);
        let begins = |record: &Record| {
            let first = ["Hardware error from APEI", "Hardware error detected on CPU"];
            record.severity && (rest.starts_with("event severity:") || first.iter().any(|word| rest.starts_with(word)))
        };
        match same.and_then(|at| Some((at, self.done.get(at)?))) {
            Some((_, record)) if begins(record) => {}
            Some((_, record)) if record.section.is_some() && section_begins(rest).is_some() => {
                let of_event = |line: &&LogLine| line.text.contains("event severity:");
                let evidence: Vec<_> = record.evidence.iter().filter(of_event).cloned().collect();
                let first_line = record.first_line;
                let record = self.begin();
                (record.group, record.firmware, record.severity) = (group, true, true);
                (record.evidence, record.first_line) = (evidence, first_line);
                return;
            }
            Some((at, _)) => {
                self.at = at;
                return;
            }
            None => {}
        }
        let record = self.begin();
        (record.group, record.firmware) = (group, true);
    }

    /// True if a line without a number is one of a CPER record.
    fn is_of_firmware(&self, rest: &str) -> bool {
        let in_record = self.done.get(self.at).is_some_and(|record| record.firmware && self.is_near(record));
        // The lines of a section are indented.
        let indented = rest.starts_with("  ");
        let rest = rest.trim();
        let dump = rest.split_once(": ").is_some_and(|(offset, _)| offset.len() == 8 && hex(offset).is_some());
        WORDS.iter().any(|words| rest.starts_with(words)) || in_record && (dump || indented)
    }
}

/// `Error 1, type: recoverable`: the number of the section.
fn section_begins(rest: &str) -> Option<u64> {
    let (number, _) = rest.strip_prefix("Error ")?.split_once(", type: ")?;
    number.parse().ok()
}

/// `{7}[Hardware Error]: text`; the extended log of the CPU is without the tag: `{7}text`.
fn numbered(message: &str) -> Option<(u64, &str)> {
    let (group, rest) = message.strip_prefix('{')?.split_once('}')?;
    let group = group.parse().ok()?;
    if let Some(rest) = rest.strip_prefix("[Hardware Error]:") {
        return Some((group, rest));
    }
    let words = rest.trim();
    WORDS.iter().any(|known| words.starts_with(known)).then_some((group, rest))
}
