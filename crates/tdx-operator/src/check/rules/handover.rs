//! Handover checks: what the next kernel finds after a kexec and after a crash, and whether it can
//! use TDX again. The behavior is that of mainline.

use super::{
    Finding, Rule, remedy,
    way::{Outcome, Way, outcome, said_refused, way},
};
use crate::{
    bootlog,
    check::{
        cleanslate_ko::{Host, Ko},
        facts::{Facts, Private, SysInit},
        item::{Item, Unseen},
        kernel::Era,
        sys_disable::SysDisable,
    },
};

pub(super) const RULES: [Rule; 8] = [
    Rule {
        id: "kexec.jump",
        title: "What happens to the next kernel after a kexec?",
        source: "Linux v6.8 to v7.3: Kconfig, the refusal in v6.18 to v7.1, tdx_sys_disable(); KeyID 0 has \
            no integrity",
        look: jump,
    },
    Rule {
        id: "kexec.crash",
        title: "What does the crash kernel find after a panic?",
        source: "Linux v6.18 to v7.3; the lists in 2025: the crash kernel stays in its own memory, and \
            reads do not poison",
        look: crash,
    },
    Rule {
        id: "kexec.cleanslate",
        title: "Does cleanslate.ko reset private memory?",
        source: "/sys/kernel/cleanslate/mode, /sys/module/cleanslate/parameters/policy; linux/cleanslate.4",
        look: cleanslate,
    },
    Rule { id: "kexec.image", title: "Is a kexec image loaded?", source: "/sys/kernel/kexec_loaded", look: image },
    Rule {
        id: "kexec.crash-image",
        title: "Is a crash image loaded?",
        source: "/sys/kernel/kexec_crash_loaded, /sys/kernel/kexec_crash_size",
        look: crash_image,
    },
    Rule {
        id: "kexec.tdx-again",
        title: "Can the next kernel use TDX?",
        source: "TDX module: SYS.INIT succeeds once per module load; only TDH.SYS.DISABLE reverts it",
        look: tdx_again,
    },
    Rule {
        id: "kexec.left-over",
        title: "Did an earlier kernel leave private memory behind?",
        source: "TDX module 1.5.01: SYS.INIT works once, then answers SYS_INIT_NOT_PENDING; SYS_SHUTDOWN \
            after a failed update",
        look: left_over,
    },
    super::since_boot::RULE,
];

/// What is private, as far as it is known.
fn how_much(facts: &Facts<'_>) -> String {
    let kb = facts.log.as_ref().ok().and_then(|log| log.pamt_kb);
    match (kb, &facts.private) {
        (_, Private::No(why)) => format!("nothing is private now: {why}"),
        (Some(kb), _) => format!("{} KB of PAMT and the pages of every TD are private", kb.value),
        (None, Private::Yes) => "PAMT and the pages of every TD are private".to_owned(),
        (None, _) => "memory may be private: the state of the module is not known".to_owned(),
    }
}

const NO_ANSWER: &str = "private memory stays private: this module is not known to have TDH.SYS.DISABLE, \
    and the kernel jumps even if \
                         the module does not know the call. A partial write of the next kernel then ends \
                         in a machine check";
const PERHAPS: &str =
    "depends on the module: with TDH.SYS.DISABLE all memory is released, without it all private memory stays private";
const CRASH: &str = "private memory; the crash kernel runs in its reserved memory and only reads the rest, \
    so a dump is likely to work";
const INSTEAD: &str = "reboot through the firmware instead of a kexec (`kexec -u` unloads an image), turn \
    TDX off in the BIOS, or load \
                       cleanslate.ko, which resets private memory itself (package cleanslate-dkms, where \
                       it knows the kernel)";
const NOT_TRIED: &str = "cleanslate.ko was tested with an emulated module only, never on a CPU with TDX";
const SET_POLICY: &str = "as root: `echo tracked > /sys/module/cleanslate/parameters/policy`";

fn jump(facts: &Facts<'_>) -> Finding {
    let finding = jump_of(facts);
    finding.remedies(if outcome(facts) == Outcome::Safe { Vec::new() } else { remedy::at_kexec(facts) })
}

