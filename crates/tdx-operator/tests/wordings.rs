//! The kinds of `fixtures/field` in other wordings: at least three inputs for each kind, by the
//! format strings of Linux, QEMU, kexec-tools, kdump-utils, systemd, mcelog and rasdaemon.

mod common;

use common::{all, explained};
use tdx_operator::explain::from_reader;

const SPR: &str = "[    1.3] smpboot: CPU0: Intel(R) Xeon(R) (family: 0x6, model: 0x8f, stepping: 0x8)\n";
const GNR: &str = "[    1.3] smpboot: CPU0: Intel(R) Xeon(R) (family: 0x6, model: 0xad, stepping: 0x1)\n";

#[test]
fn refused_images() {
    let by_erratum = &["kexec-refused-by-erratum"][..];
    all(&[
        ("[   41.7] kexec: Not allowed on platform with tdx_pw_mce bug\n", by_erratum, &["Linux 6.18 to 7.1"]),
        (
            "kexec_load failed: Operation not supported\nentry       = 0x2feff1730 flags = 0x3e0001\n",
            by_erratum,
            &["EOPNOTSUPP"],
        ),
        ("Jan 14 07:02:11 node5 kexec[812]: kexec_file_load failed: Operation not supported\n", by_erratum, &["7.2"]),
        (
            "Jan 14 07:02:11 node5 kdump-tools[700]: kexec_load failed: Operation not supported\n\
             Jan 14 07:02:11 node5 kdump-tools[700]: failed to load kdump kernel ... failed!\n",
            by_erratum,
            &["not a failed"],
        ),
        (
            "2026-01-14T07:02:11+0000 node5 systemctl[99]: kexec_file_load failed: Operation not supported\n\
             2026-01-14T07:02:11+0000 node5 systemd[1]: kexec-load.service: Failed with result 'exit-code'.\n",
            by_erratum,
            &[],
        ),
        // Another kernel, another CPU, another reason.
        (
            "[0.0] Linux version 7.2.1\nkexec_load failed: Operation not supported\n",
            &["silent-about-tdx", "kexec-not-supported"],
            &[],
        ),
        (&format!("{GNR}kexec_load failed: Operation not supported\n"), &["kexec-not-supported"], &[]),
        // A guest; the CPU of another machine.
        (
            "[0.0] tdx: Guest detected\n[9.0] kexec_load failed: Operation not supported\n",
            &["td-guest", "kexec-in-a-guest"],
            &["says nothing of a kexec of the host"],
        ),
        (
            &format!("{GNR}[9.0] kexec: Not allowed on platform with tdx_pw_mce bug\n"),
            by_erratum,
            &["lines may be of two machines"],
        ),
        ("kexec_file_load failed: Operation not permitted\n", &["kexec-load-failed"], &["EPERM"]),
        (
            "Jan 14 07:02:11 node5 kdumpctl[1398]: kdump: kexec: failed to load kdump kernel\n",
            &["kexec-load-failed"],
            &["no line tells"],
        ),
        (
            "[  9.1] cleanslate: lost track of TDX private memory (missed SEAMCALLs); refusing kexec images\n",
            &["kexec-refused-by-cleanslate"],
            &[],
        ),
    ]);
    // A loaded image is no finding, a dump that was not saved and prose are none.
    for text in
        ["node5 kdump[1]: saving vmcore failed\n", "kdump: saving vmcore failed\n", "we tried kexec and it failed\n"]
    {
        assert!(from_reader("x", text.as_bytes()).is_err(), "{text}");
    }
    assert!(from_reader("x", &b"node5 kdumpctl[1]: kdump: kexec: loaded kdump kernel\n"[..]).is_err());
}

#[test]
fn tdx_is_up_and_kexec_is_not() {
    let up = "[    9.0] virt/tdx: module initialized\n";
    for (kernel, cpu, words) in [
        ("6.18.3", SPR, "refuses kexec and kdump images on this CPU"),
        ("7.1.0", SPR, "refuses kexec and kdump images on this CPU"),
        ("6.19.10", "", "Sapphire Rapids and Emerald Rapids"),
        ("7.2.0", SPR, "jumps whether or not the module"),
        ("6.18.3", GNR, "nothing"),
        ("6.14.0", SPR, "nothing"),
    ] {
        let log = explained(&format!("[    0.0] Linux version {kernel}\n{cpu}{up}"));
        let remedy = &log.findings[0].remedy;
        assert!(log.findings[0].rule == "initialized" && remedy.contains(words), "{kernel}: {remedy}");
    }
}

