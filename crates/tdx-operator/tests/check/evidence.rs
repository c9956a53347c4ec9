//! What a verdict rests on where something was not seen, and in the boot logs of real hosts.

use super::*;

#[test]
fn host_code_decides_whether_memory_is_private() {
    let mut machine = machine("spr-7.2");
    let off =
        machine.get(Item::Config).unwrap().replace("CONFIG_INTEL_TDX_HOST=y", "# CONFIG_INTEL_TDX_HOST is not set");
    machine.put(Item::Config, Ok(off));
    let quiet =
        machine.get(Item::BootLog).unwrap().lines().filter(|line| !line.contains("virt/tdx")).collect::<Vec<_>>();
    let quiet = quiet.join("\n");
    machine.put(Item::BootLog, Ok(quiet));
    let report = check("no host code", &machine);
    assert_eq!(report.verdict.tdx, "on", "MSR 0x87 says so");
    assert_eq!(find(&report, "kernel.tdx-host").status, Status::Warn);
    let jump = find(&report, "kexec.jump");
    assert_eq!((jump.status, jump.basis), (Status::Pass, Basis::Deduced), "{}", jump.text);
}

/// A user who may not read the kernel's log: what a kexec does is not known, and no warning of
/// something else hides it.
#[test]
fn what_a_kexec_does_is_the_verdict_also_when_it_is_not_known() {
    let whole = check("whole", &machine("spr-7.2"));
    assert_eq!(whole.verdict.status, Status::Fail);
    let report = check("no log", &without(machine("spr-7.2"), Item::BootLog, Unseen::Denied));
    assert_eq!(find(&report, "kexec.jump").status, Status::Unknown);
    assert!(report.verdict.warn > 0);
    assert_eq!(report.verdict.status, Status::Unknown);
    assert!(report.verdict.text.starts_with("kexec.jump: "), "{}", report.verdict.text);
}

#[test]
fn nothing_seen_is_unknown() {
    let report = check("empty", &Snapshot::default());
    assert_eq!((report.verdict.status, report.verdict.tdx), (Status::Unknown, "unknown"));
    assert_eq!((report.verdict.fail, report.verdict.warn), (0, 0));
    assert!(report.unseen.iter().all(|unseen| !unseen.hint.is_empty()));
    assert_eq!(report.unseen.len(), 7);
}

#[test]
fn without_msrs_and_log_the_bug_flag_tells() {
    let mut machine = machine("spr-7.2");
    for item in [Item::Msr, Item::BootLog] {
        machine.put(item, Err(Unseen::Denied));
    }
    let report = check("a user", &machine);
    assert_eq!((report.verdict.tdx, report.facts.key_ids.is_none()), ("on", true));
    let flagless = machine.get(Item::Cpuinfo).unwrap().replace(" tdx_pw_mce", "");
    machine.put(Item::Cpuinfo, Ok(flagless));
    assert_eq!(check("a user", &machine).verdict.tdx, "unknown");
    let no_tme = machine.get(Item::Cpuinfo).unwrap().replace(" tme", "");
    machine.put(Item::Cpuinfo, Ok(no_tme));
    let report = check("a user", &machine);
    assert_eq!((report.verdict.tdx, find(&report, "firmware.tdx").basis), ("off", Basis::Unverified));
}

#[test]
fn boot_logs_of_real_hosts() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixture("hosts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut machine = Snapshot::default();
        machine.put(Item::BootLog, Ok(text));
        let report = check(&name, &machine);
        let bring_up = find(&report, "module.bring-up").status;
        let expected = match name.as_str() {
            _ if name.contains("-fail") || name.contains("not-enabled") || name.contains("not-loaded") => Status::Fail,
            _ if report.facts.pamt_kb.is_some() && bring_up == Status::Pass => Status::Pass,
            _ => Status::Unknown,
        };
        assert_eq!(bring_up, expected, "{name}: {}", find(&report, "module.bring-up").text);
        if name.starts_with("01") {
            assert_eq!((report.verdict.tdx, report.facts.pamt_kb), ("on", Some(8_396_820)), "{name}");
        }
        count += 1;
    }
    assert!(count > 30, "{count}");
}

