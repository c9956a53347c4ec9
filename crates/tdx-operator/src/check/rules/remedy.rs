//! What helps on each kernel, what it gives and what it costs.

use crate::{
    check::{
        cleanslate_ko::Ko,
        facts::{Facts, Private},
        kernel::Era,
    },
    report::Remedy,
};

/// Linux versions that cleanslate.ko knows (linux/README.md).
const KNOWN_TO_KO: [(u16, u16); 2] = [(6, 12), (7, 3)];

const FIRMWARE: Remedy = Remedy {
    what: "reboot through the firmware instead of a kexec",
    gives: "a clean machine, and the module can be initialized again",
    costs: "the time of the firmware, minutes with much memory; no dump of the old kernel",
};
const TDX_OFF: Remedy = Remedy {
    what: "disable TDX in the BIOS",
    gives: "kexec and kdump work, and nothing is private",
    costs: "no TDs on this host",
};
const KO_TRACKS: Remedy = Remedy {
    what: "load cleanslate.ko before TDX is initialized",
    gives: "private memory is reset right before the jump, at a kexec and at a crash",
    costs: "never tried on a CPU with TDX; the jump takes longer by the reset (`cleanslate plan` tells how long)",
};
const KO_HOST: Remedy = Remedy {
    what: "use a 6.12 kernel without CONFIG_INTEL_TDX_HOST and with kexec (Debian's), and load cleanslate.ko",
    gives: "kexec and kdump; cleanslate.ko initializes TDX itself and resets private memory",
    costs: "KVM of that kernel runs no TDs; never tried on a CPU with TDX",
};
const SEVEN_THREE: Remedy = Remedy {
    what: "use Linux 7.3 with cleanslate.ko",
    gives: "kexec and crash images can be loaded, TDs run, and private memory is reset",
    costs: "without cleanslate.ko a kexec leaves private memory behind, unless the module has TDH.SYS.DISABLE",
};
const DUMPS: Remedy = Remedy {
    what: "use Linux 7.2 or later for dumps",
    gives: "a crash image can be loaded: the crash kernel stays in its own memory and only reads the rest",
    costs: "a kexec then leaves private memory behind unless the module has TDH.SYS.DISABLE",
};
const HIBERNATION: Remedy = Remedy {
    what: "remove `nohibernate` from the kernel command line, where the kernel has CONFIG_HIBERNATION",
    gives: "the kernel then leaves TDX off and loads kexec and crash images, without a change in the BIOS",
    costs: "no TDs; TDX is off with this boot only",
};
const UNLOAD: Remedy = Remedy {
    what: "`kexec -u` unloads the image",
    gives: "no reboot jumps into it by mistake",
    costs: "the fast reboot",
};

/// What helps where a kexec is refused or leaves private memory behind.
pub(super) fn at_kexec(facts: &Facts<'_>) -> Vec<Remedy> {
    let mut out = vec![FIRMWARE];
    match facts.era() {
        Some(Era::NoTdxHost | Era::Excluded) => {
            out.extend(knows_this(facts, (6, 12)).then_some(KO_HOST));
            out.push(SEVEN_THREE);
        }
        Some(Era::Refused) => {
            out.push(SEVEN_THREE);
            out.extend(hibernation(facts));
        }
        Some(Era::AsksModule | Era::Newer) => {
            let known = KNOWN_TO_KO.iter().any(|version| knows_this(facts, *version));
            let loaded = !matches!(facts.ko, Ko::NotThere);
            match (known, loaded) {
                (true, false) => out.push(KO_TRACKS),
                (false, false) => out.push(SEVEN_THREE),
                (_, true) => {}
            }
        }
        None => {}
    }
    out.push(TDX_OFF);
    out
}

/// The same with an image loaded that leaves private memory behind.
pub(super) fn of_loaded_image() -> Vec<Remedy> {
    vec![UNLOAD]
}

/// What helps where there is no dump.
pub(super) fn at_crash(facts: &Facts<'_>) -> Vec<Remedy> {
    let mut out = Vec::new();
    match facts.era() {
        Some(Era::NoTdxHost | Era::Excluded) => {
            out.extend(knows_this(facts, (6, 12)).then_some(KO_HOST));
            out.push(DUMPS);
        }
        Some(Era::Refused) => {
            out.push(DUMPS);
            out.extend(hibernation(facts));
        }
        _ => {}
    }
    out.push(TDX_OFF);
    out
}

/// The two ways out of hibernation against TDX.
pub(super) fn of_hibernation(facts: &Facts<'_>) -> Vec<Remedy> {
    let costs = match (facts.era(), facts.erratum()) {
        (Some(Era::Refused), Some(true)) => {
            "hibernation, and kexec and kdump: with TDX enabled this kernel loads no image on this CPU"
        }
        (Some(Era::Refused), None) => "hibernation; on a CPU with the partial-write erratum also kexec and kdump",
        (Some(Era::AsksModule | Era::Newer), Some(true) | None) => {
            "hibernation; a kexec then leaves private memory behind unless the module has TDH.SYS.DISABLE or \
             cleanslate.ko is loaded"
        }
        _ => "hibernation",
    };
    vec![
        Remedy { what: "add `nohibernate` to the kernel command line", gives: "TDX comes up", costs },
        Remedy {
            what: "leave it as it is, and disable TDX in the BIOS",
            gives: "hibernation, kexec and kdump",
            costs: "no TDs on this host",
        },
    ]
}

/// Without hibernation in the way the CPU's erratum is noted, and no image is loaded.
fn hibernation(facts: &Facts<'_>) -> Option<Remedy> {
    let could = facts.option("HIBERNATION") == Some(true) && facts.private != Private::No("there is no TDX here");
    could.then_some(HIBERNATION)
}

fn knows_this(facts: &Facts<'_>, version: (u16, u16)) -> bool {
    facts.kernel.as_ref().is_ok_and(|kernel| kernel.is(version))
}
