//! Firmware checks: TDX, memory encryption, KeyIDs, SEAM memory.

use tdx_abi::{KeyIdField, KeyIdPartition};
use tdx_host::platform::Msr;

use super::{Finding, Rule};
use crate::check::{
    facts::{Facts, Sure, Tdx},
    item::Item,
    msrs::{Reading, SEAMRR_BASE, SEAMRR_MASK, TME_CAPABILITY},
};
use crate::{cpu_model, report::Basis};

pub(super) const RULES: [Rule; 6] = [
    Rule { id: "firmware.bios", title: "Which BIOS is it?", source: "/sys/class/dmi/id", look: bios },
    Rule {
        id: "firmware.tdx",
        title: "Is TDX on?",
        source: "MSR 0x87 bits 63:32, as Linux reads it; the kernel's boot log",
        look: tdx,
    },
    Rule {
        id: "firmware.tme",
        title: "Is memory encryption (TME) on and locked?",
        source: "MSR 0x982: TDX module 1.5.01 requires the lock bit (bit 0); bits 35:32 are the number of KeyID bits",
        look: tme,
    },
    Rule {
        id: "firmware.keyids",
        title: "How are the KeyIDs split?",
        source: "MSR 0x87: shared KeyIDs in bits 31:0, private ones in bits 63:32",
        look: key_ids,
    },
    Rule {
        id: "firmware.seamrr",
        title: "Is there memory for the module (SEAMRR)?",
        source: "MSR 0x1400, 0x1401; bit 11 of 0x1401 as the enable bit is taken from a vendor's support script",
        look: seamrr,
    },
    Rule {
        id: "firmware.same",
        title: "Do these registers agree on all CPUs?",
        source: "TDX module 1.5.01 rejects a CPU that differs with INCONSISTENT_MSR",
        look: same,
    },
];

fn bios(facts: &Facts<'_>) -> Finding {
    match (facts.bios(), facts.snapshot.get(Item::BiosVersion)) {
        (Some(bios), _) => Finding::pass(bios).evidence(Item::BiosVersion.place()),
        (None, Err(why)) => {
            Finding::unknown(format!("{} {why}", Item::BiosVersion.place())).hint(Item::BiosVersion.how(why))
        }
        (None, Ok(_)) => Finding::unknown("the BIOS names no version, or one in a form that is not kept")
            .evidence(format!("{} as it was kept is empty", Item::BiosVersion.place()))
            .hint("see /sys/class/dmi/id/bios_version on the machine, or its BIOS setup"),
    }
}

