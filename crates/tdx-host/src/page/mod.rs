//! Pages of the host as values: who holds one may do with it what its state allows, and nothing
//! else. It refuses to make a page shared again by any way but the reset pass, and to forget a
//! private one silently.
//!
//! ```text
//! SharedPage --give--> GivingPage --taken----> PrivatePage --returned--> ReturnedPage
//!     ^                     \---- refused ------------------------------->  |
//!     |                                                                     | written_back (PAGE.WBINVD, CACHE.WB)
//!     \---------------- ResetPass: MOVDIR64B, fence, clear ------------ CleanPage
//! ```
//!
//! Each arrow takes the value before it. The ledger is changed by the same call, so that what a
//! crash finds there is never less than what the tokens say. Dropping a token of a marked page is a
//! leak on purpose: the page stays marked, is counted ([`Ledger::leaked_pages`]), and the next
//! handover resets it.
//!
//! A token is proof of custody, not of uniqueness: two tokens can be made for one page, but of two
//! that are used the ledger refuses the second.
//!
//! # Example
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use tdx_host::{bringup, layout::{Algorithm, Layout}, platform::detect, private_memory::PrivateMemory};
//! # let hardware = kernel::Hardware::new();
//! # let platform = detect(&hardware)?;
//! # let record = <PrivateMemory>::new();
//! # let mut layout = Box::new(Layout::new());
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY, Algorithm::Fit)?;
//! # use tdx_host::ledger::{Ledger, PageState};
//! # let words = kernel::words(Ledger::words_needed(kernel::tdmrs(&layout)));
//! # let ledger = Ledger::new(kernel::tdmrs(&layout), &words)?;
//! use tdx_abi::PageSize;
//! use tdx_host::layout::FrameSource;
//! use tdx_host::page::{PrivatePage, SharedPage};
//!
//! let free = kernel.allocate_any(1).expect("memory is free");
//! let page = SharedPage::take(&ledger, free.start(), PageSize::Size4K)?;
//! let giving = page.give(&kernel.cpu()).unwrap(); // `page` is gone: it cannot be used any more
//! // ... here comes the SEAMCALL, and it succeeds ...
//! let private = giving.taken()?;
//! assert_eq!(ledger.state(free.start()), Some(PageState::Given));
//!
//! // A page of a TD is found again by the name that the module gives it, so nobody needs to keep its token.
//! private.entrust();
//! let again = PrivatePage::find(&ledger, free.start(), PageSize::Size4K)?;
//!
//! // Dropping a private page is a leak: counted, and the page stays marked for the handover.
//! drop(again);
//! assert_eq!((ledger.leaked_pages(), ledger.marked_pages()), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Out of order it does not compile:
//!
//! ```compile_fail,E0382
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use tdx_host::{bringup, layout::{Algorithm, Layout}, platform::detect, private_memory::PrivateMemory};
//! # let hardware = kernel::Hardware::new();
//! # let platform = detect(&hardware)?;
//! # let record = <PrivateMemory>::new();
//! # let mut layout = Box::new(Layout::new());
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY, Algorithm::Fit)?;
//! # use tdx_host::ledger::{Ledger, PageState};
//! # let words = kernel::words(Ledger::words_needed(kernel::tdmrs(&layout)));
//! # let ledger = Ledger::new(kernel::tdmrs(&layout), &words)?;
//! # use tdx_abi::PageSize;
//! # use tdx_host::{layout::FrameSource, page::SharedPage};
//! # let free = kernel.allocate_any(1).expect("memory is free");
//! let page = SharedPage::take(&ledger, free.start(), PageSize::Size4K)?;
//! let giving = page.give(&kernel.cpu()).unwrap();
//! kernel.free(page.release()); // the module may have it
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod reset_pass;

use core::fmt;
use core::marker::PhantomData;
use core::mem;
use tdx_abi::{Page, PageRange, PageSize};

