//! The TDX module: did it come up, which is it, can it give all memory back, how much memory has
//! it.

use super::{Finding, Rule};
use crate::{
    bootlog,
    check::{
        facts::{Facts, Private},
        item::Item,
        kernel::Era,
        sys_disable::SysDisable,
    },
    explain::causes,
    host::{Host, HostOptions},
    plan, size,
};

pub(super) const RULES: [Rule; 4] = [
    Rule {
        id: "module.bring-up",
        title: "Did the kernel bring the module up?",
        source: "the kernel's boot log; at boot since v7.2, before that when KVM asks",
        look: bring_up,
    },
    Rule { id: "module.version", title: "Which module is it?", source: "the kernel's boot log", look: version },
    Rule {
        id: "module.sys-disable",
        title: "Is it known to give all memory back (TDH.SYS.DISABLE)?",
        source: "release notes of the TDX module to 1.5.34 and 2.0.14, read in October 2026",
        look: sys_disable,
    },
    Rule {
        id: "module.pamt",
        title: "How much memory is private even without a TD (PAMT)?",
        source: "the kernel's boot log; else the layout that Linux would make; else 0.391 % of memory",
        look: pamt,
    },
];

fn bring_up(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("no, and there is no TDX").evidence(facts.why_not());
    }
    if facts.no_host_code() {
        return Finding::pass("no: this kernel has no TDX host code").evidence(facts.why_not());
    }
    let log = match &facts.log {
        Ok(log) => log,
        Err(why) => {
            return Finding::unknown(format!("the kernel's boot log {why}")).hint(Item::BootLog.how(why));
        }
    };
    if let Some(line) = log.initialized {
        return Finding::pass("yes").evidence(format!("boot.log:{line}: module initialized"));
    }
    if let Some(failure) = &log.failure {
        let (kind, text) = &failure.value;
        let cause = causes::of(*kind, log.module.map(|module| module.value));
        let finding = Finding::fail(format!("no: {}", bootlog::message(text)))
            .evidence(format!("boot.log:{}: {text}", failure.line))
            .note(format!("`explain` by rule {}: {}", cause.rule, cause.text));
        return finding.hint(if facts.initialised_before().is_some() {
            "reset the machine through the firmware: see `kexec.left-over`".to_owned()
        } else {
            cause.remedy
        });
    }
    if let Some(later) = &log.later {
        let (_, _, text) = &later.value;
        return Finding::unknown(format!("a SEAMCALL of a later time failed: {}", bootlog::message(text)))
            .evidence(format!("boot.log:{}: {text}", later.line))
            .hint(
                "give the kernel's log from its beginning on; what the status means: `dmesg | cleanslate explain -`",
            );
    }
    if !facts.log_is_whole {
        return Finding::unknown("the boot log does not go back to the kernel's beginning")
            .hint("save the machine soon after it has booted, or take a larger log (`log_buf_len=`, unverified)");
    }
    match facts.era() {
        Some(Era::AsksModule | Era::Newer) => {
            Finding::warn("no: kernels since 7.2 do it at boot, and the log is silent")
                .deduced()
                .evidence("the boot log from its first line on")
                .hint("look at `kernel.hibernation` and at the whole kernel log")
        }
        _ => Finding::pass("not yet: this kernel does it when KVM asks for it")
            .deduced()
            .evidence("the boot log from its first line on"),
    }
}

fn version(facts: &Facts<'_>) -> Finding {
    let module = facts.log.as_ref().ok().and_then(|log| log.module);
    match module {
        Some(module) if (module.value.major, module.value.minor) < (1, 5) => Finding::warn(format!("{}", module.value))
            .evidence(format!("boot.log:{}", module.line))
            .deduced()
            .hint("update the BIOS or the module: bring-up with module 1.0 fails in the logs we have"),
        Some(module) => Finding::pass(module.value.to_string()).evidence(format!("boot.log:{}", module.line)),
        None if facts.no_tdx() => Finding::pass("none, without TDX").evidence(facts.why_not()),
        None if facts.no_host_code() => Finding::pass("this kernel asks no module").evidence(facts.why_not()),
        None => Finding::unknown("the boot log does not say")
            .hint("some kernels do not print it; the module's package or BIOS notes do"),
    }
}

