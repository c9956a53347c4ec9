//! Configuration of a machine. A machine that cannot exist is rejected; BIOS errors that the module
//! checks for (a bad CMR list, too few KeyIDs) are accepted.

use alloc::vec::Vec;
use core::fmt;
use tdx_abi::{CmrInfo, KeyIdField, KeyIdPartition, MAX_CMRS, PageRange};

use crate::{ModuleProfile, PackageId};

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

/// The CPUID of the CPUs, as far as the module derives from it what a TD may have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TdCpu {
    /// XFAM 0x3 and 0x7 only, four levels of EPT, and SYS.INIT did not run: bit 8 of TDX_FEATURES0
    /// is 0, as in the vectors in which SYS.INIT was put in place.
    Unprobed,
    /// XFAM 0x3 and 0x7 only, four levels of EPT.
    Plain,
    /// As [`Self::SapphireRapids`], with four levels of EPT.
    SapphireRapidsFourLevels,
    /// XCR0 0x602e7, XSS 0x1fd00, five levels of EPT.
    SapphireRapids,
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
    /// SYS.RD answers MAX_VCPUS_PER_TD also for a module that has no such field (1.5.01), with the
    /// most VCPUs that MNG.INIT takes. Not what any module does: Linux 6.16 and newer initialize
    /// TDX only with it.
    pub has_max_vcpus_field: bool,
    /// What the module finds in CPUID when it looks what a TD may have.
    pub td_cpu: TdCpu,
    /// MSRs that do not have the value of a platform that is fit for TDX: number and value.
    pub msrs: Vec<(u32, u64)>,
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
            has_max_vcpus_field: false,
            td_cpu: TdCpu::SapphireRapids,
            msrs: Vec::new(),
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

impl TdCpu {
    /// XFAM bits that the CPU has and the module allows.
    pub(crate) const fn xfam(self) -> u64 {
        match self {
            Self::Unprobed | Self::Plain => 0b111,
            Self::SapphireRapidsFourLevels | Self::SapphireRapids => 0x6_DBE7,
        }
    }

    pub(crate) const fn has_five_levels(self) -> bool {
        matches!(self, Self::SapphireRapids)
    }
}