/// The kernel's own refusal is evidence, and decides where the version does not.
#[test]
fn a_refusal_in_the_boot_log_is_evidence() {
    let line = "[   41.777001] kexec: Not allowed on platform with tdx_pw_mce bug\n";
    for (name, era) in [("spr-6.18", "refused"), ("spr-7.2", "asks-module")] {
        let machine = with(name, Item::BootLog, |text| format!("{text}{line}"));
        let report = check(name, &machine);
        assert_eq!(report.facts.era, Some(era));
        for id in ["kexec.jump", "kexec.crash"] {
            let found = find(&report, id);
            assert!(found.status == Status::Warn && found.text.contains("EOPNOTSUPP"), "{name}: {id}: {}", found.text);
            assert!(found.evidence[0].contains("tdx_pw_mce"), "{name}: {id}: {:?}", found.evidence);
        }
    }
}

/// On a CPU without the erratum the kernel's refusal still is one, and does not agree with the CPU.
#[test]
fn a_refusal_without_the_erratum() {
    let line = "[  200.000000] kexec: Not allowed on platform with tdx_pw_mce bug.\n";
    let report = check("gnr", &with("gnr-7.2", Item::BootLog, |text| format!("{text}{line}")));
    assert_eq!(report.verdict.kexec, "refused");
    let agree = find(&report, "data.agree");
    assert!(agree.status == Status::Warn && agree.evidence[0].contains("for the erratum"), "{:?}", agree.evidence);
}

/// The registers of a host are not overruled by the log of a TD.
#[test]
fn a_log_of_a_guest_on_a_host() {
    let log = "Linux version 7.2.3-1-server\n[    0.000000] tdx: Guest detected\n";
    let report = check("guest", &with("spr-7.2", Item::BootLog, |_| log.to_owned()));
    let verdict = &report.verdict;
    assert_eq!((verdict.tdx, verdict.kexec, verdict.status), ("on", "unknown", Status::Unknown), "{}", verdict.text);
    let agree = find(&report, "data.agree");
    assert!(agree.status == Status::Warn && agree.evidence[0].contains("TD (a guest)"), "{:?}", agree.evidence);
    // A real guest has no register of a host.
    let guest = without(with("spr-7.2", Item::BootLog, |_| log.to_owned()), Item::Msr, Unseen::Denied);
    assert_eq!(check("guest", &guest).verdict.tdx, "on", "the flag of the erratum is a host's");
    let mut guest = guest;
    let flags = guest.get(Item::Cpuinfo).unwrap().replace(" tdx_pw_mce", "");
    guest.put(Item::Cpuinfo, Ok(flags));
    assert_eq!(check("guest", &guest).verdict.tdx, "off");
}

/// The log of another kernel or machine says nothing of what happened since this boot.
#[test]
fn a_log_of_another_boot_proves_nothing() {
    for (from, to) in [("7.2.3-1-server", "6.14.0-1-server"), ("model: 0x8f", "model: 0xad")] {
        let report = check("another", &with("spr-7.2", Item::BootLog, |text| text.replace(from, to)));
        assert_eq!(find(&report, "kexec.still-safe").status, Status::Unknown, "{to}");
        assert_eq!(report.verdict.power_cycle, "unknown", "{to}");
        assert_eq!((report.facts.leaked_pages, report.facts.lost_key_ids), (None, None), "{to}");
    }
}

/// A warning in TDX code is no proof that nothing was left behind.
#[test]
fn a_warning_in_tdx_code_is_no_pass() {
    let warned = |function: &str, rax: &str| {
        let text = format!(
            "[ 7200.1] WARNING: CPU: 3 PID: 4411 at arch/x86/kvm/vmx/tdx.c:1679 {function}+0x1c4/0x290 [kvm_intel]\n\
             [ 7200.1] RIP: 0010:{function}+0x1c4/0x290 [kvm_intel]\n[ 7200.1] RAX: {rax} RBX: 1\n\
             [ 7200.1] ---[ end trace 0000000000000000 ]---\n"
        );
        check("warned", &with("spr-7.2", Item::BootLog, |log| format!("{log}{text}")))
    };
    for (function, rax, status, cycle, pages) in [
        ("tdx_sept_drop_private_spte", "8000020000000092", Status::Fail, "now", Some(1)),
        ("tdx_mmu_release_hkid", "8000020000000092", Status::Warn, "planned", None),
        ("tdx_reclaim_td_control_pages", "8000020000000092", Status::Warn, "planned", Some(1)),
        ("tdx_reclaim_page", "0000000000000001", Status::Unknown, "unknown", None),
    ] {
        let report = warned(function, rax);
        assert_eq!(
            (find(&report, "kexec.still-safe").status, report.verdict.power_cycle),
            (status, cycle),
            "{function}"
        );
        assert_eq!(report.facts.leaked_pages, pages, "{function}");
    }
}

