use tdx_host::page::{ResetPass, ReturnedPage};
use tdx_host::platform::Cpu;

/// A cache may hold lines of the page under the TD's KeyID: they would land on top of the reset.
fn reset_before_write_back<C: Cpu>(cpu: &C, page: ReturnedPage<'_>) {
    let _ = ResetPass::new(cpu).reset(page);
}

fn main() {}
