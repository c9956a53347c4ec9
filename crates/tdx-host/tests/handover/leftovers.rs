//! The table for the next kernel: written and read, and never read from anything that was not
//! written.

use crate::promise;
use crate::world::{World, pages};
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;
use tdx_abi::Leaf;
use tdx_host::handover::{
    KexecKind, Leftover, LeftoverKind, LeftoverReason, LeftoverTable, OldMemory, Policy, TableError, Written,
};
use tdx_host::ledger::Ledger;
use tdx_host::platform::CpuId;

const HEADER: usize = 32;

/// A kexec jump leaves all of it: PAMT and two ranges of pages. Three entries.
fn written(room: usize) -> (Result<Written, TableError>, Vec<u8>) {
    let world = World::new(1).with_pages();
    let report = world.kexec(Policy::Tracked, KexecKind::Jump);
    let mut table = vec![0xa5; room];
    (LeftoverTable::write(&mut table, &report, &world.memory()), table)
}

fn listed(table: &[u8]) -> Vec<Leftover> {
    match LeftoverTable::read(table).unwrap().old_memory {
        OldMemory::Listed(leftovers) => leftovers.collect(),
        OldMemory::AllPrivate => panic!("no list"),
    }
}

#[test]
fn what_was_left_is_read_back() {
    let (result, table) = written(200);
    assert_eq!(result, Ok(Written { bytes: 32 + 3 * 24, entries: Some(3) }));
    let left = |range, kind| Leftover { range, kind, reason: LeftoverReason::NotReset };
    let expected = [
        left(pages(16, 20), LeftoverKind::Pamt),
        left(pages(600, 602), LeftoverKind::Page),
        left(pages(1024, 1100), LeftoverKind::Page),
    ];
    assert_eq!(listed(&table), expected);
}

/// What lies in memory that is never written is left as well, and says so.
#[test]
fn untouched_memory_is_listed_with_its_reason() {
    let world = World::new(1).with_pages().reserving(&[pages(1030, 1040)]);
    let report = world.crash(Policy::Tracked);
    let mut table = vec![0; 200];
    LeftoverTable::write(&mut table, &report, &world.memory()).unwrap();
    let reason = LeftoverReason::Reserved;
    assert_eq!(listed(&table), [Leftover { range: pages(1030, 1040), kind: LeftoverKind::Page, reason }]);
}

/// The ledger of a host has the host's reserved memory, too.
#[test]
fn reserved_memory_is_listed_once() {
    let world = World::new(1).reserving(&[pages(17, 18)]);
    let words: Vec<_> = (0..Ledger::words_needed([pages(512, 1536)])).map(|_| AtomicU64::new(0)).collect();
    world.host.follow([pages(512, 1536)], words.leak()).unwrap();
    let report = world.host.crash(Policy::Tracked, &world.cpu(0), &world);
    let left: Vec<_> = report.leftovers(&world.host.memory()).collect();
    let reason = LeftoverReason::Reserved;
    assert_eq!(left, [Leftover { range: pages(17, 18), kind: LeftoverKind::Pamt, reason }]);
}

/// Every byte by hand, from the description of the layout.
#[test]
fn the_layout_is_the_documented_one() {
    let (_, table) = written(200);
    assert_eq!(table[..8], *b"TDXLEFT\0");
    assert_eq!(table[8..28], [1, 0, 1, 0, 104, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(table[32..56], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    assert!(table[104..].iter().all(|byte| *byte == 0xa5), "nothing is written behind the table");
}

#[test]
fn a_clean_handover_leaves_an_empty_list() {
    let world = World::new(1).with_pages();
    let report = world.crash(Policy::Tracked);
    let mut table = [0; HEADER];
    let result = LeftoverTable::write(&mut table, &report, &world.memory());
    assert_eq!(result, Ok(Written { bytes: HEADER, entries: Some(0) }));
    assert_eq!(listed(&table), []);
}

#[test]
fn a_cpu_that_did_not_stop_is_counted_in_the_header() {
    let mut world = World::new(3).with_pages();
    world.stuck = vec![1, 2];
    drop(promise::cpu_gate(world.gate(), CpuId(2)).enter(Leaf::VP_ENTER).unwrap());
    let report = world.crash(Policy::Tracked);
    let mut table = [0; 200];
    LeftoverTable::write(&mut table, &report, &world.memory()).unwrap();
    let read = LeftoverTable::read(&table).unwrap();
    assert_eq!((read.not_stopped, read.may_hold_private_lines), (2, 1));
    assert!(listed(&table).iter().all(|left| left.reason == LeftoverReason::CachesNotWrittenBack));
}

#[test]
fn a_table_without_room_for_all_says_that_all_is_private() {
    for room in HEADER..104 {
        let (result, table) = written(room);
        assert_eq!(result, Ok(Written { bytes: HEADER, entries: None }), "{room} bytes");
        assert!(matches!(LeftoverTable::read(&table).unwrap().old_memory, OldMemory::AllPrivate));
    }
    for room in 0..HEADER {
        let (result, table) = written(room);
        assert_eq!(result, Err(TableError::TooSmall { given: room }));
        assert!(table.iter().all(|byte| *byte == 0), "what stood there is no table any more");
    }
}

#[test]
fn a_handover_that_never_ends_leaves_the_word_of_boot() {
    let mut table = [0; 64];
    LeftoverTable::all_private(&mut table).unwrap();
    assert!(matches!(LeftoverTable::read(&table).unwrap().old_memory, OldMemory::AllPrivate));
}

/// The checksum as the reader wants it, by another rendering of CRC-32C: by a table of bytes.
fn seal(table: &mut [u8], bytes: usize) {
    let by_byte: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }))
        .collect();
    table[28..32].fill(0);
    let crc = table[..bytes].iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ by_byte[(crc as u8 ^ byte) as usize]);
    table[28..32].copy_from_slice(&(!crc).to_le_bytes());
}

