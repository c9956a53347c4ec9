//! Errno of a failed TDX initialization or a refused kexec, as in `initialization failed (-28)`:
//! the failures that return it. Other uses of an errno are out of scope.

use crate::report::{ErrnoCause, ErrnoReport};

/// Remedy for a layout that does not fit.
pub(super) const SHOW_PLAN: &str = "`cleanslate plan --host FILE --layout linux` shows the TDMR";

/// Remedy for images that the kernel refuses because of the erratum.
pub(super) const REFUSED: &str = "reboot through the firmware, use Linux 7.2 or later, or disable TDX in the BIOS; see \
            `cleanslate check` for this machine";

struct Errno {
    number: u32,
    name: &'static str,
    meaning: &'static str,
    /// Rule, line and cause of each failure that gives it.
    causes: &'static [(&'static str, &'static str, &'static str)],
    todo: &'static str,
    /// Cause and remedy where the number is all that a log shows, if it has one cause.
    alone: Option<(&'static str, &'static str)>,
}

const KNOWN: [Errno; 8] = [
    Errno {
        number: 5,
        name: "EIO",
        meaning: "a SEAMCALL failed during initialization; see the status in the preceding line",
        causes: &[
            (
                "module-too-old",
                "SEAMCALL (0x22) failed: 0xc000050500000000",
                "a 1.0 module with a kernel \
                that requires 1.5",
            ),
            (
                "module-and-cpu",
                "SEAMCALL (0x21) failed: 0xc000090000000000",
                "module and CPU or microcode \
                do not match",
            ),
            (
                "module-used-before",
                "SEAMCALL (0x21) failed: 0xc000050000000000",
                "an earlier kernel initialized the module",
            ),
            (
                "register-value",
                "SEAMCALL (0x21) failed: 0xc0000921000000NN",
                "an MSR has a value that the module rejects",
            ),
            ("seamcall-failed", "SEAMCALL (LEAF) failed: STATUS", "any other module status"),
        ],
        todo: "explain the status: `cleanslate explain STATUS`, or the whole log: `dmesg | cleanslate explain -`",
        alone: None,
    },
    Errno {
        number: 11,
        name: "EAGAIN",
        meaning: "something that the call needs is not there now",
        causes: &[(
            "kvm-command-failed",
            "KVM_TDX_INIT_VM failed: Resource temporarily unavailable",
            "the CPU's random number generator had no entropy for the key of a TD",
        )],
        todo: "start the TD again",
        alone: None,
    },
    Errno {
        number: 12,
        name: "ENOMEM",
        meaning: "out of memory",
        causes: &[(
            "errno-alone",
            "module initialization failed (-12)",
            "PAMT allocation failed: each PAMT is a contiguous range of 1/256 of its TDMR",
        )],
        todo: "initialize TDX earlier, at boot",
        alone: Some((
            "PAMT allocation failed: each PAMT is a contiguous range of 1/256 of its TDMR",
            "initialize TDX earlier, at boot",
        )),
    },
    Errno {
        number: 16,
        name: "EBUSY",
        meaning: "a resource is in use",
        causes: &[(
            "kvm-command-failed",
            "KVM_TDX_INIT_VM failed: Device or resource busy",
            "a resource of the module is in use, or the limit of KeyIDs for this cgroup is reached",
        )],
        todo: "start the TD again; if it fails again, see `misc.max` of its cgroup, and the kernel log",
        alone: None,
    },
    Errno {
        number: 19,
        name: "ENODEV",
        meaning: "no TDX module is available, or none that this kernel supports",
        causes: &[
            ("module-not-loaded", "module not loaded", "the BIOS loaded no module, or the module died"),
            ("seam-off", "not enabled by BIOS", "SEAM is not enabled by the BIOS"),
            (
                "no-tdx-here",
                "TDX not supported by the host platform",
                "no private KeyIDs, or an earlier reason such as hibernation",
            ),
            ("needs-self-snoop", "Self-snoop is required for TDX", "the kernel does not detect this CPU feature"),
            ("module-and-cpu", "TDX module is outdated", "module and CPU or microcode do not match"),
        ],
        todo: "enable TDX and its SEAM loader in the BIOS; the preceding line tells which one is missing",
        alone: Some((
            "no TDX module is available, or SEAM is not enabled by the BIOS",
            "enable TDX and its SEAM loader in the BIOS",
        )),
    },
    Errno {
        number: 22,
        name: "EINVAL",
        meaning: "a requirement of this kernel for TDX is not met",
        causes: &[
            ("needs-movdir64b", "MOVDIR64B is required for TDX", "the kernel does not detect this instruction"),
            ("needs-xsave", "XSAVE is required for TDX", "the kernel does not detect this instruction"),
            ("module-changes-rbp", "NO_RBP_MOD feature is not supported", "the module may change RBP"),
            ("cpu-not-in-vmx", "CPU N is not in VMX operation", "a CPU is not in VMX operation"),
        ],
        todo: "see the preceding line; any further attempt after a failed initialization returns this errno as well",
        alone: None,
    },
    Errno {
        number: 28,
        name: "ENOSPC",
        meaning: "at the initialization: the memory map exceeds the module's limits; at the start of a TD: no KeyID",
        causes: &[
            (
                "reserved-areas-exhausted",
                "initialization failed: TDMR [BASE, END): reserved areas exhausted",
                "a TDMR has more holes than the module's 16 reserved areas",
            ),
            ("tdmrs-exhausted", "initialization failed: TDMRs exhausted", "the memory map needs more than 64 TDMRs"),
            (
                "kvm-command-failed",
                "KVM_TDX_INIT_VM failed: No space left on device",
                "no free private KeyID; each TD needs one",
            ),
        ],
        todo: SHOW_PLAN,
        alone: Some(("too few TDMRs or reserved areas for the memory map", SHOW_PLAN)),
    },
    Errno {
        number: 95,
        name: "EOPNOTSUPP",
        meaning: "not supported by the kernel here; `kexec` prints `Operation not supported`",
        causes: &[(
            "kexec-refused-by-erratum",
            "kexec: Not allowed on platform with tdx_pw_mce bug",
            "Linux 6.18 to 7.1 refuse kexec and crash images on a CPU with the erratum while TDX is enabled \
                in the BIOS",
        )],
        todo: REFUSED,
        alone: None,
    },
];

