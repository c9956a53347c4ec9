//! Tears down the TDs of an earlier kernel. What they have is asked of the module, page by page:
//! no list is believed.

use arrayvec::ArrayVec;
use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, PamtPageType, Registers, StatusCode};

use super::TdHost;
use super::error::{PageError, TdCause};
use super::pages::{clean, clean_written};
use super::teardown::{FlushVcpus, PageHeld, WriteBackKeys, page_held, reclaim};
use crate::bringup::FirstError;
use crate::ledger::PageState;
use crate::page::SharedPage;
use crate::platform::{Cpus, OwnedPages};
use crate::reset::reset_ranges;
use crate::seamcall::{SeamcallError, call_unchecked};

/// TDs torn down in one walk over the marked pages.
const TDS_A_WALK: usize = 64;

/// What a vacuum has done.
#[derive(Clone, Debug, Default)]
pub struct Vacuumed {
    /// TDs that are gone.
    pub tds: u64,
    /// 4 KiB pages that were given back, clean.
    pub pages: u64,
    /// 4 KiB pages that stay marked, those of adopted TDs among them.
    pub left: u64,
    /// The first call that failed.
    pub error: Option<TdCause>,
}

/// Work in progress.
struct Vacuum<'h, 'w, K, B> {
    host: TdHost<'h>,
    cpus: &'w K,
    adopted: &'w [Page],
    back: B,
    done: Vacuumed,
}

impl<'h> TdHost<'h> {
    /// Tears down every TD that the module has, from whatever step, and gives its pages back,
    /// clean; so are pages that are marked and not the module's. Afterwards the module has no TD
    /// but those that a failed call has left.
    ///
    /// Before the call, the caller names the TDs that it has not adopted as
    /// [`TdState::Dying`](crate::takeover::TdState::Dying) in every takeover table that a crash
    /// would write: after a VP.FLUSH the module cannot tell that the state of a VCPU was lost, and
    /// the next kernel would adopt its TD. Nothing here does that.
    ///
    /// `keys` are the KeyIDs by TDR, of [`Entry::Td`](crate::takeover::Entry::Td): they are free
    /// when their TD is gone. The TDs with the TDRs `adopted` ([`TdHost::adopt`]) stay, with their
    /// pages. `back` gets each page.
    ///
    /// # SEAMCALL
    /// PHYMEM.PAGE.RDMD for each marked page of the host; VP.FLUSH on every CPU for each VCPU that
    /// it finds; MNG.VPFLUSHDONE, PHYMEM.CACHE.WB on each package, MNG.KEY.FREEID and
    /// PHYMEM.PAGE.RECLAIM for each TD. No VCPU runs.
    ///
    /// # Safety
    /// Nobody has the token of a marked page of this host
    /// ([`InFlightPage`](crate::page::InFlightPage), [`ReturnedPage`](crate::page::ReturnedPage)),
    /// nor a TD or a VCPU but those of the TDs in `adopted`, of which no call is under way. Nobody
    /// makes one until it returns, `back` included: after
    /// [`Host::take_over`](crate::Host::take_over), before the first new TD. `keys` names no KeyID
    /// but those of the table.
    pub unsafe fn vacuum<K: Cpus>(
        self,
        cpus: &K,
        keys: &(impl Iterator<Item = (Page, KeyId)> + Clone),
        adopted: &[Page],
        back: impl FnMut(SharedPage<'h>),
    ) -> Vacuumed {
        let mut vacuum = Vacuum { host: self, cpus, adopted, back, done: Vacuumed::default() };
        vacuum.settle();
        let mut failed = ArrayVec::new();
        while vacuum.one_walk(keys, &mut failed) {}
        vacuum.done.left = self.ledger.marked_pages();
        vacuum.done
    }
}

impl<'h, K: Cpus, B: FnMut(SharedPage<'h>)> Vacuum<'h, '_, K, B> {
    fn failed(&mut self, cause: impl Into<TdCause>) {
        let cause = cause.into();
        self.done.error.get_or_insert(cause);
    }

    fn got(&mut self, page: Result<SharedPage<'h>, PageError>) {
        match page {
            Ok(page) => {
                self.done.pages += page.size().pages();
                (self.back)(page);
            }
            Err(error) => self.failed(error.cause),
        }
    }

    fn held(&mut self, page: Page) -> Option<PageHeld> {
        match self.cpus.run_here(|cpu| page_held(cpu, page)) {
            Ok(held) => Some(held),
            Err(error) => {
                self.failed(error);
                None
            }
        }
    }

    /// Asks the module about each page of which the earlier kernel did not know whether the module
    /// has it, and about those that it took for the module's.
    fn settle(&mut self) {
        let ledger = self.host.ledger;
        for range in ledger.marked() {
            let mut at = range.start();
            while at < range.end() {
                let Some(held) = self.held(at) else {
                    at = after(at, PageSize::Size4K);
                    continue;
                };
                let is_free = held.page_type == PamtPageType::NDA;
                let next = after(at, held.size);
                let pages = PageRange::new(at, next.min(range.end()));
                for page in (pages.start().index()..pages.end().index()).map(Page::new) {
                    self.settle_page(page, is_free);
                }
                at = next;
            }
        }
    }

