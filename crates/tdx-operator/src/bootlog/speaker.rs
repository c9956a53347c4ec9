//! Who wrote a log: a host, a TD guest, another virtual machine, another hypervisor.

/// The system that wrote a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    /// The kernel of a TD.
    TdGuest,
    /// The kernel of a virtual machine; with TDX host code that is a nested or emulated platform.
    VirtualMachine,
    /// The kernel to which a hypervisor below it gives the hardware: the root partition of
    /// Hyper-V, dom0 of Xen.
    RootPartition,
    /// The Xen hypervisor itself.
    Xen,
    /// VMware ESXi.
    Esxi,
    /// A host with TD partitioning: a hypervisor inside a TD.
    TdPartitioning,
}

/// DMI vendors and products of virtual machines.
const VIRTUAL: [&str; 16] = [
    "QEMU",
    "KVM",
    "Bochs",
    "VMware",
    "VirtualBox",
    "innotek GmbH",
    "Xen HVM",
    "OpenStack",
    "oVirt",
    "RHEV",
    "Parallels",
    "Microsoft Corporation Virtual Machine",
    "Red Hat RHEL",
    "Alibaba Cloud ECS",
    "Nutanix AHV",
    "cloud-hypervisor",
];

/// True for a line that names the firmware's tables of a real machine.
pub(super) fn is_hardware(message: &str) -> bool {
    let machine = message.strip_prefix("DMI: ");
    machine.is_some_and(|machine| machine.contains(", BIOS ") && !VIRTUAL.iter().any(|name| machine.contains(name)))
}

/// True if the kernel runs on Xen without an emulated machine (PV): only dom0 sees tables of
/// firmware then.
pub(super) fn is_on_xen(text: &str) -> bool {
    text == "Hypervisor detected: Xen PV"
}

/// The system that a kernel message identifies.
pub(super) fn of(message: &str) -> Option<Speaker> {
    let tdx = message.strip_prefix("tdx: ").or_else(|| message.strip_prefix("virt/tdx: "));
    let guest = [
        "Guest detected",
        "Attributes:",
        "TD_CTLS:",
        "Unexpected #VE",
        "Failed to stop shared<->private",
        "Failed to unshare range",
        "shared page accounting is off",
        "VMM did not configure X2APIC_IDs",
        "TD misconfiguration",
        "nr_shared = ",
    ];
    if tdx.is_some_and(|rest| guest.iter().any(|words| rest.starts_with(words))) {
        return Some(Speaker::TdGuest);
    }
    if message.starts_with("process: using TDX aware idle routine") || message == "using TDX aware idle routine" {
        return Some(Speaker::TdGuest);
    }
    let active = ["Memory Encryption Features active: ", "AMD Memory Encryption Features active: "];
    if let Some(features) = active.iter().find_map(|words| message.strip_prefix(words)) {
        let features = features.trim_start_matches("Intel ");
        return features.split(' ').any(|word| word == "TDX").then_some(Speaker::TdGuest);
    }
    let panic = message.strip_prefix("Kernel panic - not syncing: ");
    let of_guest = ["TDVMCALL failed", "TDCALL ", "Unexpected EPT-violation on private memory"];
    if panic.is_some_and(|text| of_guest.iter().any(|words| text.starts_with(words))) {
        return Some(Speaker::TdGuest);
    }
    if message.contains("Detected confidential virtualization tdx") {
        return Some(Speaker::TdGuest);
    }
    if tdx.is_some_and(|rest| rest.contains("TD-partitioning") || rest.contains("TD partitioning")) {
        return Some(Speaker::TdPartitioning);
    }
    let root = [
        "Hyper-V: running as root partition",
        "xen: registering gsi ",
        "xen_mcelog: ",
        "xen_pciback: ",
        "xen-pciback: ",
        "xen_acpi_processor: ",
        "xen-acpi-processor: ",
    ];
    let dom0 = message.starts_with("Xen version: ") && message.contains("(dom0)");
    if dom0 || root.iter().any(|words| message.starts_with(words)) {
        return Some(Speaker::RootPartition);
    }
    if message.starts_with("Hypervisor detected: ") {
        return Some(Speaker::VirtualMachine);
    }
    if let Some(machine) = message.strip_prefix("DMI: ") {
        return VIRTUAL.iter().any(|name| machine.contains(name)).then_some(Speaker::VirtualMachine);
    }
    if let Some(on) = message.strip_prefix("Booting paravirtualized kernel on ") {
        return (on.trim() != "bare hardware").then_some(Speaker::VirtualMachine);
    }
    if let Some(virtualization) = message.split_once("systemd[1]: Detected virtualization ").map(|(_, rest)| rest) {
        return (!virtualization.starts_with("none")).then_some(Speaker::VirtualMachine);
    }
    if message.starts_with("(XEN) ") {
        return Some(Speaker::Xen);
    }
    let syslog = ["vmkernel: cpu", "vmkwarning: cpu", "vmkalert: cpu"];
    let by_syslog = |word: &&str| {
        message.split_once(*word).is_some_and(|(before, rest)| {
            (before.is_empty() || before.ends_with(' ')) && of_vmkernel(&format!("cpu{rest}"))
        })
    };
    let esxi = of_vmkernel(message) || message.contains("VMware ESXi") || syslog.iter().any(by_syslog);
    esxi.then_some(Speaker::Esxi)
}

