//! Metadata at the guest side: TDG.VM.RD and WR, TDG.VP.RD and WR.

use tdx_abi::{FieldId, Operand, Registers, Status, StatusCode};

use super::super::Module;
use super::super::call::{Leaf, Stop, operand};
use super::super::running::Running;
use super::table::{Reader, Write, is_null, single};
use super::{CONTEXT, CONTEXT_VP, not_modeled};
use crate::hardware::Hardware;

impl Module {
    /// TDG.VM.RD, or TDG.VM.WR if the guest writes. Version 1 of RD also says which field is next.
    pub(in crate::module) fn guest_vm_rd_wr(
        &mut self,
        hardware: &Hardware,
        running: Running,
        version: u64,
        write: bool,
        registers: &mut Registers,
    ) -> Leaf {
        let (wanted, input) = (registers.rdx, Write { value: registers.r8, mask: registers.r9 });
        let names_next = !write && version > 0;
        if names_next {
            registers.rdx = FieldId::NONE.0;
        }
        registers.r8 = 0;
        if version > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        if registers.rcx != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let (table, _) = self.td_table(running.tdr)?;
        if names_next && is_null(wanted) {
            registers.rdx = table.first(Reader::Guest);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        single(wanted)?;
        let (row, masks) = self.td_field(running.tdr, wanted, true)?;
        if !write {
            if masks.read == 0 {
                return Err(StatusCode::METADATA_FIELD_NOT_READABLE.into());
            }
            registers.r8 = self.td_element(hardware, running.tdr, wanted, true)? & masks.read;
            if names_next {
                registers.rdx = table.next(wanted, Reader::Guest);
            }
            return Ok(Status::SUCCESS);
        }
        let allowed = input.allowed(masks)?;
        let old = self.td_element(hardware, running.tdr, wanted, false)? & row.element_mask();
        input.check_forbidden(masks, self.seen(old, masks))?;
        let done = self.write_td_value(running.tdr, wanted, input, old, allowed)?;
        done.map_or_else(|| not_modeled(wanted), Ok)?;
        registers.r8 = old & masks.read;
        Ok(Status::SUCCESS)
    }

    /// TDG.VP.RD, which also says which field is next, or TDG.VP.WR.
    pub(in crate::module) fn guest_vp_rd_wr(
        &mut self,
        hardware: &Hardware,
        running: Running,
        write: bool,
        registers: &mut Registers,
    ) -> Leaf {
        let (wanted, input) = (registers.rdx, Write { value: registers.r8, mask: registers.r9 });
        if !write {
            registers.rdx = FieldId::NONE.0;
        }
        registers.r8 = 0;
        if registers.rcx != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let Running { tdr, tdvpr, .. } = running;
        let (table, _) = self.vp_table(tdr)?;
        if !write && is_null(wanted) {
            registers.rdx = table.first(Reader::Guest);
            return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.with(0));
        }
        let name = single(wanted)?;
        let (row, masks) = self.vp_field(tdr, wanted, true)?;
        if !write {
            if masks.read == 0 {
                return Err(StatusCode::METADATA_FIELD_NOT_READABLE.into());
            }
            registers.r8 = self.vp_element(hardware, tdr, tdvpr, wanted)? & masks.read;
            registers.rdx = table.next(wanted & !CONTEXT | CONTEXT_VP, Reader::Guest);
            return Ok(Status::SUCCESS);
        }
        let allowed = input.allowed(masks)?;
        let old = self.vp_element(hardware, tdr, tdvpr, wanted)? & row.element_mask();
        input.check_forbidden(masks, self.seen(old, masks))?;
        let value = old & !allowed | input.value & allowed;
        let vcpu = self.vcpu_mut(tdr, tdvpr)?;
        vcpu.written.insert(name, value);
        registers.r8 = old & masks.read;
        Ok::<_, Stop>(Status::SUCCESS)
    }
}
