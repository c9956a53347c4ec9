#![forbid(unsafe_code)]

use tdx_host::gate::GateHandle;
use tdx_host::handover::HostMemory;
use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::Ledger;
use tdx_host::platform::TdxPlatform;
use tdx_host::td::TdHost;

/// A handover that looks at an empty ledger.
fn foreign_ledger<'h>(memory: HostMemory<'h>, empty: &'h Ledger<'h>) -> HostMemory<'h> {
    memory.with_ledger(Some(empty))
}

/// A handover that closes a gate which no CPU passes.
fn foreign_gate<'h>(memory: HostMemory<'h>, gate: GateHandle<'h>) -> HostMemory<'h> {
    memory.with_gate(gate)
}

/// TDs whose pages are in a ledger that no handover looks at.
fn foreign_tds<'h>(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> TdHost<'h> {
    TdHost::new(platform, ledger, key_ids)
}

fn main() {}
