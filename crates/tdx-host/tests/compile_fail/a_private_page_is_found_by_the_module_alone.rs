#![forbid(unsafe_code)]

use tdx_abi::{Page, PageSize};
use tdx_host::ledger::Ledger;
use tdx_host::page::{InFlightPage, PrivatePage, ReturnedPage};

/// A second token of a page of a TD.
fn found<'l>(ledger: &'l Ledger<'l>, page: Page) {
    let _ = PrivatePage::find(ledger, page, PageSize::Size4K);
}

/// The module still has it.
fn declared_returned(page: PrivatePage<'_>) {
    let _ = page.reclaim();
}

/// Nobody has asked the module.
fn declared_private(page: InFlightPage<'_>) {
    let _ = page.commit();
}

/// The module has taken it.
fn declared_refused(page: InFlightPage<'_>) {
    let _ = page.abort();
}

/// A cache holds lines of it under a private KeyID.
fn declared_written_back(page: ReturnedPage<'_>) {
    let _ = page.written_back();
}

fn main() {}
