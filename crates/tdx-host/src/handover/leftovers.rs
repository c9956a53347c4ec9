//! The table of leftovers: what the next kernel must not touch, in memory that the caller reserves
//! for it (for a crash kernel: its own). Writer and reader of one binary layout. Fails closed: a
//! table that is not complete means that all old memory may be private.

use tdx_abi::{MAX_PHYS_BITS, PageRange, PhysAddr};

use super::memory::HostMemory;
use super::report::{HandoverReport, Leftover, LeftoverKind, LeftoverReason};
use super::suspects::Suspects;
use crate::crc32c::Crc;

const MAGIC: [u8; 8] = *b"TDXLEFT\0";
const VERSION: u16 = 1;
const COMPLETE: u16 = 1;
const ALL_PRIVATE: u16 = 2;
const HEADER: usize = 32;
const ENTRY: usize = 24;
const CHECKSUM_AT: usize = 28;

/// What stands in a table.
#[derive(Clone, Debug)]
pub enum OldMemory<'t> {
    /// These leftovers, and nothing else.
    Listed(Leftovers<'t>),
    /// Any page of the old kernel's memory may be private.
    AllPrivate,
}

/// A table that was read and found whole; [`LeftoverTable::write`] makes one.
///
/// # Layout, version 1
///
/// Little-endian, at any alignment. 32 bytes of header, then `count` entries of 24 bytes.
///
/// | offset | bytes | header |
/// | --- | --- | --- |
/// | 0 | 8 | `TDXLEFT` and a zero byte |
/// | 8 | 2 | version: 1 |
/// | 10 | 2 | 1: the list is complete; 2: there is no list, all old memory may be private |
/// | 12 | 4 | bytes of header and entries |
/// | 16 | 4 | number of entries; 0 without a list |
/// | 20 | 4 | CPUs that did not stop |
/// | 24 | 4 | CPUs whose caches may hold private lines |
/// | 28 | 4 | CRC-32C (polynomial 0x82F63B78 reflected, start and final XOR all ones) of header and entries, this field 0 |
///
/// | offset | bytes | entry |
/// | --- | --- | --- |
/// | 0 | 8 | physical address of the first byte, a multiple of 4096 |
/// | 8 | 8 | physical address after the last byte, a multiple of 4096, above the first and at most 2^52 |
/// | 16 | 4 | kind: 1 PAMT, 2 page of a TD |
/// | 20 | 4 | reason: 1 not reset, 2 a CPU may still write private lines back, 3 in memory that is never touched, 4 in no mapping of the old kernel |
///
/// A kernel writes [`LeftoverTable::all_private`] when it reserves the memory: a handover that does
/// not come to its end then leaves that word behind. A machine without a table, or with one that
/// does not read, is to be treated alike.
#[derive(Clone, Debug)]
pub struct LeftoverTable<'t> {
    /// What is left.
    pub old_memory: OldMemory<'t>,
    /// CPUs that did not stop.
    pub not_stopped: u32,
    /// CPUs whose caches may hold private lines.
    pub may_hold_private_lines: u32,
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes of the table in use.
    pub bytes: usize,
    /// Entries; `None` if there was no room for all of them, and the table says that all old memory
    /// may be private.
    pub entries: Option<u32>,
}

/// Why a table cannot be written or read. The next kernel treats all old memory as private.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Not even the header has room.
    #[error("the table of leftovers has {given} bytes, it needs {HEADER} at least")]
    TooSmall {
        /// Bytes given.
        given: usize,
    },
    /// There is no table.
    #[error("there is no table of leftovers here")]
    NoTable,
    /// Another version.
    #[error("table of leftovers of version {version}, only version {VERSION} is known")]
    Version {
        /// Its version.
        version: u16,
    },
    /// The header contradicts itself or the memory it stands in.
    #[error("the table of leftovers has a bad header: {bytes} bytes, {count} entries, flags {flags:#x}")]
    Header {
        /// Bytes.
        bytes: u32,
        /// Entries.
        count: u32,
        /// Flags.
        flags: u16,
    },
    /// It was written half-way or overwritten.
    #[error("the table of leftovers has checksum {written:#010x}, its bytes have {computed:#010x}")]
    Checksum {
        /// In the header.
        written: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// An entry that no writer writes.
    #[error("entry {index} of the table of leftovers is not valid")]
    Entry {
        /// Its index.
        index: u32,
    },
}

