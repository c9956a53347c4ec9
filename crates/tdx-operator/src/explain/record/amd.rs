//! Records as the kernel's decoder for CPUs of AMD prints them: the severity, then the CPU with the
//! status of its bank, the address, and the unit in words.

use tdx_host::platform::CpuModel;

use super::Records;
use super::fields::{hex, names_memory_failure};
use crate::input::excerpt;

/// How a record begins.
const SEVERITIES: [&str; 5] = [
    "Corrected error, no action required.",
    "Deferred error, no action required.",
    "Uncorrected, software containable error.",
    "Uncorrected, software restartable error.",
    "System Fatal error.",
];

impl Records {
    /// A line of the decoder; false if it is none.
    pub(super) fn amd(&mut self, line: u64, message: &str) -> bool {
        let rest = message.strip_prefix("mce: ").unwrap_or(message);
        let Some(rest) = rest.strip_prefix("[Hardware Error]: ").map(str::trim) else { return false };
        if SEVERITIES.contains(&rest) {
            let record = self.begin();
            (record.decoded, record.corrected) = (true, rest.starts_with("Corrected"));
            self.see(line, message);
            return true;
        }
        let goes_on = self.done.get(self.at).is_some_and(|record| record.decoded && self.is_near(record));
        // The next record of the kernel or of the firmware has lines of its own.
        if !goes_on || message.starts_with("mce: ") || rest.starts_with("event severity:") {
            return false;
        }
        let record = self.current();
        if let Some((cpu, status)) = bank(rest) {
            // A deferred error is marked as neither corrected nor uncorrected.
            let deferred = record.evidence.first().is_some_and(|first| first.text.contains("Deferred"));
            (record.cpu, record.status) = (Some(cpu), Some(status).filter(|_| !deferred));
        } else if let Some(address) = rest.strip_prefix("Error Addr: ") {
            record.address = hex(address.split(' ').next().unwrap_or_default());
        } else if rest.contains("Error Code: ") && names_memory_failure(rest) {
            record.ecc = Some(excerpt(rest));
        }
        self.see(line, message);
        true
    }
}

/// `CPU:2 (19:11:1) MC18_STATUS[-|CE|MiscV|AddrV]: 0x9c2040000000011b`.
fn bank(rest: &str) -> Option<(CpuModel, u64)> {
    let (_, rest) = rest.strip_prefix("CPU:")?.split_once(" (")?;
    let (model, rest) = rest.split_once(')')?;
    let number = |text: Option<&str>| u32::try_from(hex(text?)?).ok();
    let mut parts = model.split(':');
    let (family, model, stepping) = (number(parts.next())?, number(parts.next())?, number(parts.next())?);
    let (_, status) = rest.split_once("_STATUS[")?.1.split_once("]: ")?;
    Some((CpuModel { intel: false, family, model, stepping }, hex(status.trim())?))
}
