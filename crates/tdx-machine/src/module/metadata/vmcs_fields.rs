//! Metadata fields of a VCPU that are in its VMCS, by their VMCS encoding.
//!
//! Source: the field tables of modules 1.5.01 and 1.5.25, which are alike here; those that a host
//! may read of any TD are confirmed by `fixtures/vectors/metadata.jsonl.gz`.

use super::table::{ALL, DEBUG, DEBUG_WRITE, NONE, READ, Row, access, both, debug_write, write};

/// In the order in which VP.RD version 1 walks them, before those of TDVPS.
#[rustfmt::skip]
pub(super) const VMCS_FIELDS: &[Row] = &[
    both(0x0024_0001_0000_0000, 1, 1, DEBUG), // VPID
    both(0x0024_0001_0000_0002, 1, 1, write(ALL)), // Posted-interrupt notification vector
    both(0x0024_0001_0000_0004, 1, 1, DEBUG), // EPTP index
    both(0x0024_0001_0000_0006, 1, 1, DEBUG), // HLAT prefix size
    both(0x0024_0001_0000_0800, 1, 1, DEBUG_WRITE), // Guest ES selector
    both(0x0024_0001_0000_0802, 1, 1, DEBUG_WRITE), // Guest CS selector
    both(0x0024_0001_0000_0804, 1, 1, DEBUG_WRITE), // Guest SS selector
    both(0x0024_0001_0000_0806, 1, 1, DEBUG_WRITE), // Guest DS selector
    both(0x0024_0001_0000_0808, 1, 1, DEBUG_WRITE), // Guest FS selector
    both(0x0024_0001_0000_080a, 1, 1, DEBUG_WRITE), // Guest GS selector
    both(0x0024_0001_0000_080c, 1, 1, DEBUG_WRITE), // Guest LDTR selector
    both(0x0024_0001_0000_080e, 1, 1, DEBUG_WRITE), // Guest TR selector
    both(0x0024_0001_0000_0810, 1, 1, DEBUG_WRITE), // Guest Interrupt Status
    both(0x0024_0001_0000_0812, 1, 1, DEBUG_WRITE), // PML Index
    both(0x0024_0001_0000_0814, 1, 1, DEBUG_WRITE), // Guest UINV
    both(0x0024_0003_0000_2000, 2, 1, DEBUG), // I/O-Bitmap Address n
    both(0x0024_0003_0000_2004, 1, 1, READ), // MSR-Bitmap Address
    both(0x0024_0003_0000_2006, 1, 1, DEBUG), // VM-exit MSR-store address
    both(0x0024_0003_0000_2008, 1, 1, DEBUG), // VM-exit MSR-load address
    both(0x0024_0003_0000_200a, 1, 1, DEBUG), // VM-entry MSR-load address
    both(0x0024_0003_0000_200c, 1, 1, NONE), // Executive-VMCS Pointer
    both(0x0024_0003_0000_200e, 1, 1, access(ALL, 0, ALL, 0xffff_ffff_ffff_f000)), // PML address
    both(0x0024_0003_0000_2010, 1, 1, access(ALL, 0, ALL, ALL)), // Time-Stamp Counter Offset
    both(0x0024_0003_0000_2012, 1, 1, NONE), // Virtual-APIC address
    both(0x0024_0003_0000_2014, 1, 1, DEBUG), // APIC-access address
    both(0x0024_0003_0000_2016, 1, 1, write(0xffff_ffff_ffff_ffc0)), // Posted-interrupt descriptor address
    both(0x0024_0003_0000_2018, 1, 1, READ), // VM-Function Controls
    both(0x0024_0003_0000_201a, 1, 1, READ), // EPTP
    both(0x0024_0003_0000_201c, 4, 1, DEBUG), // EOI-exit bitmap n
    both(0x0024_0003_0000_2024, 1, 1, READ), // EPTP-list address
    both(0x0024_0003_0000_2026, 1, 1, DEBUG), // VMREAD-bitmap address
    both(0x0024_0003_0000_2028, 1, 1, DEBUG), // VMWRITE-bitmap address
    both(0x0024_0003_0000_202a, 1, 1, DEBUG), // Virtualization-exception information address
    both(0x0024_0003_0000_202c, 1, 1, DEBUG_WRITE), // XSS-Exiting Bitmap
    both(0x0024_0003_0000_202e, 1, 1, DEBUG), // ENCLS-Exiting Bitmap
    both(0x0024_0003_0000_2032, 1, 1, access(ALL, 0, ALL, ALL)), // Time-Stamp Counter Multiplier
    both(0x0024_0003_0000_2034, 1, 1, debug_write(0x1)), // Tertiary Processor-Based VM-Exection Controls
    both(0x0024_0003_0000_2036, 1, 1, DEBUG), // ENCLV-Exiting Bitmap
    both(0x0024_0003_0000_2038, 1, 1, DEBUG), // low PASID directory address
    both(0x0024_0003_0000_203a, 1, 1, DEBUG), // high PASID directory address
    both(0x0024_0003_0000_203c, 1, 1, access(0xf_ffff_ffff_f000, 0xf_ffff_ffff_f000, ALL, 0xf_ffff_ffff_f000)), // Shared EPTP
    both(0x0024_0003_0000_203e, 1, 1, DEBUG), // PCONFIG-Exiting Bitmap
    both(0x0024_0003_0000_2040, 1, 1, DEBUG), // HLAT pointer
    both(0x0024_0003_0000_204a, 1, 1, DEBUG), // IA32_SPEC_CTRL mask
    both(0x0024_0003_0000_204c, 1, 1, DEBUG), // IA32_SPEC_CTRL shadow
    both(0x0024_0003_0000_2400, 1, 1, DEBUG), // Guest-physical Address
    both(0x0024_0003_0000_2800, 1, 1, NONE), // VMCS Link Pointer
    both(0x0024_0003_0000_2802, 1, 1, debug_write(0xffc7)), // IA32_DEBUGCTL
    both(0x0024_0003_0000_2804, 1, 1, DEBUG_WRITE), // IA32_PAT
    both(0x0024_0003_0000_2806, 1, 1, DEBUG_WRITE), // IA32_EFER
    both(0x0024_0003_0000_2808, 1, 1, DEBUG_WRITE), // IA32_PERF_GLOBAL_CTRL
    both(0x0024_0003_0000_280a, 4, 1, DEBUG), // PDPTEn
    both(0x0024_0003_0000_2814, 1, 1, DEBUG_WRITE), // IA32_RTIT_CTL
    both(0x0024_0003_0000_2816, 1, 1, DEBUG_WRITE), // IA32_LBR_CTL
    both(0x0024_0003_0000_2818, 1, 1, DEBUG_WRITE), // IA32_GUEST_PKRS
    both(0x0024_0002_0000_4000, 1, 1, access(0x80, 0x80, ALL, 0x80)), // Pin-Based VM-Exection Controls
    both(0x0024_0002_0000_4002, 1, 1, debug_write(0x6999_9a04)), // Primary Processor-Based VM-Exection Controls
    both(0x0024_0002_0000_4004, 1, 1, debug_write(0xfffb_ffff)), // Exception Bitmap
    both(0x0024_0002_0000_4006, 1, 1, DEBUG_WRITE), // Page-fault error-code mask
    both(0x0024_0002_0000_4008, 1, 1, DEBUG_WRITE), // Page-fault error-code match
    both(0x0024_0002_0000_400a, 1, 1, DEBUG_WRITE), // CR3-Target Count
    both(0x0024_0002_0000_400c, 1, 1, DEBUG), // VM-Exit Controls
    both(0x0024_0002_0000_400e, 1, 1, DEBUG), // VM-exit MSR-store count
    both(0x0024_0002_0000_4010, 1, 1, DEBUG), // VM-exit MSR-load count
    both(0x0024_0002_0000_4012, 1, 1, DEBUG), // VM-Entry Controls
    both(0x0024_0002_0000_4014, 1, 1, DEBUG), // VM-entry MSR-load count
    both(0x0024_0002_0000_4016, 1, 1, DEBUG), // VM-entry interruption information
    both(0x0024_0002_0000_4018, 1, 1, DEBUG), // VM-entry exception error code
    both(0x0024_0002_0000_401a, 1, 1, DEBUG), // VM-entry instruction length
    both(0x0024_0002_0000_401c, 1, 1, DEBUG), // TPR threshold
    both(0x0024_0002_0000_401e, 1, 1, access(0xc000_0000, 0xc000_0000, ALL, 0xc013_0c04)), // Secondary Processor-Based VM-Exection Controls
    both(0x0024_0002_0000_4020, 1, 1, access(ALL, 0, ALL, ALL)), // PLE_GAP
    both(0x0024_0002_0000_4022, 1, 1, access(ALL, 0, ALL, ALL)), // PLE_Window
    both(0x0024_0002_0000_4024, 1, 1, write(ALL)), // Instruction Timeout Control
    both(0x0024_0002_0000_4026, 1, 1, READ), // TD HKID
    both(0x0024_0002_0000_4400, 1, 1, DEBUG), // VM-instruction error
    both(0x0024_0002_0000_4402, 1, 1, DEBUG), // Exit reason
    both(0x0024_0002_0000_4404, 1, 1, DEBUG), // VM-exit interruption information
    both(0x0024_0002_0000_4406, 1, 1, DEBUG), // VM-exit interruption error code
    both(0x0024_0002_0000_4408, 1, 1, DEBUG), // IDT-vectoring information
    both(0x0024_0002_0000_440a, 1, 1, DEBUG), // IDT-vectoring error code
    both(0x0024_0002_0000_440c, 1, 1, DEBUG), // VM-exit instruction length
    both(0x0024_0002_0000_440e, 1, 1, DEBUG), // VM-exit instruction information
    both(0x0024_0002_0000_4800, 1, 1, DEBUG_WRITE), // Guest ES limit
    both(0x0024_0002_0000_4802, 1, 1, DEBUG_WRITE), // Guest CS limit
    both(0x0024_0002_0000_4804, 1, 1, DEBUG_WRITE), // Guest SS limit
    both(0x0024_0002_0000_4806, 1, 1, DEBUG_WRITE), // Guest DS limit
    both(0x0024_0002_0000_4808, 1, 1, DEBUG_WRITE), // Guest FS limit
    both(0x0024_0002_0000_480a, 1, 1, DEBUG_WRITE), // Guest GS limit
    both(0x0024_0002_0000_480c, 1, 1, DEBUG_WRITE), // Guest LDTR limit
    both(0x0024_0002_0000_480e, 1, 1, DEBUG_WRITE), // Guest TR limit
    both(0x0024_0002_0000_4810, 1, 1, DEBUG_WRITE), // Guest GDTR limit
    both(0x0024_0002_0000_4812, 1, 1, DEBUG_WRITE), // Guest IDTR limit
    both(0x0024_0002_0000_4814, 1, 1, DEBUG_WRITE), // Guest ES access rights
    both(0x0024_0002_0000_4816, 1, 1, DEBUG_WRITE), // Guest CS access rights
    both(0x0024_0002_0000_4818, 1, 1, DEBUG_WRITE), // Guest SS access rights
    both(0x0024_0002_0000_481a, 1, 1, DEBUG_WRITE), // Guest DS access rights
    both(0x0024_0002_0000_481c, 1, 1, DEBUG_WRITE), // Guest FS access rights
    both(0x0024_0002_0000_481e, 1, 1, DEBUG_WRITE), // Guest GS access rights
    both(0x0024_0002_0000_4820, 1, 1, DEBUG_WRITE), // Guest LDTR access rights
    both(0x0024_0002_0000_4822, 1, 1, DEBUG_WRITE), // Guest TR access rights
    both(0x0024_0002_0000_4824, 1, 1, DEBUG_WRITE), // Interruptibility State
    both(0x0024_0002_0000_4826, 1, 1, DEBUG), // Activity State
    both(0x0024_0002_0000_4828, 1, 1, NONE), // Guest SMBASE
    both(0x0024_0002_0000_482a, 1, 1, DEBUG_WRITE), // IA32_SYSENTER_CS
    both(0x0024_0002_0000_482e, 1, 1, DEBUG_WRITE), // VMX-Preemption Timer Value
    both(0x0024_0003_0000_6000, 1, 1, debug_write(0xffff_ffff_9fff_ffde)), // CR0 Guest/Host Mask
    both(0x0024_0003_0000_6002, 1, 1, debug_write(0xffff_ffff_ffff_9fbf)), // CR4 Guest/Host Mask
    both(0x0024_0003_0000_6004, 1, 1, debug_write(0xffff_ffff_ffff_ffde)), // CR0 Read Shadow
    both(0x0024_0003_0000_6006, 1, 1, debug_write(0xffff_ffff_ffff_ffbf)), // CR4 Read Shadow
    both(0x0024_0003_0000_6008, 4, 1, DEBUG_WRITE), // CR3-Target Values
    both(0x0024_0003_0000_6400, 1, 1, DEBUG), // Exit qualification
    both(0x0024_0003_0000_6402, 1, 1, DEBUG), // I/O RCX
    both(0x0024_0003_0000_6404, 1, 1, DEBUG), // I/O RSI
    both(0x0024_0003_0000_6406, 1, 1, DEBUG), // I/O RDI
    both(0x0024_0003_0000_6408, 1, 1, DEBUG), // I/O RIP
    both(0x0024_0003_0000_640a, 1, 1, DEBUG), // Guest-Linear Address
    both(0x0024_0003_0000_6800, 1, 1, DEBUG_WRITE), // Guest CR0
    both(0x0024_0003_0000_6802, 1, 1, DEBUG_WRITE), // Guest CR3
    both(0x0024_0003_0000_6804, 1, 1, DEBUG_WRITE), // Guest CR4
    both(0x0024_0003_0000_6806, 1, 1, DEBUG_WRITE), // Guest ES base
    both(0x0024_0003_0000_6808, 1, 1, DEBUG_WRITE), // Guest CS base
    both(0x0024_0003_0000_680a, 1, 1, DEBUG_WRITE), // Guest SS base
    both(0x0024_0003_0000_680c, 1, 1, DEBUG_WRITE), // Guest DS base
    both(0x0024_0003_0000_680e, 1, 1, DEBUG_WRITE), // Guest FS base
    both(0x0024_0003_0000_6810, 1, 1, DEBUG_WRITE), // Guest GS base
    both(0x0024_0003_0000_6812, 1, 1, DEBUG_WRITE), // Guest LDTR base
    both(0x0024_0003_0000_6814, 1, 1, DEBUG_WRITE), // Guest TR base
    both(0x0024_0003_0000_6816, 1, 1, DEBUG_WRITE), // Guest GDTR base
    both(0x0024_0003_0000_6818, 1, 1, DEBUG_WRITE), // Guest IDTR base
    both(0x0024_0003_0000_681a, 1, 1, DEBUG_WRITE), // Guest DR7
    both(0x0024_0003_0000_681c, 1, 1, DEBUG_WRITE), // Guest RSP
    both(0x0024_0003_0000_681e, 1, 1, DEBUG_WRITE), // Guest RIP
    both(0x0024_0003_0000_6820, 1, 1, DEBUG_WRITE), // Guest RFLAGS
    both(0x0024_0003_0000_6822, 1, 1, DEBUG_WRITE), // Pending Debug Exceptions
    both(0x0024_0003_0000_6824, 1, 1, DEBUG_WRITE), // IA32_SYSENTER_ESP
    both(0x0024_0003_0000_6826, 1, 1, DEBUG_WRITE), // IA32_SYSENTER_EIP
    both(0x0024_0003_0000_6828, 1, 1, DEBUG_WRITE), // GUEST_IA32_S_CET
    both(0x0024_0003_0000_682a, 1, 1, DEBUG_WRITE), // GUEST_SSP
    both(0x0024_0003_0000_682c, 1, 1, DEBUG_WRITE), // GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR
    both(0x0024_0003_0000_6c08, 1, 1, NONE), // Host GS Base
    both(0x0024_0003_0000_6c14, 1, 1, NONE), // Host RSP
    both(0x0024_0003_0000_6c16, 1, 1, NONE), // Host RIP
    both(0x0024_0003_0000_6c1a, 1, 1, NONE), // HOST_SSP
];
