//! Did TDX come up in this boot, and if not, why and what helps? Rules over the facts of a boot log; a failure of unknown cause
//! and a log that stops too early are said to be undecidable.
//!
//! Sources: `fixtures/INDEX.md` (real logs and what their owners found), `linux.md` sections 1.3 to 1.5, `tdx_abi.md` section 4.

use tdx_abi::{Leaf, PageRange, Status, StatusCode};

use super::{log::Boot, msr, status};
use crate::{
    bootlog::Failure,
    report::{Basis, Given, Judgement, LogFinding, LogLine, Topic},
};

const UPDATE_BIOS: &str =
    "update the BIOS, which brings microcode and TDX module, or put a newer module where your BIOS loads it from";
const SHOW_PLAN: &str = "`cleanslate plan --host FILE --layout linux` shows the TDMR";

/// What is said of a boot. No line about TDX gives no finding.
pub(super) fn judge(boot: &Boot) -> Vec<LogFinding> {
    let log = &boot.log;
    let mut findings = Vec::new();
    if let Some(error) = boot.broken.as_ref().filter(|_| !boot.tdx.is_empty()) {
        let mut broken = finding(boot, Judgement::Undecidable, "line-does-not-hold", Basis::Sourced);
        broken.cause = format!("a line that is known does not hold, so this boot is judged without it: {error}");
        "give the log of one boot, whole and unchanged".clone_into(&mut broken.remedy);
        findings.push(broken);
    }
    if let Some(failure) = &log.failure {
        let (kind, _) = &failure.value;
        findings.push(failed(boot, *kind));
    }
    if log.initialized.is_some() {
        let mut up = finding(boot, Judgement::Up, "initialized", Basis::Sourced);
        let module = log.module.map_or_else(String::new, |module| format!(", module {}", module.value));
        let kb = log.pamt_kb.map_or_else(String::new, |kb| format!(", {} KB of PAMT", kb.value));
        up.cause = format!("TDX is up{module}{kb}");
        "nothing; before a kexec see `cleanslate check`".clone_into(&mut up.remedy);
        findings.push(up);
    } else if log.failure.is_none() {
        findings.extend(not_ended(boot));
    }
    findings
}

/// A boot without an end of its bring-up.
fn not_ended(boot: &Boot) -> Option<LogFinding> {
    use Judgement::{Failed, Undecidable};
    let log = &boot.log;
    let mut found = if log.pamt_kb.is_some() || log.module.is_some() || !log.cmrs.is_empty() {
        let mut found = finding(boot, Undecidable, "log-ends-in-bring-up", Basis::Deduced);
        let last = if log.pamt_kb.is_some() { "PAMTs were allocated" } else { "the module answered" };
        found.cause = format!("{last}, and the log says no more: it was cut, or the bring-up failed without a word");
        "give the whole log: `dmesg`, or `journalctl -k -b`".clone_into(&mut found.remedy);
        found
    } else if let Some(option) = boot.misspelt.as_ref().filter(|_| boot.asked.is_none()) {
        let mut found = finding(boot, Failed, "option-misspelt", Basis::Deduced);
        found.evidence.push(option.clone());
        found.cause =
            format!("nobody asked for TDX: the command line has `{}`, which is no option of kvm_intel", option.text);
        "write `kvm_intel.tdx=1` on the kernel's command line".clone_into(&mut found.remedy);
        found
    } else if log.key_ids.is_some() {
        let mut found = finding(boot, Undecidable, "silent-after-keyids", Basis::Sourced);
        let asked = if boot.asked == Some(true) { ", KVM was asked for TDX" } else { "" };
        found.cause = format!(
            "the BIOS gave KeyIDs to TDX{asked}, and no line follows. Seen behind such a log: nobody asked for TDX (kernels before the bring-up \
             at boot need `kvm_intel.tdx=1`, and a misspelt option is passed over); SYS.LP.INIT failed on some CPU because SGX was off \
             in the BIOS; a BIOS that had to be set up again"
        );
        let remedy = "load KVM with `modprobe kvm_intel tdx=1` and read what it says; in the BIOS turn on TDX, its SEAM loader and SGX";
        remedy.clone_into(&mut found.remedy);
        found
    } else if !boot.tdx.is_empty() || !boot.kvm.is_empty() {
        let mut found = finding(boot, Undecidable, "no-known-line", Basis::Deduced);
        "the kernel speaks of TDX in lines that do not say how it ended".clone_into(&mut found.cause);
        "give the whole log: `dmesg`, or `journalctl -k -b`".clone_into(&mut found.remedy);
        found
    } else if !boot.encryption.is_empty() {
        let mut found = finding(boot, Undecidable, "encryption-only", Basis::Deduced);
        "memory encryption is on in the BIOS; no line says whether any of its KeyIDs are private, that is for TDX"
            .clone_into(&mut found.cause);
        "a kernel with TDX host code prints the private KeyID range; MSR 0x87 has it (`cleanslate explain --msr 0x87 VALUE`)"
            .clone_into(&mut found.remedy);
        found
    } else {
        return None;
    };
    found.evidence.extend(boot.kvm.iter().cloned());
    Some(found)
}