#[test]
fn each_rule_has_its_error() {
    let (_, good) = written(104);
    let with = |at: usize, bytes: &[u8]| {
        let mut table = good.clone();
        table[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut table, 104);
        LeftoverTable::read(&table).map(|_| ())
    };
    assert_eq!(with(0, b"TDX"), Ok(()), "sealed by the test's own checksum");
    assert_eq!(with(0, b"tdx"), Err(TableError::NoTable));
    assert_eq!(with(8, &[2]), Err(TableError::Version { version: 2 }));
    for flags in [0u16, 2, 3, 0x101] {
        assert_eq!(with(10, &flags.to_le_bytes()), Err(TableError::Header { bytes: 104, count: 3, flags }));
    }
    for bytes in [0u32, 31, 103, 105, 128, u32::MAX] {
        assert_eq!(with(12, &bytes.to_le_bytes()), Err(TableError::Header { bytes, count: 3, flags: 1 }));
    }
    for count in [0u32, 2, 4, u32::MAX] {
        assert_eq!(with(16, &count.to_le_bytes()), Err(TableError::Header { bytes: 104, count, flags: 1 }));
    }
    let entry = 32 + 24;
    let bad = Err(TableError::Entry { index: 1 });
    for (at, value) in [
        (0, 600 * 4096 + 1),   // not a page
        (0, 600 * 4096 + 64),  // not a page
        (0, 602 * 4096),       // empty
        (0, 603 * 4096),       // backwards
        (8, 602 * 4096 - 1),   // not a page
        (8, (1 << 52) + 4096), // no such address
        (8, u64::MAX),
    ] {
        assert_eq!(with(entry + at, &u64::to_le_bytes(value)), bad, "{at} {value:#x}");
    }
    assert_eq!(with(entry + 8, &u64::to_le_bytes(1 << 52)), Ok(()));
    for (at, value) in [(16, 0), (16, 3), (20, 0), (20, 5), (16, u32::MAX)] {
        assert_eq!(with(entry + at, &u32::to_le_bytes(value)), bad);
    }
}

proptest! {
    /// Not one bit can change unseen, and no table can be cut short.
    #[test]
    fn a_changed_table_does_not_read(at in 0usize..104, flip in 1u8..) {
        let (_, mut table) = written(104);
        prop_assert!(LeftoverTable::read(&table[..at]).is_err());
        table[at] ^= flip;
        prop_assert!(LeftoverTable::read(&table).is_err());
    }

    /// Arbitrary bytes do not panic, and are no table.
    #[test]
    fn noise_is_no_table(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(LeftoverTable::read(&noise).is_err());
    }

    /// Nor are they behind a proper magic, version and length.
    #[test]
    fn noise_behind_a_good_header_is_no_table(mut noise in prop::collection::vec(any::<u8>(), 32..300)) {
        let count = (noise.len() - 32) / 24;
        let bytes = 32 + count * 24;
        noise[..12].copy_from_slice(b"TDXLEFT\0\x01\0\x01\0");
        noise[12..16].copy_from_slice(&(bytes as u32).to_le_bytes());
        noise[16..20].copy_from_slice(&(count as u32).to_le_bytes());
        let is_checksum = matches!(LeftoverTable::read(&noise), Err(TableError::Checksum { .. }));
        prop_assert!(is_checksum);
        // Even with a good checksum the entries are looked at: noise is no address.
        seal(&mut noise, bytes);
        let read = LeftoverTable::read(&noise).map(|_| ());
        prop_assert_eq!(read, if count == 0 { Ok(()) } else { Err(TableError::Entry { index: 0 }) });
    }
}
