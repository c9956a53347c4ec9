//! Metadata of TDs and VCPUs: MNG.RD and MNG.WR, VP.RD and VP.WR, MEM.RD and MEM.WR, MEM.SEPT.RD.
//!
//! All checks are here; of the fields only those of a TD's configuration, and those of a VCPU that
//! KVM writes. The others are refused.

use tdx_abi::{FieldId, Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt::PageType;
use super::sept::{GuestPage, TreeLock};
use super::td::{GPAW, OpState};
use crate::{LockMode, Refusal};

/// Bits of a field id that say nothing about which field it is: sizes, INC_SIZE, WRITE_MASK_VALID,
/// context, NON_ARCH.
pub(super) const IGNORED: u64 = 0b11 << 32 | 0b1_1111 << 50 | 1 << 63;
/// Bits that tell one field from another: class and field code.
pub(super) const IDENTITY: u64 = 0b11_1111 << 56 | 0xff_ffff;

/// Class of the fields of a TD's configuration (EXECUTION_CONTROLS).
const CONFIGURATION: u64 = 0x11 << 56;
/// Field codes of that class which no module has.
const NO_FIELD: [u64; 2] = [5, 7];

/// A field id for one element: bits that are neither ignored nor part of its name are 0.
pub(super) fn single(field: u64) -> Result<u64, Stop> {
    if field & !(IGNORED | IDENTITY) != 0 {
        return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
    }
    Ok(field & IDENTITY)
}

fn not_modelled<T>(field: u64) -> Result<T, Stop> {
    Err(Stop::Refused(Refusal::FieldNotModelled { field: FieldId(field) }))
}

impl Module {
    /// Version 1 also says in RDX which field is next.
    pub(super) fn mng_rd(&mut self, call: &mut Call) -> Leaf {
        let version = call.version();
        let wanted = call.input.rdx;
        if version > 0 {
            call.out.rdx = FieldId::NONE.0;
        }
        call.out.r8 = 0;
        if version > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        if version == 1 && wanted == FieldId::NONE.0 {
            return not_modelled(wanted);
        }
        let field = single(wanted)?;
        let td = self.td(tdr)?;
        let (value, next) = match field.wrapping_sub(CONFIGURATION) {
            0 => (td.attributes, 0x1110_0003_0000_0001),
            1 => (td.xfam, 0x1110_0002_0000_0002),
            2 => (u64::from(td.max_vcpus), 0x1110_0000_0000_0003),
            3 => (td.config_flags & GPAW, 0x1110_0003_0000_0004),
            code if NO_FIELD.contains(&code) => return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into()),
            _ => return not_modelled(wanted),
        };
        call.out.r8 = value;
        if version == 1 {
            call.out.rdx = next;
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_wr(&mut self, call: &mut Call) -> Leaf {
        let wanted = call.input.rdx;
        call.out.r8 = 0;
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        single(wanted)?;
        not_modelled(wanted)
    }

    /// The VCPU of VP.RD and VP.WR: this CPU holds its VMCS from here on.
    fn vcpu_for_metadata(&mut self, call: &mut Call) -> Result<(Page, Page), Stop> {
        let tdvpr = self.find_page(call, call.input.rcx, Operand::RCX, LockMode::Shared, PageType::Tdvpr)?;
        let tdr = self.pamt.get(tdvpr, PageSize::Size4K).owner;
        self.lock_owner(call, tdr)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        self.check_tdvps_size(tdr, tdvpr)?;
        self.associate(call.cpu, tdr, tdvpr)?;
        Ok((tdr, tdvpr))
    }

    pub(super) fn vp_rd(&mut self, call: &mut Call) -> Leaf {
        let version = call.version();
        let wanted = call.input.rdx;
        if version > 0 {
            call.out.rdx = FieldId::NONE.0;
        }
        call.out.r8 = 0;
        if version > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        self.vcpu_for_metadata(call)?;
        if version == 1 && wanted == FieldId::NONE.0 {
            return not_modelled(wanted);
        }
        single(wanted)?;
        not_modelled(wanted)
    }

    pub(super) fn vp_wr(&mut self, call: &mut Call) -> Leaf {
        let wanted = call.input.rdx;
        call.out.r8 = 0;
        self.vcpu_for_metadata(call)?;
        single(wanted)?;
        not_modelled(wanted)
    }

    /// Memory of a debug TD, which is not modelled; any other TD has none to show.
    pub(super) fn mem_rd_wr(&mut self, call: &mut Call) -> Leaf {
        let leaf = call.input.leaf_call().leaf();
        call.out.r8 = 0;
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        if !self.td(tdr)?.is_debug() {
            return Err(StatusCode::TD_NON_DEBUG.into());
        }
        Err(Stop::Refused(Refusal::LeafNotModelled { leaf }))
    }

    /// RCX and RDX show the entry.
    pub(super) fn mem_sept_rd(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        call.show(guest.level, entry);
        Ok(Status::SUCCESS)
    }
}
