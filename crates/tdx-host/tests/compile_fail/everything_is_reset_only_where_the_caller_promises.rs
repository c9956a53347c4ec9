#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::handover::{Kexec, StopCpus, WrittenBack};

/// The kernel's own image and the next one.
fn the_image<P: StopCpus>(kexec: Kexec<'_, WrittenBack<'_, P>>, image: PageRange) {
    let _ = kexec.reset_everything([image]);
}

fn main() {}
