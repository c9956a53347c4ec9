//! CPUID_VALUES of a TD: what CPUID answers in it, by leaf and sub-leaf.
//!
//! Source: `fixtures/vectors/metadata.jsonl.gz`, of TDs with XFAM 7 and without CPUID
//! configuration, on the CPU of [`crate::TdCpu::SapphireRapids`].

use tdx_abi::StatusCode;

use super::super::call::Stop;
use super::super::td::Td;
use super::not_modeled;
use crate::fields::{CpuidRow, Edition};
use crate::profile::Traits;

/// A leaf without sub-leafs.
const NA: u32 = u32::MAX;
/// XFAM of the TDs of which the values are known.
const OBSERVED_XFAM: u64 = 7;
/// Leaves 1, 7, 0xa, 0xd, 0x14, 0x1c and 0x1d depend on XFAM or ATTRIBUTES.
const DEPEND_ON_FEATURES: &[u32] = &[0x1, 0x7, 0xa, 0xd, 0x14, 0x1c, 0x1d];
/// ATTRIBUTES that change nothing in CPUID: DEBUG, SEPT_VE_DISABLE, MIGRATABLE.
const WITHOUT_CPUID: u64 = 1 | 0b11 << 28;
/// MONITOR in ECX of leaf 1, which leaf 5 is about.
const MONITOR: u64 = 1 << 3;
/// Bits of CONFIG_FLAGS that change the width of addresses.
const WIDTHS: u64 = 0b11 << 3;

/// Sub-leafs of leaf 0x1f, and types of its levels.
const TOPOLOGY_LEVELS: u32 = 6;
const SMT: u64 = 1;
const CORE: u64 = 2;

/// One leaf: number, sub-leaf or [`NA`], EAX and EBX, ECX and EDX, as 1.5.25 has them.
type Row = (u32, u32, u64, u64);

/// In the order in which MNG.RD version 1 walks them.
#[rustfmt::skip]
const LEAVES: &[Row] = &[
    (0x1, NA, 0x800_0008_06f8, 0x7a9_ab7f_c6fa_b217),
    (0x4, 0, 0x3f_0000_0000, 0),
    (0x4, 1, 0x3f_0000_0000, 0),
    (0x4, 2, 0x3f_0000_0000, 0),
    (0x4, 3, 0x3f_0000_0000, 0),
    (0x7, 0, 0x2194_24e1_0000_0002, 0xbc00_0400_1900_0000),
    (0x7, 1, 0, 0),
    (0xa, NA, 0, 0),
    (0x1c, NA, 0, 0),
    (0x8000_0008, NA, 0x3034, 0),
    (0, NA, 0x756e_6547_0000_0023, 0x4965_6e69_6c65_746e),
    (0x3, NA, 0, 0),
    (0x4, 4, 0, 0),
    (0x6, NA, 0x4, 0),
    (0x7, 2, 0, 0x17_0000_0000),
    (0x8, NA, 0, 0),
    (0xd, 0, 0x7, 0x2b00),
    (0xd, 1, 0xf, 0),
    (0xd, 2, 0x240_0000_0100, 0),
    (0xd, 3, 0, 0),
    (0xd, 4, 0, 0),
    (0xd, 5, 0, 0),
    (0xd, 6, 0, 0),
    (0xd, 7, 0, 0),
    (0xd, 8, 0, 0),
    (0xd, 9, 0, 0),
    (0xd, 10, 0, 0),
    (0xd, 11, 0, 0),
    (0xd, 12, 0, 0),
    (0xd, 13, 0, 0),
    (0xd, 14, 0, 0),
    (0xd, 15, 0, 0),
    (0xd, 16, 0, 0),
    (0xd, 17, 0, 0),
    (0xd, 18, 0, 0),
    (0xe, NA, 0, 0),
    (0x11, NA, 0, 0),
    (0x12, NA, 0, 0),
    (0x13, NA, 0, 0),
    (0x14, 0, 0, 0),
    (0x14, 1, 0, 0),
    (0x15, NA, 0x28_0000_0001, 0x17d_7840),
    (0x19, NA, 0, 0),
    (0x1d, 0, 0, 0),
    (0x1d, 1, 0, 0),
    (0x1e, NA, 0, 0),
    (0x1f, 0, 0x2_0000_0001, 0x100),
    (0x1f, 1, 0x80_0000_0007, 0x201),
    (0x1f, 2, 0, 0x2),
    (0x1f, 3, 0, 0x3),
    (0x1f, 4, 0, 0x4),
    (0x1f, 5, 0, 0x5),
    (0x20, NA, 0, 0),
    (0x21, 0, 0x6574_6e49_0000_0000, 0x5844_546c_2020_2020),
    (0x8000_0000, NA, 0x8000_0008, 0),
    (0x8000_0001, NA, 0, 0x2c10_0000_0000_0121),
    (0x8000_0006, NA, 0, 0x800_7040),
    (0x8000_0007, NA, 0, 0x100_0000_0000),
    (0x22, NA, 0, 0),
    (0x23, 0, 0, 0),
    (0x23, 1, 0, 0),
    (0x23, 2, 0, 0),
    (0x23, 3, 0, 0),
    (0x5, NA, 0, 0),
    (0xb, 0, 0x2_0000_0001, 0x100),
    (0xb, 1, 0x80_0000_0007, 0x201),
    (0xb, 2, 0, 0x2),
    (0x1a, NA, 0, 0),
    (0x18, 0, 0x8, 0),
    (0x18, 1, 0, 0),
    (0x18, 2, 0, 0),
    (0x18, 3, 0, 0),
    (0x2, NA, 0xfe_ff01, 0),
    (0x18, 4, 0, 0),
    (0x18, 5, 0, 0),
    (0x18, 6, 0, 0),
    (0x18, 7, 0, 0),
    (0x18, 8, 0, 0),
    (0x8000_0002, NA, 0x5820_4454_6574_6e49, 0x6c20_2020),
];

