//! VMX capability MSRs: what Linux's KVM requires of a CPU when it is loaded (`setup_vmcs_config`,
//! `nested_vmx_setup_ctls_msrs` of 7.3). The controls are named by KVM and the SDM, volume 3,
//! appendix A; which of them a Sapphire Rapids has besides is not known from a dump. VM entry is
//! not supported whatever they say.

/// IA32_VMX_BASIC, the first of the capability MSRs.
pub const VMX_BASIC: u32 = 0x480;
/// Revision of the VMXON region.
pub const VMX_REVISION: u32 = 0x11;

const PIN_BASED: u32 = 0x481;
const PROCESSOR_BASED: u32 = 0x482;
const EXIT: u32 = 0x483;
const ENTRY: u32 = 0x484;
const MISC: u32 = 0x485;
const CR0_FIXED0: u32 = 0x486;
const CR0_FIXED1: u32 = 0x487;
const CR4_FIXED0: u32 = 0x488;
const CR4_FIXED1: u32 = 0x489;
const VMCS_ENUM: u32 = 0x48a;
const PROCESSOR_BASED_2: u32 = 0x48b;
const EPT_VPID: u32 = 0x48c;
const TRUE_PIN_BASED: u32 = 0x48d;
const TRUE_PROCESSOR_BASED: u32 = 0x48e;
const TRUE_EXIT: u32 = 0x48f;
const TRUE_ENTRY: u32 = 0x490;

/// IA32_VMX_BASIC: regions of 4 KiB, write-back, INS and OUTS are described, exceptions may be
/// injected with or without an error code.
const BASIC: u64 = VMX_REVISION as u64 | 4096 << 32 | 6 << 50 | 1 << 54 | 1 << 56;

/// A word of bits.
const fn bits(numbers: &[u32]) -> u64 {
    let (mut word, mut index) = (0, 0);
    while index < numbers.len() {
        word |= 1 << numbers[index];
        index += 1;
    }
    word
}

/// A capability MSR: controls that must be 1 in the low half, controls that may be 1 in the high
/// half.
const fn controls(must: u64, may: u64) -> u64 {
    must | (must | may) << 32
}

/// Reserved bits that are always 1 (SDM, appendix A.3 to A.5).
const PIN_BASED_ONES: u64 = 0x16;
const PROCESSOR_BASED_ONES: u64 = 0x0401_e172;
const EXIT_ONES: u64 = 0x0003_6dff;
const ENTRY_ONES: u64 = 0x11ff;

/// External interrupts, NMIs, virtual NMIs, preemption timer, posted interrupts.
const PIN_BASED_MAY: u64 = bits(&[0, 3, 5, 6, 7]);
/// All but the tertiary controls.
const PROCESSOR_BASED_MAY: u64 =
    bits(&[2, 3, 7, 9, 10, 11, 12, 15, 16, 19, 20, 21, 22, 23, 24, 25, 27, 28, 29, 30, 31]);
/// 64-bit host, PERF_GLOBAL_CTRL, acknowledged interrupts, PAT and EFER saved and loaded,
/// preemption timer saved, CET state.
const EXIT_MAY: u64 = bits(&[9, 12, 15, 18, 19, 20, 21, 22, 28]);
/// 64-bit guest, SMM entry and dual-monitor, PERF_GLOBAL_CTRL, PAT, EFER, CET state.
const ENTRY_MAY: u64 = bits(&[9, 10, 11, 13, 14, 15, 20]);
/// APIC accesses, EPT, descriptor tables, RDTSCP, x2APIC, VPID, WBINVD, unrestricted guest, APIC
/// registers, virtual interrupts, PAUSE loops, RDRAND, INVPCID; VMCS shadowing, RDSEED, PML,
/// XSAVES, TSC scaling.
const PROCESSOR_BASED_2_MAY: u64 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 17, 20, 25]);
/// Execute-only, 4 levels, UC, WB, 2 MiB, 1 GiB, INVEPT, A/D bits, advanced exit information,
/// INVEPT of one and of all contexts; INVVPID and its four types.
const EPT_VPID_CAPABILITIES: u64 = bits(&[0, 6, 8, 14, 16, 17, 20, 21, 22, 25, 26, 32, 40, 41, 42, 43]);

/// Value of a VMX capability MSR.
pub const fn read(msr: u32) -> u64 {
    match msr {
        VMX_BASIC => BASIC,
        PIN_BASED | TRUE_PIN_BASED => controls(PIN_BASED_ONES, PIN_BASED_MAY),
        PROCESSOR_BASED | TRUE_PROCESSOR_BASED => controls(PROCESSOR_BASED_ONES, PROCESSOR_BASED_MAY),
        EXIT | TRUE_EXIT => controls(EXIT_ONES, EXIT_MAY),
        ENTRY | TRUE_ENTRY => controls(ENTRY_ONES, ENTRY_MAY),
        // A preemption timer of TSC / 32, EFER.LMA stored, activity states, 4 CR3 targets, MSR
        // lists of 512 entries, VMXOFF blocks SMIs.
        MISC => 0x7004_81e5,
        // PE, NE and PG must be 1; all bits may be 1.
        CR0_FIXED0 => 0x8000_0021,
        CR0_FIXED1 => 0xffff_ffff,
        // VMXE must be 1.
        CR4_FIXED0 => 1 << 13,
        CR4_FIXED1 => 0x0037_67ff,
        VMCS_ENUM => 0x2e,
        PROCESSOR_BASED_2 => controls(0, PROCESSOR_BASED_2_MAY),
        EPT_VPID => EPT_VPID_CAPABILITIES,
        _ => 0,
    }
}
