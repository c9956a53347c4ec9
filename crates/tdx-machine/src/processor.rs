//! CPUID and the MSRs that a host reads to find TDX. Nothing else of a processor's identity is
//! modeled.

use tdx_abi::PageRange;

use crate::{MachineConfig, Refusal};

/// Registers after CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidOutput {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// The answer of RDMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrRead {
    /// EDX:EAX.
    Value(u64),
    /// RDMSR raises #GP: the MSR does not exist.
    GeneralProtection,
}

const KEYID_PARTITIONING: u32 = 0x87;
const TME_CAPABILITY: u32 = 0x981;
const TME_ACTIVATE: u32 = 0x982;
const SEAMRR_BASE: u32 = 0x1400;
const SEAMRR_MASK: u32 = 0x1401;

/// Bits of TME_ACTIVATE: locked, enabled.
const ACTIVATE_LOCK_ENABLE: u64 = 0b11;
/// Bits of the SEAMRR registers: configured in the base, lock and enable in the mask.
const SEAMRR_CONFIGURED: u64 = 1 << 3;
const SEAMRR_LOCK_ENABLE: u64 = 0b11 << 10;

pub(crate) fn cpuid(config: &MachineConfig, leaf: u32, subleaf: u32) -> Result<CpuidOutput, Refusal> {
    match (leaf, subleaf) {
        // "GenuineIntel"; leaf 7 is the highest that is modeled.
        (0, _) => Ok(CpuidOutput { eax: 7, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 }),
        (1, _) => Ok(CpuidOutput { eax: config.cpu_model.signature(), ..CpuidOutput::default() }),
        (7, 0) => Ok(CpuidOutput { ecx: u32::from(config.movdir64b) << 28, ..CpuidOutput::default() }),
        _ => Err(Refusal::CpuidNotModeled { leaf }),
    }
}

pub(crate) fn rdmsr(config: &MachineConfig, msr: u32) -> Result<MsrRead, Refusal> {
    let value = match msr {
        KEYID_PARTITIONING => config.key_ids.map(tdx_abi::KeyIdPartition::to_msr),
        // Maximum KeyID bits in 35:32, maximum number of KeyIDs in 50:36; AES-XTS in bit 0.
        TME_CAPABILITY => config.key_ids.map(|_| {
            let bits = u64::from(config.key_id_field.bits());
            1 | bits << 32 | ((1 << bits) - 1) << 36
        }),
        TME_ACTIVATE => config.key_ids.map(|_| ACTIVATE_LOCK_ENABLE | u64::from(config.key_id_field.bits()) << 32),
        SEAMRR_BASE => seamrr(config).map(|range| range.base().get() | SEAMRR_CONFIGURED),
        SEAMRR_MASK => seamrr(config).map(|range| !(range.bytes() - 1) & ((1 << 52) - 1) | SEAMRR_LOCK_ENABLE),
        _ => return Err(Refusal::MsrNotModeled { msr }),
    };
    Ok(value.map_or(MsrRead::GeneralProtection, MsrRead::Value))
}

fn seamrr(config: &MachineConfig) -> Option<PageRange> {
    config.seamrr.filter(|range| config.key_ids.is_some() && !range.is_empty())
}
