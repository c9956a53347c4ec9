//! Why a bring-up failed, and what helps, for each form in which a kernel says so. `explain` and
//! `check` say the same. A cause that the form does not tell is said to be undecidable.
//!
//! Sources: `fixtures/INDEX.md` (real logs and what their owners found), `linux.md` sections 1.3 to
//! 1.5, `tdx_abi.md` section 4.

use tdx_abi::{Leaf, PageRange, Status, StatusCode};

use super::{errno, msr, status};
use crate::{
    bootlog::{Failure, ModuleVersion, Words},
    report::{Basis, Given, Judgement},
};

const UPDATE_BIOS: &str =
    "update the BIOS, which brings microcode and TDX module, or put a newer module where your BIOS loads it from";
pub(super) const SHOW_PLAN: &str = "`cleanslate plan --host FILE --layout linux` shows the TDMR";

/// A cause, by the rule that found it.
pub(crate) struct Cause {
    pub(crate) judgement: Judgement,
    pub(crate) rule: &'static str,
    pub(crate) basis: Basis,
    pub(crate) text: String,
    pub(crate) remedy: String,
}

fn why(rule: &'static str, basis: Basis, cause: impl Into<String>, remedy: impl Into<String>) -> Cause {
    Cause { judgement: Judgement::Failed, rule, basis, text: cause.into(), remedy: remedy.into() }
}

/// What stands behind a failure; `module` is the version that the log shows.
pub(crate) fn of(failure: Failure, module: Option<ModuleVersion>) -> Cause {
    match failure {
        Failure::ReservedAreasExhausted(tdmr) => areas(tdmr),
        Failure::Seamcall(leaf, status) => seamcall(leaf, status, module),
        Failure::Errno(errno) => errno_alone(errno),
        Failure::Words(words) => self::words(words),
    }
}

