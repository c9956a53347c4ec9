//! CPU checks: model, erratum, MOVDIR64B.

use super::{Finding, Rule};
use crate::{
    check::{
        facts::{Facts, Private, Tdx},
        item::{Item, Unseen},
    },
    cpu_model,
};

pub(super) const RULES: [Rule; 4] = [
    Rule { id: "cpu.model", title: "Which processor is it?", source: "/proc/cpuinfo", look: model },
    Rule {
        id: "cpu.microcode",
        title: "Which microcode, and the same on all CPUs?",
        source: "/proc/cpuinfo",
        look: microcode,
    },
    Rule {
        id: "cpu.erratum",
        title: "Is the CPU affected by the partial-write erratum?",
        source: "Linux X86_BUG_TDX_PW_MCE, set by CPU model; erratum text: Intel document 772415",
        look: erratum,
    },
    Rule {
        id: "cpu.movdir64b",
        title: "Can private memory be reset (MOVDIR64B)?",
        source: "Linux arch/x86/virt/vmx/tdx: MOVDIR64B is required",
        look: movdir64b,
    },
];

fn unseen(text: String, why: &Unseen) -> Finding {
    Finding::unknown(text).hint(Item::Cpuinfo.how(why))
}

fn model(facts: &Facts<'_>) -> Finding {
    let cpus = match &facts.cpus {
        Ok(cpus) => cpus,
        Err(why) => return unseen(format!("/proc/cpuinfo {why}"), why),
    };
    let known = if cpus.model.intel { cpu_model::name(cpus.model) } else { None };
    let name = known.map(|name| format!("{name}, ")).unwrap_or_default();
    let packages = if cpus.packages == 1 { "1 package".to_owned() } else { format!("{} packages", cpus.packages) };
    let text = format!("{name}{}, {packages}, {} CPUs", cpus.model, cpus.count);
    let finding = if cpus.mixed {
        Finding::warn(format!("{text}; CPUs differ in model or stepping"))
            .unverified()
            .hint("find the package with a different CPU in /proc/cpuinfo; all packages must have the same CPU")
    } else {
        Finding::pass(text)
    };
    let finding = finding.evidence(format!("{} {}", cpus.vendor, cpus.name));
    if cpus.flag("hypervisor") == Some(true) {
        finding.evidence("flag `hypervisor`: this is a virtual machine; the CPU model is what the hypervisor reports")
    } else {
        finding
    }
}

fn microcode(facts: &Facts<'_>) -> Finding {
    let cpus = match &facts.cpus {
        Ok(cpus) => cpus,
        Err(why) => return unseen(format!("/proc/cpuinfo {why}"), why),
    };
    let Some(revisions) = cpus.revisions() else {
        return Finding::unknown("/proc/cpuinfo does not name a revision")
            .hint("collect the machine again: older versions of `cleanslate collect` did not save it");
    };
    let finding = if cpus.microcode.len() > 1 {
        Finding::warn(format!("{revisions}: the CPUs do not have the same revision"))
            .unverified()
            .hint("load the same microcode on all CPUs: update the BIOS and the microcode package, then reboot")
    } else {
        Finding::pass(revisions)
    };
    finding.evidence(format!("`microcode` in {}", Item::Cpuinfo.place()))
}

fn erratum(facts: &Facts<'_>) -> Finding {
    let cpus = match &facts.cpus {
        Ok(cpus) => cpus,
        Err(why) => return unseen(format!("/proc/cpuinfo {why}; the erratum depends on the CPU model"), why),
    };
    if !cpus.model.has_partial_write_erratum() {
        return Finding::pass(format!("no: {} does not have the erratum (affected: 06_8F, 06_CF)", cpus.model))
            .evidence(format!("vendor, family and model in {}", Item::Cpuinfo.place()));
    }
    let finding = if facts.no_tdx() {
        Finding::pass("yes, but irrelevant: TDX is not enabled, there is no private memory")
    } else if let Private::No(why) = facts.private {
        Finding::pass(format!("yes, but irrelevant now: {why}")).deduced()
    } else {
        Finding::warn(
            "yes: a write of less than 64 bytes to private memory poisons the line; a later read raises a \
                machine check",
        )
        .hint("see `kexec.jump`: reset private memory before the next kernel uses it")
    };
    let bug = if cpus.bug("tdx_pw_mce") { "notes" } else { "does not note" };
    finding.evidence(format!("{}; the kernel {bug} bug `tdx_pw_mce`", cpus.model))
}

fn movdir64b(facts: &Facts<'_>) -> Finding {
    let flag = facts.cpus.as_ref().ok().and_then(|cpus| cpus.flag("movdir64b"));
    match (flag, &facts.tdx) {
        (Some(true), _) => Finding::pass("yes").evidence("flag `movdir64b`"),
        (Some(false), Tdx::Off(..)) => Finding::pass("no; not needed without TDX").evidence("no flag `movdir64b`"),
        (Some(false), Tdx::On(..) | Tdx::Broken(_)) => Finding::fail(
            "no: Linux does not initialize TDX without MOVDIR64B, because private memory \
                could not be reset",
        )
        .evidence("no flag `movdir64b`")
        .hint(
            "remove `clearcpuid=` from the kernel command line if present, otherwise disable TDX \
                    in the BIOS",
        ),
        (Some(false), Tdx::Unknown) => Finding::warn("no: with TDX enabled, private memory could not be reset")
            .evidence("no flag `movdir64b`")
            .hint("determine whether TDX is enabled: see `firmware.tdx`"),
        (None, _) => Finding::unknown("the CPU's flags were not seen").hint(match &facts.cpus {
            Err(why) => Item::Cpuinfo.how(why),
            Ok(_) => "collect the machine again with `cleanslate collect`: its cpuinfo has no `flags` line",
        }),
    }
}
