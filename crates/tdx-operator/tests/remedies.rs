//! What a remedy asks for is read: each command that a text of `explain`, `check` or an input error
//! names is in the table below, with output of it that `explain` reads, or with the reason why its
//! output is not for this program.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tdx_operator::{
    explain::{from_reader, msr, register},
    report::{LogReport, Subject},
};

/// What a command is for.
enum Output {
    /// Read by `explain`: this file of the fixtures is output of it, and gives this rule.
    Log(&'static str, &'static str),
    /// The same for a text.
    Text(&'static str, &'static str),
    /// The value of this register.
    Register(&'static str, &'static str),
    /// A command of this program.
    Ours,
    /// It changes something, or the remedy says what it must print.
    Done,
}
use Output::{Done, Log, Ours, Register, Text};

const COMMANDS: &[(&str, Output)] = &[
    ("dmesg", Log("hosts/02-canonical-135-emr-fail28.log", "reserved-areas-exhausted")),
    ("dmesg | grep -i tdx", Log("hosts/14-canonical-33-not-enabled.log", "seam-off")),
    (
        "dmesg | grep -i kexec",
        Text("[   41.777001] kexec: Not allowed on platform with tdx_pw_mce bug\n", "kexec-refused-by-erratum"),
    ),
    ("journalctl -k -b", Text("Nov 23 05:10:00 node7 kernel: virt/tdx: module not loaded\n", "module-not-loaded")),
    // Read by `check --log` and `collect --log`: crates/cleanslate/tests/fleet.rs.
    ("journalctl -k -b > FILE", Ours),
    ("journalctl -u mcelog", Log("field/07-mcelog-by-journal-spr.log", "controller-names-ecc")),
    (
        "journalctl -u rasdaemon",
        Text(
            "Feb 03 04:05:06 node5 rasdaemon[812]: mce_record: 2024-05-06 07:08:09 +0000 bank=10, status= 8c00004000010090, \
             Corrected_error, cpu= 4, addr= 3a4b5c880, mcgstatus= 0\n",
            "corrected",
        ),
    ),
    ("ras-mc-ctl --errors", Log("field/08-ras-mc-ctl-errors.txt", "corrected")),
    ("rdmsr", Register("0x87", "200000001f")),
    ("rdmsr 0x87", Register("0x87", "200000001f\n200000001f\n")),
    // Of every CPU.
    ("rdmsr -a 0x87", Register("0x87", "200000001f\n200000001f\n200000001f\n")),
    ("rdmsr -a 0x982", Register("0x982", "600000003\n600000003\n")),
    ("rdmsr 0x982", Register("0x982", "0x000600000003")),
    ("rdmsr -d", Register("0x87", "137438953503")),
    ("rdmsr -f", Text("NUM_TDX_PRIV_KEYS: 20\n", "registers-of-report")),
    ("cat /sys/module/kvm_intel/parameters/tdx", Done),
    ("qemu-system-x86_64 -object help | grep tdx", Done),
    ("chcpu -e", Done),
    ("modprobe", Done),
    ("sysctl", Done),
    ("kexec", Done),
    ("echo", Done),
    ("tr", Done),
    ("sudo dmesg | cleanslate", Ours),
    ("dmesg | cleanslate", Ours),
    ("cleanslate", Ours),
];

const PROGRAMS: [&str; 16] = [
    "dmesg",
    "journalctl",
    "ras-mc-ctl",
    "rdmsr",
    "mcelog",
    "cat",
    "cleanslate",
    "kexec",
    "modprobe",
    "sysctl",
    "echo",
    "qemu-system-x86_64",
    "chcpu",
    "sudo",
    "tr",
    "ipmitool",
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Commands in backquotes, in every text of the sources that is no comment and no test.
fn commands() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("input.rs")];
    for folder in ["explain", "check"] {
        sources(&source.join(folder), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        // A text goes on after a backslash at the end of its line.
        let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "");
        for (index, part) in joined.split('`').enumerate() {
            let program = part.split(' ').next().unwrap_or_default();
            if index % 2 == 1 && PROGRAMS.contains(&program) && !part.contains('\n') {
                found.insert(part.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    found
}

fn entry(command: &str) -> Option<&'static Output> {
    let exact = COMMANDS.iter().find(|(name, _)| *name == command);
    let begins = |name: &str| command.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
    let general = || COMMANDS.iter().find(|(name, output)| matches!(output, Done | Ours) && begins(name));
    exact.or_else(general).map(|(_, output)| output)
}

fn explained(text: &[u8]) -> LogReport {
    let Subject::Log(log) = from_reader("x", text).unwrap().subject else { panic!() };
    log
}

#[test]
fn every_command_of_a_remedy_is_read() {
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    for command in &commands {
        let output = entry(command).unwrap_or_else(|| panic!("`{command}`: is its output read? Add it to the table"));
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let (text, rule) = match output {
            Log(file, rule) => (std::fs::read(fixtures.join(file)).unwrap(), *rule),
            Text(text, rule) => (text.as_bytes().to_vec(), *rule),
            Register(number, value) => {
                assert!(register(msr(number).unwrap(), value).unwrap().is_known(), "{command}");
                continue;
            }
            Ours | Done => continue,
        };
        let log = explained(&text);
        assert!(log.findings.iter().any(|found| found.rule == rule), "{command}: {:#?}", log.findings);
    }
}

/// Lines that a remedy asks for, and what becomes of the finding with them.
#[test]
fn lines_that_a_remedy_asks_for_decide() {
    let record = "[ 1.0] mce: [Hardware Error]: CPU 1: Machine Check Exception: f Bank 1: bd80000000100134\n";
    let asks = &explained(record.as_bytes()).findings[0];
    assert!(
        asks.rule == "cpu-not-shown" && asks.remedy.contains("`PROCESSOR`") && asks.remedy.contains("`smpboot: CPU0:`")
    );
    for line in [
        "[ 1.1] mce: [Hardware Error]: PROCESSOR 0:806f8 TIME 1 SOCKET 0 APIC 0 microcode 1\n",
        "[ 1.1] smpboot: CPU0: Intel(R) Xeon(R) (family: 0x6, model: 0x8f, stepping: 0x8)\n",
    ] {
        let log = explained(format!("{record}{line}").as_bytes());
        assert_eq!(log.findings[0].rule, "kernel-silent-on-erratum-cpu", "{line}");
    }
    let cut = explained(b"[ 1.0] SEAMCALL (0x1c) failed: 0xc00003\n");
    assert!(cut.findings[0].remedy.contains("the complete line"), "{:?}", cut.findings[0]);
    let whole = explained(b"[ 1.0] SEAMCALL (0x1c) failed: 0xc000030000000001\n");
    assert!(whole.findings[0].cause.contains("TDX_PAGE_METADATA_INCORRECT"));
}
