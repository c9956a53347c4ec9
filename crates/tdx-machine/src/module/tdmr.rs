//! The TDMR table that SYS.CONFIG accepted, and SYS.TDMR.INIT, which makes it usable piece by
//! piece.

use alloc::{sync::Arc, vec::Vec};
use tdx_abi::{KeyId, Line, LineRange, Operand, PAGE_SIZE, Page, PageRange, PageSize, PhysAddr, StatusCode, TdmrInfo};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::locks::LockId;
use super::pamt_size::{ENTRY, PAGES_PER_BITMAP_BYTE};
use crate::LockMode;

/// Bytes of a TDMR that one SYS.TDMR.INIT initializes: the entries of 1024 pages fill four pages of
/// PAMT_4K.
const CHUNK: u64 = 4 << 20;
/// The same with Dynamic PAMT: 4096 pages, eight lines of the bitmap.
const DYNAMIC_CHUNK: u64 = 16 << 20;

/// A TDMR.
#[derive(Clone, Debug)]
pub(super) struct Tdmr {
    pub(super) range: PageRange,
    info: Arc<TdmrInfo>,
    reserved: Arc<Vec<PageRange>>,
    /// Bytes that one call initializes.
    chunk: u64,
    /// Bytes initialized so far.
    done: u64,
}

impl Tdmr {
    /// From an entry that passed every check; reserved areas become page ranges.
    pub(super) fn new(info: &TdmrInfo, dynamic: bool) -> Self {
        let pages =
            |base: u64, size: u64| PageRange::new(Page::new(base / PAGE_SIZE), Page::new((base + size) / PAGE_SIZE));
        let reserved = info.reserved.iter().filter(|area| area.size != 0);
        Self {
            range: pages(info.base, info.size),
            reserved: Arc::new(reserved.map(|area| pages(info.base + area.offset, area.size)).collect()),
            info: Arc::new(*info),
            chunk: if dynamic { DYNAMIC_CHUNK } else { CHUNK },
            done: 0,
        }
    }

    /// The PAMT line that holds the entry of a page of this TDMR.
    pub(super) fn entry_line(&self, page: Page, level: PageSize) -> Line {
        let number = (page.index() - self.range.start().index()) / level.pages();
        PhysAddr::new(self.info.pamt(level).0 + number * ENTRY).line()
    }

    /// The line of the bitmap (which stands in for PAMT_4K with dynamic PAMT) that has the bit of a
    /// page of this TDMR.
    pub(super) fn bitmap_line(&self, page: Page) -> Line {
        let number = page.index() - self.range.start().index();
        PhysAddr::new(self.info.pamt(PageSize::Size4K).0 + number / PAGES_PER_BITMAP_BYTE).line()
    }

    /// Is the GiB around this page completely initialized?
    pub(super) fn is_usable(&self, page: Page) -> bool {
        let gib = (page.index() - self.range.start().index()) / PageSize::Size1G.pages();
        gib < self.done / PageSize::Size1G.bytes()
    }

    /// Is all of it initialized?
    pub(super) fn is_complete(&self) -> bool {
        self.done >= self.range.bytes()
    }

    /// All lines of the PAMT of one level.
    pub(super) fn whole_pamt(&self, level: PageSize) -> LineRange {
        let (base, bytes) = self.info.pamt(level);
        LineRange::touching(PhysAddr::new(base), bytes)
    }

    /// Lines `[first, first + bytes)` of the PAMT of one level.
    fn pamt_lines(&self, level: PageSize, first: u64, bytes: u64) -> LineRange {
        LineRange::touching(PhysAddr::new(self.info.pamt(level).0 + first), bytes)
    }
}

impl Module {
    /// The TDMR of a page, if the page is in one and its GiB is usable.
    pub(super) fn usable_tdmr(&self, page: Page) -> Option<&Tdmr> {
        let after = self.tdmrs.partition_point(|tdmr| tdmr.range.start() <= page);
        self.tdmrs.get(after.checked_sub(1)?).filter(|tdmr| tdmr.range.contains(page) && tdmr.is_usable(page))
    }