fn jump_of(facts: &Facts<'_>) -> Finding {
    match way(facts) {
        Way::Harmless(why) => harmless(facts, format!("nothing: {why}")),
        Way::NotBuilt if facts.era() == Some(Era::Excluded) => {
            Finding::warn("no kexec: in this version TDX host code and kexec exclude each other at build time")
                .evidence(how_much(facts))
                .hint("reboot through the firmware")
        }
        Way::NotBuilt => Finding::warn("no kexec: this kernel is built without it")
            .evidence(how_much(facts))
            .hint("reboot through the firmware"),
        Way::NotMainline => {
            Finding::unknown("this kernel has both TDX host code and kexec, unlike mainline of the same version")
                .evidence(how_much(facts))
                .hint(
                    "ask the kernel's vendor how it handles private memory at kexec; until then reboot \
                        through the firmware",
                )
        }
        Way::Refused => Finding::warn(
            "no image can be loaded: the kernel returns EOPNOTSUPP (`Operation \
            not supported`)",
        )
        .evidences(said_refused(facts))
        .evidence(how_much(facts))
        .note("the refusal depends on the CPU erratum flag set at boot, not on the state of the module")
        .hint("reboot through the firmware, or disable TDX in the BIOS if kexec is required"),
        Way::NoErratum => {
            Finding::pass("nothing: without the erratum, leftover private memory is harmless").evidence(how_much(facts))
        }
        Way::Reset => Finding::pass(
            "nothing: cleanslate.ko resets all memory that may be private right \
            before the jump",
        )
        .deduced()
        .evidence(ko_seen(facts))
        .note(NOT_TRIED),
        Way::ResetInPart => Finding::unknown(
            "a call failed, and cleanslate.ko is not known to have been loaded before it: what the call left \
             private may stay private",
        )
        .evidence(ko_seen(facts))
        .hint("reboot through the firmware instead of a kexec, and load cleanslate.ko before TDs run"),
        Way::RefusedByKo => Finding::warn(
            "no image while memory may be private: cleanslate.ko refuses it \
            (policy `refuse`)",
        )
        .evidence(ko_seen(facts))
        .hint(SET_POLICY),
        Way::KoLost(why) => {
            Finding::warn(format!("no image can be loaded: cleanslate.ko lost track of private memory ({why})"))
                .evidence(ko_seen(facts))
                .hint("reboot through the firmware and load cleanslate.ko before TDX is initialized")
        }
        Way::KoLeaves => Finding::warn(
            "if cleanslate.ko has brought TDX up, private memory stays private: its policy is to reset \
                nothing, and a partial write of the \
             next kernel ends in a machine check",
        )
        .deduced()
        .evidence(ko_seen(facts))
        .hint(SET_POLICY),
        Way::NoAnswer => Finding::fail(NO_ANSWER)
            .deduced()
            .evidence(how_much(facts))
            .note("mainline then resets nothing and prints one log line")
            .hint(INSTEAD),
        Way::PerhapsAnswer => Finding::unknown(PERHAPS)
            .evidence(how_much(facts))
            .note("no published module is known to implement the call")
            .hint(INSTEAD),
        Way::Unseen(what) => unseen(what),
        Way::Newer => newer(),
    }
}

/// Nothing is private: seen where there is no TDX, a conclusion where there is.
fn harmless(facts: &Facts<'_>, text: String) -> Finding {
    let finding = Finding::pass(text).evidence(facts.why_nothing_private());
    if facts.no_tdx() { finding } else { finding.deduced() }
}

fn unseen(what: &str) -> Finding {
    Finding::unknown(format!("{what} was not seen")).hint("see the missing data below")
}

fn newer() -> Finding {
    Finding::unknown("this kernel is newer than this version of cleanslate knows").hint(
        "check for a newer \
        cleanslate",
    )
}

fn not_mainline() -> Finding {
    Finding::unknown("this kernel is not mainline: ask its vendor").hint("see `kexec.jump`")
}

