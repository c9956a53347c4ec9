//! Boot judgement: was TDX initialized, if not why, and was it handed over to the next kernel.
//! Rules on the facts of a boot log. An unknown failure and a truncated log are undecidable.

use super::{
    boot_facts::Boot,
    causes::{self, Cause},
    handover, kexec, system,
};
use crate::report::{Basis, Judgement, LogFinding, LogLine, Topic};
use crate::{
    bootlog::{self, Failure, Speaker, Words},
    input::{At, InputError},
    kernel::Era,
};

/// What is said of a boot. No line about TDX gives no finding.
pub(super) fn judge(boot: &Boot) -> Vec<LogFinding> {
    let log = &boot.log;
    let mut findings = system::first(boot);
    if let Some(error) = boot.broken.as_ref().filter(|_| !boot.tdx.is_empty()) {
        findings.push(broken(boot, error));
    }
    if let Some(at) = boot.earlier.as_ref().filter(|_| log.initialized.is_some()) {
        findings.push(earlier(boot, at));
    }
    if let Some(failure) = &log.failure {
        let module = log.module.map(|module| module.value);
        let cause = match (failure.value.0, boot.errno) {
            (Failure::Words(Words::Unknown), Some(number)) => causes::unknown_with(number),
            (failure, _) => causes::of(failure, module),
        };
        let mut found = caused(boot, Topic::BringUp, cause);
        if !found.evidence.iter().any(|line| line.line == failure.line) {
            found.evidence.push(LogLine { line: failure.line, text: bootlog::message(&failure.value.1).to_owned() });
        }
        findings.push(found);
        findings.extend(boot.more.iter().map(|at| another(boot, at)));
    }
    let contradiction = log.initialized.and_then(|line| contradiction(boot, line));
    let contradicted = contradiction.is_some();
    if log.initialized.is_some() {
        findings.push(contradiction.unwrap_or_else(|| up(boot)));
        if let Some((words, line)) = boot.refused_by_kvm.as_ref().filter(|_| log.failure.is_none()) {
            let mut found = caused(boot, Topic::Vmm, causes::words(*words));
            found.evidence = vec![line.clone()];
            findings.push(found);
        }
        if let Some(at) = boot.after.as_ref().filter(|at| !contradicted || !is_of_initialization(at.value.0)) {
            findings.push(afterwards(boot, at));
        }
    } else if log.failure.is_none() && log.not_disabled.is_none() && !(is_guest(boot) && log.key_ids.is_none()) {
        findings.extend(not_ended(boot));
    }
    findings.extend(system::silence(boot));
    for (topic, cause, line) in handover::after(log) {
        let mut found = caused(boot, topic, cause);
        found.evidence = vec![line];
        findings.push(found);
    }
    findings.extend(boot.calls.findings(log));
    findings.extend(boot.updates.finding());
    findings.extend(boot.kexec.finding(log));
    findings.extend(boot.vmm.findings());
    findings
}

/// True for a failure that only the initialization of the module can have: Linux initializes it
/// once in a boot.
fn is_of_initialization(failure: Failure) -> bool {
    matches!(failure, Failure::Errno(_) | Failure::ReservedAreasExhausted(_))
}

/// Lines of one boot that cannot both be true of one machine: the module came up, and its
/// initialization failed afterwards, or the CPU is one without TDX.
fn contradiction(boot: &Boot, up: u64) -> Option<LogFinding> {
    let failed = boot.after.as_ref().filter(|at| is_of_initialization(at.value.0));
    let other = boot.log.cpu.as_ref().filter(|at| !at.value.intel).and(boot.cpu.clone());
    let guest = boot.log.speaker.as_ref().filter(|at| at.value.0 == Speaker::TdGuest);
    if let (None, None, Some(at)) = (failed, &other, guest) {
        let line = LogLine { line: at.line, text: at.value.1.clone() };
        return Some(contradicts(boot, up, line, "that this is a TD, which is a guest and initializes no module"));
    }
    let (line, says) = match (failed, other) {
        (Some(at), _) => {
            let line = LogLine { line: at.line, text: bootlog::message(&at.value.1).to_owned() };
            (line, "that its initialization failed; Linux initializes it once in a boot")
        }
        (None, Some(line)) => (line, "that the CPU is not from Intel, so that it has no TDX"),
        (None, None) => return None,
    };
    Some(contradicts(boot, up, line, says))
}

