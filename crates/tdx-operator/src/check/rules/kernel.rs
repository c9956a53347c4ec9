//! The kernel: its version, its options, and what TDX cannot be had together with.

use super::{Finding, Rule};
use crate::bootlog::Words;
use crate::check::{
    facts::{Facts, Tdx},
    item::{Item, Unseen},
    kernel::Era,
};

pub(super) const RULES: [Rule; 6] = [
    Rule {
        id: "kernel.version",
        title: "Which kernel is it, and what does mainline of this version do about TDX and kexec?",
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
        title: "Can the kernel be a crash kernel, and load one?",
        source: "CONFIG_CRASH_DUMP, CONFIG_PROC_VMCORE",
        look: crash_dump,
    },
    Rule {
        id: "kernel.hibernation",
        title: "Does hibernation keep TDX away?",
        source: "Linux tdx_init(): refuses TDX while hibernation is available",
        look: hibernation,
    },
    Rule {
        id: "kernel.s3",
        title: "Does suspend to memory (S3) get in the way?",
        source: "the kernel's line `Disable ACPI S3`, printed when the BIOS has turned TDX on",
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
        Era::Excluded => Finding::pass(format!("{}: a kernel has TDX host code or kexec, not both", kernel.text)),
        Era::Refused => {
            Finding::pass(format!("{}: with TDX on, a CPU with the erratum loads no kexec or crash image", kernel.text))
        }
        Era::AsksModule => Finding::pass(format!(
            "{}: asks the module to give all memory back (TDH.SYS.DISABLE) and jumps, whatever it answers",
            kernel.text
        )),
        Era::Newer if facts.no_tdx() => {
            Finding::pass(format!("{}: newer than 7.3, the last that is known", kernel.text))
        }
        Era::Newer => Finding::unknown(format!("{}: newer than 7.3, the last that is known here", kernel.text))
            .hint("look for a newer cleanslate"),
    };
    finding.evidence(Item::Osrelease.place()).note("a distributor may have changed what mainline does")
}

fn config_hint(why: &Unseen) -> &'static str {
    Item::Config.how(why)
}

fn tdx_host(facts: &Facts<'_>) -> Finding {
    match &facts.config {
        Ok(config) => {
            let finding = match (config.has("INTEL_TDX_HOST"), &facts.tdx) {
                (true, _) => Finding::pass("yes"),
                (false, Tdx::Off(..)) => Finding::pass("no, and without TDX none is needed"),
                (false, _) => Finding::warn("no: TDX is on in the BIOS, and this kernel cannot use it")
                    .hint("take a kernel with CONFIG_INTEL_TDX_HOST, or turn TDX off in the BIOS"),
            };
            finding.evidence(config.say("INTEL_TDX_HOST"))
        }
        Err(_) if facts.tdx_line() => Finding::pass("yes").evidence("the boot log has lines of it").deduced(),
        Err(why) => {
            let finding = if facts.no_tdx() {
                Finding::pass("not seen, and without TDX of no account").evidence(facts.why_not())
            } else {
                Finding::unknown("the kernel's options were not seen")
            };
            finding.hint(config_hint(why))
        }
    }
}

fn kexec(facts: &Facts<'_>) -> Finding {
    let Ok(config) = &facts.config else {
        if facts.era() == Some(Era::Excluded) && facts.tdx_line() {
            return Finding::warn(
                "no: it has TDX host code, and in mainline of this version the two exclude each other",
            )
            .deduced()
            .evidence("the boot log has lines of TDX host code")
            .hint("6.18 and later are built with both; see `kexec.jump` for what they do");
        }
        return unseen_option(facts);
    };
    let can = facts.has_kexec() == Some(true);
    let finding = match (can, facts.era()) {
        (true, _) => Finding::pass("yes"),
        (false, _) if facts.no_tdx() => Finding::pass("no"),
        (false, Some(Era::Excluded)) if config.has("INTEL_TDX_HOST") => {
            Finding::warn("no: it is built with TDX host code, and in this version the two exclude each other")
                .hint("6.18 and later are built with both; see `kexec.jump` for what they do")
        }
        (false, _) => Finding::warn("no").hint(
            "to kexec, take a kernel with CONFIG_KEXEC_FILE or CONFIG_KEXEC; without, reboot through the firmware",
        ),
    };
    finding.evidence(config.say("KEXEC")).evidence(config.say("KEXEC_FILE"))
}

/// For options of which a loaded image says nothing.
fn unseen_option(facts: &Facts<'_>) -> Finding {
    let finding = if facts.no_tdx() {
        Finding::pass("not seen, and without TDX of no account").evidence(facts.why_not())
    } else {
        Finding::unknown("the kernel's options were not seen")
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
        Finding::warn("no: a panic leaves no dump").hint("take a kernel with CONFIG_CRASH_DUMP and CONFIG_KEXEC_FILE")
    };
    finding.evidence(config.say("CRASH_DUMP")).evidence(config.say("PROC_VMCORE"))
}

const NOHIBERNATE: &str = "put `nohibernate` on the kernel's command line, or take a kernel without CONFIG_HIBERNATION";

fn hibernation(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("no TDX to keep away").evidence(facts.why_not());
    }
    if facts.no_host_code() {
        return Finding::pass("this kernel has no TDX host code to keep away").evidence(facts.why_not());
    }
    if let (Some(Words::Hibernation), Some(failure)) = (facts.said(), facts.failure()) {
        return Finding::fail("yes: the kernel refuses TDX while it could hibernate, and says so")
            .evidence(format!("boot.log:{}: {}", failure.line, failure.value.1))
            .hint(NOHIBERNATE);
    }
    if facts.log.as_ref().is_ok_and(|log| log.initialized.is_some()) {
        return Finding::pass("no: TDX came up").evidence("the boot log says `module initialized`");
    }
    if facts.cpus.as_ref().is_ok_and(|cpus| cpus.bug("tdx_pw_mce")) {
        return Finding::pass("no")
            .evidence("the kernel notes the bug `tdx_pw_mce`, which it does after it has looked at this");
    }
    let words: Vec<&str> = facts.snapshot.get(Item::Cmdline).unwrap_or_default().split_whitespace().collect();
    if words.contains(&"nohibernate") {
        return Finding::pass("no: it is turned off").evidence("`nohibernate` on the kernel's command line");
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
        Finding::fail("yes: the kernel refuses TDX while it could hibernate")
            .evidence("the kernel is built with hibernation, and it is not turned off")
            .deduced()
            .hint(NOHIBERNATE)
    } else {
        Finding::unknown("the kernel's options were not seen").hint("show the options: see `kernel.tdx-host`")
    }
}

fn s3(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("no TDX to get in the way of").evidence(facts.why_not());
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
        (true, true) => Finding::warn("TDX is up and S3 is offered: Linux turns it off, so this is no mainline kernel")
            .deduced()
            .evidence("`deep` in /sys/power/mem_sleep")
            .hint("do not suspend this machine to memory"),
        (true, false) => Finding::warn("S3 is offered; Linux turns it off once it finds TDX on")
            .evidence("`deep` in /sys/power/mem_sleep")
            .hint("do not rely on suspend to memory on this machine"),
    }
}
