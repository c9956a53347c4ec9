//! One change to a saved machine, and the answer of the check that it concerns.

use super::*;

fn msr(name: &str, number: &str, line: &str) -> Snapshot {
    with(name, Item::Msr, |text| {
        let others = text.lines().filter(|line| !line.starts_with(number)).collect::<Vec<_>>();
        others.join("\n") + "\n" + line
    })
}

/// What a kernel prints in place of a module that came up.
const NOT_LOADED: &str = "module not loaded";
const NO_SPACE: &str = "initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.\nvirt/tdx: \
    module initialization failed (-28)";
const HIBERNATION: &str = "initialization failed: Hibernation support is enabled";
const DISABLED: &str = "virt/tdx: TDX-Module initialized\nvirt/tdx: TDH.SYS.DISABLE failed: 0xc000010000000000";
/// What Linux 7.3 prints, seen under seamvisor.
const UP: &str =
    "virt/tdx: Module version: 1.5.01\nvirt/tdx: 4108 KB allocated for PAMT\nvirt/tdx: TDX-Module initialized\n";
const DOWN: &str = "virt/tdx: module not loaded\nvirt/tdx: TDX-Module initialization failed (-19)\n";
const USED: &str = "virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000050000000000\nvirt/tdx: \
    TDX-Module initialization failed (-5)\n";

/// The log up to the bring-up, and then other lines.
fn until_bring_up(text: &str) -> String {
    let ends = ["TDX module", "KB allocated", "odule initialized"];
    text.lines().filter(|line| !ends.iter().any(|end| line.contains(end))).flat_map(|line| [line, "\n"]).collect()
}

/// A bring-up that failed. Hibernation is looked at before the CPU's erratum is noted.
fn failed(name: &str, line: &str) -> Snapshot {
    let mut machine = with(name, Item::BootLog, |text| format!("{}virt/tdx: {line}\n", until_bring_up(text)));
    if line == HIBERNATION {
        machine.put(Item::Cpuinfo, Ok(machine_text(name, Item::Cpuinfo).replace(" tdx_pw_mce", "")));
    }
    machine
}

fn seven_three(lines: &str) -> Snapshot {
    let mut machine =
        with("spr-7.2", Item::BootLog, |text| until_bring_up(&text.replace("7.2.3-1-server", "7.3.0")) + lines);
    machine.put(Item::Osrelease, Ok("7.3.0\n".to_owned()));
    machine
}

/// A machine without TDX and without root, under a kernel that says so.
fn no_platform() -> Snapshot {
    let mut machine = with("no-tdx", Item::BootLog, |text| {
        format!("{text}virt/tdx: TDX not supported by the host platform\n").replace("6.12.117+deb12-amd64", "7.3.0")
    });
    machine.put(Item::Osrelease, Ok("7.3.0\n".to_owned()));
    machine.put(Item::Config, Ok(machine_text("spr-7.2", Item::Config)));
    without(machine, Item::Msr, Unseen::Denied)
}

/// A machine with cleanslate.ko.
fn ko(name: &str, mode: &str, policy: &str) -> Snapshot {
    let mut machine = machine(name);
    machine.put(Item::KoMode, Ok(format!("{mode}\n")));
    machine.put(Item::KoPolicy, Ok(format!("{policy}\n")));
    machine
}

/// Debian's kernel on a Sapphire Rapids, with cleanslate.ko as the host of TDX.
fn hosted(policy: &str) -> Snapshot {
    let mut machine = ko("no-tdx", "host", policy);
    for item in [Item::Cpuinfo, Item::Msr] {
        machine.put(item, Ok(machine_text("spr-7.2", item)));
    }
    machine
}

