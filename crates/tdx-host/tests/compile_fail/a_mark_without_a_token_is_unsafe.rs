#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::ledger::Ledger;

/// A page in use that is marked is overwritten by the next handover.
fn marks(ledger: &Ledger<'_>, image: PageRange) {
    let _ = ledger.give(image);
    let _ = ledger.give_again(image);
}

/// A page that is not private in the ledger is not reset.
fn unmarks(ledger: &Ledger<'_>, private: PageRange) {
    let _ = ledger.commit(private);
    let _ = ledger.abort(private);
    let _ = ledger.reclaim(private);
    let _ = ledger.unmark(private);
}

fn main() {}
