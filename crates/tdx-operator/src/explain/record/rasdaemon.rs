//! Records of rasdaemon: `ras-mc-ctl --errors` and `--summary`, its journal, and the kernel's trace
//! events that it reads. One line is one record.

use tdx_host::platform::CpuModel;

use super::fields::{hex, keyed, names_memory_failure, of_eax, says_corrected, signature};
use super::{MAX_EVIDENCE, Records, Section};
use crate::{cpu_model, input::excerpt, report::LogLine};

impl Records {
    /// A line of rasdaemon, or one that may be; false if it is of no known form.
    pub(super) fn rasdaemon(&mut self, line: u64, message: &str) -> bool {
        if let Some(heading) = heading(message) {
            let seen = || LogLine { line, text: excerpt(message) };
            match heading {
                Heading::None if self.nothing.len() < MAX_EVIDENCE => self.nothing.push(seen()),
                Heading::Counts => drop(self.counted.get_or_insert_with(seen)),
                Heading::None | Heading::Lists => {}
            }
            return true;
        }
        if let Some(number) = page(message) {
            self.go_to_page(number);
            self.see(line, message);
            return true;
        }
        if let Some((device, kind)) = aer(message) {
            let record = self.begin();
            (record.firmware, record.section) = (true, Some(Section::Device("PCIe")));
            (record.device, record.corrected) = (Some(excerpt(device)), says_corrected(kind));
            record.got_poison = message.contains("Poisoned TLP");
            self.see(line, message);
            return true;
        }
        if let Some(device) = cxl(message) {
            let record = self.begin();
            (record.firmware, record.section, record.device) =
                (true, Some(Section::Device("CXL")), Some(excerpt(device)));
            record.corrected = message.contains(" correctable");
            self.see(line, message);
            return true;
        }
        let extlog = extlog(message);
        let known = trace_event(message) || machine_check(message) || memory_error(message) || summary(message);
        if !known && extlog.is_none() {
            return false;
        }
        let record = self.begin();
        record.status = keyed(message, "status").or_else(|| bank_of_trace(message));
        record.global = keyed(message, "mcgstatus");
        record.bank = keyed(message, "bank");
        record.address = address(message);
        record.cpu = model(message);
        record.corrected = says_corrected(message);
        if let Some((kind, severity)) = extlog {
            (record.firmware, record.section) = (true, Some(Section::Memory));
            record.corrected = severity == "corrected";
            record.ecc = names_memory_failure(kind).then(|| excerpt(kind));
        }
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

/// A line of `ras-mc-ctl` that shows no record.
enum Heading {
    /// Records follow.
    Lists,
    /// Numbers of records follow.
    Counts,
    /// There are none.
    None,
}

/// Kinds of records whose absence `ras-mc-ctl` states: `No Memory errors.`
const KINDS: [&str; 10] =
    ["Memory", "PCIe AER", "ARM processor", "Extlog", "devlink", "disk", "Memory failure", "MCE", "CXL", "HiSilicon"];

/// Headings of `ras-mc-ctl`, and what it prints if there is nothing.
fn heading(message: &str) -> Option<Heading> {
    let message = message.trim_end();
    let none = message.strip_prefix("No ").and_then(|rest| rest.trim_end_matches('.').strip_suffix(" errors"));
    if none.is_some_and(|kind| KINDS.contains(&kind) || kind.starts_with("CXL ") || kind.starts_with("HiSilicon ")) {
        return Some(Heading::None);
    }
    // What `mcelog --client` counts.
    if ["corrected memory errors:", "uncorrected memory errors:"].contains(&message) {
        return Some(Heading::Counts);
    }
    if message.starts_with("CXL ") && (message.ends_with(" events:") || message.ends_with(" events summary:")) {
        return Some(Heading::Lists);
    }
    let lists =
        ["Memory controller", "PCIe AER", "ARM processor", "Extlog", "Devlink", "Memory failure", "MCE", "Disk"];
    let rest = lists.iter().find_map(|kind| message.strip_prefix(kind))?;
    match rest {
        " records summary:" if message.starts_with("MCE") || message.starts_with("Extlog") => Some(Heading::Counts),
        " events:" | " errors" | " events summary:" | " records summary:" | " errors summary:" => Some(Heading::Lists),
        _ => None,
    }
}

/// `7 2024-05-06 07:08:09 +0000 error: MEMORY CONTROLLER .., mcg mcgstatus=0, .., status=0x..`.
fn machine_check(message: &str) -> bool {
    numbered(message) && message.contains(" error: ") && message.contains("status=0x") && !message.contains("mpidr=")
}

/// `1 2024-05-06 07:08:09 +0000 2 Corrected error(s): memory read error at .. location: ..`.
fn memory_error(message: &str) -> bool {
    numbered(message) && message.contains(" error(s): ") && message.contains(" location: ")
        || message.contains("mc_event: ") && message.contains(" error")
}

/// `1 2024-05-06 07:08:09 +0000 0000:16:01.0 Corrected error: Receiver Error`: the device and what
/// follows it.
fn aer(message: &str) -> Option<(&str, &str)> {
    let (device, kind) = message.splitn(5, ' ').nth(4).filter(|_| numbered(message))?.split_once(' ')?;
    let (bus, function) = device.rsplit_once('.')?;
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let address = bus.split(':').count() == 3 && bus.split(':').all(hex) && hex(function);
    (address && kind.contains("error: ")).then_some((device, kind))
}

/// `1 2026-05-06 07:11:12 +0000 error: memdev=mem0, host=0000:2c:00.0, ..`: the device.
fn cxl(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(" memdev=").filter(|_| numbered(message))?;
    rest.split(',').next().filter(|device| !device.is_empty())
}

/// The extended log of the CPU: what failed, and its severity. `1 corrected error: single-bit ECC
/// physical addr: 0x.. mask: ..` of the daemon, the same with its number in braces of the kernel's
/// trace event, and `1 2024-05-06 07:08:09 +0000 error: type=single-bit ECC, severity=corrected,
/// ..` of `ras-mc-ctl`.
fn extlog(message: &str) -> Option<(&str, &str)> {
    if numbered(message) {
        let (_, rest) = message.split_once(" error: type=")?;
        let (kind, rest) = rest.split_once(", severity=")?;
        return Some((kind, rest.split(',').next()?));
    }
    let (_, event) = message.split_once("extlog_mem_event: ")?;
    let (before, kind) = event.split_once(" error: ")?;
    let (kind, _) = kind.split_once(" physical addr: ")?;
    Some((kind, before.rsplit(' ').next()?))
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
    keyed(message, "addr")
        .or_else(|| keyed(message, "address"))
        .or_else(trace)
        .or_else(decimal)
        .filter(|at| !matches!(*at, 0 | u64::MAX))
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
