//! The reset loop against the best streaming-store loop of the same machine, in the same run.
//!
//! Runs `tdx_host::arch::movdir64b_zero` where the CPU has MOVDIR64B. Where it has not, a loop of
//! the same shape with one 64-byte (AVX-512) non-temporal store per line stands in for it, and the
//! output says so. The product never does that: a non-temporal store does not clear poison. By one
//! thread and by one for each CPU (eight at most), each in memory of its own. Figures are ratios
//! within a run; machines are noisy.
//!
//! Output: a table, and JSON in `target/bench/reset.json`.

// UNSAFETY: measures store instructions on memory of its own; nothing else of the workspace uses
// this file.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
fn main() {
    x86::main();
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("skipped: this benchmark is about x86-64 instructions");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::sync::Barrier;
    use std::thread;
    use std::time::Instant;

    /// Bytes that a thread writes in one pass: far more than any cache.
    const BYTES: usize = 1 << 30;
    const LINES: u64 = BYTES as u64 / 64;
    const ROUNDS: usize = 7;

    /// A 64-byte aligned buffer, written once so that every page is there.
    struct Buffer(Vec<u8>);

    impl Buffer {
        fn new() -> Self {
            Self(vec![0xa5; BYTES + 64])
        }

        fn start(&mut self) -> *mut u8 {
            let offset = self.0.as_ptr().align_offset(64);
            self.0[offset..].as_mut_ptr()
        }
    }

    /// The product's loop, or its stand-in of the same shape. `lines` lines from `start` on.
    fn line_loop(movdir64b: bool, start: *mut u8, lines: u64) {
        if movdir64b {
            // SAFETY: the CPU has the instruction; the caller's range lies in the buffer, which is
            // ordinary memory.
            let left = unsafe { tdx_host::arch::movdir64b_zero(start, lines) };
            assert_eq!(left, 0, "the memory is mapped");
        } else {
            // SAFETY: the CPU has AVX-512 (checked in `main`); the range lies in the buffer and is
            // 64-byte aligned.
            unsafe {
                asm!(
                    "vpxorq zmm0, zmm0, zmm0",
                    "2: vmovntdq [{at}], zmm0",
                    "add {at}, 64",
                    "dec {left}",
                    "jne 2b",
                    at = inout(reg) start => _,
                    left = inout(reg) lines => _,
                    out("zmm0") _,
                    options(nostack),
                );
            }
        }
    }

    /// The fastest streaming loop we know of: four 64-byte non-temporal stores per turn. `bytes` is
    /// a multiple of 256.
    fn best_streaming(start: *mut u8, bytes: u64) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "vpxorq zmm0, zmm0, zmm0",
                "2: vmovntdq [{at}], zmm0",
                "vmovntdq [{at} + 64], zmm0",
                "vmovntdq [{at} + 128], zmm0",
                "vmovntdq [{at} + 192], zmm0",
                "add {at}, 256",
                "sub {left}, 256",
                "jne 2b",
                at = inout(reg) start => _,
                left = inout(reg) bytes => _,
                out("zmm0") _,
                options(nostack),
            );
        }
    }

    fn rep_stosb(start: *mut u8, bytes: u64) {
        // SAFETY: the range lies in the buffer.
        unsafe {
            asm!(
                "rep stosb",
                inout("rdi") start => _,
                inout("rcx") bytes => _,
                in("al") 0u8,
                options(nostack, preserves_flags),
            );
        }
    }

    /// A row of the table: what, by how many threads, and the seconds of each round.
    struct Row {
        name: &'static str,
        threads: usize,
        seconds: Vec<f64>,
    }

    impl Row {
        fn median(&self) -> f64 {
            let mut sorted = self.seconds.clone();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        }
    }

    pub(super) fn main() {
        let movdir64b = tdx_host::arch::cpuid(7, 0).ecx >> 28 & 1 == 1;
        if !std::arch::is_x86_feature_detected!("avx512f") {
            eprintln!("skipped: this CPU has no 64-byte non-temporal stores (AVX-512) to compare with");
            return;
        }
        let stores =
            if movdir64b { "MOVDIR64B" } else { "64-byte NT stores in place of MOVDIR64B, which this CPU lacks" };
        let passes: [Pass; 4] = [
            ("best streaming loop, one fence", &|start| {
                best_streaming(start, BYTES as u64);
                tdx_host::arch::mfence();
            }),
            ("reset loop, one fence per range", &|start| {
                line_loop(movdir64b, start, LINES);
                tdx_host::arch::mfence();
            }),
            ("reset loop, one fence per 4 KiB page", &|start| {
                for page in 0..LINES / 64 {
                    line_loop(movdir64b, start.wrapping_add(page as usize * 4096), 64);
                    tdx_host::arch::mfence();
                }
            }),
            ("rep stosb", &|start| rep_stosb(start, BYTES as u64)),
        ];
        let most = thread::available_parallelism().map_or(1, usize::from).min(8);
        let counts = if most > 1 { vec![1, most] } else { vec![1] };
        let rows: Vec<Row> = counts.into_iter().flat_map(|threads| measure(&passes, threads)).collect();
        report(stores, &rows);
    }

    /// Writes one buffer.
    type Pass<'p> = (&'static str, &'p (dyn Fn(*mut u8) + Sync));

    /// All passes by so many threads at once. Rounds interleave the passes, so that a busy moment
    /// of the machine hits all of them.
    fn measure(passes: &[Pass<'_>], threads: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = passes.iter().map(|(name, _)| Row { name, threads, seconds: Vec::new() }).collect();
        let barrier = Barrier::new(threads + 1);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut buffer = Buffer::new();
                    let start = buffer.start();
                    for (_, pass) in (0..ROUNDS).flat_map(|_| passes) {
                        barrier.wait();
                        pass(start);
                        barrier.wait();
                    }
                });
            }
            for row in (0..ROUNDS).flat_map(|_| 0..passes.len()) {
                barrier.wait();
                let begin = Instant::now();
                barrier.wait();
                rows[row].seconds.push(begin.elapsed().as_secs_f64());
            }
        });
        rows
    }

    fn report(stores: &str, rows: &[Row]) {
        println!("reset loop: {stores}; {} MiB a thread, median of {ROUNDS} rounds", BYTES >> 20);
        let mut json = Vec::new();
        for row in rows {
            let (name, threads, seconds) = (row.name, row.threads, row.median());
            // The best streaming loop is the first of its number of threads.
            let best = rows.iter().find(|other| other.threads == threads).map_or(seconds, Row::median);
            let rate = (BYTES * threads) as f64 / seconds / 1e9;
            println!(
                "  {name:40} threads: {threads} {rate:7.2} GB/s  {:5.2} of the best streaming loop",
                best / seconds
            );
            json.push(format!(
                "    {{\"name\": \"{name}\", \"threads\": {threads}, \"gb_per_s\": {rate:.3}, \
                 \"of_best_streaming\": {:.3}}}",
                best / seconds
            ));
        }
        let text = format!(
            "{{\n  \"schema\": \"cleanslate.bench.reset\",\n  \"version\": 2,\n  \"stores\": \"{stores}\",\n  \
             \"bytes\": {BYTES},\n  \"rows\": [\n{}\n  ]\n}}\n",
            json.join(",\n")
        );
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
        if let Err(error) =
            std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("reset.json"), text))
        {
            eprintln!("cannot write {}: {error}", folder.display());
        }
    }
}
