//! What the module says about itself: SYS.INFO and SYS.RD.
//!
//! Field ids, their order and their sizes are those of 1.5.01. Fields whose value on a real
//! platform nobody observed (CPUID_CONFIG, fixed bits of ATTRIBUTES and XFAM, ...) are refused, not
//! invented.

use tdx_abi::{FieldId, MAX_CMRS, MAX_RESERVED_AREAS, MAX_TDMRS, Operand, PhysAddr, Status, StatusCode, TdxFeatures0};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt_size::{BITMAP_BITS_PER_PAGE, ENTRY};
use super::td_params::{KNOWN_ATTRIBUTES, XFAM_LEAST, XFAM_MOST};
use super::{td, vcpu};
use crate::{MachineConfig, ModuleProfile, Refusal};

const TDSYSINFO_BYTES: u64 = 1024;
const CMR_TABLE_BYTES: u64 = 16 * MAX_CMRS as u64;

/// 1.5.01: fixture 24 (`major_version 1, minor_version 5, build_date 20230323, build_num 481`). The
/// date is a decimal number.
const MAJOR: u64 = 1;
const MINOR: u64 = 5;
const UPDATE: u64 = 1;
const BUILD_DATE: u64 = 20_230_323;
const BUILD_NUM: u64 = 481;
const VENDOR: u64 = 0x8086;

/// Value of a field.
#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    CmrBase,
    CmrSize,
    Features,
    /// The field exists only in modules that know dynamic PAMT; its value, if we know it.
    DynamicPamt(Option<u64>),
    /// The field exists; its value is not known to us. What is here is ours, given only where the
    /// machine's configuration asks for it.
    Assumed(u64),
    /// The field exists; its value is not known to us.
    Unknown,
}

