//! Errors of QEMU and libvirt about TDX: no TD is started, and why, as far as the message tells.

use super::status;
use crate::{
    bootlog::call,
    input::excerpt,
    report::{Basis, Given, Judgement, LogFinding, LogLine, Topic},
};

/// Different errors that are kept.
const MAX_ERRORS: usize = 16;
const MAX_EVIDENCE: usize = 12;

const SEE_HOST: &str = "explain the kernel log of this host: `dmesg | cleanslate explain -`; \
    `cat /sys/module/kvm_intel/parameters/tdx` must print Y";

const NO_TDVF: &str =
    "the firmware that QEMU was given is none for TDs: it has no TDX metadata (TDVF), or no firmware was given";
const USE_TDVF: &str = "give an OVMF that is built for TDX by `-bios`";

/// What a message means.
struct Known {
    /// All of these must be in it.
    words: &'static [&'static str],
    judgement: Judgement,
    rule: &'static str,
    basis: Basis,
    cause: &'static str,
    remedy: &'static str,
}

/// A TD that is configured in a way in which none can run.
const fn td(words: &'static [&'static str], cause: &'static str, remedy: &'static str) -> Known {
    Known { words, judgement: Judgement::Failed, rule: "td-configuration", basis: Basis::Sourced, cause, remedy }
}

/// Memory that was added and not taken into use.
const fn online(words: &'static [&'static str]) -> Known {
    Known {
        words,
        judgement: Judgement::Undecidable,
        rule: "memory-not-onlined",
        basis: Basis::Deduced,
        cause: "the kernel refused to take added memory into use (EPERM). A known cause: once TDX is initialized, Linux \
            takes no memory that was not there at its initialization (hotplug, CXL, persistent memory), because a \
            TD's pages may come from anywhere",
        remedy: "with TDX, add the memory before TDX is initialized (at boot), or use the device as dax; without TDX \
            on this host look for another cause in the kernel log",
    }
}

