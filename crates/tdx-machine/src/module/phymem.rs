//! Physical pages: PHYMEM.PAGE.RDMD, PHYMEM.PAGE.RECLAIM, PHYMEM.PAGE.WBINVD. None of them writes
//! the page.

use tdx_abi::{Operand, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::pamt::{Found, PageType};
use super::td::{Lifecycle, lines_of};
use crate::LockMode;

/// Bit of the page type that says the entry is a node, not a page.
const NON_LEAF: u64 = 1 << 63;

impl Module {
    pub(super) fn phymem_page_rdmd(&mut self, call: &mut Call) -> Leaf {
        call.clear_outputs();
        let address = call.input.rcx;
        if self.dynamic_pamt.is_some() {
            return self.rdmd_dynamic(call, address);
        }
        let found = self.walk(call, PhysAddr::new(address), Operand::RCX, LockMode::Shared)?;
        call.show_page_and_epoch(found);
        Ok(Status::SUCCESS)
    }

    /// With dynamic PAMT bits 2:0 say at which level the walk ends at the latest.
    fn rdmd_dynamic(&mut self, call: &mut Call, address: u64) -> Leaf {
        let Some(level) = PageSize::from_level(address & 0b111) else {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        };
        let address = PhysAddr::new(address & !0b111);
        let found = self.walk_to(call, address, Operand::RCX, LockMode::Shared, level)?;
        if level == PageSize::Size4K && found.entry.page_type == PageType::Nda && self.is_taken(found.page) {
            call.out.rcx = PageType::Pamt as u64;
            return Ok(Status::SUCCESS);
        }
        let pair = self.dynamic_pamt.as_ref().and_then(|dynamic| dynamic.pair(found.page));
        match (found.entry.page_type, pair) {
            (PageType::Pamt, Some([first, second])) => {
                call.out.rcx = NON_LEAF | PageType::Pamt as u64;
                call.out.r8 = found.level as u64;
                (call.out.r10, call.out.r11) = (first.start().get(), second.start().get());
            }
            _ => call.show_page_and_epoch(found),
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn phymem_page_reclaim(&mut self, call: &mut Call) -> Leaf {
        call.clear_outputs();
        let address = PhysAddr::new(call.input.rcx);
        let found = self.walk(call, address, Operand::RCX, LockMode::Exclusive)?;
        if matches!(found.entry.page_type, PageType::Nda | PageType::Rsvd) {
            return operand(StatusCode::PAGE_METADATA_INCORRECT, Operand::RCX);
        }
        call.show_page(found);
        if !address.is_aligned(found.level.bytes()) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        if found.entry.page_type == PageType::Tdr {
            let td = self.td(found.page)?;
            if td.lifecycle != Lifecycle::Teardown {
                return Err(StatusCode::LIFECYCLE_STATE_INCORRECT.into());
            }
            if td.children != 0 {
                return Err(StatusCode::TD_ASSOCIATED_PAGES_EXIST.into());
            }
            self.pamt.free(found.page, PageSize::Size4K);
            self.tds.remove(&found.page);
            call.out.r9 = self.removal_hint(found.page, found.level);
        } else {
            let tdr = found.entry.owner;
            self.lock_owner(call, tdr)?;
            if self.td(tdr)?.lifecycle != Lifecycle::Teardown {
                return Err(StatusCode::LIFECYCLE_STATE_INCORRECT.into());
            }
            call.out.r9 = self.disown(call, tdr, found.page, found.level)?;
        }
        Ok(Status::SUCCESS)
    }

    /// The KeyID bits of RCX say under which key the lines are flushed; any will do.
    pub(super) fn phymem_page_wbinvd(&mut self, call: &mut Call) -> Leaf {
        let address = PhysAddr::new(call.input.rcx);
        if address.get() >> tdx_abi::MAX_PHYS_BITS != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let field = call.hardware.config.key_id_field;
        let plain = field.strip(address).get();
        // At whatever level the walk ends: a page that no pair covers can be flushed, too.
        let found = self.walk(call, PhysAddr::new(plain), Operand::RCX, LockMode::Shared)?;
        let page = self.check_found(found, None, PageType::Nda, Operand::RCX)?;
        call.hardware.evict(lines_of(page), field.key_of(address));
        Ok(Status::SUCCESS)
    }
}

impl Call<'_> {
    /// RCX type, RDX owner, R8 level.
    fn show_page(&mut self, found: Found) {
        self.out.rcx = found.entry.page_type as u64;
        self.out.rdx = found.entry.owner.start().get();
        self.out.r8 = found.level as u64;
    }

    /// As [`Self::show_page`], and R9 the epoch of pages that can be blocked.
    fn show_page_and_epoch(&mut self, found: Found) {
        self.show_page(found);
        if matches!(found.entry.page_type, PageType::Reg | PageType::Ept) {
            self.out.r9 = found.entry.epoch;
        }
    }
}
