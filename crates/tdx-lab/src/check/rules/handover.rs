//! What the next kernel finds: at a kexec, at a crash, and whether it can use TDX again. The behaviour is mainline's.

use super::{Finding, Rule};
use crate::check::{
    facts::{Facts, Private},
    item::{Item, Unseen},
    kernel::Era,
    sys_disable::{self, SysDisable},
};

pub(super) const RULES: [Rule; 6] = [
    Rule {
        id: "kexec.jump",
        title: "What does a kexec from this kernel do to the next one?",
        source: "Linux v6.8 to v7.3: Kconfig, the refusal in v6.18 to v7.1, tdx_sys_disable(); KeyID 0 has no integrity",
        look: jump,
    },
    Rule {
        id: "kexec.crash",
        title: "What does a panic leave to the crash kernel?",
        source: "Linux v6.18 to v7.3; the lists in 2025: the crash kernel stays in its own memory, and reads do not poison",
        look: crash,
    },
    Rule {
        id: "kexec.image",
        title: "Is an image loaded for a kexec?",
        source: "/sys/kernel/kexec_loaded",
        look: image,
    },
    Rule {
        id: "kexec.crash-image",
        title: "Is an image loaded for a crash?",
        source: "/sys/kernel/kexec_crash_loaded, /sys/kernel/kexec_crash_size",
        look: crash_image,
    },
    Rule {
        id: "kexec.tdx-again",
        title: "Can the next kernel use TDX?",
        source: "TDX module: SYS.INIT works once after a load; only TDH.SYS.DISABLE takes it back",
        look: tdx_again,
    },
    Rule {
        id: "kexec.left-over",
        title: "Has an earlier kernel left private memory to this one?",
        source: "TDX module 1.5.01: SYS.INIT works once, then answers SYS_INIT_NOT_PENDING; SYS_SHUTDOWN after a failed update",
        look: left_over,
    },
];