#[rustfmt::skip]
const KNOWN: [Known; 29] = [
    Known {
        words: &["TDX not supported by KVM"], judgement: Judgement::Undecidable, rule: "kvm-without-tdx", basis: Basis::Sourced,
        cause: "KVM of this host offers no TDs. Known causes: TDX was not requested of KVM (`kvm_intel.tdx=1`), TDX did not come up (BIOS, \
            module), the kernel has no TDX in KVM (mainline since 6.16), or an option that KVM needs for TDX is off",
        remedy: SEE_HOST,
    },
    Known {
        words: &["TDX is not supported by the KVM"], judgement: Judgement::Undecidable, rule: "kvm-without-tdx", basis: Basis::Sourced,
        cause: "KVM of this host offers no TDs. Known causes: TDX was not requested of KVM (`kvm_intel.tdx=1`), TDX did not come up (BIOS, \
            module), the kernel has no TDX in KVM (mainline since 6.16), or an option that KVM needs for TDX is off",
        remedy: SEE_HOST,
    },
    Known {
        words: &["vm-type", "tdx", "not supported by KVM"], judgement: Judgement::Undecidable, rule: "kvm-without-tdx", basis: Basis::Sourced,
        cause: "KVM of this host offers no TDs. Known causes: TDX was not requested of KVM (`kvm_intel.tdx=1`), TDX did not come up (BIOS, \
            module), the kernel has no TDX in KVM (mainline since 6.16), or an option that KVM needs for TDX is off",
        remedy: SEE_HOST,
    },
    Known {
        words: &["kvm-type", "tdx", "not supported by KVM"], judgement: Judgement::Undecidable, rule: "kvm-without-tdx", basis: Basis::Sourced,
        cause: "KVM of this host offers no TDs (older QEMU wording). Known causes: TDX was not requested of KVM (`kvm_intel.tdx=1`), TDX did \
            not come up (BIOS, module), or kernel and QEMU are of different TDX branches",
        remedy: SEE_HOST,
    },
    Known {
        words: &["qom-type", "tdx-guest"], judgement: Judgement::Failed, rule: "qemu-without-tdx", basis: Basis::Sourced,
        cause: "this QEMU has no `tdx-guest` object: it was built without TDX",
        remedy: "use a QEMU with TDX (that of the distribution's TDX packages, or 10.1 and later: unverified)",
    },
    Known {
        words: &["invalid object type: tdx-guest"], judgement: Judgement::Failed, rule: "qemu-without-tdx", basis: Basis::Sourced,
        cause: "this QEMU has no `tdx-guest` object: it was built without TDX",
        remedy: "use a QEMU with TDX (that of the distribution's TDX packages, or 10.1 and later: unverified)",
    },
    Known {
        words: &["TDX launch security is not supported"], judgement: Judgement::Failed, rule: "qemu-without-tdx", basis: Basis::Sourced,
        cause: "libvirt found that the QEMU of this domain has no TDX, or that KVM offered none when libvirt probed it",
        remedy: "check the QEMU (`qemu-system-x86_64 -object help | grep tdx`), then restart libvirt, which keeps what it probed",
    },
    Known {
        words: &["'tdx' launch security is not supported"], judgement: Judgement::Failed, rule: "qemu-without-tdx", basis: Basis::Sourced,
        cause: "libvirt found that the QEMU of this domain has no TDX, or that KVM offered none when libvirt probed it",
        remedy: "check the QEMU (`qemu-system-x86_64 -object help | grep tdx`), then restart libvirt, which keeps what it probed",
    },
    td(&["TDX_METADATA_OFFSET_GUID"], NO_TDVF, USE_TDVF),
    td(&["Invalid TDVF signature"], NO_TDVF, USE_TDVF),
    td(&["failed to parse TDVF"], NO_TDVF, USE_TDVF),
    Known {
        words: &["KVM_TDX_CAPABILITIES failed"], judgement: Judgement::Failed, rule: "kvm-tdx-capabilities", basis: Basis::Deduced,
        cause: "KVM did not tell what TDs it can run: kernel and QEMU are of different TDX branches, or TDX is not initialized",
        remedy: SEE_HOST,
    },
    Known {
        words: &["Failed to retrieve TDX capabilities"], judgement: Judgement::Failed, rule: "kvm-tdx-capabilities", basis: Basis::Deduced,
        cause: "KVM did not tell Cloud Hypervisor what TDs it can run: it asks in the form of an older TDX branch than this kernel, or TDX is \
            not initialized",
        remedy: SEE_HOST,
    },
    td(
        &["Invalid attributes", "TDX VM"],
        "the attributes of the TD are not supported by this module and KVM",
        "remove the attribute from the QEMU command line (`attributes=`, debug, PKS, perfmon)",
    ),
    td(
        &["Invalid XFAM", "TDX VM"],
        "the CPU model of the TD asks for features (XFAM) that this module and KVM do not support",
        "use `-cpu host`, or a model without those features",
    ),
    td(
        &["unsupported TD attribute bits"],
        "this QEMU does not support an attribute that was asked of the TD",
        "remove the attribute from the QEMU command line, or use a newer QEMU",
    ),
    td(
        &["TDX VM requires kernel_irqchip"],
        "a TD needs the interrupt controller split between KVM and QEMU",
        "use `-machine kernel_irqchip=split`, or leave the option out",
    ),
    td(
        &["TDX VM doesn't support"],
        "the virtual machine has a device or feature that a TD cannot have; the line names it (SMM, PIC)",
        "turn it off on the QEMU command line (`smm=off`, `pic=off`)",
    ),
    td(
        &["Named cpu model is not supported for TDX"],
        "this QEMU runs TDs with the host's CPU model only",
        "use `-cpu host`",
    ),
    td(
        &["TDX requires guest CPU physical bits"],
        "a TD has the width of physical addresses of its host",
        "use `-cpu host` without `phys-bits=`",
    ),
    td(
        &["Invalid TSC", "KHz"],
        "the TSC frequency asked of the TD is not one that the module takes: a multiple of 25 MHz within limits",
        "remove `tsc-freq=`, or give a multiple of 25 MHz",
    ),
    td(
        &["SEPT_VE_DISABLE attribute must be set"],
        "the guest's kernel ended this TD, because it may not run with a #VE for pages that were not accepted: the TD was started without \
         the attribute SEPT_VE_DISABLE",
        "start the TD with `-object tdx-guest,sept-ve-disable=on` (the default of QEMU 10.1)",
    ),
    Known {
        words: &["TDX", "report", "fatal error"], judgement: Judgement::Undecidable, rule: "td-guest-panic", basis: Basis::Sourced,
        cause: "the guest's kernel or firmware ended the TD and told the VMM so; the cause is in the guest",
        remedy: "see the TD's own console; the message after the error code is the guest's",
    },
    Known {
        words: &["charge rejected by the misc controller for tdx"], judgement: Judgement::Failed, rule: "keyids-of-cgroup", basis: Basis::Sourced,
        cause: "no TD can be started in this cgroup: its limit of private KeyIDs (`tdx` in misc.max) is reached; each TD needs one",
        remedy: "raise `tdx` in misc.max of that cgroup (misc.capacity has the number of the host), or end a TD in it",
    },
    online(&["online_pages [mem ", "failed"]),
    online(&["nline memory", "Operation not permitted"]),
    Known {
        words: &["KVM_CAP_X86_APIC_BUS_CYCLES_NS"], judgement: Judgement::Failed, rule: "kvm-without-tdx", basis: Basis::Sourced,
        cause: "KVM lacks a capability that QEMU needs for TDs: kernel and QEMU do not match",
        remedy: SEE_HOST,
    },
    Known {
        words: &["Guest access before accepting"], judgement: Judgement::Failed, rule: "guest-access-before-accept", basis: Basis::Sourced,
        cause: "the guest touched private memory that it had not accepted, and KVM ended the TD; the fault is the guest kernel's or its \
            firmware's",
        remedy: "use a newer guest kernel and firmware (TDVF)",
    },
    Known {
        words: &["KVM: unknown exit, hardware reason"], judgement: Judgement::Undecidable, rule: "vcpu-unknown-exit", basis: Basis::Deduced,
        cause: "a VCPU left the guest with a reason that QEMU does not know; for a TD it is the upper part of a completion status or an \
            exit reason of KVM",
        remedy: "see the kernel's line of the same time (`TD exit 0x..`), and explain its status",
    },
];

