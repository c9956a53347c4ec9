#![forbid(unsafe_code)]

use tdx_host::gate::GateHandle;

/// A SEAMCALL after the reset makes PAMT private again.
fn reopened(gate: GateHandle<'_>) {
    gate.open();
}

fn main() {}
