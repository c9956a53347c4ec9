//! The takeover table: what is written is read, what breaks a rule is refused, and bytes that were
//! changed behind a good checksum never panic and never get past a second, slower reader.
#![cfg(not(loom))]
// UNSAFETY: pages of the software machine.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "../examples/kernel/mod.rs"]
mod kernel;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;
use tdx_abi::{KeyId, Page, PageRange, PageSize};
use tdx_host::Host;
use tdx_host::takeover::{Entry, TakeoverError, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy};

const GIB: u64 = 1 << 18;
const FACTS: TakeoverFacts = TakeoverFacts {
    written_by: WrittenBy::Crash,
    tsc_adjust: 0xffff_ffff_ffff_fff0,
    tsc: 0x1234_5678_9abc,
    global_key_id: KeyId::new(33),
    not_stopped: 1,
    may_hold_private_lines: 2,
};

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0xee; 64 + 32 * entries.len()];
    let mut writer = TakeoverWriter::new(&mut bytes).unwrap();
    for entry in entries {
        writer.entry(*entry).unwrap();
    }
    assert_eq!(writer.finish(&FACTS), 64 + 32 * entries.len());
    bytes
}

fn words(table: &TakeoverTable<'_>) -> Vec<AtomicU64> {
    (0..table.claim_words()).map(|_| AtomicU64::new(u64::MAX)).collect()
}

/// Bit by bit, by the text of the layout.
fn crc32c<'b>(bytes: impl Iterator<Item = &'b u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

fn mend_checksum(bytes: &mut [u8]) {
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let end = count.saturating_mul(32).saturating_add(64).min(bytes.len() as u64) as usize;
    let sum = crc32c(bytes[64..end].iter().chain(&bytes[..60]));
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
}

/// A TD with a page of each kind, from `page` on; 13 pages.
fn td(td: u32, page: u64, key: u16) -> [Vec<Entry>; 6] {
    let at = |index: u64| Page::new(page + index);
    [
        vec![Entry::Td { td, state: TdState::Runnable, tdr: at(0), key_id: Some(KeyId::new(key)) }],
        vec![Entry::ControlPage { td, page: at(1) }, Entry::ControlPage { td, page: at(2) }],
        vec![Entry::Vcpu { td, vcpu: 0, page: at(3) }],
        vec![Entry::VcpuPage { td, vcpu: 0, page: at(4) }, Entry::VcpuPage { td, vcpu: 0, page: at(5) }],
        vec![
            Entry::SeptPage { td, level: 3, page: at(6), gpa: 0 },
            Entry::SeptPage { td, level: 1, page: at(7), gpa: 1 << 21 },
        ],
        vec![Entry::GuestPages { td, size: PageSize::Size4K, page: at(8), gpa: 0x7000, count: 5 }],
    ]
}

/// A whole table: two TDMRs, PAMTs, a few marks, two TDs in marked pages, a pair.
fn whole() -> Vec<Entry> {
    let first = GIB + 512;
    let mut entries = vec![
        Entry::Tdmr(range(GIB, 2 * GIB)),
        Entry::Tdmr(range(3 * GIB, 4 * GIB)),
        Entry::Pamt(range(GIB + 8, GIB + 16)),
        Entry::Pamt(range(2 * GIB, 2 * GIB + 100)),
        Entry::Marked(range(first, first + 40)),
        Entry::Marked(range(first + 100, first + 102)),
        Entry::Marked(range(3 * GIB, 3 * GIB + 512)),
        Entry::UnknownToModule(range(first + 30, first + 32)),
        Entry::Cpu(0),
        Entry::Cpu(7),
        Entry::LostKeyId(KeyId::new(40)),
    ];
    let (one, two) = (td(1, first, 34), td(2, first + 13, 35));
    for (one, two) in one.into_iter().zip(two) {
        entries.extend(one.into_iter().chain(two));
    }
    entries.push(Entry::Pair { pages: [Page::new(first + 100), Page::new(first + 101)], of: Page::new(3 * GIB) });
    entries
}

#[test]
fn what_is_written_is_read() {
    let bytes = write(&whole());
    let table = TakeoverTable::read(&bytes).unwrap();
    assert_eq!((table.facts, table.tds()), (FACTS, 2));
    assert_eq!(table.entries().collect::<Vec<_>>(), whole());
    let mut words = words(&table);
    let claims = table.claim(&mut words).unwrap();
    let first = GIB + 512;
    let left = [range(first + 26, first + 40), range(3 * GIB, 3 * GIB + 512)];
    assert_eq!(claims.without_owner(&table).collect::<Vec<_>>(), left);
}

