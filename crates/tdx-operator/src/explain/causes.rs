//! Causes and remedies of a failed TDX initialization, for each form of kernel message. Shared by
//! `explain` and `check`. A cause that the message does not determine is undecidable.

use tdx_abi::{Leaf, PageRange, Status, StatusCode};

use super::errno::{self, SHOW_PLAN};
use super::{msr, status};
use crate::{
    bootlog::{Failure, ModuleVersion, Words},
    report::{Basis, Given, Judgement},
};

const UPDATE_BIOS: &str = "update the BIOS, which includes microcode and TDX module, or install a newer module where the BIOS \
     loads it from";

/// A cause, by the rule that found it.
pub(crate) struct Cause {
    pub(crate) judgement: Judgement,
    pub(crate) rule: &'static str,
    pub(crate) basis: Basis,
    pub(crate) text: String,
    pub(crate) remedy: String,
}

fn why(rule: &'static str, basis: Basis, cause: impl Into<String>, remedy: impl Into<String>) -> Cause {
    Cause { judgement: Judgement::Failed, rule, basis, text: cause.into(), remedy: remedy.into() }
}

/// What stands behind a failure; `module` is the version that the log shows.
pub(crate) fn of(failure: Failure, module: Option<ModuleVersion>) -> Cause {
    match failure {
        Failure::ReservedAreasExhausted(tdmr) => areas(tdmr),
        Failure::Seamcall(leaf, status) => seamcall(leaf, status, module),
        Failure::Errno(errno) => errno_alone(errno),
        Failure::Words(words) => self::words(words),
    }
}

fn areas(tdmr: PageRange) -> Cause {
    let cause = format!(
        "-28: TDMR {tdmr} has more holes in the memory map than the module's 16 reserved areas. Linux \
            derives holes from the e820 map, which is more fragmented than the CMRs; the memory itself is usable"
    );
    let remedy = format!(
        "use a kernel that derives holes from the CMRs (a distribution patch, not in mainline; it works on \
            the host of fixture 02), or a BIOS or setting with fewer e820 entries there; {SHOW_PLAN}"
    );
    why("reserved-areas-exhausted", Basis::Sourced, cause, remedy)
}

fn seamcall(leaf: Leaf, found: Status, module: Option<ModuleVersion>) -> Cause {
    let report = status::explain(found, Given::Whole);
    let name = report.name.as_deref().unwrap_or("an unknown status");
    match (leaf, found.code()) {
        (Leaf::SYS_RD, StatusCode::SYS_NOT_READY) => {
            let (module, basis) = match module {
                Some(module) => (format!("the module is {}.{}", module.major, module.minor), Basis::Sourced),
                None => ("the log does not show the module's version".to_owned(), Basis::Deduced),
            };
            let cause = format!(
                "-5: the module is too old for this kernel ({module}): a 1.5 module supports TDH.SYS.RD \
                    before it is ready, a 1.0 module returns {name}"
            );
            why("module-too-old", basis, cause, format!("update the TDX module to 1.5 or later: {UPDATE_BIOS}"))
        }
        (Leaf::SYS_RD, StatusCode::METADATA_FIELD_ID_INCORRECT | StatusCode::METADATA_FIELD_NOT_READABLE) => {
            let cause = format!(
                "{leaf} returned {name}: the module lacks a field that this kernel asks for, so the module is \
                    older than the kernel expects"
            );
            why("field-not-in-module", Basis::Sourced, cause, format!("update the TDX module: {UPDATE_BIOS}"))
        }
        (Leaf::SYS_INIT, StatusCode::SYS_INIT_NOT_PENDING) => {
            let cause = format!(
                "{leaf} returned {name}: the module was already initialized by the previous kernel (kexec \
                    or crash) and can be initialized only once. That kernel's PAMTs and TD pages may still be private"
            );
            why("module-used-before", Basis::Sourced, cause, USED)
        }
        (_, StatusCode::SYS_SHUTDOWN) => {
            let cause = format!(
                "{leaf} returned {name}: an earlier kernel shut down the module, and memory may still be private"
            );
            why("module-used-before", Basis::Sourced, cause, USED)
        }
        (Leaf::SYS_INIT, StatusCode::INCORRECT_CPUID_VALUE) => {
            let cause = format!(
                "{leaf} returned {name}: module and CPU or microcode do not match (seen on a host \
                    with an old BIOS)"
            );
            why("module-and-cpu", Basis::Sourced, cause, UPDATE_BIOS)
        }
        (_, StatusCode::INCORRECT_MSR_VALUE | StatusCode::INCONSISTENT_MSR) => {
            let number = tdx_host::platform::Msr(found.details());
            let register = msr::name(number).map_or_else(String::new, |name| format!(", {name}"));
            let cause = format!("{leaf} returned {name}: {} (MSR {:#x}{register})", report.meaning, number.0);
            let hint = if number.0 == 0x122 { ": TSX, and `tsx=` on the kernel command line" } else { "" };
            why("register-value", Basis::Unverified, cause, format!("{}{hint}; {UPDATE_BIOS}", report.todo))
        }
        _ => {
            let judgement = if report.known { Judgement::Failed } else { Judgement::Undecidable };
            let cause = format!("{leaf} returned {}: {}", status::shown(found), report.meaning);
            Cause { judgement, rule: "seamcall-failed", basis: Basis::Sourced, text: cause, remedy: report.todo }
        }
    }
}

