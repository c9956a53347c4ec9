//! The errno of a failed bring-up or a refused kexec, as `initialization failed (-28)` and tools
//! print it: which failures give it. What errno says in other places is not said here.
//!
//! Sources: `linux.md` sections 0, 1.3 and 1.5, `fixtures/INDEX.md`.

use super::causes::SHOW_PLAN;
use crate::report::{ErrnoCause, ErrnoReport};

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

const KNOWN: [Errno; 6] = [
    Errno {
        number: 5,
        name: "EIO",
        meaning: "a SEAMCALL of the bring-up failed; the status stands in the line before",
        causes: &[
            ("module-too-old", "SEAMCALL (0x22) failed: 0xc000050500000000", "a module of 1.0 under a kernel for 1.5"),
            ("module-and-cpu", "SEAMCALL (0x21) failed: 0xc000090000000000", "module and CPU or microcode do not fit"),
            (
                "module-used-before",
                "SEAMCALL (0x21) failed: 0xc000050000000000",
                "a kernel before this one has initialised the module",
            ),
            (
                "register-value",
                "SEAMCALL (0x21) failed: 0xc0000921000000NN",
                "a register has a value that the module refuses",
            ),
            ("seamcall-failed", "SEAMCALL (LEAF) failed: STATUS", "any other answer of the module"),
        ],
        todo: "explain the status: `cleanslate explain STATUS`, or the whole log: `dmesg | cleanslate explain -`",
        alone: None,
    },
    Errno {
        number: 12,
        name: "ENOMEM",
        meaning: "memory was not to be had",
        causes: &[(
            "errno-alone",
            "module initialization failed (-12)",
            "no memory was found for the PAMTs: each is one piece of 1/256 of its TDMR",
        )],
        todo: "bring TDX up earlier, at boot",
        alone: Some((
            "no memory was found for the PAMTs: each is one piece of 1/256 of its TDMR",
            "bring TDX up earlier, at boot",
        )),
    },
    Errno {
        number: 19,
        name: "ENODEV",
        meaning: "there is no TDX module to talk to, or none that this kernel takes",
        causes: &[
            ("module-not-loaded", "module not loaded", "the BIOS has loaded no module, or it died"),
            ("seam-off", "not enabled by BIOS", "the BIOS did not turn SEAM on"),
            (
                "no-tdx-here",
                "TDX not supported by the host platform",
                "no private KeyIDs, or a reason before, as hibernation",
            ),
            ("needs-self-snoop", "Self-snoop is required for TDX", "the kernel does not see this property of the CPU"),
            ("module-and-cpu", "TDX module is outdated", "module and CPU or microcode do not fit"),
        ],
        todo: "turn TDX and its SEAM loader on in the BIOS; the line before says which of them it is",
        alone: Some((
            "there is no TDX module to talk to, or the BIOS did not turn SEAM on",
            "turn TDX and its SEAM loader on in the BIOS",
        )),
    },
    Errno {
        number: 22,
        name: "EINVAL",
        meaning: "something that TDX needs is not as this kernel wants it",
        causes: &[
            ("needs-movdir64b", "MOVDIR64B is required for TDX", "the kernel does not see this instruction"),
            ("needs-xsave", "XSAVE is required for TDX", "the kernel does not see this instruction"),
            ("module-changes-rbp", "NO_RBP_MOD feature is not supported", "the module may change RBP"),
            ("cpu-not-in-vmx", "CPU N is not in VMX operation", "a CPU has not entered VMX operation, or has left it"),
        ],
        todo: "look at the line before; a second try after a failed bring-up gives this errno too, for ever",
        alone: None,
    },
    Errno {
        number: 28,
        name: "ENOSPC",
        meaning: "the memory map does not fit into what the module takes",
        causes: &[
            (
                "reserved-areas-exhausted",
                "initialization failed: TDMR [BASE, END): reserved areas exhausted",
                "a TDMR has more holes than the module's 16 reserved areas",
            ),
            ("tdmrs-exhausted", "initialization failed: TDMRs exhausted", "the map needs more than 64 TDMRs"),
        ],
        todo: SHOW_PLAN,
        alone: Some(("TDMRs or reserved areas did not suffice for the memory map", SHOW_PLAN)),
    },
    Errno {
        number: 95,
        name: "EOPNOTSUPP",
        meaning: "the kernel does not do it here; `kexec` prints it as `Operation not supported`",
        causes: &[(
            "kexec.jump",
            "kexec_load, kexec_file_load",
            "Linux 6.18 to 7.1 load no kexec and no crash image on a CPU with the erratum while the BIOS has TDX on",
        )],
        todo: "reboot through the firmware, take Linux 7.2 or later, or turn TDX off in the BIOS; `cleanslate check` says what holds here",
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
    let digits = text.strip_prefix('-').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|number| (1..4096).contains(number))
}

/// What it says.
pub(super) fn explain(number: u32) -> ErrnoReport {
    let Some(known) = KNOWN.iter().find(|known| known.number == number) else {
        return ErrnoReport {
            number: -i64::from(number),
            name: None,
            known: false,
            meaning: "an errno that no failure of TDX is known to give here".to_owned(),
            causes: Vec::new(),
            todo: "give the whole log: `dmesg | cleanslate explain -`".to_owned(),
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
        for (text, number) in [("-28", Some(28)), ("enospc", Some(28)), (" -5", Some(5)), ("-4095", Some(4095))] {
            assert_eq!(named(text), number, "{text}");
        }
        // Completion statuses, and what is neither.
        for text in ["28", "-0", "-4096", "-4611680499394412544", "--28", "-2x", "", "-"] {
            assert_eq!(named(text), None, "{text}");
        }
        assert!(!explain(1).known && explain(5).causes.len() >= 5);
    }
}
