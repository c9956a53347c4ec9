//! The reader: believes nothing that it has not checked, and calls private what it cannot look up.

use tdx_abi::{MAX_PHYS_BITS, MAX_TDMRS, PAGE_SIZE, Page, PageRange, PageSize, PhysAddr};

use super::{
    CHECKSUM_AT, DumpError, HEADER, INDEX_ENTRIES, LISTED, MAGIC, PAGE_WORDS, PAMT, RESET, ROOT_WORDS, SEGMENT,
    VERSION, index_checksum, root_checksum,
};
use crate::host::MAX_PAMT_RANGES;

const MAX_PAGE: u64 = 1 << (MAX_PHYS_BITS - PAGE_SIZE.trailing_zeros());
/// Pages whose states are in a word.
const PAGES_PER_WORD: u64 = 32;

/// A table that was read and holds to every rule of the layout. It reads a copy of the root, which
/// is its reader's own.
#[derive(Clone, Copy, Debug)]
pub struct DumpTable<'r> {
    segments: &'r [[u64; SEGMENT]],
    pamts: &'r [[u64; PAMT]],
    index: &'r [u64],
    nonce: u64,
    pages: u64,
    was_reset: bool,
}

/// Bits of a word.
const fn field(word: u64, low: u32) -> usize {
    (word >> low & 0xffff) as usize
}

impl<'r> DumpTable<'r> {
    /// Reads a root that was at this address. Its time does not depend on what is in it.
    ///
    /// # Errors
    /// [`DumpError`]: nothing of it can be relied on.
    pub fn read(root: &'r [u64], address: PhysAddr, nonce: u64) -> Result<Self, DumpError> {
        let (table, used) = Self::parts(root)?;
        let header = root.first_chunk::<HEADER>().ok_or(DumpError::Size { given: root.len() })?;
        if header[2] != nonce || header[3] != address.get() {
            return Err(DumpError::Stranger);
        }
        if header[CHECKSUM_AT] != root_checksum(used) {
            return Err(DumpError::Checksum);
        }
        if header[5] != 0 || header[6] != 0 || !address.get().is_multiple_of(PAGE_SIZE) {
            return Err(DumpError::Header);
        }
        table.check_entries()?;
        Ok(table)
    }

    /// The same for a root that [`DumpTable::read`] has accepted and nobody has changed since: for
    /// each look-up.
    ///
    /// # Errors
    /// [`DumpError`]: it was never accepted.
    pub fn again(root: &'r [u64]) -> Result<Self, DumpError> {
        Self::parts(root).map(|(table, _)| table)
    }

    /// The parts of a root, and all words in use.
    fn parts(root: &'r [u64]) -> Result<(Self, &'r [u64]), DumpError> {
        let size = DumpError::Size { given: root.len() };
        let (header, rest) = root.split_first_chunk::<HEADER>().filter(|_| root.len() == ROOT_WORDS).ok_or(size)?;
        let [magic, counts, nonce, _, pages, ..] = *header;
        if magic != MAGIC {
            return Err(DumpError::NoTable);
        }
        let version = field(counts, 0) as u16;
        if version != VERSION {
            return Err(DumpError::Version { version });
        }
        let (segments, pamts, kind) = (field(counts, 16), field(counts, 32), field(counts, 48) as u16);
        let index = pages.div_ceil(INDEX_ENTRIES as u64);
        let is_empty = segments == 0 && pamts == 0 && pages == 0;
        let is_kind = kind == LISTED || kind == RESET && is_empty;
        let fits = segments <= MAX_TDMRS && pamts <= MAX_PAMT_RANGES && index < ROOT_WORDS as u64;
        if !is_kind || !fits {
            return Err(DumpError::Header);
        }
        let (for_segments, for_pamts) = (segments * SEGMENT, pamts * PAMT);
        let used = HEADER + for_segments + for_pamts + index as usize;
        let (words, rest) = rest.split_at_checked(for_segments).ok_or(DumpError::Header)?;
        let (segments, _) = words.as_chunks();
        let (words, rest) = rest.split_at_checked(for_pamts).ok_or(DumpError::Header)?;
        let (pamts, _) = words.as_chunks();
        let index = rest.get(..index as usize).ok_or(DumpError::Header)?;
        let used = root.get(..used).ok_or(DumpError::Header)?;
        Ok((Self { segments, pamts, index, nonce, pages, was_reset: kind == RESET }, used))
    }

