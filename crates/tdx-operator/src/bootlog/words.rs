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
    /// The memory hotplug notifier could not be registered.
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
    /// KVM runs with EPT disabled.
    NeedsEpt,
    /// KVM runs without its TDP MMU, or without what it needs.
    NeedsTdpMmu,
    /// KVM runs without MMIO caching.
    NeedsMmioCaching,
    /// KVM runs with APICv disabled.
    NeedsApicv,
    /// KVM enables virtualization only when a VM is there.
    NeedsVirtAtLoad,
    /// A TD may have fewer VCPUs than the host has CPUs.
    TooFewVcpus,
    /// KVM does not know an MSR that it has to restore after a TD ran.
    UnknownMsr,
    /// A package has no online CPU.
    PackageOffline,
    /// The BIOS has not enabled TDX, in these words.
    DisabledInBios,
    /// The registers of SEAM (SEAMRR) are not set up.
    SeamOff,
    /// The P-SEAMLDR, which loads the module, is not there.
    NoLoader,
    /// The kernel itself loads the module, as old ones did, and had no file of it or failed.
    NotInstalled,
    /// A CPU has other KeyIDs than the first one.
    KeyIdsDiffer,
    /// The CMRs are not in order, or there are none.
    BadCmrs,
    /// Memory that is in no CMR.
    NotConvertible,
    /// CPUs that never came up.
    CpusOffline,
    /// A failure without its reason.
    NotSaid,
    /// A failure in words that are not known.
    Unknown,
}

impl Words {
    /// Parses a message without its prefix; `None` if it is no known failure.
    pub(crate) fn of(line: &str) -> Option<Self> {
        let line = ["[firmware bug]: ", "initialization failed: ", "SEAMCALL failed: "]
            .iter()
            .fold(line.trim(), |line, before| line.strip_prefix(before).unwrap_or(line));
        let words = line.trim_end_matches('.');
        if let Some(known) = Self::of_old_kernel(words) {
            return Some(known);
        }
        let known = match words {
            "TDX not supported by the host platform"
            | "no TDX private KeyIDs available"
            | "Cannot enable TDX on TDX disabled platform" => Self::NoPlatform,
            "Hibernation support is enabled" => Self::Hibernation,
            "not enabled by BIOS" | "TDX is not enabled by BIOS" | "Cannot enable TDX with SEAMRR disabled" => {
                Self::NotEnabled
            }
            "EPT is required for TDX" | "Cannot enable TDX with EPT disabled" => Self::NeedsEpt,
            "TDP MMU and MMIO caching and EPT A/D bit is required for TDX" => Self::NeedsTdpMmu,
            "APICv is required for TDX" => Self::NeedsApicv,
            "tdx requires kvm.enable_virt_at_load=1" => Self::NeedsVirtAtLoad,
            "BIOS not enabled" | "TDX not enabled in BIOS" | "TDX is disabled by BIOS" | "not enabled in BIOS" => {
                Self::DisabledInBios
            }
            "Failed to initialize TDX module" | "TDX module initialization failed" => Self::NotSaid,
            "module not loaded" | "module is not loaded" | "TDX module is not loaded" => Self::NotLoaded,
            "NO_RBP_MOD feature is not supported" | "frame pointer (RBP) clobber bug present, upgrade TDX module" => {
                Self::ChangesRbp
            }
            "XSAVE is required for TDX" | "OSXSAVE is required for TDX" => Self::NeedsXsave,
            "MOVDIR64B is required for TDX" => Self::NeedsMovdir64b,
            "Self-snoop is required for TDX" => Self::NeedsSelfSnoop,
            _ if words.starts_with("TDMRs exhausted") => Self::TdmrsExhausted,
            _ if words.starts_with("too few private KeyIDs available") => Self::TooFewKeyIds,
            _ if words.starts_with("TDX requires TDP MMU") => Self::NeedsTdpMmu,
            _ if words.starts_with("TDX requires mmio caching") => Self::NeedsMmioCaching,
            _ if words.starts_with("Disable TDX: MAX_VCPU_PER_TD") => Self::TooFewVcpus,
            _ if words.starts_with("MSR ") && words.ends_with("isn't included by kvm_find_user_return_msr") => {
                Self::UnknownMsr
            }
            _ if words.starts_with("All packages need to have online CPU")
                || words.starts_with("TDX requires all packages to have an online CPU") =>
            {
                Self::PackageOffline
            }
            _ if words.starts_with("TDX module is outdated") || words.starts_with("module is outdated") => {
                Self::Outdated
            }
            _ if words.starts_with("register_memory_notifier() failed") => Self::MemoryNotifier,
            _ if words.strip_prefix("CPU ").is_some_and(not_in_vmx) => Self::NotInVmx,
            _ => return None,
        };
        Some(known)
    }