/// Commands of KVM for a TD, and the step that each is.
const COMMANDS: [(&str, &str); 6] = [
    ("KVM_TDX_INIT_VM", "creating the TD"),
    ("KVM_TDX_INIT_VCPU", "creating a VCPU of the TD"),
    ("KVM_TDX_INIT_MEM_REGION", "adding the TD's first memory (its firmware)"),
    ("KVM_TDX_FINALIZE_VM", "finalizing the TD's measurement"),
    ("KVM_TDX_GET_CPUID", "reading the TD's CPUID configuration"),
    ("KVM_TDX_TERMINATE_VM", "ending the TD"),
];

/// Reasons as `strerror` prints them, and what KVM means by them here.
const REASONS: [(&str, &str); 7] = [
    (
        "Invalid argument",
        "EINVAL: a property of the TD (attributes, XFAM, CPUID, number of VCPUs) is not accepted by this KVM or module",
    ),
    ("No space left on device", "ENOSPC: no free private KeyID; each TD needs one"),
    (
        "Device or resource busy",
        "EBUSY: a resource of the module is in use, or the limit of KeyIDs for this cgroup is reached",
    ),
    ("Input/output error", "EIO: a SEAMCALL failed; its status is in the kernel log"),
    ("Resource temporarily unavailable", "EAGAIN: the CPU's random number generator had no entropy; retry"),
    ("Cannot allocate memory", "ENOMEM"),
    (
        "Operation not supported",
        "EOPNOTSUPP: this KVM does not know the command, or a feature asked of the TD (older branches: CET, LBR, \
        perfmon); kernel and QEMU do not match",
    ),
];