/// `cpu12:2097152)text`.
fn of_vmkernel(message: &str) -> bool {
    let world = message.strip_prefix("cpu").and_then(|rest| rest.split_once(')')).map(|(world, _)| world);
    world.and_then(|world| world.split_once(':')).is_some_and(|(cpu, world)| {
        !cpu.is_empty() && !world.is_empty() && cpu.bytes().chain(world.bytes()).all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks() {
        use Speaker::{Esxi, RootPartition, TdGuest, TdPartitioning, VirtualMachine, Xen};
        for (line, speaker) in [
            ("tdx: Guest detected", Some(TdGuest)),
            ("tdx: Attributes: SEPT_VE_DISABLE", Some(TdGuest)),
            ("tdx: TD_CTLS: PENDING_VE_DISABLE", Some(TdGuest)),
            ("process: using TDX aware idle routine", Some(TdGuest)),
            ("Memory Encryption Features active: Intel TDX", Some(TdGuest)),
            ("Memory Encryption Features active: TDX", Some(TdGuest)),
            ("systemd[1]: Detected confidential virtualization tdx.", Some(TdGuest)),
            ("Kernel panic - not syncing: TDVMCALL failed. TDX module bug?", Some(TdGuest)),
            ("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP", None),
            ("Hypervisor detected: KVM", Some(VirtualMachine)),
            ("Hyper-V: running as root partition", Some(RootPartition)),
            ("xen: registering gsi 9 triggering 0 polarity 0", Some(RootPartition)),
            ("xen_pciback: backend is vpci", Some(RootPartition)),
            ("xen-acpi-processor: Uploading Xen processor PM info", Some(RootPartition)),
            ("xen_acpi_processor: Uploading Xen processor PM info", Some(RootPartition)),
            ("Xen version: 4.17.3 (preserve-AD) (dom0)", Some(RootPartition)),
            ("Xen version: 4.17.3 (preserve-AD)", None),
            ("DMI: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.3 04/01/2014", Some(VirtualMachine)),
            ("DMI: VMware, Inc. VMware20,1/440BX Desktop Reference Platform", Some(VirtualMachine)),
            ("DMI: Red Hat KVM/RHEL, BIOS 1.16.0-4.module_el8 04/01/2014", Some(VirtualMachine)),
            ("DMI: Dell Inc. PowerEdge R760/0VRV9X, BIOS 2.1.5 03/14/2024", None),
            ("Booting paravirtualized kernel on KVM", Some(VirtualMachine)),
            ("Booting paravirtualized kernel on bare hardware", None),
            ("VMware ESXi 8.0.2 build-22380479", Some(Esxi)),
            ("cpu12:2097152)Boot Info: x", Some(Esxi)),
            ("2026-11-30T06:00:00.123Z In(182) vmkernel: cpu12:2097152)TDX: 234: x", Some(Esxi)),
            ("2026-11-30T06:00:00.123Z esx7 vmkalert: cpu7:2097999)ALERT: MCA: 200: UC Excp", Some(Esxi)),
            ("vmkwarning: cpu7:2097999)WARNING: x", Some(Esxi)),
            ("a word vmkernel: cpus are hot", None),
            ("(XEN) Xen version 4.19.0 (x@y) (gcc 13.2.0) debug=n", Some(Xen)),
            ("cpu0: x (y)", None),
            ("virt/tdx: TD-partitioning is supported", Some(TdPartitioning)),
            ("virt/tdx: module initialized", None),
            ("usb 1-1: Product: QEMU USB Tablet", None),
        ] {
            assert_eq!(of(line), speaker, "{line}");
        }
    }
}
