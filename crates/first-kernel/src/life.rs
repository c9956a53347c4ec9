//! The life of a TD up to its phase, and the hypervisor's backend of a small kernel:
//! `bare/firstkernel` and the Linux test module.

use core::cell::Cell;

use tdx_abi::{PageSize, PhysAddr};
use tdx_host::{
    bringup::Kernel,
    ledger::Ledger,
    page::SharedPage,
    platform::{Cpus, OwnedPages},
    td::TdHost,
};

use crate::error::StepError;
use crate::hypervisor::{Backend, GuestMap, Hypervisor, Slot, td_params};
use crate::phase::TdPhase;

/// 4 KiB pages that one TD of [`GuestMap::SMALL`] takes at most, with those that are not aligned to
/// 2 MiB.
pub const PAGES_PER_TD: u64 = 3 * 512;

/// Where the pages of a TD come from and go back to.
pub trait Pages {
    /// A page of this size. `None` if there is none.
    fn take(&self, size: PageSize) -> Option<OwnedPages>;

    /// Takes a page back.
    fn give_back(&self, page: OwnedPages);
}

/// The pages of a range, large ones first from the front, small ones from the back, each once.
pub struct RangePages {
    rest: Cell<Option<OwnedPages>>,
}

impl RangePages {
    /// All of these pages from the first whole 2 MiB page on.
    pub fn new(pages: OwnedPages) -> Self {
        let first = pages.range().start().index();
        let head = first.next_multiple_of(PageSize::Size2M.pages()) - first;
        Self { rest: Cell::new(pages.split_at(head).ok().map(|(_, rest)| rest)) }
    }
}

impl Pages for RangePages {
    fn take(&self, size: PageSize) -> Option<OwnedPages> {
        let rest = self.rest.take()?;
        let Some(left) = rest.pages().checked_sub(size.pages()) else {
            self.rest.set(Some(rest));
            return None;
        };
        let small = size == PageSize::Size4K;
        let (front, back) = rest.split_at(if small { left } else { size.pages() }).ok()?;
        let (page, rest) = if small { (back, front) } else { (front, back) };
        self.rest.set(Some(rest));
        Some(page)
    }

    /// Each page is used once.
    fn give_back(&self, _page: OwnedPages) {}
}

/// What the module copies from shared memory for a TD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copied {
    /// [`td_params`], by MNG.INIT.
    Params,
    /// What a 4 KiB guest page holds at first, by MEM.PAGE.ADD: its number.
    GuestPage(u64),
}

/// The backend of a kernel that takes each page once and lets no guest run by
/// [`Move::Enter`](crate::Move::Enter).
pub struct Plain<'k, 'h, C, P, W> {
    /// The CPUs.
    pub cpus: &'k C,
    /// The ledger that pages of TDs are entered in.
    pub ledger: &'h Ledger<'h>,
    /// Where pages come from.
    pub pages: &'k P,
    /// A page of shared memory that nothing else uses, from which the module copies.
    pub shared: PhysAddr,
    /// Called before the module copies: writes to `shared` what it is to find there.
    pub write: W,
}

impl<'h, C: Cpus, P: Pages, W: Fn(Copied)> Backend<'h> for Plain<'_, 'h, C, P, W> {
    type Cpus = C;

    fn cpus(&self) -> &C {
        self.cpus
    }

    fn page(&self, size: PageSize) -> Result<SharedPage<'h>, StepError> {
        let page = self.pages.take(size).ok_or_else(|| StepError::new("a page", "there is none"))?;
        SharedPage::take(self.ledger, page).map_err(|refused| {
            self.pages.give_back(refused.pages);
            StepError::new("a page", refused.cause)
        })
    }

    fn free(&self, page: SharedPage<'h>) {
        self.pages.give_back(page.release());
    }

    fn params(&self) -> PhysAddr {
        self.shared
    }

    fn write_params(&self) {
        (self.write)(Copied::Params);
    }

    fn source(&self) -> PhysAddr {
        self.shared
    }

    fn write_source(&self, page: u64) {
        (self.write)(Copied::GuestPage(page));
    }
}

/// A TD with this guest memory lives up to its phase. `shared` is a page of shared memory that is
/// the kernel's own. Whatever the TD holds at the end it holds for good.
///
/// # Errors
/// [`StepError`]: the module or the ledger refused what they should not, or there are no pages.
///
/// # SEAMCALL
/// Those of a TD's life, on this CPU and on one CPU of each package.
pub fn live<K: Kernel, P: Pages>(
    kernel: &mut K,
    host: TdHost<'_>,
    pages: &P,
    shared: &mut OwnedPages,
    map: &GuestMap,
    phase: TdPhase,
) -> Result<(), StepError> {
    shared.write(kernel, 0, &td_params()).map_err(|error| StepError::new("TD_PARAMS", error))?;
    // The parameters stand there from the start, and what guest pages hold does not matter.
    let backend = Plain { cpus: &*kernel, ledger: host.ledger(), pages, shared: shared.base(), write: |_| () };
    let hypervisor = Hypervisor::new(&backend, host, map);
    let td = phase.moves(map).try_fold(Slot::Empty, |td, what| hypervisor.make(td, what));
    td.map(drop).map_err(|stuck| stuck.error)
}
