//! VMX capability MSRs (0x480 to 0x493): what KVM reads when it is loaded. Only TDs run here, so
//! no VMCS is ever checked against them.
//!
//! Source: which control bits are allowed is that of QEMU's CPU model SapphireRapids
//! (target/i386/cpu.c), which is what a VM on such a CPU is given; bits that must be 1 are the
//! default1 classes of the SDM, volume 3, appendix A. TSC scaling and PAUSE-loop exiting are not
//! in that model; Linux lists them in /proc/cpuinfo of Sapphire Rapids. 5-level EPT is in the
//! model and left out here, as is LA57. No value was read from a processor.

/// IA32_VMX_BASIC.
pub const FIRST: u32 = 0x480;
/// IA32_VMX_EXIT_CTLS2. Those behind IA32_VMX_VMFUNC (0x491) do not exist on this processor.
pub const LAST: u32 = 0x493;

/// Revision of the VMXON region.
pub const REVISION: u32 = 0x11;

/// A capability MSR of control bits: those that must be 1, and those that may be 1 as well.
const fn controls(must: u32, may: u32) -> u64 {
    must as u64 | ((must | may) as u64) << 32
}

/// A mask with these bits set.
const fn bits(numbers: &[u32]) -> u64 {
    let (mut mask, mut index) = (0, 0);
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

/// External interrupts, NMIs, virtual NMIs, preemption timer, posted interrupts.
const PIN: u32 = bits(&[0, 3, 5, 6, 7]) as u32;
/// Interrupt window, TSC offsetting, HLT, INVLPG, MWAIT, RDPMC, RDTSC, CR3 and CR8 accesses, TPR
/// shadow, NMI window, MOV DR, I/O, I/O bitmaps, monitor trap, MSR bitmaps, MONITOR, PAUSE,
/// secondary controls.
const PROCESSOR: u32 = bits(&[2, 3, 7, 9, 10, 11, 12, 15, 16, 19, 20, 21, 22, 23, 24, 25, 27, 28, 29, 30, 31]) as u32;
/// APIC accesses, EPT, descriptor tables, RDTSCP, x2APIC, VPID, WBINVD, unrestricted guest, APIC
/// registers, interrupt delivery, PAUSE loop, RDRAND, INVPCID, VMFUNC, shadow VMCS, RDSEED, PML,
/// XSAVES, TSC scaling.
const SECONDARY: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 20, 25]) as u32;
/// Save debug controls, 64-bit host, PERF_GLOBAL_CTRL, acknowledge interrupt, save and load PAT,
/// save and load EFER, save preemption timer.
const EXIT: u32 = bits(&[2, 9, 12, 15, 18, 19, 20, 21, 22]) as u32;
/// Load debug controls, IA-32e mode, PERF_GLOBAL_CTRL, PAT, EFER.
const ENTRY: u32 = bits(&[2, 9, 13, 14, 15]) as u32;

/// Bits that must be 1, and those of them that the TRUE MSRs allow to be 0: CR3 accesses, debug
/// controls.
const PIN_DEFAULT: u32 = 0x16;
const PROCESSOR_DEFAULT: u32 = 0x0401_e172;
const PROCESSOR_TRUE: u32 = 0x0400_6172;
const EXIT_DEFAULT: u32 = 0x0003_6dff;
const EXIT_TRUE: u32 = 0x0003_6dfb;
const ENTRY_DEFAULT: u32 = 0x11ff;
const ENTRY_TRUE: u32 = 0x11fb;

/// INS and OUTS information, TRUE MSRs.
const BASIC: u64 = bits(&[54, 55]);
const WRITE_BACK: u64 = 6;
/// LMA is saved, HLT state, VMWRITE to any field; timer rate 5, four CR3 targets.
const MISC: u64 = bits(&[5, 6, 29]) | 5 | 4 << 16;
/// Execute-only, 4 levels, UC and WB, 2 MiB, 1 GiB, INVEPT of one and of all contexts, accessed and
/// dirty bits; INVVPID of an address, of one context, of all, of one without globals.
const EPT_AND_VPID: u64 = bits(&[0, 6, 8, 14, 16, 17, 20, 21, 25, 26, 32, 40, 41, 42, 43]);
/// EPTP switching.
const VMFUNC: u64 = 1;

/// The value of a capability MSR. `None`: RDMSR raises #GP.
pub const fn read(msr: u32) -> Option<u64> {
    Some(match msr {
        // Revision, 4 KiB regions, write-back.
        0x480 => REVISION as u64 | 4096 << 32 | WRITE_BACK << 50 | BASIC,
        0x481 | 0x48d => controls(PIN_DEFAULT, PIN),
        0x482 => controls(PROCESSOR_DEFAULT, PROCESSOR),
        0x483 => controls(EXIT_DEFAULT, EXIT),
        0x484 => controls(ENTRY_DEFAULT, ENTRY),
        0x485 => MISC,
        // CR0: PE, NE and PG must be 1; all bits may be 1.
        0x486 => 0x8000_0021,
        0x487 => 0xffff_ffff,
        // CR4: VMXE must be 1.
        0x488 => 1 << 13,
        0x489 => 0x0037_67ff,
        // Highest index of a VMCS encoding, in bits 9:1: that of the TSC multiplier (0x2032).
        0x48a => 0x32,
        0x48b => controls(0, SECONDARY),
        0x48c => EPT_AND_VPID,
        0x48e => controls(PROCESSOR_TRUE, PROCESSOR),
        0x48f => controls(EXIT_TRUE, EXIT),
        0x490 => controls(ENTRY_TRUE, ENTRY),
        0x491 => VMFUNC,
        _ => return None,
    })
}