#[test]
fn failed_calls() {
    let later = &["seamcall-later"][..];
    all(&[
        (
            "[9.1] SEAMCALL[TDH_MEM_PAGE_REMOVE(0x1d)] failed: TDX_OPERAND_BUSY (0x8000020000000092)\n",
            later,
            &["frees it without a", "SEPT_TREE"],
        ),
        (
            "[9.1] kvm_intel: SEAMCALL[TDH_PHYMEM_PAGE_RECLAIM] failed on cpu 3: 0xc000030000000001\n",
            later,
            &["leaks it on purpose"],
        ),
        (
            "[9.1] tdx: SEAMCALL failed: CPU 3: leaf 41, error 0x8000020000000001.\n",
            later,
            &["TDH.PHYMEM.PAGE.WBINVD", "written back"],
        ),
        ("[9.1] kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_WBINVD failed: 0x8000020000000001\n", later, &["private again"]),
        ("[9.1] kvm_intel: TDH_VP_RD[VMCS.0x4816] failed 0xe000060400000000\n", later, &["TDH.VP.RD", "TDX_TD_FATAL"]),
        (
            "[9.1] kvm_intel: tdh_mng_key_freeid() failed. HKID 33 is leaked.\n",
            &["keyid-leaked"],
            &["KeyID 33", "stay private"],
        ),
        ("[9.1] kvm_intel: SEAMCALL TDH_MNG_CREATE failed: 0x8000020300000000\n", later, &["frees it without a reset"]),
        (
            "qemu-system-x86_64: TDX ioctl 1 return with -5, hw_errors: 0xc000010000000040\n",
            later,
            &["TDX_OPERAND_INVALID"],
        ),
        ("[9.1] SEAMCALL (0x000000000000001c) failed: 0xc000424200000001\n", later, &["unknown status"]),
        ("[9.1] SEAMCALL (0x000000000000001c) failed: 0xc0000\n", later, &["does not show a whole"]),
        (&format!("{GNR}[9.1] SEAMCALL (0x1c) failed: 0xc000030000000001\n"), later, &["At a kexec this is harmless"]),
    ]);
}

#[test]
fn exits_and_warnings() {
    let later = &["seamcall-later"][..];
    all(&[
        (
            "[9.1] kvm_intel: kvm [7]: TD vp_enter_ret 0x4000000200000000, hkid 0x21 hkid pa 0x420000000000\n",
            later,
            &["KeyID 0x21"],
        ),
        ("[9.1] kvm_intel: kvm [7]: TD vp_enter_ret 0xe000000700000000\n", later, &["x2APIC"]),
        (
            "[9.1] kvm_intel: TD exit 0x6000000a00000000, 0 hkid 0x21 hkid pa 0x420000000000\n",
            later,
            &["metadata corrupted"],
        ),
        (
            "[9.1] WARNING: arch/x86/kvm/vmx/tdx.c:334 at __tdx_reclaim_page+0xac/0xe0 [kvm_intel], CPU#3: qemu/99\n\
             [9.1] RIP: 0010:__tdx_reclaim_page+0xac/0xe0 [kvm_intel]\n\
             [9.1] RAX: c000030000000001 RBX: 0000000000000001 RCX: 0000000000000000\n\
             [9.1] ---[ end trace 0000000000000000 ]---\n\
             [9.1] kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001, rcx 0x0, rdx, 0x0, r8 0x0\n",
            later,
            &["The page stays private"],
        ),
        (
            "[9.1] WARNING: CPU: 1 PID: 2 at arch/x86/virt/vmx/tdx/tdx.c:868 x+0x1/0x2\n\
             [9.1] RAX: 0000000000000012 RBX: 0000000000000001\n[9.1] ---[ end trace 0 ]---\n",
            &["warning-in-tdx-code"],
            &[],
        ),
        // Cut before the registers.
        (
            "[9.1] WARNING: CPU: 1 PID: 2 at arch/x86/kvm/vmx/tdx.c:1494 tdx_mem_page_aug+0x102/0x1d0\n",
            &["warning-in-tdx-code"],
            &[],
        ),
    ]);
    let other = "[9.1] WARNING: CPU: 1 PID: 2 at mm/page_alloc.c:1 x+0x1/0x2\n[9.1] RAX: c000030000000001 RBX: 1\n";
    assert!(from_reader("x", other.as_bytes()).is_err(), "a warning of other code is none of TDX");
}

