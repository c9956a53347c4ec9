//! Whether the data agree with each other: a log of another boot or machine, a flag that the CPU
//! model cannot have, an image without memory for it.

use super::{Finding, Rule};
use crate::bootlog::{ByteRange, E820Map, Failure};
use crate::check::{
    facts::{Facts, Tdx},
    item::Item,
    keep,
};

pub(super) const RULES: [Rule; 1] = [Rule {
    id: "data.agree",
    title: "Do the data agree with each other?",
    source: "boot log, /proc/cpuinfo, kernel options, /sys/kernel compared; MSR 0x87 and log: see firmware.keyids",
    look: agree,
}];

/// Each contradiction in words, and the number of comparisons that could be made.
fn contradictions(facts: &Facts<'_>) -> (Vec<String>, usize) {
    let mut out = Vec::new();
    let mut compared = 0;
    let mut compare = |can: bool, differ: bool, text: &dyn Fn() -> String| {
        compared += usize::from(can);
        if can && differ {
            out.push(text());
        }
    };
    let cpus = facts.cpus.as_ref().ok();
    let log = facts.log.as_ref().ok();
    let logged = log.and_then(|log| log.kernel.as_ref()).map(|at| at.value.as_str());
    let release = facts.kernel.as_ref().ok().map(|kernel| kernel.text.as_str());
    if let (Some(logged), Some(release)) = (logged, release) {
        // One of them may have been saved with words left out.
        compare(true, keep::release(logged) != keep::release(release), &|| {
            format!("the boot log is of Linux {logged}, {} says {release}", Item::Osrelease.place())
        });
    }
    if let (Some(cpus), Some(model)) = (cpus, log.and_then(|log| log.cpu)) {
        let same = |a: tdx_host::platform::CpuModel| (a.family, a.model);
        compare(true, same(model.value) != same(cpus.model), &|| {
            format!("the boot log names CPU {}, /proc/cpuinfo {}", model.value, cpus.model)
        });
    }
    // CPUs that did not come up at boot (`maxcpus=`) may have been turned on later.
    if let (Some(cpus), Some(there)) = (cpus, log.and_then(|log| log.allowed_cpus)) {
        compare(true, cpus.count > there.value, &|| {
            format!("{} CPUs in /proc/cpuinfo, {} are there by the boot log", cpus.count, there.value)
        });
    }
    if let Some(cpus) = cpus {
        let bug = cpus.bug("tdx_pw_mce");
        compare(true, bug && !cpus.model.has_partial_write_erratum(), &|| {
            format!("bug `tdx_pw_mce` on CPU {}, which does not have the erratum", cpus.model)
        });
        compare(true, bug && matches!(facts.tdx, Tdx::Off(..)), &|| {
            "bug `tdx_pw_mce`, which the kernel notes only with TDX enabled, on a machine without TDX".to_owned()
        });
        let up = log.is_some_and(|log| log.initialized.is_some());
        compare(up, !cpus.model.intel, &|| {
            format!("TDX came up by the boot log, and CPU {} of /proc/cpuinfo has no TDX", cpus.model)
        });
        compare(up, cpus.flag("movdir64b") == Some(false), &|| {
            "TDX came up by the boot log, but the CPU has no flag `movdir64b`, which Linux requires".to_owned()
        });
    }
    let failed_after = log.and_then(|log| {
        let (up, failed) = (log.initialized?, log.failure.as_ref()?);
        let of_bring_up = matches!(failed.value.0, Failure::Errno(_) | Failure::ReservedAreasExhausted(_));
        (of_bring_up && failed.line > up).then_some((up, failed.line))
    });
    compare(failed_after.is_some(), true, &|| {
        let (up, failed) = failed_after.unwrap_or_default();
        format!("the boot log says that TDX came up (line {up}), then that its initialization failed (line {failed})")
    });
    compare(facts.config.is_ok(), facts.tdx_line() && facts.option("INTEL_TDX_HOST") == Some(false), &|| {
        "the boot log has lines of TDX host code, but CONFIG_INTEL_TDX_HOST is off".to_owned()
    });
    let loaded = |item| super::handover::flag(facts, item).ok() == Some(true);
    let any = loaded(Item::KexecLoaded) || loaded(Item::CrashLoaded);
    compare(facts.config.is_ok(), any && facts.has_kexec() == Some(false), &|| {
        "an image is loaded, but the kernel is built without kexec".to_owned()
    });
    let on = matches!(facts.tdx, Tdx::On(..) | Tdx::Broken(_));
    compare(facts.log_of_a_guest && facts.tdx != Tdx::Unknown, on, &|| {
        "the boot log is that of a TD (a guest), and registers or flags show TDX of a host".to_owned()
    });
    let refused = super::way::said_refused(facts);
    compare(refused.is_some() && facts.erratum().is_some(), facts.erratum() == Some(false), &|| {
        "the kernel refused a kexec image for the erratum, which this CPU does not have".to_owned()
    });
    let size = facts.snapshot.get(Item::CrashSize).ok().map(str::trim);
    compare(size.is_some(), size == Some("0") && loaded(Item::CrashLoaded), &|| {
        "a crash image is loaded, but no memory is reserved for it".to_owned()
    });
    let words = facts.snapshot.get(Item::Cmdline).ok();
    let off = words.is_some_and(|words| words.split_whitespace().any(|word| word == "nohibernate"));
    compare(words.is_some(), off && facts.said() == Some(crate::bootlog::Words::Hibernation), &|| {
        "`nohibernate` is on the kernel command line, but the boot log says that hibernation is enabled".to_owned()
    });
    if let (Some(total), Some(most)) = (super::module::mem_total_kb(facts), most_kb(facts)) {
        compare(true, total > most, &|| {
            format!(
                "MemTotal is {total} kB, the memory map of the boot log has {most} kB (memory was added, or another machine)"
            )
        });
    }
    (out, compared)
}

/// The most memory that there can be by the log: every row of the firmware's map, because
/// soft-reserved and persistent memory can be turned on later, or the affinity table, which has
/// room for more.
fn most_kb(facts: &Facts<'_>) -> Option<u64> {
    let log = facts.log.as_ref().ok().filter(|_| facts.log_is_whole)?;
    let rows = log.e820.iter().map(|row| row.value).filter(|row| row.map == E820Map::Bios);
    let sum = |ranges: &mut dyn Iterator<Item = ByteRange>| {
        ranges.map(|range| range.end.get() - range.start.get()).try_fold(0_u64, u64::checked_add)
    };
    let map = sum(&mut rows.map(|row| row.range))?;
    let affinity = sum(&mut log.srat.iter().map(|row| row.value.range))?;
    (map > 0).then_some(map.max(affinity) >> 10)
}

fn agree(facts: &Facts<'_>) -> Finding {
    let (contradictions, compared) = contradictions(facts);
    if compared == 0 {
        return Finding::unknown("nothing to compare").hint("see the missing data below");
    }
    if contradictions.is_empty() {
        return Finding::pass("yes").evidence(crate::words::count(compared as u64, "comparison"));
    }
    let finding = Finding::warn(format!(
        "no: {}. Answers that rest on one of them may be wrong",
        crate::words::count(contradictions.len() as u64, "contradiction")
    ));
    contradictions.into_iter().fold(finding, Finding::evidence).hint(
        "check that all files are of the same machine and boot, and collect it again; with `--log`, give the log of \
            this boot",
    )
}
