#![forbid(unsafe_code)]

use tdx_abi::{Page, PageRange, Registers};
use tdx_host::follow::{self, Moves, PageRefs};
use tdx_host::ledger::Ledger;

/// Registers of a call that was never made.
fn made_up(ledger: &Ledger<'_>, call: &Registers, answer: &Registers, refs: &impl PageRefs) {
    let moves = Moves::of(call, false).unwrap();
    let _ = moves.before(ledger, refs);
    let _ = moves.after(ledger, answer);
}

/// A reset that was never done.
fn unmarked(ledger: &Ledger<'_>, private: PageRange, refs: &impl PageRefs) {
    let _ = follow::reset(ledger, private, refs);
}

/// A reference that was never taken.
fn freed(page: Page, refs: &impl PageRefs) {
    refs.release(page);
}

/// An allocator that hands out pages that are held.
struct Forgetful;

impl PageRefs for Forgetful {
    fn hold(&self, _page: Page) -> bool {
        true
    }

    unsafe fn release(&self, _page: Page) {}
}

fn main() {}
