#![forbid(unsafe_code)]

use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::Ledger;
use tdx_host::platform::TdxPlatform;
use tdx_host::td::TdHost;

/// TDs whose pages are in a ledger that no handover looks at.
fn foreign_tds<'h>(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> TdHost<'h> {
    TdHost::new(platform, ledger, key_ids)
}

fn main() {}
