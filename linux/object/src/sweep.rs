//! A sweep over all memory that the TDX module may own: an audit compares ledger and module, a late
//! load learns the pages of TDs that were there before this module.

use tdx_abi::{Page, PageRange, PageSize, PamtPageType};
use tdx_host::{
    follow,
    ledger::PageState,
    sweep::{self, Finding, LookError, Says},
};

use crate::cpu::ThisCpu;
use crate::handover::seamcall_is_made;
use crate::{EIO, ENODEV, EPERM, HOST, pool, shim, watch};

/// Addresses that a sweep keeps of each kind.
pub const CLEANSLATE_SWEEP_ADDRESSES: usize = 8;

/// State and result of a sweep.
#[repr(C)]
#[derive(Default)]
pub struct Sweep {
    /// Pages that the module has are marked where they are not.
    pub learn: bool,
    /// First page that has not been looked at.
    pub next: u64,
    /// Pages that the ledger covers.
    pub total: u64,
    /// Pages that were looked at.
    pub pages: u64,
    /// SEAMCALLs.
    pub calls: u64,
    /// Pages that the module has.
    pub owned: u64,
    /// PAMT and holes.
    pub reserved: u64,
    /// Pages in no TDMR, and of no memory.
    pub outside: u64,
    /// The module has them, and the ledger has no mark.
    pub missing: u64,
    /// Marked as returned or refused; the module does not have them.
    pub returned: u64,
    /// Marked as in flight; the module does not have them.
    pub giving: u64,
    /// Marked as given; the module does not have them.
    pub stale: u64,
    /// The kernel has freed them, and the module does not have them.
    pub leaked: u64,
    /// The kernel has freed them, and the module has them.
    pub leaked_owned: u64,
    /// Pages that were marked.
    pub learned: u64,
    /// Looks during which the ledger has changed.
    pub changed: u64,
    /// Looks that found the page in use by another SEAMCALL.
    pub busy: u64,
    /// Pages that were to be marked and have no reference: the kernel has freed them.
    pub unmarked: u64,
    /// Status of the SEAMCALL that failed.
    pub status: u64,
    /// The first that are missing.
    pub missing_at: [u64; CLEANSLATE_SWEEP_ADDRESSES],
    /// The first that are leaked.
    pub leaked_at: [u64; CLEANSLATE_SWEEP_ADDRESSES],
}

/// Notes an address in the first free place.
fn note(list: &mut [u64], address: u64) {
    if let Some(free) = list.iter_mut().find(|place| **place == 0) {
        *free = address;
    }
}

impl Sweep {
    /// One page, which is marked. Freed by the kernel?
    fn freed(&mut self, page: Page, is_owned: bool) {
        if !shim::is_only_held(page) {
            return;
        }
        *(if is_owned { &mut self.leaked_owned } else { &mut self.leaked }) += 1;
        note(&mut self.leaked_at, page.start().get());
    }

    /// Notes what was found of a page.
    fn page(&mut self, page: Page, state: PageState, says: Says) {
        let owned = matches!(says, Says::Owned(_));
        self.owned += u64::from(owned);
        self.reserved += u64::from(says == Says::Reserved);
        match sweep::compare(state, says) {
            Finding::Agree => {}
            Finding::Missing if self.learn => {}
            Finding::Missing => {
                self.missing += 1;
                note(&mut self.missing_at, page.start().get());
            }
            Finding::Surplus(PageState::InFlight) => self.giving += 1,
            Finding::Surplus(PageState::Private) => self.stale += 1,
            Finding::Surplus(_) => self.returned += 1,
        }
        if state != PageState::Shared {
            self.freed(page, owned);
        }
    }

    /// Marks pages that the module has. Reports nothing, because others wait: the caller does, if
    /// `unmarked` has grown.
    ///
    /// # Safety
    /// The module has them, and no SEAMCALL is made meanwhile.
    unsafe fn learn(&mut self, range: PageRange, page_type: PamtPageType) {
        let Some(ledger) = HOST.ledger() else { return };
        // SAFETY: the caller's.
        let (learned, result) = unsafe { follow::learn(ledger, range, true, &watch::Refs) };
        self.learned += learned;
        watch::count_learned(page_type, learned);
        // The sweep asks for pages that the ledger covers, so that it is a page without an owner.
        self.unmarked += u64::from(result.is_err());
    }
}

/// The next look of a sweep. 0: to be called again. 1: all was looked at. -EAGAIN: the page is busy
/// or has changed; it is looked at again by the next call. Else a negative errno.
///
/// # Safety
/// `sweep` can be read and written; it was zeroed before the first call, `learn` apart. `cpu` is
/// this CPU, interrupts are off, and no other SEAMCALL but VP.ENTER is made meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_sweep_step(cpu: u32, sweep: *mut Sweep) -> i32 {
    const EAGAIN: i32 = 11;
    // SAFETY: the caller's.
    let sweep = unsafe { &mut *sweep };
    let Some(ledger) = HOST.ledger() else { return -EPERM };
    if sweep.total == 0 {
        sweep.total = sweep::pages(ledger);
    }
    let Some(page) = sweep::next_page(ledger, Page::new(sweep.next)) else { return 1 };
    // Behind a gap; and the caller may leave this page out.
    sweep.next = page.index();
    let block = PageSize::Size2M.pages();
    let end = (page.index() / block + 1) * block;
    // Pages of TDs may be in the pool, which has no struct page.
    if !shim::has_page(page) && !pool::holds(PageRange::new(page, Page::new(end))) {
        sweep.outside += end - page.index();
        sweep.pages += end - page.index();
        sweep.next = end;
        return 0;
    }
    seamcall_is_made();
    // SAFETY: the caller's.
    let cpu = unsafe { ThisCpu::pinned_to(cpu) };
    sweep.calls += 1;
    let answer = match sweep::look(&cpu, ledger, page) {
        Ok(answer) => answer,
        Err(LookError::Busy(_)) => {
            sweep.busy += 1;
            return -EAGAIN;
        }
        Err(LookError::Changed(_)) => {
            sweep.changed += 1;
            return -EAGAIN;
        }
        Err(LookError::Failed(status)) => {
            sweep.status = status.raw();
            return if status == tdx_abi::Status::UNDEFINED_OPCODE { -ENODEV } else { -EIO };
        }
        Err(_) => return -EIO,
    };
    // A SEAMCALL that did not wait may have moved the page. The caller ends the sweep.
    if shim::look_was_disturbed() {
        sweep.changed += 1;
        return -EAGAIN;
    }
    // The ledger covers whole GiBs, so that all of the answer is covered.
    let count = answer.pages.pages();
    if answer.says == Says::Outside {
        sweep.outside += count;
    } else {
        for index in answer.pages.start().index()..answer.pages.end().index() {
            let page = Page::new(index);
            sweep.page(page, ledger.state(page).unwrap_or(PageState::Shared), answer.says);
        }
    }
    sweep.pages += count;
    sweep.next = answer.pages.end().index();
    if let Says::Owned(page_type) = answer.says
        && sweep.learn
    {
        // SAFETY: the module has just said that it has them; the caller excludes other SEAMCALLs.
        unsafe { sweep.learn(answer.pages, page_type) };
    }
    0
}
