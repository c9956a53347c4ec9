//! The checks of TDH.SYS.CONFIG on its TDMR table, rows 2 to 17 of `docs/reference/tdx_abi.md`
//! section 6, word for word.
//!
//! The oracle of the layout tests: written from the table, on bare numbers, with nothing of the
//! product but TDMR_INFO. It knows nothing of row 1 (where the structures lie) and of the checks
//! before the loop.

use tdx_abi::TdmrInfo;

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;

const INVALID_TDMR: u64 = 0xC0000A00_00000000;
const NON_ORDERED_TDMR: u64 = 0xC0000A01_00000000;
const TDMR_OUTSIDE_CMRS: u64 = 0xC0000A02_00000000;
const INVALID_PAMT: u64 = 0xC0000A10_00000000;
const PAMT_OUTSIDE_CMRS: u64 = 0xC0000A11_00000000;
const PAMT_OVERLAP: u64 = 0xC0000A12_00000000;
const INVALID_RESERVED_IN_TDMR: u64 = 0xC0000A20_00000000;
const NON_ORDERED_RESERVED_IN_TDMR: u64 = 0xC0000A21_00000000;

/// `[start, end)`.
type Span = (u64, u64);

/// What the module knows besides the table.
pub struct Module<'a> {
    /// Base and size, as the platform reports them; size 0 is unused.
    pub cmrs: &'a [(u64, u64)],
    /// First address bit of the KeyID; 52 if there are none.
    pub keyid_start: u32,
    /// Bytes of a PAMT entry for 4 KiB, 2 MiB and 1 GiB pages.
    pub entry_size: [u64; 3],
    /// PAMT_4K has a bit for each page.
    pub bitmap: bool,
}

fn l2(status: u64, bytes: [usize; 3]) -> u64 {
    bytes.iter().enumerate().fold(status, |rax, (i, byte)| rax | (*byte as u64) << (8 * i))
}

fn overlap(a: Span, b: Span) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// Base and size of one level, 0 = 4 KiB.
fn pamt(entry: &TdmrInfo, level: usize) -> (u64, u64) {
    match level {
        0 => (entry.pamt_4k_base, entry.pamt_4k_size),
        1 => (entry.pamt_2m_base, entry.pamt_2m_size),
        _ => (entry.pamt_1g_base, entry.pamt_1g_size),
    }
}

fn pamt_span(entry: &TdmrInfo, level: usize) -> Span {
    let (base, size) = pamt(entry, level);
    (base, base + size)
}

/// The parts of a TDMR that no area reserves.
fn open_parts(entry: &TdmrInfo) -> Vec<Span> {
    let mut parts = Vec::new();
    let mut at = entry.base;
    for area in entry.reserved.iter().filter(|area| area.size != 0) {
        let start = entry.base + area.offset;
        if at < start {
            parts.push((at, start));
        }
        at = start + area.size;
    }
    if at < entry.base + entry.size {
        parts.push((at, entry.base + entry.size));
    }
    parts
}

