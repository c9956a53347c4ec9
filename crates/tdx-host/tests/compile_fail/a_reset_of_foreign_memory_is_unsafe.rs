#![forbid(unsafe_code)]

use tdx_abi::PageRange;
use tdx_host::platform::LineReset;
use tdx_host::reset::{NodeMap, ParallelReset, reset_ranges};

/// Zeros the kernel's own image.
fn by_ranges<C: LineReset>(cpu: &C, image: PageRange) {
    reset_ranges(cpu, [image]);
}

fn in_parallel<C: LineReset>(cpu: &C, image: PageRange) {
    ParallelReset::new([image], NodeMap::default()).run_alone(cpu);
}

fn by_lines<C: LineReset>(cpu: &C, image: PageRange) {
    cpu.reset_lines(image.lines());
}

fn main() {}
