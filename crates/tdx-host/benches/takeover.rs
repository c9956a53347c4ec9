//! The takeover table of a host of 2 TiB with 64 TDs of 24 GiB: what a crash spends on writing it,
//! and the next kernel on reading it and on the check that no page has two owners. The pages of a
//! TD lie in one piece, in pieces of 1 GiB, or in pieces of 2 MiB of which no two are neighbors.
//!
//! Writing is [`tdx_host::Host::write_takeover`] with the entries of CPUs, TDs, VCPUs and their
//! pages. Against it, in the same run: the walk over the ledger without a table, and a copy of as
//! many bytes.
//!
//! Output: a table, and JSON in `target/bench/takeover.json`.

#[path = "../tests/promise/mod.rs"]
mod promise;

use promise::Mark as _;

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use tdx_abi::{KeyId, Page, PageRange};
use tdx_host::Host;
use tdx_host::ledger::Ledger;
use tdx_host::takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy};

const GIB: u64 = 1 << 18;
const MEMORY: u64 = 2048 * GIB;
const TDS: u64 = 64;
const TD_PAGES: u64 = 24 * GIB;
const VCPUS: u16 = 16;
const CPUS: u32 = 256;
const ROUNDS: usize = 15;

const FACTS: TakeoverFacts = TakeoverFacts {
    written_by: WrittenBy::Crash,
    tsc_adjust: 0,
    tsc: 0,
    global_key_id: KeyId::new(32),
    not_stopped: 0,
    may_hold_private_lines: 0,
};

fn pages(first: u64, count: u64) -> PageRange {
    PageRange::new(Page::new(first), Page::new(first + count))
}

/// How the pages of the TDs lie: pieces of `piece` pages, `step` apart.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    piece: u64,
    step: u64,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "one piece", piece: TD_PAGES, step: TD_PAGES + 512 },
    Shape { name: "pieces of 1 GiB", piece: GIB, step: GIB + 512 },
    Shape { name: "pieces of 2 MiB", piece: 512, step: 640 },
];

impl Shape {
    /// The piece of this number, of all TDs together.
    fn piece(self, number: u64) -> PageRange {
        pages(GIB + number * self.step, self.piece)
    }

    /// A page of a TD.
    fn page(self, td: u32, number: u64) -> Page {
        let pieces_of_td = TD_PAGES / self.piece;
        let piece = self.piece(u64::from(td - 1) * pieces_of_td + number / self.piece);
        Page::new(piece.start().index() + number % self.piece)
    }
}

/// A host whose ledger has these pages, all of the module's.
fn host(shape: Shape) -> Box<Host<'static>> {
    let memory = pages(0, MEMORY);
    let words: Vec<AtomicU64> = (0..Ledger::words_needed([memory])).map(|_| AtomicU64::new(0)).collect();
    let tdx = promise::host(1);
    promise::observe_pamts(&tdx, [pages(4096, 8 * GIB / 256)]).unwrap();
    let ledger = tdx.follow([memory], words.leak()).unwrap();
    for number in 0..TDS * TD_PAGES / shape.piece {
        ledger.mark_in_flight(shape.piece(number)).unwrap();
        ledger.mark_private(shape.piece(number)).unwrap();
    }
    tdx
}

/// What a crash writes.
fn write(tdx: &Host<'_>, shape: Shape, table: &mut [u8]) -> usize {
    let mut writer = TakeoverWriter::new(table).unwrap();
    tdx.write_takeover(&mut writer).unwrap();
    let mut add = |entry: Entry| writer.entry(entry).unwrap();
    let tds = 1..=TDS as u32;
    (0..CPUS).for_each(|cpu| add(Entry::Cpu(cpu)));
    for td in tds.clone() {
        let key_id = Some(KeyId::new(32 + td as u16));
        add(Entry::Td { td, state: TdState::Runnable, tdr: shape.page(td, 0), key_id });
    }
    for td in tds.clone() {
        (0..6).for_each(|number| add(Entry::ControlPage { td, page: shape.page(td, 1 + number) }));
    }
    for td in tds.clone() {
        let page = |vcpu: u16| shape.page(td, 10 + 6 * u64::from(vcpu));
        (0..VCPUS).for_each(|vcpu| add(Entry::Vcpu { td, vcpu, page: page(vcpu) }));
    }
    for td in tds.clone() {
        for vcpu in 0..VCPUS {
            let page = |number: u64| shape.page(td, 10 + 6 * u64::from(vcpu) + number);
            (1..6).for_each(|number| add(Entry::VcpuPage { td, vcpu, page: page(number) }));
        }
    }
    for td in tds {
        let page = |gib: u64| shape.page(td, 200 + gib);
        (0..27).for_each(|gib| add(Entry::SeptPage { td, level: 1, page: page(gib), gpa: gib << 30 }));
    }
    writer.finish(&FACTS)
}

/// Median of milliseconds, rounds of all of them in turn.
fn interleaved<const N: usize>(mut tasks: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut samples = [(); N].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (task, sample) in tasks.iter_mut().zip(&mut samples) {
            let begin = Instant::now();
            task();
            sample.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    samples.map(|mut sample| {
        sample.sort_by(f64::total_cmp);
        sample[sample.len() / 2]
    })
}

fn main() {
    let mut rows = Vec::new();
    for shape in SHAPES {
        let tdx = host(shape);
        let ledger = tdx.ledger().unwrap();
        let mut table = vec![0; 64 << 20];
        let bytes = write(&tdx, shape, &mut table);
        let written = table[..bytes].to_vec();
        let read = TakeoverTable::read(&written).unwrap();
        let mut words: Vec<AtomicU64> = (0..read.claim_words()).map(|_| AtomicU64::new(0)).collect();
        let mut copy = vec![0; bytes];
        let [write_ms, walk_ms, copy_ms, read_ms, claim_ms] = interleaved([
            &mut || {
                black_box(write(&tdx, shape, &mut table));
            },
            &mut || {
                black_box(ledger.marked().count());
            },
            &mut || copy.copy_from_slice(black_box(&written)),
            &mut || {
                black_box(TakeoverTable::read(&written).unwrap());
            },
            &mut || {
                black_box(read.claim(&mut words).unwrap());
            },
        ]);
        println!("{}: {bytes} bytes", shape.name);
        for (what, value) in [
            ("write", write_ms),
            ("walk over the ledger alone", walk_ms),
            ("copy of the bytes", copy_ms),
            ("read", read_ms),
            ("read: no page has two owners", claim_ms),
        ] {
            println!("  {what:30} {value:9.3} ms  {:7.3} x write", value / write_ms);
            rows.push(format!(
                "    {{\"shape\": \"{}\", \"bytes\": {bytes}, \"what\": \"{what}\", \"ms\": {value:.4}}}",
                shape.name
            ));
        }
    }
    let text = format!(
        "{{\n  \"schema\": \"cleanslate.bench.takeover\",\n  \"version\": 1,\n  \"rows\": [\n{}\n  ]\n}}\n",
        rows.join(",\n")
    );
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    if let Err(error) =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("takeover.json"), text))
    {
        eprintln!("cannot write {}: {error}", folder.display());
    }
}