/// The line that says that the module is up, and the one that it cannot be true with.
fn contradicts(boot: &Boot, up: u64, line: LogLine, says: &str) -> LogFinding {
    let mut found = finding(boot, Judgement::Undecidable, "log-contradicts-itself", Basis::Deduced);
    found.evidence.retain(|seen| seen.line == up);
    found.cause = format!("line {up} says that the module is initialized, line {} {says}", line.line);
    found.evidence.push(line);
    found.evidence.sort_by_key(|line| line.line);
    "the lines are of two boots or two machines, or were changed: give the whole log of one boot, `journalctl -k -b`"
        .clone_into(&mut found.remedy);
    found
}

/// Another call of the initialization that failed, with a status of its own.
fn another(boot: &Boot, at: &At<(Failure, String)>) -> LogFinding {
    let mut found = caused(boot, Topic::BringUp, causes::of(at.value.0, boot.log.module.map(|module| module.value)));
    found.evidence = vec![LogLine { line: at.line, text: bootlog::message(&at.value.1).to_owned() }];
    found.cause = format!("besides: {}", found.cause);
    found
}

fn is_guest(boot: &Boot) -> bool {
    boot.log.speaker.as_ref().is_some_and(|at| at.value.0 == Speaker::TdGuest)
}

/// A known line that does not hold, if it is one of this log's.
fn broken(boot: &Boot, error: &InputError) -> LogFinding {
    let mut broken = finding(boot, Judgement::Undecidable, "line-does-not-hold", Basis::Sourced);
    broken.cause = format!("malformed line ignored: {error}");
    "provide the complete, unmodified log of one boot".clone_into(&mut broken.remedy);
    broken
}

/// What failed before the module came up.
fn earlier(boot: &Boot, at: &At<(Failure, String)>) -> LogFinding {
    let cause = causes::of(at.value.0, boot.log.module.map(|module| module.value));
    let mut found = caused(boot, Topic::BringUp, cause);
    found.judgement = Judgement::Info;
    found.evidence = vec![LogLine { line: at.line, text: bootlog::message(&at.value.1).to_owned() }];
    found.cause = format!("before the module came up: {}", found.cause);
    found
}

/// What failed after the module came up.
fn afterwards(boot: &Boot, at: &At<(Failure, String)>) -> LogFinding {
    let cause = causes::of(at.value.0, boot.log.module.map(|module| module.value));
    let mut found = caused(boot, Topic::Seamcall, cause);
    found.evidence = vec![LogLine { line: at.line, text: bootlog::message(&at.value.1).to_owned() }];
    found.cause = format!("after the module came up: {}", found.cause);
    found
}

