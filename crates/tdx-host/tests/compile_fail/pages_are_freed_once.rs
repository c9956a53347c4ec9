#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::layout::{FrameSource, Layout};
use tdx_host::platform::OwnedPages;

fn twice<F: FrameSource>(frames: &mut F, pages: OwnedPages) {
    frames.free(pages);
    frames.free(pages);
}

/// A page of somebody else.
fn by_number<F: FrameSource>(frames: &mut F, image: PageRange) {
    frames.free(image);
}

/// The places of a plan, which are numbers, as pages.
fn of_a_plan<F: FrameSource>(frames: &mut F, plan: &mut Layout) {
    let _ = plan.release(frames);
}

fn main() {}