/// A boot in which the kernel says that something failed.
fn failed(boot: &Boot, failure: Failure) -> LogFinding {
    let (judgement, rule, basis, cause, remedy) = match failure {
        Failure::ReservedAreasExhausted(tdmr) => areas(tdmr),
        Failure::Seamcall(leaf, status) => seamcall(boot, leaf, status),
        Failure::Errno(errno) => errno_alone(errno),
        Failure::Words => words(boot),
    };
    let mut found = finding(boot, judgement, rule, basis);
    (found.cause, found.remedy) = (cause, remedy);
    found.evidence.extend(boot.kvm.iter().cloned());
    found
}

type Why = (Judgement, &'static str, Basis, String, String);

fn why(rule: &'static str, basis: Basis, cause: impl Into<String>, remedy: impl Into<String>) -> Why {
    (Judgement::Failed, rule, basis, cause.into(), remedy.into())
}

fn areas(tdmr: PageRange) -> Why {
    let cause = format!(
        "-28: the memory map has more holes in TDMR {tdmr} than the module's 16 reserved areas can name. Linux takes holes from the \
         e820 map, which is finer than the CMRs; the memory itself would do"
    );
    let remedy = format!(
        "a kernel that takes holes from the CMRs (a patch of distributions, not in mainline: the host of fixture 02 came up with it), or a \
         BIOS or setting that leaves fewer rows there; {SHOW_PLAN}"
    );
    why("reserved-areas-exhausted", Basis::Sourced, cause, remedy)
}

fn seamcall(boot: &Boot, leaf: Leaf, found: Status) -> Why {
    let report = status::explain(found, Given::Whole);
    let name = report.name.as_deref().unwrap_or("a status that is not known");
    match (leaf, found.code()) {
        (Leaf::SYS_RD, StatusCode::SYS_NOT_READY) => {
            let (module, basis) = match boot.log.module {
                Some(module) => {
                    (format!("the module is {}.{}", module.value.major, module.value.minor), Basis::Sourced)
                }
                None => ("the log does not show the module's version".to_owned(), Basis::Deduced),
            };
            let cause = format!(
                "-5: the module is too old for this kernel ({module}): a module of 1.5 answers TDH.SYS.RD before it is ready, one of 1.0 \
                 says {name}"
            );
            why("module-too-old", basis, cause, format!("update the TDX module to 1.5 or later: {UPDATE_BIOS}"))
        }
        (Leaf::SYS_INIT, StatusCode::SYS_INIT_NOT_PENDING) | (_, StatusCode::SYS_SHUTDOWN) => {
            let cause = format!(
                "{leaf} says {name}: a kernel before this one has used the module, and memory may still be private"
            );
            let remedy = "power cycle; for kexec without that, the old kernel must make TDH.SYS.DISABLE or reset its private memory";
            why("module-used-before", Basis::Sourced, cause, remedy)
        }
        (Leaf::SYS_INIT, StatusCode::INCORRECT_CPUID_VALUE) => {
            let cause =
                format!("{leaf} says {name}: module and CPU or microcode do not fit (so on a host with an old BIOS)");
            why("module-and-cpu", Basis::Sourced, cause, UPDATE_BIOS)
        }
        (_, StatusCode::INCORRECT_MSR_VALUE | StatusCode::INCONSISTENT_MSR) => {
            let number = tdx_host::platform::Msr(found.details());
            let register = msr::name(number).map_or_else(String::new, |name| format!(", {name}"));
            let cause = format!("{leaf} says {name}: {} (MSR {:#x}{register})", report.meaning, number.0);
            let hint = if number.0 == 0x122 { ": TSX, and `tsx=` on the kernel's command line" } else { "" };
            why("register-value", Basis::Unverified, cause, format!("{}{hint}; {UPDATE_BIOS}", report.todo))
        }
        _ => {
            let judgement = if report.known { Judgement::Failed } else { Judgement::Undecidable };
            let cause = format!("{leaf} says {found}: {}", report.meaning);
            (judgement, "seamcall-failed", Basis::Sourced, cause, report.todo)
        }
    }
}

fn errno_alone(errno: u32) -> Why {
    let known = match errno {
        28 => Some(("TDMRs or reserved areas did not suffice for the memory map", SHOW_PLAN)),
        12 => Some((
            "no memory was found for the PAMTs: each is one piece of 1/256 of its TDMR",
            "bring TDX up earlier, at boot",
        )),
        19 => Some((
            "there is no TDX module to talk to, or the BIOS did not turn SEAM on",
            "turn TDX and its SEAM loader on in the BIOS",
        )),
        _ => None,
    };
    if let Some((cause, remedy)) = known {
        return why("errno-alone", Basis::Deduced, format!("-{errno}: {cause}"), remedy);
    }
    let cause = format!("-{errno}, and the line with the cause is not in this log");
    let remedy = "give the whole log: the cause stands before this line".to_owned();
    (Judgement::Undecidable, "errno-alone", Basis::Deduced, cause, remedy)
}

/// Failures that the kernel puts in words.
fn words(boot: &Boot) -> Why {
    use Basis::{Deduced, Sourced};
    let text = boot.log.failure.as_ref().map_or("", |failure| failure.value.1.as_str());
    let has = |words: &str| text.contains(words);
    if has("not enabled by BIOS") {
        let cause = "SEAMCALL raised #GP: the BIOS gave KeyIDs to TDX, and did not turn SEAM on";
        return why(
            "seam-off",
            Sourced,
            cause,
            "turn on TDX and its SEAM loader in the BIOS, all of it, and power cycle",
        );
    }
    if has("module not loaded") || has("module is not loaded") {
        let cause = "SEAMCALL set the carry flag: the BIOS turned TDX on and loaded no TDX module, or the module died";
        let remedy = "turn on the SEAM loader in the BIOS (TDX alone is not enough) and power cycle; see that the BIOS has a module to load, or update it";
        return why("module-not-loaded", Sourced, cause, remedy);
    }
    if has("NO_RBP_MOD") {
        let cause = "the module may change RBP, which this kernel does not allow: TDX_FEATURES0 bit 18 is not set";
        return why("module-changes-rbp", Sourced, cause, format!("update the TDX module: {UPDATE_BIOS}"));
    }
    if has("too few private KeyIDs") {
        let cause = "TDX needs two private KeyIDs: one for the module and one for a TD";
        return why("too-few-keyids", Sourced, cause, "give TDX more KeyIDs in the BIOS");
    }
    if has("TDMRs exhausted") {
        let cause = "-28: the memory map needs more than 64 TDMRs";
        return why("tdmrs-exhausted", Sourced, cause, SHOW_PLAN);
    }
    let cause = "the kernel says so in words that are not known to this program";
    (
        Judgement::Undecidable,
        "words-not-known",
        Deduced,
        cause.to_owned(),
        "look the line up in the sources of that kernel".to_owned(),
    )
}

/// A finding with the TDX lines of the boot as evidence.
fn finding(boot: &Boot, judgement: Judgement, rule: &'static str, basis: Basis) -> LogFinding {
    let lines = if boot.tdx.is_empty() { &boot.encryption } else { &boot.tdx };
    let evidence: Vec<LogLine> = lines.iter().take(12).cloned().collect();
    LogFinding { topic: Topic::BringUp, judgement, rule, basis, evidence, cause: String::new(), remedy: String::new() }
}