#[test]
fn records_of_mcelog() {
    let head = "Hardware event. This is not a software error.\nMCE 0\nCPU 1 BANK 13 TSC 1\n";
    let journal = |line: &str| format!("Feb 03 04:05:06 node5 mcelog[912]: {line}\n");
    let journaled: String = head
        .lines()
        .chain(["MemCtrl: Corrected patrol scrub error", "STATUS 8c000040000800c0 MCGSTATUS 0"])
        .map(journal)
        .collect();
    let raw =
        "CPU 1\nBANK 13\nTSC 0x1\nADDR 0x2f00aa1140\nSTATUS 0xbd80000000100134\nMCGSTATUS 0xf\nPROCESSOR 0:0x806f8\n";
    all(&[
        (&format!("{head}MCi status:\nCorrected error\nSTATUS 8c00004000010090 MCGSTATUS 0\n"), &["corrected"], &[]),
        (&journaled, &["corrected"], &[]),
        (
            &format!("{head}STATUS bd80000000100134 MCGSTATUS f\nCPUID Vendor Intel Family 6 Model 207 Step 2\n"),
            &["kernel-silent-on-erratum-cpu"],
            &["06_CF"],
        ),
        (&format!("MCE 0\n{raw}"), &["kernel-silent-on-erratum-cpu"], &["06_8F"]),
        // Two records: the first ends where the second begins.
        (
            &format!("{head}STATUS 8c00004000010090 MCGSTATUS 0\n{head}STATUS bd80000000100134 MCGSTATUS f\n"),
            &["cpu-not-shown", "corrected"],
            &[],
        ),
        (
            &format!(
                "{head}MemCtrl: Poison was read from memory when poison was disabled in memory controller\nSTATUS bd80000000b00090 MCGSTATUS f\n"
            ),
            &["cpu-not-shown"],
            &[],
        ),
    ]);
}

/// A guest's machine checks are not judged as those of a host.
#[test]
fn records_of_a_guest() {
    let fatal = "[ 9.1] mce: [Hardware Error]: CPU 1: Machine Check Exception: f Bank 1: bd80000000100134\n";
    all(&[
        (&format!("[ 0.1] tdx: Guest detected\n{SPR}{fatal}"), &["td-guest", "in-a-guest"], &["of the host"]),
        (
            &format!("[ 0.1] Hypervisor detected: KVM\n{GNR}{fatal}"),
            &["virtual-machine", "in-a-guest"],
            &["of the host"],
        ),
        // Not a plain virtual machine: it has the hardware.
        (
            &format!(
                "[ 0.1] Hypervisor detected: Microsoft Hyper-V\n[ 0.1] Hyper-V: running as root partition\n{SPR}{fatal}"
            ),
            &["root-partition", "kernel-silent-on-erratum-cpu"],
            &["gives it the hardware"],
        ),
    ]);
}

#[test]
fn records_of_rasdaemon() {
    all(&[
        (
            "MCE events:\n1 2024-05-06 07:08:09 +0000 error: MEMORY CONTROLLER RD_CHANNEL1_ERR, mcg mcgstatus=5, mci Uncorrected_error Error_enabled, \
             status=0xbe00000200a00091, addr=0x3a4b5c880, cpuid=0x000c06f2, bank=0x00000010\n",
            &["kernel-silent-on-erratum-cpu"],
            &["06_CF"],
        ),
        (
            "Memory controller events:\n1 2024-05-06 07:08:09 +0000 2 Corrected error(s): memory read error at CPU_SrcID#0_MC#1_Chan#0_DIMM#0 \
             location: 0:0:0:-1, addr 4398046511104, grain 5, syndrome 0  area:DRAM\n",
            &["corrected"],
            &["CPU_SrcID#0_MC#1_Chan#0_DIMM#0"],
        ),
        (
            "Feb 03 04:05:06 node5 rasdaemon[812]: mce_record: 2024-05-06 07:08:09 +0000 bank=10, status= be00000200a00091, MEMORY CONTROLLER \
             RD_CHANNEL1_ERR Transaction: Memory read error, mci=Uncorrected_error, MemCtrl: Uncorrected read error, cpu_type= Intel \
             Sapphirerapids, cpu= 4, socketid= 1, addr= 3a4b5c880, mcgstatus= 5, mcgcap= f000c1c, apicid= 80\n",
            &["controller-names-ecc"],
            &["Uncorrected read error"],
        ),
        (
            "[ 12.3] mce_record: CPU: 4, MCGc/s: f000c1c/5, MC1: bd80000000100134, ADDR/MISC/SYND: 80f7ada400/86/0, RIP: 10:<0>, TSC: 1, \
             PROCESSOR: 0:806f8, TIME: 1, SOCKET: 1, APIC: 80\n",
            &["kernel-silent-on-erratum-cpu"],
            &["06_8F"],
        ),
    ]);
    all(&[("No Memory errors.\n\nNo MCE errors.\n\n", &["none-recorded"], &["no error of these kinds"])]);
}