fn areas(tdmr: PageRange) -> Cause {
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

fn seamcall(leaf: Leaf, found: Status, module: Option<ModuleVersion>) -> Cause {
    let report = status::explain(found, Given::Whole);
    let name = report.name.as_deref().unwrap_or("a status that is not known");
    match (leaf, found.code()) {
        (Leaf::SYS_RD, StatusCode::SYS_NOT_READY) => {
            let (module, basis) = match module {
                Some(module) => (format!("the module is {}.{}", module.major, module.minor), Basis::Sourced),
                None => ("the log does not show the module's version".to_owned(), Basis::Deduced),
            };
            let cause = format!(
                "-5: the module is too old for this kernel ({module}): a module of 1.5 answers TDH.SYS.RD before it is ready, one of 1.0 \
                 says {name}"
            );
            why("module-too-old", basis, cause, format!("update the TDX module to 1.5 or later: {UPDATE_BIOS}"))
        }
        (Leaf::SYS_INIT, StatusCode::SYS_INIT_NOT_PENDING) => {
            let cause = format!(
                "{leaf} says {name}: the module is initialised already, by the kernel before this one (a kexec or a crash), and it can be \
                 initialised once. That kernel's PAMTs and the pages of its TDs may still be private"
            );
            why("module-used-before", Basis::Sourced, cause, USED)
        }
        (_, StatusCode::SYS_SHUTDOWN) => {
            let cause = format!(
                "{leaf} says {name}: a kernel before this one has shut the module down, and memory may still be private"
            );
            why("module-used-before", Basis::Sourced, cause, USED)
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
            Cause { judgement, rule: "seamcall-failed", basis: Basis::Sourced, text: cause, remedy: report.todo }
        }
    }
}

const USED: &str =
    "power cycle; for kexec without that, the old kernel must make TDH.SYS.DISABLE or reset its private memory";

fn errno_alone(number: u32) -> Cause {
    let known = errno::alone(number);
    if let Some((cause, remedy)) = known {
        return why("errno-alone", Basis::Deduced, format!("-{number}: {cause}"), remedy);
    }
    Cause {
        judgement: Judgement::Undecidable,
        rule: "errno-alone",
        basis: Basis::Deduced,
        text: format!("-{number}, and the line with the cause is not in this log"),
        remedy: format!(
            "give the whole log: the cause stands before this line; `cleanslate explain -- -{number}` says what it can be"
        ),
    }
}

/// Failures that the kernel puts in words.
pub(super) fn words(words: Words) -> Cause {
    use Basis::{Deduced, Sourced, Unverified};
    let needs = |rule, what: &str, clear: &str| {
        let cause = format!("this kernel brings TDX up only on a CPU with {what}, and finds none");
        let remedy = format!(
            "take `clearcpuid={clear}` off the kernel's command line if it is there (unverified); every CPU with TDX has it"
        );
        why(rule, Sourced, cause, remedy)
    };
    match words {
        Words::NoPlatform => why(
            "no-tdx-here",
            Sourced,
            "when it booted, the kernel found no TDX that it could use: the CPU has none, the BIOS gave it no private KeyIDs, or a reason \
             that stands before this line (hibernation)",
            "on a CPU with TDX, turn it on in the BIOS; elsewhere nothing is wrong",
        ),
        Words::TooFewKeyIds => why(
            "too-few-keyids",
            Sourced,
            "TDX needs two private KeyIDs: one for the module and one for a TD",
            "give TDX more KeyIDs in the BIOS",
        ),
        Words::Hibernation => why(
            "hibernation",
            Sourced,
            "the kernel refuses TDX while it could hibernate, because private memory does not survive that; the module was not asked",
            "put `nohibernate` on the kernel's command line, or take a kernel without CONFIG_HIBERNATION",
        ),
        Words::MemoryNotifier => why(
            "memory-notifier",
            Deduced,
            "the kernel could not register for memory that is added later, which it has no other cause for than a lack of memory at boot",
            "boot again; if it stays, look at what else failed before this line",
        ),
        Words::NotEnabled => why(
            "seam-off",
            Sourced,
            "SEAMCALL raised #GP: the BIOS gave KeyIDs to TDX, and did not turn SEAM on",
            "turn on TDX and its SEAM loader in the BIOS, all of it, and power cycle",
        ),
        Words::NotLoaded => why(
            "module-not-loaded",
            Sourced,
            "SEAMCALL set the carry flag: the BIOS turned TDX on and loaded no TDX module, or the module died",
            "turn on the SEAM loader in the BIOS (TDX alone is not enough) and power cycle; see that the BIOS has a module to load, or update it",
        ),
        Words::NotInVmx => why(
            "cpu-not-in-vmx",
            Sourced,
            "SEAMCALL raised #UD: the CPU that the line names has not entered VMX operation, or has left it; that is a fault of the kernel, or of \
             another hypervisor beside it",
            "take away what else uses VMX (out-of-tree hypervisors), load kvm_intel anew, and take a newer kernel if it stays",
        ),
        Words::Outdated => why(
            "module-and-cpu",
            Sourced,
            "TDH.SYS.INIT says TDX_INCORRECT_CPUID_VALUE, which this kernel takes for a module older than 1.0.3: module and CPU or microcode do \
             not fit",
            UPDATE_BIOS,
        ),
        Words::ChangesRbp => why(
            "module-changes-rbp",
            Sourced,
            "the module may change RBP, which this kernel does not allow: TDX_FEATURES0 bit 18 is not set",
            format!("update the TDX module: {UPDATE_BIOS}"),
        ),
        Words::TdmrsExhausted => {
            why("tdmrs-exhausted", Sourced, "-28: the memory map needs more than 64 TDMRs", SHOW_PLAN)
        }
        Words::NeedsXsave => needs("needs-xsave", "XSAVE, which the registers of a TD are saved by", "xsave"),
        Words::NeedsMovdir64b => {
            needs("needs-movdir64b", "MOVDIR64B, without which private memory cannot be made normal again", "movdir64b")
        }
        Words::NeedsSelfSnoop => {
            let mut cause = needs("needs-self-snoop", "self-snoop (the flag `ss`)", "ss");
            cause.basis = Unverified;
            cause
        }
        Words::Unknown => Cause {
            judgement: Judgement::Undecidable,
            rule: "words-not-known",
            basis: Deduced,
            text: "the kernel says so in words that are not known to this program".to_owned(),
            remedy: "look the line up in the sources of that kernel".to_owned(),
        },
    }
}
