//! Allow-list of what is kept of the items read: named lines, keys, options and words. No serial
//! number, host name, network address or disk UUID enters a report or a collected machine.

use core::fmt::Write;

use super::{
    cleanslate_ko::{MODES, POLICIES, TRACKS},
    item::Item,
    machine_checks::{CheckLines, Kept},
};
use crate::{
    bootlog::{self, call},
    explain::calls::says_lost,
};

/// Keys of a /proc/cpuinfo block that are kept for every CPU.
const EVERY_CPU: [&str; 7] = ["processor", "vendor_id", "cpu family", "model", "stepping", "microcode", "physical id"];
/// Keys that are kept for the first CPU only.
const FIRST_CPU: [&str; 3] = ["model name", "flags", "bugs"];

/// Options of the kernel that are kept.
const OPTIONS: [&str; 20] = [
    "ACPI_SLEEP",
    "CONTIG_ALLOC",
    "CRASH_DUMP",
    "HIBERNATION",
    "IKCONFIG_PROC",
    "INTEL_TDX_HOST",
    "KEXEC",
    "KEXEC_CORE",
    "KEXEC_FILE",
    "KEXEC_JUMP",
    "KVM",
    "KVM_INTEL",
    "KVM_INTEL_TDX",
    "PROC_VMCORE",
    "SECURITY_DMESG_RESTRICT",
    "SUSPEND",
    "X86_64",
    "X86_MCE",
    "X86_MSR",
    "X86_X2APIC",
];

/// Words of the command line that are kept whole.
const WORDS: [&str; 4] = ["nohibernate", "noresume", "nox2apic", "clearcpuid=movdir64b"];
/// Words that are kept with a value made of sizes.
const SIZED: [&str; 1] = ["crashkernel="];
/// Words of which only the name is kept: the value may name a disk.
const NAMES: [&str; 1] = ["resume="];

/// The part of `raw` that is kept, with the line ends of Unix.
pub(super) fn kept(item: Item, raw: &str) -> String {
    match item {
        Item::Cpuinfo => cpuinfo(raw),
        Item::Config => lines(raw, |line| option(line).is_some_and(|name| OPTIONS.contains(&name))),
        Item::Cmdline => cmdline(raw),
        Item::Meminfo => lines(raw, |line| line.starts_with("MemTotal:")),
        Item::BootLog => boot_log(raw),
        Item::Msr => raw.to_owned(),
        // The module says why it is lost in words of its own.
        Item::KoMode => {
            first_line(raw, |line| MODES.contains(&line.trim().split([':', ' ']).next().unwrap_or_default()))
        }
        Item::KoPolicy => first_line(raw, |line| POLICIES.contains(&line.trim())),
        Item::Osrelease => release(raw.lines().next().unwrap_or_default().trim()) + "\n",
        Item::BiosVersion | Item::BiosDate => first_line(raw, is_of_bios),
        Item::KexecLoaded
        | Item::CrashLoaded
        | Item::CrashSize
        | Item::PowerState
        | Item::PowerDisk
        | Item::MemSleep => first_line(raw, |_| true),
    }
}

fn first_line(raw: &str, keep: impl Fn(&str) -> bool) -> String {
    lines(raw.lines().next().unwrap_or_default(), keep)
}

fn lines(raw: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    for line in raw.lines().filter(|line| keep(line)) {
        out.extend([line, "\n"]);
    }
    out
}

fn cpuinfo(raw: &str) -> String {
    let mut first = true;
    let mut out = String::new();
    for line in raw.lines() {
        if line.trim().is_empty() {
            first &= out.is_empty();
            out.push('\n');
            continue;
        }
        let key = line.split(':').next().unwrap_or_default().trim();
        if EVERY_CPU.contains(&key) || first && FIRST_CPU.contains(&key) {
            out.extend([line, "\n"]);
        }
    }
    out
}

/// The name of the option of a line `CONFIG_X=y` or `# CONFIG_X is not set`.
pub(super) fn option(line: &str) -> Option<&str> {
    let set = line.strip_prefix("CONFIG_").and_then(|rest| rest.split_once('=')).map(|(name, _)| name);
    set.or_else(|| line.strip_prefix("# CONFIG_")?.strip_suffix(" is not set"))
}

fn cmdline(raw: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in raw.split_whitespace() {
        let sized = |name: &str| {
            let value = word.strip_prefix(name);
            value.is_some_and(|value| value.bytes().all(|b| b.is_ascii_digit() || b"KMGTkmgt-:,@x".contains(&b)))
        };
        if WORDS.contains(&word) || SIZED.iter().any(|name| sized(name)) {
            words.push(word);
        } else if let Some(name) = NAMES.iter().find(|name| word.starts_with(**name)) {
            words.push(name.trim_end_matches('='));
        }
    }
    words.join(" ") + "\n"
}