#[test]
fn records_of_the_firmware() {
    let ghes = |lines: &[&str]| -> String {
        lines.iter().flat_map(|line| ["[ 3.1] {2}[Hardware Error]: ", line, "\n"]).collect()
    };
    let bert = |lines: &[&str]| -> String {
        lines.iter().flat_map(|line| ["[ 3.1] [Hardware Error]: ", line, "\n"]).collect()
    };
    all(&[
        (
            &ghes(&[
                "event severity: fatal",
                " Error 0, type: fatal",
                "  section_type: memory error",
                "  error_type: 4, single-symbol chipkill ECC",
            ]),
            &["controller-names-ecc"],
            &["chipkill"],
        ),
        (
            &bert(&[
                "event severity: fatal",
                "  section_type: memory error",
                "  error_type: 3, multi-bit ECC",
                "  DIMM location: not present. DMI handle: 0x0000",
            ]),
            &["controller-names-ecc"],
            &["DIMM"],
        ),
        (
            &bert(&[
                "event severity: fatal",
                "  section_type: IA32/X64 processor error",
                "  CPUID Info:",
                "  00000000: 000806f8 00000000 4c200800 00000000",
            ]),
            &["kernel-silent-on-erratum-cpu"],
            &["06_8F"],
        ),
        (
            &bert(&[
                "event severity: fatal",
                "  section_type: IA32/X64 processor error",
                "  CPUID Info:",
                "  00000000: 000a06d1 00000000 4c200800 00000000",
            ]),
            &["cpu-without-erratum"],
            &["06_AD"],
        ),
        (
            &ghes(&[
                "event severity: recoverable",
                "  section_type: general processor error",
                "  version_info: 0x00000000000806f8",
            ]),
            &["kernel-silent-on-erratum-cpu"],
            &["06_8F"],
        ),
        (
            &ghes(&["event severity: recoverable", "  section_type: general processor error"]),
            &["firmware-without-details"],
            &[],
        ),
        (
            &format!(
                "{}{}",
                bert(&["event severity: corrected"]),
                bert(&["event severity: fatal", "  error_type: 3, multi-bit ECC"])
            ),
            &["controller-names-ecc", "corrected"],
            &[],
        ),
    ]);
}

#[test]
fn key_ids_in_addresses() {
    let keys = "[ 1.0] virt/tdx: BIOS enabled: private KeyID range [64, 128)\n";
    let error = "[ 9.0] mce: Uncorrected hardware memory error in user-access at";
    all(&[
        (
            &format!(
                "{SPR}{keys}{error} 8602a3b4c5640\n[ 9.1] Memory failure: 0x2a3b4c5: recovery action for x: Failed\n"
            ),
            &["silent-after-keyids", "private-key-id"],
            &["KeyID 0x43", "page 0x2a3b4c5"],
        ),
        (
            &format!("{keys}{error} 8002a3b4c5640\n"),
            &["silent-after-keyids", "private-key-id"],
            &["its own KeyID 0x40"],
        ),
        (&format!("{GNR}{keys}{error} 8602a3b4c5640\n"), &["silent-after-keyids", "cpu-without-erratum"], &[]),
        // A shared KeyID, and no KeyID at all.
        (&format!("{SPR}{keys}{error} 202a3b4c5640\n"), &["silent-after-keyids", "kernel-silent-on-erratum-cpu"], &[]),
        (&format!("{SPR}{error} 8602a3b4c5640\n"), &["perhaps-key-id"], &["above 2 TiB"]),
    ]);
}

#[test]
fn panics() {
    let record = "[ 1.0] mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 1: bd80000000100134\n";
    for panic in [
        "Fatal machine check",
        "Fatal Machine check",
        "Fatal local machine check",
        "Machine check from unknown source",
        "Timeout: Not all CPUs entered broadcast exception handler",
        "Timeout waiting for machine check monarch CPU",
        "Panicing machine check CPU died",
    ] {
        let log = explained(&format!("{record}[ 1.1] Kernel panic - not syncing: {panic}\n"));
        assert_eq!(log.findings[0].evidence.len(), 2, "{panic}");
    }
}

