//! The ledger of private pages on words that the caller provides: made, published, looked at.

use core::ffi::c_void;
use core::sync::atomic::AtomicU64;
use tdx_abi::{PageRange, PhysAddr};
use tdx_host::HostError;
use tdx_host::layout::{Layout, Tdmr};
use tdx_host::ledger::{Ledger, PageState};

use crate::c_enum::c_enum;
use crate::error::{Details, TdxhError};
use crate::host::{Host, TdxhHost};
use crate::layout::TdxhLayout;
use crate::range::TdxhRange;
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{content, input_words, output};

c_enum! {
    /// State of a page.
    pub enum TdxhPageState as "tdxh_page_state" {
        /// Ordinary memory.
        Shared = 0, "TDXH_PAGE_SHARED";
        /// The module has it.
        Private = 1, "TDXH_PAGE_PRIVATE";
        /// The module has let go of it; its lines are not normal yet.
        Returned = 2, "TDXH_PAGE_RETURNED";
        /// The SEAMCALL that gives it has not come back.
        InFlight = 3, "TDXH_PAGE_IN_FLIGHT";
        /// It lies in no TDMR.
        Outside = 4, "TDXH_PAGE_OUTSIDE";
    }
}

impl From<PageState> for TdxhPageState {
    fn from(state: PageState) -> Self {
        match state {
            PageState::Shared => Self::Shared,
            PageState::Private => Self::Private,
            PageState::Returned => Self::Returned,
            PageState::InFlight => Self::InFlight,
        }
    }
}

/// A function that looks at ranges.
type VisitRange = Option<unsafe extern "C" fn(context: *mut c_void, range: *const TdxhRange) -> i32>;

/// Shows each range to C until it has seen enough.
///
/// # Safety
/// `visit` may be called with `context`.
unsafe fn walk(ranges: impl Iterator<Item = PageRange>, visit: VisitRange, context: *mut c_void) -> Outcome {
    let visit = visit.ok_or(TdxhResult::Null)?;
    for range in ranges {
        let range = TdxhRange::from(range);
        // SAFETY: by the contract of this function; the struct lives through the call.
        if unsafe { visit(context, &raw const range) } != 0 {
            return Err(TdxhResult::Stopped);
        }
    }
    Ok(())
}

fn ranges(layout: &Layout) -> impl Iterator<Item = PageRange> + Clone + '_ {
    layout.tdmrs().iter().map(Tdmr::range)
}

/// How many words a ledger needs. See the header.
///
/// # Safety
/// `layout` is storage as [`crate::Opaque`] wants it; `words` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_ledger_words(layout: *mut TdxhLayout, words: *mut u64) -> TdxhResult {
    let count = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        let layout = unsafe { content(layout) }?.take()?;
        let needed = Ledger::words_needed(ranges(layout.get()?));
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(words, needed) }
    };
    flat(count())
}

/// Makes a ledger and publishes it. See the header.
///
/// # Safety
/// `host` was initialized; the `word_count` words stay valid, and nothing else uses them, until
/// `tdxh_ledger_withdraw`. `error` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_ledger_init(
    host: *mut TdxhHost,
    words: *mut u64,
    word_count: usize,
    error: *mut TdxhError,
) -> TdxhResult {
    let init = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, arrays are as long as their counts say and the place for
        // details is null or can be written. `AtomicU64` has the size, alignment (on x86-64) and
        // valid values of `u64`, and nothing else uses the words.
        let (host, words, details) = unsafe {
            let words = input_words(words.cast::<AtomicU64>(), word_count)?;
            (Host::of(host)?, words, Details::new(error))
        };
        let layout = host.tdx.layout().ok_or(TdxhResult::NotInitialized)?;
        match host.tdx.follow(ranges(layout), words) {
            Ok(_) => Ok(()),
            Err(HostError::Ledger(error)) => Err(details.fill((&error).into(), &error)),
            Err(_) => Err(TdxhResult::LedgerInUse),
        }
    };
    flat(init())
}

/// Takes the ledger out of use. See the header.
///
/// # Safety
/// `host` was initialized. No other CPU is in a function of this library that uses the ledger.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_ledger_withdraw(host: *mut TdxhHost) -> TdxhResult {
    let withdraw = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled.
        let host = unsafe { Host::of(host) }?;
        let ledger = host.ledger().ok_or(TdxhResult::NoLedger)?;
        if host.tdx.pamt_ranges().next().is_some() && ledger.marked().next().is_some() {
            return Err(TdxhResult::LedgerInUse);
        }
        // SAFETY: no page is marked, or no memory is private; the rest is the contract of this
        // function.
        unsafe { host.tdx.withdraw_ledger() };
        Ok(())
    };
    flat(withdraw())
}

/// What the host knows of a page. See the header.
///
/// # Safety
/// `host` was initialized; `state` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_page_state(host: *mut TdxhHost, address: u64, state: *mut u32) -> TdxhResult {
    let look = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled.
        let ledger = unsafe { Host::of(host) }?.ledger().ok_or(TdxhResult::NoLedger)?;
        let found = ledger.state(PhysAddr::new(address).page()).map_or(TdxhPageState::Outside, Into::into);
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(state, found as u32) }
    };
    flat(look())
}

/// Walks the marked pages. See the header.
///
/// # Safety
/// `host` was initialized; `visit` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_walk_marked(
    host: *mut TdxhHost,
    visit: Option<unsafe extern "C" fn(context: *mut c_void, range: *const TdxhRange) -> i32>,
    context: *mut c_void,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.and_then(|host| {
        let ledger = host.ledger().ok_or(TdxhResult::NoLedger)?;
        // SAFETY: as the caller has promised, the visitor may be called with its context.
        unsafe { walk(ledger.marked(), visit, context) }
    }))
}

/// Walks all that may be private. See the header.
///
/// # Safety
/// As [`tdxh_walk_marked`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_walk_private(
    host: *mut TdxhHost,
    visit: Option<unsafe extern "C" fn(context: *mut c_void, range: *const TdxhRange) -> i32>,
    context: *mut c_void,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.and_then(|host| unsafe { walk(host.memory().private_ranges(), visit, context) }))
}
