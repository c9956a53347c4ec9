//! Records of mcelog: `MCE 0`, and the lines that follow it to the next record.

use tdx_host::platform::CpuModel;

use super::Records;
use super::fields::{names_memory_failure, says_corrected, signature, value_of};
use crate::input::excerpt;

/// How the lines of a record begin.
const WORDS: [&str; 48] = [
    "CPU ",
    "BANK ",
    "TSC ",
    "RIP",
    "MISC ",
    "ADDR ",
    "TIME ",
    "MCG status:",
    "MCi status:",
    "MCA: ",
    "MCGSTATUS ",
    "STATUS ",
    "MCGCAP ",
    "APICID ",
    "CPUID ",
    "PROCESSOR ",
    "SRAR",
    "SRAO",
    "UCNA",
    "Uncorrected error",
    "Corrected error",
    "Error enabled",
    "Error overflow",
    "MCi_MISC register valid",
    "MCi_ADDR register valid",
    "Processor context corrupt",
    "Firmware may have updated",
    "Machine check not valid",
    "Transaction: ",
    "MemCtrl: ",
    "Memory",
    "ecc mode:",
    "rank:",
    "bank:",
    "row:",
    "column:",
    "failed ",
    "DIMM",
    "Threshold based",
    "Large number",
    "corrected filtering",
    "HARDWARE ERROR",
    "PPIN ",
    "SOCKETID ",
    "MICROCODE ",
    "Location",
    "Model:",
    "BUS error",
];

impl Records {
    /// A line of mcelog, or one that may be; false if it is of no known form.
    pub(super) fn mcelog(&mut self, line: u64, message: &str) -> bool {
        let message = message.trim_end();
        if message.starts_with("Hardware event. This is not a software error") {
            self.mcelog = false;
            return true;
        }
        if message.strip_prefix("MCE ").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            self.begin();
            self.mcelog = true;
            self.see(line, message);
            return true;
        }
        if !self.mcelog || !WORDS.iter().any(|word| message.starts_with(word)) {
            return false;
        }
        let record = self.current();
        record.address = value_of(message, "ADDR").or(record.address);
        record.status = value_of(message, "STATUS").or(record.status);
        record.global = value_of(message, "MCGSTATUS").or(record.global);
        record.bank = value_of(message, "BANK").or(record.bank);
        record.cpu = model(message).or(record.cpu);
        if let Some(processor) = message.strip_prefix("PROCESSOR ") {
            record.cpu = processor.split(' ').next().and_then(signature).or(record.cpu);
        }
        record.corrected |= message.starts_with("Corrected error");
        if let Some(failure) = message.strip_prefix("MemCtrl: ").filter(|failure| names_memory_failure(failure)) {
            record.corrected |= says_corrected(failure);
            record.ecc = Some(excerpt(failure));
        }
        if message.starts_with("DIMM") || message.starts_with("Location") {
            record.dimm = Some(excerpt(message));
        }
        self.see(line, message);
        true
    }
}

/// `CPUID Vendor Intel Family 6 Model 85 Step 7`, decimal.
fn model(message: &str) -> Option<CpuModel> {
    let (vendor, rest) = message.strip_prefix("CPUID Vendor ")?.split_once(" Family ")?;
    let (family, model) = rest.split_once(" Model ")?;
    let model = model.split(' ').next()?;
    Some(CpuModel { intel: vendor == "Intel", family: family.parse().ok()?, model: model.parse().ok()?, stepping: 0 })
}