#[test]
fn bytes_behind_the_table_do_not_matter_and_missing_ones_do() {
    let mut bytes = write(&whole());
    assert!(matches!(TakeoverTable::read(&bytes[..bytes.len() - 1]), Err(TakeoverError::Header { .. })));
    assert!(matches!(TakeoverTable::read(&bytes[..63]), Err(TakeoverError::TooSmall { .. })));
    bytes.extend([0xaa; 100]);
    TakeoverTable::read(&bytes).unwrap();
}

/// Safe code can make any entry: what the next kernel would not believe is not in the table.
#[test]
fn an_entry_that_no_reader_takes_is_not_written() {
    let wrong = [
        Entry::Tdmr(range(GIB, GIB)),
        Entry::Tdmr(range(GIB, u64::MAX)),
        Entry::Td { td: 0, state: TdState::Created, tdr: Page::new(GIB), key_id: None },
        Entry::Td { td: 1, state: TdState::Created, tdr: Page::new(1 << 40), key_id: None },
        Entry::Td { td: 1, state: TdState::Created, tdr: Page::new(GIB), key_id: Some(KeyId::HOST) },
        Entry::ControlPage { td: 0, page: Page::new(GIB) },
        Entry::VcpuPage { td: 1, vcpu: 0, page: Page::new(u64::MAX) },
        Entry::SeptPage { td: 1, level: 5, page: Page::new(GIB), gpa: 0 },
        Entry::SeptPage { td: 1, level: 1, page: Page::new(GIB), gpa: 7 },
        Entry::GuestPages { td: 1, size: PageSize::Size2M, page: Page::new(GIB + 1), gpa: 0, count: 1 },
        Entry::GuestPages { td: 1, size: PageSize::Size4K, page: Page::new(GIB), gpa: 0, count: 0 },
        Entry::GuestPages { td: 1, size: PageSize::Size4K, page: Page::new(GIB), gpa: 0, count: u64::MAX },
        Entry::Pair { pages: [Page::new(GIB); 2], of: Page::new(GIB) },
        Entry::Pair { pages: [Page::new(GIB), Page::new(GIB + 1)], of: Page::new(GIB + 1) },
    ];
    for entry in wrong {
        let mut bytes = [0; 256];
        let mut writer = TakeoverWriter::new(&mut bytes).unwrap();
        assert_eq!(writer.entry(entry), Err(TakeoverError::Entry { index: 0 }), "{entry:?}");
        assert_eq!(writer.finish(&FACTS), 64);
        assert_eq!(TakeoverTable::read(&bytes).unwrap().entries().count(), 0);
    }
}

#[test]
fn a_table_that_is_not_finished_does_not_read() {
    let mut bytes = write(&whole());
    {
        let mut writer = TakeoverWriter::new(&mut bytes).unwrap();
        writer.entry(Entry::Tdmr(range(GIB, 2 * GIB))).unwrap();
    }
    assert_eq!(TakeoverTable::read(&bytes).unwrap_err(), TakeoverError::NoTable);
    let mut small = write(&whole()[..2]);
    let mut writer = TakeoverWriter::new(&mut small).unwrap();
    let error = whole().iter().try_for_each(|entry| writer.entry(*entry)).unwrap_err();
    assert_eq!(error, TakeoverError::TooSmall { given: 128, entries: 3 });
    let mut tiny = *b"TDXKEEP\0TDXKEEP\0";
    assert!(TakeoverWriter::new(&mut tiny).is_err());
    assert_eq!(tiny, [0; 16]);
}

/// Any byte that is changed, without the checksum.
#[test]
fn a_changed_byte_is_seen() {
    let good = write(&whole());
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        assert!(TakeoverTable::read(&bytes).is_err(), "byte {at}");
    }
}

