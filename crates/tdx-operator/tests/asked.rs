//! Texts as people paste them into a question: prose, shell prompts, a mail, a register dump, a
//! status alone; and errors of programs around KVM. What is no message of a kernel is not called
//! one.

mod common;

use common::{all, explained};
use tdx_operator::{
    explain::from_reader,
    report::{ExplainReport, Subject},
};

fn report(text: &str) -> ExplainReport {
    from_reader("x", text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A value that is the whole text is explained as `explain VALUE` does.
#[test]
fn a_value_by_standard_input() {
    for (text, name) in [
        ("0x8000020000000080\n", "TDX_OPERAND_BUSY"),
        ("\n  TDX_PAGE_METADATA_INCORRECT \n\n", "TDX_PAGE_METADATA_INCORRECT"),
        ("-4611680499394412544\n", "TDX_SYS_NOT_READY"),
        ("c000050500000000\n", "TDX_SYS_NOT_READY"),
    ] {
        let Subject::Status(status) = report(text).subject else { panic!("{text}") };
        assert!(status.name.as_deref().is_some_and(|found| found.starts_with(name)), "{text}: {:?}", status.name);
    }
    let Subject::Errno(errno) = report("-28\n").subject else { panic!() };
    assert_eq!(errno.name, Some("ENOSPC"));
}

#[test]
fn a_value_in_prose() {
    all(&[
        ("What does 0x8000020000000080 mean?\n", &["value-in-text"], &["TDX_OPERAND_BUSY"]),
        (
            "Hi,\n\ndoes anybody know why TDH.PHYMEM.PAGE.RECLAIM gives TDX_PAGE_METADATA_INCORRECT\nafter the VM was \
             killed?\n\nThanks\n",
            &["value-in-text"],
            &["different type in PAMT"],
        ),
        // The name and the number are one value; another status is another.
        (
            "we see TDX_OPERAND_BUSY (0x8000020000000080), then 0xc000050500000000 on each start\n",
            &["value-in-text", "value-in-text"],
            &["TDX_OPERAND_BUSY", "TDX_SYS_NOT_READY"],
        ),
        (
            "RAX: 8000020000000092 RBX: ffff88a0c4f50000 RCX: 0000000000000000\n\
             RDX: c000050500000000 RSI: 0000000000000001 RDI: 0000000000000018\n",
            &["value-in-text"],
            &["TDX_OPERAND_BUSY"],
        ),
    ]);
    let oops = "Oops: 0000 [#1] SMP\nRAX: c000030000000001 RBX: 0000000000000001\n";
    for text in [oops, "Hello TDX world\n", "What does 0x1234 mean?\n", "tdx is 0xffffffffffffffff wide\n"] {
        assert!(from_reader("x", text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn prose_is_no_message_of_the_kernel() {
    all(&[
        (
            "TDX does not come up on our X13.\n\n##### TDX kernel logs\n\n```\n\
             $ sudo dmesg | grep -i tdx\n\
             [    1.317511] virt/tdx: BIOS enabled: private KeyID range [32, 64)\n\
             [    1.317514] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.\n```\n",
            &["silent-after-keyids"],
            &[],
        ),
        (
            "root@node:~/tdx/guest-tools# ./run_td\nqemu-system-x86_64: KVM_TDX_INIT_VM failed: Invalid argument\n",
            &["kvm-command-failed"],
            &["EINVAL"],
        ),
        // One register alone does not say that all are well.
        (
            "- NUM_TDX_PRIV_KEYS: 0x1f\n\nvirt/tdx: module not loaded\n",
            &["registers-of-report", "module-not-loaded"],
            &["of the others"],
        ),
    ]);
    // A tag makes it one, with or without a time.
    assert_eq!(explained("virt/tdx: the moon is full\n").unknown_lines, 1);
    assert_eq!(
        explained("[    1.3] my driver and tdx: the moon is full\nvirt/tdx: module not loaded\n").unknown_lines,
        1
    );
}

#[test]
fn programs_around_kvm() {
    all(&[
        (
            "  0: Error creating VM\n  1: Failed to retrieve TDX capabilities: Invalid argument (os error 22)\n",
            &["kvm-tdx-capabilities"],
            &["Cloud Hypervisor"],
        ),
        (
            "Oct 12 10:00:00 node3 kernel: cgroup: charge rejected by the misc controller for tdx resource in /td.scope\n",
            &["keyids-of-cgroup"],
            &["misc.max"],
        ),
        (
            "qemu: KVM_TDX_INIT_MEM_REGION failed Resource temporarily unavailable\n",
            &["kvm-command-failed"],
            &["in use for a moment"],
        ),
        ("qemu: KVM_TDX_INIT_VM failed Resource temporarily unavailable\n", &["kvm-command-failed"], &["no entropy"]),
        (
            "[    0.0] tdx: Guest detected\n[    0.0] Kernel panic - not syncing: TD misconfiguration: SEPT_VE_DISABLE \
             attribute must be set.\n",
            &["td-guest", "td-configuration"],
            &["sept-ve-disable=on"],
        ),
        (
            "qemu-system-x86_64: TDX guest reports fatal error. error code: 0x0, error message: \"no init\"\n",
            &["td-guest-panic"],
            &["the TD's own console"],
        ),
        (
            "chmem: Memory Block 40 (0x3280000000-0x3287ffffff) enable failed\n\
             daxctl: dax0.0: Failed to online memory: Operation not permitted\nvirt/tdx: module initialized\n",
            &["initialized", "memory-not-onlined"],
            &["EPERM"],
        ),
        (
            "root@pve:~# rdmsr 0x982\nrdmsr: CPU 0 cannot read MSR 0x00000982\nrdmsr: CPU 0 cannot read MSR 0x00001401\n",
            &["registers-of-report"],
            &["does not have a register"],
        ),
    ]);
}

#[test]
fn other_hypervisors() {
    let text = "2026-03-11T08:14:55.301Z In(182) vmkernel: cpu17:2101544)TDX: 812: Initializing TD\n\
                2026-03-11T08:14:55.302Z Wa(180) vmkwarning: cpu17:2101544)WARNING: TDX: 1044: TDH.PHYMEM.PAGE.RECLAIM \
                failed with status: 0xc000030000000001\n";
    all(&[(text, &["esxi-host", "seamcall-later"], &["TDX_PAGE_METADATA_INCORRECT"])]);
    // What Linux does with such a page says nothing here.
    assert!(explained(text).findings.iter().all(|found| !found.cause.contains("Linux does not reset")), "{text}");
}

#[test]
fn refused_images_in_other_languages() {
    for words in [
        "Die Operation wird nicht unterst\u{fc}tzt",
        "Op\u{e9}ration non support\u{e9}e",
        "La operaci\u{f3}n no est\u{e1} soportada",
        "Operazione non supportata",
        "Opera\u{e7}\u{e3}o n\u{e3}o suportada",
        "Opera\u{e7}\u{e3}o sem suporte",
        "Operacja nie obs\u{142}ugiwana",
        "\u{41d}\u{435}\u{43f}\u{43e}\u{434}\u{434}\u{435}\u{440}\u{436}\u{438}\u{432}\u{430}\u{435}\u{43c}\u{430}\u{44f} \u{43e}\u{43f}\u{435}\u{440}\u{430}\u{446}\u{438}\u{44f}",
        "\u{4e0d}\u{652f}\u{6301}\u{7684}\u{64cd}\u{4f5c}",
        "\u{6b64}\u{9805}\u{64cd}\u{4f5c}\u{4e26}\u{4e0d}\u{88ab}\u{652f}\u{63f4}",
        "\u{30b5}\u{30dd}\u{30fc}\u{30c8}\u{3055}\u{308c}\u{3066}\u{3044}\u{306a}\u{3044}\u{64cd}\u{4f5c}\u{3067}\u{3059}",
    ] {
        all(&[(&format!("kexec_file_load failed: {words}\n"), &["kexec-refused-by-erratum"], &["EOPNOTSUPP"])]);
    }
    all(&[("kexec_file_load failed: Die Operation ist nicht erlaubt\n", &["kexec-load-failed"], &[])]);
}
