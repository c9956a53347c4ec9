//! The two ways of a page: to the module, and back. What is common to all SEAMCALLs that take or
//! return one.

use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, Registers, Status};

use super::TdHost;
use super::error::{PageError, TdCause};
use crate::page::{CleanPage, PrivatePage, ResetPass, ReturnedPage, SharedPage};
use crate::platform::Cpu;
use crate::seamcall::{SeamcallError, call_unchecked};

/// Marks the page and makes the call. If the call fails, the page is treated as if the module had
/// written to it under `key`.
///
/// # Safety
/// The call takes this page and no other, under `key` if it writes to it, and is else as
/// [`call_unchecked`] wants it.
pub(super) unsafe fn give<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    page: SharedPage<'h>,
    key: KeyId,
    input: Registers,
) -> Result<Registers, PageError> {
    if !core::ptr::eq(page.ledger(), host.ledger) {
        // A mark in another ledger is one that no handover of this machine sees.
        let cause = TdCause::Foreign { page: page.page(), what: "another ledger" };
        return Err(PageError::unchanged(page, cause));
    }
    let in_flight = page.give(cpu).map_err(|error| PageError {
        cause: error.cause.into(),
        page: Some(error.page),
        leaked: None,
    })?;
    let range = in_flight.range();
    // SAFETY: the caller's promise; the page is owned and marked.
    match unsafe { call_unchecked(cpu, input) } {
        Ok(registers) => {
            // The ledger is the record from here on: the module names the page when it returns it.
            // SAFETY: the call has succeeded.
            let _ = unsafe { in_flight.commit() }.map_err(|error| PageError::leaked(range, error))?.into_tracked();
            Ok(registers)
        }
        Err(error) => {
            // SAFETY: the call has failed, so the module does not have the page.
            let returned = unsafe { in_flight.abort() }.map_err(|error| PageError::leaked(range, error))?;
            if was_never_made(&error) {
                // SAFETY: no instruction, no private line: nothing to write back.
                return Err(recovered(cpu, unsafe { returned.written_back() }, error.into()));
            }
            match write_back(host, cpu, returned, key) {
                Ok(clean) => Err(recovered(cpu, clean, error.into())),
                Err(_) => Err(PageError::leaked(range, error)),
            }
        }
    }
}

/// The page is clean: resets it and puts it into the error.
fn recovered<C: Cpu>(cpu: &C, page: CleanPage<'_>, cause: TdCause) -> PageError {
    let range = page.range();
    match ResetPass::new(cpu).reset(page) {
        Ok(page) => PageError { cause, page: Some(page.release()), leaked: None },
        Err(error) => PageError::leaked(range, error),
    }
}

/// The gate refused the first attempt already.
fn was_never_made(error: &SeamcallError) -> bool {
    error.attempts == 1 && error.status() == Status::GATE_CLOSED
}

/// Makes a call that returns a page, and enters the answer into the ledger. `which` reads the page
/// out of the answer.
///
/// Between the two the page looks given although the module does not know it any more:
/// [`Ledger::returning`] says so.
///
/// [`Ledger::returning`]: crate::ledger::Ledger::returning
///
/// # Safety
/// The call returns the page that `which` reads, and no other.
pub(super) unsafe fn call_back<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    input: Registers,
    which: impl FnOnce(&Registers) -> (Page, PageSize),
) -> Result<ReturnedPage<'h>, PageError> {
    let returning = host.ledger.returning();
    // SAFETY: the page that it returns stays marked until its reset.
    match unsafe { call_unchecked(cpu, input) } {
        Ok(registers) => {
            let (page, size) = which(&registers);
            // SAFETY: the call has succeeded.
            let page = unsafe { returned(host, page, size) }?;
            returning.settled();
            Ok(page)
        }
        Err(error) => {
            returning.settled();
            Err(PageError::without_page(error))
        }
    }
}

/// Cleans a page whose KeyID lives.
pub(super) fn clean<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    page: ReturnedPage<'h>,
    key: KeyId,
) -> Result<SharedPage<'h>, PageError> {
    let range = page.range();
    let clean = write_back(host, cpu, page, key).map_err(|error| PageError::leaked(range, error))?;
    ResetPass::new(cpu).reset(clean).map_err(|error| PageError::leaked(range, error))
}

/// Cleans a page whose KeyID was written back on every package and is free.
///
/// # Safety
/// As [`ReturnedPage::written_back`].
pub(super) unsafe fn clean_written<'h, C: Cpu>(cpu: &C, page: ReturnedPage<'h>) -> Result<SharedPage<'h>, PageError> {
    let range = page.range();
    // SAFETY: the caller's promise.
    ResetPass::new(cpu).reset(unsafe { page.written_back() }).map_err(|error| PageError::leaked(range, error))
}

/// The token of a page that the module names.
///
/// # Safety
/// A SEAMCALL that has just succeeded has returned the page.
pub(super) unsafe fn returned(host: TdHost<'_>, page: Page, size: PageSize) -> Result<ReturnedPage<'_>, PageError> {
    // SAFETY: the caller's promise, here and below.
    let private = unsafe { PrivatePage::find(host.ledger, page, size) }.map_err(PageError::without_page)?;
    let range = private.range();
    // SAFETY: as above.
    unsafe { private.reclaim() }.map_err(|error| PageError::leaked(range, error))
}

/// PHYMEM.PAGE.WBINVD of every 4 KiB page: no cache holds a line of it under `key` any more. If one
/// call fails the token is dropped, which leaks the page.
fn write_back<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    page: ReturnedPage<'h>,
    key: KeyId,
) -> Result<CleanPage<'h>, SeamcallError> {
    for small in pages_of(page.range()) {
        // SAFETY: PHYMEM.PAGE.WBINVD moves no page and writes none but by lines that were its own.
        unsafe { call_unchecked(cpu, Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(host.tag(small, key)))? };
    }
    // SAFETY: `key` is the only private one under which the module has used the page.
    Ok(unsafe { page.written_back() })
}

fn pages_of(range: PageRange) -> impl Iterator<Item = Page> {
    (range.start().index()..range.end().index()).map(Page::new)
}

/// The page is of the size that an operation takes.
pub(super) fn check_size(page: SharedPage<'_>, expected: PageSize) -> Result<SharedPage<'_>, PageError> {
    match page.size() {
        given if given == expected => Ok(page),
        given => Err(PageError::unchanged(page, TdCause::Size { expected, given })),
    }
}