/// What the entries say, changed in one place, by the error it must give.
#[test]
fn each_rule_has_its_error() {
    let first = GIB + 512;
    let at = |entry: Entry| whole().iter().position(|other| *other == entry).unwrap();
    let read = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = write(&whole());
        change(&mut bytes);
        mend_checksum(&mut bytes);
        TakeoverTable::read(&bytes).map(|table| table.claim(&mut words(&table)).map(drop))
    };
    let put = |index: usize, word: usize, value: u64| {
        move |bytes: &mut Vec<u8>| {
            let at = 64 + 32 * index + 8 + 8 * word;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    let address = |page: u64| page << 12;
    let index = |index: usize| index as u64;

    assert_eq!(read(&|bytes| bytes[8] = 2).unwrap_err(), TakeoverError::Version { version: 2 });
    assert!(matches!(read(&|bytes| bytes[10] = 3).unwrap_err(), TakeoverError::Header { written_by: 3, .. }));
    assert!(matches!(read(&|bytes| bytes[12] = 31).unwrap_err(), TakeoverError::Header { entry_bytes: 31, .. }));
    assert!(matches!(read(&|bytes| bytes[23] = 0x80).unwrap_err(), TakeoverError::Header { .. }));
    assert_eq!(read(&put(0, 0, address(GIB) + 1)).unwrap_err(), TakeoverError::Entry { index: 0 });
    assert_eq!(read(&put(0, 0, address(GIB + 1))).unwrap_err(), TakeoverError::Tdmr { index: 0 });
    assert_eq!(read(&put(1, 0, address(GIB))).unwrap_err(), TakeoverError::Order { index: 1 });
    // A mark in a PAMT, and one in no TDMR.
    assert_eq!(read(&put(4, 0, address(GIB + 15))).unwrap_err(), TakeoverError::Pages { index: 4 });
    assert_eq!(read(&put(6, 1, address(5 * GIB))).unwrap_err(), TakeoverError::Pages { index: 6 });
    assert_eq!(read(&put(7, 1, address(first + 41))).unwrap_err(), TakeoverError::Pages { index: 7 });
    let lost = at(Entry::LostKeyId(KeyId::new(40)));
    let key = KeyId::new(33);
    assert_eq!(read(&put(lost, 0, 33)).unwrap_err(), TakeoverError::KeyId { index: index(lost), key });
    let td = lost + 1;
    assert_eq!(read(&put(td, 1, 0x1_0000)).unwrap_err(), TakeoverError::Entry { index: index(td) });
    let no_such = |bytes: &mut Vec<u8>| bytes[64 + 32 * (td + 2) + 4] = 3;
    assert_eq!(read(&no_such).unwrap_err(), TakeoverError::NoSuchTd { index: index(td + 2), td: 3, tds: 2 });
    // What only the claims find.
    let key = KeyId::new(34);
    assert_eq!(
        read(&put(td + 1, 1, 34)).unwrap().unwrap_err(),
        TakeoverError::KeyIdTwice { index: index(td + 1), key }
    );
    let page = Page::new(first);
    assert_eq!(
        read(&put(td + 1, 0, address(first))).unwrap().unwrap_err(),
        TakeoverError::PageTwice { index: index(td + 1), page }
    );
    assert_eq!(
        read(&put(td + 1, 0, address(first + 60))).unwrap().unwrap_err(),
        TakeoverError::Pages { index: index(td + 1) }
    );
    assert_eq!(read(&put(td, 0, address(9 * GIB))).unwrap().unwrap_err(), TakeoverError::Pages { index: index(td) });
}

/// The pages of an entry, by the text of the layout.
fn pages(entry: &Entry) -> Vec<u64> {
    match *entry {
        Entry::Td { tdr: page, .. }
        | Entry::ControlPage { page, .. }
        | Entry::Vcpu { page, .. }
        | Entry::VcpuPage { page, .. }
        | Entry::SeptPage { page, .. } => vec![page.index()],
        Entry::GuestPages { size, page, count, .. } => {
            let pages = count * size.pages();
            // No memory of these tables is so large.
            let pages = pages.min(8 * GIB);
            (page.index()..page.index() + pages).collect()
        }
        Entry::Pair { pages, .. } => pages.map(Page::index).to_vec(),
        _ => Vec::new(),
    }
}

fn set(ranges: impl Iterator<Item = PageRange>) -> Option<BTreeSet<u64>> {
    let mut all = BTreeSet::new();
    for range in ranges {
        if range.pages() > 8 * GIB || !(range.start().index()..range.end().index()).all(|page| all.insert(page)) {
            return None;
        }
    }
    Some(all)
}

/// A second reader, by sets of pages. Only for tables with small lists.
fn believed_rightly(table: &TakeoverTable<'_>) {
    let tdmr = |page: u64| table.tdmrs().any(|range| range.contains(Page::new(page)));
    let marked = set(table.marked()).expect("marks overlap");
    let unknown = set(table.unknown_to_module()).expect("unknown pages overlap");
    assert!(marked.iter().all(|page| tdmr(*page)), "a mark outside");
    assert!(marked.iter().all(|page| !table.pamts().any(|range| range.contains(Page::new(*page)))), "a mark in PAMT");
    assert!(unknown.is_subset(&marked), "unknown and not marked");
    let (mut owned, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let mut alone = true;
    for entry in table.entries() {
        for page in pages(&entry) {
            alone &= owned.insert(page);
        }
        if let Entry::Td { key_id: Some(key), .. } | Entry::LostKeyId(key) = entry {
            alone &= keys.insert(key);
        }
    }
    let right = alone && owned.is_subset(&marked);
    let mut words = words(table);
    match table.claim(&mut words) {
        Ok(claims) => {
            assert!(right, "claimed wrongly");
            assert_eq!(set(claims.claimed()).unwrap(), owned);
            assert_eq!(set(claims.without_owner(table)).unwrap(), &marked - &owned);
        }
        Err(error) => assert!(!right, "{error}"),
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
    let good = write(&whole());
    let entries = (good.len() - 64) as u64 / 32;
    let (mut state, mut believed, mut claimed) = (0x9e37_79b9_7f4a_7c15, 0u64, 0u64);
    for _ in 0..count {
        let mut bytes = good.clone();
        for _ in 0..=next(&mut state) % 3 {
            let random = next(&mut state);
            match random % 8 {
                // A bit anywhere.
                0 | 1 => bytes[(random >> 8) as usize % good.len()] ^= 1 << (random >> 4 & 7),
                // An entry takes the place of another one.
                2 => {
                    let (from, to) = ((random >> 8) % entries, (random >> 32) % entries);
                    bytes.copy_within(64 + 32 * from as usize..96 + 32 * from as usize, 64 + 32 * to as usize);
                }
                // One word of an entry becomes that of another one, or one page more or less.
                3 | 4 => {
                    let word = |entry: u64, word: u64| 72 + 32 * entry as usize + 8 * word as usize;
                    let (from, to) = (
                        word((random >> 8) % entries, random >> 60 & 1),
                        word((random >> 32) % entries, random >> 61 & 1),
                    );
                    bytes.copy_within(from..from + 8, to);
                }
                5 | 6 => {
                    let at = 72 + 32 * ((random >> 8) % entries) as usize + 8 * (random >> 60 & 1) as usize;
                    let value = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                    let changed = if random & 16 == 0 { value.wrapping_add(4096) } else { value.wrapping_sub(4096) };
                    bytes[at..at + 8].copy_from_slice(&changed.to_le_bytes());
                }
                // Fewer or more entries.
                _ => bytes[16] = (random >> 8) as u8,
            }
        }
        mend_checksum(&mut bytes);
        // A TDMR that no machine has memory for is for the memory map to refuse.
        if let Ok(table) = TakeoverTable::read(&bytes)
            && table.claim_words() < 1 << 20
        {
            believed += 1;
            claimed += u64::from(table.claim(&mut words(&table)).is_ok());
            // The second reader is slow.
            if believed % 16 == 0 {
                believed_rightly(&table);
            }
        }
    }
    assert!(believed > count / 100 && claimed > 0 && claimed < believed, "{believed} believed, {claimed} claimed");
}

proptest! {
    /// Marks and owners at random: read as written, and judged as by sets.
    #[test]
    fn tables_at_random(
        marks in proptest::collection::vec((0u64..600, 1u64..40), 0..6),
        owned in proptest::collection::vec(0u64..640, 0..6),
        keys in proptest::collection::vec(34u16..38, 0..4),
    ) {
        let mut entries = vec![Entry::Tdmr(range(GIB, 2 * GIB)), Entry::Pamt(range(GIB + 640, GIB + 700))];
        let mut end = 0;
        let mut marks = marks;
        marks.sort_unstable();
        for (start, length) in marks {
            if start >= end {
                end = start + length;
                entries.push(Entry::Marked(range(GIB + start, GIB + end)));
            }
        }
        let tds = keys.len() as u32;
        entries.extend((1..).zip(keys).map(|(td, key)| Entry::Td {
            td, state: TdState::Building, tdr: Page::new(GIB + 40 * u64::from(td)), key_id: Some(KeyId::new(key)),
        }));
        if tds > 0 {
            entries.extend(owned.into_iter().map(|page| Entry::ControlPage { td: tds, page: Page::new(GIB + page) }));
        }
        let bytes = write(&entries);
        let table = TakeoverTable::read(&bytes).unwrap();
        prop_assert_eq!(table.entries().collect::<Vec<_>>(), entries);
        believed_rightly(&table);
    }
}

/// From a host with a TD: its records are those of the table.
#[test]
fn a_host_writes_its_records() {
    let hardware = kernel::Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
    let tds = tdx.track(kernel::words(tdx.tracking_words())).unwrap();
    let (cpu, ledger) = (kernel.cpu(), tds.ledger());
    let tdr = kernel.take_page(ledger);
    let mut td = tds.create(&cpu, tdr).unwrap().configure_keys(&kernel).unwrap();
    td.add_control_page(&cpu, kernel.take_page(ledger)).unwrap();

    let mut bytes = vec![0; 1 << 16];
    let mut writer = TakeoverWriter::new(&mut bytes).unwrap();
    tdx.write_takeover(&mut writer).unwrap();
    writer.entry(Entry::Cpu(0)).unwrap();
    let entry = Entry::Td { td: 1, state: TdState::Keyed, tdr: td.tdr(), key_id: Some(td.key_id()) };
    writer.entry(entry).unwrap();
    let global_key_id = tdx.platform().unwrap().global_key_id();
    let used = writer.finish(&TakeoverFacts { global_key_id, ..FACTS });
    let table = TakeoverTable::read(&bytes[..used]).unwrap();
    let tdmrs: Vec<_> = tdx.layout().unwrap().tdmrs().iter().map(tdx_host::layout::Tdmr::range).collect();
    assert_eq!(table.tdmrs().collect::<Vec<_>>(), tdmrs);
    assert_eq!(table.pamts().collect::<Vec<_>>(), tdx.pamt_ranges().collect::<Vec<_>>());
    assert_eq!(table.marked().collect::<Vec<_>>(), ledger.marked().collect::<Vec<_>>());
    let mut words = words(&table);
    let claims = table.claim(&mut words).unwrap();
    // The control page, which the kernel did not list.
    assert_eq!(claims.without_owner(&table).map(PageRange::pages).sum::<u64>(), 1);
}

/// What a table takes on a host of 2 TiB and 256 CPUs with 64 TDs of 24 GiB in 2 MiB pages and 16
/// VCPUs each, if the pages of a TD lie in `pieces`. Guest pages are not listed: the module tells
/// them.
fn bytes_of_2_tib(pieces: u64) -> usize {
    let (tds, vcpus, pages_of_td) = (64, 16, 24 * GIB);
    let mut bytes = vec![0; 64 << 20];
    let mut writer = TakeoverWriter::new(&mut bytes).unwrap();
    let mut add = |entry: Entry| writer.entry(entry).unwrap();
    for half in 0..2 {
        add(Entry::Tdmr(range(half * 1024 * GIB, (half + 1) * 1024 * GIB)));
    }
    for table in 0..6 {
        add(Entry::Pamt(range(1024 + table * 4096, 1024 + (table + 1) * 4096)));
    }
    // A hole behind each piece.
    let (first, piece) = (GIB, pages_of_td / pieces);
    for number in 0..tds * pieces {
        let start = first + number * (piece + 1);
        add(Entry::Marked(range(start, start + piece)));
    }
    (0..256).for_each(|cpu| add(Entry::Cpu(cpu)));
    let page = |td: u32, number: u64| Page::new(first + u64::from(td) * pages_of_td + number);
    for td in 1..=tds as u32 {
        add(Entry::Td { td, state: TdState::Runnable, tdr: page(td, 0), key_id: Some(KeyId::new(33 + td as u16)) });
    }
    for td in 1..=tds as u32 {
        (0..6).for_each(|number| add(Entry::ControlPage { td, page: page(td, 1 + number) }));
    }
    for td in 1..=tds as u32 {
        (0..vcpus).for_each(|vcpu| add(Entry::Vcpu { td, vcpu, page: page(td, 10 + 6 * u64::from(vcpu)) }));
    }
    for td in 1..=tds as u32 {
        let pages = (0..vcpus).flat_map(|vcpu| (1..6).map(move |number| (vcpu, number)));
        pages.for_each(|(vcpu, number)| {
            add(Entry::VcpuPage { td, vcpu, page: page(td, 10 + 6 * u64::from(vcpu) + number) });
        });
    }
    for td in 1..=tds as u32 {
        // A page of Secure EPT for each GiB, and three above them.
        (0..24 + 3).for_each(|gib| add(Entry::SeptPage { td, level: 1, page: page(td, 200 + gib), gpa: gib << 30 }));
    }
    writer.finish(&FACTS)
}

/// docs/takeover.md has these figures.
#[test]
fn a_table_of_2_tib_has_this_size() {
    let fixed = 64 + 32 * (2 + 6 + 256 + 64 * (1 + 6 + 16 + 16 * 5 + 27));
    for (pieces, ranges) in [(1, 64), (24, 1536), (24 * 512, 786_432)] {
        assert_eq!(bytes_of_2_tib(pieces), fixed + 32 * ranges);
    }
    assert_eq!(fixed, 274_752);
}