/// What happens when somebody wants to jump.
enum Way {
    /// Nothing is private.
    Harmless(&'static str),
    /// No image can be loaded: built without.
    NotBuilt,
    /// TDX host code and kexec together, where mainline has not.
    NotMainline,
    /// No image can be loaded: refused at run time.
    Refused,
    /// The CPU has no erratum.
    NoErratum,
    /// The module is asked, and is not known to have the call.
    NoAnswer,
    /// The module is asked, and it is not known what it has.
    PerhapsAnswer,
    /// Something that decides was not seen.
    Unseen(&'static str),
    /// A kernel that is not known here.
    Newer,
}

fn way(facts: &Facts<'_>) -> Way {
    if let Private::No(why) = facts.private {
        return Way::Harmless(why);
    }
    let Some(era) = facts.era() else { return Way::Unseen("the kernel's version") };
    let host_code = facts.option("INTEL_TDX_HOST").unwrap_or(facts.tdx_line());
    let no_kexec = match facts.has_kexec() {
        Some(has) => !has,
        None => era == Era::Excluded && host_code,
    };
    match (facts.erratum(), era) {
        _ if no_kexec => Way::NotBuilt,
        (Some(false), _) => Way::NoErratum,
        (_, Era::NoTdxHost | Era::Excluded) if host_code => Way::NotMainline,
        (_, Era::NoTdxHost | Era::Excluded) => Way::Unseen("the kernel's options"),
        (None, _) => Way::Unseen("the CPU model"),
        (Some(true), Era::Refused) => Way::Refused,
        (Some(true), Era::AsksModule) => match module(facts) {
            Some(SysDisable::NotNamed) => Way::NoAnswer,
            Some(SysDisable::Newer) | None => Way::PerhapsAnswer,
        },
        (Some(true), Era::Newer) => Way::Newer,
    }
}

fn module(facts: &Facts<'_>) -> Option<SysDisable> {
    facts.log.as_ref().ok().and_then(|log| log.module).map(|module| sys_disable::of(module.value))
}

/// What is private, as far as it is known.
fn how_much(facts: &Facts<'_>) -> String {
    let kb = facts.log.as_ref().ok().and_then(|log| log.pamt_kb);
    match (kb, &facts.private) {
        (Some(kb), _) => format!("{} KB of PAMT and the pages of every TD are private", kb.value),
        (None, Private::Yes) => "PAMT and the pages of every TD are private".to_owned(),
        (None, _) => "memory may be private: it was not seen whether the module is up".to_owned(),
    }
}

const NO_ANSWER: &str = "private memory stays private: this module is not known to have TDH.SYS.DISABLE, and the kernel jumps even if \
                         the module does not know the call. A partial write of the next kernel then ends in a machine check";
const PERHAPS: &str =
    "it depends on the module: with TDH.SYS.DISABLE all memory is given back, without it all stays private";
const CRASH: &str = "private memory; the crash kernel stays in its own and only reads, so a dump is likely to work";
const INSTEAD: &str = "reboot through the firmware instead of a kexec (`kexec -u` unloads an image), turn TDX off in the BIOS, or take a \
                       kernel that resets its private memory itself";

fn jump(facts: &Facts<'_>) -> Finding {
    match way(facts) {
        Way::Harmless(why) => harmless(facts, format!("nothing: {why}")),
        Way::NotBuilt if facts.era() == Some(Era::Excluded) => {
            Finding::warn("there is none: in this version TDX host code and kexec exclude each other at build time")
                .evidence(how_much(facts))
                .hint("reboot through the firmware")
        }
        Way::NotBuilt => {
            Finding::warn("there is none: this kernel is built without kexec").hint("reboot through the firmware")
        }
        Way::NotMainline => {
            Finding::unknown("this kernel has TDX host code and kexec, which mainline of its version has not")
                .evidence(how_much(facts))
                .hint(
                    "ask who built it what it does to private memory at kexec; until then reboot through the firmware",
                )
        }
        Way::Refused => Finding::warn("none can be loaded: the kernel answers EOPNOTSUPP (`Operation not supported`)")
            .evidence(how_much(facts))
            .hint("reboot through the firmware, or turn TDX off in the BIOS if kexec is worth more here"),
        Way::NoErratum => Finding::pass("nothing: without the erratum, left-over private memory is harmless")
            .evidence(how_much(facts)),
        Way::NoAnswer => Finding::fail(NO_ANSWER)
            .deduced()
            .evidence(how_much(facts))
            .note("mainline resets nothing then; the log gets one line")
            .hint(INSTEAD),
        Way::PerhapsAnswer => Finding::unknown(PERHAPS)
            .evidence(how_much(facts))
            .note("no published module is known to have the call")
            .hint(INSTEAD),
        Way::Unseen(what) => unseen(what),
        Way::Newer => newer(),
    }
}

/// Nothing is private: seen where there is no TDX, a conclusion where there is.
fn harmless(facts: &Facts<'_>, text: String) -> Finding {
    if facts.no_tdx() { Finding::pass(text) } else { Finding::pass(text).deduced() }
}

fn unseen(what: &str) -> Finding {
    Finding::unknown(format!("{what} was not seen")).hint("see what could not be seen, below")
}

fn newer() -> Finding {
    Finding::unknown("this kernel is newer than what is known here").hint("look for a newer cleanslate")
}

fn crash(facts: &Facts<'_>) -> Finding {
    let way = way(facts);
    if !matches!(way, Way::Harmless(_)) && facts.option("CRASH_DUMP") == Some(false) {
        return Finding::warn("a panic leaves no dump: this kernel is built without CONFIG_CRASH_DUMP")
            .hint("take a kernel with CONFIG_CRASH_DUMP; 6.8 to 6.17 cannot have it with TDX");
    }
    match way {
        Way::Harmless(why) => harmless(facts, format!("nothing that is private: {why}")),
        Way::NotBuilt => Finding::warn("a panic leaves no dump: this kernel is built without kexec")
            .hint("6.18 and later have both; a CPU with the erratum loads a crash image from 7.2 on"),
        Way::NotMainline => Finding::unknown("this kernel is not mainline's: ask who built it"),
        Way::Refused => Finding::warn("a panic leaves no dump: no crash image can be loaded (EOPNOTSUPP)")
            .hint("7.2 and later load one; or turn TDX off in the BIOS if dumps are worth more here"),
        Way::NoErratum => Finding::pass("private memory, which is harmless without the erratum"),
        Way::NoAnswer | Way::PerhapsAnswer => Finding::warn(CRASH)
            .note("a line that was poisoned before the panic still ends the dump in a machine check")
            .note("a large user reported two years of kdump on such hosts without trouble (2025, on the list)")
            .hint("let the crash kernel reboot through the firmware, never kexec to a full kernel"),
        Way::Unseen(what) => unseen(what),
        Way::Newer => newer(),
    }
}

/// `1` or `0` in a file of the kernel.
pub(super) fn flag(facts: &Facts<'_>, item: Item) -> Result<bool, Unseen> {
    match facts.snapshot.get(item).map_err(Clone::clone)?.trim() {
        "1" => Ok(true),
        "0" => Ok(false),
        other => Err(Unseen::Malformed(format!("`{}` is neither 0 nor 1", crate::input::excerpt(other)))),
    }
}

fn image(facts: &Facts<'_>) -> Finding {
    let finding = match (flag(facts, Item::KexecLoaded), way(facts)) {
        (Ok(false), _) => Finding::pass("no"),
        (Ok(true), Way::Harmless(_) | Way::NoErratum) => Finding::pass("yes"),
        (Ok(true), Way::NoAnswer) => {
            return Finding::fail("yes: who uses it finds what `kexec.jump` says")
                .deduced()
                .hint("`kexec -u` unloads it");
        }
        (Ok(true), Way::Refused) => {
            return Finding::warn("yes, though mainline of this version would have refused it: this kernel is another")
                .deduced()
                .hint("`kexec -u` unloads it");
        }
        (Ok(true), _) => return Finding::warn("yes: see `kexec.jump` before it is used").hint("`kexec -u` unloads it"),
        (Err(Unseen::Absent), _) => return Finding::pass("no: the kernel does not know of images"),
        (Err(why), _) => return Finding::unknown(format!("{} {why}", Item::KexecLoaded.place())),
    };
    finding.evidence(Item::KexecLoaded.place())
}

fn crash_image(facts: &Facts<'_>) -> Finding {
    let reserved = facts.snapshot.get(Item::CrashSize).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let finding = match (flag(facts, Item::CrashLoaded), way(facts)) {
        (Ok(true), Way::Refused) => {
            Finding::warn("yes, though mainline of this version would have refused it: this kernel is another")
                .deduced()
        }
        (Ok(true), _) => Finding::pass("yes"),
        (Ok(false), Way::Harmless(_)) => Finding::pass("no: a panic leaves no dump, which has nothing to do with TDX"),
        (Ok(false), Way::NotBuilt | Way::Refused) => Finding::pass("no, and none can be"),
        (Ok(false), _) => Finding::warn("no: a panic leaves no dump").hint(if reserved == Some(0) {
            "reserve memory with `crashkernel=` and load an image with `kexec -p`"
        } else {
            "load an image with `kexec -p`, or start the distribution's kdump service"
        }),
        (Err(Unseen::Absent), _) => Finding::pass("no: the kernel does not know of images"),
        (Err(why), _) => Finding::unknown(format!("{} {why}", Item::CrashLoaded.place())),
    };
    match reserved {
        Some(bytes) => finding.evidence(format!("{} are reserved for a crash kernel", crate::size::human(bytes))),
        None => finding,
    }
}

fn tdx_again(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("there is no TDX");
    }
    match (way(facts), facts.era(), module(facts)) {
        (Way::NotBuilt | Way::Refused, ..) => {
            Finding::pass("there is no kexec to the next kernel; after a reboot it can")
        }
        (Way::Harmless(_), ..) => Finding::pass("as well as this one").deduced(),
        (_, Some(Era::AsksModule), Some(SysDisable::NotNamed)) => {
            Finding::warn("no: the module cannot be taken back; TDX stays away until the machine is reset")
                .deduced()
                .hint("reboot through the firmware if the next kernel is to run TDs")
        }
        (_, Some(Era::AsksModule), _) => {
            Finding::unknown("if the module has TDH.SYS.DISABLE; see `module.sys-disable`")
        }
        (Way::NotMainline, ..) => Finding::unknown("this kernel is not mainline's: ask who built it"),
        (_, Some(_), _) => Finding::warn("no: this kernel does not take the module back at kexec")
            .deduced()
            .hint("reboot through the firmware if the next kernel is to run TDs"),
        (_, None, _) => Finding::unknown("the kernel's version was not seen"),
    }
}

fn left_over(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("there is no TDX");
    }
    if let Some(line) = facts.initialised_before() {
        let text = "yes: another kernel has initialised the module, and this one does not know which memory is private";
        let finding = match facts.erratum() {
            Some(false) => Finding::warn(format!("{text}; without the erratum that is harmless, but TDX stays away")),
            _ => Finding::fail(text),
        };
        return finding.deduced().evidence(format!("boot.log:{line}")).hint("reset the machine through the firmware");
    }
    let up = facts.log.as_ref().is_ok_and(|log| log.initialized.is_some());
    if up {
        return Finding::pass("no: the module was fresh when this kernel brought it up").deduced();
    }
    if facts.log.as_ref().is_ok_and(|log| log.failure.is_some()) {
        return Finding::pass("the module does not say so").deduced();
    }
    Finding::unknown("only bringing the module up shows it, and no bring-up was seen")
        .hint("if this kernel was started by a kexec from one with TDX, reset the machine through the firmware")
}
