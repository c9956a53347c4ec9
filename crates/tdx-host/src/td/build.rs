//! A TD from MNG.CREATE to MR.FINALIZE.

use core::marker::PhantomData;
use tdx_abi::{Leaf, PageSize, PhysAddr, Registers, StatusCode};

use super::error::{Failed, PageError, TdCause};
use super::pages::{check_size, give};
use super::{Common, GuestPage, Td, TdHost};
use crate::bringup::OneCall;
use crate::page::SharedPage;
use crate::platform::{Cpu, Cpus};
use crate::seamcall::call_unchecked;
use crate::sync::AtomicU64;

/// TDCS pages that a TD without L2 VMs has.
pub const TDCS_PAGES: usize = 6;

/// MNG.CREATE is done.
#[derive(Debug)]
pub enum Created {}
/// The TD's key is configured on every package.
#[derive(Debug)]
pub enum Keyed {}
/// MNG.INIT is done: VCPUs and measured pages can be added.
#[derive(Debug)]
pub enum Building {}
/// MR.FINALIZE is done: VCPUs can be entered.
#[derive(Debug)]
pub enum Runnable {}

impl<'h> TdHost<'h> {
    /// MNG.CREATE: the page becomes the TD's root, under the global KeyID.
    ///
    /// # Errors
    /// [`PageError`] with the page. After HKID_NOT_FREE the KeyID is counted as lost, and the next
    /// call takes another.
    ///
    /// # SEAMCALL
    /// MNG.CREATE on this CPU. Takes a page, under the global KeyID.
    pub fn create<C: Cpu>(self, cpu: &C, page: SharedPage<'h>) -> Result<Td<'h, Created>, PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let key = match self.key_ids.lease() {
            Ok(key) => key,
            Err(error) => return Err(PageError::unchanged(page, error)),
        };
        let tdr = page.page();
        let input = Registers::call(Leaf::MNG_CREATE).rcx_address(tdr.start()).rdx(u64::from(key.key().get()));
        // SAFETY: MNG.CREATE takes this page, under the global key.
        match unsafe { give(self, cpu, page, self.platform.global_key_id(), input) } {
            Ok(_) => {
                let common = Common { host: self, tdr, key, pages: AtomicU64::new(0) };
                Ok(Td { common, state: PhantomData })
            }
            Err(error) => {
                // A KeyID that is in use elsewhere must not be tried again: it stays leased, and is
                // counted as lost. In all other cases the call has assigned nothing: that is its
                // last act. A dead module's KeyIDs are of no use anyway.
                if error.cause.status().is_none_or(|status| status.code() != StatusCode::HKID_NOT_FREE) {
                    key.free();
                }
                Err(error)
            }
        }
    }
}

impl<'h> Td<'h, Created> {
    /// MNG.KEY.CONFIG on one CPU of each package.
    ///
    /// # Errors
    /// [`Failed`] with the TD.
    ///
    /// # SEAMCALL
    /// MNG.KEY.CONFIG on one CPU of each package, one package after another.
    pub fn configure_keys<K: Cpus>(self, cpus: &K) -> Result<Td<'h, Keyed>, Failed<Self>> {
        let error = crate::bringup::FirstError::default();
        // A package that has its key says so; a TD whose first attempt failed half-way goes on.
        let fine = &[StatusCode::LIFECYCLE_STATE_INCORRECT];
        let first = self.call(Leaf::MNG_KEY_CONFIG);
        // SAFETY: MNG.KEY.CONFIG makes the key of a KeyID that this TD has alone.
        cpus.run_on_each_package(&unsafe { OneCall::new(first, fine, &error) });
        match error.get() {
            Some(error) => Err(Failed { td: self, cause: error.into() }),
            None => Ok(self.into_state()),
        }
    }
}

impl<'h> Td<'h, Keyed> {
    /// MNG.ADDCX: the page becomes part of TDCS. [`TDCS_PAGES`] are needed.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// MNG.ADDCX on this CPU. Takes a page.
    pub fn add_control_page<C: Cpu>(&mut self, cpu: &C, page: SharedPage<'h>) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let input =
            Registers::call(Leaf::MNG_ADDCX).rcx_address(page.page().start()).rdx(self.common.tdr.start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(())
    }

    /// MNG.INIT. `params` is the address of TD_PARAMS in shared memory, 1 KiB aligned.
    ///
    /// # Errors
    /// [`Failed`] with the TD.
    ///
    /// # SEAMCALL
    /// MNG.INIT on this CPU. The module reads 1 KiB at `params` as shared memory.
    pub fn init<C: Cpu>(self, cpu: &C, params: PhysAddr) -> Result<Td<'h, Building>, Failed<Self>> {
        // SAFETY: MNG.INIT reads the parameters and writes to pages of this TD alone.
        match unsafe { call_unchecked(cpu, self.call(Leaf::MNG_INIT).rdx(params.get())) } {
            Ok(_) => Ok(self.into_state()),
            Err(error) => Err(Failed { td: self, cause: error.into() }),
        }
    }
}

impl<'h> Td<'h, Building> {
    /// MEM.PAGE.ADD: copies the 4 KiB at `source` (shared memory) to the page, which becomes guest
    /// memory.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.ADD on this CPU. Takes a page; the module reads 4 KiB at `source` as shared memory.
    pub fn add_page<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        page: SharedPage<'h>,
        source: PhysAddr,
    ) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let input = Registers::call(Leaf::MEM_PAGE_ADD)
            .rcx(gpa.operand(PageSize::Size4K))
            .rdx(self.common.tdr.start().get())
            .r8(page.page().start().get())
            .r9(source.get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(())
    }

    /// MR.EXTEND over the 16 pieces of 256 bytes of a page.
    ///
    /// # Errors
    /// [`TdCause`].
    ///
    /// # SEAMCALL
    /// MR.EXTEND on this CPU, 16 times.
    pub fn measure_page<C: Cpu>(&self, cpu: &C, gpa: GuestPage) -> Result<(), TdCause> {
        const PIECE: u64 = 256;
        for piece in 0..tdx_abi::PAGE_SIZE / PIECE {
            let at = gpa.address() + piece * PIECE;
            let input = Registers::call(Leaf::MR_EXTEND).rcx(at).rdx(self.common.tdr.start().get());
            // SAFETY: MR.EXTEND reads a page of this TD.
            unsafe { call_unchecked(cpu, input)? };
        }
        Ok(())
    }

    /// MR.FINALIZE.
    ///
    /// # Errors
    /// [`Failed`] with the TD.
    ///
    /// # SEAMCALL
    /// MR.FINALIZE on this CPU.
    pub fn finalize<C: Cpu>(self, cpu: &C) -> Result<Td<'h, Runnable>, Failed<Self>> {
        // SAFETY: MR.FINALIZE moves and writes no memory of the host.
        match unsafe { call_unchecked(cpu, self.call(Leaf::MR_FINALIZE)) } {
            Ok(_) => Ok(self.into_state()),
            Err(error) => Err(Failed { td: self, cause: error.into() }),
        }
    }
}
