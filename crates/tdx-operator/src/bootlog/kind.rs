//! Line classification by the start of the message. Does not validate the line.

use super::{e820::E820Map, iomem, numa, prefix};

/// A line worth reading, and what follows the words that tell its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind<'a> {
    E820(E820Map, &'a str),
    Iomem(&'a str),
    Tdx(&'a str),
    Srat(&'a str),
    Numa(&'a str),
    EarlyNode(&'a str),
    Cpu(&'a str),
    Packages(&'a str),
    BroughtUp(&'a str),
    Activated(&'a str),
    Allowed(&'a str),
    Kernel(&'a str),
    KexecRefused,
    Comment(&'a str),
}

/// The kind of a line; `None` if it is of no interest.
pub(super) fn of(line: &str) -> Option<Kind<'_>> {
    if iomem::is_system_ram(line) {
        return Some(Kind::Iomem(line));
    }
    let message = prefix::message(line);
    if let Some(comment) = message.strip_prefix('#') {
        return comment.trim_start().strip_prefix("cpu:").map(Kind::Comment);
    }
    // Newer kernels put `ACPI: ` before SRAT and `CPU topo: ` before counts.
    let body = ["ACPI: ", "CPU topo: "].iter().find_map(|words| message.strip_prefix(words)).unwrap_or(message);
    let after = |words: &str| body.strip_prefix(words);
    if let Some(rest) = tdx_line(body) {
        return Some(Kind::Tdx(rest));
    }
    if is_kexec_refused(message) {
        return Some(Kind::KexecRefused);
    }
    if let Some(rest) = after("BIOS-e820:") {
        return Some(Kind::E820(E820Map::Bios, rest));
    }
    if let Some(rest) = after("user:").filter(|rest| rest.trim_start().starts_with("[mem ")) {
        return Some(Kind::E820(E820Map::User, rest));
    }
    if let Some(rest) = after("node").filter(|rest| numa::is_early(rest)) {
        return Some(Kind::EarlyNode(rest));
    }
    let packages = ["smpboot: Max logical packages:", "Max. logical packages:", "Max logical packages:"];
    let brought_up = ["smp: Brought up ", "x86: Booted up "];
    let activated = ["smpboot: Total of ", "Total of "];
    // Of the whole message: without the words before it, "Allowing" may come from any driver.
    let allowed = ["CPU topo: Allowing ", "smpboot: Allowing ", "SMP: Allowing "];
    None.or_else(|| after("SRAT: Node ").map(Kind::Srat))
        .or_else(|| after("NUMA: Node ").map(Kind::Numa))
        .or_else(|| after("smpboot: CPU0: ").map(Kind::Cpu))
        .or_else(|| after("Linux version ").map(Kind::Kernel))
        .or_else(|| packages.iter().find_map(|words| after(words)).map(Kind::Packages))
        .or_else(|| brought_up.iter().find_map(|words| after(words)).map(Kind::BroughtUp))
        .or_else(|| activated.iter().find_map(|words| after(words)).filter(numa::is_activated).map(Kind::Activated))
        .or_else(|| allowed.iter().find_map(|words| message.strip_prefix(words)).map(Kind::Allowed))
}

/// What follows the tag of the kernel's TDX host code: `virt/tdx:`, `tdx:` up to 6.5, `seam:` and
/// `seamldr:` of code that loads the module.
pub(crate) fn tdx_line(message: &str) -> Option<&str> {
    ["virt/tdx:", "tdx:", "seam:", "seamldr:"].iter().find_map(|tag| message.strip_prefix(tag))
}

/// Linux 6.18 to 7.1, when an image is loaded on a CPU with the erratum.
pub(crate) fn is_kexec_refused(message: &str) -> bool {
    let words = message.strip_prefix("kexec: ").unwrap_or(message);
    words.trim_end_matches('.').eq_ignore_ascii_case("not allowed on platform with tdx_pw_mce bug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(of("[    1.0] virt/tdx: CMR: x"), Some(Kind::Tdx(" CMR: x")));
        assert_eq!(of("tdx: CMR: x"), Some(Kind::Tdx(" CMR: x")));
        assert_eq!(of(" BIOS-e820: [mem x"), Some(Kind::E820(E820Map::Bios, " [mem x")));
        assert_eq!(of("[ 0.0] user: [mem 0x0-0x1] usable"), Some(Kind::E820(E820Map::User, " [mem 0x0-0x1] usable")));
        assert_eq!(of("[ 0.0] ACPI: SRAT: Node 1 PXM"), Some(Kind::Srat("1 PXM")));
        assert_eq!(of("[ 0.0] CPU topo: Max. logical packages:   2"), Some(Kind::Packages("   2")));
        assert_eq!(of("[ 0.0]   node   0: [mem 0x1000-0x1fff]"), Some(Kind::EarlyNode("   0: [mem 0x1000-0x1fff]")));
        assert_eq!(
            of("[ 0.0] smpboot: Total of 2 processors activated (1 x"),
            Some(Kind::Activated("2 processors activated (1 x"))
        );
        assert_eq!(of("[ 0.0] CPU topo: Allowing 2 present CPUs"), Some(Kind::Allowed("2 present CPUs")));
        assert_eq!(of("[ 0.0] smpboot: Allowing 2 CPUs, 0"), Some(Kind::Allowed("2 CPUs, 0")));
        assert_eq!(of("[ 9.0] kexec: Not allowed on platform with tdx_pw_mce bug."), Some(Kind::KexecRefused));
        assert_eq!(of("# cpu: Emerald"), Some(Kind::Comment(" Emerald")));
        assert_eq!(of("00100000-5d168fff : System RAM"), Some(Kind::Iomem("00100000-5d168fff : System RAM")));
    }

    #[test]
    fn of_no_interest() {
        for line in [
            "",
            "# virt/tdx: CMR: [0x0, 0x1)",
            "# note: BIOS-e820: [mem",
            "WARNING: CPU: 128 PID: 151022 at arch/x86/kvm/vmx/tdx.c:1494 tdx_mem_page_aug+0x102/0x1d0 [",
            "user: root",
            "Total of 3 devices",
            "Allowing 2 users",
            "kvm_intel: Failed to initialize TDX module.",
            "Initmem setup node 0 [mem 0x0000000000001000-0x000000007fffffff]",
            "ACPI: SRAT 0x000000005D23A000 002830 (v03 INTEL  INTEL ID 00000002 INTL 20091013)",
            "SRAT: PXM 0 -> APIC 0x00 -> Node 0",
            "  00100000-5d168fff : System RAM",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