impl Module<'_> {
    /// RAX of SYS.CONFIG as far as the table decides it: 0 or the first failed check.
    pub fn check(&self, table: &[TdmrInfo]) -> Result<(), u64> {
        for i in 0..table.len() {
            self.check_range(table, i)?;
            check_reserved(&table[i], i)?;
            self.check_pamt_form(&table[i], i)?;
            check_pamt_overlap(table, i)?;
            self.check_cmrs(&table[i], i)?;
        }
        Ok(())
    }

    /// Below 2^52 and without KeyID bits.
    fn plain(&self, address: u64) -> bool {
        address >> self.keyid_start == 0
    }

    /// Rows 2 to 6.
    fn check_range(&self, table: &[TdmrInfo], i: usize) -> Result<(), u64> {
        let entry = &table[i];
        let invalid = Err(l2(INVALID_TDMR, [i, 0, 0]));
        let Some(end) = entry.base.checked_add(entry.size) else { return invalid };
        if i > 0 {
            let last = &table[i - 1];
            if entry.base < last.base || entry.base < last.base + last.size {
                return Err(l2(NON_ORDERED_TDMR, [i, 0, 0]));
            }
        }
        if !entry.base.is_multiple_of(GIB) || !entry.size.is_multiple_of(GIB) || entry.size == 0 {
            return invalid;
        }
        if !self.plain(entry.base) || !self.plain(end - 1) { invalid } else { Ok(()) }
    }

    /// Row 12.
    fn check_pamt_form(&self, entry: &TdmrInfo, i: usize) -> Result<(), u64> {
        for level in [2, 1, 0] {
            let (base, size) = pamt(entry, level);
            let pages = entry.size / (PAGE << (9 * level));
            let ok = base.checked_add(size).is_some()
                && base.is_multiple_of(PAGE)
                && size.is_multiple_of(PAGE)
                && self.plain(base)
                && size >= if self.bitmap && level == 0 { pages / 8 } else { pages * self.entry_size[level] }
                && self.plain(base + size - 1);
            if !ok {
                return Err(l2(INVALID_PAMT, [i, level, 0]));
            }
        }
        Ok(())
    }

    /// Rows 16 and 17.
    fn check_cmrs(&self, entry: &TdmrInfo, i: usize) -> Result<(), u64> {
        let cmrs = joined(self.cmrs);
        let inside = |span: Span| cmrs.iter().any(|cmr| cmr.0 <= span.0 && span.1 <= cmr.1);
        for level in [2, 1, 0] {
            if !inside(pamt_span(entry, level)) {
                return Err(l2(PAMT_OUTSIDE_CMRS, [i, level, 0]));
            }
        }
        if open_parts(entry).into_iter().all(inside) { Ok(()) } else { Err(l2(TDMR_OUTSIDE_CMRS, [i, 0, 0])) }
    }
}

/// CMRs as spans; those that touch exactly are one.
fn joined(cmrs: &[(u64, u64)]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (base, size) in cmrs.iter().copied().filter(|cmr| cmr.1 != 0) {
        match spans.last_mut() {
            Some(last) if last.1 == base => last.1 += size,
            _ => spans.push((base, base + size)),
        }
    }
    spans
}

/// Rows 7 to 11.
fn check_reserved(entry: &TdmrInfo, i: usize) -> Result<(), u64> {
    let mut last: Option<Span> = None;
    for (j, area) in entry.reserved.iter().enumerate() {
        if area.size == 0 {
            if entry.reserved.get(j + 1).is_some_and(|next| next.size != 0) {
                return Err(l2(NON_ORDERED_RESERVED_IN_TDMR, [i, j, 0]));
            }
            continue;
        }
        let invalid = Err(l2(INVALID_RESERVED_IN_TDMR, [i, j, 0]));
        let Some(end) = area.offset.checked_add(area.size) else { return invalid };
        if last.is_some_and(|last| area.offset < last.0 || area.offset < last.1) {
            return Err(l2(NON_ORDERED_RESERVED_IN_TDMR, [i, j, 0]));
        }
        if !area.offset.is_multiple_of(PAGE) || !area.size.is_multiple_of(PAGE) || end > entry.size {
            return invalid;
        }
        last = Some((area.offset, end));
    }
    Ok(())
}

/// Rows 13 to 15.
fn check_pamt_overlap(table: &[TdmrInfo], i: usize) -> Result<(), u64> {
    let entry = &table[i];
    for level in 0..3 {
        for (j, other) in table[..i].iter().enumerate() {
            if (0..3).any(|theirs| overlap(pamt_span(entry, level), pamt_span(other, theirs))) {
                return Err(l2(PAMT_OVERLAP, [i, level, j]));
            }
        }
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        if overlap(pamt_span(entry, a), pamt_span(entry, b)) {
            return Err(l2(PAMT_OVERLAP, [i, a, i]));
        }
    }
    let hits = |owner: usize, level: usize, tdmr: usize| {
        open_parts(&table[tdmr]).into_iter().any(|part| overlap(part, pamt_span(&table[owner], level)))
    };
    for j in 0..=i {
        for level in 0..3 {
            if hits(i, level, j) {
                return Err(l2(PAMT_OVERLAP, [i, level, j]));
            }
        }
    }
    for j in 0..i {
        for level in 0..3 {
            if hits(j, level, i) {
                return Err(l2(PAMT_OVERLAP, [j, level, i]));
            }
        }
    }
    Ok(())
}