    /// Segments and PAMTs ascend and do not overlap, the words of each segment are behind those of
    /// the one before and in the ledger's memory, and addresses are those of pages.
    fn check_entries(&self) -> Result<(), DumpError> {
        let (mut above, mut words) = (0, 0);
        for (number, [start, end, first]) in self.segments.iter().enumerate() {
            let whole = [start, end].into_iter().all(|page| page.is_multiple_of(PageSize::Size2M.pages()));
            let last = end.saturating_sub(*start).div_ceil(PAGES_PER_WORD).checked_add(*first);
            let last = last.filter(|last| *last <= self.pages.saturating_mul(PAGE_WORDS as u64));
            let good = whole && *start >= above && start < end && *end <= MAX_PAGE && *first >= words;
            let word = HEADER + number * SEGMENT;
            words = last.filter(|_| good).ok_or(DumpError::Entry { word })?;
            above = *end;
        }
        let behind = HEADER + self.segments.len() * SEGMENT;
        let mut above = 0;
        for (number, [start, end]) in self.pamts.iter().enumerate() {
            if *start < above || start >= end || *end > MAX_PAGE {
                return Err(DumpError::Entry { word: behind + number * PAMT });
            }
            above = *end;
        }
        let behind = behind + self.pamts.len() * PAMT;
        match self.index.iter().position(|address| !is_page(*address)) {
            Some(at) => Err(DumpError::Entry { word: behind + at }),
            None => Ok(()),
        }
    }

    /// True if private memory was reset after all, and nothing is listed.
    pub const fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// PAMTs, ascending.
    pub fn pamts(&self) -> impl Iterator<Item = PageRange> + Clone + use<'r> {
        self.pamts.iter().map(|[start, end]| PageRange::new(Page::new(*start), Page::new(*end)))
    }

    /// What the ledger knows of, ascending.
    pub fn segments(&self) -> impl Iterator<Item = PageRange> + Clone + use<'r> {
        self.segments.iter().map(|[start, end, _]| PageRange::new(Page::new(*start), Page::new(*end)))
    }

    /// Pages of the ledger's memory: so many addresses the index has.
    pub const fn ledger_pages(&self) -> u64 {
        self.pages
    }

    /// Addresses of the pages of the index.
    pub const fn index(&self) -> &'r [u64] {
        self.index
    }

    /// Checks a page of the index. Gives the addresses that are in it.
    ///
    /// # Errors
    /// [`DumpError::Index`].
    pub fn index_page<'p>(&self, number: u64, page: &'p [u64; PAGE_WORDS]) -> Result<&'p [u64], DumpError> {
        let bad = DumpError::Index { number };
        let (entries, last) = page.split_at_checked(INDEX_ENTRIES).ok_or(bad)?;
        let before = number.checked_mul(INDEX_ENTRIES as u64).ok_or(bad)?;
        let count = self.pages.checked_sub(before).filter(|count| *count > 0).ok_or(bad)?;
        let (used, rest) = entries.split_at_checked((count as usize).min(INDEX_ENTRIES)).ok_or(bad)?;
        let good = used.iter().all(|address| is_page(*address)) && rest.iter().all(|address| *address == 0);
        let whole = last == [index_checksum(number, self.nonce, entries)];
        if good && whole { Ok(used) } else { Err(bad) }
    }

    /// May this page be private? `addresses` are those of all pages of the index, one after the
    /// other, and `read` reads a word of the old memory at a physical address, which is a multiple
    /// of 8. What cannot be read may be private.
    pub fn may_be_private(&self, page: Page, addresses: &[u64], read: impl FnOnce(PhysAddr) -> Option<u64>) -> bool {
        let page = page.index();
        let at = self.pamts.partition_point(|[_, end]| *end <= page);
        if self.pamts.get(at).is_some_and(|[start, _]| *start <= page) {
            return true;
        }
        let at = self.segments.partition_point(|[_, end, _]| *end <= page);
        let Some([start, _, first]) = self.segments.get(at).filter(|[start, ..]| *start <= page) else { return false };
        let word = first + (page - start) / PAGES_PER_WORD;
        let (number, inside) = (word / PAGE_WORDS as u64, word % PAGE_WORDS as u64);
        let address = addresses.get(number as usize).map(|base| PhysAddr::new(base + inside * 8));
        let Some(states) = address.and_then(read) else { return true };
        states >> (2 * ((page - start) % PAGES_PER_WORD)) & 0b11 != 0
    }
}

/// The address of a page. Not 0, which is none.
fn is_page(address: u64) -> bool {
    address != 0 && address.is_multiple_of(PAGE_SIZE) && address < 1 << MAX_PHYS_BITS
}
