//! VCPUs of a TD that is being built.

use tdx_abi::{Leaf, Page, PageSize, Registers};

use super::error::{Failed, PageError, TdCause};
use super::pages::{check_size, give};
use super::{Building, Td};
use crate::page::SharedPage;
use crate::platform::{Cpu, CpuId};
use crate::seamcall::call_unchecked;

/// TDVPS pages of a VCPU without L2 VMs, its root page included.
pub const TDVPS_PAGES: usize = 6;

/// A VCPU of a TD. It is of no use to any other, not even to one with the same TDR and KeyID.
#[derive(PartialEq, Eq, Debug)]
pub struct Vcpu {
    /// Number of the TD's lease of its KeyID.
    td: u64,
    tdr: Page,
    tdvpr: Page,
    associated: Option<CpuId>,
}

impl Vcpu {
    /// Page of its TDVPR: what the module calls it by.
    pub const fn tdvpr(&self) -> Page {
        self.tdvpr
    }

    /// The CPU that may hold its VMCS. VP.FLUSH must run there.
    pub const fn associated(&self) -> Option<CpuId> {
        self.associated
    }
}

impl<'h> Td<'h, Building> {
    /// VP.CREATE: the page becomes the VCPU's root.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// VP.CREATE on this CPU. Takes a page.
    pub fn create_vcpu<C: Cpu>(&self, cpu: &C, page: SharedPage<'h>) -> Result<Vcpu, PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let tdvpr = page.page();
        let input = Registers::call(Leaf::VP_CREATE).rcx_address(tdvpr.start()).rdx(self.common.tdr.start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(Vcpu { td: self.common.key.number(), tdr: self.common.tdr, tdvpr, associated: None })
    }

    /// VP.ADDCX. A VCPU needs [`TDVPS_PAGES`] - 1 of them.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// VP.ADDCX on this CPU. Takes a page.
    pub fn add_vcpu_page<C: Cpu>(&self, cpu: &C, vcpu: &Vcpu, page: SharedPage<'h>) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        if let Err(cause) = self.owns(vcpu) {
            return Err(PageError::unchanged(page, cause));
        }
        let input = Registers::call(Leaf::VP_ADDCX).rcx_address(page.page().start()).rdx(vcpu.tdvpr.start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(())
    }

    /// VP.INIT: the VCPU is ready and associated with this CPU. `first_rcx` is what the guest finds
    /// in RCX and R8.
    ///
    /// # Errors
    /// [`Failed`] with the VCPU.
    ///
    /// # SEAMCALL
    /// VP.INIT on this CPU, to which the VCPU then belongs until VP.FLUSH there.
    pub fn init_vcpu<C: Cpu>(&self, cpu: &C, vcpu: Vcpu, first_rcx: u64) -> Result<Vcpu, Failed<Vcpu>> {
        if let Err(cause) = self.owns(&vcpu) {
            return Err(Failed { td: vcpu, cause });
        }
        let input = Registers::call(Leaf::VP_INIT).rcx_address(vcpu.tdvpr.start()).rdx(first_rcx);
        // SAFETY: VP.INIT writes to pages of this TD alone.
        match unsafe { call_unchecked(cpu, input) } {
            Ok(_) => Ok(Vcpu { associated: Some(cpu.id()), ..vcpu }),
            Err(error) => Err(Failed { td: vcpu, cause: error.into() }),
        }
    }

    /// A page that another TD's VCPU took would be cleaned under the wrong key. Pages of a TD that
    /// is gone may be those of another one now: its number tells them apart.
    fn owns(&self, vcpu: &Vcpu) -> Result<(), TdCause> {
        if (vcpu.td, vcpu.tdr) == (self.common.key.number(), self.common.tdr) {
            return Ok(());
        }
        Err(TdCause::Foreign { page: vcpu.tdvpr, what: "a VCPU of another TD" })
    }
}