#[test]
fn variations() {
    use Status::{Fail, Pass, Unknown, Warn};
    let log = |name, from: &'static str, to: &'static str| with(name, Item::BootLog, |text| text.replace(from, to));
    let options = |name, from: &'static str, to: &'static str| with(name, Item::Config, |text| text.replace(from, to));
    let kernel = |name, version: &'static str| with(name, Item::Osrelease, |_| version.to_owned());
    let not_up =
        |text: &str| text.lines().filter(|line| !line.contains("odule initialized")).collect::<Vec<_>>().join("\n");
    let denied = |machine, item| without(machine, item, Unseen::Denied);
    let hibernating = with("spr-7.2", Item::BootLog, not_up);
    let hibernating = {
        let mut machine = hibernating;
        machine.put(Item::Cmdline, Ok("\n".to_owned()));
        machine.put(Item::Cpuinfo, Ok(machine_text("spr-7.2", Item::Cpuinfo).replace(" tdx_pw_mce", "")));
        machine.put(Item::PowerDisk, Ok("[platform] shutdown reboot\n".to_owned()));
        machine
    };
    let debian = |item, text: &str| {
        // A Sapphire Rapids with TDX on, under a kernel that knows nothing of TDX.
        let mut machine = machine("no-tdx");
        for item in [Item::Cpuinfo, Item::Msr] {
            machine.put(item, Ok(machine_text("spr-7.2", item)));
        }
        machine.put(item, Ok(text.to_owned()));
        machine
    };
    let no_log = |meminfo| {
        let mut machine = denied(machine("spr-7.2"), Item::BootLog);
        machine.put(Item::Meminfo, meminfo);
        machine
    };
    // The ring has lost the beginning, and with it whether the module came up.
    let late = with("spr-7.2", Item::BootLog, |text| {
        let version = text.lines().find(|line| line.contains("module version")).unwrap();
        format!("{version}\nvirt/tdx: SEAMCALL (0x0000000000000008) failed: 0xc000030000000001\n")
    });
    let again = |status: &str| {
        let line = format!("virt/tdx: SEAMCALL (0x0000000000000021) failed: {status}\nvirt/tdx: module");
        with("spr-7.2", Item::BootLog, |text| {
            let text = text.replace("virt/tdx: TDX-Module initialized", "");
            text.replace("virt/tdx: TDX module version", &line).replace("virt/tdx: 1050632 KB allocated for PAMT", "")
        })
    };
    let cases: Vec<(&str, Snapshot, &str, Status, &str)> = vec![
        (
            "TDX off in the BIOS",
            msr("spr-7.2", "0x87", "0x87 0x3f 0-3\n"),
            "firmware.tdx",
            Pass,
            "BIOS gave \
            no KeyID",
        ),
        ("the same, kexec", msr("spr-7.2", "0x87", "0x87 0x3f 0-3\n"), "kexec.jump", Pass, "nothing"),
        (
            "one KeyID",
            msr("spr-7.2", "0x87", "0x87 0x10000001f 0-3\n"),
            "firmware.tdx",
            Fail,
            "too few \
            private KeyIDs",
        ),
        (
            "one KeyID, split",
            msr("spr-7.2", "0x87", "0x87 0x10000001f 0-3\n"),
            "firmware.keyids",
            Fail,
            "TDX needs two",
        ),
        ("KeyIDs too wide", msr("spr-7.2", "0x982", "0x982 0x400000003 0-3\n"), "firmware.tdx", Fail, "4 KeyID bits"),
        ("not locked", msr("spr-7.2", "0x982", "0x982 0x600000002 0-3\n"), "firmware.tme", Fail, "not locked"),
        ("no SEAMRR", msr("spr-7.2", "0x1401", "0x1401 0x0 0-3\n"), "firmware.seamrr", Warn, "no module can be loaded"),
        ("CPUs differ", msr("spr-7.2", "0x982", "0x982 0x600000003 0-2\n0x982 0x3 3\n"), "firmware.same", Fail, "no"),
        (
            "log and MSR differ",
            msr("spr-7.2", "0x87", "0x87 0x100000002f 0-3\n"),
            "firmware.keyids",
            Warn,
            "a different split",
        ),
        (
            "no MOVDIR64B",
            with("spr-7.2", Item::Cpuinfo, |t| t.replace(" movdir64b", "")),
            "cpu.movdir64b",
            Fail,
            "could not be reset",
        ),
        (
            "mixed CPUs",
            with("spr-7.2", Item::Cpuinfo, |t| t.replacen("143", "207", 1)),
            "cpu.model",
            Warn,
            "differ in model",
        ),
        (
            "6.14 with both",
            options("spr-6.14", "# CONFIG_KEXEC is not set", "CONFIG_KEXEC=y"),
            "kexec.jump",
            Unknown,
            "mainline",
        ),
        (
            "6.14 without options",
            denied(machine("spr-6.14"), Item::Config),
            "kexec.jump",
            Warn,
            "exclude each other at build time",
        ),
        (
            "no host code",
            with("no-tdx", Item::Msr, |_| machine("spr-7.2").get(Item::Msr).unwrap().to_owned()),
            "kernel.tdx-host",
            Warn,
            "cannot use it",
        ),
        ("6.17 is excluded", kernel("spr-6.14", "6.17.1"), "kexec.jump", Warn, "exclude"),
        ("6.18 is refused", kernel("spr-7.2", "6.18.0"), "kexec.jump", Warn, "EOPNOTSUPP"),
        ("an image against mainline", kernel("spr-7.2", "7.1.9"), "kexec.image", Warn, "this is not a mainline kernel"),
        ("7.3 asks", kernel("spr-6.18", "7.3.0"), "kexec.jump", Unknown, "depends on the module"),
        ("6.18, no module", failed("spr-6.18", NOT_LOADED), "kexec.jump", Warn, "EOPNOTSUPP"),
        ("6.18, no module", failed("spr-6.18", NOT_LOADED), "kexec.crash", Warn, "EOPNOTSUPP"),
        ("6.18, no module", failed("spr-6.18", NOT_LOADED), "kexec.crash-image", Pass, "none can be"),
        ("6.18, no module", failed("spr-6.18", NOT_LOADED), "module.bring-up", Fail, "module not loaded"),
        ("6.18, -28", failed("spr-6.18", NO_SPACE), "kexec.jump", Warn, "EOPNOTSUPP"),
        ("6.18, -28", failed("spr-6.18", NO_SPACE), "kexec.crash", Warn, "EOPNOTSUPP"),
        ("6.18, -28", failed("spr-6.18", NO_SPACE), "kexec.crash-image", Pass, "none can be"),
        ("6.18, hibernation", failed("spr-6.18", HIBERNATION), "kexec.jump", Pass, "nothing"),
        (
            "6.18, hibernation",
            failed("spr-6.18", HIBERNATION),
            "module.bring-up",
            Fail,
            "Hibernation support is enabled",
        ),
        (
            "6.18, hibernation",
            failed("spr-6.18", HIBERNATION),
            "kernel.hibernation",
            Fail,
            "yes: the kernel disables TDX while hibernation",
        ),
        ("7.2, -28", failed("spr-7.2", NO_SPACE), "kexec.jump", Pass, "nothing: TDX initialization failed, and Linux"),
        (
            "7.2, -28",
            failed("spr-7.2", NO_SPACE),
            "kexec.tdx-again",
            Warn,
            "no: this kernel's failed initialization used up",
        ),
        (
            "7.2, no module",
            failed("spr-7.2", NOT_LOADED),
            "kexec.tdx-again",
            Pass,
            "no better than this kernel, kexec changes",
        ),
        (
            "7.2, hibernation",
            failed("spr-7.2", HIBERNATION),
            "kexec.tdx-again",
            Pass,
            "as in this kernel: the module was not",
        ),
        (
            "7.2, hibernation",
            failed("spr-7.2", HIBERNATION),
            "kexec.left-over",
            Unknown,
            "cannot be determined before the module is",
        ),
        (
            "7.2, RBP",
            failed("spr-7.2", "frame pointer (RBP) clobber bug present, upgrade TDX module"),
            "kexec.tdx-again",
            Warn,
            "no: this kernel's failed initialization used up",
        ),
        ("6.14, -28", failed("spr-6.14", NO_SPACE), "kexec.jump", Warn, "exclude each other"),
        ("6.18, refused by #GP", failed("spr-6.18", "not enabled by BIOS"), "kexec.jump", Warn, "EOPNOTSUPP"),
        ("no kexec", options("spr-7.2", "CONFIG_KEXEC", "# CONFIG_NO_KEXEC"), "kernel.kexec", Warn, "no"),
        (
            "a module that was asked",
            log("spr-7.2", "virt/tdx: TDX-Module initialized", DISABLED),
            "module.sys-disable",
            Warn,
            "no: the module returned that it does not",
        ),
        ("7.3, an old module", seven_three(UP), "kexec.jump", Fail, "private memory stays"),
        ("7.3, an old module", seven_three(UP), "module.version", Pass, "1.5.01"),
        ("7.3, an old module", seven_three(UP), "module.pamt", Pass, "4108 KB"),
        ("7.3, no module", seven_three(DOWN), "module.bring-up", Fail, "module not loaded"),
        ("7.3, no module", seven_three(DOWN), "kexec.jump", Pass, "nothing: TDX initialization failed before the"),
        ("7.3, a second kernel", seven_three(USED), "kexec.left-over", Fail, "another kernel"),
        ("7.3, a second kernel", seven_three(USED), "module.bring-up", Fail, "0xc000050000000000"),
        ("7.3, no TDX", no_platform(), "firmware.tdx", Pass, "not supported by the host platform"),
        ("7.3, no TDX", no_platform(), "module.bring-up", Pass, "no TDX"),
        (
            "watched",
            ko("spr-7.2", "watching", "tracked"),
            "kexec.cleanslate",
            Pass,
            "yes: it tracks the kernel's TDX use and resets",
        ),
        (
            "watched",
            ko("spr-7.2", "watching", "tracked"),
            "kexec.jump",
            Pass,
            "nothing: cleanslate.ko resets all memory that",
        ),
        (
            "watched",
            ko("spr-7.2", "watching", "tracked"),
            "kexec.crash",
            Pass,
            "no private memory: cleanslate.ko resets it",
        ),
        ("watched", ko("spr-7.2", "watching", "tracked"), "kexec.image", Pass, "yes"),
        (
            "watched",
            ko("spr-7.2", "watching", "tracked"),
            "kexec.tdx-again",
            Warn,
            "no: the module cannot be initialized again; TDX",
        ),
        ("watched, 6.18", ko("spr-6.18", "watching", "tracked"), "kexec.jump", Warn, "EOPNOTSUPP"),
        (
            "policy none",
            ko("spr-7.2", "watching", "none"),
            "kexec.cleanslate",
            Warn,
            "no: it is loaded with a policy that resets",
        ),
        ("policy none", ko("spr-7.2", "watching", "none"), "kexec.jump", Fail, "private memory stays"),
        ("policy refuse", ko("spr-7.2", "watching", "refuse"), "kexec.jump", Warn, "refuses it"),
        (
            "policy refuse",
            ko("spr-7.2", "watching", "refuse"),
            "kexec.crash",
            Pass,
            "no private memory: cleanslate.ko resets it",
        ),
        (
            "lost",
            ko("spr-7.2", "unknown: this kernel builds TDs", "tracked"),
            "kexec.cleanslate",
            Warn,
            "this kernel builds TDs",
        ),
        (
            "lost",
            ko("spr-7.2", "unknown: this kernel builds TDs", "tracked"),
            "kexec.jump",
            Warn,
            "no image can be loaded: cleanslate.ko lost",
        ),
        (
            "lost",
            ko("spr-7.2", "unknown: this kernel builds TDs", "tracked"),
            "kexec.crash",
            Warn,
            "private memory; the crash kernel runs in its",
        ),
        ("bring-up failed", ko("spr-7.2", "failed", "tracked"), "kexec.cleanslate", Pass, "nothing to reset"),
        ("a mode of tomorrow", ko("spr-7.2", "asleep", "tracked"), "kexec.cleanslate", Unknown, "unknown"),
        (
            "a host by the module",
            hosted("tracked"),
            "kexec.jump",
            Pass,
            "nothing: cleanslate.ko resets all memory that",
        ),
        ("a host by the module", hosted("none"), "kexec.jump", Warn, "if cleanslate.ko has brought TDX up"),
        ("a host by the module", hosted("refuse"), "kexec.jump", Warn, "refuses it"),
        ("none loaded", machine("spr-7.2"), "kexec.cleanslate", Pass, "no: not loaded; see above for what the kernel"),
        ("none loaded", machine("gnr-7.2"), "kexec.cleanslate", Pass, "nothing to reset"),
        ("newer", kernel("spr-7.2", "7.4.0"), "kexec.jump", Unknown, "newer"),
        ("newer without erratum", kernel("gnr-7.2", "7.4.0"), "kexec.jump", Pass, "harmless"),
        ("a new module", log("spr-7.2", "1.5.24", "1.5.99"), "kexec.jump", Unknown, "depends on the module"),
        ("a new module", log("spr-7.2", "1.5.24", "1.5.99"), "module.sys-disable", Unknown, "newer"),
        ("module 1.0", log("spr-7.2", "1.5.24", "1.0.3"), "module.version", Warn, "1.0"),
        ("hibernation", hibernating, "kernel.hibernation", Fail, "disables TDX"),
        (
            "silent log of 7.2",
            with("spr-7.2", Item::BootLog, not_up),
            "module.bring-up",
            Warn,
            "no: kernels since 7.2 initialize it at boot and",
        ),
        ("silent log of 6.18", with("spr-6.18", Item::BootLog, not_up), "module.bring-up", Pass, "not yet"),
        (
            "S3",
            with("spr-7.2", Item::MemSleep, |_| "s2idle [deep]\n".to_owned()),
            "kernel.s3",
            Warn,
            "TDX is initialized and S3 is offered: mainline",
        ),
        (
            "no crash image",
            with("gnr-7.2", Item::CrashLoaded, |_| "0\n".to_owned()),
            "kexec.crash-image",
            Warn,
            "no dump",
        ),
        ("no CPU", denied(machine("spr-6.18"), Item::Cpuinfo), "kexec.jump", Unknown, "CPU model"),
        ("no version", denied(machine("spr-7.2"), Item::Osrelease), "kexec.jump", Unknown, "version"),
        ("no host code", debian(Item::KexecLoaded, "1\n"), "kernel.hibernation", Pass, "no TDX host code"),
        ("no host code", debian(Item::KexecLoaded, "1\n"), "module.bring-up", Pass, "no TDX host code"),
        ("no host code", debian(Item::KexecLoaded, "1\n"), "kexec.image", Pass, "yes"),
        (
            "no host code",
            debian(Item::KexecLoaded, "1\n"),
            "kexec.left-over",
            Unknown,
            "cannot be determined before the module is",
        ),
        ("no host code", debian(Item::KexecLoaded, "1\n"), "firmware.tdx", Pass, "enabled: private KeyIDs [32, 64)"),
        ("a second kernel", again("0xc000050000000000"), "kexec.left-over", Fail, "another kernel"),
        ("a second kernel", again("0xc000050000000000"), "kexec.jump", Unknown, "depends on the module"),
        ("an old BIOS", again("0xc000090000000000"), "kexec.left-over", Pass, "does not say so"),
        ("an old BIOS", again("0xc000090000000000"), "kexec.jump", Pass, "TDX initialization failed"),
        ("GNR, a distributor's 6.8", kernel("gnr-7.2", "6.8.0-1028-intel"), "kexec.jump", Pass, "harmless"),
        ("SPR, a distributor's 6.6", kernel("spr-7.2", "6.6.0-intel"), "kexec.jump", Unknown, "mainline"),
        ("the same, TDX again", kernel("spr-7.2", "6.6.0-intel"), "kexec.tdx-again", Unknown, "mainline"),
        (
            "no MOVDIR64B",
            with("spr-7.2", Item::Cpuinfo, |t| t.replace(" movdir64b", "")),
            "firmware.tdx",
            Fail,
            "MOVDIR64B",
        ),
        (
            "SEAMRR not enabled",
            msr("spr-7.2", "0x1401", "0x1401 0x3fffe000400 0-3\n"),
            "firmware.seamrr",
            Warn,
            "no module",
        ),
        (
            "PAMT by memory",
            no_log(Ok("MemTotal:       268435456 kB\n".to_owned())),
            "module.pamt",
            Pass,
            "about 1050624 KB",
        ),
        ("PAMT by nothing", no_log(Err(Unseen::Absent)), "module.pamt", Unknown, "0.391 %"),
        ("a failure late in a log", late.clone(), "kexec.jump", Fail, "private memory stays"),
        ("a failure late in a log", late, "module.bring-up", Unknown, "a later SEAMCALL failed"),
        (
            "a TD",
            log("spr-6.18", "virt/tdx: module initialized", "tdx: Guest detected"),
            "data.agree",
            Warn,
            "contradiction",
        ),
    ];
    for (what, machine, id, status, words) in cases {
        let report = check(what, &machine);
        let found = find(&report, id);
        assert_eq!(found.status, status, "{what}: {id}: {}", found.text);
        assert!(found.text.contains(words), "{what}: {id}: {}", found.text);
        if matches!(status, Fail) {
            assert_eq!(report.verdict.status, Fail, "{what}");
        }
    }
}

/// What helps is what helps against this failure, as `explain` says it too.
#[test]
fn the_hint_is_that_of_the_cause() {
    for (line, words) in [
        (HIBERNATION, "nohibernate"),
        (NOT_LOADED, "SEAM loader"),
        (NO_SPACE, "cleanslate plan"),
        ("MOVDIR64B is required for TDX", "clearcpuid=movdir64b"),
        ("TDX module is outdated. Use v1.0.3 or newer.", "update the BIOS"),
    ] {
        let report = check(line, &failed("spr-7.2", line));
        let found = find(&report, "module.bring-up");
        let hint = found.hint.as_ref().unwrap();
        assert!(found.status == Status::Fail && hint.contains(words), "{line}: {hint}");
    }
}
