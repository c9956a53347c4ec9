//! The table for a crash kernel that leaves private memory out of its dump: it tells the truth of
//! every page, what breaks a rule is refused, and words that were changed behind a good checksum
//! never panic and never get past a second, slower reader.
#![cfg(not(loom))]
// UNSAFETY: marks of ledgers that no handover looks at.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "../examples/kernel/mod.rs"]
mod kernel;

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tdx_abi::{Page, PageRange, PhysAddr};
use tdx_host::dump::{DumpError, DumpPlace, DumpTable, INDEX_ENTRIES, PAGE_WORDS, ROOT_WORDS, write_index_page};
use tdx_host::handover::HostMemory;
use tdx_host::{Host, Ledger};

const GIB: u64 = 1 << 18;
const ROOT: PhysAddr = PhysAddr::new(0x1234_5000);
const NONCE: u64 = 0x0123_4567_89ab_cdef;

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

/// The old kernel's memory of a ledger: pages that are scattered in physical memory.
struct Old {
    words: Vec<AtomicU64>,
    /// Where each page of them is.
    addresses: Vec<u64>,
    index: Vec<[u64; PAGE_WORDS]>,
    index_addresses: Vec<u64>,
    root: Vec<u64>,
}

impl Old {
    fn new(words: u64) -> Self {
        let pages = words.div_ceil(PAGE_WORDS as u64);
        // Every third page, the last one first.
        let addresses: Vec<u64> = (0..pages).map(|page| (0x70_0000 - 3 * page) << 12).collect();
        let index: Vec<_> = (0..)
            .zip(addresses.chunks(INDEX_ENTRIES))
            .map(|(number, entries)| {
                let mut page = [0xee; PAGE_WORDS];
                write_index_page(&mut page, number, NONCE, entries).unwrap();
                page
            })
            .collect();
        let index_addresses = (0..index.len() as u64).map(|number| (0x10_0000 + 2 * number) << 12).collect();
        let words = (0..pages * PAGE_WORDS as u64).map(|_| AtomicU64::new(0)).collect();
        Self { words, addresses, index, index_addresses, root: vec![0xee; ROOT_WORDS] }
    }

    fn place(&self) -> DumpPlace<'_> {
        DumpPlace { root: ROOT, nonce: NONCE, ledger: &self.words, index: &self.index_addresses }
    }

    fn write(&mut self, memory: &HostMemory<'_>) -> Result<(), DumpError> {
        let mut root = std::mem::take(&mut self.root);
        let written = self.place().write(&mut root, memory);
        self.root = root;
        written
    }

    fn read(&self) -> Result<Read<'_>, DumpError> {
        let table = DumpTable::read(&self.root, ROOT, NONCE)?;
        let mut addresses = Vec::new();
        for (number, at) in (0..).zip(table.index()) {
            let found = self.index_addresses.iter().position(|address| address == at);
            let page = found.map(|found| &self.index[found]).ok_or(DumpError::Index { number })?;
            addresses.extend(table.index_page(number, page)?);
        }
        Ok(Read { table, addresses, old: self })
    }

    /// A word of the old memory.
    fn word(&self, address: PhysAddr) -> Option<u64> {
        assert!(address.get().is_multiple_of(8));
        let page = self.addresses.iter().position(|base| *base == address.get() & !0xfff)?;
        let word = page * PAGE_WORDS + (address.get() & 0xfff) as usize / 8;
        Some(self.words[word].load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Read<'o> {
    table: DumpTable<'o>,
    addresses: Vec<u64>,
    old: &'o Old,
}

impl std::fmt::Debug for Old {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Old")
    }
}

impl Read<'_> {
    fn may_be_private(&self, page: u64) -> bool {
        self.table.may_be_private(Page::new(page), &self.addresses, |address| self.old.word(address))
    }
}

/// Bit by bit, by the text of the layout.
fn crc32c(words: impl IntoIterator<Item = u64>) -> u64 {
    let bytes = words.into_iter().flat_map(u64::to_le_bytes);
    let crc = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    });
    u64::from(!crc)
}

/// The words in use, by the text of the layout.
fn used(root: &[u64]) -> usize {
    let count = |low: u32| (root[1] >> low & 0xffff) as usize;
    let index = (root[4] as usize).div_ceil(INDEX_ENTRIES);
    (8 + 3 * count(16) + 2 * count(32)).saturating_add(index).min(root.len())
}

fn mend_checksum(root: &mut [u64]) {
    root[7] = 0;
    root[7] = crc32c(root[..used(root)].iter().copied());
}