/// A log from which lines are missing tells of no number, and proves that nothing failed no more.
#[test]
fn lost_lines_of_the_log_are_no_zero() {
    let whole = check("whole", &machine("gnr-7.2"));
    assert_eq!((whole.facts.leaked_pages, whole.facts.lost_key_ids), (Some(0), Some(0)));
    for line in ["__tdx_reclaim_page: 12 callbacks suppressed", "Missed 34 kernel messages"] {
        let lost = with("gnr-7.2", Item::BootLog, |text| format!("{text}{line}\n"));
        let report = check("lost", &lost);
        assert_eq!((report.facts.leaked_pages, report.facts.lost_key_ids), (None, None), "{line}");
        assert_eq!(find(&report, "kexec.still-safe").status, Status::Unknown, "{line}");
        assert_eq!(report.verdict.power_cycle, "unknown", "{line}");
    }
}

/// A log that a console has doubled is that of one boot, and a call in it one call.
#[test]
fn doubled_lines_are_counted_once() {
    for name in ["sid-7.3-freed", "fedora44-reclaim", "spr-7.2"] {
        let twice = with(name, Item::BootLog, |text| text.lines().flat_map(|line| [line, "\n", line, "\n"]).collect());
        let (report, once) = (check(name, &twice), check(name, &machine(name)));
        assert_eq!(report.facts, once.facts, "{name}");
        assert_eq!(not_passed(&report), not_passed(&once), "{name}");
        assert_eq!(find(&report, "kexec.still-safe").text, find(&once, "kexec.still-safe").text, "{name}");
    }
}

/// No remedy takes away an option that is not there.
#[test]
fn nohibernate_is_removed_where_it_is() {
    let advises = |machine: &Snapshot| {
        let report = check("nohibernate", machine);
        find(&report, "kexec.jump").remedies.iter().any(|remedy| remedy.what.contains("remove `nohibernate`"))
    };
    assert!(advises(&machine("ubuntu2604")));
    assert!(!advises(&with("ubuntu2604", Item::Cmdline, |text| text.replace("nohibernate", ""))));
}

/// What was not seen of the BIOS is not known.
#[test]
fn a_bios_that_was_not_seen_is_unknown() {
    for why in [Unseen::Absent, Unseen::Denied] {
        let unseen = without(machine("spr-7.2"), Item::BiosVersion, why);
        let unseen = without(unseen, Item::BiosDate, Unseen::Absent);
        assert_eq!(find(&check("unseen", &unseen), "firmware.bios").status, Status::Unknown);
    }
    let unseen = without(machine("spr-7.2"), Item::BiosDate, Unseen::Absent);
    let mut empty = unseen.clone();
    empty.put(Item::BiosVersion, Ok("\n".to_owned()));
    assert_eq!(find(&check("empty", &empty), "firmware.bios").status, Status::Unknown);
    let mut lenovo = unseen;
    lenovo.put(Item::BiosVersion, Ok("-[IVE142E-1.30]-\n".to_owned()));
    let report = check("lenovo", &lenovo);
    assert_eq!(
        (find(&report, "firmware.bios").status, report.facts.bios.as_deref()),
        (Status::Pass, Some("-[IVE142E-1.30]-"))
    );
}

