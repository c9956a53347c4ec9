//! What helps on each kernel, what it gives and what it costs.

use super::way::{Way, way};
use crate::{
    check::{cleanslate_ko::Ko, facts::Facts, item::Item, kernel::Era},
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
const NO_HOST: Remedy = Remedy {
    what: "use a kernel without CONFIG_INTEL_TDX_HOST and with kexec",
    gives: "kexec and kdump work, and nothing is private: that kernel does not use TDX",
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
    out.extend(another_kernel(facts, SEVEN_THREE));
    if matches!(facts.era(), Some(Era::AsksModule | Era::Newer)) && matches!(facts.ko, Ko::NotThere) {
        let known = KNOWN_TO_KO.iter().any(|version| knows_this(facts, *version));
        out.push(if known { KO_TRACKS } else { SEVEN_THREE });
    }
    out.extend(without_tdx(facts));
    out
}

/// Another kernel, or another start of this one, where this one loads no image; `newer` is the
/// newer kernel.
fn another_kernel(facts: &Facts<'_>, newer: Remedy) -> Vec<Remedy> {
    match facts.era() {
        Some(Era::NoTdxHost | Era::Excluded) => {
            knows_this(facts, (6, 12)).then_some(KO_HOST).into_iter().chain([newer]).collect()
        }
        Some(Era::Refused) => [newer].into_iter().chain(hibernation(facts)).collect(),
        Some(Era::AsksModule | Era::Newer) | None => Vec::new(),
    }
}

/// Without TDX kexec and kdump work, unless the kernel is built without them.
fn without_tdx(facts: &Facts<'_>) -> Option<Remedy> {
    match way(facts) {
        Way::NotBuilt if facts.era() == Some(Era::Excluded) => Some(NO_HOST),
        Way::NotBuilt => None,
        _ => Some(TDX_OFF),
    }
}

/// The same with an image loaded that leaves private memory behind.
pub(super) fn of_loaded_image() -> Vec<Remedy> {
    vec![UNLOAD]
}

/// What helps where there is no dump.
pub(super) fn at_crash(facts: &Facts<'_>) -> Vec<Remedy> {
    let mut out = another_kernel(facts, DUMPS);
    out.extend(without_tdx(facts).filter(|_| facts.option("CRASH_DUMP") != Some(false)));
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
            gives: if facts.has_kexec() == Some(false) { "hibernation" } else { "hibernation, kexec and kdump" },
            costs: "no TDs on this host",
        },
    ]
}

/// A kernel that can hibernate leaves TDX off at boot and does not note the CPU's erratum, so that
/// it loads images. `nohibernate` must be what keeps it from that: a lock-down of the kernel does,
/// too.
fn hibernation(facts: &Facts<'_>) -> Option<Remedy> {
    let words = facts.snapshot.get(Item::Cmdline);
    let asked = words.map_or(true, |words| words.split_whitespace().any(|word| word == "nohibernate"));
    let could = facts.option("HIBERNATION") == Some(true) && facts.has_kexec() != Some(false);
    (asked && could && !facts.no_tdx()).then_some(HIBERNATION)
}

fn knows_this(facts: &Facts<'_>, version: (u16, u16)) -> bool {
    facts.kernel.as_ref().is_ok_and(|kernel| kernel.is(version))
}
