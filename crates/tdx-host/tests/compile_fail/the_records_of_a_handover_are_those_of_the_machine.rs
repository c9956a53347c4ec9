#![forbid(unsafe_code)]

use tdx_host::gate::GateHandle;
use tdx_host::handover::HostMemory;
use tdx_host::ledger::Ledger;

/// A handover that looks at an empty ledger.
fn foreign_ledger<'h>(memory: HostMemory<'h>, empty: &'h Ledger<'h>) -> HostMemory<'h> {
    memory.with_ledger(Some(empty))
}

/// A handover that closes a gate which no CPU passes.
fn foreign_gate<'h>(memory: HostMemory<'h>, gate: GateHandle<'h>) -> HostMemory<'h> {
    memory.with_gate(gate)
}

fn main() {}