/// What looks like a contradiction and has a plain reason.
#[test]
fn what_agrees_is_no_contradiction() {
    let agrees = |machine: &Snapshot| find(&check("agrees", machine), "data.agree").clone();
    // One of the two was saved with the builder's name left out.
    let named = |text: &str| text.replace("7.2.3-1-server", "7.2.3-1-acmecorp");
    let mut released = with("spr-7.2", Item::BootLog, |text| text.replace("7.2.3-1-server", "7.2.3-1-x"));
    released.put(Item::Osrelease, Ok(named(machine("spr-7.2").get(Item::Osrelease).unwrap())));
    assert_eq!(agrees(&released).status, Status::Pass, "{:?}", agrees(&released).evidence);
    let mut other = released;
    other.put(Item::Osrelease, Ok("7.2.4-1-acmecorp\n".to_owned()));
    assert_eq!(agrees(&other).status, Status::Warn);
    // Booted with `maxcpus=2`, the others turned on later.
    let booted = |there: u32| {
        with("spr-7.2", Item::BootLog, |text| {
            let up = text
                .lines()
                .map(|line| if line.contains("Brought up") { "[ 1.1] smp: Brought up 2 nodes, 2 CPUs" } else { line });
            let up = up.collect::<Vec<_>>().join("\n");
            format!("{up}\n[   20.2] smpboot: Allowing {there} CPUs, 0 hotplug CPUs\n")
        })
    };
    assert_eq!(agrees(&booted(4)).status, Status::Pass, "{:?}", agrees(&booted(4)).evidence);
    assert_eq!(agrees(&booted(2)).status, Status::Warn);
    // Memory that the firmware reserves for later use, e.g. CXL, was turned on.
    let meminfo = |kb: u64| {
        let mut machine = with("spr-7.2", Item::BootLog, |text| {
            format!("{text}[   20.0] BIOS-e820: [mem 0x0000100000000000-0x00001fffffffffff] soft reserved\n")
        });
        machine.put(Item::Meminfo, Ok(format!("MemTotal: {kb} kB\n")));
        machine
    };
    assert_eq!(agrees(&meminfo(1 << 33)).status, Status::Pass, "{:?}", agrees(&meminfo(1 << 33)).evidence);
    assert_eq!(agrees(&meminfo(1 << 36)).status, Status::Warn);
}

/// More different failed calls than a report shows do not hide the one that frees a private page.
#[test]
fn many_failed_calls_hide_none() {
    let read = |n| format!("[ 7100.5] kvm_intel: SEAMCALL TDH_MEM_RD failed: 0xc0000100000000{n:02x}\n");
    let reads = (0..40).map(read).collect::<Vec<_>>().concat();
    let machine = with("sid-7.3-freed", Item::BootLog, |text| {
        let (boot, freed) = text.split_at(text.find("[ 7200").unwrap());
        format!("{boot}{reads}{freed}")
    });
    let report = check("many", &machine);
    assert_eq!((find(&report, "kexec.still-safe").status, report.verdict.power_cycle), (Status::Fail, "now"));
}

/// With cleanslate.ko a freed page is reset only if the module saw the call that failed: it tracks
/// from its line in the log on. The hint and the word for a kexec agree.
#[test]
fn a_freed_page_and_cleanslate_ko() {
    let tracks = "[  900.1] cleanslate: tracking SEAMCALLs, private memory will be reset at kexec\n";
    let of = |before: &str, after: &str| {
        let mut machine = with("sid-7.3-freed", Item::BootLog, |text| {
            let (boot, freed) = text.split_at(text.find("[ 7200").unwrap());
            format!("{boot}{before}{freed}{after}")
        });
        for item in [Item::KoMode, Item::KoPolicy] {
            machine.put(item, Ok(machine_text("sid-7.3-cleanslate", item)));
        }
        check("freed", &machine)
    };
    let seen = of(tracks, "");
    let hint = |report: &CheckReport| find(report, "kexec.still-safe").hint.clone().unwrap();
    assert_eq!((seen.verdict.kexec, seen.verdict.power_cycle), ("safe", "now"));
    assert!(hint(&seen).contains("a kexec is safe: cleanslate.ko"), "{}", hint(&seen));
    for report in [of("", ""), of("", tracks)] {
        assert_eq!((report.verdict.kexec, report.verdict.power_cycle), ("unknown", "now"));
        assert!(hint(&report).ends_with("no kexec before"), "{}", hint(&report));
        assert_eq!(find(&report, "kexec.jump").status, Status::Unknown);
    }
}

/// Without TDX a kernel that is built without kexec has none either.
#[test]
fn no_remedy_promises_a_kexec_that_the_kernel_does_not_have() {
    for name in ["spr-6.14", "ubuntu2404"] {
        let report = check(name, &machine(name));
        for id in ["kexec.jump", "kexec.crash"] {
            let what: Vec<_> = find(&report, id).remedies.iter().map(|remedy| remedy.what).collect();
            assert!(!what.contains(&"disable TDX in the BIOS"), "{name}: {id}: {what:?}");
        }
        let what: Vec<_> = find(&report, "kexec.jump").remedies.iter().map(|remedy| remedy.what).collect();
        assert!(what.iter().any(|what| what.starts_with("use a kernel without CONFIG_INTEL_TDX_HOST and")), "{what:?}");
    }
    let off = |name| find(&check(name, &machine(name)), "kexec.jump").remedies.iter().any(|r| r.what.contains("BIOS"));
    assert!(off("spr-6.18"));
}
