//! The reader: believes nothing that it has not checked.

use tdx_abi::{KeyId, MAX_TDMRS, Page, PageRange, PageSize, intersect, subtract};

use super::entry::Entry;
use super::write::{TakeoverFacts, follows};
use super::{CHECKSUM_AT, ENTRY, HEADER, MAGIC, TakeoverError, VERSION, WrittenBy};
use crate::crc32c::Crc;
use crate::ledger::{Ledger, MarkError};
use crate::sync::{AtomicU64, Ordering};

/// Words of [`TakeoverTable::claim`] for KeyIDs: a bit for each, and as many again, which the
/// KeyIDs of [`crate::Host::take_over`] need.
const KEY_ID_WORDS: usize = 2 * (1 << 16) / 64;

/// A table that was read and whose entries hold to every rule of the layout.
#[derive(Clone, Copy, Debug)]
pub struct TakeoverTable<'t> {
    /// What its header says.
    pub facts: TakeoverFacts,
    entries: &'t [u8],
}

/// Iterator over the entries of a table.
#[derive(Clone, Debug)]
pub struct Entries<'t> {
    rest: &'t [u8],
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let (entry, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Entry::from_bytes(entry)
    }
}

impl<'t> TakeoverTable<'t> {
    /// Reads a table and checks all of it, in one walk for each list of ranges: the time grows with
    /// the entries and not with their square.
    ///
    /// # Errors
    /// [`TakeoverError`]: nothing of it can be relied on.
    pub fn read(memory: &'t [u8]) -> Result<Self, TakeoverError> {
        let given = memory.len();
        let (header, rest) =
            memory.split_first_chunk::<HEADER>().ok_or(TakeoverError::TooSmall { given, entries: 0 })?;
        if !header.starts_with(&MAGIC) {
            return Err(TakeoverError::NoTable);
        }
        let field = |at: usize, bytes: usize| {
            let bytes = header.get(at..at + bytes).unwrap_or_default();
            bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let version = field(8, 2) as u16;
        if version != VERSION {
            return Err(TakeoverError::Version { version });
        }
        let (written_by, entry_bytes, count) = (field(10, 2) as u16, field(12, 4) as u32, field(16, 8));
        let bad = TakeoverError::Header { entries: count, entry_bytes, written_by };
        let by = match written_by {
            1 => WrittenBy::Kexec,
            2 => WrittenBy::Crash,
            _ => return Err(bad),
        };
        if entry_bytes as usize != ENTRY || field(42, 2) != 0 || field(52, 8) != 0 {
            return Err(bad);
        }
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(ENTRY)).ok_or(bad)?;
        let entries = rest.get(..bytes).ok_or(bad)?;
        let covered = header.get(..CHECKSUM_AT).unwrap_or_default();
        let (written, computed) = (field(CHECKSUM_AT, 4) as u32, Crc::new().add(entries).add(covered).end());
        if written != computed {
            return Err(TakeoverError::Checksum { written, computed });
        }
        let facts = TakeoverFacts {
            written_by: by,
            tsc_adjust: field(24, 8),
            tsc: field(32, 8),
            global_key_id: KeyId::new(field(40, 2) as u16),
            not_stopped: field(44, 4) as u32,
            may_hold_private_lines: field(48, 4) as u32,
        };
        let table = Self { facts, entries };
        table.check_entries()?;
        table.check_ranges()?;
        Ok(table)
    }