/// A host with TDX, and a ledger over memory that is in no relation to it.
fn with_memory<R>(ranges: &[PageRange], marks: &[PageRange], run: impl FnOnce(&mut Old, &HostMemory<'_>) -> R) -> R {
    let hardware = kernel::Hardware::new();
    let tdx = Host::new(hardware.slots());
    let _kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
    let needed = Ledger::words_needed(ranges.iter().copied());
    let mut old = Old::new(needed + 3);
    // SAFETY: `old` outlives the ledger, and its words are changed by nobody else. They are
    // borrowed apart from the rest of it.
    let words = unsafe { std::slice::from_raw_parts_mut(old.words.as_mut_ptr(), old.words.len()) };
    // KeyIDs come first.
    let ledger = Ledger::new(ranges.iter().copied(), &mut words[3..]).unwrap();
    for range in marks {
        // SAFETY: no handover resets what this ledger marks.
        unsafe { ledger.give(*range) }.unwrap();
    }
    // SAFETY: no handover is made.
    let memory = unsafe { tdx.memory().with_ledger(Some(&ledger)) };
    run(&mut old, &memory)
}

fn ranges() -> [PageRange; 2] {
    [range(0, GIB), range(3 * GIB, 5 * GIB)]
}

fn marks() -> [PageRange; 4] {
    [range(300, 301), range(511, 513), range(GIB - 33, GIB), range(4 * GIB + 100, 4 * GIB + 1000)]
}

#[test]
fn every_page_is_what_the_ledger_and_the_pamts_say() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let read = old.read().unwrap();
        assert!(!read.table.was_reset());
        assert_eq!(read.table.segments().collect::<Vec<_>>(), ranges());
        let private: Vec<PageRange> = memory.private_ranges().collect();
        assert!(read.table.pamts().next().is_some(), "TDX is up");
        for page in 0..6 * GIB {
            let is = private.iter().any(|range| range.contains(Page::new(page)));
            assert_eq!(read.may_be_private(page), is, "page {page:#x}");
        }
        assert!(!read.may_be_private(u64::MAX));
    });
}

/// A CPU that did not stop marks a page after the table was written.
#[test]
fn the_table_shows_the_ledger_as_it_is() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        assert!(!old.read().unwrap().may_be_private(5 * GIB - 1));
        // SAFETY: no handover is made.
        unsafe { memory.ledger().unwrap().give(range(5 * GIB - 1, 5 * GIB)) }.unwrap();
        assert!(old.read().unwrap().may_be_private(5 * GIB - 1));
    });
}

/// 600 GiB: the ledger's memory has more pages than a page of the index has addresses.
#[test]
fn a_ledger_with_several_pages_of_index() {
    let (ranges, marks) = ([range(0, 40 * GIB)], [range(39 * GIB, 39 * GIB + 1), range(7, 8)]);
    with_memory(&ranges, &marks, |old, memory| {
        assert!(old.index.len() > 1, "{}", old.addresses.len());
        old.write(memory).unwrap();
        let read = old.read().unwrap();
        assert!(read.may_be_private(7) && read.may_be_private(39 * GIB));
        assert!(!read.may_be_private(8) && !read.may_be_private(39 * GIB + 1));
    });
}

#[test]
fn what_cannot_be_looked_up_may_be_private() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let read = old.read().unwrap();
        assert!(read.table.may_be_private(Page::new(5), &[], |_| Some(0)));
        assert!(read.table.may_be_private(Page::new(5), &read.addresses, |_| None));
        assert!(!read.table.may_be_private(Page::new(5), &read.addresses, |_| Some(0)));
    });
}

#[test]
fn after_a_reset_nothing_is_private() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let mut root = std::mem::take(&mut old.root);
        old.place().write_reset(&mut root).unwrap();
        old.root = root;
        let read = old.read().unwrap();
        assert!(read.table.was_reset() && read.table.ledger_pages() == 0);
        assert!((0..5 * GIB).step_by(77).all(|page| !read.may_be_private(page)));
    });
}

#[test]
fn without_a_ledger_there_are_pamts() {
    let hardware = kernel::Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut old = Old::new(0);
    old.write(&tdx.memory()).unwrap();
    assert!(old.read().unwrap().table.pamts().next().is_none());
    let _kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
    old.write(&tdx.memory()).unwrap();
    let read = old.read().unwrap();
    assert_eq!(read.table.pamts().collect::<Vec<_>>(), tdx.memory().private_ranges().collect::<Vec<_>>());
}