    fn settle_page(&mut self, page: Page, is_free: bool) {
        let ledger = self.host.ledger;
        let range = PageRange::new(page, after(page, PageSize::Size4K));
        // SAFETY: the module says that it has the page, or that it does not.
        let done = unsafe {
            match (ledger.state(page), is_free) {
                (Some(PageState::InFlight), false) => ledger.commit(range),
                (Some(PageState::InFlight), true) => ledger.abort(range),
                (Some(PageState::Private), true) => ledger.reclaim(range),
                _ => Ok(()),
            }
        };
        if let Err(error) = done {
            return self.failed(error);
        }
        if !is_free {
            return;
        }
        // SAFETY: a marked page that the module does not have; the earlier kernel has written back
        // the caches of every CPU, and the module has written to no page since.
        let count = self.cpus.run_here(|cpu| unsafe { reset_ranges(cpu, [range]) });
        if count.left > 0 {
            return self.failed(crate::ledger::MarkError::NotReset { page });
        }
        // SAFETY: reset and fenced.
        match unsafe { ledger.unmark(range) } {
            // SAFETY: nobody else has the page: it was marked until now.
            Ok(()) => match SharedPage::take(ledger, unsafe { OwnedPages::new(range) }) {
                Ok(page) => self.got(Ok(page)),
                Err(error) => self.failed(error.cause),
            },
            Err(error) => self.failed(error),
        }
    }

    /// Calls `found` for each page that the module has, by its size.
    fn walk(&mut self, mut found: impl FnMut(&mut Self, Page, PageHeld)) {
        let ledger = self.host.ledger;
        for range in ledger.marked() {
            let mut at = range.start();
            while at < range.end() {
                let held = match ledger.state(at) {
                    Some(PageState::Private) => self.held(at),
                    _ => None,
                };
                let size = held.map_or(PageSize::Size4K, |held| held.size);
                if let Some(held) = held {
                    found(self, at, held);
                }
                at = after(at, size);
            }
        }
    }

    /// One walk to find TDs, one to reclaim their pages. False if there was none.
    fn one_walk(
        &mut self,
        keys: &(impl Iterator<Item = (Page, KeyId)> + Clone),
        failed: &mut ArrayVec<Page, TDS_A_WALK>,
    ) -> bool {
        let mut tds: ArrayVec<Page, TDS_A_WALK> = ArrayVec::new();
        self.walk(|vacuum, page, held| {
            if held.tdr.is_some_and(|tdr| vacuum.adopted.contains(&tdr)) || vacuum.adopted.contains(&page) {
                return;
            }
            if held.page_type == PamtPageType::TDVPR {
                let error = FirstError::default();
                vacuum.cpus.run_on_all(&FlushVcpus { vcpus: &[page], error: &error });
                if let Some(error) = error.get() {
                    vacuum.failed(error);
                }
            }
            if held.page_type == PamtPageType::TDR && !failed.contains(&page) {
                // Those that find no room are of the next walk.
                let _ = tds.try_push(page);
            }
        });
        if tds.is_empty() {
            return false;
        }
        let host = self.host;
        tds.retain(|tdr| self.call(Leaf::MNG_VPFLUSHDONE, *tdr, failed));
        let error = FirstError::default();
        self.cpus.run_on_each_package(&WriteBackKeys { error: &error });
        if let Some(error) = error.get() {
            // Without it no KeyID can be freed.
            self.failed(error);
            return false;
        }
        tds.retain(|tdr| {
            let is_free = self.call(Leaf::MNG_KEY_FREEID, *tdr, failed);
            if is_free && let Some((_, key)) = keys.clone().find(|(td, _)| td == tdr) {
                host.key_ids.free_inherited(key);
            }
            is_free
        });
        self.walk(|vacuum, page, held| {
            let is_theirs = held.tdr.is_some_and(|tdr| tds.contains(&tdr));
            if is_theirs && held.page_type != PamtPageType::TDR {
                let page = vacuum.cpus.run_here(|cpu| {
                    let (page, _) = reclaim(host, cpu, page)?;
                    // SAFETY: a page of a TD whose KeyID was written back on every package and
                    // freed.
                    unsafe { clean_written(cpu, page) }
                });
                vacuum.got(page);
            }
        });
        for tdr in tds {
            let page = self.cpus.run_here(|cpu| {
                let (page, _) = reclaim(host, cpu, tdr)?;
                clean(host, cpu, page, host.platform.global_key_id())
            });
            match &page {
                Ok(_) => self.done.tds += 1,
                Err(_) => give_up(failed, tdr),
            }
            self.got(page);
        }
        !failed.is_full()
    }

    /// A call about a TD. False if it fails.
    fn call(&mut self, leaf: Leaf, tdr: Page, failed: &mut ArrayVec<Page, TDS_A_WALK>) -> bool {
        let input = Registers::call(leaf).rcx_address(tdr.start());
        // SAFETY: MNG.VPFLUSHDONE and MNG.KEY.FREEID move and write no page of the host; the module
        // refuses the first while a VCPU is not flushed, and caches are written back before the
        // second.
        let done: Result<Registers, SeamcallError> = self.cpus.run_here(|cpu| unsafe { call_unchecked(cpu, input) });
        match done {
            // Done by the earlier kernel already.
            Err(error) if error.status().code() == StatusCode::LIFECYCLE_STATE_INCORRECT => true,
            Err(error) => {
                self.failed(error);
                give_up(failed, tdr);
                false
            }
            Ok(_) => true,
        }
    }
}

/// It stays, with its pages.
fn give_up(failed: &mut ArrayVec<Page, TDS_A_WALK>, tdr: Page) {
    let _ = failed.try_push(tdr);
}

/// The page after the one of this size that has `page`.
fn after(page: Page, size: PageSize) -> Page {
    Page::new(page.index() / size.pages() * size.pages() + size.pages())
}
