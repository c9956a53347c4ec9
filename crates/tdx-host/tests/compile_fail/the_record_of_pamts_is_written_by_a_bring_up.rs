#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::Host;
use tdx_host::handover::HostMemory;

/// A handover overwrites what is published.
fn published(host: &Host<'_>, image: PageRange) {
    let _ = host.observe_pamts([image].into_iter());
}

/// A handover does not reset what is left out.
fn left_out(memory: HostMemory<'_>) -> HostMemory<'_> {
    memory.without_pamts()
}

fn main() {}
