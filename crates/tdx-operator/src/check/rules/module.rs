//! TDX module checks: is it initialized, its version, TDH.SYS.DISABLE, memory it uses.

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
        title: "Did the kernel initialize the TDX module?",
        source: "kernel boot log; at boot since v7.2, before that on request of KVM",
        look: bring_up,
    },
    Rule { id: "module.version", title: "Which module is it?", source: "the kernel's boot log", look: version },
    Rule {
        id: "module.sys-disable",
        title: "Does the module implement TDH.SYS.DISABLE?",
        source: "release notes of the TDX module to 1.5.34 and 2.0.14, read in October 2026",
        look: sys_disable,
    },
    Rule {
        id: "module.pamt",
        title: "How much memory do the PAMTs take?",
        source: "kernel boot log, else the layout Linux computes, else 0.391 % of memory",
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
        return finding.hint(if facts.initialized_before().is_some() {
            "reset the machine through the firmware: see `kexec.left-over`".to_owned()
        } else {
            cause.remedy
        });
    }
    if let Some(later) = &log.later {
        let (_, _, text) = &later.value;
        return Finding::unknown(format!("a later SEAMCALL failed: {}", bootlog::message(text)))
            .evidence(format!("boot.log:{}: {text}", later.line))
            .hint("provide the complete kernel log; to decode the status: `dmesg | cleanslate explain -`");
    }
    if !facts.log_is_whole {
        return Finding::unknown("the start of the boot log is missing")
            .hint("save the log where the journal still has it, `journalctl -k -b > FILE`, and run `cleanslate check --log FILE`");
    }
    match facts.era() {
        Some(Era::AsksModule | Era::Newer) => {
            Finding::warn("no: kernels since 7.2 initialize it at boot and the log has no such line")
                .deduced()
                .evidence("the complete boot log")
                .hint("check `kernel.hibernation` and the complete kernel log")
        }
        _ => Finding::pass("not yet: this kernel initializes it on request of KVM")
            .deduced()
            .evidence("the complete boot log"),
    }
}

fn version(facts: &Facts<'_>) -> Finding {
    let module = facts.log.as_ref().ok().and_then(|log| log.module);
    match module {
        Some(module) if (module.value.major, module.value.minor) < (1, 5) => Finding::warn(format!("{}", module.value))
            .evidence(format!("boot.log:{}", module.line))
            .deduced()
            .hint("update the BIOS or the module: initialization with module 1.0 fails in the logs available to us"),
        Some(module) => Finding::pass(module.value.to_string()).evidence(format!("boot.log:{}", module.line)),
        None if facts.no_tdx() => Finding::pass("none, without TDX").evidence(facts.why_not()),
        None if facts.no_host_code() => Finding::pass("not used by this kernel").evidence(facts.why_not()),
        None => Finding::unknown("the boot log does not say")
            .hint("some kernels do not print it; see the module package or BIOS release notes"),
    }
}

fn sys_disable(facts: &Facts<'_>) -> Finding {
    const ASK: &str =
        "ask Intel for a module with TDH.SYS.DISABLE (leaf 69; TDX_FEATURES0 bit 53 in the draft specification)";
    if facts.no_tdx() {
        return Finding::pass("no module to ask").evidence(facts.why_not());
    }
    if facts.no_host_code() {
        return Finding::pass("not used by this kernel").evidence(facts.why_not());
    }
    let log = facts.log.as_ref().ok();
    let unknown =
        |text: String| Finding::unknown(text).hint("look for TDH.SYS.DISABLE in the release notes of your module");
    match (facts.sys_disable(), log.and_then(|log| log.module)) {
        (Some(SysDisable::Refused), _) => {
            let line = log.and_then(|log| log.not_disabled.as_ref());
            let seen = line.map_or_else(String::new, |line| format!("boot.log:{}: {}", line.line, line.value.1));
            Finding::warn("no: the module returned that it does not implement the leaf").evidence(seen).hint(ASK)
        }
        (Some(SysDisable::NotNamed), Some(module)) => {
            let text =
                format!("no: not named in the release notes of published modules up to this one ({})", module.value);
            Finding::warn(text).deduced().evidence(format!("boot.log:{}", module.line)).hint(ASK)
        }
        (Some(SysDisable::Newer), Some(module)) => {
            unknown(format!("module {} is newer than the release notes known to this version", module.value))
        }
        _ => unknown(
            "the module version is not available, and no published release is known to implement \
            it"
            .to_owned(),
        ),
    }
}

/// MemTotal.
pub(in crate::check) fn mem_total_kb(facts: &Facts<'_>) -> Option<u64> {
    let text = facts.snapshot.get(Item::Meminfo).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.trim().parse().ok()
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
            Some(line) => finding.evidence(format!("boot.log:{line}: Dynamic PAMT")).note(
                "plus two pages for each 2 \
                    MiB in use",
            ),
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
            plan::plan(&host, crate::layout::LayoutName::Linux, crate::cost::Rates::assumed(&host)).linux.pamt_kb
    {
        return Finding::pass(format!(
            "{kb} KB ({}) once the module is initialized",
            size::human(kb.saturating_mul(1024))
        ))
        .deduced()
        .evidence("the layout Linux computes from the boot log's memory map");
    }
    match mem_total_kb(facts) {
        // 4 MiB and 8 KiB for each GiB.
        Some(kb) => {
            let pamt = (u128::from(kb) * 4104) >> 20;
            Finding::pass(format!("about {pamt} KB once the module is initialized"))
                .deduced()
                .evidence(format!("MemTotal is {kb} kB, and PAMT takes 0.391 % of it"))
        }
        None => Finding::unknown(
            "neither the kernel log line nor the memory size is available; PAMTs take \
            0.391 % of memory",
        )
        .hint("collect the machine again with `cleanslate collect` as root"),
    }
}