/// TDX is up, and what that means for a kexec of this kernel.
fn up(boot: &Boot) -> LogFinding {
    let log = &boot.log;
    let mut up = finding(boot, Judgement::Up, "initialized", Basis::Sourced);
    let module = log.module.map_or_else(String::new, |module| format!(", module {}", module.value));
    let kb = log.pamt_kb.map_or_else(String::new, |kb| format!(", {} KB of PAMT", kb.value));
    up.cause = format!("TDX is initialized{module}{kb}");
    let erratum = log.cpu.map(|cpu| cpu.value.has_partial_write_erratum());
    let remedy = match (kexec::era(log), erratum) {
        _ if boot.kexec.any() => "see the finding on kexec below",
        (Some(Era::Refused), Some(true)) => {
            "this kernel refuses kexec and kdump images on this CPU while TDX is enabled in the BIOS \
             (EOPNOTSUPP): there is no dump after a panic. Use Linux 7.2 or later, or disable TDX in the BIOS, if \
             kdump is needed; `cleanslate check` tells more"
        }
        (Some(Era::Refused), None) => {
            "this kernel refuses kexec and kdump images on Sapphire Rapids and Emerald Rapids while TDX is enabled \
             in the BIOS (EOPNOTSUPP); `cleanslate check` tells whether this CPU is one of them"
        }
        (Some(Era::AsksModule), Some(true)) => {
            "before a kexec run `cleanslate check`: this kernel jumps whether or not the module gives its memory \
             back, and on this CPU what stays private can end the next kernel in a machine check"
        }
        _ if boot.calls.any() => "see the failed calls below; run `cleanslate check` before a kexec",
        _ => "nothing; run `cleanslate check` before a kexec",
    };
    remedy.clone_into(&mut up.remedy);
    up
}

/// A boot without an end of its bring-up.
fn not_ended(boot: &Boot) -> Option<LogFinding> {
    use Judgement::{Failed, Undecidable};
    let log = &boot.log;
    let under_way = log.under_way.is_some() || log.module.is_some() || !log.cmrs.is_empty();
    let mut found = if log.pamt_kb.is_some() || under_way {
        let mut found = finding(boot, Undecidable, "log-ends-in-bring-up", Basis::Deduced);
        let last = if log.pamt_kb.is_some() { "PAMTs were allocated" } else { "the module was queried" };
        found.cause = format!(
            "{last}, then the log ends: it is truncated, or the initialization failed \
            without a message"
        );
        "provide the complete log: `dmesg` or `journalctl -k -b`".clone_into(&mut found.remedy);
        found
    } else if let Some(option) = boot.misspelt.as_ref().filter(|_| boot.asked.is_none()) {
        let mut found = finding(boot, Failed, "option-misspelt", Basis::Deduced);
        found.evidence.push(option.clone());
        found.cause =
            format!("TDX was not requested: `{}` on the command line is not an option of kvm_intel", option.text);
        "add `kvm_intel.tdx=1` to the kernel command line".clone_into(&mut found.remedy);
        found
    } else if let Some((words, line)) = &boot.refused_by_kvm {
        let mut found = caused(boot, Topic::BringUp, causes::words(*words));
        if *words == Words::NoPlatform && log.key_ids.is_some() {
            found.basis = Basis::Deduced;
            "the BIOS assigned KeyIDs to TDX, but the kernel found TDX not usable: the reason is in a line that this \
             log does not have (hibernation, a lack of memory at boot)"
                .clone_into(&mut found.cause);
            "provide the complete log: `dmesg` or `journalctl -k -b`".clone_into(&mut found.remedy);
        }
        if !found.evidence.contains(line) {
            found.evidence.push(line.clone());
        }
        return Some(found);
    } else if let Some(line) = boot.unknown.as_ref().filter(|_| log.key_ids.is_some()) {
        // With an unknown message, "no further TDX line" would be wrong.
        let mut found = caused(boot, Topic::BringUp, causes::words(Words::Unknown));
        found.cause = format!("line {} is an unknown TDX message", line.line);
        if !found.evidence.contains(line) {
            found.evidence.push(line.clone());
        }
        return Some(found);
    } else if log.key_ids.is_some() {
        let mut found = finding(boot, Undecidable, "silent-after-keyids", Basis::Sourced);
        let asked = if boot.asked == Some(true) { ", TDX was requested of KVM" } else { "" };
        found.cause = format!(
            "the BIOS assigned KeyIDs to TDX{asked}, and no further TDX line follows. Known causes of such \
                a log: TDX was not requested (kernels that do not initialize it at boot need \
                `kvm_intel.tdx=1`, and a misspelt option is ignored); SYS.LP.INIT failed on a CPU \
                because SGX was disabled in the BIOS; a BIOS setup that had to be redone"
        );
        let remedy = "load KVM with `modprobe kvm_intel tdx=1` and check its messages; enable TDX, its SEAM \
            loader and SGX in the BIOS";
        remedy.clone_into(&mut found.remedy);
        found
    } else if !boot.tdx.is_empty() || !boot.kvm.is_empty() {
        let mut found = finding(boot, Undecidable, "no-known-line", Basis::Deduced);
        "the TDX messages do not tell whether the initialization succeeded".clone_into(&mut found.cause);
        "provide the complete log: `dmesg` or `journalctl -k -b`".clone_into(&mut found.remedy);
        found
    } else if let Some((rule, cause, remedy)) = boot.encryption.iter().find_map(|line| without_keys(&line.text)) {
        let mut found = finding(boot, Failed, rule, Basis::Deduced);
        (found.cause, found.remedy) = (cause.to_owned(), remedy.to_owned());
        found
    } else if !boot.encryption.is_empty() {
        let mut found = finding(boot, Undecidable, "encryption-only", Basis::Deduced);
        "memory encryption is enabled in the BIOS; no line tells whether any KeyIDs are private (for TDX)"
            .clone_into(&mut found.cause);
        "a kernel with TDX host code prints the private KeyID range; it is also in MSR 0x87 (`cleanslate \
            explain --msr 0x87 VALUE`)"
            .clone_into(&mut found.remedy);
        found
    } else {
        return None;
    };
    found.evidence.extend(boot.kvm.iter().cloned());
    Some(found)
}

