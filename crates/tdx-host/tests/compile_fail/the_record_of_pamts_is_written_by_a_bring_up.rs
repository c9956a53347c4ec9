#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::private_memory::PrivateMemory;

/// A handover overwrites what is published.
fn published(record: &PrivateMemory, image: PageRange) {
    let _ = record.publish([image].into_iter());
}

/// A handover does not reset what is withdrawn.
fn withdrawn(record: &PrivateMemory) {
    record.withdraw();
}

fn main() {}