/// First field id, number of fields, value; in the order in which SYS.RD walks them.
const FIELDS: &[(u64, u64, Value)] = &[
    (0x0000_0002_0000_0000, 1, Value::Unknown), // NUM_PKGS
    (0x0000_0002_0000_0001, 8, Value::Unknown), // PKG_FMS
    (0x0800_0002_0000_0000, 1, Value::Number(VENDOR)),
    (FieldId::BUILD_DATE.0, 1, Value::Number(BUILD_DATE)),
    (FieldId::BUILD_NUM.0, 1, Value::Number(BUILD_NUM)),
    (FieldId::MINOR_VERSION.0, 1, Value::Number(MINOR)),
    (FieldId::MAJOR_VERSION.0, 1, Value::Number(MAJOR)),
    (FieldId::UPDATE_VERSION.0, 1, Value::Number(UPDATE)),
    (FieldId::INTERNAL_VERSION.0, 1, Value::Number(0)),
    (FieldId::MODULE_HV.0, 1, Value::Number(0)),
    (FieldId::MIN_UPDATE_HV.0, 1, Value::Number(0)),
    (0x8900_0000_0000_0002, 1, Value::Unknown),   // NO_DOWNGRADE
    (0x8900_0001_0000_0003, 1, Value::Unknown),   // NUM_HANDOFF_PAGES
    (0x8900_0000_0000_0004, 1, Value::Unknown),   // HANDOFF_DATA_VALID
    (0x8900_0001_0000_0005, 1, Value::Unknown),   // HANDOFF_DATA_HV
    (0x8900_0002_0000_0006, 1, Value::Unknown),   // HANDOFF_DATA_SIZE
    (0x0A00_0002_0000_0000, 1, Value::Number(0)), // SYS_ATTRIBUTES: not a debug module
    (0x0A00_0000_0000_0001, 1, Value::Number(1)), // NUM_TDX_FEATURES
    (FieldId::TDX_FEATURES0.0, 1, Value::Features),
    (FieldId::NUM_CMRS.0, 1, Value::Number(MAX_CMRS as u64)),
    (FieldId::CMR_BASE.0, MAX_CMRS as u64, Value::CmrBase),
    (FieldId::CMR_SIZE.0, MAX_CMRS as u64, Value::CmrSize),
    (FieldId::MAX_TDMRS.0, 1, Value::Number(MAX_TDMRS as u64)),
    (FieldId::MAX_RESERVED_PER_TDMR.0, 1, Value::Number(MAX_RESERVED_AREAS as u64)),
    (FieldId::PAMT_4K_ENTRY_SIZE.0, 1, Value::Number(ENTRY)),
    (FieldId::PAMT_2M_ENTRY_SIZE.0, 1, Value::Number(ENTRY)),
    (FieldId::PAMT_1G_ENTRY_SIZE.0, 1, Value::Number(ENTRY)),
    (FieldId::PAMT_PAGE_BITMAP_ENTRY_BITS.0, 1, Value::DynamicPamt(Some(BITMAP_BITS_PER_PAGE))),
    (0x9100_0000_0000_0014, 1, Value::DynamicPamt(None)), // MIN_DYNAMIC_PAMT_NUM_HKID_BITS
    (FieldId::TDR_BASE_SIZE.0, 1, Value::Number(tdx_abi::PAGE_SIZE)),
    (FieldId::TDCS_BASE_SIZE.0, 1, Value::Number(td::MIN_TDCS_PAGES * tdx_abi::PAGE_SIZE)),
    (0x9800_0001_0000_0101, 1, Value::Number(tdx_abi::PAGE_SIZE)), // TDCS_SIZE_PER_L2_VM: 1 page
    (FieldId::TDVPS_BASE_SIZE.0, 1, Value::Number(vcpu::MIN_TDVPS_PAGES * tdx_abi::PAGE_SIZE)),
    (0x9800_0001_0000_0201, 1, Value::Number(vcpu::TDVPS_PAGES_PER_L2_VM * tdx_abi::PAGE_SIZE)), // TDVPS_SIZE_PER_L2_VM
    // As MNG.INIT takes them here.
    (FieldId::ATTRIBUTES_FIXED0.0, 1, Value::Assumed(KNOWN_ATTRIBUTES)),
    (FieldId::ATTRIBUTES_FIXED1.0, 1, Value::Assumed(0)),
    (FieldId::XFAM_FIXED0.0, 1, Value::Assumed(XFAM_MOST)),
    (FieldId::XFAM_FIXED1.0, 1, Value::Assumed(XFAM_LEAST)),
    (0x9900_0001_0000_0004, 1, Value::Assumed(0)),      // NUM_CPUID_CONFIG
    (0x9900_0003_0000_0006, 1, Value::Unknown),         // CONFIG_FLAGS_FIXED0
    (0x9900_0003_0000_0007, 1, Value::Unknown),         // CONFIG_FLAGS_FIXED1
    (0x9900_0001_0000_0008, 1, Value::Assumed(0xffff)), // MAX_VCPUS_PER_TD
    (0x9900_0003_0000_0400, 32, Value::Unknown),        // CPUID_CONFIG_LEAVES
    (0x9900_0003_0000_0500, 64, Value::Unknown),        // CPUID_CONFIG_VALUES
    (0x9900_0003_0000_0600, 1, Value::Unknown),         // IA32_ARCH_CAPABILITIES_CONFIG_MASK
    (0x9900_0001_0000_0800, 1, Value::Unknown),         // NUM_ALLOWED_FMS
    (0x9900_0001_0000_0801, 1, Value::Unknown),         // NUM_DISALLOWED_FMS
    (0x9900_0003_0000_0810, 64, Value::Unknown),        // ALLOWED_FMS
    (0x9900_0003_0000_0850, 64, Value::Unknown),        // DISALLOWED_FMS
    (0xA000_0003_0000_0000, 1, Value::Unknown),         // MIG_ATTRIBUTES
    (0x2000_0001_0000_0001, 4, Value::Unknown),         // MIN and MAX of EXPORT_VERSION and IMPORT_VERSION
    (0xA000_0001_0000_0010, 1, Value::Unknown),         // MAX_MIGS
    (0xA000_0000_0000_0020, 3, Value::Unknown),         // NUM_IMMUTABLE_, NUM_TD_, NUM_VP_STATE_PAGES
    (0xA100_0001_0000_0000, 1, Value::Unknown),         // MAX_SERV_TDS
    (0xA100_0003_0000_0001, 2, Value::Unknown),         // SERVTD_ATTR_FIXED0, 1
    (0xA200_0001_0000_0000, 1, Value::Unknown),         // GUEST_L2_GPA_ATTR_MASK
    (0xA200_0003_0000_0001, 4, Value::Unknown),         // fixed bits of VM_CTLS and VCPU_L2_CTLS
];

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
        for (offset, bytes) in sysinfo() {
            call.write_bytes(PhysAddr::new(buffer.get() + offset), &bytes);
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
            call.out.rdx = fields(call).next().map_or(FieldId::NONE.0, |first| first.0);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        let mut from = fields(call).skip_while(|(first, count, _)| !(*first..first + count).contains(&field.0));
        let Some((first, count, value)) = from.next() else {
            return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
        };
        let next = if field.0 + 1 < first + count { Some(field.0 + 1) } else { from.next().map(|next| next.0) };
        call.out.r8 = read(&call.hardware.config, *value, field.0 - first).ok_or(unknown(field))?;
        call.out.rdx = next.ok_or(unknown(field))?;
        Ok(Status::SUCCESS)
    }

    fn check_lp_init(&self, call: &Call) -> Result<(), Stop> {
        match self.lp_init_done.get(call.cpu.index()) {
            Some(true) => Ok(()),
            _ => Err(StatusCode::SYS_LP_INIT_NOT_DONE.into()),
        }
    }
}

