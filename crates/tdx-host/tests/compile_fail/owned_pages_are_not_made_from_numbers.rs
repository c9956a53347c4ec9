#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::platform::OwnedPages;

/// Any page by its number.
fn made(image: PageRange) -> OwnedPages {
    OwnedPages { range: image }
}

fn main() {}
