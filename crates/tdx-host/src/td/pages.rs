//! The two ways of a page: to the module, and back. What is common to all SEAMCALLs that take or
//! return one.

use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, Registers, Status};

use super::TdHost;
use super::error::{PageError, TdCause};
use crate::page::{CleanPage, PrivatePage, ResetPass, ReturnedPage, SharedPage};
use crate::platform::Cpu;
use crate::seamcall::{SeamcallError, call};

/// Marks the page and makes the call. If the call fails, the page is treated as if the module had
/// written to it under `key`.
pub(super) fn give<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    page: SharedPage<'h>,
    key: KeyId,
    input: Registers,
) -> Result<Registers, PageError<'h>> {
    let giving = page.give(cpu).map_err(|error| PageError::untouched(error.page, error.cause))?;
    let range = giving.range();
    match call(cpu, input) {
        Ok(registers) => {
            // The ledger is the record from here on: the module names the page when it comes back.
            let _ = giving.taken().map_err(|error| PageError::leaked(range, error))?.entrust();
            Ok(registers)
        }
        Err(error) => {
            let returned = giving.refused().map_err(|error| PageError::leaked(range, error))?;
            if was_never_made(&error) {
                // No instruction, no private line: nothing to write back.
                return Err(recovered(cpu, returned.written_back(), error.into()));
            }
            match write_back(host, cpu, returned, key) {
                Ok(clean) => Err(recovered(cpu, clean, error.into())),
                Err(_) => Err(PageError::leaked(range, error)),
            }
        }
    }
}

/// The page is clean: resets it and puts it into the error.
fn recovered<'h, C: Cpu>(cpu: &C, page: CleanPage<'h>, cause: TdCause) -> PageError<'h> {
    let range = page.range();
    match ResetPass::new(cpu).reset(page) {
        Ok(page) => PageError { cause, page: Some(page), leaked: None },
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
pub(super) fn call_back<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    input: Registers,
    which: impl FnOnce(&Registers) -> (Page, PageSize),
) -> Result<ReturnedPage<'h>, PageError<'h>> {
    let returning = host.ledger.returning();
    match call(cpu, input) {
        Ok(registers) => {
            let (page, size) = which(&registers);
            let page = returned(host, page, size)?;
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
) -> Result<SharedPage<'h>, PageError<'h>> {
    let range = page.range();
    let clean = write_back(host, cpu, page, key).map_err(|error| PageError::leaked(range, error))?;
    ResetPass::new(cpu).reset(clean).map_err(|error| PageError::leaked(range, error))
}

/// Cleans a page whose KeyID was written back on every package and is free.
pub(super) fn clean_written<'h, C: Cpu>(cpu: &C, page: ReturnedPage<'h>) -> Result<SharedPage<'h>, PageError<'h>> {
    let range = page.range();
    ResetPass::new(cpu).reset(page.written_back()).map_err(|error| PageError::leaked(range, error))
}

/// The token of a page that the module names.
pub(super) fn returned(host: TdHost<'_>, page: Page, size: PageSize) -> Result<ReturnedPage<'_>, PageError<'_>> {
    let private = PrivatePage::find(host.ledger, page, size).map_err(PageError::without_page)?;
    let range = private.range();
    private.returned().map_err(|error| PageError::leaked(range, error))
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
        call(cpu, Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(host.tag(small, key)))?;
    }
    Ok(page.written_back())
}

fn pages_of(range: PageRange) -> impl Iterator<Item = Page> {
    (range.start().index()..range.end().index()).map(Page::new)
}

/// The page is of the size that an operation takes.
pub(super) fn check_size(page: SharedPage<'_>, expected: PageSize) -> Result<SharedPage<'_>, PageError<'_>> {
    match page.size() {
        given if given == expected => Ok(page),
        given => Err(PageError::untouched(page, TdCause::Size { expected, given })),
    }
}
