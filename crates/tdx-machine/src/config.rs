//! What a machine is made of. Refuses machines that cannot exist; a BIOS that is wrong in ways the
//! module is there to notice (a bad CMR list, too few KeyIDs) is accepted and has its consequences.

use alloc::vec::Vec;
use core::fmt;
use tdx_abi::{CmrInfo, KeyIdField, KeyIdPartition, MAX_CMRS, PageRange, TdxFeatures0};

use crate::PackageId;

/// Family, model and stepping of the CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CpuModel {
    /// Family, the extended field added.
    pub family: u32,
    /// Model, the extended field included.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

impl CpuModel {
    /// Sapphire Rapids, 06_8F: has the erratum.
    pub const SAPPHIRE_RAPIDS: Self = Self { family: 6, model: 0x8f, stepping: 8 };
    /// Emerald Rapids, 06_CF: has the erratum.
    pub const EMERALD_RAPIDS: Self = Self { family: 6, model: 0xcf, stepping: 2 };
    /// Granite Rapids, 06_AD.
    pub const GRANITE_RAPIDS: Self = Self { family: 6, model: 0xad, stepping: 1 };
    /// Sierra Forest, 06_AF.
    pub const SIERRA_FOREST: Self = Self { family: 6, model: 0xaf, stepping: 3 };

    /// A partial write to a TD-owned line poisons it. Source: the models Linux lists (`linux.md`
    /// 3.1).
    pub const fn has_partial_write_erratum(self) -> bool {
        self.family == 6 && matches!(self.model, 0x8f | 0xcf)
    }

    /// EAX of CPUID leaf 1.
    pub(crate) const fn signature(self) -> u32 {
        let (base, extended) = if self.family > 0xf { (0xf, self.family - 0xf) } else { (self.family, 0) };
        self.stepping & 0xf
            | (self.model & 0xf) << 4
            | base << 8
            | (self.model >> 4 & 0xf) << 16
            | (extended & 0xff) << 20
    }
}

impl fmt::Display for CpuModel {
    /// As in Intel's tables, e.g. `06_8F`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}_{:02X}", self.family, self.model)
    }
}

/// Which module is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ModuleProfile {
    /// 1.5.01: no dynamic PAMT, no SYS.DISABLE. Bit-exact against the conformance vectors.
    V1_5_01,
    /// As 1.5.01, and dynamic PAMT as in the source of later modules (1.5.20 and newer). Not
    /// observed.
    DynamicPamt,
    /// As 1.5.01, and TDH.SYS.DISABLE as it was promised to Linux. Not observed.
    SysDisable,
}

impl ModuleProfile {
    /// SYS.CONFIG takes the bit that switches dynamic PAMT on.
    pub(crate) const fn has_dynamic_pamt(self) -> bool {
        matches!(self, Self::DynamicPamt)
    }

    /// Leaf 69 is SYS.DISABLE.
    pub(crate) const fn has_sys_disable(self) -> bool {
        matches!(self, Self::SysDisable)
    }

    /// TDX_FEATURES0, as SYS.RD has it.
    pub const fn features(self) -> TdxFeatures0 {
        let features = TdxFeatures0::MODULE_1_5_01;
        match self {
            Self::V1_5_01 => features,
            Self::DynamicPamt => features.with_dynamic_pamt(),
            Self::SysDisable => features.with_sys_disable(),
        }
    }
}

/// Whether dirty lines leave the caches on their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvictionPolicy {
    /// Only when an operation writes them back. The latest possible moment: what was forgotten
    /// stays forgotten.
    Never,
    /// Before each operation of the host, with probability 1 / `one_in`, a random piece of a random
    /// dirty run is written back. The same seed gives the same choices.
    Seeded {
        /// At least 1.
        one_in: u32,
    },
}

/// A machine, before it is switched on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// The CPUs; decides the erratum.
    pub cpu_model: CpuModel,
    /// The package of each CPU. Packages are numbered from 0 without gaps.
    pub package_of_cpu: Vec<PackageId>,
    /// CPUID reports MOVDIR64B.
    pub movdir64b: bool,
    /// What the BIOS reports as convertible memory, at most 32 entries, as it stands.
    pub cmrs: Vec<CmrInfo>,
    /// MSR 0x87. `None`: the MSR does not exist. Zero private KeyIDs: TDX is off in the BIOS.
    pub key_ids: Option<KeyIdPartition>,
    /// Where KeyIDs stand in an address.
    pub key_id_field: KeyIdField,
    /// The range of the module itself.
    pub seamrr: Option<PageRange>,
    /// SEAM is enabled; otherwise SEAMCALL raises #GP.
    pub seam_enabled: bool,
    /// The module the BIOS loaded, if it did; otherwise SEAMCALL sets the carry flag.
    pub module: Option<ModuleProfile>,
    /// SYS.RD answers for what a TD may be configured with (fixed bits of ATTRIBUTES and XFAM, no
    /// CPUID configuration, VCPUs) as MNG.INIT takes it here. Otherwise these fields are refused:
    /// nobody recorded them.
    pub assume_td_configuration: bool,
    /// Sub-blocks that PHYMEM.CACHE.WB walks; at least 1.
    pub cache_sub_blocks: u32,
    /// Whether dirty lines are evicted on their own.
    pub eviction: EvictionPolicy,
    /// Seed of every random choice.
    pub seed: u64,
}