    /// All entries, in the order of the table.
    pub const fn entries(&self) -> Entries<'t> {
        Entries { rest: self.entries }
    }

    /// TDMRs, ascending.
    pub fn tdmrs(&self) -> impl Iterator<Item = PageRange> + Clone + use<'t> {
        self.entries().filter_map(|entry| if let Entry::Tdmr(range) = entry { Some(range) } else { None })
    }

    /// PAMTs, ascending.
    pub fn pamts(&self) -> impl Iterator<Item = PageRange> + Clone + use<'t> {
        self.entries().filter_map(|entry| if let Entry::Pamt(range) = entry { Some(range) } else { None })
    }

    /// Pages that may be private, PAMTs apart, ascending: what the next kernel must not touch.
    pub fn marked(&self) -> impl Iterator<Item = PageRange> + Clone + use<'t> {
        self.entries().filter_map(|entry| if let Entry::Marked(range) = entry { Some(range) } else { None })
    }

    /// Of these, pages that the module may not know.
    pub fn unknown_to_module(&self) -> impl Iterator<Item = PageRange> + Clone + use<'t> {
        self.entries().filter_map(|entry| if let Entry::UnknownToModule(range) = entry { Some(range) } else { None })
    }

    /// VCPUs of a TD: their numbers and their TDVPR pages.
    pub fn vcpus(&self, of: u32) -> impl Iterator<Item = (u16, Page)> + Clone + use<'t> {
        // Entries of a kind stand together.
        let from_first = self.entries().skip_while(|entry| !matches!(entry, Entry::Vcpu { .. }));
        let all = from_first.map_while(|entry| match entry {
            Entry::Vcpu { td, vcpu, page } => Some((td, vcpu, page)),
            _ => None,
        });
        all.filter_map(move |(td, vcpu, page)| (td == of).then_some((vcpu, page)))
    }

    /// Number of TDs.
    pub fn tds(&self) -> u64 {
        self.entries().filter(|entry| matches!(entry, Entry::Td { .. })).count() as u64
    }

    /// Each entry by itself, and after the one before it.
    fn check_entries(&self) -> Result<(), TakeoverError> {
        let (chunks, _) = self.entries.as_chunks::<ENTRY>();
        let mut last: Option<Entry> = None;
        let (mut tdmrs, mut tds) = (0, 0u64);
        for (index, bytes) in (0..).zip(chunks) {
            let entry = Entry::from_bytes(bytes).ok_or(TakeoverError::Entry { index })?;
            if !follows(last.as_ref(), &entry) {
                return Err(TakeoverError::Order { index });
            }
            match entry {
                Entry::Tdmr(range) => {
                    tdmrs += 1;
                    let gib = PageSize::Size1G.pages();
                    let aligned = [range.start(), range.end()].iter().all(|page| page.index().is_multiple_of(gib));
                    if !aligned || tdmrs > MAX_TDMRS {
                        return Err(TakeoverError::Tdmr { index });
                    }
                }
                Entry::Td { .. } => tds += 1,
                _ => {}
            }
            let key = match entry {
                Entry::LostKeyId(key) => Some(key),
                Entry::Td { key_id, .. } => key_id,
                _ => None,
            };
            if let Some(key) = key.filter(|key| *key == KeyId::HOST || *key == self.facts.global_key_id) {
                return Err(TakeoverError::KeyId { index, key });
            }
            // Entries of TDs come after all TDs.
            if let Some(td) = entry.td().filter(|td| u64::from(*td) > tds) {
                return Err(TakeoverError::NoSuchTd { index, td, tds });
            }
            last = Some(entry);
        }
        Ok(())
    }

    /// Marks lie in TDMRs and in no PAMT, unknown pages are marked.
    fn check_ranges(&self) -> Result<(), TakeoverError> {
        let index = |wanted: PageRange, kind: fn(PageRange) -> Entry| {
            let at = self.entries().position(|entry| {
                entry.kind() == kind(wanted).kind() && entry.range().is_some_and(|range| range.overlaps(wanted))
            });
            TakeoverError::Pages { index: at.unwrap_or(0) as u64 }
        };
        let outside = subtract(self.marked(), self.tdmrs()).next();
        let in_pamt = intersect(self.marked(), self.pamts()).next();
        if let Some(range) = outside.or(in_pamt) {
            return Err(index(range, Entry::Marked));
        }
        match subtract(self.unknown_to_module(), self.marked()).next() {
            Some(range) => Err(index(range, Entry::UnknownToModule)),
            None => Ok(()),
        }
    }

    /// 64-bit words that [`TakeoverTable::claim`] needs: 0.0062 % of the memory that the TDMRs
    /// cover. Before it allocates them, the kernel compares [`TakeoverTable::tdmrs`] with its
    /// memory map, which this crate does not know.
    pub fn claim_words(&self) -> u64 {
        KEY_ID_WORDS as u64 + Ledger::words_needed(self.tdmrs())
    }

    /// Claims each page for the entry that has it: no page and no KeyID has two owners, and each
    /// page is marked.
    ///
    /// # Errors
    /// [`TakeoverError`]: nothing of the table can be relied on.
    pub fn claim<'m>(&self, words: &'m mut [AtomicU64]) -> Result<Claims<'m>, TakeoverError> {
        let given = words.len() as u64;
        let too_small = crate::ledger::LedgerError::TooSmall { needed: self.claim_words(), given };
        let (keys, words) = words.split_at_mut_checked(KEY_ID_WORDS).ok_or(TakeoverError::Claims(too_small))?;
        for word in keys.iter() {
            word.store(0, Ordering::Relaxed);
        }
        let ledger = Ledger::new(self.tdmrs(), words).map_err(TakeoverError::Claims)?;
        for (index, entry) in (0..).zip(self.entries()) {
            let key = match entry {
                Entry::LostKeyId(key) => Some(key),
                Entry::Td { key_id, .. } => key_id,
                _ => None,
            };
            if let Some(key) = key
                && let Some(word) = keys.get(usize::from(key.get()) / 64)
            {
                let bit = 1 << (key.get() % 64);
                if word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                    return Err(TakeoverError::KeyIdTwice { index, key });
                }
            }
            for range in entry.pages().into_iter().filter(|range| !range.is_empty()) {
                // SAFETY: a ledger of claims, in memory of the caller's: no handover looks at it.
                match unsafe { ledger.give(range) } {
                    Ok(()) => {}
                    Err(MarkError::WrongState { page, .. }) => return Err(TakeoverError::PageTwice { index, page }),
                    Err(_) => return Err(TakeoverError::Pages { index }),
                }
            }
        }
        let claims = Claims { ledger };
        if let Some(range) = subtract(claims.claimed(), self.marked()).next() {
            let has = |entry: &Entry| entry.pages().into_iter().any(|pages| pages.overlaps(range));
            let index = self.entries().position(|entry| has(&entry)).unwrap_or(0) as u64;
            return Err(TakeoverError::Pages { index });
        }
        Ok(claims)
    }
}

/// Which pages have an owner by the table.
#[derive(Debug)]
pub struct Claims<'m> {
    ledger: Ledger<'m>,
}

impl Claims<'_> {
    /// Pages that a TD or a pair has, ascending.
    pub fn claimed(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.ledger.marked()
    }

    /// Marked pages that the table gives to nobody, ascending: returned, in flight, leaked, or of a
    /// TD that the old kernel did not list. TDH.PHYMEM.PAGE.RDMD says whose they are.
    pub fn without_owner<'c>(&'c self, table: &TakeoverTable<'c>) -> impl Iterator<Item = PageRange> + 'c {
        subtract(table.marked(), self.claimed())
    }
}