/// Cause and remedy of an errno that stands alone in a log.
pub(super) fn alone(number: u32) -> Option<(&'static str, &'static str)> {
    KNOWN.iter().find(|known| known.number == number)?.alone
}

/// `-28`, or `ENOSPC`. A negative number this small is no completion status: that has bits 63:32.
pub(super) fn named(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(known) = KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(text)) {
        return Some(known.number);
    }
    let digits = text.strip_prefix('-')?;
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok()?,
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    Some(number).filter(|number| (1..4096).contains(number))
}

/// What it says.
pub(super) fn explain(number: u32) -> ErrnoReport {
    let Some(known) = KNOWN.iter().find(|known| known.number == number) else {
        return ErrnoReport {
            number: -i64::from(number),
            name: None,
            known: false,
            meaning: "not an errno known from any TDX failure".to_owned(),
            causes: Vec::new(),
            todo: "provide the complete log: `dmesg | cleanslate explain -`".to_owned(),
        };
    };
    let causes = known.causes.iter().map(|&(rule, line, cause)| ErrnoCause { rule, line, cause });
    ErrnoReport {
        number: -i64::from(number),
        name: Some(known.name),
        known: true,
        meaning: known.meaning.to_owned(),
        causes: causes.collect(),
        todo: known.todo.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        for (text, number) in
            [("-28", Some(28)), ("enospc", Some(28)), (" -5", Some(5)), ("-4095", Some(4095)), ("-0x1c", Some(28))]
        {
            assert_eq!(named(text), number, "{text}");
        }
        // Completion statuses, and what is neither.
        for text in ["28", "-0", "-4096", "-4611680499394412544", "--28", "-2x", "-0x", "-0x1g", "-0x1000", "", "-"] {
            assert_eq!(named(text), None, "{text}");
        }
        assert!([11, 16, 28].into_iter().all(|number| explain(number).known));
        assert!(!explain(1).known && explain(5).causes.len() >= 5);
    }
}
