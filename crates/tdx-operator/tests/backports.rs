//! Wordings of TDX code before it was in mainline: Intel's stacks of 5.15 to 6.2, which load the
//! P-SEAMLDR and the module themselves, and backports to 5.10 to 6.6 by the versions of the patches
//! on the mailing list. Numbers are made up; the wordings are those of the sources.

mod common;

use common::all;

#[test]
fn the_kernel_loads_the_module() {
    all(&[
        (
            "[    0.6] seam: no NP-SEAMLDR found intel-seam/np-seamldr.acm\n\
             [    6.1] kvm_intel: Failed to initialize TDX module.\n",
            &["loader-not-there"],
            &["had no file of it", "np-seamldr.acm and libtdx.so into its initrd"],
        ),
        ("[    2.1] tdx: P-SEAMLDR is not loaded.\n", &["loader-not-there"], &["enable the SEAM loader in the BIOS"]),
        ("[    2.1] tdx: No P-SEAMLDR is available.\n", &["loader-not-there"], &[]),
        (
            "[    0.8] seam: TDX P-SEAMLDR: version 0x0 attributes 0x0 vendor_id 0x8086 build_date 20220218 build_num \
             0x9c minor 0x0 major 0x1.\n[    2.1] tdx: Loading TDX module via P-SEAMLDR.\n\
             [    2.9] tdx: Failed to load TDX module.\n",
            &["module-not-installed"],
            &["libtdx.so"],
        ),
        ("[    2.9] tdx: Failed to find the TDX module. -2\n", &["module-not-installed"], &[]),
        (
            "[    0.6] seam: Loading TDX P-SEAMLDR intel-seam/np-seamldr.acm.\n\
             [    0.8] seam: Launch NP-SEAMLDR returned 0x0\n[    0.8] seam: Successfully loaded TDX P-SEAMLDR.\n\
             [    2.9] tdx: TDX SEAM module: attributes 0x0 vendor_id 0x8086 build_date 20220420 build_num 0x156 \
             minor_version 0x0 major_version 0x1.\n[    2.9] tdx: Loaded TDX module via P-SEAMLDR.\n\
             [    2.9] tdx: Initializing TDX module.\n[    4.0] tdx: Initialized TDX module\n",
            &["initialized"],
            &["module 1.0 build 342 of 2022-04-20"],
        ),
    ]);
}

#[test]
fn the_registers_of_seam() {
    all(&[
        ("[    0.6] seam: SEAMRR is not enabled by BIOS\n", &["seam-off"], &["MSR 0x1400 and 0x1401", "MCHECK"]),
        ("[    0.6] seam: SEAMRR base is not configured by BIOS\n", &["seam-off"], &[]),
        ("[    0.6] tdx: SEAMRR not enabled.\n", &["seam-off"], &[]),
        ("[    0.6] tdx: Number of TDX private KeyIDs too small: 1.\n", &["too-few-keyids"], &[]),
        ("[    0.6] tdx: MKTME KeyID partioning inconsistent on CPU 57\n", &["keyids-differ"], &["rdmsr -a 0x87"]),
        ("[    0.6] tdx: initialization failed: too few private KeyIDs available (1).\n", &["too-few-keyids"], &[]),
        ("[    0.9] virt/tdx: BIOS not enabled\n", &["not-enabled-in-bios"], &["power cycle"]),
    ]);
}

