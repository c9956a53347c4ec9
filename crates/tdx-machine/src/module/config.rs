//! SYS.CONFIG: the TDMR table of the host, checked entry by entry in the order of the real module.
//!
//! Source: `tdx_abi.md` section 6; the row numbers in comments are its rows. Every status was
//! observed.

use alloc::vec::Vec;
use tdx_abi::{
    CmrInfo, DYNAMIC_PAMT_MAX_PHYS_BITS, KeyId, MAX_RESERVED_AREAS, MAX_TDMRS, Operand, PAGE_SIZE, PageSize, PhysAddr,
    ReservedArea, STRUCTURE_ALIGN, SYS_CONFIG_DYNAMIC_PAMT, Status, StatusCode, TDMR_GRANULARITY, TdmrInfo,
};

use super::call::{Call, Leaf, Stop, operand};
use super::dynamic_pamt::DynamicPamt;
use super::keys::KeyState;
use super::locks::LockId;
use super::pamt_size::{ENTRY, PAGES_PER_BITMAP_BYTE};
use super::tdmr::Tdmr;
use super::{Module, SysState};
use crate::LockMode;

/// Words of a TDMR_INFO: base, size, three PAMTs, reserved areas.
const TDMR_WORDS: usize = 8 + 2 * MAX_RESERVED_AREAS;
/// Levels in the order in which row 12 and row 16 look at them.
const LARGE_FIRST: [PageSize; 3] = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K];

/// `[start, end)` in bytes. Addresses here are below 2^52, so nothing wraps.
type Range = (u64, u64);

impl Module {
    pub(super) fn sys_config(&mut self, call: &mut Call) -> Leaf {
        if self.locks.acquire(LockId::Sys, LockMode::Exclusive).is_err() {
            return Err(StatusCode::SYS_BUSY.into());
        }
        if self.state != SysState::InitDone || self.lp_init_done.contains(&false) {
            return Err(StatusCode::SYS_CONFIG_NOT_PENDING.into());
        }
        let array = PhysAddr::new(call.input.rcx);
        if !call.is_shared_buffer(array, STRUCTURE_ALIGN, STRUCTURE_ALIGN) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let count = call.input.rdx;
        if count == 0 || count > MAX_TDMRS as u64 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        let key = KeyId::new(call.input.r8 as u16);
        let known = if call.has_dynamic_pamt() { SYS_CONFIG_DYNAMIC_PAMT } else { 0 };
        let dynamic = call.input.r8 & known != 0;
        if (call.input.r8 & !known) >> 16 != 0 || !call.hardware.key_ids().is_private(key) {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }
        // Stays so if the call fails: this KeyID will never be a TD's.
        self.keys.set(key, KeyState::Reserved);
        if dynamic && call.hardware.config.key_id_field.shift() > DYNAMIC_PAMT_MAX_PHYS_BITS {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }

        let cmrs = joined(&call.hardware.config.cmrs);
        let mut table: Vec<TdmrInfo> = Vec::new();
        for index in 0..count {
            let [pointer] = call.read_words(PhysAddr::new(array.get() + 8 * index))?;
            // Row 1.
            let pointer = PhysAddr::new(pointer);
            if !call.is_shared_buffer(pointer, STRUCTURE_ALIGN, STRUCTURE_ALIGN) {
                return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
            }
            let info = parse(&call.read_words::<TDMR_WORDS>(pointer)?);
            check_range(call, &info, index as u8, table.last())?;
            check_reserved(&info, index as u8)?;
            check_pamt(call, &info, index as u8, dynamic)?;
            table.push(info);
            check_overlaps(&table)?;
            check_cmrs(&info, index as u8, &cmrs)?;
        }
        self.tdmrs = table.iter().map(|info| Tdmr::new(info, dynamic)).collect();
        self.dynamic_pamt = dynamic.then(DynamicPamt::new);
        self.global_key = Some(key);
        self.state = SysState::ConfigDone;
        Ok(Status::SUCCESS)
    }
}

fn parse(words: &[u64; TDMR_WORDS]) -> TdmrInfo {
    let [base, size, pamt_1g_base, pamt_1g_size, pamt_2m_base, pamt_2m_size, pamt_4k_base, pamt_4k_size, areas @ ..] =
        words;
    let mut reserved = [ReservedArea::default(); MAX_RESERVED_AREAS];
    for (slot, area) in reserved.iter_mut().zip(areas.as_chunks::<2>().0) {
        *slot = ReservedArea { offset: area[0], size: area[1] };
    }
    TdmrInfo {
        base: *base,
        size: *size,
        pamt_1g_base: *pamt_1g_base,
        pamt_1g_size: *pamt_1g_size,
        pamt_2m_base: *pamt_2m_base,
        pamt_2m_size: *pamt_2m_size,
        pamt_4k_base: *pamt_4k_base,
        pamt_4k_size: *pamt_4k_size,
        reserved,
    }
}

/// Rows 2 to 6.
fn check_range(call: &Call, info: &TdmrInfo, i: u8, previous: Option<&TdmrInfo>) -> Result<(), Stop> {
    let invalid = StatusCode::INVALID_TDMR.info([i, 0, 0, 0]);
    let unordered = StatusCode::NON_ORDERED_TDMR.info([i, 0, 0, 0]);
    let Some(end) = info.base.checked_add(info.size) else { return Err(invalid.into()) };
    if let Some(previous) = previous
        && info.base < previous.base + previous.size
    {
        return Err(unordered.into());
    }
    let whole = info.base.is_multiple_of(TDMR_GRANULARITY) && info.size.is_multiple_of(TDMR_GRANULARITY);
    if !whole || info.size == 0 || !is_plain_range(call, info.base, end) {
        return Err(invalid.into());
    }
    Ok(())
}

