//! Kernel checks: version, options, features that conflict with TDX.

use super::{Finding, Rule, remedy};
use crate::bootlog::Words;
use crate::check::{
    facts::{Facts, Tdx},
    item::{Item, Unseen},
    kernel::Era,
};

pub(super) const RULES: [Rule; 6] = [
    Rule {
        id: "kernel.version",
        title: "Which kernel, and how does mainline of this version handle TDX and kexec?",
        source: "Linux sources and mailing lists, v6.8 to v7.3",
        look: version,
    },
    Rule {
        id: "kernel.tdx-host",
        title: "Has the kernel TDX host code?",
        source: "CONFIG_INTEL_TDX_HOST; in mainline since v6.8",
        look: tdx_host,
    },
    Rule {
        id: "kernel.kexec",
        title: "Can the kernel kexec?",
        source: "CONFIG_KEXEC, CONFIG_KEXEC_FILE; v6.8 to v6.17: INTEL_TDX_HOST depends on !KEXEC_CORE",
        look: kexec,
    },
    Rule {
        id: "kernel.crash-dump",
        title: "Can the kernel load a crash kernel and be one?",
        source: "CONFIG_CRASH_DUMP, CONFIG_PROC_VMCORE",
        look: crash_dump,
    },
    Rule {
        id: "kernel.hibernation",
        title: "Does hibernation support disable TDX?",
        source: "Linux tdx_init(): refuses TDX while hibernation is available",
        look: hibernation,
    },
    Rule {
        id: "kernel.s3",
        title: "Does suspend to memory (S3) conflict with TDX?",
        source: "kernel message `Disable ACPI S3`, printed when TDX is enabled in the BIOS",
        look: s3,
    },
];

fn version(facts: &Facts<'_>) -> Finding {
    let kernel = match &facts.kernel {
        Ok(kernel) => kernel,
        Err(why) => {
            return Finding::unknown(format!("{} {why}", Item::Osrelease.place())).hint(Item::Osrelease.how(why));
        }
    };
    let finding = match kernel.era() {
        Era::NoTdxHost => Finding::pass(format!("{}: no TDX host code in mainline", kernel.text)),
        Era::Excluded => Finding::pass(format!("{}: TDX host code or kexec, not both", kernel.text)),
        Era::Refused => Finding::pass(format!(
            "{}: with TDX enabled on a CPU with the erratum, kexec and crash images \
                are refused",
            kernel.text
        )),
        Era::AsksModule => Finding::pass(format!(
            "{}: calls TDH.SYS.DISABLE to release all memory and jumps regardless of its status",
            kernel.text
        )),
        Era::Newer if facts.no_tdx() => Finding::pass(format!("{}: newer than 7.3, the latest known", kernel.text)),
        Era::Newer => Finding::unknown(format!("{}: newer than 7.3, the latest known to this version", kernel.text))
            .hint("check for a newer cleanslate"),
    };
    finding.evidence(Item::Osrelease.place()).note("a distribution may differ from mainline")
}

fn config_hint(why: &Unseen) -> &'static str {
    Item::Config.how(why)
}

fn tdx_host(facts: &Facts<'_>) -> Finding {
    match &facts.config {
        Ok(config) => {
            let finding = match (config.has("INTEL_TDX_HOST"), &facts.tdx) {
                (true, _) => Finding::pass("yes"),
                (false, Tdx::Off(..)) => Finding::pass("no; not needed without TDX"),
                (false, _) => Finding::warn("no: TDX is enabled in the BIOS but this kernel cannot use it")
                    .hint("use a kernel with CONFIG_INTEL_TDX_HOST, or disable TDX in the BIOS"),
            };
            finding.evidence(config.say("INTEL_TDX_HOST"))
        }
        Err(_) if facts.tdx_line() => Finding::pass("yes").evidence("the boot log has lines from it").deduced(),
        Err(why) => {
            let finding = if facts.no_tdx() {
                Finding::pass("not available; irrelevant without TDX").evidence(facts.why_not())
            } else {
                Finding::unknown("the kernel configuration is not available")
            };
            finding.hint(config_hint(why))
        }
    }
}

fn kexec(facts: &Facts<'_>) -> Finding {
    let Ok(config) = &facts.config else {
        if facts.era() == Some(Era::Excluded) && facts.tdx_line() {
            return Finding::warn("no: it has TDX host code; in mainline of this version the two exclude each other")
                .deduced()
                .evidence("the boot log has lines from TDX host code")
                .hint("6.18 and later support both; see `kexec.jump`");
        }
        return unseen_option(facts);
    };
    let can = facts.has_kexec() == Some(true);
    let finding = match (can, facts.era()) {
        (true, _) => Finding::pass("yes"),
        (false, _) if facts.no_tdx() => Finding::pass("no"),
        (false, Some(Era::Excluded)) if config.has("INTEL_TDX_HOST") => {
            Finding::warn("no: it is built with TDX host code; in this version the two exclude each other")
                .hint("6.18 and later support both; see `kexec.jump`")
        }
        (false, _) => Finding::warn("no").hint(
            "for kexec use a kernel with CONFIG_KEXEC_FILE or CONFIG_KEXEC; otherwise reboot through the firmware",
        ),
    };
    finding.evidence(config.say("KEXEC")).evidence(config.say("KEXEC_FILE"))
}

