//! Benchmarks for seamvisor: VM exits per second, and MOVDIR64B bandwidth in a loop and one by one.
//! MOVDIR64B is skipped on CPUs without it.

use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use metal::{clock, println};
use tdx_abi::{LINE_SIZE, LINES_PER_PAGE, Line, LineRange};
use tdx_host::arch;
use tdx_host::platform::LineReset;

use crate::cpu::HardwareCpu;

const EXITS: u64 = 20_000;
const LOOPS: u64 = 64;
const SINGLE: u64 = 5_000;
/// Address of unused memory on every machine that this kernel boots on.
const PLACE: u64 = 160 << 20;

fn rate(count: u64, micros: u64) -> u64 {
    count * 1_000_000 / micros.max(1)
}

/// Runs the benchmarks and prints the results.
pub fn run() {
    let start = clock::micros();
    for _ in 0..EXITS {
        black_box(__cpuid(0));
    }
    let exits = rate(EXITS, clock::micros() - start);
    println!("bench: {exits} CPUID per second");
    if __cpuid(7).ecx >> 28 & 1 == 0 {
        println!("bench: no MOVDIR64B");
        println!("@ {{\"event\":\"bench\",\"exits_per_second\":{exits}}}");
        return;
    }
    let lines = |page: u64, count: u64| {
        let first = PLACE / LINE_SIZE + page * LINES_PER_PAGE;
        LineRange::new(Line::new(first), Line::new(first + count))
    };
    let cpu = HardwareCpu::this();
    // `LineReset` of this kernel, 1 MiB at a time.
    let start = clock::micros();
    for index in 0..LOOPS {
        // SAFETY: as above.
        let left = unsafe { cpu.reset_lines(lines(256 * index, 256 * LINES_PER_PAGE)) };
        assert_eq!(left, 0, "all memory is mapped");
    }
    cpu.fence();
    let looped = rate(LOOPS << 20, clock::micros() - start);
    // One instruction for each exit, as for a loop that seamvisor does not recognize.
    let start = clock::micros();
    for _ in 0..SINGLE {
        // SAFETY: unused memory, and the CPU has MOVDIR64B.
        let left = unsafe { arch::movdir64b_zero(core::ptr::with_exposed_provenance_mut(PLACE as usize), 1) };
        assert_eq!(left, 0, "all memory is mapped");
    }
    let single = rate(SINGLE * LINE_SIZE, clock::micros() - start);
    println!("bench: MOVDIR64B {looped} bytes per second in a loop, {single} one by one");
    println!(
        "@ {{\"event\":\"bench\",\"exits_per_second\":{exits},\"movdir64b_loop_bytes_per_second\":{looped},\"movdir64b_single_bytes_per_second\":{single}}}"
    );
}
