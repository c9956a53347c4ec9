#![forbid(unsafe_code)]

use tdx_abi::Page;
use tdx_host::td::Vcpu;

/// The VCPU of another TD: its pages would be cleaned under the wrong key.
fn forged(tdr: Page, tdvpr: Page) -> Vcpu {
    Vcpu { td: 0, tdr, tdvpr, associated: None }
}

fn main() {}
