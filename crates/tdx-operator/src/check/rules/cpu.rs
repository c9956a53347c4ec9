//! The processor: model, erratum, MOVDIR64B.

use super::{Finding, Rule};
use crate::{
    check::{
        facts::{Facts, Tdx},
        item::{Item, Unseen},
    },
    cpu_model,
};

pub(super) const RULES: [Rule; 3] = [
    Rule { id: "cpu.model", title: "Which processor is it?", source: "/proc/cpuinfo", look: model },
    Rule {
        id: "cpu.erratum",
        title: "Does a partial write to private memory poison it?",
        source: "Linux X86_BUG_TDX_PW_MCE, by model alone; erratum text: Intel document 772415",
        look: erratum,
    },
    Rule {
        id: "cpu.movdir64b",
        title: "Can private memory be made normal again (MOVDIR64B)?",
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
        Finding::warn(format!("{text}; not all are of the same model and stepping"))
            .unverified()
            .hint("look which package has another CPU (/proc/cpuinfo), and make them alike")
    } else {
        Finding::pass(text)
    };
    let finding = finding.evidence(format!("{} {}", cpus.vendor, cpus.name));
    if cpus.flag("hypervisor") == Some(true) {
        finding.evidence("flag `hypervisor`: this is a virtual machine, and its CPU is what the hypervisor shows")
    } else {
        finding
    }
}

fn erratum(facts: &Facts<'_>) -> Finding {
    let cpus = match &facts.cpus {
        Ok(cpus) => cpus,
        Err(why) => return unseen(format!("/proc/cpuinfo {why}, and the model decides"), why),
    };
    if !cpus.model.has_partial_write_erratum() {
        return Finding::pass(format!("no: {} is not a model with the erratum (06_8F, 06_CF)", cpus.model))
            .evidence(format!("vendor, family and model in {}", Item::Cpuinfo.place()));
    }
    let finding = if facts.no_tdx() {
        Finding::pass("it would, but without TDX there is no private memory")
    } else {
        Finding::warn(
            "yes: a write of less than 64 bytes to private memory raises a machine check, later and elsewhere",
        )
        .hint("keep the next kernel out of private memory: see `kexec.jump`")
    };
    let bug = if cpus.bug("tdx_pw_mce") { "notes" } else { "does not note" };
    finding.evidence(format!("{}; the kernel {bug} the bug `tdx_pw_mce`", cpus.model))
}

fn movdir64b(facts: &Facts<'_>) -> Finding {
    let flag = facts.cpus.as_ref().ok().and_then(|cpus| cpus.flag("movdir64b"));
    match (flag, &facts.tdx) {
        (Some(true), _) => Finding::pass("yes").evidence("flag `movdir64b`"),
        (Some(false), Tdx::Off(..)) => {
            Finding::pass("no, and without TDX nothing needs it").evidence("no flag `movdir64b`")
        }
        (Some(false), Tdx::On(..) | Tdx::Broken(_)) => {
            Finding::fail("no: Linux brings TDX up only with MOVDIR64B, and private memory could never be reset")
                .evidence("no flag `movdir64b`")
                .hint("take `clearcpuid=` off the kernel's command line if it is there; else turn TDX off in the BIOS")
        }
        (Some(false), Tdx::Unknown) => Finding::warn("no: with TDX on, private memory could never be reset")
            .evidence("no flag `movdir64b`")
            .hint("find out whether TDX is on: see `firmware.tdx`"),
        (None, _) => Finding::unknown("the CPU's flags were not seen").hint(match &facts.cpus {
            Err(why) => Item::Cpuinfo.how(why),
            Ok(_) => "save the machine again with `cleanslate collect`: its cpuinfo has no line of flags",
        }),
    }
}
