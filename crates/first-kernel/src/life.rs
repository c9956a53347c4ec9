//! The life of a TD up to its phase, on a kernel in which no guest runs: `bare/firstkernel` and the
//! Linux test module.

use core::cell::Cell;

use tdx_abi::{Page, PageRange, PageSize, PhysAddr};
use tdx_host::{bringup::Kernel, ledger::Ledger, page::SharedPage, platform::Cpus, td::TdHost};

use crate::error::StepError;
use crate::hypervisor::{Backend, GuestMap, Hypervisor, Slot, td_params};
use crate::phase::TdPhase;

/// 4 KiB pages that one TD of [`GuestMap::SMALL`] takes at most, with those that are not aligned to
/// 2 MiB.
pub const PAGES_PER_TD: u64 = 3 * 512;

/// Where the pages of a TD come from and go back to.
pub trait Pages {
    /// A page that is the caller's until it comes back. `None` if there is none.
    fn take(&self, size: PageSize) -> Option<Page>;

    /// Ordinary memory again.
    fn give_back(&self, range: PageRange);
}

/// The pages of a range, large ones first from the front, small ones from the back, each once.
#[derive(Debug)]
pub struct RangePages {
    front: Cell<u64>,
    back: Cell<u64>,
}

impl RangePages {
    /// All pages of the range.
    pub const fn new(range: PageRange) -> Self {
        Self { front: Cell::new(range.start().index().next_multiple_of(512)), back: Cell::new(range.end().index()) }
    }
}

impl Pages for RangePages {
    fn take(&self, size: PageSize) -> Option<Page> {
        let (front, back) = (self.front.get(), self.back.get());
        if front + size.pages() > back {
            return None;
        }
        if size == PageSize::Size4K {
            self.back.set(back - 1);
            return Some(Page::new(back - 1));
        }
        self.front.set(front + size.pages());
        Some(Page::new(front))
    }

    fn give_back(&self, _range: PageRange) {}
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
        SharedPage::take(self.ledger, page, size).map_err(|refused| {
            self.pages.give_back(PageRange::new(page, Page::new(page.index() + size.pages())));
            StepError::new("a page", refused)
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
    shared: PhysAddr,
    phase: TdPhase,
) -> Result<(), StepError> {
    kernel.write(shared, &td_params());
    let backend = Plain { cpus: &*kernel, ledger: host.ledger(), pages, shared };
    let hypervisor = Hypervisor::new(&backend, host, &GuestMap::SMALL);
    let td = phase.moves(&GuestMap::SMALL).try_fold(Slot::Empty, |td, what| hypervisor.make(td, what));
    td.map(drop).map_err(|stuck| stuck.error)
}