const USED: &str =
    "power cycle; to avoid this at kexec, the old kernel must call TDH.SYS.DISABLE or reset its private memory";

fn errno_alone(number: u32) -> Cause {
    let known = errno::alone(number);
    if let Some((cause, remedy)) = known {
        return why("errno-alone", Basis::Deduced, format!("-{number}: {cause}"), remedy);
    }
    Cause {
        judgement: Judgement::Undecidable,
        rule: "errno-alone",
        basis: Basis::Deduced,
        text: format!("-{number}; the line with the cause is not in this log"),
        remedy: format!(
            "provide the complete log: the cause precedes this line; `cleanslate explain -- -{number}` \
                lists the possible causes"
        ),
    }
}

/// A failure in words that are not known, with its errno.
pub(super) fn unknown_with(number: u32) -> Cause {
    let mut cause = match errno::alone(number) {
        Some(_) => errno_alone(number),
        None => words(Words::Unknown),
    };
    cause.text = match errno::alone(number) {
        Some(_) => format!("{}; the words before it are not known", cause.text),
        None => format!("{}, with errno -{number}", cause.text),
    };
    cause
}

/// Failures that the kernel puts in words.
pub(super) fn words(words: Words) -> Cause {
    use Basis::{Deduced, Sourced, Unverified};
    let needs = |rule, what: &str, clear: &str| {
        let cause = format!("this kernel requires {what} for TDX and does not detect it");
        let remedy = format!(
            "remove `clearcpuid={clear}` from the kernel command line if present (unverified); every CPU \
                with TDX has it"
        );
        why(rule, Sourced, cause, remedy)
    };
    let option = |rule, what: &str, options: &str| {
        let cause = format!("KVM requires {what} for TDX, and runs without: KVM does not use TDX");
        let remedy = format!("load KVM with {options} (on the kernel command line or with modprobe)");
        why(rule, Sourced, cause, remedy)
    };
    match words {
        Words::NoPlatform => why(
            "no-tdx-here",
            Sourced,
            "the kernel found no usable TDX at boot: the CPU lacks it, the BIOS assigned no private KeyIDs, \
                or another reason is logged before this line (hibernation)",
            "on a CPU with TDX, enable it in the BIOS; otherwise no action is needed",
        ),
        Words::TooFewKeyIds => why(
            "too-few-keyids",
            Sourced,
            "TDX needs at least two private KeyIDs: one for the module and one for a TD",
            "assign more KeyIDs to TDX in the BIOS",
        ),
        Words::Hibernation => why(
            "hibernation",
            Sourced,
            "the kernel disables TDX while hibernation is available, because private memory does not \
                survive hibernation; the module was not called",
            "add `nohibernate` to the kernel command line, or use a kernel without CONFIG_HIBERNATION",
        ),
        Words::MemoryNotifier => why(
            "memory-notifier",
            Deduced,
            "registering the memory hotplug notifier failed, which happens only on a lack of memory at boot",
            "reboot; if it persists, check for earlier failures in the log",
        ),
        Words::NotEnabled => why(
            "seam-off",
            Sourced,
            "SEAMCALL raised #GP: the BIOS assigned KeyIDs to TDX but did not enable SEAM",
            "enable TDX and its SEAM loader in the BIOS, and power cycle",
        ),
        Words::NotLoaded => why(
            "module-not-loaded",
            Sourced,
            "SEAMCALL set CF: TDX is enabled in the BIOS but no TDX module is loaded, or the module died",
            "enable the SEAM loader in the BIOS (TDX alone is not enough) and power cycle; check that a \
                module is available to the BIOS, or update the BIOS",
        ),
        Words::NotInVmx => why(
            "cpu-not-in-vmx",
            Sourced,
            "SEAMCALL raised #UD: the CPU named in the line is not in VMX operation; this is a bug of the \
                kernel or of another hypervisor on this host",
            "remove other users of VMX (out-of-tree hypervisors), reload kvm_intel, and use a newer kernel \
                if it persists",
        ),
        Words::Outdated => why(
            "module-and-cpu",
            Sourced,
            "TDH.SYS.INIT returned TDX_INCORRECT_CPUID_VALUE, which this kernel reports as a module older \
                than 1.0.3: module and CPU or microcode do not match",
            UPDATE_BIOS,
        ),
        Words::ChangesRbp => why(
            "module-changes-rbp",
            Sourced,
            "the module may clobber RBP, which this kernel does not support: TDX_FEATURES0 bit 18 is not set",
            format!("update the TDX module: {UPDATE_BIOS}"),
        ),
        Words::TdmrsExhausted => {
            why("tdmrs-exhausted", Sourced, "-28: the memory map needs more than 64 TDMRs", SHOW_PLAN)
        }
        Words::NeedsXsave => needs("needs-xsave", "XSAVE, which saves the registers of a TD", "xsave"),
        Words::NeedsMovdir64b => {
            needs("needs-movdir64b", "MOVDIR64B, which is needed to reset private memory", "movdir64b")
        }
        Words::NeedsSelfSnoop => {
            let mut cause = needs("needs-self-snoop", "self-snoop (the flag `ss`)", "ss");
            cause.basis = Unverified;
            cause
        }
        Words::NeedsEpt => option("needs-ept", "EPT", "kvm_intel.ept=1"),
        Words::NeedsTdpMmu => option(
            "needs-tdp-mmu",
            "its TDP MMU, MMIO caching and EPT A/D bits",
            "kvm.tdp_mmu=1, kvm.mmio_caching=1 and kvm_intel.eptad=1",
        ),
        Words::NeedsMmioCaching => option("needs-mmio-caching", "MMIO caching", "kvm.mmio_caching=1"),
        Words::NeedsApicv => option("needs-apicv", "APICv", "kvm_intel.enable_apicv=1"),
        Words::NeedsVirtAtLoad => {
            option("needs-virt-at-load", "virtualization to be enabled when it is loaded", "kvm.enable_virt_at_load=1")
        }
        Words::TooFewVcpus => why(
            "max-vcpus-below-cpus",
            Sourced,
            "the module allows a TD fewer VCPUs than this host has CPUs, and KVM then does not use TDX",
            format!("boot with fewer CPUs (`nr_cpus=`), or: {UPDATE_BIOS}"),
        ),
        Words::UnknownMsr => why(
            "kvm-msr-unknown",
            Sourced,
            "KVM does not know an MSR that it must restore after a TD ran; this is a bug of the kernel",
            "use a newer kernel",
        ),
        Words::PackageOffline => why(
            "package-offline",
            Sourced,
            "a CPU package has no online CPU; every package must take part in creating and tearing down a TD",
            "bring a CPU of each package online (`chcpu -e`), or delete all TDs before taking the last one offline",
        ),
        Words::DisabledInBios => why(
            "not-enabled-in-bios",
            Sourced,
            "the kernel says that the BIOS has not enabled TDX",
            "enable memory encryption (TME, TME-MT), TDX and its SEAM loader in the BIOS, give TDX KeyIDs, and power \
                cycle",
        ),
        Words::SeamOff => why(
            "seam-off",
            Sourced,
            "the registers of SEAM (SEAMRR, MSR 0x1400 and 0x1401) are not set up: TDX is off in the BIOS, or MCHECK \
                has found the BIOS's setup wrong and turned it off",
            "enable TDX and its SEAM loader in the BIOS, and power cycle; MSR 0xa0 is not 0 if MCHECK failed",
        ),
        Words::NoLoader => why(
            "loader-not-there",
            Sourced,
            "the P-SEAMLDR, which loads the TDX module, is not there: the BIOS loaded none, and kernels that load it \
                themselves (Intel's stacks of 5.15 and before) had no file of it, or the NP-SEAMLDR failed",
            "enable the SEAM loader in the BIOS and power cycle, or use a kernel that expects the BIOS to load the \
                module (mainline); with the old stack, put np-seamldr.acm and libtdx.so into its initrd",
        ),
        Words::NotInstalled => why(
            "module-not-installed",
            Sourced,
            "this kernel loads the TDX module itself (Intel's stacks of 5.15 and before), and had no file of it or \
                could not install it",
            "put libtdx.so and its sigstruct where this kernel looks for them (its initrd), fit for the P-SEAMLDR and \
                the CPU, or use a kernel that expects the BIOS to load the module (mainline)",
        ),
        Words::KeyIdsDiffer => why(
            "keyids-differ",
            Sourced,
            "a CPU has other private KeyIDs than the first one (MSR 0x87)",
            "compare `rdmsr -a 0x87`; set up all packages the same in the BIOS, or update it",
        ),
        Words::BadCmrs => why(
            "cmrs-invalid",
            Sourced,
            "the module's list of convertible memory (CMRs) is empty or not in order, which this kernel refuses",
            "update the BIOS, which makes that list with MCHECK; check the population of memory",
        ),
        Words::NotConvertible => why(
            "memory-not-convertible",
            Sourced,
            "the kernel uses memory that is in no CMR, so that it cannot be TDX's, and this kernel then refuses TDX. \
                Memory of CXL devices, persistent memory and memory that was added later are in none",
            "keep that memory from the page allocator at boot (no `efi=nosoftreserve`, no `memmap=`; dax devices in \
                devdax mode), or remove it",
        ),
        Words::CpusOffline => why(
            "cpus-offline",
            Sourced,
            "a CPU of this machine has not come up, and this kernel initializes the module only with all of them",
            "boot without `maxcpus=`, `nr_cpus=` or `nosmt`, and bring all CPUs online before KVM is loaded",
        ),
        Words::NotSaid => Cause {
            judgement: Judgement::Failed,
            rule: "reason-not-logged",
            basis: Sourced,
            text: "TDX was not initialized; the line with the reason is not in this log".to_owned(),
            remedy: "provide the complete log (`dmesg` or `journalctl -k -b`): the reason precedes this line"
                .to_owned(),
        },
        Words::Unknown => Cause {
            judgement: Judgement::Undecidable,
            rule: "words-not-known",
            basis: Deduced,
            text: "unknown kernel message".to_owned(),
            remedy: "look up the message in the source of that kernel".to_owned(),
        },
    }
}