/// For options of which a loaded image says nothing.
fn unseen_option(facts: &Facts<'_>) -> Finding {
    let finding = if facts.no_tdx() {
        Finding::pass("not available; irrelevant without TDX").evidence(facts.why_not())
    } else {
        Finding::unknown("the kernel configuration is not available")
    };
    match &facts.config {
        Err(why) => finding.hint(config_hint(why)),
        Ok(_) => finding,
    }
}

fn crash_dump(facts: &Facts<'_>) -> Finding {
    let Ok(config) = &facts.config else {
        return unseen_option(facts);
    };
    let can = config.has("CRASH_DUMP") && facts.has_kexec() == Some(true);
    let finding = if can {
        Finding::pass("yes")
    } else if facts.no_tdx() {
        Finding::pass("no")
    } else {
        Finding::warn("no: no dump after a panic").hint("use a kernel with CONFIG_CRASH_DUMP and CONFIG_KEXEC_FILE")
    };
    finding.evidence(config.say("CRASH_DUMP")).evidence(config.say("PROC_VMCORE"))
}

/// The kernel's own advice, and what it takes away where images are refused by the erratum.
fn nohibernate(facts: &Facts<'_>) -> String {
    if facts.era() == Some(Era::Refused) && facts.erratum() == Some(true) {
        format!("{NOHIBERNATE}; on this kernel and CPU that gives up kexec and kdump, see below")
    } else {
        NOHIBERNATE.to_owned()
    }
}

const NOHIBERNATE: &str = "add `nohibernate` to the kernel command line, or use a kernel without CONFIG_HIBERNATION";

fn hibernation(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("no TDX to keep away").evidence(facts.why_not());
    }
    if facts.no_host_code() {
        return Finding::pass("this kernel has no TDX host code").evidence(facts.why_not());
    }
    if let (Some(Words::Hibernation), Some(failure)) = (facts.said(), facts.failure()) {
        return Finding::fail("yes: the kernel disables TDX while hibernation is available, and logs it")
            .evidence(format!("boot.log:{}: {}", failure.line, failure.value.1))
            .hint(nohibernate(facts))
            .remedies(remedy::of_hibernation(facts));
    }
    if facts.log.as_ref().is_ok_and(|log| log.initialized.is_some()) {
        return Finding::pass("no: TDX came up").evidence("the boot log says `module initialized`");
    }
    if facts.cpus.as_ref().is_ok_and(|cpus| cpus.bug("tdx_pw_mce")) {
        return Finding::pass("no").evidence("the kernel reports bug `tdx_pw_mce`, which it sets after this check");
    }
    let words: Vec<&str> = facts.snapshot.get(Item::Cmdline).unwrap_or_default().split_whitespace().collect();
    if words.contains(&"nohibernate") {
        return Finding::pass("no: it is turned off").evidence("`nohibernate` on the kernel command line");
    }
    let disk = facts.snapshot.get(Item::PowerDisk);
    let available = match (facts.option("HIBERNATION"), disk) {
        (Some(false), _) => {
            return Finding::pass("no: the kernel cannot hibernate").evidence("CONFIG_HIBERNATION is off");
        }
        (_, Ok(disk)) if disk.contains("[disabled]") => {
            return Finding::pass("no: it is not available").evidence("/sys/power/disk says [disabled]").unverified();
        }
        (Some(true), _) => true,
        (None, Ok(disk)) => !disk.trim().is_empty(),
        (None, Err(_)) => false,
    };
    if available {
        Finding::fail("yes: the kernel disables TDX while hibernation is available")
            .evidence("the kernel is built with hibernation and it is not disabled")
            .deduced()
            .hint(nohibernate(facts))
            .remedies(remedy::of_hibernation(facts))
    } else {
        Finding::unknown("the kernel configuration is not available").hint(
            "provide the kernel \
            configuration: see `kernel.tdx-host`",
        )
    }
}

fn s3(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("TDX is not enabled").evidence(facts.why_not());
    }
    let deep = match facts.snapshot.get(Item::MemSleep) {
        Ok(text) => text.split_whitespace().any(|word| word.trim_matches(['[', ']']) == "deep"),
        Err(Unseen::Absent) => false,
        Err(why) => {
            return Finding::unknown(format!("{} {why}", Item::MemSleep.place())).hint(Item::MemSleep.how(why));
        }
    };
    let up = facts.log.as_ref().is_ok_and(|log| log.initialized.is_some());
    match (deep, up) {
        (false, _) => Finding::pass("no: it is not offered").evidence("no `deep` in /sys/power/mem_sleep"),
        (true, true) => Finding::warn(
            "TDX is initialized and S3 is offered: mainline disables S3, so this \
            is not a mainline kernel",
        )
        .deduced()
        .evidence("`deep` in /sys/power/mem_sleep")
        .hint("do not suspend this machine to memory"),
        (true, false) => Finding::warn("S3 is offered; Linux disables it when TDX is enabled")
            .evidence("`deep` in /sys/power/mem_sleep")
            .hint("do not rely on suspend to memory on this machine"),
    }
}