#[derive(Debug)]
struct Seen {
    judgement: Judgement,
    rule: &'static str,
    basis: Basis,
    cause: String,
    remedy: String,
    evidence: Vec<LogLine>,
}

/// The errors of QEMU and libvirt in one boot.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<Seen>);

impl Errors {
    /// Takes a message; false if it is no error about TDX.
    pub(super) fn take(&mut self, line: u64, text: &str) -> bool {
        let Some(seen) = known(text).or_else(|| command(text)) else { return false };
        let line = LogLine { line, text: excerpt(text) };
        match self.0.iter_mut().find(|other| other.rule == seen.rule && other.cause == seen.cause) {
            Some(other) if other.evidence.len() < MAX_EVIDENCE => other.evidence.push(line),
            Some(_) => {}
            None => {
                self.0.push(Seen { evidence: vec![line], ..seen });
                self.0.truncate(MAX_ERRORS);
            }
        }
        true
    }

    /// A finding for each error.
    pub(super) fn findings(&self) -> impl Iterator<Item = LogFinding> {
        self.0.iter().map(|seen| LogFinding {
            topic: Topic::Vmm,
            judgement: seen.judgement,
            rule: seen.rule,
            basis: seen.basis,
            evidence: seen.evidence.clone(),
            cause: seen.cause.clone(),
            remedy: seen.remedy.clone(),
            boot: 0,
        })
    }
}

/// The status whose upper part is the hardware reason of an exit.
fn hardware_reason(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("hardware reason ")?;
    let digits = rest.trim().trim_start_matches("0x");
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let value = u64::from_str_radix(&digits[..end], 16).ok()?;
    // Of 32 bits it is the upper part, of more the whole.
    let half = u32::try_from(value).or_else(|_| u32::try_from(value >> 32)).ok()?;
    status::of_upper_half(half).map(|name| format!("; {half:#x} in bits 63:32 is {name}"))
}

fn known(text: &str) -> Option<Seen> {
    let known = KNOWN.iter().find(|known| known.words.iter().all(|word| text.contains(word)))?;
    Some(Seen {
        judgement: known.judgement,
        rule: known.rule,
        basis: known.basis,
        cause: known.cause.to_owned() + &hardware_reason(text).unwrap_or_default(),
        remedy: known.remedy.to_owned(),
        evidence: Vec::new(),
    })
}

