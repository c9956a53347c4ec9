//! TDX failures that the kernel or KVM reports as text without a number, in the wording of every
//! version. Their meaning is in the `explain` module.

/// What the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Words {
    /// No private KeyIDs, or a reason that it has given before.
    NoPlatform,
    /// One private KeyID is none for a TD.
    TooFewKeyIds,
    /// It could hibernate.
    Hibernation,
    /// It would not be told of new memory.
    MemoryNotifier,
    /// SEAMCALL raised #GP.
    NotEnabled,
    /// SEAMCALL set the carry flag.
    NotLoaded,
    /// SEAMCALL raised #UD.
    NotInVmx,
    /// SYS.INIT answered INCORRECT_CPUID_VALUE, which some versions say in these words.
    Outdated,
    /// The module may change RBP.
    ChangesRbp,
    /// More TDMRs than the module takes.
    TdmrsExhausted,
    /// An instruction or a property that the CPU, or the kernel's idea of it, lacks.
    NeedsXsave,
    /// As above.
    NeedsMovdir64b,
    /// As above.
    NeedsSelfSnoop,
    /// A failure in words that are not known.
    Unknown,
}

impl Words {
    /// What a line says behind its prefix; `None` if it speaks of no failure that is known.
    pub(crate) fn of(line: &str) -> Option<Self> {
        let line = ["[firmware bug]: ", "initialization failed: ", "SEAMCALL failed: "]
            .iter()
            .fold(line.trim(), |line, before| line.strip_prefix(before).unwrap_or(line));
        let words = line.trim_end_matches('.');
        let known = match words {
            "TDX not supported by the host platform" | "no TDX private KeyIDs available" => Self::NoPlatform,
            "too few private KeyIDs available" => Self::TooFewKeyIds,
            "Hibernation support is enabled" => Self::Hibernation,
            "not enabled by BIOS" | "TDX is not enabled by BIOS" => Self::NotEnabled,
            "module not loaded" | "module is not loaded" | "TDX module is not loaded" => Self::NotLoaded,
            "NO_RBP_MOD feature is not supported" | "frame pointer (RBP) clobber bug present, upgrade TDX module" => {
                Self::ChangesRbp
            }
            "TDMRs exhausted" => Self::TdmrsExhausted,
            "XSAVE is required for TDX" | "OSXSAVE is required for TDX" => Self::NeedsXsave,
            "MOVDIR64B is required for TDX" => Self::NeedsMovdir64b,
            "Self-snoop is required for TDX" => Self::NeedsSelfSnoop,
            _ if words.starts_with("TDX module is outdated") || words.starts_with("module is outdated") => {
                Self::Outdated
            }
            _ if words.starts_with("register_memory_notifier() failed") => Self::MemoryNotifier,
            _ if words.strip_prefix("CPU ").is_some_and(not_in_vmx) => Self::NotInVmx,
            _ => return None,
        };
        Some(known)
    }

    /// True if the kernel stops here before it asks the module anything, and before it notes the
    /// CPU's erratum.
    pub fn is_early(self) -> bool {
        matches!(self, Self::NoPlatform | Self::TooFewKeyIds | Self::Hibernation | Self::MemoryNotifier)
    }
}

/// `3 is not in VMX operation`.
fn not_in_vmx(rest: &str) -> bool {
    let number = rest.strip_suffix(" is not in VMX operation");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wordings are those of `linux.md` 1.5 and of the sources of v12, 6.8 and 7.3.
    #[test]
    fn every_wording() {
        for (line, words) in [
            ("TDX not supported by the host platform", Words::NoPlatform),
            ("initialization failed: too few private KeyIDs available.", Words::TooFewKeyIds),
            ("initialization failed: Hibernation support is enabled", Words::Hibernation),
            ("initialization failed: register_memory_notifier() failed (-12)", Words::MemoryNotifier),
            ("[firmware bug]: TDX is not enabled by BIOS.", Words::NotEnabled),
            ("module not loaded", Words::NotLoaded),
            ("SEAMCALL failed: CPU 3 is not in VMX operation.", Words::NotInVmx),
            ("CPU 3 is not in VMX operation", Words::NotInVmx),
            ("TDX module is outdated. Use v1.0.3 or newer.", Words::Outdated),
            ("frame pointer (RBP) clobber bug present, upgrade TDX module", Words::ChangesRbp),
            ("initialization failed: TDMRs exhausted.", Words::TdmrsExhausted),
            ("XSAVE is required for TDX", Words::NeedsXsave),
            ("MOVDIR64B is required for TDX", Words::NeedsMovdir64b),
            ("Self-snoop is required for TDX", Words::NeedsSelfSnoop),
        ] {
            assert_eq!(Words::of(line), Some(words), "{line}");
        }
        for line in
            ["", "CPU x is not in VMX operation", "module initialized", "initialization failed: the moon is full"]
        {
            assert_eq!(Words::of(line), None, "{line}");
        }
    }
}
