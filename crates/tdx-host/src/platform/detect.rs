//! Is there TDX on this machine, and does the CPU have the partial-write erratum? Reads CPUID and
//! two MSRs, writes nothing.

use core::fmt;
use tdx_abi::{KeyId, KeyIdField, KeyIdPartition};

/// A model-specific register, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msr(pub u32);

impl Msr {
    /// IA32_MKTME_KEYID_PARTITIONING: shared KeyIDs in bits 31:0, private ones in bits 63:32.
    pub const MKTME_KEYID_PARTITIONING: Self = Self(0x87);
    /// IA32_TME_ACTIVATE: number of KeyID bits in bits 35:32.
    pub const TME_ACTIVATE: Self = Self(0x982);
}

/// What CPUID returned.
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

/// Identification of a processor: of this machine ([`LocalProcessor`]), or of one whose answers
/// were saved.
pub trait Processor {
    /// CPUID.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput;

    /// RDMSR; `None` if it raises #GP.
    fn rdmsr(&self, msr: Msr) -> Option<u64>;
}

/// Identification of the processor of this machine. In a kernel these are the functions of
/// [`crate::arch`].
///
/// # Safety
/// The answers are those of CPUID and RDMSR on this machine. A handover leaves private memory as it
/// is on a processor without the erratum, and lines are written back under KeyIDs of this layout.
pub unsafe trait LocalProcessor: Processor {}

/// Family, model and stepping, the extended fields included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuModel {
    /// True for "GenuineIntel".
    pub intel: bool,
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

impl CpuModel {
    /// Reads CPUID leaves 0 and 1.
    pub fn read(processor: &impl Processor) -> Self {
        let vendor = processor.cpuid(0, 0);
        let intel = (vendor.ebx, vendor.edx, vendor.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
        let version = processor.cpuid(1, 0).eax;
        let (base_family, base_model) = (version >> 8 & 0xf, version >> 4 & 0xf);
        let family = if base_family == 0xf { base_family + (version >> 20 & 0xff) } else { base_family };
        let model = if matches!(base_family, 6 | 0xf) { base_model | (version >> 16 & 0xf) << 4 } else { base_model };
        Self { intel, family, model, stepping: version & 0xf }
    }

    /// True for Sapphire Rapids (06_8F) and Emerald Rapids (06_CF): a partial write to private
    /// memory poisons it.
    ///
    /// Source: Linux `X86_BUG_TDX_PW_MCE`, set by model alone.
    pub const fn has_partial_write_erratum(self) -> bool {
        self.intel && self.family == 6 && matches!(self.model, 0x8f | 0xcf)
    }
}

impl fmt::Display for CpuModel {
    /// As in Intel's tables, e.g. `06_8F`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}_{:02X}", self.family, self.model)
    }
}

/// Why TDX is not to be had. None of these is a fault: the machine is simply a host without TDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoTdx {
    /// MSR 0x87 does not exist.
    #[error("no TDX: this CPU ({model}) has no IA32_MKTME_KEYID_PARTITIONING (MSR 0x87)")]
    NotThere {
        /// The CPU.
        model: CpuModel,
    },
    /// MSR 0x982 does not exist, so it is not known which bits of an address are the KeyID.
    #[error("no TDX: this CPU ({model}) has no IA32_TME_ACTIVATE (MSR 0x982)")]
    NoTmeActivate {
        /// The CPU.
        model: CpuModel,
    },
    /// No private KeyIDs.
    #[error("TDX is off: the BIOS gave no KeyID to TDX ({shared} shared ones); turn TDX on in the BIOS")]
    BiosOff {
        /// Shared (MKTME) KeyIDs.
        shared: u32,
    },
    /// One private KeyID: it would be the module's own, and none is left for a TD. Linux refuses as
    /// well.
    #[error("too few private KeyIDs available: [{first}, {end}); TDX needs two or more: give it more in the BIOS")]
    TooFewKeyIds {
        /// First private KeyID.
        first: u64,
        /// End of the range, exclusive.
        end: u64,
    },
    /// The private KeyIDs do not fit the KeyID field of an address.
    #[error("private KeyIDs end at {end} but an address has {bits} KeyID bits (MSR 0x982)")]
    KeyIdsDoNotFit {
        /// End of the range, exclusive.
        end: u64,
        /// Bits.
        bits: u32,
    },
    /// Without MOVDIR64B private memory cannot be made normal again.
    #[error("this CPU ({model}) has no MOVDIR64B: private memory could never be reset")]
    NoMovdir64b {
        /// The CPU.
        model: CpuModel,
    },
}

/// A machine with TDX turned on in the BIOS. Says nothing on whether a module is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TdxPlatform {
    model: CpuModel,
    key_ids: KeyIdPartition,
    key_id_field: KeyIdField,
    global: KeyId,
}

impl TdxPlatform {
    /// The CPU.
    pub const fn model(&self) -> CpuModel {
        self.model
    }

    /// How the BIOS split the KeyIDs.
    pub const fn key_ids(&self) -> KeyIdPartition {
        self.key_ids
    }