/// `KVM_TDX_INIT_VM failed: Invalid argument`.
fn command(text: &str) -> Option<Seen> {
    let (name, step) = COMMANDS.iter().find(|(name, _)| text.contains(name))?;
    let (_, rest) = text.split_once("fail")?;
    let reason = REASONS.iter().find(|(words, _)| rest.contains(words)).map(|(_, reason)| *reason);
    let busy = "EAGAIN: something that the call needs was in use for a moment (older kernels return it for \
        TDX_OPERAND_BUSY); retry";
    let reason = reason.map(|reason| {
        let later = reason.starts_with("EAGAIN") && *name != "KVM_TDX_INIT_VM";
        if later { busy } else { reason }
    });
    // `hw_error 0xc000010000000040`: what the module returned.
    let hardware = call::statuses(text).next().map_or_else(String::new, |status| {
        format!(". The module returned {}: {}", status::shown(status), status::explain(status, Given::Whole).meaning)
    });
    let (judgement, cause) = match reason {
        Some(reason) => (Judgement::Failed, format!("{step} failed in KVM ({name}): {reason}{hardware}")),
        None => (
            Judgement::Undecidable,
            format!("{step} failed in KVM ({name}); the reason is not known to this program{hardware}"),
        ),
    };
    Some(Seen {
        judgement,
        rule: "kvm-command-failed",
        basis: Basis::Deduced,
        cause,
        remedy: if hardware.is_empty() {
            "explain the kernel log of the same time: a failed SEAMCALL has a line of its own".to_owned()
        } else {
            "see `cleanslate explain` of that status, and the kernel log of the same time".to_owned()
        },
        evidence: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_qemu_and_libvirt() {
        for (text, rule) in [
            ("qemu-system-x86_64: -accel kvm: vm-type tdx not supported by KVM", "kvm-without-tdx"),
            ("qemu-system-x86_64: vm-type tdx not supported by KVM", "kvm-without-tdx"),
            ("qemu-system-x86_64: -accel kvm: kvm-type 'tdx' not supported by KVM", "kvm-without-tdx"),
            (
                "qemu-system-x86_64: -object tdx-guest,id=tdx: Parameter 'qom-type' does not accept value 'tdx-guest'",
                "qemu-without-tdx",
            ),
            (
                "error: unsupported configuration: INTEL TDX launch security is not supported with this QEMU binary",
                "qemu-without-tdx",
            ),
            (
                "qemu-system-x86_64: get_tdx_capabilities: KVM_TDX_CAPABILITIES failed: Invalid argument",
                "kvm-tdx-capabilities",
            ),
            (
                "error: unsupported configuration: 'tdx' launch security is not supported with this QEMU binary",
                "qemu-without-tdx",
            ),
            ("qemu-system-x86_64: Cannot find TDX_METADATA_OFFSET_GUID", "td-configuration"),
            ("qemu-system-x86_64: Invalid TDVF signature in metadata!", "td-configuration"),
            ("qemu-system-x86_64: failed to parse TDVF for TDX VM", "td-configuration"),
            ("qemu-system-x86_64: KVM_TDX_INIT_VM failed: Invalid argument", "kvm-command-failed"),
            ("qemu-system-x86_64: KVM_TDX_FINALIZE_VM failed Input/output error", "kvm-command-failed"),
            ("qemu-system-x86_64: Invalid attributes 0x1 for TDX VM (supported: 0x10000000)", "td-configuration"),
            ("qemu-system-x86_64: TDX VM requires kernel_irqchip to be split", "td-configuration"),
            ("qemu-system-x86_64: -machine q35,smm=on: TDX VM doesn't support SMM", "td-configuration"),
            ("qemu-system-x86_64: Named cpu model is not supported for TDX yet!", "td-configuration"),
            (
                "qemu: TDX requires guest CPU physical bits (46) to match host CPU physical bits (52)",
                "td-configuration",
            ),
            ("Invalid TSC 1234 KHz, it must be multiple of 25MHz", "td-configuration"),
            ("Some QEMU unsupported TD attribute bits being requested: 0x1 (QEMU supported: 0x2)", "td-configuration"),
            ("KVM doesn't support KVM_CAP_X86_APIC_BUS_CYCLES_NS", "kvm-without-tdx"),
            ("KVM: unknown exit, hardware reason e0000091", "vcpu-unknown-exit"),
        ] {
            let mut errors = Errors::default();
            assert!(errors.take(1, text), "{text}");
            assert_eq!(errors.findings().next().unwrap().rule, rule, "{text}");
        }
        let mut errors = Errors::default();
        assert!(errors.take(1, "KVM: unknown exit, hardware reason e0000007"));
        let cause = errors.findings().next().unwrap().cause;
        assert!(cause.ends_with("is TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE"), "{cause}");
        let mut errors = Errors::default();
        assert!(errors.take(1, "KVM_TDX_INIT_VM failed: the moon is full"));
        assert_eq!(errors.findings().next().unwrap().judgement, Judgement::Undecidable);
        for text in ["KVM_TDX_INIT_VM", "qemu-system-x86_64: warning: x", "vm-type sev not supported by KVM"] {
            assert!(!errors.take(1, text), "{text}");
        }
    }
}
