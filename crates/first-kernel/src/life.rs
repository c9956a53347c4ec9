//! The life of a TD up to its phase, on a kernel in which no guest runs: `bare/firstkernel` and the
//! Linux test module.

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

/// A kernel in which no guest runs.
struct Plain<'k, 'h, C, P> {
    cpus: &'k C,
    ledger: &'h Ledger<'h>,
    pages: &'k P,
    shared: PhysAddr,
}

impl<'h, C: Cpus, P: Pages> Backend<'h> for Plain<'_, 'h, C, P> {
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

    /// Written by [`live`]: nothing else uses the page.
    fn write_params(&self) {}

    fn source(&self) -> PhysAddr {
        self.shared
    }
}

/// A TD of [`GuestMap::SMALL`] lives up to its phase. `shared` is a page of shared memory that is
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
    phase: TdPhase,
) -> Result<(), StepError> {
    shared.write(kernel, 0, &td_params()).map_err(|error| StepError::new("TD_PARAMS", error))?;
    let backend = Plain { cpus: &*kernel, ledger: host.ledger(), pages, shared: shared.base() };
    let hypervisor = Hypervisor::new(&backend, host, &GuestMap::SMALL);
    let td = phase.moves(&GuestMap::SMALL).try_fold(Slot::Empty, |td, what| hypervisor.make(td, what));
    td.map(drop).map_err(|stuck| stuck.error)
}