/// How to see the registers.
fn msr_hint(facts: &Facts<'_>) -> &'static str {
    facts.msrs.as_ref().err().map_or("run on the machine itself", |why| Item::Msr.how(why))
}

fn tdx(facts: &Facts<'_>) -> Finding {
    match &facts.tdx {
        Tdx::On(None, from) => Finding::pass("on").evidence(*from),
        Tdx::On(Some((first, end)), from) => {
            let finding =
                Finding::pass(format!("enabled: private KeyIDs [{first}, {end})")).evidence(format!("from {from}"));
            let few = end.saturating_sub(*first) < 2;
            if few {
                Finding { status: crate::report::Status::Fail, ..finding }.hint(
                    "assign more KeyIDs to TDX \
                    in the BIOS",
                )
            } else {
                finding
            }
        }
        Tdx::Off(why, sure) => {
            let finding = Finding::pass(format!("no TDX: {}", why.trim_start_matches("no TDX: "))).basis(match sure {
                Sure::Seen => Basis::Sourced,
                Sure::Deduced => Basis::Deduced,
                Sure::Unverified => Basis::Unverified,
            });
            let finding = finding.evidence(match sure {
                Sure::Seen => "an MSR, the CPU vendor, or a kernel log line",
                Sure::Deduced => "CONFIG_INTEL_TDX_HOST=y and the complete boot log has no TDX line",
                Sure::Unverified => "the flags in /proc/cpuinfo",
            });
            let could = facts.cpus.as_ref().is_ok_and(|cpus| cpu_model::name(cpus.model).is_some());
            if could { finding.hint("this CPU model supports TDX: to use it, enable it in the BIOS") } else { finding }
        }
        Tdx::Broken(why) => Finding::fail(why.clone())
            .evidence("MSRs, or the kernel log line")
            .hint("redo the TDX setup in the BIOS, or disable TDX"),
        Tdx::Unknown => {
            Finding::unknown("neither MSR 0x87 nor the start of the boot log is available").hint(msr_hint(facts))
        }
    }
}

fn tme(facts: &Facts<'_>) -> Finding {
    let on = matches!(facts.tdx, Tdx::On(..));
    let finding = match facts.msrs.as_ref().ok().and_then(|msrs| msrs.get(Msr::TME_ACTIVATE)) {
        Some(Reading::Value(value)) => {
            let (locked, enabled) = (value & 1 != 0, value >> 1 & 1 != 0);
            let bits = KeyIdField::from_tme_activate(value).bits();
            let text = format!(
                "{}, {}, {bits} KeyID bits in an address",
                if enabled { "on" } else { "off" },
                if locked { "locked" } else { "not locked" }
            );
            let finding = if on && !locked {
                Finding::fail(text).hint(
                    "not locked, the module rejects it: IA32_TME_ACTIVATE must be \
                    locked by the BIOS (setup or update)",
                )
            } else if on && !enabled {
                Finding::warn(text).unverified().hint("enable memory encryption (TME, TME-MT) in the BIOS")
            } else {
                Finding::pass(text)
            };
            finding.evidence(format!("MSR 0x982 = {value:#x} (bit 1 as enable: unverified)"))
        }
        Some(Reading::Fault) => Finding::pass("not there").evidence("MSR 0x982 does not exist"),
        None if !facts.encryption.is_empty() => Finding::pass("the kernel found it"),
        None if facts.no_tdx() => Finding::pass("not available; irrelevant without TDX").evidence(facts.why_not()),
        None => Finding::unknown("MSR 0x982 was not seen").hint(msr_hint(facts)),
    };
    let capability = facts.msrs.as_ref().ok().and_then(|msrs| msrs.value(TME_CAPABILITY));
    let finding = facts.encryption.iter().fold(finding, |finding, line| finding.evidence(line.clone()));
    match capability {
        Some(value) => finding.evidence(format!("MSR 0x981 (capability) = {value:#x}")),
        None => finding,
    }
}

fn key_ids(facts: &Facts<'_>) -> Finding {
    let from_msr = facts.msrs.as_ref().ok().and_then(|msrs| msrs.value(Msr::MKTME_KEYID_PARTITIONING));
    let logged = facts.log.as_ref().ok().and_then(|log| log.key_ids).map(|key_ids| key_ids.value);
    let Some(partition) = from_msr.map(KeyIdPartition::from_msr).or(logged) else {
        return if facts.no_tdx() {
            Finding::pass("no private KeyIDs; TDX is not enabled").evidence(facts.why_not())
        } else {
            Finding::unknown("neither MSR 0x87 nor the kernel log line is available").hint(msr_hint(facts))
        };
    };
    let (shared, private) = (partition.shared(), partition.private());
    let text = match partition.first_private() {
        None => format!("{shared} shared, {private} private"),
        Some(global) => format!(
            "{shared} shared, {private} private [{global}, {}): {global} for the module, {} for TDs",
            partition.private_end(),
            private.saturating_sub(1)
        ),
    };
    let contradiction = from_msr.is_some() && logged.is_some_and(|logged| logged != partition);
    let finding = match private {
        1 => Finding::fail(format!("{text}: TDX needs two")).hint("assign more KeyIDs to TDX in the BIOS"),
        _ if contradiction => Finding::warn(format!("{text}; the boot log reports a different split")).deduced().hint(
            "check that the boot log is of this machine; if it is, the BIOS setup changed since boot: reset \
                the machine",
        ),
        _ => Finding::pass(text),
    };
    match from_msr {
        Some(value) => finding.evidence(format!("MSR 0x87 = {value:#x}")),
        None => finding.evidence("the kernel's boot log"),
    }
}

fn seamrr(facts: &Facts<'_>) -> Finding {
    let msrs = facts.msrs.as_ref().ok();
    let mask = msrs.and_then(|msrs| msrs.get(SEAMRR_MASK));
    let base = msrs.and_then(|msrs| msrs.value(SEAMRR_BASE));
    let finding = match mask {
        Some(Reading::Value(mask)) => {
            let on = mask >> 11 & 1 != 0;
            let finding = match (on, &facts.tdx) {
                (true, _) => Finding::pass("yes"),
                (false, Tdx::Off(..)) => Finding::pass("no; not needed without TDX"),
                (false, _) => Finding::warn("no: the BIOS reserved no memory, so no module can be loaded")
                    .hint("enable SEAM / TDX in the BIOS"),
            };
            finding.unverified().evidence(format!("MSR 0x1401 = {mask:#x}"))
        }
        Some(Reading::Fault) => Finding::pass("no such register").evidence("MSR 0x1401 does not exist"),
        None if facts.no_tdx() => Finding::pass("not available; irrelevant without TDX").evidence(facts.why_not()),
        None => Finding::unknown("MSR 0x1401 was not seen").hint(msr_hint(facts)),
    };
    match base {
        Some(base) => finding.evidence(format!("MSR 0x1400 = {base:#x}")),
        None => finding,
    }
}

fn same(facts: &Facts<'_>) -> Finding {
    let Ok(msrs) = &facts.msrs else {
        return if facts.no_tdx() {
            Finding::pass("not available; irrelevant without TDX").evidence(facts.why_not())
        } else {
            Finding::unknown("no MSR was seen").hint(msr_hint(facts))
        };
    };
    let differences = msrs.disagreements();
    let finding = match (differences.is_empty(), &facts.tdx) {
        (true, _) => Finding::pass("yes").evidence("all MSRs read, one value each"),
        (false, Tdx::Off(..)) => Finding::pass("no; irrelevant without TDX"),
        (false, _) => Finding::fail("no").hint("the BIOS must configure all CPUs alike: update it"),
    };
    differences.into_iter().fold(finding, Finding::evidence)
}