/// What cleanslate.ko says of itself.
fn ko_seen(facts: &Facts<'_>) -> String {
    let said = |item| facts.snapshot.get(item).map_or_else(|_| "?".to_owned(), crate::input::excerpt);
    format!("cleanslate.ko: mode `{}`, policy `{}`", said(Item::KoMode), said(Item::KoPolicy))
}

fn crash(facts: &Facts<'_>) -> Finding {
    let finding = crash_of(facts);
    let helps = match way(facts) {
        Way::NotBuilt | Way::Refused => remedy::at_crash(facts),
        _ => Vec::new(),
    };
    finding.remedies(helps)
}

fn crash_of(facts: &Facts<'_>) -> Finding {
    let way = way(facts);
    if !matches!(way, Way::Harmless(_)) && facts.option("CRASH_DUMP") == Some(false) {
        return Finding::warn("no dump: this kernel is built without CONFIG_CRASH_DUMP")
            .evidence("CONFIG_CRASH_DUMP is off")
            .hint("use a kernel with CONFIG_CRASH_DUMP; 6.8 to 6.17 cannot have it together with TDX");
    }
    match way {
        Way::Harmless(why) => harmless(facts, format!("no private memory: {why}")),
        Way::NotBuilt => Finding::warn("no dump: this kernel is built without kexec")
            .evidence(how_much(facts))
            .hint("6.18 and later have both; on a CPU with the erratum a crash image can be loaded since 7.2"),
        Way::NotMainline => not_mainline(),
        Way::Refused => Finding::warn("no dump: no crash image can be loaded (EOPNOTSUPP)")
            .evidences(said_refused(facts))
            .evidence(how_much(facts))
            .hint("use 7.2 or later, or disable TDX in the BIOS if dumps are required"),
        Way::NoErratum => Finding::pass("private memory; harmless without the erratum").evidence(how_much(facts)),
        // The policy to refuse is for a kexec: at a crash it resets as well.
        Way::Reset | Way::RefusedByKo => {
            Finding::pass("no private memory: cleanslate.ko resets it before the crash kernel starts")
                .deduced()
                .evidence(ko_seen(facts))
                .note(NOT_TRIED)
        }
        Way::ResetInPart | Way::KoLost(_) | Way::KoLeaves | Way::NoAnswer | Way::PerhapsAnswer => Finding::warn(CRASH)
            .evidence(how_much(facts))
            .note("a line that was poisoned before the panic still ends the dump in a machine check")
            .note("a large user reported two years of kdump on such hosts without problems (mailing list, 2025)")
            .hint("let the crash kernel reboot through the firmware; do not kexec from it to a full kernel"),
        Way::Unseen(what) => unseen(what),
        Way::Newer => newer(),
    }
}

fn cleanslate(facts: &Facts<'_>) -> Finding {
    let of_use = facts.erratum() != Some(false) && !facts.no_tdx();
    match &facts.ko {
        Ko::NotThere if of_use => Finding::pass("no: not loaded; see above for what the kernel itself does")
            .evidence(format!("no {}", Item::KoMode.place())),
        Ko::NotThere => Finding::pass("no; there is nothing to reset").evidence(format!("no {}", Item::KoMode.place())),
        Ko::Unseen(why) => Finding::unknown(why.clone()).hint("run as root, or use a newer cleanslate"),
        Ko::Resets(Host::Kernel) => {
            Finding::pass("yes: it tracks the kernel's TDX use and resets private memory at kexec and at a crash")
                .deduced()
                .evidence(ko_seen(facts))
                .note(NOT_TRIED)
        }
        Ko::Resets(Host::Module) => Finding::pass(
            "yes: it is itself the TDX host once enabled, and resets private memory at kexec \
                and at a crash",
        )
        .deduced()
        .evidence(ko_seen(facts))
        .note(NOT_TRIED),
        Ko::Refuses(_) => {
            Finding::warn("at a crash only: policy `refuse` refuses kexec images while memory may be private")
                .evidence(ko_seen(facts))
                .hint(SET_POLICY)
        }
        Ko::Leaves(_) => Finding::warn("no: it is loaded with a policy that resets nothing")
            .evidence(ko_seen(facts))
            .hint(SET_POLICY),
        Ko::NothingToReset => Finding::pass("nothing to reset: the kernel's own TDX initialization failed")
            .deduced()
            .evidence(ko_seen(facts)),
        Ko::Lost(why) => Finding::warn(format!("it lost track of private memory ({why}) and refuses kexec images"))
            .evidence(ko_seen(facts))
            .note("crash images are accepted; memory known to be private is reset")
            .hint("reboot through the firmware and load it before TDX is initialized"),
    }
}

