//! The writer: at the crash, without a lock, an allocation or a walk over the ledger.

use tdx_abi::PhysAddr;

use super::{
    CHECKSUM_AT, DumpError, HEADER, INDEX_ENTRIES, LISTED, MAGIC, PAGE_WORDS, RESET, ROOT_WORDS, VERSION,
    index_checksum, root_checksum,
};
use crate::handover::HostMemory;
use crate::ledger::Ledger;
use crate::sync::AtomicU64;

/// What was prepared for a table before the crash.
#[derive(Clone, Copy, Debug)]
pub struct DumpPlace<'p> {
    /// The address of the root.
    pub root: PhysAddr,
    /// A number that no other table has.
    pub nonce: u64,
    /// The memory of the ledger, whole pages.
    pub ledger: &'p [AtomicU64],
    /// Addresses of the pages of the index, made by [`write_index_page`].
    pub index: &'p [u64],
}

/// Makes the page `number` of the index: `entries` are the addresses of the next pages of the
/// ledger's memory, [`INDEX_ENTRIES`] but for the last page.
///
/// # Errors
/// [`DumpError::Full`]: there are more; nothing was written.
pub fn write_index_page(
    page: &mut [u64; PAGE_WORDS],
    number: u64,
    nonce: u64,
    entries: &[u64],
) -> Result<(), DumpError> {
    let (places, last) = page.split_at_mut(INDEX_ENTRIES);
    let (used, rest) = places.split_at_mut_checked(entries.len()).ok_or(DumpError::Full { needed: entries.len() })?;
    used.iter_mut().zip(entries).for_each(|(place, entry)| *place = *entry);
    rest.fill(0);
    last.fill(index_checksum(number, nonce, places));
    Ok(())
}

impl DumpPlace<'_> {
    /// Writes that what `memory` has marked stays private, and where it is. The time does not
    /// depend on how much that is.
    ///
    /// # Errors
    /// [`DumpError`]; then there is no table.
    pub fn write(&self, root: &mut [u64], memory: &HostMemory<'_>) -> Result<(), DumpError> {
        let mut writer = Writer::begin(root)?;
        let (mut segments, mut pamts) = (0u64, 0u64);
        for (range, leaf) in memory.ledger().into_iter().flat_map(Ledger::leaves) {
            let base = self.ledger.as_ptr_range();
            let leaf = leaf.as_ptr_range();
            if leaf.start < base.start || leaf.end > base.end {
                return Err(DumpError::Elsewhere);
            }
            let first = (leaf.start.addr() - base.start.addr()) / size_of::<AtomicU64>();
            writer.put(&[range.start().index(), range.end().index(), first as u64]);
            segments += 1;
        }
        for range in memory.pamts() {
            writer.put(&[range.start().index(), range.end().index()]);
            pamts += 1;
        }
        writer.put(self.index);
        let pages = self.ledger.len().div_ceil(PAGE_WORDS);
        if pages.div_ceil(INDEX_ENTRIES) != self.index.len() {
            return Err(DumpError::Elsewhere);
        }
        writer.finish(self, LISTED, segments, pamts, pages as u64)
    }

    /// Writes that nothing is private: it was reset.
    ///
    /// # Errors
    /// [`DumpError`]; then there is no table.
    pub fn write_reset(&self, root: &mut [u64]) -> Result<(), DumpError> {
        Writer::begin(root)?.finish(self, RESET, 0, 0, 0)
    }
}

/// Words on their way into a root.
struct Writer<'r> {
    root: &'r mut [u64],
    /// Words that were put there, whether or not they had room.
    used: usize,
}

impl<'r> Writer<'r> {
    /// Takes the old table's validity away.
    fn begin(root: &'r mut [u64]) -> Result<Self, DumpError> {
        root.iter_mut().take(HEADER).for_each(|word| *word = 0);
        if root.len() != ROOT_WORDS {
            return Err(DumpError::Size { given: root.len() });
        }
        Ok(Self { root, used: HEADER })
    }

    fn put(&mut self, words: &[u64]) {
        let end = self.used.saturating_add(words.len());
        if let Some(place) = self.root.get_mut(self.used..end) {
            place.iter_mut().zip(words).for_each(|(place, word)| *place = *word);
        }
        self.used = end;
    }

    /// The header, after everything else.
    fn finish(self, place: &DumpPlace<'_>, kind: u16, segments: u64, pamts: u64, pages: u64) -> Result<(), DumpError> {
        let needed = self.used;
        let used = self.root.get_mut(..needed).ok_or(DumpError::Full { needed })?;
        let counts = u64::from(VERSION) | segments << 16 | pamts << 32 | u64::from(kind) << 48;
        let header = [MAGIC, counts, place.nonce, place.root.get(), pages, 0, 0, 0];
        if let Some(at) = used.first_chunk_mut::<HEADER>() {
            *at = header;
        }
        let sum = root_checksum(used);
        if let Some(at) = used.get_mut(CHECKSUM_AT) {
            *at = sum;
        }
        Ok(())
    }
}