/// A version or a date of a BIOS; anything else may be a number of this machine.
fn is_of_bios(line: &str) -> bool {
    line.len() <= 48 && line.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._-/()[]+".contains(&b))
}

/// Words of a kernel release that name a distribution, a flavor or an architecture.
const RELEASE: [&str; 34] = [
    "amd",
    "arch",
    "aws",
    "azure",
    "bpo",
    "cloud",
    "debug",
    "default",
    "fc",
    "gcp",
    "generic",
    "hwe",
    "intel",
    "kvm",
    "lowlatency",
    "lp",
    "lts",
    "longterm",
    "ml",
    "oem",
    "opt",
    "pve",
    "rc",
    "realtime",
    "rpi",
    "rt",
    "server",
    "stable",
    "trunk",
    "uek",
    "unsigned",
    "vanilla",
    "x86",
    "zen",
];

/// A kernel release without words that may name who built it: `6.12.0-acme1+` is `6.12.0-x1+`.
pub(super) fn release(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let lower = word.to_ascii_lowercase();
        let known = RELEASE.contains(&lower.as_str()) || ["deb", "el", "git", "ubuntu", "v"].contains(&lower.as_str());
        // One letter names nobody: `el9_4`, `g0123abcd`.
        out.push_str(if known || word.len() <= 1 { word } else { "x" });
        word.clear();
    };
    for c in text.chars().take(96) {
        if c.is_ascii_alphabetic() {
            word.push(c);
            continue;
        }
        flush(&mut word, &mut out);
        if c.is_ascii_digit() || ".-+_~".contains(c) {
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
}

fn boot_log(raw: &str) -> String {
    let mut lines = BootLines::default();
    raw.lines().for_each(|line| lines.line(line));
    lines.out
}

/// Takes the lines of a log that are kept.
#[derive(Debug, Default)]
pub(super) struct BootLines {
    /// The lines so far.
    pub(super) out: String,
    /// Inside of a warning of the kernel's TDX code.
    in_warning: bool,
    /// Machine checks.
    checks: CheckLines,
}

impl BootLines {
    /// Takes a line. Its prefix may name a host: only the time since boot is kept.
    pub(super) fn line(&mut self, line: &str) {
        let split = bootlog::split(line);
        let journal = split.source == bootlog::Source::Program("systemd-journald");
        if journal && says_lost(split.text) {
            self.out.extend([split.text, "\n"]);
        }
        if split.source != bootlog::Source::Kernel {
            return;
        }
        let message = split.text;
        if let Some(version) = message.strip_prefix("Linux version ") {
            // What follows names who built the kernel, and on which machine.
            let version = release(version.split(' ').next().unwrap_or_default());
            self.out.extend(["Linux version ", &version, "\n"]);
            return;
        }
        let Some(message) = self.kept(line, message) else { return };
        if let Some(time) = split.since_boot {
            let _ = write!(self.out, "[{:5}.{:06}] ", time / 1_000_000, time % 1_000_000);
        }
        self.out.extend([message, "\n"]);
    }

    /// The part of a message that is kept.
    fn kept<'a>(&mut self, line: &str, message: &'a str) -> Option<&'a str> {
        if message.starts_with("WARNING: ") {
            self.in_warning = call::is_warning(message);
            // Newer kernels name the program.
            return self.in_warning.then(|| message.split(", CPU").next().unwrap_or(message));
        }
        if self.in_warning {
            if message.starts_with("---[ end trace") {
                self.in_warning = false;
                return Some(message);
            }
            if message.starts_with("RIP: ") {
                return Some(message);
            }
            // The other registers may hold anything.
            if call::rax(message).is_some() {
                return message.split(" RBX").next();
            }
        }
        match self.checks.kept(message) {
            Kept::Other => {}
            Kept::Nothing => return None,
            Kept::Part(part) => return Some(part),
        }
        let ours = message.starts_with(TRACKS) || says_lost(message);
        (ours || bootlog::is_fact(line) || encryption(message) || call::of(message).is_some()).then_some(message)
    }
}

