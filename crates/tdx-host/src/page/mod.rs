//! Pages of the host as values with one owner: what may be done with a page is what its state
//! allows. A private page becomes shared again by the reset pass alone.
//!
//! ```text
//! OwnedPages --take--> SharedPage --give--> InFlightPage --commit--> PrivatePage --reclaim--> ReturnedPage
//!     ^                  |   ^                   \------ abort ------------------------------>  |
//!     \---- release -----/   |                                                                 | written_back (PAGE.WBINVD, CACHE.WB)
//!                            \--------------- ResetPass: MOVDIR64B, fence, unmark ----- CleanPage
//! ```
//!
//! Each arrow takes the value before it. The ledger is changed by the same call, so that what a
//! crash finds there is never less than what the tokens say. Dropping a token of a marked page is a
//! leak on purpose: the page stays marked, is counted ([`Ledger::leaked_pages`]), and the next
//! handover resets it.
//!
//! A page has one token. It enters as [`OwnedPages`], which cannot be copied; the promise that it
//! is the caller's is made where that value is made. A private page has no token while its TD lives
//! ([`PrivatePage::into_tracked`]): the ledger and the module know it.
//!
//! # Example
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! # let tds = tdx.track(kernel::words(tdx.tracking_words()))?;
//! use tdx_host::ledger::PageState;
//! use tdx_host::{FrameSource, SharedPage};
//!
//! let free = kernel.allocate_any(1).expect("memory is free");
//! let ledger = tds.ledger();
//! let page = SharedPage::take(ledger, free)?; // `free` is gone: the page has one owner
//! let number = page.page();
//! let in_flight = page.give(&kernel.cpu())?;
//! assert_eq!(ledger.state(number), Some(PageState::InFlight));
//!
//! // Dropping a marked page is a leak: counted, and the page stays marked for the handover.
//! drop(in_flight);
//! assert_eq!((ledger.leaked_pages(), ledger.marked_pages()), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Out of order it does not compile:
//!
//! ```compile_fail,E0382
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! # let tds = tdx.track(kernel::words(tdx.tracking_words()))?;
//! # let ledger = tds.ledger();
//! # use tdx_host::{FrameSource, SharedPage};
//! # let free = kernel.allocate_any(1).expect("memory is free");
//! let page = SharedPage::take(ledger, free)?;
//! let in_flight = page.give(&kernel.cpu())?;
//! kernel.free(page.release()); // the module may have it
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod reset_pass;

use core::fmt;
use core::marker::PhantomData;
use core::mem;
use tdx_abi::{Page, PageRange, PageSize};

use crate::ledger::{Ledger, MarkError, PageState};
use crate::platform::{Cpu, OwnedPages};

pub use reset_pass::{BATCH, ResetPass};

/// A state of a token.
pub trait TokenState: fmt::Debug {
    /// The page is marked: dropping its token leaks it.
    const MARKED: bool;
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident: $marked:literal, $(#[$alias_doc:meta])* $alias:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl TokenState for $name {
            const MARKED: bool = $marked;
        }
        $(#[$alias_doc])*
        pub type $alias<'l> = PageToken<'l, $name>;
    )*};
}

states! {
    /// Ordinary memory that the holder owns.
    Shared: false,
    /// A page that may be given to the module or back to the allocator.
    SharedPage;
    /// Marked; the SEAMCALL has not returned.
    InFlight: true,
    /// A page between its mark and the answer of the module.
    InFlightPage;
    /// The module has it.
    Private: true,
    /// A page that the module has taken.
    PrivatePage;
    /// The module has returned it or refused it; caches may hold its lines under a private KeyID.
    Returned: true,
    /// A page that the module does not have and that is not safe to use.
    ReturnedPage;
    /// As [`Returned`], and no cache holds a private line of it.
    Clean: true,
    /// A page that may be reset.
    CleanPage;
}

/// A page of 4 KiB, 2 MiB or 1 GiB in state `S`.
#[derive(Debug)]
#[must_use = "dropping a page loses it, and leaks it if it is private"]
pub struct PageToken<'l, S: TokenState> {
    ledger: &'l Ledger<'l>,
    page: Page,
    size: PageSize,
    state: PhantomData<S>,
}

/// Why there is no token for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// A page begins at a multiple of its size.
    #[error("{page} is not the beginning of a page of {} bytes", .size.bytes())]
    Misaligned {
        /// The page.
        page: Page,
        /// The size.
        size: PageSize,
    },
    /// A token covers one page of 4 KiB, 2 MiB or 1 GiB.
    #[error("{range} is not one page of 4 KiB, 2 MiB or 1 GiB")]
    NotOnePage {
        /// The range.
        range: PageRange,
    },
    /// The ledger says otherwise.
    #[error("{0}")]
    Ledger(#[from] MarkError),
}

/// Pages did not become a token. Nothing has changed, and the pages are still the caller's.
#[derive(PartialEq, Eq, Debug)]
pub struct TakeError {
    /// The pages.
    pub pages: OwnedPages,
    /// Why.
    pub cause: TokenError,
}

/// A page could not be given. Nothing has changed, and the page is still the caller's.
#[derive(PartialEq, Eq, Debug)]
pub struct GiveError {
    /// The page.
    pub page: OwnedPages,
    /// Why.
    pub cause: MarkError,
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl core::error::Error for TakeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl fmt::Display for GiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page not given: {}", self.cause)
    }
}

impl core::error::Error for GiveError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl<'l, S: TokenState> PageToken<'l, S> {
    fn new(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Self {
        Self { ledger, page, size, state: PhantomData }
    }

    /// The same page in another state, which the ledger shows already.
    fn become_<T: TokenState>(self) -> PageToken<'l, T> {
        let next = PageToken::new(self.ledger, self.page, self.size);
        mem::forget(self);
        next
    }