use crate::ledger::{Ledger, MarkError, PageState};
use crate::platform::Cpu;

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
    /// Ordinary memory that the caller has taken out of its allocator.
    Shared: false,
    /// A page that may be given to the module or back to the allocator.
    SharedPage;
    /// Marked; the SEAMCALL has not come back.
    Giving: true,
    /// A page between its mark and the answer of the module.
    GivingPage;
    /// The module has it.
    Private: true,
    /// A page that the module has taken.
    PrivatePage;
    /// The module has let go of it or refused it; caches may hold its lines under a private KeyID.
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
    /// The ledger says otherwise.
    #[error("{0}")]
    Ledger(#[from] MarkError),
}

/// A page could not be given. Nothing has changed, and the page is still the caller's.
#[derive(Debug)]
pub struct GiveError<'l> {
    /// The page.
    pub page: SharedPage<'l>,
    /// Why.
    pub cause: MarkError,
}

impl fmt::Display for GiveError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page not given: {}", self.cause)
    }
}

impl core::error::Error for GiveError<'_> {}

impl<'l, S: TokenState> PageToken<'l, S> {
    fn new(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Self {
        Self { ledger, page, size, state: PhantomData }
    }

    /// The same page in another state; the ledger has been told.
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
    /// Takes a page into custody. The caller owns it: it came from its allocator, and nothing else
    /// uses it.
    ///
    /// # Errors
    /// [`TokenError`]: misaligned, outside every TDMR, the crash kernel's, or marked.
    pub fn take(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Result<Self, TokenError> {
        check_aligned(page, size)?;
        ledger.check(range_of(page, size), PageState::Shared)?;
        Ok(Self::new(ledger, page, size))
    }

    /// Writes back the host's own lines of the page, then marks it. On return the SEAMCALL that
    /// takes it may be made.
    ///
    /// # Errors
    /// [`GiveError`] with the page.
    pub fn give<C: Cpu>(self, cpu: &C) -> Result<GivingPage<'l>, GiveError<'l>> {
        // A dirty line of the host that is evicted later would land on the module's data.
        cpu.flush_lines(self.range().lines());
        cpu.fence();
        match self.ledger.give(self.range()) {
            Ok(()) => Ok(self.become_()),
            Err(cause) => Err(GiveError { page: self, cause }),
        }
    }

    /// Back to the allocator.
    pub fn release(self) -> PageRange {
        self.range()
    }
}

impl<'l> GivingPage<'l> {
    /// The SEAMCALL has succeeded.
    ///
    /// # Errors
    /// The ledger was changed by someone else; the page is leaked.
    pub fn taken(self) -> Result<PrivatePage<'l>, MarkError> {
        self.ledger.given(self.range())?;
        Ok(self.become_())
    }

    /// The SEAMCALL has failed. It may have written to the page all the same.
    ///
    /// # Errors
    /// As [`GivingPage::taken`].
    pub fn refused(self) -> Result<ReturnedPage<'l>, MarkError> {
        self.ledger.refused(self.range())?;
        Ok(self.become_())
    }
}

impl<'l> PrivatePage<'l> {
    /// The token of a page that was [entrusted](Self::entrust), when the module names it again.
    ///
    /// # Errors
    /// [`TokenError`]: misaligned, or not given.
    pub fn find(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Result<Self, TokenError> {
        check_aligned(page, size)?;
        ledger.check(range_of(page, size), PageState::Given)?;
        Ok(Self::new(ledger, page, size))
    }

    /// Ends the token without a leak: the page belongs to a TD that is known and will be torn down.
    pub fn entrust(self) -> PageRange {
        let range = self.range();
        mem::forget(self);
        range
    }

    /// The module has let go of the page.
    ///
    /// # Errors
    /// The ledger was changed by someone else; the page is leaked.
    pub fn returned(self) -> Result<ReturnedPage<'l>, MarkError> {
        self.ledger.take_back(self.range())?;
        Ok(self.become_())
    }
}

impl<'l> ReturnedPage<'l> {
    /// No cache of any CPU holds a line of this page under a private KeyID any more. Only this
    /// crate says so, after PHYMEM.PAGE.WBINVD or PHYMEM.CACHE.WB.
    pub(crate) fn written_back(self) -> CleanPage<'l> {
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
