//! Records of rasdaemon: `ras-mc-ctl --errors` and `--summary`, its journal, and the kernel's trace
//! events that it reads. One line is one record.

use tdx_host::platform::CpuModel;

use super::Records;
use super::fields::{hex, keyed, names_memory_failure, of_eax, says_corrected, signature};
use crate::{cpu_model, input::excerpt};

impl Records {
    /// A line of rasdaemon, or one that may be; false if it is of no known form.
    pub(super) fn rasdaemon(&mut self, line: u64, message: &str) -> bool {
        if heading(message) {
            return true;
        }
        let known = trace_event(message) || machine_check(message) || memory_error(message) || summary(message);
        if let Some(number) = page(message) {
            self.go_to_page(number);
            self.see(line, message);
            return true;
        }
        if !known {
            return false;
        }
        let record = self.begin();
        record.status = keyed(message, "status").or_else(|| bank_of_trace(message));
        record.global = keyed(message, "mcgstatus");
        record.bank = keyed(message, "bank");
        record.address = address(message);
        record.cpu = model(message);
        record.corrected = says_corrected(message);
        let names = message.split_once("MemCtrl: ").map_or(message, |(_, rest)| rest);
        let names = names.split(", ").next().unwrap_or_default();
        if (memory_error(message) || message.contains("MemCtrl: ") || summary(message)) && names_memory_failure(names) {
            record.ecc = Some(excerpt(names));
        } else if memory_error(message) || message.contains("mc_event: ") || summary(message) {
            // The EDAC driver counts errors of memory controllers and of nothing else.
            record.ecc = Some(excerpt(names));
        }
        record.dimm = place(message).map(excerpt);
        self.see(line, message);
        true
    }
}

/// Headings of `ras-mc-ctl`, and what it prints if there is nothing.
fn heading(message: &str) -> bool {
    let none = message.starts_with("No ") && (message.ends_with("errors.") || message.ends_with("errors"));
    let list =
        ["MCE events:", "Memory controller events:", "Memory controller events summary:", "MCE records summary:"];
    none || list.contains(&message) || message == "Memory failure events:"
}

/// `7 2024-05-06 07:08:09 +0000 error: MEMORY CONTROLLER .., mcg mcgstatus=0, .., status=0x..`.
fn machine_check(message: &str) -> bool {
    numbered(message) && message.contains(" error: ") && message.contains("status=0x")
}

/// `1 2024-05-06 07:08:09 +0000 2 Corrected error(s): memory read error at .. location: ..`.
fn memory_error(message: &str) -> bool {
    numbered(message) && message.contains(" error(s): ") && message.contains(" location: ")
        || message.contains("mc_event: ") && message.contains(" error")
}

/// `Corrected on DIMM Label(s): 'X' location: 0:0:0:-1 errors: 3`.
fn summary(message: &str) -> bool {
    message.contains(" on DIMM Label(s): ") && message.contains(" errors: ")
}

/// `mce_record: 2024-05-06 07:08:09 +0000 bank=10, status= 8c.., ..` of the daemon, or
/// `mce_record: CPU: 0, MCGc/s: f000c1c/0, MC13: 8c.., ..` of the kernel.
fn trace_event(message: &str) -> bool {
    message.contains("mce_record: ") && (keyed(message, "status").is_some() || bank_of_trace(message).is_some())
}

/// `pfn=0x1234, page_type=..`, of a memory failure.
fn page(message: &str) -> Option<u64> {
    let failure = message.contains("page_type=") || message.contains("memory_failure_event");
    keyed(message, "pfn").filter(|_| failure)
}

/// A number, a date and a time.
fn numbered(message: &str) -> bool {
    let mut words = message.split(' ');
    let digits = |word: Option<&str>| word.is_some_and(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_digit()));
    let date =
        |word: Option<&str>| word.is_some_and(|w| w.len() == 10 && w.bytes().filter(|b| *b == b'-').count() == 2);
    digits(words.next()) && date(words.next()) && words.next().is_some_and(|w| w.contains(':'))
}

/// The bank's status in the kernel's trace event: `MC13: 8c00004000010090`.
fn bank_of_trace(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once(" MC").filter(|_| message.contains("MCGc/s"))?;
    let (_, rest) = rest.split_once("MC").unwrap_or(("", rest));
    let (bank, status) = rest.split_once(": ")?;
    let status = status.split(',').next().and_then(|status| hex(status.trim()));
    status.filter(|_| bank.bytes().all(|b| b.is_ascii_digit()))
}

fn address(message: &str) -> Option<u64> {
    let trace = || {
        let (_, rest) = message.split_once("ADDR/MISC/SYND: ")?;
        hex(rest.split('/').next()?)
    };
    // `ras-mc-ctl` prints the address of a memory error in decimal.
    let decimal = || {
        let (_, rest) = message.split_once(", addr ")?;
        rest.split(',').next()?.trim().parse().ok()
    };
    keyed(message, "addr").or_else(|| keyed(message, "address")).or_else(trace).or_else(decimal).filter(|at| *at != 0)
}

fn model(message: &str) -> Option<CpuModel> {
    let by_number = keyed(message, "cpuid").and_then(of_eax);
    let traced = || message.split_once("PROCESSOR: ").and_then(|(_, rest)| signature(rest.split(',').next()?.trim()));
    let named = || {
        let (_, rest) = message.split_once("cpu_type= ")?;
        let name = rest.split(',').next()?;
        let known = cpu_model::NAMED.iter().find(|(_, long, _)| name.replace("rapids", " Rapids").contains(long));
        known.map(|(.., model)| *model)
    };
    by_number.or_else(traced).or_else(named)
}

/// The label of the memory module.
fn place(message: &str) -> Option<&str> {
    let label = message.split_once("DIMM Label(s): '").and_then(|(_, rest)| rest.split('\'').next());
    let after =
        |word: &str| message.split_once(word).map(|(_, rest)| rest.split([' ', '(']).next().unwrap_or_default());
    label.or_else(|| after(" error at ")).or_else(|| after(" error on ")).filter(|place| !place.is_empty())
}