    /// The wordings of backports to 5.10 to 6.4 (`seam:`, `tdx:`, `seamldr:`), which looked at the
    /// registers of SEAM, and some of which loaded P-SEAMLDR and module themselves.
    fn of_old_kernel(words: &str) -> Option<Self> {
        let starts = |texts: &[&str]| texts.iter().any(|text| words.starts_with(text));
        Some(match words {
            "SEAMRR not enabled" | "SEAMRR is not enabled by BIOS" | "SEAMRR base is not configured by BIOS" => {
                Self::SeamOff
            }
            "P-SEAMLDR is not loaded" | "No P-SEAMLDR is available" | "Failed to detect P-SEAMLDR" => Self::NoLoader,
            "Failed to load TDX module" => Self::NotInstalled,
            "CPU is not in VMX operation" | "not in VMX operation" => Self::NotInVmx,
            _ if starts(&[
                "no NP-SEAMLDR found",
                "failed to load TDX P-SEAMLDR",
                "failed to get TDX P-SEAMLDR info",
            ]) =>
            {
                Self::NoLoader
            }
            _ if starts(&["Failed to find the TDX module", "failed to load TDX module"]) => Self::NotInstalled,
            _ if starts(&["Number of TDX private KeyIDs too small"]) => Self::TooFewKeyIds,
            _ if starts(&["MKTME KeyID partioning inconsistent", "MKTME KeyID partitioning inconsistent"]) => {
                Self::KeyIdsDiffer
            }
            _ if starts(&["Firmware bug: CMRs not", "Firmware bug: invalid CMR", "Firmware bug: No valid CMR"]) => {
                Self::BadCmrs
            }
            _ if words.ends_with("is not fully convertible memory") => Self::NotConvertible,
            _ if starts(&[
                "Not all present CPUs have been booted",
                "Unable to initialize the TDX module when there",
            ]) =>
            {
                Self::CpusOffline
            }
            _ => return None,
        })
    }

    /// True if only KVM says so: TDX itself may be up.
    pub(crate) fn is_of_kvm(self) -> bool {
        matches!(
            self,
            Self::NeedsEpt
                | Self::NeedsTdpMmu
                | Self::NeedsMmioCaching
                | Self::NeedsApicv
                | Self::NeedsVirtAtLoad
                | Self::TooFewVcpus
                | Self::UnknownMsr
                | Self::PackageOffline
        )
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
            ("Cannot enable TDX on TDX disabled platform", Words::NoPlatform),
            ("Cannot enable TDX with SEAMRR disabled", Words::NotEnabled),
            ("Cannot enable TDX with EPT disabled", Words::NeedsEpt),
            ("EPT is required for TDX", Words::NeedsEpt),
            ("TDX requires TDP MMU.  Please enable TDP MMU for TDX.", Words::NeedsTdpMmu),
            ("TDP MMU and MMIO caching and EPT A/D bit is required for TDX", Words::NeedsTdpMmu),
            ("TDX requires mmio caching.  Please enable mmio caching for TDX.", Words::NeedsMmioCaching),
            ("APICv is required for TDX", Words::NeedsApicv),
            ("tdx requires kvm.enable_virt_at_load=1", Words::NeedsVirtAtLoad),
            ("Disable TDX: MAX_VCPU_PER_TD (8) smaller than number of logical CPUs (224).", Words::TooFewVcpus),
            ("MSR 122 isn't included by kvm_find_user_return_msr", Words::UnknownMsr),
            ("All packages need to have online CPU to create TD. Online CPU and retry.", Words::PackageOffline),
            ("BIOS not enabled", Words::DisabledInBios),
            ("SEAMRR not enabled.", Words::SeamOff),
            ("SEAMRR base is not configured by BIOS", Words::SeamOff),
            ("no NP-SEAMLDR found intel-seam/np-seamldr.acm", Words::NoLoader),
            ("P-SEAMLDR is not loaded.", Words::NoLoader),
            ("Failed to load TDX module.", Words::NotInstalled),
            ("Failed to find the TDX module. -2", Words::NotInstalled),
            ("Failed to initialize TDX module.", Words::NotSaid),
            ("Number of TDX private KeyIDs too small: 1.", Words::TooFewKeyIds),
            ("initialization failed: too few private KeyIDs available (1).", Words::TooFewKeyIds),
            ("initialization failed: TDMRs exhausted: 79 of 64", Words::TdmrsExhausted),
            ("MKTME KeyID partioning inconsistent on CPU 3", Words::KeyIdsDiffer),
            ("Firmware bug: CMRs not in address ascending order.", Words::BadCmrs),
            ("[0x4080000000, 0x8080000000) is not fully convertible memory", Words::NotConvertible),
            ("Unable to initialize the TDX module when there's offline CPU(s).", Words::CpusOffline),
            ("CPU is not in VMX operation.", Words::NotInVmx),
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