/// EAX and EBX, ECX and EDX of the first leaves in 1.5.01. The next one is not readable there, and
/// the others were not observed.
#[rustfmt::skip]
const VALUES_1_5_01: &[(u64, u64)] = &[
    (0x800_0008_06f8, 0x7a9_fbff_c6fa_b217),
    (0x3f_0000_0000, 0),
    (0x3f_0000_0000, 0),
    (0x3f_0000_0000, 0),
    (0x3f_0000_0000, 0),
    (0x2194_24e1_0000_0002, 0xfc00_0400_1900_0000),
    (0, 0),
    (0, 0),
    (0, 0),
    (0x3034, 0),
    (0x756e_6547_0000_0023, 0x4965_6e69_6c65_746e),
    (0, 0),
    (0, 0),
];
/// Leaves of 1.5.01.
const COUNT_1_5_01: usize = 64;
/// Leaves that fault in a TD of 1.5.01 have no value.
const FAULTING_1_5_01: &[u32] = &[0x6, 0x1f, 0x8000_0006];

/// CPUID_FIXED0_BITMAP of 1.5.25: leaves that are 0 in every TD; from 0x80000000 in bits 63:52.
pub(super) const FIXED0: u64 = 0x0380_0005_08cf_d308;
/// Last leaves of the two parts of it.
const LAST_BASE: u32 = 0x23;
const EXTENDED: core::ops::RangeInclusive<u32> = 0x8000_0000..=0x8000_0008;

fn is_fixed0(leaf: u32) -> bool {
    match leaf {
        0..=LAST_BASE => FIXED0 >> leaf & 1 == 1,
        _ if EXTENDED.contains(&leaf) => FIXED0 >> (52 + (leaf & 0xf)) & 1 == 1,
        _ => false,
    }
}

/// A field code of the class: leaf, sub-leaf or [`NA`], and which half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Code {
    leaf: u32,
    sub_leaf: u32,
    second: bool,
}

impl Code {
    fn parse(code: u64) -> Option<Self> {
        let leaf = (code >> 9 & 0x7f) as u32 | (code as u32 >> 16 & 1) << 31;
        let sub_leaf = if code >> 8 & 1 == 1 { NA } else { (code >> 1 & 0x7f) as u32 };
        (code >> 17 == 0).then_some(Self { leaf, sub_leaf, second: code & 1 == 1 })
    }

    fn index(self, edition: Edition) -> Option<usize> {
        leaves(edition).iter().position(|row| row.0 == self.leaf && (row.1 == NA || row.1 == self.sub_leaf))
    }
}

fn leaves(edition: Edition) -> &'static [Row] {
    let count = if edition == Edition::V1_5_01 { COUNT_1_5_01 } else { LEAVES.len() };
    LEAVES.get(..count).unwrap_or(LEAVES)
}

/// NUM_CPUID_VALUES.
pub(super) fn count(edition: Edition) -> u64 {
    leaves(edition).len() as u64
}

/// CPUID_VALID: the leaf at this place has a value.
pub(super) fn is_valid(place: usize, edition: Edition) -> bool {
    let faults = |leaf: u32| edition == Edition::V1_5_01 && FAULTING_1_5_01.contains(&leaf);
    leaves(edition).get(place).is_some_and(|row| !faults(row.0))
}

/// Field code of a leaf, first half.
fn code_of(row: &Row) -> u64 {
    let sub_leaf = if row.1 == NA { 1 << 8 | 0x7f << 1 } else { u64::from(row.1) << 1 };
    sub_leaf | u64::from(row.0 & 0x7f) << 9 | u64::from(row.0 >> 31) << 16
}

/// Field code of the first leaf.
pub(super) fn first_code() -> u64 {
    LEAVES.first().map_or(0, code_of)
}

/// Field code behind this one; `None` behind the last.
pub(super) fn next_code(code: u64, edition: Edition) -> Option<u64> {
    if code & 1 == 0 {
        return Some(code + 1);
    }
    let index = Code::parse(code)?.index(edition)?;
    leaves(edition).get(index + 1).map(code_of)
}