/// Whether a panic gives a dump: an image can be loaded, and one is. `None` if that was not seen.
pub(super) fn can_dump(facts: &Facts<'_>) -> Option<bool> {
    let harmless = matches!(way(facts), Way::Harmless(_));
    match way(facts) {
        Way::NotBuilt => return Some(false),
        Way::NotMainline | Way::Unseen(_) | Way::Newer => return None,
        _ if !harmless && facts.option("CRASH_DUMP") == Some(false) => return Some(false),
        _ => {}
    }
    match flag(facts, Item::CrashLoaded) {
        Ok(loaded) => Some(loaded),
        Err(Unseen::Absent) => Some(false),
        Err(_) => None,
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

const UNLOAD: &str = "`kexec -u` unloads it";

fn image(facts: &Facts<'_>) -> Finding {
    let place = Item::KexecLoaded.place();
    let loaded = match flag(facts, Item::KexecLoaded) {
        Ok(loaded) => loaded,
        Err(Unseen::Absent) => {
            return Finding::pass("no: the kernel has no kexec support").evidence(format!("no {place}"));
        }
        Err(why) => return Finding::unknown(format!("{place} {why}")).hint(Item::KexecLoaded.how(&why)),
    };
    let finding = match (loaded, way(facts)) {
        (false, _) => Finding::pass("no"),
        (true, Way::Harmless(_) | Way::NoErratum | Way::Reset) => Finding::pass("yes"),
        (true, Way::NoAnswer) => Finding::fail("yes: see `kexec.jump` for its effect")
            .deduced()
            .hint(UNLOAD)
            .remedies(remedy::of_loaded_image()),
        (true, Way::Refused) => {
            Finding::warn("yes, although mainline of this version refuses it: this is not a mainline kernel")
                .deduced()
                .hint(UNLOAD)
        }
        (true, _) => Finding::warn("yes: read `kexec.jump` before using it").hint(UNLOAD),
    };
    finding.evidence(format!("{place} is {}", u8::from(loaded)))
}

fn crash_image(facts: &Facts<'_>) -> Finding {
    let place = Item::CrashLoaded.place();
    let reserved = facts.snapshot.get(Item::CrashSize).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let loaded = match flag(facts, Item::CrashLoaded) {
        Ok(loaded) => loaded,
        Err(Unseen::Absent) => {
            return Finding::pass("no: the kernel has no kexec support").evidence(format!("no {place}"));
        }
        Err(why) => return Finding::unknown(format!("{place} {why}")).hint(Item::CrashLoaded.how(&why)),
    };
    let finding = match (loaded, way(facts)) {
        (true, Way::Refused) => {
            Finding::warn("yes, although mainline of this version refuses it: this is not a mainline kernel")
                .deduced()
                .hint(
                    "ask the kernel's vendor how it handles private memory at a crash; `kexec -p -u` \
                    unloads the image",
                )
        }
        (true, _) => Finding::pass("yes"),
        (false, Way::Harmless(_)) => Finding::pass("no: no dump after a panic (unrelated to TDX)"),
        (false, Way::NotBuilt | Way::Refused) => Finding::pass("no, and none can be"),
        (false, _) => Finding::warn("no: no dump after a panic").hint(if reserved == Some(0) {
            "reserve memory with `crashkernel=` and load an image with `kexec -p`"
        } else {
            "load an image with `kexec -p`, or start the distribution's kdump service"
        }),
    };
    let finding = finding.evidence(format!("{place} is {}", u8::from(loaded)));
    match reserved {
        Some(bytes) => finding.evidence(format!("{} reserved for a crash kernel", crate::size::human(bytes))),
        None => finding,
    }
}

const IF_TDS: &str = "reboot through the firmware if the next kernel is to run TDs";

fn tdx_again(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("there is no TDX").evidence(facts.why_not());
    }
    match (way(facts), facts.era(), facts.sys_disable()) {
        (Way::NotBuilt | Way::Refused, ..) => {
            Finding::pass("kexec is not possible; a reboot through the firmware reloads the module")
                .deduced()
                .evidence(how_much(facts))
        }
        (Way::Harmless(_), ..) => after_no_bring_up(facts),
        (_, Some(Era::AsksModule), Some(SysDisable::Refused | SysDisable::NotNamed)) => {
            Finding::warn("no: the module cannot be initialized again; TDX is unavailable until the machine is reset")
                .deduced()
                .evidence(how_much(facts))
                .hint(IF_TDS)
        }
        (_, Some(Era::AsksModule), _) => {
            Finding::unknown("if the module has TDH.SYS.DISABLE").hint("see `module.sys-disable`")
        }
        (Way::NotMainline, ..) => not_mainline(),
        (_, Some(_), _) => Finding::warn("no: this kernel does not disable the module at kexec")
            .deduced()
            .evidence(how_much(facts))
            .hint(IF_TDS),
        (_, None, _) => {
            Finding::unknown("the kernel version is not available").hint(Item::Osrelease.how(&Unseen::Denied))
        }
    }
}

/// Nothing is private in this kernel. What its bring-up, if there was one, has done to the module
/// stays done: a kernel that did not come up with TDX does not take the module back either.
fn after_no_bring_up(facts: &Facts<'_>) -> Finding {
    let Some(failure) = facts.failure() else {
        return Finding::pass("as well as this one").deduced().evidence(facts.why_nothing_private());
    };
    let seen = format!("boot.log:{}: {}", failure.line, failure.value.1);
    match facts.sys_init() {
        SysInit::Spent => Finding::warn(
            "no: this kernel's failed initialization used up SYS.INIT, and this kernel does not disable the \
                module at kexec",
        )
        .deduced()
        .evidence(seen)
        .hint(IF_TDS),
        SysInit::NotTried => Finding::pass("as in this kernel: the module was not called").deduced().evidence(seen),
        SysInit::Refused => Finding::pass(format!(
            "no better than this kernel, kexec changes nothing: {}",
            bootlog::message(&failure.value.1)
        ))
        .deduced()
        .evidence(seen),
        SysInit::Unknown => {
            Finding::unknown("TDX initialization failed; whether SYS.INIT was used up is not known").hint(IF_TDS)
        }
    }
}

fn left_over(facts: &Facts<'_>) -> Finding {
    if facts.no_tdx() {
        return Finding::pass("there is no TDX").evidence(facts.why_not());
    }
    if let Some(line) = facts.initialized_before() {
        let text = "yes: another kernel initialized the module, and this one does not know which memory is private";
        let finding = match facts.erratum() {
            Some(false) => Finding::warn(format!("{text}; harmless without the erratum, but TDX is unavailable")),
            _ => Finding::fail(text),
        };
        return finding.deduced().evidence(format!("boot.log:{line}")).hint("reset the machine through the firmware");
    }
    if let Some(line) = facts.log.as_ref().ok().and_then(|log| log.initialized) {
        return Finding::pass("no: the module was uninitialized when this kernel initialized it")
            .deduced()
            .evidence(format!("boot.log:{line}"));
    }
    match (facts.failure(), facts.sys_init()) {
        (Some(failure), SysInit::Spent | SysInit::Refused) => {
            Finding::pass("the module does not say so").deduced().evidence(format!("boot.log:{}", failure.line))
        }
        _ => Finding::unknown("cannot be determined before the module is initialized")
            .hint("if this kernel was started by a kexec from one with TDX, reset the machine through the firmware"),
    }
}