impl<'t> LeftoverTable<'t> {
    /// Writes what a handover left. Walks the leftovers once; no allocation, no panic: for the
    /// crash path.
    ///
    /// If the report is not of `memory`, or the CPUs did not pass its gate, the table says that all
    /// old memory may be private.
    ///
    /// # Errors
    /// [`TableError::TooSmall`]; then whatever stood there is wiped out.
    pub fn write(table: &mut [u8], report: &HandoverReport, memory: &HostMemory<'_>) -> Result<Written, TableError> {
        if !report.is_of(memory) {
            begin(table)?;
            return finish(table, ALL_PRIVATE, 0, &report.suspects);
        }
        Self::write_list(table, report.leftovers(memory), &report.suspects)
    }

    /// Writes a list that the caller has made: for a kernel whose handover is not that of this
    /// crate.
    ///
    /// # Errors
    /// As [`LeftoverTable::write`].
    pub fn write_list(
        table: &mut [u8],
        leftovers: impl IntoIterator<Item = Leftover>,
        suspects: &Suspects,
    ) -> Result<Written, TableError> {
        let room = begin(table)?;
        let mut places = room.chunks_exact_mut(ENTRY);
        let mut count = 0u32;
        for leftover in leftovers {
            let Some(place) = places.next() else {
                return finish(table, ALL_PRIVATE, 0, suspects);
            };
            put_entry(place, &leftover);
            count = count.saturating_add(1);
        }
        finish(table, COMPLETE, count, suspects)
    }

    /// Writes that all old memory may be private.
    ///
    /// # Errors
    /// As [`LeftoverTable::write`].
    pub fn all_private(table: &mut [u8]) -> Result<Written, TableError> {
        begin(table)?;
        finish(table, ALL_PRIVATE, 0, &Suspects::default())
    }

    /// Reads a table and checks all of it.
    ///
    /// # Errors
    /// [`TableError`]: nothing of it can be relied on.
    pub fn read(memory: &'t [u8]) -> Result<Self, TableError> {
        let header: &[u8; HEADER] = memory.first_chunk().ok_or(TableError::TooSmall { given: memory.len() })?;
        if !header.starts_with(&MAGIC) {
            return Err(TableError::NoTable);
        }
        let version = u16_at(header, 8);
        if version != VERSION {
            return Err(TableError::Version { version });
        }
        let (flags, bytes, count) = (u16_at(header, 10), u32_at(header, 12), u32_at(header, 16));
        let bad = TableError::Header { bytes, count, flags };
        let fits = matches!(flags, COMPLETE | ALL_PRIVATE)
            && (flags == COMPLETE || count == 0)
            && u64::from(bytes) == HEADER as u64 + u64::from(count) * ENTRY as u64;
        let whole = memory.get(..bytes as usize).filter(|_| fits).ok_or(bad)?;
        let entries = whole.get(HEADER..).ok_or(bad)?;
        let (written, computed) = (u32_at(header, CHECKSUM_AT), checksum(header, entries));
        if written != computed {
            return Err(TableError::Checksum { written, computed });
        }
        for (index, entry) in (0..).zip(entries.chunks_exact(ENTRY)) {
            get_entry(entry).ok_or(TableError::Entry { index })?;
        }
        let old_memory = match flags {
            COMPLETE => OldMemory::Listed(Leftovers { entries }),
            _ => OldMemory::AllPrivate,
        };
        Ok(Self { old_memory, not_stopped: u32_at(header, 20), may_hold_private_lines: u32_at(header, 24) })
    }
}

/// Iterator over the entries of a table.
#[derive(Clone, Debug)]
pub struct Leftovers<'t> {
    entries: &'t [u8],
}