fn sys_disable(facts: &Facts<'_>) -> Finding {
    const ASK: &str =
        "ask Intel for a module with TDH.SYS.DISABLE (leaf 69; TDX_FEATURES0 bit 53 by the draft of the specification)";
    if facts.no_tdx() {
        return Finding::pass("no module to ask").evidence(facts.why_not());
    }
    if facts.no_host_code() {
        return Finding::pass("this kernel asks no module").evidence(facts.why_not());
    }
    let log = facts.log.as_ref().ok();
    let unknown =
        |text: String| Finding::unknown(text).hint("look for TDH.SYS.DISABLE in the release notes of your module");
    match (facts.sys_disable(), log.and_then(|log| log.module)) {
        (Some(SysDisable::Refused), _) => {
            let line = log.and_then(|log| log.not_disabled.as_ref());
            let seen = line.map_or_else(String::new, |line| format!("boot.log:{}: {}", line.line, line.value.1));
            Finding::warn("no: the module does not know it, and says so").evidence(seen).hint(ASK)
        }
        (Some(SysDisable::NotNamed), Some(module)) => {
            let text =
                format!("no: the notes of the published releases up to this one do not name it ({})", module.value);
            Finding::warn(text).deduced().evidence(format!("boot.log:{}", module.line)).hint(ASK)
        }
        (Some(SysDisable::Newer), Some(module)) => {
            unknown(format!("module {} is newer than the release notes that are known here", module.value))
        }
        _ => unknown("the module's version was not seen, and no published release is known to have it".to_owned()),
    }
}

fn pamt(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("none, without TDX").evidence(facts.why_not());
    }
    if let Ok(log) = &facts.log
        && let Some(kb) = log.pamt_kb
    {
        let bytes = kb.value.saturating_mul(1024);
        let finding = Finding::pass(format!("{} KB ({})", kb.value, size::human(bytes)))
            .evidence(format!("boot.log:{}: allocated for PAMT", kb.line));
        return match log.dynamic_pamt {
            Some(line) => {
                finding.evidence(format!("boot.log:{line}: Dynamic PAMT")).note("two pages more for each 2 MiB in use")
            }
            None => finding,
        };
    }
    if let Private::No(why) = facts.private {
        return Finding::pass(format!("none: {why}")).evidence(facts.why_nothing_private());
    }
    let text = facts.snapshot.get(Item::BootLog).unwrap_or_default();
    let host = Host::from_reader(Item::BootLog.file(), text.as_bytes(), &HostOptions::default());
    if let Ok(host) = host
        && let Some(kb) =
            plan::plan(&host, tdx_host::layout::Algorithm::Linux, crate::cost::Rates::assumed(&host)).linux.pamt_kb
    {
        return Finding::pass(format!("{kb} KB ({}) once the module is up", size::human(kb.saturating_mul(1024))))
            .deduced()
            .evidence("the layout that Linux would make of the boot log's memory map");
    }
    let meminfo = facts.snapshot.get(Item::Meminfo).ok();
    let total = meminfo.and_then(|text| text.lines().find_map(|line| line.strip_prefix("MemTotal:")));
    let kb = total.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    match kb {
        // 4 MiB and 8 KiB for each GiB.
        Some(kb) => {
            let pamt = (u128::from(kb) * 4104) >> 20;
            Finding::pass(format!("about {pamt} KB once the module is up"))
                .deduced()
                .evidence(format!("MemTotal is {kb} kB, and PAMT takes 0.391 % of it"))
        }
        None => Finding::unknown("neither the kernel's line nor the size of memory was seen; it is 0.391 % of memory")
            .hint("save the machine again with `cleanslate collect`, as root"),
    }
}
