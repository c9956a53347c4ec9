#![forbid(unsafe_code)]

use tdx_host::ledger::Ledger;
use tdx_host::page::SharedPage;
use tdx_host::platform::OwnedPages;

fn taken_twice<'l>(ledger: &'l Ledger<'l>, page: OwnedPages) {
    let _first = SharedPage::take(ledger, page);
    let _second = SharedPage::take(ledger, page);
}

fn copied(page: &OwnedPages) -> OwnedPages {
    page.clone()
}

fn main() {}