impl Iterator for Leftovers<'_> {
    type Item = Leftover;

    fn next(&mut self) -> Option<Leftover> {
        let (entry, rest) = self.entries.split_at_checked(ENTRY)?;
        self.entries = rest;
        get_entry(entry)
    }
}

/// Takes the old table's validity away and gives the room for entries.
fn begin(table: &mut [u8]) -> Result<&mut [u8], TableError> {
    let given = table.len();
    if given < HEADER {
        table.fill(0);
    }
    let (header, room) = table.split_at_mut_checked(HEADER).ok_or(TableError::TooSmall { given })?;
    header.fill(0);
    Ok(room)
}

/// The header, after the entries.
fn finish(table: &mut [u8], flags: u16, count: u32, suspects: &Suspects) -> Result<Written, TableError> {
    let given = table.len();
    let bytes = HEADER + count as usize * ENTRY;
    // The field has 32 bits; a table that needs more says that all is private.
    let Ok(bytes_field) = u32::try_from(bytes) else {
        return finish(table, ALL_PRIVATE, 0, suspects);
    };
    let mut header = [0; HEADER];
    let fields: [(usize, &[u8]); 7] = [
        (0, &MAGIC),
        (8, &VERSION.to_le_bytes()),
        (10, &flags.to_le_bytes()),
        (12, &bytes_field.to_le_bytes()),
        (16, &count.to_le_bytes()),
        (20, &suspects.not_stopped.to_le_bytes()),
        (24, &suspects.may_hold_private_lines.to_le_bytes()),
    ];
    for (at, field) in fields {
        put(&mut header, at, field);
    }
    let entries = table.get(HEADER..bytes).ok_or(TableError::TooSmall { given })?;
    let sum = checksum(&header, entries);
    put(&mut header, CHECKSUM_AT, &sum.to_le_bytes());
    put(table, 0, &header);
    Ok(Written { bytes, entries: (flags == COMPLETE).then_some(count) })
}

fn put_entry(place: &mut [u8], leftover: &Leftover) {
    let kind: u32 = match leftover.kind {
        LeftoverKind::Pamt => 1,
        LeftoverKind::Page => 2,
    };
    let reason: u32 = match leftover.reason {
        LeftoverReason::NotReset => 1,
        LeftoverReason::CachesNotWrittenBack => 2,
        LeftoverReason::Reserved => 3,
        LeftoverReason::NotMapped => 4,
    };
    put(place, 0, &leftover.range.base().get().to_le_bytes());
    put(place, 8, &leftover.range.limit().get().to_le_bytes());
    put(place, 16, &kind.to_le_bytes());
    put(place, 20, &reason.to_le_bytes());
}

fn get_entry(entry: &[u8]) -> Option<Leftover> {
    let (base, limit) = (u64_at(entry, 0), u64_at(entry, 8));
    if base >= limit || limit > 1 << MAX_PHYS_BITS {
        return None;
    }
    let range = PageRange::from_addresses(PhysAddr::new(base), PhysAddr::new(limit)).ok()?;
    let kind = match u32_at(entry, 16) {
        1 => LeftoverKind::Pamt,
        2 => LeftoverKind::Page,
        _ => return None,
    };
    let reason = match u32_at(entry, 20) {
        1 => LeftoverReason::NotReset,
        2 => LeftoverReason::CachesNotWrittenBack,
        3 => LeftoverReason::Reserved,
        4 => LeftoverReason::NotMapped,
        _ => return None,
    };
    Some(Leftover { range, kind, reason })
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

/// Bytes out of range read as 0: callers pass whole headers and entries.
fn bytes_at<const B: usize>(bytes: &[u8], at: usize) -> [u8; B] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; B])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// CRC-32C of a header, whose own checksum counts as 0, and the entries.
fn checksum(header: &[u8; HEADER], entries: &[u8]) -> u32 {
    let (before, own) = header.split_at(CHECKSUM_AT);
    own.iter().fold(Crc::new().add(before), |crc, _| crc.add(&[0])).add(entries).end()
}
