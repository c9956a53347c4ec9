#![forbid(unsafe_code)]

use tdx_host::handover::{HostMemory, HostParts};
use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::Ledger;
use tdx_host::platform::TdxPlatform;
use tdx_host::td::TdHost;

/// A handover that looks at an empty ledger.
fn foreign_ledger<'h>(memory: &HostMemory<'h>, empty: &'h Ledger<'h>) -> HostMemory<'h> {
    HostMemory::new(HostParts { ledger: empty.into(), ..memory.parts() })
}

fn made_of_parts(memory: HostMemory<'_>) -> HostMemory<'_> {
    HostMemory(memory.parts())
}

/// TDs whose pages are in a ledger that no handover looks at.
fn foreign_tds<'h>(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> TdHost<'h> {
    TdHost::new(platform, ledger, key_ids)
}

fn main() {}
