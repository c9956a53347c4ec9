//! One boot in every form in which logs are passed on gives the same findings; values in odd
//! writing mean what they mean; further wordings of each kind of `fixtures/field`.

use serde_json::json;
use tdx_operator::{
    explain::{from_reader, subject},
    host::{Host, HostOptions},
    report::{LogReport, Subject},
};

const MESSAGES: [&str; 7] = [
    "Linux version 6.18.3-200.fc43.x86_64 (builder@example) #1 SMP",
    "smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480+ (family: 0x6, model: 0x8f, stepping: 0x8)",
    "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
    "virt/tdx: 1050632 KB allocated for PAMT",
    "virt/tdx: module initialized",
    "kexec: Not allowed on platform with tdx_pw_mce bug",
    "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001, rcx 0x3, rdx 0x0, r8 0x0",
];

fn log(text: &str) -> LogReport {
    match from_reader("x", text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}")).subject {
        Subject::Log(log) => log,
        _ => panic!(),
    }
}

fn rules(text: &str) -> Vec<&'static str> {
    log(text).findings.iter().map(|found| found.rule).collect()
}

fn lines(form: impl Fn(usize, &str) -> String) -> String {
    MESSAGES.iter().enumerate().map(|(index, message)| form(index, message)).collect()
}

/// Every log of a host, a machine check or a call, with each line twice: the same answers.
#[test]
fn each_line_twice() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut compared = 0;
    for folder in ["mce", "field", "hosts", "linux-7.3"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            // Too short to tell doubled lines from two events, or with blank lines between.
            let stamped = text.lines().all(|line| line.is_empty() || line.starts_with(['[', '#', '<', ' ']));
            if !stamped || text.contains("\n\n") {
                continue;
            }
            let twice: String = text.lines().flat_map(|line| [line, "\n", line, "\n"]).collect();
            let findings = |text: &str| {
                from_reader("x", text.as_bytes()).ok().map(|report| match report.subject {
                    Subject::Log(log) => {
                        log.findings.iter().map(|found| (found.rule, found.cause.clone())).collect::<Vec<_>>()
                    }
                    _ => panic!(),
                })
            };
            assert_eq!(findings(&twice), findings(&text), "{}", path.display());
            let host = |text: &str| {
                let host = Host::from_reader("x", text.as_bytes(), &HostOptions::default()).ok();
                host.map(|host| (host.memory().to_vec(), host.cmrs().to_vec(), host.cpus()))
            };
            assert_eq!(host(&twice), host(&text), "{}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn one_boot_in_every_form() {
    let micros = |index: usize| index * 1_000_000 + 1;
    let journal = |index: usize, message: &str| {
        json!({ "__CURSOR": "s=1;i=1", "__REALTIME_TIMESTAMP": "1700000000000000", "_HOSTNAME": "node7",
            "__MONOTONIC_TIMESTAMP": micros(index).to_string(), "_TRANSPORT": "kernel", "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "kernel", "MESSAGE": message })
    };
    let dmesg: Vec<_> = MESSAGES.iter().map(|message| json!({ "pri": 6, "time": 0.5, "msg": message })).collect();
    let forms = [
        ("dmesg", lines(|index, m| format!("[{index:5}.123456] {m}\n"))),
        ("journalctl -o json", lines(|index, m| format!("{}\n", journal(index, m)))),
        ("journalctl -o json-pretty", lines(|index, m| format!("{:#}\n", journal(index, m)))),
        (
            "journalctl -o export",
            lines(|index, m| {
                format!(
                    "__CURSOR=s=1;i=1\n__MONOTONIC_TIMESTAMP={}\n_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\n\
                     MESSAGE={m}\n\n",
                    micros(index)
                )
            }),
        ),
        (
            "journalctl -o verbose",
            lines(|_, m| {
                format!(
                    "Sun 2026-11-29 10:00:00.000001 UTC [s=abc;i=1;b=aa;m=1;t=1;x=1]\n    _TRANSPORT=kernel\n    \
                     SYSLOG_IDENTIFIER=kernel\n    MESSAGE={m}\n"
                )
            }),
        ),
        ("journalctl --no-hostname", lines(|index, m| format!("[{index:5}.123456] kernel: {m}\n"))),
        ("short-iso", lines(|index, m| format!("2026-11-2{index}T05:10:00+01:00 node7 kernel: {m}\n"))),
        ("dmesg --json", format!("{:#}\n", json!({ "dmesg": dmesg }))),
        ("dmesg -T", lines(|index, m| format!("[Sun Nov 29 10:00:0{index} 2026] {m}\n"))),
        ("dmesg -x", lines(|index, m| format!("kern  :info  : [{index:5}.123456] {m}\n"))),
        ("syslog, Japanese", lines(|index, m| format!("11月 {index:2} 10:00:00 node7 kernel: {m}\n"))),
        ("syslog, Russian", lines(|index, m| format!("ноя {index:2} 10:00:00 node7 kernel: {m}\n"))),
        ("syslog, French", lines(|index, m| format!("févr. {index:2} 10:00:00 node7 kernel: {m}\n"))),
        ("RFC 5424", lines(|index, m| format!("<6>1 2026-11-29T10:00:0{index}.1+01:00 node7 kernel - - - {m}\n"))),
        (
            "containers",
            lines(|index, m| format!("{}\n", json!({ "log": format!("[{index:5}.1] {m}\n"), "stream": "stdout" }))),
        ),
        ("serial, CRLF", lines(|index, m| format!("[{index:5}.123456] {m}\r\n"))),
        ("serial, CR CR LF", lines(|index, m| format!("[{index:5}.123456] {m}\r\r\n"))),
        ("serial, CR", lines(|index, m| format!("[{index:5}.123456] {m}\r"))),
        ("serial, colors", lines(|index, m| format!("\x1b[32m[{index:5}.123456] \x1b[0m\x1b[33m{m}\x1b[0m\r\n"))),
        (
            "pstore",
            lines(|index, m| format!("{}<6>[{index:5}.123456] {m}\n", if index == 0 { "Panic#1 Part1\n" } else { "" })),
        ),
        ("grep -n", lines(|index, m| format!("{}:[{index:5}.123456] {m}\n", index + 1))),
    ];
    for (form, text) in forms {
        let found = rules(&text);
        assert_eq!(found, ["initialized", "seamcall-later", "kexec-refused-by-erratum"], "{form}:\n{text}");
        assert_eq!((log(&text).boots, log(&text).unknown_lines), (1, 0), "{form}");
    }
}

/// A console that prints each line twice is one boot, and a call that is printed twice one call.
#[test]
fn doubled_lines_are_one_boot() {
    let text = lines(|index, m| format!("[{index:5}.123456] {m}\r\n[{index:5}.123456] {m}\r\n"));
    assert_eq!(rules(&text), ["initialized", "seamcall-later", "kexec-refused-by-erratum"]);
    assert_eq!((log(&text).boots, log(&text).lines), (1, 14));
    assert!(log(&text).findings.iter().all(|found| !found.cause.contains("times")), "{:?}", log(&text).findings);
}

/// Lines of programs in a structured log stay those of programs.
#[test]
fn programs_in_json() {
    let line = |ident: &str, message: &str| {
        format!("{}\n", json!({ "SYSLOG_IDENTIFIER": ident, "__MONOTONIC_TIMESTAMP": "5000000", "MESSAGE": message }))
    };
    let text = line("kdumpctl", "kdump: kexec_file_load failed: Operation not supported");
    assert_eq!(rules(&text), ["kexec-refused-by-erratum"]);
    let record = ["MCE 0", "CPU 4 BANK 13", "ADDR 12ab45c0c0", "STATUS 9c00004000010091 MCGSTATUS 0"];
    let text: String = record.iter().map(|message| line("mcelog", message)).collect();
    assert_eq!(rules(&text), ["corrected"]);
}

/// What `collect --log` and `check --log` keep of a log in which programs speak of TDX, too.
#[test]
fn no_line_of_a_program_is_kept() {
    use tdx_operator::check::{Item, Snapshot, use_log};
    let told =
        [("kernel", "kernel", "virt/tdx: module initialized"), ("syslog", "agent", "virt/tdx: alice's TD: SEAMCALL")];
    let form = |entry: &dyn Fn(&str, &str, &str) -> String| {
        told.map(|(transport, ident, message)| entry(transport, ident, message)).concat()
    };
    for (name, text) in [
        (
            "export",
            form(&|transport, ident, message| {
                format!(
                    "__CURSOR=s=1;i=1\n__MONOTONIC_TIMESTAMP=9360001\nMESSAGE={message}\n_TRANSPORT={transport}\n\
                     SYSLOG_IDENTIFIER={ident}\n\n"
                )
            }),
        ),
        (
            "verbose",
            form(&|transport, ident, message| {
                format!(
                    "Sun 2026-11-29 10:00:00.000001 UTC [s=abc;i=1;b=aa;m=8ed281;t=1;x=1]\n    MESSAGE={message}\n    \
                     _TRANSPORT={transport}\n    SYSLOG_IDENTIFIER={ident}\n"
                )
            }),
        ),
        (
            "json-pretty",
            form(&|transport, ident, message| {
                let entry = json!({ "__MONOTONIC_TIMESTAMP": "9360001", "MESSAGE": message, "_TRANSPORT": transport,
                    "SYSLOG_IDENTIFIER": ident });
                format!("{entry:#}\n")
            }),
        ),
        (
            "json, bytes",
            form(&|transport, ident, message| {
                let entry = json!({ "__MONOTONIC_TIMESTAMP": "9360001", "MESSAGE": message.as_bytes(),
                    "_TRANSPORT": transport, "SYSLOG_IDENTIFIER": ident });
                format!("{entry}\n")
            }),
        ),
        (
            "dmesg --json",
            format!(
                "{:#}\n",
                json!({ "dmesg": [
                    { "pri": 6, "time": 9.360_001, "msg": "virt/tdx: module initialized" },
                    { "pri": 14, "time": 9.360_001, "msg": "virt/tdx: alice's TD: SEAMCALL" },
                ] })
            ),
        ),
    ] {
        let mut snapshot = Snapshot::default();
        use_log(&mut snapshot, "x", text.as_bytes()).unwrap();
        let kept = snapshot.get(Item::BootLog).unwrap();
        assert_eq!(kept, "[    9.360001] virt/tdx: module initialized\n", "{name}:\n{text}");
    }
}

#[test]
fn further_wordings() {
    for (text, rule) in [
        // kexec and kdump
        ("kexec: kexec_load failed: Operation not supported\n", "kexec-refused-by-erratum"),
        ("Cannot load kdump kernel: Operation not supported\n", "kexec-refused-by-erratum"),
        (
            "kexec_file_load(3, 4, 62, \"root=\", KEXEC_FILE_ON_CRASH) = -1 EOPNOTSUPP (Operation not supported)\n",
            "kexec-refused-by-erratum",
        ),
        ("Failed to load kexec kernel: Operation not supported\n", "kexec-refused-by-erratum"),
        ("kdump.sh[1233]: kdump: Failed to load kexec kernel: Operation not supported\n", "kexec-refused-by-erratum"),
        (
            "node:[Wed Feb  7 13:24:07 2024] mce: [Hardware Error]: CPU 4: Machine Check Exception: 5 Bank 1: \
             bd80000000100134\n",
            "cpu-not-shown",
        ),
        ("Error: kexec_file_load syscall failed with -95\n", "kexec-refused-by-erratum"),
        (
            "[ 9.1] Lockdown: kexec: kexec of unsigned images is restricted; see man kernel_lockdown.7\n",
            "kexec-load-failed",
        ),
        // A record without the kernel's tags, as `mcelog --ascii` takes it.
        (
            "CPU 3: Machine Check Exception: 5 Bank 1: bd80000000100134\nRIP !INEXACT! 10:<ffffffff8104> {x+0x7/0x10}\n\
             TSC 1 ADDR 2a3b4c5000 MISC 86\nPROCESSOR 0:806f8 TIME 1 SOCKET 0 APIC 0\n",
            "kernel-silent-on-erratum-cpu",
        ),
        ("syscall kexec_file_load not available.\n", "kexec-load-failed"),
        ("systemd[1]: Failed to start kdump.service - Crash recovery kernel arming.\n", "kexec-load-failed"),
        // SEAMCALLs and exits
        ("[ 9.1] kvm_intel: tdh_phymem_page_reclaim() failed: c000030000000001\n", "seamcall-later"),
        ("[ 9.1] kvm: TDX: tdh_vp_enter returned 0x4000000200000000\n", "seamcall-later"),
        ("[ 9.1] kvm_intel: Unexpected TDX exit: vp_enter_ret 0x6000000500000006\n", "seamcall-later"),
        ("[ 9.1] kvm_intel: TD exit 0x0000000000000030, 48 hkid 0x21 hkid pa 0x420000000000\n", "seamcall-later"),
        // QEMU
        ("qemu-system-x86_64: TDX VM requires kernel_irqchip to be split\n", "td-configuration"),
        ("qemu-system-x86_64: TDX VM doesn't support SMM\n", "td-configuration"),
        ("qemu-system-x86_64: Named cpu model is not supported for TDX yet!\n", "td-configuration"),
    ] {
        assert_eq!(rules(text), [rule], "{text}");
    }
    // A message and the warning right after it are one call.
    let text = "[ 9.1] ------------[ cut here ]------------\n\
                [ 9.1] SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0x8000020000000092\n\
                [ 9.1] WARNING: arch/x86/kvm/vmx/tdx.c:1780 at tdx_sept_drop_private_spte+0x1/0x2, CPU#3: qemu/77\n\
                [ 9.1] ---[ end trace 0000000000000000 ]---\n";
    assert_eq!(rules(text), ["seamcall-later"]);
}

/// The value that a text is taken for: a status, an errno or a bank's register.
fn value(text: &str) -> Option<String> {
    match subject(text, &()).ok()?.subject {
        Subject::Status(status) => status.name,
        Subject::Errno(errno) => Some(errno.number.to_string()),
        Subject::Msr(msr) => Some(msr.value),
        Subject::Log(log) => Some(log.findings.first()?.rule.to_owned()),
    }
}

#[test]
fn values_in_odd_writing() {
    let metadata = "TDX_PAGE_METADATA_INCORRECT";
    for (text, is) in [
        ("0XC000030000000001", metadata),
        ("0xc000_0300_0000_0001", metadata),
        ("c000 0300 0000 0001", metadata),
        ("0xc0000300 00000001", metadata),
        ("\"0xc000030000000001\"", metadata),
        ("'0xc000030000000001',", metadata),
        ("(0xc000030000000001).", metadata),
        ("c000030000000001h", metadata),
        ("0xc000030000000001ULL", metadata),
        ("status=0xc000030000000001", metadata),
        ("error 0xc000030000000001", metadata),
        ("0x c000030000000001", metadata),
        ("TDX_PAGE_METADATA_INCORRECT (0xc000030000000001)", metadata),
        ("cleanslate explain 0xc000030000000001", metadata),
        ("13835061353817047041", metadata),
        ("-4611682719892504575", metadata),
        ("tdx_operand_busy.", "TDX_OPERAND_BUSY"),
        ("-28,", "-28"),
        ("(-28)", "-28"),
        ("errno -28", "-28"),
        ("rc=-19", "-19"),
        ("\u{2212}28", "-28"),
        ("ENOSPC.", "-28"),
        ("Operation not supported", "-95"),
        ("0xffffffffffffffe4", "-28"),
        ("4294967268", "-28"),
        ("Operation not supported (95)", "-95"),
        ("tdx_non_recoverable_td_wrong_apic_mode", "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE"),
        ("[Errno 28]", "-28"),
        ("[Errno 28] No space left on device", "-28"),
        ("OSError: [Errno 95] Operation not supported: '/dev/kvm'", "-95"),
        ("errno: 28", "-28"),
        ("errno: -28", "-28"),
        ("errno=28 (No space left on device)", "-28"),
        ("ERRNO 0x1c", "-28"),
        ("-0x1c", "-28"),
        ("TDX_OPERAND_BUSY|TDX_OPERAND_ID_RCX", "TDX_OPERAND_BUSY"),
        ("TDX_OPERAND_BUSY | TDX_OPERAND_ID_SEPT", "TDX_OPERAND_BUSY"),
        ("rax=0xc000030000000001,rcx=0x8000020000000000", metadata),
        ("RAX: c000030000000001 RBX: 8000020000000000 RCX: c000030000000000", metadata),
        ("0xc0000300-00000001", metadata),
        ("BD80000000100134.", "0xbd80000000100134"),
        ("SEAMCALL (0x1c) failed: 0xc000030000000001", "seamcall-later"),
        ("[ 9.1] virt/tdx: module not loaded", "module-not-loaded"),
    ] {
        assert_eq!(value(text).as_deref(), Some(is), "{text}");
    }
    for text in [
        "28h",
        "hello",
        "two 0xc000030000000001 values 0x8000020000000000",
        "-",
        "0x",
        "''",
        "rc=",
        "leaf 28",
        "c0:00:03:00:00:00:00:01",
        "c0-00-03-00-00-00-00-01",
        "c000:0300:0000:0001",
        "eth0 c0:00:03:00:00:01",
        "TDX_OPERAND_BUSY|TDX_OPERAND_ID_NOTHING",
        "TDX_OPERAND_BUSY|",
        "errno",
        "errno 99999",
        "errno 28 or errno 5",
    ] {
        assert_eq!(value(text), None, "{text}");
    }
    let command = subject("dmesg | grep -i tdx", &()).unwrap_err().to_string();
    assert!(command.contains("is a command"), "{command}");
    let asked = subject("28", &()).unwrap_err().to_string();
    assert!(asked.contains("did you mean -28"), "{asked}");
}
