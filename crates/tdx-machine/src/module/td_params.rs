//! TD_PARAMS: what MNG.INIT accepts, in the order in which it looks.

use alloc::vec::Vec;
use tdx_abi::{Operand, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::info::ARCH_CAPABILITIES_CONFIG_MASK;
use super::td::{GPAW, MIN_TDCS_PAGES};
use super::td_config::TdConfig;

/// Bytes of TD_PARAMS.
pub(super) const TD_PARAMS_BYTES: usize = 1024;

const ATTRIBUTES: usize = 0;
const XFAM: usize = 8;
const MAX_VCPUS: usize = 16;
const NUM_L2_VMS: usize = 18;
const MSR_CONFIG_CTLS: usize = 19;
const EPTP_CONTROLS: usize = 24;
const CONFIG_FLAGS: usize = 32;
const TSC_FREQUENCY: usize = 40;
const RESERVED_1_END: usize = 80;
const MRCONFIGID: usize = RESERVED_1_END;
/// Words of MRCONFIGID, MROWNER and MROWNERCONFIG.
const MEASURED_IDS: usize = 18;
const ARCH_CAPABILITIES: usize = 224;
const RESERVED_2: usize = 232;
const CPUID_CONFIG: usize = 256;

/// Bits of ATTRIBUTES that exclude each other: a migratable TD is no debug TD and has no PERFMON.
const MIGRATABLE: u64 = 1 << 29;
const DEBUG_OR_PERFMON: u64 = 1 << 0 | 1 << 63;
/// x87 and SSE, which every TD has.
const XFAM_LEAST: u64 = 0b011;
/// Bits of CONFIG_FLAGS that exclude each other: MAXGPA_VIRT and MAXPA_VIRT.
const GPA_AND_PA_WIDTH: u64 = 0b11 << 3;
/// Write-back, four or five levels, no accessed and dirty bits.
const EPTP_4_LEVELS: u64 = 0x1e;
const EPTP_5_LEVELS: u64 = 0x26;
/// Units of 25 MHz.
const TSC_FREQUENCIES: core::ops::RangeInclusive<u64> = 4..=400;

const OPERAND_ATTRIBUTES: Operand = Operand(64);
const OPERAND_XFAM: Operand = Operand(65);
const OPERAND_EXEC_CONTROLS: Operand = Operand(66);
const OPERAND_EPTP_CONTROLS: Operand = Operand(67);
const OPERAND_MAX_VCPUS: Operand = Operand(68);
const OPERAND_CPUID_CONFIG: Operand = Operand(69);
const OPERAND_TSC_FREQUENCY: Operand = Operand(70);
const OPERAND_NUM_L2_VMS: Operand = Operand(71);
const OPERAND_ARCH_CAPABILITIES: Operand = Operand(72);

/// CPUID leafs 1 and 0x80000008 in a CPUID_CONFIG id: leaf in bits 31:0, sub-leaf above.
const LEAF_1: u64 = 0xffff_ffff_0000_0001;
const ADDRESS_WIDTHS: u64 = 0xffff_ffff_8000_0008;
/// CPUID leaf 0x1f, and types of its levels.
const TOPOLOGY: u64 = 0x1f;
const SMT: u64 = 1;
const CORE: u64 = 2;
const MAX_LEVEL_TYPE: u64 = 5;
/// MAXPA_VIRT of CONFIG_FLAGS; the field with the least configured width; the most of a TD whose
/// guest addresses are not wide.
const MAXPA_VIRT: u64 = 1 << 3;
const MIN_VIRT_MAXPA: u64 = 0x9900_0000_0000_0009;
const NARROW_PHYS_BITS: u64 = 48;

/// What the module keeps of it.
pub(super) struct TdParams {
    pub(super) attributes: u64,
    pub(super) xfam: u64,
    pub(super) config_flags: u64,
    pub(super) five_levels: bool,
    pub(super) max_vcpus: u32,
    pub(super) l2_vms: u8,
    pub(super) config: TdConfig,
}

type Bytes = [u8; TD_PARAMS_BYTES];

fn number(bytes: &Bytes, offset: usize, size: usize) -> u64 {
    let field = bytes.get(offset..offset + size).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn is_zero(bytes: &Bytes, from: usize, to: usize) -> bool {
    bytes.get(from..to).unwrap_or_default().iter().all(|byte| *byte == 0)
}

/// XFAM bits come in groups: AVX-512 with AVX and whole, CET whole, AMX whole.
fn is_consistent(xfam: u64) -> bool {
    let whole = |bits: u64| xfam & bits == 0 || xfam & bits == bits;
    let avx = xfam & 1 << 2 != 0;
    xfam & XFAM_LEAST == XFAM_LEAST
        && whole(0b111 << 5)
        && (xfam & 0b111 << 5 == 0 || avx)
        && whole(0b11 << 11)
        && whole(0b11 << 17)
}

impl Module {
    /// Checks the structure; `tdcs_pages` is what the TD has. RCX says which CPUID leaf is wrong.
    pub(super) fn check_td_params(&self, call: &mut Call, bytes: &Bytes, tdcs_pages: u64) -> Result<TdParams, Stop> {
        let invalid = |name: Operand| operand(StatusCode::OPERAND_INVALID, name);
        let cpu = call.hardware.config.td_cpu;
        let attributes = number(bytes, ATTRIBUTES, 8);
        let conflict = attributes & MIGRATABLE != 0 && attributes & DEBUG_OR_PERFMON != 0;
        if attributes & !self.traits.attributes != 0 || conflict {
            return invalid(OPERAND_ATTRIBUTES);
        }
        let xfam = number(bytes, XFAM, 8);
        if xfam & !cpu.xfam() != 0 || !is_consistent(xfam) {
            return invalid(OPERAND_XFAM);
        }
        let max_vcpus = number(bytes, MAX_VCPUS, 2);
        if max_vcpus == 0 || max_vcpus > self.traits.max_vcpus {
            return invalid(OPERAND_MAX_VCPUS);
        }
        let l2_vms = number(bytes, NUM_L2_VMS, 1);
        if l2_vms > 3 {
            return invalid(OPERAND_NUM_L2_VMS);
        }
        if tdcs_pages < MIN_TDCS_PAGES + l2_vms {
            return Err(StatusCode::TDCS_NOT_ALLOCATED.into());
        }
        if !is_zero(bytes, MSR_CONFIG_CTLS + 1, EPTP_CONTROLS) {
            return invalid(Operand::RDX);
        }
        let config_flags = number(bytes, CONFIG_FLAGS, 8);
        let conflict = config_flags & GPA_AND_PA_WIDTH == GPA_AND_PA_WIDTH;
        if config_flags & !self.traits.config_flags != 0 || conflict {
            return invalid(OPERAND_EXEC_CONTROLS);
        }
        let five_levels = match number(bytes, EPTP_CONTROLS, 8) {
            // Wide guest addresses need five levels.
            EPTP_4_LEVELS if config_flags & GPAW == 0 => false,
            EPTP_5_LEVELS if cpu.has_five_levels() => true,
            _ => return invalid(OPERAND_EPTP_CONTROLS),
        };
        if !TSC_FREQUENCIES.contains(&number(bytes, TSC_FREQUENCY, 2)) {
            return invalid(OPERAND_TSC_FREQUENCY);
        }
        self.check_tsc_adjust(call)?;
        // Up to MRCONFIGID, then behind MROWNERCONFIG; bit 0 of MSR_CONFIG_CTLS is defined.
        let reserved = is_zero(bytes, TSC_FREQUENCY + 2, RESERVED_1_END)
            && number(bytes, MSR_CONFIG_CTLS, 1) & !1 == 0
            && is_zero(bytes, RESERVED_2, CPUID_CONFIG);
        if !reserved {
            return invalid(Operand::RDX);
        }
        self.check_cpuid_config(call, bytes)?;
        let capabilities = number(bytes, ARCH_CAPABILITIES, 8);
        let configured = number(bytes, MSR_CONFIG_CTLS, 1) & 1 == 1;
        let mask = if configured { self.constant(ARCH_CAPABILITIES_CONFIG_MASK) } else { 0 };
        if capabilities & !mask != 0 {
            return invalid(OPERAND_ARCH_CAPABILITIES);
        }
        let words = |from: usize, count: usize| (0..count).map(move |word| number(bytes, from + 8 * word, 8));
        let cpuid = words(CPUID_CONFIG, 2 * self.traits.cpuid_config.len()).collect::<Vec<_>>();
        let config = TdConfig {
            tsc_frequency: number(bytes, TSC_FREQUENCY, 2) as u16,
            tsc_offset: 0,
            ids: words(MRCONFIGID, MEASURED_IDS).collect(),
            cpuid: cpuid.as_chunks::<2>().0.iter().map(|[low, high]| (*low, *high)).collect(),
        };
        let (max_vcpus, l2_vms) = (max_vcpus as u32, l2_vms as u8);
        Ok(TdParams { attributes, xfam, config_flags, five_levels, max_vcpus, l2_vms, config })
    }

    /// Each configurable leaf has only bits that can be configured, the topology is one, and behind
    /// the last leaf all is 0.
    fn check_cpuid_config(&self, call: &mut Call, bytes: &Bytes) -> Result<(), Stop> {
        let count = self.traits.cpuid_config.len();
        let invalid = || operand(StatusCode::OPERAND_INVALID, OPERAND_CPUID_CONFIG);
        let at = |place: usize| {
            (number(bytes, CPUID_CONFIG + 16 * place, 8), number(bytes, CPUID_CONFIG + 16 * place + 8, 8))
        };
        for (place, leaf, accepted_low, accepted_high) in self.traits.accepted_cpuid {
            let (low, high) = at(*place);
            let excess = low & !accepted_low != 0 || high & !accepted_high != 0;
            let family = *leaf == LEAF_1 && !self.is_family(low & 0xffff_ffff, number(bytes, ATTRIBUTES, 8));
            if excess || family {
                call.out.rcx = *leaf;
                return invalid();
            }
            let width = low & 0xff;
            let flags = number(bytes, CONFIG_FLAGS, 8);
            if *leaf == ADDRESS_WIDTHS && width != 0 && flags & GPA_AND_PA_WIDTH == MAXPA_VIRT {
                let most = if flags & GPAW == 0 { NARROW_PHYS_BITS } else { tdx_abi::MAX_PHYS_BITS.into() };
                if !(self.constant(MIN_VIRT_MAXPA)..=most).contains(&width) {
                    return invalid();
                }
            }
        }
        let levels = self.traits.cpuid_config.iter().zip(0..).filter(|(row, _)| row.0 & 0xffff_ffff == TOPOLOGY);
        let levels: Vec<_> = levels.map(|(_, place)| at(place)).collect();
        if !is_topology(&levels) {
            return Err(StatusCode::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED.with(0).into());
        }
        if !is_zero(bytes, CPUID_CONFIG + 16 * count, TD_PARAMS_BYTES) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        Ok(())
    }

    /// EAX of leaf 1 may be 0, or the platform's; in a migratable TD an older stepping of it.
    fn is_family(&self, family: u64, attributes: u64) -> bool {
        let platform = self.constant(PLATFORM_FMS);
        let migratable = attributes & MIGRATABLE != 0;
        family == 0 || family == platform || (migratable && family >> 4 == platform >> 4 && family < platform)
    }
}

/// Sub-leafs of CPUID leaf 0x1f, EAX and EBX, ECX and EDX: all 0, which means those of the CPU, or
/// levels of ascending type from 1 (SMT, only in the first one) to 5, with one of type 2 (core),
/// then sub-leafs of type 0.
fn is_topology(levels: &[(u64, u64)]) -> bool {
    if levels.first().is_none_or(|first| *first == (0, 0)) {
        return levels.iter().all(|level| *level == (0, 0));
    }
    let (mut last, mut has_cores) = (0, false);
    for ((_, high), place) in levels.iter().zip(0_u64..) {
        let (number, kind) = (high & 0xff, high >> 8 & 0xff);
        let is_level = kind > last && kind <= MAX_LEVEL_TYPE && number == place && (kind != SMT || place == 0);
        let is_end = kind == 0 && place > 0 && has_cores;
        if !is_level && !is_end {
            return false;
        }
        (last, has_cores) = (kind, has_cores || kind == CORE);
    }
    true
}

/// PKG_FMS of package 0: family, model and stepping as CPUID leaf 1 has them.
const PLATFORM_FMS: u64 = 0x0000_0002_0000_0001;
