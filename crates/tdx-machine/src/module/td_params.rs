//! TD_PARAMS: what MNG.INIT accepts, in the order in which it looks.
//!
//! What depends on the CPU is that of the recorded platform: XFAM x87, SSE and AVX, four levels of
//! EPT. What nobody recorded (other ATTRIBUTES, CPUID configuration) is refused.

use tdx_abi::{Operand, StatusCode};

use super::call::{Stop, operand};
use super::td::MIN_TDCS_PAGES;
use crate::Refusal;

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
const CPUID_CONFIG: usize = 256;

/// SEPT_VE_DISABLE and PERFMON: the attributes that were seen to be accepted.
pub(super) const KNOWN_ATTRIBUTES: u64 = 1 << 28 | 1 << 63;
/// x87 and SSE, which every TD has.
pub(super) const XFAM_LEAST: u64 = 0b011;
/// And AVX.
pub(super) const XFAM_MOST: u64 = 0b111;
/// Write-back, four levels, no accessed and dirty bits.
const EPTP_4_LEVELS: u64 = 0x1e;
/// Units of 25 MHz.
const TSC_FREQUENCIES: core::ops::RangeInclusive<u64> = 4..=400;

const OPERAND_XFAM: Operand = Operand(65);
const OPERAND_EXEC_CONTROLS: Operand = Operand(66);
const OPERAND_EPTP_CONTROLS: Operand = Operand(67);
const OPERAND_MAX_VCPUS: Operand = Operand(68);
const OPERAND_TSC_FREQUENCY: Operand = Operand(70);
const OPERAND_NUM_L2_VMS: Operand = Operand(71);

/// What the module keeps of it.
pub(super) struct TdParams {
    pub(super) max_vcpus: u32,
    pub(super) l2_vms: u8,
}

/// Checks the structure; `tdcs_pages` is what the TD has.
pub(super) fn check(bytes: &[u8; TD_PARAMS_BYTES], tdcs_pages: u64) -> Result<TdParams, Stop> {
    let number = |offset: usize, size: usize| {
        bytes
            .get(offset..offset + size)
            .unwrap_or_default()
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    let is_zero = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default().iter().all(|byte| *byte == 0);
    let unknown = |offset: usize| Err(Stop::Refused(Refusal::TdParamsNotModelled { offset: offset as u64 }));
    let invalid = |name: Operand| operand(StatusCode::OPERAND_INVALID, name);

    if number(ATTRIBUTES, 8) & !KNOWN_ATTRIBUTES != 0 {
        return unknown(ATTRIBUTES);
    }
    if !matches!(number(XFAM, 8), XFAM_LEAST | XFAM_MOST) {
        return invalid(OPERAND_XFAM);
    }
    let max_vcpus = number(MAX_VCPUS, 2) as u32;
    if max_vcpus == 0 {
        return invalid(OPERAND_MAX_VCPUS);
    }
    let l2_vms = number(NUM_L2_VMS, 1);
    if l2_vms > 3 {
        return invalid(OPERAND_NUM_L2_VMS);
    }
    if tdcs_pages < MIN_TDCS_PAGES + l2_vms {
        return Err(StatusCode::TDCS_NOT_ALLOCATED.into());
    }
    if !is_zero(MSR_CONFIG_CTLS + 1, EPTP_CONTROLS) {
        return invalid(Operand::RDX);
    }
    // Bit 0 asks for wide GPAs, which four levels cannot have; bit 1 is FLEXIBLE_PENDING_VE.
    if number(CONFIG_FLAGS, 8) & !0b11 != 0 {
        return invalid(OPERAND_EXEC_CONTROLS);
    }
    if number(EPTP_CONTROLS, 8) != EPTP_4_LEVELS || number(CONFIG_FLAGS, 8) & 1 != 0 {
        return invalid(OPERAND_EPTP_CONTROLS);
    }
    if !TSC_FREQUENCIES.contains(&number(TSC_FREQUENCY, 2)) {
        return invalid(OPERAND_TSC_FREQUENCY);
    }
    // Up to MRCONFIGID, then behind MROWNERCONFIG; bit 0 of MSR_CONFIG_CTLS is defined.
    if !is_zero(TSC_FREQUENCY + 2, 80) || number(MSR_CONFIG_CTLS, 1) & !1 != 0 || !is_zero(224, CPUID_CONFIG) {
        return invalid(Operand::RDX);
    }
    if !is_zero(CPUID_CONFIG, TD_PARAMS_BYTES) {
        return unknown(CPUID_CONFIG);
    }
    Ok(TdParams { max_vcpus, l2_vms: l2_vms as u8 })
}