/// First and last byte below 2^52 without KeyID bits.
fn is_plain_range(call: &Call, start: u64, end: u64) -> bool {
    call.is_plain(PhysAddr::new(start)) && call.is_plain(PhysAddr::new(end.wrapping_sub(1)))
}

/// Rows 7 to 11.
fn check_reserved(info: &TdmrInfo, i: u8) -> Result<(), Stop> {
    let mut previous: Option<&ReservedArea> = None;
    for (j, area) in info.reserved.iter().enumerate() {
        let invalid = StatusCode::INVALID_RESERVED_IN_TDMR.info([i, j as u8, 0, 0]);
        let unordered = StatusCode::NON_ORDERED_RESERVED_IN_TDMR.info([i, j as u8, 0, 0]);
        if area.size == 0 {
            if info.reserved.get(j + 1).is_some_and(|next| next.size != 0) {
                return Err(unordered.into());
            }
            continue;
        }
        let Some(end) = area.offset.checked_add(area.size) else { return Err(invalid.into()) };
        if let Some(previous) = previous
            && area.offset < previous.offset + previous.size
        {
            return Err(unordered.into());
        }
        if !area.offset.is_multiple_of(PAGE_SIZE) || !area.size.is_multiple_of(PAGE_SIZE) || end > info.size {
            return Err(invalid.into());
        }
        previous = Some(area);
    }
    Ok(())
}

/// Row 12.
fn check_pamt(call: &Call, info: &TdmrInfo, i: u8, dynamic: bool) -> Result<(), Stop> {
    for level in LARGE_FIRST {
        let invalid = StatusCode::INVALID_PAMT.info([i, level as u8, 0, 0]);
        let (base, size) = info.pamt(level);
        let Some(end) = base.checked_add(size) else { return Err(invalid.into()) };
        let aligned = base.is_multiple_of(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE);
        let entries = info.size / level.bytes();
        let bitmap = dynamic && level == PageSize::Size4K;
        let needed = if bitmap { entries / PAGES_PER_BITMAP_BYTE } else { entries * ENTRY };
        if !aligned || !is_plain_range(call, base, end) || size < needed {
            return Err(invalid.into());
        }
    }
    Ok(())
}

/// Rows 13 to 15, for the last entry of the table.
fn check_overlaps(table: &[TdmrInfo]) -> Result<(), Stop> {
    let Some((info, earlier)) = table.split_last() else { return Ok(()) };
    let i = earlier.len() as u8;
    let overlap = |owner: u8, level: PageSize, other: u8| {
        Err(Stop::from(StatusCode::PAMT_OVERLAP.info([owner, level as u8, other, 0])))
    };
    for level in PageSize::ALL {
        for (j, other) in earlier.iter().enumerate() {
            if PageSize::ALL.into_iter().any(|of_other| overlaps(pamt(info, level), pamt(other, of_other))) {
                return overlap(i, level, j as u8);
            }
        }
    }
    for (first, second) in [
        (PageSize::Size4K, PageSize::Size2M),
        (PageSize::Size4K, PageSize::Size1G),
        (PageSize::Size2M, PageSize::Size1G),
    ] {
        if overlaps(pamt(info, first), pamt(info, second)) {
            return overlap(i, first, i);
        }
    }
    for (j, other) in table.iter().enumerate() {
        for level in PageSize::ALL {
            if overlaps_usable(pamt(info, level), other) {
                return overlap(i, level, j as u8);
            }
        }
        for level in PageSize::ALL {
            if overlaps_usable(pamt(other, level), info) {
                return overlap(j as u8, level, i);
            }
        }
    }
    Ok(())
}

/// Rows 16 and 17.
fn check_cmrs(info: &TdmrInfo, i: u8, cmrs: &[Range]) -> Result<(), Stop> {
    let inside = |range: Range| cmrs.iter().any(|cmr| cmr.0 <= range.0 && range.1 <= cmr.1);
    for level in LARGE_FIRST {
        if !inside(pamt(info, level)) {
            return Err(StatusCode::PAMT_OUTSIDE_CMRS.info([i, level as u8, 0, 0]).into());
        }
    }
    if usable(info).any(|piece| !inside(piece)) {
        return Err(StatusCode::TDMR_OUTSIDE_CMRS.info([i, 0, 0, 0]).into());
    }
    Ok(())
}

fn pamt(info: &TdmrInfo, level: PageSize) -> Range {
    let (base, size) = info.pamt(level);
    (base, base + size)
}

fn overlaps(a: Range, b: Range) -> bool {
    a.0 < b.1 && b.0 < a.1
}

fn overlaps_usable(pamt: Range, tdmr: &TdmrInfo) -> bool {
    overlaps(pamt, (tdmr.base, tdmr.base + tdmr.size)) && usable(tdmr).any(|piece| overlaps(pamt, piece))
}

/// The pieces of a TDMR that are not reserved, ascending.
fn usable(info: &TdmrInfo) -> impl Iterator<Item = Range> + '_ {
    let areas = info.reserved.iter().filter(|area| area.size != 0);
    let starts = core::iter::once(info.base).chain(areas.clone().map(|area| info.base + area.offset + area.size));
    let ends = areas.map(|area| info.base + area.offset).chain(core::iter::once(info.base + info.size));
    starts.zip(ends).filter(|(start, end)| start < end)
}

/// CMRs, those that touch joined.
fn joined(cmrs: &[CmrInfo]) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for cmr in cmrs.iter().filter(|cmr| cmr.size != 0) {
        let range = (cmr.base, cmr.base.saturating_add(cmr.size));
        match ranges.last_mut() {
            Some(last) if last.1 == range.0 => last.1 = range.1,
            _ => ranges.push(range),
        }
    }
    ranges
}
