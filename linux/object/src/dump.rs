//! The table by which a crash kernel leaves private memory out of its dump: written in the kernel
//! that crashed, read in the crash kernel.

use core::ffi::{CStr, c_char};
use core::sync::atomic::AtomicU64;
use tdx_abi::{PAGE_SIZE, Page, PageRange, PhysAddr};
use tdx_host::dump::{DumpError, DumpPlace, DumpTable, PAGE_WORDS, ROOT_WORDS, write_index_page};
use tdx_host::ledger::{Ledger, PageState};

use crate::{HOST, keep, shim};

/// 64-bit words of the root of a table.
pub const CLEANSLATE_DUMP_WORDS: usize = 4096;
/// Addresses in a page of its index.
pub const CLEANSLATE_DUMP_ENTRIES: usize = 511;

const _: () = assert!(CLEANSLATE_DUMP_WORDS == ROOT_WORDS);
const _: () = assert!(CLEANSLATE_DUMP_ENTRIES == tdx_host::dump::INDEX_ENTRIES);

/// What was prepared for a table.
#[repr(C)]
pub struct Dump {
    /// The root.
    pub root: *mut u64,
    /// Its physical address.
    pub address: u64,
    /// A number that no other table has.
    pub nonce: u64,
    /// The memory of the ledger, or null.
    pub ledger: *const u64,
    /// Its words: of whole pages.
    pub words: u64,
    /// Physical addresses of the pages of the index.
    pub index: *const u64,
    /// How many.
    pub index_pages: u64,
}

impl Dump {
    /// # Safety
    /// The fields are true; nothing but the ledger writes to its memory, and nothing to the index.
    unsafe fn place(&self) -> DumpPlace<'_> {
        // SAFETY: the caller's.
        let (ledger, index) =
            unsafe { (words_at(self.ledger.cast::<AtomicU64>(), self.words), words_at(self.index, self.index_pages)) };
        DumpPlace { root: PhysAddr::new(self.address), nonce: self.nonce, ledger, index }
    }

    /// # Safety
    /// The fields are true, and nobody else uses the root.
    #[expect(clippy::mut_from_ref, reason = "the root is behind a pointer of C")]
    unsafe fn root(&self) -> &mut [u64] {
        // SAFETY: the caller's.
        unsafe { core::slice::from_raw_parts_mut(self.root, ROOT_WORDS) }
    }
}

/// # Safety
/// `first` points to `count` values, or `count` is 0.
unsafe fn words_at<'w, T>(first: *const T, count: u64) -> &'w [T] {
    // SAFETY: the caller's.
    if count == 0 { &[] } else { unsafe { core::slice::from_raw_parts(first, count as usize) } }
}

/// # Safety
/// `root` points to the words of a root, which do not change.
unsafe fn root_at<'r>(root: *const u64) -> &'r [u64] {
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts(root, ROOT_WORDS) }
}

/// # Safety
/// `page` points to a page, which does not change.
unsafe fn page_at<'p>(page: *const u64) -> &'p [u64; PAGE_WORDS] {
    // SAFETY: the caller's.
    unsafe { &*page.cast() }
}

/// A string constant for the kernel log.
const fn text(error: DumpError) -> &'static CStr {
    match error {
        DumpError::Full { .. } => c"the table has no room for so much memory",
        DumpError::Elsewhere => c"no memory for the table's index",
        DumpError::NoTable => c"there is no table at this address",
        DumpError::Version { .. } => c"the table is of another version of this module",
        DumpError::Stranger => c"the table is another kernel's",
        DumpError::Checksum => c"the table's checksum is wrong",
        DumpError::Index { .. } => c"the table's index was overwritten",
        _ => c"the table is not valid",
    }
}

/// Makes the page `number` of the index, of the addresses of `count` pages of the ledger's memory.
///
/// # Safety
/// `page` points to a page, `entries` to `count` addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_index(
    page: *mut u64,
    number: u64,
    nonce: u64,
    entries: *const u64,
    count: u64,
) {
    // SAFETY: the caller's.
    let (page, entries) = unsafe { (&mut *page.cast(), words_at(entries, count)) };
    // Too many of them leave a page that no reader takes.
    let _ = write_index_page(page, number, nonce, entries);
}

/// Closes the gate, writes the table, and reads it as the crash kernel will: the root and the whole
/// index. Null, or why there is none.
///
/// # Safety
/// `dump` and what it points to was prepared, and nobody else uses the root. The pages of the index
/// are in the direct map.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_write(dump: *const Dump) -> *const c_char {
    HOST.gate().close();
    // A crash kernel is no next kernel: it takes nothing over.
    keep::wipe();
    // SAFETY: the caller's.
    let (dump, place, root) = unsafe { (&*dump, (*dump).place(), (*dump).root()) };
    let written = place.write(root, &HOST.memory()).and_then(|()| check(root, dump));
    written.map_or_else(|error| text(error).as_ptr(), |()| core::ptr::null())
}