/// The fields that this module has.
fn fields(call: &Call) -> impl Iterator<Item = &'static (u64, u64, Value)> + use<> {
    let dynamic = call.has_dynamic_pamt();
    FIELDS.iter().filter(move |(_, _, value)| dynamic || !matches!(value, Value::DynamicPamt(_)))
}

fn read(config: &MachineConfig, value: Value, index: u64) -> Option<u64> {
    let cmr = || config.cmrs.get(index as usize).copied().unwrap_or_default();
    match value {
        Value::Number(number) => Some(number),
        Value::CmrBase => Some(cmr().base),
        Value::CmrSize => Some(cmr().size),
        Value::Features => Some(config.module.map_or(TdxFeatures0::MODULE_1_5_01, ModuleProfile::features).bits()),
        Value::DynamicPamt(number) => number,
        Value::Assumed(number) => config.assume_td_configuration.then_some(number),
        Value::Unknown => None,
    }
}

fn unknown(field: FieldId) -> Stop {
    Stop::Refused(Refusal::FieldNotModelled { field })
}

/// The known parts of TDSYSINFO: offset and bytes. The rest stays zero.
fn sysinfo() -> [(u64, [u8; 2]); 12] {
    let half = |value: u64| (value as u16).to_le_bytes();
    [
        (4, half(VENDOR)),
        (8, half(BUILD_DATE)),
        (10, half(BUILD_DATE >> 16)),
        (12, half(BUILD_NUM)),
        (14, half(MINOR)),
        (16, half(MAJOR)),
        // SYS.RD is there.
        (18, half(1)),
        (32, half(MAX_TDMRS as u64)),
        (34, half(MAX_RESERVED_AREAS as u64)),
        (36, half(ENTRY)),
        (48, half(td::MIN_TDCS_PAGES * tdx_abi::PAGE_SIZE)),
        (52, half(vcpu::MIN_TDVPS_PAGES * tdx_abi::PAGE_SIZE)),
    ]
}