/// A line of the kernel's memory-encryption code.
pub(super) fn encryption(message: &str) -> bool {
    message.starts_with("x86/tme:") || message.starts_with("x86/mktme:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_keeps_no_more_than_the_first_name() {
        let raw = "processor\t: 0\nvendor_id\t: GenuineIntel\nmicrocode\t: 0x2b\nmodel name\t: Xeon\nserial\t: 77\n\n\
                   processor\t: 1\nmodel name\t: Xeon\nflags\t: fpu\n";
        assert_eq!(
            kept(Item::Cpuinfo, raw),
            "processor\t: 0\nvendor_id\t: GenuineIntel\nmicrocode\t: 0x2b\nmodel name\t: Xeon\n\nprocessor\t: 1\n"
        );
    }

    #[test]
    fn options() {
        let raw = "# comment\nCONFIG_KEXEC=y\n# CONFIG_CRASH_DUMP is not set\nCONFIG_DEFAULT_HOSTNAME=\"node7\"\n";
        assert_eq!(kept(Item::Config, raw), "CONFIG_KEXEC=y\n# CONFIG_CRASH_DUMP is not set\n");
    }

    #[test]
    fn command_line() {
        let raw = "BOOT_IMAGE=/vmlinuz root=UUID=1234 ip=10.0.0.7::10.0.0.1 nohibernate resume=UUID=5678 \
                   crashkernel=1G-4G:192M,4G-:512M netconsole=@10.0.0.7/eth0,@10.0.0.1/aa:bb:cc:dd:ee:ff \
                   crashkernel=$(hostname)";
        assert_eq!(kept(Item::Cmdline, raw), "nohibernate resume crashkernel=1G-4G:192M,4G-:512M\n");
    }

    #[test]
    fn boot_lines() {
        let raw = "[ 0.0] Linux version 7.2.0-1 (build@farm.example) (gcc) #1\n[ 0.0] Command line: ip=10.0.0.7\n\
                   [ 0.0] DMI: Dell R760/0ABC, BIOS 2.9.4\n[ 1.0] virt/tdx: module initialized\n\
                   [ 1.1] x86/tme: enabled by BIOS\n[ 2.0] e1000e 0000:00:1f.6 eth0: 02:00:00:00:00:01\n\
                   [ 3.0] cleanslate: tracking SEAMCALLs, private memory will be reset at kexec\n\
                   # cpu: a comment\n";
        assert_eq!(
            kept(Item::BootLog, raw),
            "Linux version 7.2.0-1\n[    1.000000] virt/tdx: module initialized\n[    1.100000] x86/tme: enabled by BIOS\n\
             [    3.000000] cleanslate: tracking SEAMCALLs, private memory will be reset at kexec\n"
        );
    }

    #[test]
    fn failed_calls_and_no_names() {
        let raw = "Nov 29 10:00:00 node7.acme.example kernel: kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: \
                   0xc000030000000001\n\
                   Nov 29 10:00:01 node7 kernel: [ 7.5] WARNING: arch/x86/kvm/vmx/tdx.c:357 at __tdx_reclaim_page+0x1/0x2 \
                   [kvm_intel], CPU#3: acmevisor/77\n\
                   Nov 29 10:00:01 node7 kernel: Hardware name: ACME Corp Rack 7\n\
                   Nov 29 10:00:01 node7 kernel: RIP: 0010:__tdx_reclaim_page+0x1/0x2 [kvm_intel]\n\
                   Nov 29 10:00:01 node7 kernel: RAX: c000030000000001 RBX: 6578616d706c6531 RCX: 0\n\
                   Nov 29 10:00:01 node7 kernel: ---[ end trace 0000000000000000 ]---\n\
                   Nov 29 10:00:02 node7 kernel: RAX: c000030000000001 RBX: 0\n\
                   Nov 29 10:00:02 node7 kernel: __tdx_reclaim_page: 3 callbacks suppressed\n\
                   Nov 29 10:00:02 node7 systemd-journald[1]: Missed 34 kernel messages\n\
                   Nov 29 10:00:03 node7 sudo[1]: alice : virt/tdx: x SEAMCALL (0x1c) failed\n";
        assert_eq!(
            kept(Item::BootLog, raw),
            "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001\n\
             [    7.500000] WARNING: arch/x86/kvm/vmx/tdx.c:357 at __tdx_reclaim_page+0x1/0x2 [kvm_intel]\n\
             RIP: 0010:__tdx_reclaim_page+0x1/0x2 [kvm_intel]\nRAX: c000030000000001\n\
             ---[ end trace 0000000000000000 ]---\n\
             __tdx_reclaim_page: 3 callbacks suppressed\nMissed 34 kernel messages\n"
        );
    }

    #[test]
    fn machine_checks_without_names() {
        let raw = "[ 9.1] mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 13: 8c00004000010090\n\
                   [ 9.1] mce: [Hardware Error]: TSC 1 ADDR 2a3b4c5640 MISC 86 PPIN 77\n\
                   [ 9.2] mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
                   [ 9.2] mce: [Hardware Error]: RIP 10:<ffffffff981d7af3> {acme_secret+0x83/0xf0}\n\
                   [ 9.2] mce: [Hardware Error]: TSC 1 ADDR 2a3b4c5640 MISC 86 PPIN 77\n\
                   [ 9.2] mce: [Hardware Error]: PROCESSOR 0:806f8 TIME 1 SOCKET 0 APIC 0 microcode 2b000571\n\
                   [ 9.2] mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug.\n\
                   [ 9.3] Memory failure: 0x2a3b4c5: Sending SIGBUS to acmevisor:77 due to hardware memory corruption\n\
                   [ 9.3] Memory failure: 0x2a3b4c5: recovery action for dirty LRU page: Recovered\n\
                   [ 9.4] {1}[Hardware Error]: event severity: fatal\n\
                   [ 9.4] {1}[Hardware Error]:  fru_text: ACME rack 7\n\
                   [ 9.4] {1}[Hardware Error]:   section_type: memory error\n\
                   [ 9.5] {2}[Hardware Error]: event severity: corrected\n\
                   [ 9.5] {2}[Hardware Error]:   section_type: memory error\n";
        assert_eq!(
            kept(Item::BootLog, raw),
            "[    9.200000] mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             [    9.200000] mce: [Hardware Error]: TSC 1 ADDR 2a3b4c5640\n\
             [    9.200000] mce: [Hardware Error]: PROCESSOR 0:806f8\n\
             [    9.200000] mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug.\n\
             [    9.300000] Memory failure: 0x2a3b4c5: recovery action for dirty LRU page: Recovered\n\
             [    9.400000] {1}[Hardware Error]: event severity: fatal\n\
             [    9.400000] {1}[Hardware Error]:   section_type: memory error\n"
        );
        let storm = raw.repeat(200);
        assert!(kept(Item::BootLog, &storm).lines().count() < 512, "bounded");
    }

    #[test]
    fn a_release_names_nobody() {
        for (is, kept_as) in [
            ("6.12.57+deb13-amd64", "6.12.57+deb13-amd64"),
            ("7.1.3+deb13-cloud-amd64", "7.1.3+deb13-cloud-amd64"),
            ("7.0.0-14-generic", "7.0.0-14-generic"),
            ("6.4.0-150700.53-default", "6.4.0-150700.53-default"),
            ("6.18.3-200.fc43.x86_64", "6.18.3-200.fc43.x86_64"),
            ("5.14.0-611.el9_7.x86_64", "5.14.0-611.el9_7.x86_64"),
            ("6.18.44-fc-v669", "6.18.44-fc-v669"),
            ("7.2.0-rc1-g0123abc+", "7.2.0-rc1-g0123x+"),
            ("6.12.0-acmecorp7.example.com", "6.12.0-x7.x.x"),
        ] {
            assert_eq!(release(is), kept_as, "{is}");
        }
    }

    #[test]
    fn bios() {
        assert_eq!(kept(Item::BiosVersion, "SE5C7411.86B.9525.D13.2302071333\n"), "SE5C7411.86B.9525.D13.2302071333\n");
        assert_eq!(kept(Item::BiosVersion, "-[IVE142E-1.30]-\n"), "-[IVE142E-1.30]-\n");
        assert_eq!(kept(Item::BiosVersion, "U54 v2.30 (06/01/2026)\n"), "U54 v2.30 (06/01/2026)\n");
        assert_eq!(
            (kept(Item::BiosDate, "06/01/2026\n").as_str(), kept(Item::BiosVersion, "asset#7@acme\n").as_str()),
            ("06/01/2026\n", "")
        );
    }

    #[test]
    fn one_line_files() {
        assert_eq!(kept(Item::KexecLoaded, "1\nmore\n"), "1\n");
        assert_eq!(kept(Item::PowerState, ""), "");
        assert_eq!(kept(Item::KoMode, "unknown: this kernel builds TDs\nmore\n"), "unknown: this kernel builds TDs\n");
        assert_eq!(kept(Item::KoMode, "node7.example.org\n"), "");
        assert_eq!(
            (kept(Item::KoPolicy, "tracked\n"), kept(Item::KoPolicy, "alice\n")),
            ("tracked\n".to_owned(), String::new())
        );
    }
}