#[test]
fn what_cannot_be_written_leaves_no_table() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let elsewhere: Vec<AtomicU64> = (0..old.words.len()).map(|_| AtomicU64::new(0)).collect();
        let place = DumpPlace { ledger: &elsewhere, ..old.place() };
        let mut root = old.root.clone();
        assert_eq!(place.write(&mut root, memory), Err(DumpError::Elsewhere));
        assert_eq!(DumpTable::read(&root, ROOT, NONCE).unwrap_err(), DumpError::NoTable);
        // The index is not that of this ledger.
        let place = DumpPlace { index: &[0x1000; 9], ..old.place() };
        assert_eq!(place.write(&mut root, memory), Err(DumpError::Elsewhere));
        assert!(old.place().write(&mut root[..ROOT_WORDS - 1], memory).is_err());
        assert!(DumpTable::read(&root[..ROOT_WORDS - 1], ROOT, NONCE).is_err());
        // More pages of index than there is room for.
        let index = vec![0x1000; ROOT_WORDS];
        let place = DumpPlace { index: &index, ..old.place() };
        assert!(place.write(&mut root, memory).is_err());
        assert_eq!(DumpTable::read(&root, ROOT, NONCE).unwrap_err(), DumpError::NoTable);
    });
    let mut page = [0; PAGE_WORDS];
    let full = write_index_page(&mut page, 0, NONCE, &[0x1000; PAGE_WORDS]);
    assert_eq!((full, page), (Err(DumpError::Full { needed: PAGE_WORDS }), [0; PAGE_WORDS]));
}

#[test]
fn a_table_of_another_kernel_is_refused() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let read = |address, nonce| DumpTable::read(&old.root, address, nonce).map(drop);
        assert_eq!(read(ROOT, NONCE), Ok(()));
        assert_eq!(read(ROOT, NONCE + 1), Err(DumpError::Stranger));
        assert_eq!(read(PhysAddr::new(0x1234_6000), NONCE), Err(DumpError::Stranger));
    });
}

/// Any bit that is changed, of the root or the index, without the checksum.
#[test]
fn a_changed_bit_is_seen() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        for at in 0..used(&old.root) * 64 {
            old.root[at / 64] ^= 1 << (at % 64);
            assert!(old.read().is_err(), "bit {at} of the root");
            old.root[at / 64] ^= 1 << (at % 64);
        }
        for at in 0..PAGE_WORDS * 64 {
            old.index[0][at / 64] ^= 1 << (at % 64);
            assert_eq!(old.read().unwrap_err(), DumpError::Index { number: 0 }, "bit {at} of the index");
            old.index[0][at / 64] ^= 1 << (at % 64);
        }
        old.read().unwrap();
    });
}

/// A page of the index in the place of another one, each with its good checksum.
#[test]
fn pages_of_the_index_cannot_be_swapped() {
    with_memory(&[range(0, 40 * GIB)], &[], |old, memory| {
        old.write(memory).unwrap();
        old.index.swap(0, 1);
        assert_eq!(old.read().unwrap_err(), DumpError::Index { number: 0 });
    });
}

/// What the root says, changed in one place behind a good checksum, by the error it must give.
#[test]
fn each_rule_has_its_error() {
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let (segments, pamts) = (2, old.read().unwrap().table.pamts().count());
        let good = old.root.clone();
        let read = |at: usize, word: u64| {
            let mut root = good.clone();
            root[at] = word;
            mend_checksum(&mut root);
            DumpTable::read(&root, ROOT, NONCE).map(drop)
        };
        assert_eq!(read(0, 0), Err(DumpError::NoTable));
        assert_eq!(read(1, good[1] + 1), Err(DumpError::Version { version: 2 }));
        // 65 segments; kinds that there are not; a reset that lists something.
        assert_eq!(read(1, good[1] & !0xffff_0000 | 65 << 16), Err(DumpError::Header));
        for kind in [0, 2, 3] {
            assert_eq!(read(1, good[1] << 16 >> 16 | kind << 48), Err(DumpError::Header));
        }
        assert_eq!(read(4, u64::MAX), Err(DumpError::Header));
        assert_eq!(read(5, 1), Err(DumpError::Header));
        assert_eq!(read(6, 1 << 63), Err(DumpError::Header));
        // Segments: not of 2 MiB, in the wrong order, empty, beyond all addresses, words of another
        // one, words behind the end.
        assert_eq!(read(8, 1), Err(DumpError::Entry { word: 8 }));
        assert_eq!(read(11, GIB - 512), Err(DumpError::Entry { word: 11 }));
        assert_eq!(read(12, 3 * GIB), Err(DumpError::Entry { word: 11 }));
        assert_eq!(read(12, 1 << 50), Err(DumpError::Entry { word: 11 }));
        assert_eq!(read(13, good[10]), Err(DumpError::Entry { word: 11 }));
        assert_eq!(read(13, u64::MAX), Err(DumpError::Entry { word: 11 }));
        let pamt = 8 + 3 * segments;
        assert_eq!(read(pamt, good[pamt + 1]), Err(DumpError::Entry { word: pamt }));
        assert_eq!(read(pamt + 1, u64::MAX), Err(DumpError::Entry { word: pamt }));
        let index = pamt + 2 * pamts;
        for address in [0, good[index] + 8, 1 << 52] {
            assert_eq!(read(index, address), Err(DumpError::Entry { word: index }));
        }
    });
}