#[test]
fn speakers() {
    all(&[
        ("[ 0.0] tdx: Guest detected\n", &["td-guest"], &["nothing to do here"]),
        ("[ 0.0] Linux version 6.8.0\n[ 0.1] Memory Encryption Features active: TDX\n", &["td-guest"], &[]),
        ("[ 1.0] systemd[1]: Detected confidential virtualization tdx.\n", &["td-guest"], &[]),
        ("[ 0.0] Hypervisor detected: VMware\n", &["virtual-machine"], &[]),
        ("[ 0.0] DMI: innotek GmbH VirtualBox/VirtualBox, BIOS VirtualBox 12/01/2006\n", &["virtual-machine"], &[]),
        ("[ 0.0] Booting paravirtualized kernel on KVM\n", &["virtual-machine"], &[]),
        ("2026-01-14T07:02:11.123Z cpu12:2097152)VMware ESXi 8.0.2\n", &["esxi-host"], &[]),
        ("[ 0.0] Linux version 5.15.0\n", &["silent-about-tdx"], &["no TDX host code in mainline"]),
        ("[ 0.0] Linux version 6.12.1\n", &["silent-about-tdx"], &["CONFIG_INTEL_TDX_HOST"]),
        (
            "[ 0.0] Linux version 6.12.1\n[ 0.2] smpboot: CPU0: AMD EPYC 9654 (family: 0x19, model: 0x11, stepping: 0x1)\n",
            &["cpu-not-intel"],
            &[],
        ),
        (
            "MK_TME_ENABLED bit: 1 (expected value: 1)\nSEAM_RR bit: 0 (expected value: 1)\nNUM_TDX_PRIV_KEYS: 20\n",
            &["registers-of-report"],
            &["SEAM is off"],
        ),
        (
            "NUM_TDX_PRIV_KEYS: 20\nSGX_AND_MCHECK_STATUS: 0 (expected value: 0)\n",
            &["registers-of-report"],
            &["as TDX needs them"],
        ),
        (
            "qemu-system-x86_64: -accel kvm: vm-type tdx not supported by KVM\n",
            &["kvm-without-tdx"],
            &["kvm_intel.tdx=1"],
        ),
        (
            "Jan 14 07:02:11 node5 libvirtd[7]: unsupported configuration: INTEL TDX launch security is not supported with this QEMU binary\n",
            &["qemu-without-tdx"],
            &[],
        ),
        (
            "qemu-system-x86_64: KVM_TDX_INIT_VM failed: No space left on device\n",
            &["kvm-command-failed"],
            &["no free private KeyID"],
        ),
    ]);
}

#[test]
fn broken_and_prefixed_lines() {
    let up = &["joined-lines", "initialized"][..];
    let status = "[ 9031.220417] SEAMCALL (0x000000000000001c) failed:\n0xc000030000000001 RCX 0x0000000000000000\n";
    all(&[
        (
            &format!("[    9.0] virt/tdx: module initialized\n{status}"),
            &["joined-lines", "initialized", "seamcall-later"],
            &[],
        ),
        (
            "[    9.0] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_ver=\nsion 1, minor_version 5\n[    9.1] virt/tdx: module initialized\n",
            up,
            &["module 1.5"],
        ),
        ("> [    9.0] virt/tdx: module initialization failed\n> (-28)\n", &["joined-lines", "errno-alone"], &["-28"]),
        ("node-3: [    9.0] virt/tdx: module initialized\n", &["initialized"], &[]),
        ("ttyS1 | [    9.0] virt/tdx: module initialized\n", &["initialized"], &[]),
        ("bmc5:[Wed Feb  7 13:24:07 2024] virt/tdx: module not loaded\n", &["module-not-loaded"], &[]),
    ]);
}

#[test]
fn a_module_that_is_up_is_not_said_to_have_failed() {
    let up = "[    9.0] virt/tdx: module initialized\n";
    all(&[
        (
            &format!(
                "{up}[ 20.0] virt/tdx: TDX requires all packages to have an online CPU. Delete all TDs in order to offline all CPUs of a package.\n"
            ),
            &["initialized", "package-offline"],
            &["bring a CPU of each package online"],
        ),
        (
            &format!("{up}[ 20.0] virt/tdx: module not loaded\n"),
            &["initialized", "module-not-loaded"],
            &["after the module came up"],
        ),
        (&format!("{up}[ 20.0] kvm_intel: APICv is required for TDX\n"), &["initialized", "needs-apicv"], &[]),
        (
            &format!("[ 8.0] virt/tdx: SEAMCALL (0x2d) failed: 0x8000020200000000\n{up}"),
            &["seamcall-failed", "initialized"],
            &["before the module came up"],
        ),
    ]);
}
