#![forbid(unsafe_code)]

use tdx_abi::{PageRange, Registers};
use tdx_host::follow::{self, Moves};
use tdx_host::ledger::Ledger;

/// Registers of a call that was never made.
fn made_up(ledger: &Ledger<'_>, call: &Registers, answer: &Registers) {
    let moves = Moves::of(call, false).unwrap();
    let _ = moves.before(ledger);
    let _ = moves.after(ledger, answer);
}

/// A reset that was never done.
fn unmarked(ledger: &Ledger<'_>, private: PageRange) {
    let _ = follow::reset(ledger, private);
}

fn main() {}
