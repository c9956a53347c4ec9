//! What the module says about itself: SYS.INFO and SYS.RD, from the tables in `fields.rs`.

use alloc::vec::Vec;
use tdx_abi::{FieldId, MAX_CMRS, MAX_RESERVED_AREAS, MAX_TDMRS, Operand, PhysAddr, Registers, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::metadata::{IDENTITY, single};
use super::pamt_size::ENTRY;
use super::{td, vcpu};
use crate::fields::Row;
use crate::{MachineConfig, ModuleProfile, TdCpu};

const TDSYSINFO_BYTES: u64 = 1024;
const CMR_TABLE_BYTES: u64 = 16 * MAX_CMRS as u64;

const VENDOR: u64 = 0x8086;
/// Field ids without a name in [`FieldId`].
const NUM_PKGS: u64 = 0x0000_0002_0000_0000;
/// Element size in a field id.
const SIZE: u64 = 0b11 << 32;
const HANDOFF_DATA_VALID: u64 = 0x8900_0000_0000_0004;
const HANDOFF_DATA_HV: u64 = 0x8900_0001_0000_0005;
const HANDOFF_DATA_SIZE: u64 = 0x8900_0002_0000_0006;
const MAX_VCPUS_PER_TD: u64 = 0x9900_0001_0000_0008;
const CPUID_CONFIG_LEAVES: u64 = 0x9900_0003_0000_0400;
const CPUID_CONFIG_VALUES: u64 = 0x9900_0003_0000_0500;
const CPUID_CONFIG_ELEMENTS: u64 = 64;
/// Rows of fewer are fields beside each other. Source: `module_info.jsonl.gz` and
/// `neighbors.jsonl.gz` in `fixtures/vectors`.
const SHORTEST_ARRAY: u64 = 9;
/// Bits of a field id that say what it is a field of: of the module, whatever they are.
const CONTEXT: u64 = 0b111 << 52;
/// Fields that a guest may read: VENDOR_ID, versions, features, what VP.INFO does not say. Source:
/// the module's public source and `neighbors.jsonl.gz`, which was recorded from it.
const GUEST_READABLE: [u64; 12] = [
    0x0800_0002_0000_0000,
    0x0800_0001_0000_0003,
    0x0800_0001_0000_0004,
    0x0A00_0002_0000_0000,
    0x0A00_0000_0000_0001,
    0x0A00_0003_0000_0008,
    0xA000_0003_0000_0000,
    0x2000_0001_0000_0001,
    0x2000_0001_0000_0002,
    0x2000_0001_0000_0003,
    0x2000_0001_0000_0004,
    0xA200_0001_0000_0000,
];
pub(super) const ARCH_CAPABILITIES_CONFIG_MASK: u64 = 0x9900_0003_0000_0600;

impl Module {
    pub(super) fn sys_info(&mut self, call: &mut Call) -> Leaf {
        call.out.rdx = 0;
        call.out.r9 = 0;
        self.check_lp_init(call)?;
        let buffer = PhysAddr::new(call.input.rcx);
        if !call.is_shared_buffer(buffer, TDSYSINFO_BYTES, TDSYSINFO_BYTES) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        if call.input.rdx < TDSYSINFO_BYTES {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        // The real module clears the buffer before it looks at the other two operands.
        call.write_bytes(buffer, &[0; TDSYSINFO_BYTES as usize]);
        let table = PhysAddr::new(call.input.r8);
        if !call.is_shared_buffer(table, CMR_TABLE_BYTES, CMR_TABLE_BYTES) {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }
        if call.input.r9 < MAX_CMRS as u64 {
            return operand(StatusCode::OPERAND_INVALID, Operand::R9);
        }
        for (offset, bytes, length) in self.sysinfo(&call.hardware.config) {
            call.write_bytes(PhysAddr::new(buffer.get() + offset), bytes.get(..length).unwrap_or_default());
        }
        for index in 0..MAX_CMRS {
            let config = &call.hardware.config;
            let cmr = config.cmrs.get(index).copied().unwrap_or_default();
            let at = table.get() + 16 * index as u64;
            call.write_bytes(PhysAddr::new(at), &cmr.base.to_le_bytes());
            call.write_bytes(PhysAddr::new(at + 8), &cmr.size.to_le_bytes());
        }
        call.out.rdx = TDSYSINFO_BYTES;
        call.out.r9 = MAX_CMRS as u64;
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_rd(&mut self, call: &mut Call) -> Leaf {
        call.out.rdx = FieldId::NONE.0;
        call.out.r8 = 0;
        self.check_lp_init(call)?;
        let field = FieldId(call.input.rdx);
        if field == FieldId::NONE {
            call.out.rdx = self.fields(&call.hardware.config).next().map_or(FieldId::NONE.0, |first| first.0);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        let wanted = single(field.0)?;
        let is_here = |first: u64, count: u64| (first & IDENTITY..(first & IDENTITY) + count).contains(&wanted);
        let mut from = self.fields(&call.hardware.config).skip_while(|(first, count, _)| !is_here(*first, *count));
        let Some((first, count, values)) = from.next() else {
            return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
        };
        let index = wanted - (first & IDENTITY);
        let next = if index + 1 < count {
            // The next element of an array keeps the bits of the id that are not looked at.
            let is_array = count >= SHORTEST_ARRAY && first + index != NUM_PKGS;
            if is_array { (field.0 & !CONTEXT) + 1 } else { first + index + 1 }
        } else {
            from.next().map_or(FieldId::NONE.0, |row| row.0)
        };
        drop(from);
        call.out.r8 = self.value(&call.hardware.config, first + index, index, values)?;
        call.out.rdx = next;
        Ok(Status::SUCCESS)
    }

    /// TDG.SYS.RD: what a guest may read of it.
    pub(super) fn guest_sys_rd(&self, config: &MachineConfig, guest: &mut Registers) -> Leaf {
        let field = FieldId(guest.rdx);
        (guest.rdx, guest.r8) = (FieldId::NONE.0, 0);
        let readable = |from: Option<u64>| {
            let all = self.fields(config).flat_map(|(first, count, _)| first..first + count);
            let mut behind = all.skip_while(move |id| from.is_some_and(|from| id & IDENTITY != from));
            if from.is_some() {
                behind.next();
            }
            behind.find(|id| GUEST_READABLE.contains(id)).unwrap_or(FieldId::NONE.0)
        };
        if field == FieldId::NONE {
            guest.rdx = readable(None);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        let wanted = single(field.0)?;
        let is_here = |first: u64, count: u64| (first & IDENTITY..(first & IDENTITY) + count).contains(&wanted);
        let Some((first, _, values)) = self.fields(config).find(|row| is_here(row.0, row.1)) else {
            return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
        };
        let index = wanted - (first & IDENTITY);
        if !GUEST_READABLE.contains(&(first + index)) {
            return Err(StatusCode::METADATA_FIELD_NOT_READABLE.into());
        }
        guest.r8 = self.value(config, first + index, index, values)?;
        guest.rdx = readable(Some(wanted));
        Ok(Status::SUCCESS)
    }

    /// Every field from the one in R8 on, as a list.
    pub(super) fn sys_rdall(&mut self, call: &mut Call) -> Leaf {
        let from = call.input.r8;
        call.out.r8 = FieldId::NONE.0;
        self.check_lp_init(call)?;
        if !call.is_shared_buffer(PhysAddr::new(call.input.rdx), tdx_abi::PAGE_SIZE, tdx_abi::PAGE_SIZE) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        let from = (from != FieldId::NONE.0).then_some(from & (IDENTITY | SIZE));
        if from
            .is_some_and(|from| !self.fields(&call.hardware.config).any(|(first, count, _)| begins(first, count, from)))
        {
            return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
        }
        let list = self.list(call, from)?;
        for (index, word) in list.iter().enumerate() {
            call.write_bytes(PhysAddr::new(call.input.rdx + 8 * index as u64), &word.to_le_bytes());
        }
        Ok(Status::SUCCESS)
    }

    /// All fields from this one on as a metadata list: its header, then sequences of fields of one
    /// size with adjacent codes, each with a header of its own.
    fn list(&self, call: &Call, from: Option<u64>) -> Result<Vec<u64>, Stop> {
        let mut sequences: Vec<(u64, Vec<u64>)> = Vec::new();
        let here = |first: u64, count: u64| from.is_none_or(|from| begins(first, count, from));
        for (place, (first, count, values)) in
            self.fields(&call.hardware.config).skip_while(|row| !here(row.0, row.1)).enumerate()
        {
            let id = first & (IDENTITY | SIZE);
            let skipped = from.filter(|_| place == 0).map_or(0, |from| from - id);
            let mut row: Vec<u64> = Vec::new();
            for index in skipped..count {
                row.push(self.value(&call.hardware.config, first + index, index, values)?);
            }
            match sequences.last_mut() {
                Some((start, all)) if (*start & (IDENTITY | SIZE)) + all.len() as u64 == id => all.extend(row),
                _ => sequences.push((first + skipped, row)),
            }
        }
        let words: usize = 1 + sequences.iter().map(|(_, values)| 1 + values.len()).sum::<usize>();
        let mut list = alloc::vec![(8 * words as u64) | (sequences.len() as u64) << 16];
        for (first, values) in sequences {
            let elements = elements(first);
            list.push(first | ((elements - 1) << 34) | ((values.len() as u64 / elements - 1) << 38));
            list.extend(values);
        }
        Ok(list)
    }

    /// The value of a field.
    fn value(&self, config: &MachineConfig, id: u64, index: u64, values: &[u64]) -> Result<u64, Stop> {
        let handoff = u64::from(self.has_handoff_data());
        Ok(match id {
            HANDOFF_DATA_VALID => handoff,
            HANDOFF_DATA_HV => handoff * self.traits.handoff_versions.end(),
            HANDOFF_DATA_SIZE if handoff == 1 => {
                let refusal = crate::Refusal::FieldNotModeled { field: FieldId(id) };
                self.traits.handoff_bytes.ok_or(Stop::Refused(refusal))?
            }
            id => read(config, id, index, values),
        })
    }

    /// The rows of this module's fields.
    fn fields(&self, config: &MachineConfig) -> impl Iterator<Item = Row> + use<> {
        let added = config.has_max_vcpus_field.then_some((MAX_VCPUS_PER_TD, 1, &[][..]));
        let rows = self.traits.fields;
        let added = added.filter(|added| rows.iter().all(|row| row.0 != added.0));
        // Before CPUID_CONFIG_LEAVES, where later modules have it.
        let at = rows.iter().position(|row| row.0 == CPUID_CONFIG_LEAVES).unwrap_or(rows.len());
        rows.iter().take(at).copied().chain(added).chain(rows.iter().skip(at).copied())
    }

    /// The value of a field that does not depend on the machine.
    pub(super) fn constant(&self, id: u64) -> u64 {
        let row = self.traits.fields.iter().find(|(first, count, _)| (*first..first + count).contains(&id));
        row.and_then(|(first, _, values)| values.get((id - first) as usize)).copied().unwrap_or(0)
    }

    fn check_lp_init(&self, call: &Call) -> Result<(), Stop> {
        match self.lp_init_done.get(call.cpu.index()) {
            Some(true) => Ok(()),
            _ => Err(StatusCode::SYS_LP_INIT_NOT_DONE.into()),
        }
    }
}

/// Elements of a field: CPUID_CONFIG_VALUES has two, every other field one.
fn elements(first: u64) -> u64 {
    if (CPUID_CONFIG_VALUES..CPUID_CONFIG_VALUES + CPUID_CONFIG_ELEMENTS).contains(&first) { 2 } else { 1 }
}

/// A field of this row begins at this class, code and size.
fn begins(first: u64, count: u64, wanted: u64) -> bool {
    let id = first & (IDENTITY | SIZE);
    (id..id + count).contains(&wanted) && (wanted - id).is_multiple_of(elements(first))
}

/// The value of a field on this machine.
fn read(config: &MachineConfig, id: u64, index: u64, values: &[u64]) -> u64 {
    let cmr = || config.cmrs.get(index as usize).copied().unwrap_or_default();
    match id & !0x1f {
        base if base == FieldId::CMR_BASE.0 => return cmr().base,
        base if base == FieldId::CMR_SIZE.0 => return cmr().size,
        _ => {}
    }
    let profile = config.module.unwrap_or(ModuleProfile::V1_5_01);
    match FieldId(id) {
        FieldId::TDX_FEATURES0 if config.td_cpu == TdCpu::Unprobed => profile.features().bits() & !(1 << 8),
        FieldId::TDX_FEATURES0 => profile.features().bits(),
        FieldId::XFAM_FIXED0 => config.td_cpu.xfam(),
        FieldId(NUM_PKGS) => config.packages().into(),
        FieldId(MAX_VCPUS_PER_TD) if values.is_empty() => profile.traits().max_vcpus,
        _ => values.get(index as usize).copied().unwrap_or(0),
    }
}

/// CPUID_CONFIG rows that TDSYSINFO has room for, 24 bytes each: leaf, sub-leaf, four registers.
const CPUID_CONFIG_AT: u64 = 132;

impl Module {
    /// The parts of TDSYSINFO that are not 0: offset and bytes.
    fn sysinfo(&self, config: &MachineConfig) -> Vec<(u64, [u8; 8], usize)> {
        let field = |id: FieldId| self.constant(id.0);
        let number = |at: u64, value: u64, bytes: usize| (at, value.to_le_bytes(), bytes);
        let mut parts = alloc::vec![
            number(4, VENDOR, 4),
            number(8, field(FieldId::BUILD_DATE), 4),
            number(12, field(FieldId::BUILD_NUM), 2),
            number(14, field(FieldId::MINOR_VERSION), 2),
            number(16, field(FieldId::MAJOR_VERSION), 2),
            // SYS.RD is there.
            number(18, 1, 2),
            number(32, MAX_TDMRS as u64, 2),
            number(34, MAX_RESERVED_AREAS as u64, 2),
            number(36, ENTRY, 2),
            number(48, td::MIN_TDCS_PAGES * tdx_abi::PAGE_SIZE, 2),
            number(52, vcpu::MIN_TDVPS_PAGES * tdx_abi::PAGE_SIZE, 2),
            number(64, field(FieldId::ATTRIBUTES_FIXED0), 8),
            number(72, field(FieldId::ATTRIBUTES_FIXED1), 8),
            number(80, config.td_cpu.xfam(), 8),
            number(88, field(FieldId::XFAM_FIXED1), 8),
        ];
        parts.push(number(128, self.traits.cpuid_config.len() as u64, 4));
        for (index, (leaf, low, high)) in self.traits.cpuid_config.iter().enumerate() {
            let at = CPUID_CONFIG_AT + 24 * index as u64;
            parts.extend([number(at, *leaf, 8), number(at + 8, *low, 8), number(at + 16, *high, 8)]);
        }
        parts
    }
}
