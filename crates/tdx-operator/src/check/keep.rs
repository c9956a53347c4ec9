//! Allow-list of what is kept of the items read: named lines, keys, options and words. No serial
//! number, host name, network address or disk UUID enters a report or a collected machine.

use super::{
    cleanslate_ko::{MODES, POLICIES},
    item::Item,
};
use crate::bootlog;

/// Keys of a /proc/cpuinfo block that are kept for every CPU.
const EVERY_CPU: [&str; 6] = ["processor", "vendor_id", "cpu family", "model", "stepping", "physical id"];
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
        Item::KoMode => first_line(raw, |line| MODES.contains(&line.split(':').next().unwrap_or_default().trim())),
        Item::KoPolicy => first_line(raw, |line| POLICIES.contains(&line.trim())),
        Item::Osrelease
        | Item::KexecLoaded
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

fn boot_log(raw: &str) -> String {
    let mut out = String::new();
    for line in raw.lines() {
        let message = bootlog::message(line);
        if let Some(version) = message.strip_prefix("Linux version ") {
            // What follows names who built the kernel, and on which machine.
            out.extend(["Linux version ", version.split(' ').next().unwrap_or_default(), "\n"]);
        } else if bootlog::is_fact(line) || encryption(message) {
            out.extend([line, "\n"]);
        }
    }
    out
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
            "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n\nprocessor\t: 1\n"
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
                   # cpu: a comment\n";
        assert_eq!(
            kept(Item::BootLog, raw),
            "Linux version 7.2.0-1\n[ 1.0] virt/tdx: module initialized\n[ 1.1] x86/tme: enabled by BIOS\n"
        );
    }

    #[test]
    fn one_line_files() {
        assert_eq!(kept(Item::KexecLoaded, "1\nmore\n"), "1\n");
        assert_eq!(kept(Item::Osrelease, ""), "");
        assert_eq!(kept(Item::KoMode, "unknown: this kernel builds TDs\nmore\n"), "unknown: this kernel builds TDs\n");
        assert_eq!(kept(Item::KoMode, "node7.example.org\n"), "");
        assert_eq!(
            (kept(Item::KoPolicy, "tracked\n"), kept(Item::KoPolicy, "alice\n")),
            ("tracked\n".to_owned(), String::new())
        );
    }
}