    /// Where the KeyID stands in an address.
    pub const fn key_id_field(&self) -> KeyIdField {
        self.key_id_field
    }

    /// The KeyID that this crate gives to the module for PAMT and TDRs: the first private one, as
    /// in Linux.
    pub const fn global_key_id(&self) -> KeyId {
        self.global
    }

    /// A partial write to private memory poisons it on this CPU.
    pub const fn has_partial_write_erratum(&self) -> bool {
        self.model.has_partial_write_erratum()
    }
}

/// Looks for TDX.
///
/// # Errors
/// [`NoTdx`] says which of the reasons it is; the caller goes on without TDX. [`crate::handover`]
/// then has nothing to do.
pub fn detect(processor: &impl Processor) -> Result<TdxPlatform, NoTdx> {
    let model = CpuModel::read(processor);
    let partitioning = processor.rdmsr(Msr::MKTME_KEYID_PARTITIONING).ok_or(NoTdx::NotThere { model })?;
    let key_ids = KeyIdPartition::from_msr(partitioning);
    if key_ids.private() == 0 {
        return Err(NoTdx::BiosOff { shared: key_ids.shared() });
    }
    let first = u64::from(key_ids.shared()) + 1;
    if key_ids.private() < 2 {
        return Err(NoTdx::TooFewKeyIds { first, end: key_ids.private_end() });
    }
    let activate = processor.rdmsr(Msr::TME_ACTIVATE).ok_or(NoTdx::NoTmeActivate { model })?;
    let key_id_field = KeyIdField::from_tme_activate(activate);
    let fits = key_ids.private_end() <= 1 << key_id_field.bits();
    let (Some(global), true) = (key_ids.first_private(), fits) else {
        return Err(NoTdx::KeyIdsDoNotFit { end: key_ids.private_end(), bits: key_id_field.bits() });
    };
    if processor.cpuid(0, 0).eax < 7 || processor.cpuid(7, 0).ecx >> 28 & 1 == 0 {
        return Err(NoTdx::NoMovdir64b { model });
    }
    Ok(TdxPlatform { model, key_ids, key_id_field, global })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    struct Fake {
        version: u32,
        partitioning: Option<u64>,
        key_id_bits: u64,
        movdir64b: bool,
    }

    const SPR: Fake =
        Fake { version: 0x0008_06f8, partitioning: Some(0x20_0000_001f), key_id_bits: 6, movdir64b: true };

    impl Processor for Fake {
        fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
            match leaf {
                0 => CpuidOutput { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
                1 => CpuidOutput { eax: self.version, ..CpuidOutput::default() },
                7 => CpuidOutput { ecx: u32::from(self.movdir64b) << 28, ..CpuidOutput::default() },
                _ => CpuidOutput::default(),
            }
        }

        fn rdmsr(&self, msr: Msr) -> Option<u64> {
            match msr {
                Msr::MKTME_KEYID_PARTITIONING => self.partitioning,
                Msr::TME_ACTIVATE => Some(self.key_id_bits << 32 | 3),
                _ => None,
            }
        }
    }

    #[test]
    fn sapphire_rapids_with_tdx() {
        let platform = detect(&SPR).unwrap();
        assert_eq!(platform.model().to_string(), "06_8F");
        assert!(platform.has_partial_write_erratum());
        assert_eq!(platform.global_key_id(), KeyId::new(32));
        assert_eq!(platform.key_id_field().shift(), 46);
    }

    #[test]
    fn erratum_is_a_matter_of_the_model() {
        let has = |version| detect(&Fake { version, ..SPR }).unwrap().has_partial_write_erratum();
        assert!(has(0x000c_06f2), "Emerald Rapids, 06_CF");
        assert!(!has(0x000a_06d1), "Granite Rapids, 06_AD");
        assert!(!has(0x000a_06f3), "Sierra Forest, 06_AF");
    }

    #[test]
    fn each_reason_is_its_own_answer() {
        let why = |fake: Fake| detect(&fake).unwrap_err();
        assert!(matches!(why(Fake { partitioning: None, ..SPR }), NoTdx::NotThere { .. }));
        assert_eq!(why(Fake { partitioning: Some(63), ..SPR }), NoTdx::BiosOff { shared: 63 });
        // KeyIDs [1, 2).
        assert_eq!(why(Fake { partitioning: Some(1 << 32), ..SPR }), NoTdx::TooFewKeyIds { first: 1, end: 2 });
        assert_eq!(why(Fake { key_id_bits: 5, ..SPR }), NoTdx::KeyIdsDoNotFit { end: 64, bits: 5 });
        assert_eq!(
            why(Fake { partitioning: Some(u64::MAX), ..SPR }),
            NoTdx::KeyIdsDoNotFit { end: 0x1_ffff_ffff, bits: 6 }
        );
        assert!(matches!(why(Fake { movdir64b: false, ..SPR }), NoTdx::NoMovdir64b { .. }));
    }
}