impl MachineConfig {
    /// A machine with TDX and module 1.5.01, 6 KeyID bits, `[32, 64)` private. CPU n sits in
    /// package n mod `packages`.
    pub fn new(cpu_model: CpuModel, cpus: u32, packages: u32, cmrs: impl IntoIterator<Item = PageRange>) -> Self {
        let packages = packages.max(1);
        Self {
            cpu_model,
            package_of_cpu: (0..cpus).map(|cpu| PackageId(cpu % packages)).collect(),
            movdir64b: true,
            cmrs: cmrs.into_iter().map(|cmr| CmrInfo { base: cmr.base().get(), size: cmr.bytes() }).collect(),
            key_ids: Some(KeyIdPartition::new(31, 32)),
            key_id_field: KeyIdField::from_tme_activate(6 << 32),
            seamrr: None,
            seam_enabled: true,
            module: Some(ModuleProfile::V1_5_01),
            assume_td_configuration: false,
            cache_sub_blocks: 4,
            eviction: EvictionPolicy::Never,
            seed: 0,
        }
    }

    /// Number of packages.
    pub(crate) fn packages(&self) -> u32 {
        self.package_of_cpu.iter().map(|package| package.0 + 1).max().unwrap_or(0)
    }

    /// Checks that such a machine can exist.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.package_of_cpu.is_empty() {
            return Err(ConfigError::NoCpu);
        }
        if let Some(package) = (0..self.packages()).map(PackageId).find(|p| !self.package_of_cpu.contains(p)) {
            return Err(ConfigError::PackageWithoutCpu { package });
        }
        if self.packages() > MAX_PACKAGES {
            return Err(ConfigError::TooManyPackages { packages: self.packages() });
        }
        if self.cmrs.len() > MAX_CMRS {
            return Err(ConfigError::TooManyCmrs { cmrs: self.cmrs.len() });
        }
        if let Some(key_ids) = self.key_ids
            && key_ids.private_end() > 1 << self.key_id_field.bits()
        {
            return Err(ConfigError::KeyIdsDoNotFit { end: key_ids.private_end(), bits: self.key_id_field.bits() });
        }
        if self.cache_sub_blocks == 0 {
            return Err(ConfigError::NoCacheSubBlock);
        }
        if self.eviction == (EvictionPolicy::Seeded { one_in: 0 }) {
            return Err(ConfigError::EvictionNeverOrAlways);
        }
        Ok(())
    }
}

/// The module keeps one bit per package in a 32-bit word.
const MAX_PACKAGES: u32 = 32;

/// Why there is no such machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A machine has at least one CPU.
    NoCpu,
    /// Package numbers have a gap.
    PackageWithoutCpu {
        /// The package without a CPU.
        package: PackageId,
    },
    /// More packages than the module's bitmaps hold.
    TooManyPackages {
        /// Packages asked for.
        packages: u32,
    },
    /// The BIOS table of CMRs has 32 entries.
    TooManyCmrs {
        /// CMRs asked for.
        cmrs: usize,
    },
    /// KeyIDs that an address cannot carry.
    KeyIdsDoNotFit {
        /// End of the private KeyIDs, exclusive.
        end: u64,
        /// KeyID bits of an address.
        bits: u32,
    },
    /// At least one cache sub-block.
    NoCacheSubBlock,
    /// `one_in` is at least 1.
    EvictionNeverOrAlways,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCpu => f.write_str("a machine needs at least one CPU"),
            Self::PackageWithoutCpu { package } => write!(f, "{package} has no CPU: number packages without gaps"),
            Self::TooManyPackages { packages } => write!(f, "{packages} packages; at most {MAX_PACKAGES} are possible"),
            Self::TooManyCmrs { cmrs } => write!(f, "{cmrs} CMRs; the BIOS table has {MAX_CMRS} entries"),
            Self::KeyIdsDoNotFit { end, bits } => {
                write!(f, "KeyIDs end at {end}, but an address has {bits} KeyID bits")
            }
            Self::NoCacheSubBlock => f.write_str("a cache has at least one sub-block"),
            Self::EvictionNeverOrAlways => f.write_str("eviction with probability 1/0: give `one_in` of at least 1"),
        }
    }
}

impl core::error::Error for ConfigError {}