fn check(root: &[u64], dump: &Dump) -> Result<(), DumpError> {
    let table = DumpTable::read(root, PhysAddr::new(dump.address), dump.nonce)?;
    (0..).zip(table.index()).try_for_each(|(number, address)| {
        #[expect(clippy::cast_ptr_alignment, reason = "the address of a page")]
        // SAFETY: a page of the index: it was prepared, and is in the direct map.
        let page = unsafe { page_at(shim::map(PhysAddr::new(*address)).cast::<u64>()) };
        table.index_page(number, page).map(drop)
    })
}

/// Writes that private memory was reset.
///
/// # Safety
/// As [`cleanslate_dump_write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_write_reset(dump: *const Dump) {
    // SAFETY: the caller's.
    let (place, root) = unsafe { ((*dump).place(), (*dump).root()) };
    // The root has its size.
    let _ = place.write_reset(root);
}

/// May any page of this memory be private?
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_dump_overlaps(base: u64, bytes: u64) -> bool {
    let end = Page::new(base.saturating_add(bytes).div_ceil(PAGE_SIZE));
    let range = PageRange::new(PhysAddr::new(base).page(), end);
    let is_marked = |ledger: &Ledger<'_>| {
        let mut covered = ledger.ranges().map(|covered| covered.intersection(range)).filter(|part| !part.is_empty());
        covered.any(|part| ledger.check(part, PageState::Shared).is_err())
    };
    HOST.pamt_ranges().any(|pamt| pamt.overlaps(range)) || HOST.ledger().is_some_and(is_marked)
}

/// What a table says of itself.
#[repr(C)]
#[derive(Default)]
pub struct DumpFacts {
    /// Pages of the ledger's memory.
    pub ledger_pages: u64,
    /// Pages of the index.
    pub index_pages: u64,
    /// KiB of PAMT.
    pub pamt_kb: u64,
    /// Private memory was reset, and nothing is listed.
    pub was_reset: bool,
}

/// Checks the copy of a root that was at this address. Null, or why it is refused.
///
/// # Safety
/// `root` points to the copy, which does not change; `facts` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_read(
    root: *const u64,
    address: u64,
    nonce: u64,
    facts: *mut DumpFacts,
) -> *const c_char {
    // SAFETY: the caller's.
    let root = unsafe { root_at(root) };
    match DumpTable::read(root, PhysAddr::new(address), nonce) {
        Ok(table) => {
            let read = DumpFacts {
                ledger_pages: table.ledger_pages(),
                index_pages: table.index().len() as u64,
                pamt_kb: table.pamts().map(PageRange::bytes).sum::<u64>() / 1024,
                was_reset: table.was_reset(),
            };
            // SAFETY: the caller's.
            unsafe { facts.write(read) };
            core::ptr::null()
        }
        Err(error) => text(error).as_ptr(),
    }
}

/// The address of a page of the index; 0 if there is none of this number.
///
/// # Safety
/// `root` is one that [`cleanslate_dump_read`] has accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_index_address(root: *const u64, number: u64) -> u64 {
    // SAFETY: the caller's.
    let table = DumpTable::again(unsafe { root_at(root) });
    table.ok().and_then(|table| table.index().get(number as usize).copied()).unwrap_or(0)
}

/// Checks a copy of the page `number` of the index and puts its addresses behind those of the pages
/// before it. Null, or why it is refused.
///
/// # Safety
/// `root` is one that [`cleanslate_dump_read`] has accepted, `page` points to a page that does not
/// change, `addresses` to as many words as the ledger's memory has pages.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_take_index(
    root: *const u64,
    number: u64,
    page: *const u64,
    addresses: *mut u64,
) -> *const c_char {
    // SAFETY: the caller's.
    let (root, page) = unsafe { (root_at(root), page_at(page)) };
    let taken = DumpTable::again(root).and_then(|table| {
        let entries = table.index_page(number, page)?;
        // SAFETY: the caller's: `index_page` gives no more than the ledger's memory has pages.
        unsafe {
            let first = addresses.add(number as usize * CLEANSLATE_DUMP_ENTRIES);
            first.copy_from_nonoverlapping(entries.as_ptr(), entries.len());
        }
        Ok(())
    });
    taken.map_or_else(|error| text(error).as_ptr(), |()| core::ptr::null())
}

/// Could this page of the crashed kernel be private? Reads its ledger by `cleanslate_old_word`.
///
/// # Safety
/// `root` is one that [`cleanslate_dump_read`] has accepted, `addresses` has `count` addresses of
/// its whole index. The caller is the only one that uses `cleanslate_old_word`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_dump_is_private(
    root: *const u64,
    addresses: *const u64,
    count: u64,
    page: u64,
) -> bool {
    // SAFETY: the caller's.
    let (root, addresses) = unsafe { (root_at(root), words_at(addresses, count)) };
    // SAFETY: the address of a word of the crashed kernel's ledger.
    let word = |address: PhysAddr| unsafe { shim::old_word(address) };
    // A table that does not read any more says of no page that it is shared.
    DumpTable::again(root).map_or(true, |table| table.may_be_private(Page::new(page), addresses, word))
}