    /// First 4 KiB page.
    pub fn page(&self) -> Page {
        self.page
    }

    /// Its size.
    pub fn size(&self) -> PageSize {
        self.size
    }

    /// All its 4 KiB pages.
    pub fn range(&self) -> PageRange {
        range_of(self.page, self.size)
    }

    /// The ledger that knows it.
    pub fn ledger(&self) -> &'l Ledger<'l> {
        self.ledger
    }
}

fn range_of(page: Page, size: PageSize) -> PageRange {
    PageRange::new(page, Page::new(page.index().wrapping_add(size.pages())))
}

fn check_aligned(page: Page, size: PageSize) -> Result<(), TokenError> {
    if page.index().is_multiple_of(size.pages()) { Ok(()) } else { Err(TokenError::Misaligned { page, size }) }
}

impl<'l> SharedPage<'l> {
    /// Makes a token of owned pages: one page of 4 KiB, 2 MiB or 1 GiB.
    ///
    /// # Errors
    /// [`TakeError`] with the pages: not one page, misaligned, outside every TDMR, reserved for the
    /// crash kernel, or marked.
    pub fn take(ledger: &'l Ledger<'l>, pages: OwnedPages) -> Result<Self, TakeError> {
        let range = pages.range();
        let check = || {
            let size = PageSize::ALL.into_iter().find(|size| size.pages() == range.pages());
            let size = size.ok_or(TokenError::NotOnePage { range })?;
            check_aligned(range.start(), size)?;
            ledger.check(range, PageState::Shared)?;
            Ok(size)
        };
        match check() {
            Ok(size) => Ok(Self::new(ledger, range.start(), size)),
            Err(cause) => Err(TakeError { pages, cause }),
        }
    }

    /// Writes back the host's own lines of the page, then marks it. On return the SEAMCALL that
    /// takes it may be made.
    ///
    /// # Errors
    /// [`GiveError`] with the page.
    pub fn give<C: Cpu>(self, cpu: &C) -> Result<InFlightPage<'l>, GiveError> {
        // A dirty line of the host that is evicted later would land on the module's data.
        // SAFETY: a token covers RAM that its holder owns.
        unsafe { cpu.flush_lines(self.range().lines()) };
        cpu.fence();
        // SAFETY: the token is the only owner of the page.
        match unsafe { self.ledger.give(self.range()) } {
            Ok(()) => Ok(self.become_()),
            Err(cause) => Err(GiveError { page: self.release(), cause }),
        }
    }

    /// Ordinary memory again, for the allocator.
    pub fn release(self) -> OwnedPages {
        let range = self.range();
        mem::forget(self);
        // SAFETY: the token came from owned pages, or the reset pass has made them normal memory
        // again, and it ends here.
        unsafe { OwnedPages::new(range) }
    }
}

impl<'l> InFlightPage<'l> {
    /// The SEAMCALL has succeeded.
    ///
    /// # Errors
    /// The ledger was changed by someone else; the page is leaked.
    ///
    /// # Safety
    /// As [`Ledger::commit`].
    pub unsafe fn commit(self) -> Result<PrivatePage<'l>, MarkError> {
        // SAFETY: the caller's promise.
        unsafe { self.ledger.commit(self.range())? };
        Ok(self.become_())
    }

    /// The SEAMCALL has failed. It may have written to the page.
    ///
    /// # Errors
    /// As [`InFlightPage::commit`].
    ///
    /// # Safety
    /// As [`Ledger::abort`].
    pub unsafe fn abort(self) -> Result<ReturnedPage<'l>, MarkError> {
        // SAFETY: the caller's promise.
        unsafe { self.ledger.abort(self.range())? };
        Ok(self.become_())
    }
}

impl<'l> PrivatePage<'l> {
    /// The token of a page that is [tracked](Self::into_tracked), when the module names it again.
    ///
    /// # Errors
    /// [`TokenError`]: misaligned, or not private.
    ///
    /// # Safety
    /// The page has no other token: a SEAMCALL that has just succeeded has returned it.
    pub unsafe fn find(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Result<Self, TokenError> {
        check_aligned(page, size)?;
        ledger.check(range_of(page, size), PageState::Private)?;
        Ok(Self::new(ledger, page, size))
    }

    /// Ends the token without a leak: the page belongs to a TD that will be torn down, and the
    /// ledger tracks it.
    pub fn into_tracked(self) -> PageRange {
        let range = self.range();
        mem::forget(self);
        range
    }

    /// The module has returned the page.
    ///
    /// # Errors
    /// The ledger was changed by someone else; the page is leaked.
    ///
    /// # Safety
    /// As [`Ledger::reclaim`].
    pub unsafe fn reclaim(self) -> Result<ReturnedPage<'l>, MarkError> {
        // SAFETY: the caller's promise.
        unsafe { self.ledger.reclaim(self.range())? };
        Ok(self.become_())
    }
}

impl<'l> ReturnedPage<'l> {
    /// The page may be reset.
    ///
    /// # Safety
    /// No cache of any CPU holds a line of this page under a private KeyID any more (after
    /// PHYMEM.PAGE.WBINVD or PHYMEM.CACHE.WB), and the module does not have it.
    pub unsafe fn written_back(self) -> CleanPage<'l> {
        self.become_()
    }
}

impl<S: TokenState> Drop for PageToken<'_, S> {
    fn drop(&mut self) {
        if S::MARKED {
            self.ledger.leak(self.size.pages());
        }
    }
}