/// A second reader, by the text of the layout.
fn believed_rightly(root: &[u64], read: &Read<'_>) {
    let count = |low: u32| (root[1] >> low & 0xffff) as usize;
    let (segments, pamts) = (count(16), count(32));
    let segment = |number: usize| <[u64; 3]>::try_from(&root[8 + 3 * number..][..3]).unwrap();
    let pamt = |number: usize| <[u64; 2]>::try_from(&root[8 + 3 * segments + 2 * number..][..2]).unwrap();
    let mut taken = std::collections::BTreeSet::new();
    for [start, end, first] in (0..segments).map(segment) {
        for word in first..first + (end - start) / 32 {
            assert!(word < root[4] * 512 && taken.insert(word), "word {word} of two segments, or of none");
        }
    }
    let pages = (0..6 * GIB).step_by(97).chain((0..segments).map(segment).flat_map(|[start, end, _]| [start, end - 1]));
    for page in pages {
        let in_pamt = (0..pamts).map(pamt).any(|[start, end]| (start..end).contains(&page));
        let marked = (0..segments).map(segment).find(|[start, end, _]| (*start..*end).contains(&page)).map(
            |[start, _, first]| {
                let word = (first + (page - start) / 32) as usize;
                // Of the index, as it was read.
                let address = PhysAddr::new(read.addresses[word / 512] + word as u64 % 512 * 8);
                read.old.word(address).is_none_or(|states| states >> ((page - start) % 32 * 2) & 3 != 0)
            },
        );
        assert_eq!(read.may_be_private(page), in_pamt || marked == Some(true), "page {page:#x}");
    }
}

/// A generator of numbers with a state of 64 bits: xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Words are changed behind a good checksum. `CLEANSLATE_MUTATIONS` says how many tables.
#[test]
fn changed_words_with_a_good_checksum_never_get_past_a_second_reader() {
    let count = std::env::var("CLEANSLATE_MUTATIONS").map_or(30_000, |count| count.parse().unwrap());
    with_memory(&ranges(), &marks(), |old, memory| {
        old.write(memory).unwrap();
        let good = old.root.clone();
        let words = used(&good);
        let (mut state, mut believed) = (0x9e37_79b9_7f4a_7c15, 0u64);
        for _ in 0..count {
            let mut root = good.clone();
            for _ in 0..=next(&mut state) % 3 {
                let random = next(&mut state);
                let (from, to) = ((random >> 8) as usize % words, (random >> 32) as usize % words);
                match random % 4 {
                    0 => root[to] ^= 1 << (random >> 2 & 63),
                    1 => root[to] = root[from],
                    2 => root[to] = root[to].wrapping_add(512),
                    _ => root[to] = root[to].wrapping_sub(1),
                }
            }
            mend_checksum(&mut root);
            old.root = root;
            if let Ok(read) = old.read() {
                believed += 1;
                if believed % 16 == 0 {
                    believed_rightly(&old.root, &read);
                }
            }
        }
        assert!(believed > count / 100 && believed < count, "{believed} believed");
    });
}

proptest! {
    /// Marks at random: read as they were written.
    #[test]
    fn marks_at_random(mut marks in proptest::collection::vec((0u64..GIB - 64, 1u64..64), 0..12)) {
        marks.sort_unstable();
        let mut end = 0;
        let apart = marks.into_iter().filter(|(start, pages)| {
            let apart = *start >= end;
            if apart { end = start + pages }
            apart
        });
        let marks: Vec<PageRange> = apart.map(|(start, pages)| range(start, start + pages)).collect();
        with_memory(&[range(0, GIB)], &marks, |old, memory| {
            old.write(memory).unwrap();
            let read = old.read().unwrap();
            for mark in &marks {
                let around = mark.start().index().saturating_sub(2)..mark.end().index() + 2;
                for page in around {
                    let is = memory.private_ranges().any(|range| range.contains(Page::new(page)));
                    assert_eq!(read.may_be_private(page), is, "page {page:#x}");
                }
            }
        });
    }
}