#[test]
fn what_the_module_says_of_memory() {
    let start = "[    3.1] tdx: SEAMRR enabled.\n[    3.1] tdx: TDX private KeyID range: [64, 128).\n\
                 [    3.1] tdx: TDX enabled by BIOS.\n";
    let with = |rest: &str| format!("{start}{rest}");
    let not_convertible = with(
        "[    3.2] tdx: TDX module: vendor_id 0x8086, major_version 1, minor_version 0, build_date 20211209, build_num 160\n\
         [    3.2] tdx: Kernel-checked-CMR : [0x100000, 0x6a000000)\n\
         [    3.2] tdx: [0x2080000000, 0x4080000000) is not fully convertible memory\n\
         [    3.2] tdx: TDX module initialization failed.\n",
    );
    let order = with(
        "[    3.2] tdx: BIOS-CMR : [0x200000, 0x6a000000)\n\
         [    3.2] tdx: Firmware bug: CMRs not in address ascending order.\n",
    );
    let offline = with("[    3.2] tdx: Unable to initialize the TDX module when there's offline CPU(s).\n");
    all(&[
        (&not_convertible, &["memory-not-convertible"], &["CXL", "efi=nosoftreserve"]),
        (&order, &["cmrs-invalid"], &["population of memory"]),
        (&offline, &["cpus-offline"], &["maxcpus="]),
    ]);
}

#[test]
fn calls() {
    all(&[
        (
            "[   38.2] tdx: SEAMCALL failed: leaf: 0x21, error: 0xc000090000000000\n\
             [   38.2] tdx: SEAMCALL additional output: rcx 0x0, rdx 0x0, r8 0x0, r9 0x0, r10 0x0, r11 0x0.\n\
             [   38.2] tdx: TDX module initialization failed (-14)\n",
            &["module-and-cpu"],
            &[],
        ),
        ("[   38.2] tdx: CPU is not in VMX operation.\n", &["cpu-not-in-vmx"], &[]),
        // A leaf of debug builds, which others refuse: no failure.
        (
            "[   38.2] tdx: SEAMCALL failed: leaf 254, error 0xc000050500000000.\n\
             [   38.3] tdx: TDDEBUGCONFIG isn't supported.\n[   39.0] tdx: TDX module initialized.\n",
            &["initialized"],
            &["nothing"],
        ),
        // The leaf of the P-SEAMLDR is no status.
        (
            "[   99.1] seamldr: SEAMCALL failed: leaf 0x8000000000000001, rcx 0x123456000, error 0x8000000000000003.\n\
             [   99.1] seamldr: Failed to install new TDX module -5\n",
            &["seamldr-call", "module-update-failed"],
            &["SEAMLDR.INSTALL returned 0x8000000000000003", "do not kexec"],
        ),
    ]);
}

#[test]
fn a_failure_without_its_reason() {
    all(&[
        ("[    6.1] kvm_intel: Failed to initialize TDX module.\n", &["reason-not-logged"], &["precedes this line"]),
        (
            "[   15.1] virt/tdx: initialization failed: the moon is full\n\
             [   15.2] virt/tdx: module initialization failed (-12)\n",
            &["errno-alone"],
            &["-12: PAMT allocation failed", "the words before it are not known"],
        ),
        (
            "[   15.1] virt/tdx: initialization failed: the moon is full\n\
             [   15.2] virt/tdx: module initialization failed (-14)\n",
            &["words-not-known"],
            &["with errno -14"],
        ),
        (
            "[    3.8] virt/tdx: BIOS enabled: private KeyID range [16, 128)\n\
             [   22.1] kvm_intel: TDX not supported by the host platform\n",
            &["no-tdx-here"],
            &["assigned KeyIDs to TDX", "hibernation"],
        ),
    ]);
}

#[test]
fn memory_encryption_without_keys() {
    all(&[
        (
            "[    0.3] x86/tme: enabled by BIOS\n[    0.3] x86/mktme: disabled by BIOS\n",
            &["encryption-without-keyids"],
            &["TME-MT is off"],
        ),
        ("[    0.3] x86/tme: not enabled by BIOS\n", &["encryption-without-keyids"], &["TME) is off"]),
        (
            "[    0.3] x86/mktme: enabled by BIOS\n[    0.3] x86/mktme: 127 KeyIDs available\n\
             [    0.7] x86/tme: configuration is inconsistent between CPUs\n[    0.7] x86/tme: MKTME is not usable\n",
            &["encryption-differs"],
            &["rdmsr -a 0x982"],
        ),
        ("[    0.1] x86/mktme: BIOS enabled: x86_phys_bits reduced by 6\n", &["encryption-only"], &[]),
    ]);
}