/// Memory encryption that leaves no KeyID for TDX: rule, cause and remedy.
fn without_keys(text: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let remedy = "enable TME, multi-key TME (TME-MT) and TDX in the BIOS, give TDX KeyIDs, and power cycle";
    let text = text.trim_end_matches('.');
    if text.ends_with("x86/tme: MKTME is not usable") || text.ends_with("configuration is inconsistent between CPUs") {
        return Some((
            "encryption-differs",
            "the CPUs do not agree on memory encryption (MSR 0x982), so the kernel uses no KeyIDs, and the module \
             refuses such a machine (INCONSISTENT_MSR)",
            "set up all packages the same in the BIOS, or update it; compare `rdmsr -a 0x982`",
        ));
    }
    let off = "x86/tme: not enabled by BIOS";
    if text.starts_with("x86/mktme: disabled by BIOS") || text.starts_with(off) {
        let cause = if text.starts_with(off) {
            "memory encryption (TME) is off in the BIOS, and TDX needs it"
        } else {
            "memory encryption has no KeyIDs (TME-MT is off in the BIOS), and TDX needs private ones"
        };
        return Some(("encryption-without-keyids", cause, remedy));
    }
    None
}

/// A finding from a cause.
fn caused(boot: &Boot, topic: Topic, cause: Cause) -> LogFinding {
    let mut found = finding(boot, cause.judgement, cause.rule, cause.basis);
    found.topic = topic;
    (found.cause, found.remedy) = (cause.text, cause.remedy);
    found.evidence.extend(boot.kvm.iter().cloned());
    found
}

/// A finding with the TDX lines of the boot as evidence.
fn finding(boot: &Boot, judgement: Judgement, rule: &'static str, basis: Basis) -> LogFinding {
    let lines = if boot.tdx.is_empty() { &boot.encryption } else { &boot.tdx };
    // Of CMRs the last one stands for all.
    let evidence: Vec<LogLine> = lines.iter().take(11).chain(&boot.cmr).take(12).cloned().collect();
    LogFinding {
        topic: Topic::BringUp,
        judgement,
        rule,
        basis,
        evidence,
        cause: String::new(),
        remedy: String::new(),
        boot: 0,
    }
}