    /// SYS.TDMR.INIT.
    pub(super) fn tdmr_init(&mut self, call: &mut Call) -> Leaf {
        call.out.rdx = 0;
        let base = PhysAddr::new(call.input.rcx);
        let Some(index) = self.tdmr_at(base) else { return operand(StatusCode::OPERAND_INVALID, Operand::RCX) };
        if self.locks.acquire(LockId::Tdmr(index), LockMode::Exclusive).is_err() {
            return operand(StatusCode::OPERAND_BUSY, Operand::RCX);
        }
        let key = self.global_key();
        let Some(tdmr) = self.tdmrs.get_mut(index) else { return operand(StatusCode::OPERAND_INVALID, Operand::RCX) };
        if tdmr.is_complete() {
            return Ok(StatusCode::TDMR_ALREADY_INITIALIZED.with(0));
        }
        let first = Page::new(tdmr.range.start().index() + tdmr.done / PAGE_SIZE);
        let pages = PageRange::new(first, Page::new(first.index() + tdmr.chunk / PAGE_SIZE));
        for reserved in tdmr.reserved.iter() {
            let reserved = pages.intersection(*reserved);
            match &mut self.dynamic_pamt {
                Some(dynamic) => dynamic.set_taken(reserved, true),
                None => self.pamt.reserve(reserved),
            }
        }
        write_pamt(call, tdmr, key, self.dynamic_pamt.is_some())?;
        tdmr.done += tdmr.chunk;
        call.out.rdx = base.get() + tdmr.done / PageSize::Size1G.bytes() * PageSize::Size1G.bytes();
        Ok(tdx_abi::Status::SUCCESS)
    }
}

/// The PAMT lines one call writes: whole pages of PAMT_4K past the cache; entries of PAMT_2M and,
/// when the GiB is complete, one of PAMT_1G, each by ordinary stores to a line that was zeroed past
/// the cache when its first entry came. The bitmap of dynamic PAMT is written in the same two ways.
fn write_pamt(call: &mut Call, tdmr: &Tdmr, key: KeyId, dynamic: bool) -> Result<(), super::call::Stop> {
    let entries = |level: PageSize, bytes: u64| bytes / level.bytes() * ENTRY;
    if dynamic {
        let bitmap = |bytes: u64| bytes / PAGE_SIZE / PAGES_PER_BITMAP_BYTE;
        write_entries(call, tdmr, PageSize::Size4K, bitmap(tdmr.done), bitmap(tdmr.chunk), key)?;
    } else {
        let (first, bytes) = (entries(PageSize::Size4K, tdmr.done), entries(PageSize::Size4K, tdmr.chunk));
        call.direct_store(tdmr.pamt_lines(PageSize::Size4K, first, bytes), key);
    }
    let (first, bytes) = (entries(PageSize::Size2M, tdmr.done), entries(PageSize::Size2M, tdmr.chunk));
    write_entries(call, tdmr, PageSize::Size2M, first, bytes, key)?;
    if (tdmr.done + tdmr.chunk).is_multiple_of(PageSize::Size1G.bytes()) {
        let first = entries(PageSize::Size1G, tdmr.done);
        write_entries(call, tdmr, PageSize::Size1G, first, ENTRY, key)?;
    }
    Ok(())
}

fn write_entries(
    call: &mut Call,
    tdmr: &Tdmr,
    level: PageSize,
    first: u64,
    bytes: u64,
    key: KeyId,
) -> Result<(), super::call::Stop> {
    let lines = tdmr.pamt_lines(level, first, bytes);
    if first.is_multiple_of(tdx_abi::LINE_SIZE) {
        call.direct_store(lines, key);
    }
    call.store(lines, key)
}
