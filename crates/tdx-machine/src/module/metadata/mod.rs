//! Metadata of TDs and VCPUs: MNG.RD and MNG.WR, VP.RD and VP.WR.
//!
//! Every check is here, for every field of the tables. A value that is not known is refused.

mod cpuid;
mod guest;
mod table;
mod td_fields;
mod td_values;
mod tdvps_fields;
mod vmcs_fields;
mod vp_values;

use tdx_abi::{FieldId, Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt::PageType;
use super::td::{OpState, Td};
use super::vcpu_state::VcpuState;
use crate::hardware::Hardware;
use crate::{LockMode, Refusal};
use table::{CLASS, CODE, Masks, Reader, Row, Table, Write, is_null};

pub(super) use cpuid::in_guest as guest_cpuid;
pub(super) use table::{IDENTITY, single};
pub(super) use vp_values::VcpuField;

/// Context of a field id, as the module sets it.
const CONTEXT: u64 = 0b111 << 52;
const CONTEXT_TD: u64 = 1 << 52;
const CONTEXT_VP: u64 = 2 << 52;
/// Classes of L2 VMs: their roots of Secure EPT in a TD; VMCS, MSR bitmaps and their shadows in a
/// VCPU.
const L2_TD: [&[u64]; 4] = [&[0x25 << 56, 0x29 << 56, 0x2d << 56], &[0x29 << 56, 0x2d << 56], &[0x2d << 56], &[]];
const L2_VP: [u64; 9] =
    [0x24 << 56, 0x25 << 56, 0x26 << 56, 0x2c << 56, 0x2d << 56, 0x2e << 56, 0x34 << 56, 0x35 << 56, 0x36 << 56];
/// Bit of a VMCS encoding: the upper half of a 64-bit field, which metadata do not have.
const HIGH_HALF: u64 = 1;

fn not_modeled<T>(field: u64) -> Result<T, Stop> {
    Err(Stop::Refused(Refusal::FieldNotModeled { field: FieldId(field) }))
}

impl Module {
    fn host(td: &Td) -> Reader {
        if td.is_debug() { Reader::HostOfDebugTd } else { Reader::Host }
    }

    fn td_table(&self, tdr: Page) -> Result<(Table, Reader), Stop> {
        let td = self.td(tdr)?;
        let absent = L2_TD.get(usize::from(td.l2_vms)).copied().unwrap_or(&[]);
        let rows: [&'static [Row]; 2] = [td_fields::TD_FIELDS, &[]];
        Ok((Table { edition: self.traits.edition, rows, absent }, Self::host(td)))
    }

    /// Of a TD without L2 VMs: the fields of their VCPUs are not modeled.
    fn vp_table(&self, tdr: Page) -> Result<(Table, Reader), Stop> {
        let td = self.td(tdr)?;
        let rows = [vmcs_fields::VMCS_FIELDS, tdvps_fields::TDVPS_FIELDS];
        Ok((Table { edition: self.traits.edition, rows, absent: &L2_VP }, Self::host(td)))
    }

    /// The row and the masks of a TD's field.
    fn td_field(&self, tdr: Page, field: u64, guest: bool) -> Result<(Row, Masks), Stop> {
        let (table, reader) = self.td_table(tdr)?;
        // All codes of CPUID_VALUES are one field; which are there is looked up apart.
        let name = if field & CLASS == td_values::CPUID { field & !CODE | field & 1 } else { field };
        let row = table.find(name)?;
        Ok((row, row.masks(if guest { Reader::Guest } else { reader })))
    }

    /// The value of a TD's field.
    fn td_element(&self, hardware: &Hardware, tdr: Page, field: u64, read: bool) -> Result<u64, Stop> {
        if field & CLASS == td_values::CPUID {
            return cpuid::value(self.td(tdr)?, self.traits.cpuid_config, self.traits.edition, field, read);
        }
        self.td_value(hardware, tdr, field)?.map_or_else(|| not_modeled(field), Ok)
    }

    /// The field behind this one, of those that a host may read.
    fn next_td_field(&self, tdr: Page, field: u64) -> Result<u64, Stop> {
        let (table, reader) = self.td_table(tdr)?;
        let edition = self.traits.edition;
        let next = if field & CLASS == td_values::CPUID {
            match cpuid::next_code(field & CODE, edition) {
                Some(code) => return Ok(field & !(CODE | CONTEXT) | CONTEXT_TD | code),
                None => table.next_row(field & !CODE, reader),
            }
        } else {
            table.next(field, reader)
        };
        let is_cpuid = next != FieldId::NONE.0 && next & CLASS == td_values::CPUID;
        Ok(if is_cpuid { next | cpuid::first_code() } else { next })
    }

    /// Version 1 also says in RDX which field is next.
    pub(super) fn mng_rd(&mut self, call: &mut Call) -> Leaf {
        let (version, wanted) = Self::begin_read(call)?;
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        if version == 1 && is_null(wanted) {
            let (table, reader) = self.td_table(tdr)?;
            call.out.rdx = table.first(reader);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        single(wanted)?;
        let (_, masks) = self.td_field(tdr, wanted, false)?;
        // A field that a host may not read: its class may still say that there is no such field.
        if masks.read == 0 {
            return Err(StatusCode::METADATA_FIELD_NOT_READABLE.into());
        }
        call.out.r8 = self.td_element(call.hardware, tdr, wanted, true)? & masks.read;
        if version == 1 {
            call.out.rdx = self.next_td_field(tdr, wanted)?;
        }
        Ok(Status::SUCCESS)
    }

    /// R8 is the value, R9 the bits to write.
    pub(super) fn mng_wr(&mut self, call: &mut Call) -> Leaf {
        let (wanted, write) = (call.input.rdx, Write { value: call.input.r8, mask: call.input.r9 });
        call.out.r8 = 0;
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        single(wanted)?;
        let (row, masks) = self.td_field(tdr, wanted, false)?;
        if wanted & CLASS == td_values::CPUID {
            self.td_element(call.hardware, tdr, wanted, false)?;
        }
        let allowed = write.allowed(masks)?;
        let old = self.td_element(call.hardware, tdr, wanted, false)? & row.element_mask();
        write.check_forbidden(masks, self.seen(old, masks))?;
        let Some(()) = self.write_td_value(tdr, wanted, write, old, allowed)? else { return not_modeled(wanted) };
        self.store_tdcs(call, tdr)?;
        call.out.r8 = old & masks.read;
        Ok(Status::SUCCESS)
    }

    /// What a host has to repeat in bits that it must not change: what it can read in newer
    /// modules.
    fn seen(&self, value: u64, masks: Masks) -> u64 {
        if self.traits.forbidden_bits_as_read { value & masks.read } else { value }
    }

    /// Version and field of MNG.RD and VP.RD.
    fn begin_read(call: &mut Call) -> Result<(u8, u64), Stop> {
        let (version, wanted) = (call.version(), call.input.rdx);
        if version > 0 {
            call.out.rdx = FieldId::NONE.0;
        }
        call.out.r8 = 0;
        if version > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        Ok((version, wanted))
    }

    /// VP.RD or VP.WR of the TD and the VCPU: this CPU holds its VMCS from here on, unless the call
    /// is refused.
    fn with_vcpu(
        &mut self,
        call: &mut Call,
        allowed: &[VcpuState],
        leaf: impl FnOnce(&mut Self, &mut Call, Page, Page) -> Leaf,
    ) -> Leaf {
        let tdvpr = self.find_page(call, call.input.rcx, Operand::RCX, LockMode::Shared, PageType::Tdvpr)?;
        let tdr = self.pamt.get(tdvpr, PageSize::Size4K).owner;
        self.lock_owner(call, tdr)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        self.check_tdvps_size(tdr, tdvpr)?;
        let is_new = self.associate(call.cpu, tdr, tdvpr, allowed)?;
        let done = leaf(self, call, tdr, tdvpr);
        if is_new && matches!(done, Err(Stop::Refused(_))) {
            self.dissociate(tdr, tdvpr)?;
        }
        done
    }

    /// The row and the masks of a VCPU's field.
    fn vp_field(&self, tdr: Page, field: u64, guest: bool) -> Result<(Row, Masks), Stop> {
        let class = field & CLASS;
        if L2_VP.contains(&class) && self.td(tdr)?.l2_vms != 0 {
            return not_modeled(field);
        }
        let (table, reader) = self.vp_table(tdr)?;
        let row = table.find(field)?;
        if class == vp_values::VMCS && field & HIGH_HALF != 0 {
            return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
        }
        Ok((row, row.masks(if guest { Reader::Guest } else { reader })))
    }

    fn vp_element(&self, hardware: &Hardware, tdr: Page, tdvpr: Page, field: u64) -> Result<u64, Stop> {
        self.vp_value(hardware, tdr, tdvpr, field)?.map_or_else(|| not_modeled(field), Ok)
    }

    /// Version 1 also says in RDX which field is next.
    pub(super) fn vp_rd(&mut self, call: &mut Call) -> Leaf {
        let (version, wanted) = Self::begin_read(call)?;
        self.with_vcpu(call, &[VcpuState::Ready, VcpuState::Disabled], |module, call, tdr, tdvpr| {
            module.vp_rd_field(call, tdr, tdvpr, version, wanted)
        })
    }

    fn vp_rd_field(&self, call: &mut Call, tdr: Page, tdvpr: Page, version: u8, wanted: u64) -> Leaf {
        let (table, reader) = self.vp_table(tdr)?;
        if version == 1 && is_null(wanted) {
            call.out.rdx = table.first(reader);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        single(wanted)?;
        let (_, masks) = self.vp_field(tdr, wanted, false)?;
        if masks.read == 0 {
            return Err(StatusCode::METADATA_FIELD_NOT_READABLE.into());
        }
        call.out.r8 = self.vp_element(call.hardware, tdr, tdvpr, wanted)? & masks.read;
        if version == 1 {
            let next = table.next(wanted & !CONTEXT | CONTEXT_VP, reader);
            // Fields of L2 VMs come last.
            if next == FieldId::NONE.0 && self.td(tdr)?.l2_vms != 0 {
                return not_modeled(wanted);
            }
            call.out.rdx = next;
        }
        Ok(Status::SUCCESS)
    }

    /// R8 is the value, R9 the bits to write.
    pub(super) fn vp_wr(&mut self, call: &mut Call) -> Leaf {
        call.out.r8 = 0;
        self.with_vcpu(call, &[VcpuState::Ready], Self::vp_wr_field)
    }

    fn vp_wr_field(&mut self, call: &mut Call, tdr: Page, tdvpr: Page) -> Leaf {
        let (wanted, write) = (call.input.rdx, Write { value: call.input.r8, mask: call.input.r9 });
        let name = single(wanted)?;
        let (row, masks) = self.vp_field(tdr, wanted, false)?;
        let allowed = write.allowed(masks)?;
        let old = self.vp_element(call.hardware, tdr, tdvpr, wanted)? & row.element_mask();
        // An address that was never set does not count in the bits that a host must not change.
        let is_unset = vp_values::shared_bytes(wanted).is_some() && old >> 63 != 0;
        let kept = match allowed == row.element_mask() {
            true => 0,
            false if is_unset => old & masks.write,
            false => old,
        };
        write.check_forbidden(masks, self.seen(kept, masks))?;
        let value = kept & !allowed | write.value & allowed;
        let Some(()) = self.check_vp_value(call, tdr, tdvpr, wanted, value)? else { return not_modeled(wanted) };
        self.vcpu_mut(tdr, tdvpr)?.written.insert(name, value);
        self.store_tdvps(call, tdr, tdvpr)?;
        call.out.r8 = old & masks.read;
        Ok(Status::SUCCESS)
    }
}