/// Configured registers of a leaf: EAX and EBX, ECX and EDX, without what the CPU does not have.
fn configured(td: &Td, config: &[CpuidRow], leaf: u32, sub_leaf: u32) -> (u64, u64) {
    let name = u64::from(leaf) | u64::from(sub_leaf) << 32;
    let mut rows = config.iter().zip(&td.config.cpuid);
    rows.find(|(row, _)| row.0 == name).map_or((0, 0), |(row, (low, high))| (low & row.1, high & row.2))
}

/// Leaf 0x1f of a TD whose TD_PARAMS configure it, by sub-leaf.
fn topology(td: &Td, config: &[CpuidRow]) -> Option<[(u64, u64); TOPOLOGY_LEVELS as usize]> {
    let levels = core::array::from_fn(|level| configured(td, config, 0x1f, level as u32));
    levels.iter().any(|level| *level != (0, 0)).then_some(levels)
}

/// Leaf 0xb of such a TD: the SMT level, if there is one, then all other levels as cores.
fn extended_topology(levels: &[(u64, u64)], sub_leaf: u32) -> (u64, u64) {
    let kind = |level: &(u64, u64)| level.1 >> 8 & 0xff;
    let smt = levels.first().filter(|level| kind(level) == SMT);
    let cores = u32::from(smt.is_some());
    match (sub_leaf, smt) {
        (0, Some(smt)) => *smt,
        _ if sub_leaf == cores => {
            let last = levels.iter().rfind(|level| kind(level) != 0).map_or(0, |level| level.0);
            (last, u64::from(cores) | CORE << 8)
        }
        _ => (0, u64::from(sub_leaf)),
    }
}

/// The half of a leaf that this field code names. 1.5.25 answers a read of a leaf that it does not
/// know and that is 0 in every TD with 0; no version lets a host write one.
pub(super) fn value(td: &Td, config: &[CpuidRow], edition: Edition, field: u64, read: bool) -> Result<u64, Stop> {
    let not_readable = || Stop::from(StatusCode::METADATA_FIELD_NOT_READABLE);
    let incorrect = || Stop::from(StatusCode::METADATA_FIELD_ID_INCORRECT);
    let code = Code::parse(field & super::table::CODE).ok_or_else(incorrect)?;
    if edition == Edition::V1_5_25 && read && is_fixed0(code.leaf) {
        return Ok(0);
    }
    let index = code.index(edition).ok_or_else(|| match edition {
        Edition::V1_5_01 => incorrect(),
        Edition::V1_5_25 => not_readable(),
    })?;
    let (leaf, sub_leaf, low, high) = leaves(edition).get(index).copied().ok_or_else(not_readable)?;
    let (low, high) = match edition {
        Edition::V1_5_01 if FAULTING_1_5_01.contains(&leaf) => return Err(not_readable()),
        Edition::V1_5_01 => VALUES_1_5_01.get(index).copied().map_or_else(|| not_modeled(field), Ok)?,
        Edition::V1_5_25 => (low, high),
    };
    if depends_on_the_unobserved(td, config, leaf) {
        return not_modeled(field);
    }
    let (mut low, mut high) = (low, high);
    let levels = topology(td, config);
    let (config_low, config_high) = configured(td, config, leaf, sub_leaf);
    match leaf {
        // Family, model and stepping are those of the platform whether they are configured or not.
        0x1 => (low, high) = (low | config_low & !0xffff_ffff, high | config_high),
        0x1f if levels.is_some() => (low, high) = (config_low, config_high),
        0xb => {
            if let Some(levels) = levels {
                (low, high) = extended_topology(&levels, sub_leaf);
            }
        }
        0x15 => low = low & 0xffff_ffff | u64::from(td.config.tsc_frequency) << 32,
        _ => (low, high) = (low | config_low, high | config_high),
    }
    Ok(if code.second { high } else { low })
}

/// EAX and EBX, ECX and EDX of CPUID in the guest. `None`: no such leaf, or not known.
pub(in crate::module) fn in_guest(td: &Td, traits: &Traits, leaf: u32, sub_leaf: u32) -> Option<[u64; 2]> {
    /// Bits of a leaf that a field code has.
    const NAMED: u32 = 1 << 31 | 0x7f;
    if leaf & !NAMED != 0 {
        return None;
    }
    let sub_leaf = if sub_leaf > 0x7f { NA } else { sub_leaf };
    let field = code_of(&(leaf, sub_leaf, 0, 0));
    let half = |code: u64| value(td, traits.cpuid_config, traits.edition, field | code, true).ok();
    Some([half(0)?, half(1)?])
}

/// The TD has something that changes this leaf in a way that was not observed.
fn depends_on_the_unobserved(td: &Td, config: &[CpuidRow], leaf: u32) -> bool {
    let features = td.xfam != OBSERVED_XFAM || td.attributes & !WITHOUT_CPUID != 0;
    match leaf {
        0x5 => configured(td, config, 0x1, NA).1 & MONITOR != 0,
        0x8000_0008 => td.config_flags & WIDTHS != 0 || configured(td, config, leaf, NA).0 & 0xff != 0,
        leaf => features && DEPEND_ON_FEATURES.contains(&leaf),
    }
}
