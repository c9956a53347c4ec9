//! Memory map and CMRs of a host, from the facts of a log.

use tdx_abi::{MAX_CMRS, Page, PageRange, PhysAddr, intersect, subtract, union};

use super::Assumption;
use crate::bootlog::{BootLog, E820Map, E820Type};

/// TDX never uses the first MiB, and Linux's list of TDX memory starts above it.
const LOW_MEMORY_END: PhysAddr = PhysAddr::new(1 << 20);
/// Where the hole for devices ends.
const FOUR_GIB: PhysAddr = PhysAddr::new(1 << 32);

/// Sorted, merged, above 1 MiB.
pub(super) fn normal(mut ranges: Vec<PageRange>) -> Vec<PageRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable();
    let mut merged: Vec<PageRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                *last = PageRange::new(last.start(), last.end().max(range.end()));
            }
            _ => merged.push(range),
        }
    }
    let above = PageRange::new(LOW_MEMORY_END.page(), Page::new(1 << 52));
    intersect(merged, [above]).collect()
}

/// Usable memory above 1 MiB. Takes the best source the log has: the kernel's node ranges,
/// /proc/iomem, e820, CMRs.
pub(super) fn usable(log: &BootLog, assumptions: &mut Vec<Assumption>) -> Vec<PageRange> {
    let cmrs: Vec<PageRange> = log.cmrs.iter().map(|cmr| cmr.value).collect();
    if !log.early_nodes.is_empty() {
        return normal(log.early_nodes.iter().map(|row| row.value.range.pages()).collect());
    }
    if !log.iomem.is_empty() {
        return normal(log.iomem.iter().map(|row| row.value.pages()).collect());
    }
    if log.e820.is_empty() {
        assumptions.push(Assumption::MemoryFromCmrs);
        return normal(cmrs);
    }
    // A map from the command line replaces the firmware's.
    let map = if log.e820.iter().any(|row| row.value.map == E820Map::User) { E820Map::User } else { E820Map::Bios };
    let rows = || log.e820.iter().map(|row| row.value).filter(|row| row.map == map);
    let usable = normal(rows().filter(|row| row.kind == E820Type::Usable).map(|row| row.range.pages()).collect());
    // Published e820 tables are often cut: where they end, CMRs go on.
    let top = rows().map(|row| row.range.end).max().unwrap_or(LOW_MEMORY_END);
    let above = PageRange::new(Page::new(top.get().div_ceil(tdx_abi::PAGE_SIZE)), Page::new(1 << 52));
    let added = normal(intersect(cmrs, [above]).collect());
    if added.is_empty() {
        return usable;
    }
    let bytes = added.iter().map(|range| range.bytes()).sum();
    assumptions.push(Assumption::MemoryAboveRows { from: top, bytes });
    union(usable, added).collect()
}

/// CMRs for a memory map without any: real first CMRs reach from 1 MiB to the end of low memory,
/// firmware's own pages included, and above 4 GiB there is one for each usable range.
pub(super) fn cmrs_of(memory: &[PageRange]) -> Vec<PageRange> {
    // Firmware holes of low memory are smaller than this; a larger one belongs to devices.
    const LOW_HOLE: u64 = 256 << 20;
    let (low, high): (Vec<_>, Vec<_>) = memory.iter().copied().partition(|range| range.base() < FOUR_GIB);
    let mut cmrs: Vec<PageRange> = Vec::new();
    for range in low {
        match cmrs.last_mut() {
            Some(last) if range.base().get() - last.limit().get() < LOW_HOLE => {
                *last = PageRange::new(last.start(), range.end());
            }
            _ => cmrs.push(range),
        }
    }
    if let Some(first) = cmrs.first_mut().filter(|first| first.base().get() < LOW_HOLE) {
        *first = PageRange::new(LOW_MEMORY_END.page(), first.end());
    }
    cmrs.extend(high);
    // The module's table has 32 entries: close the smallest gaps, lowest first.
    while cmrs.len() > MAX_CMRS {
        let gap = |pair: &[PageRange]| pair[1].start().index() - pair[0].end().index();
        let Some(at) = (0..cmrs.len() - 1).min_by_key(|&i| (gap(&cmrs[i..=i + 1]), i)) else { break };
        cmrs[at] = PageRange::new(cmrs[at].start(), cmrs[at + 1].end());
        cmrs.remove(at + 1);
    }
    cmrs
}

/// Bytes of the memory map that no CMR covers: TDX cannot use them.
pub(super) fn outside(memory: impl IntoIterator<Item = PageRange>, cmrs: &[PageRange]) -> u64 {
    subtract(memory, cmrs.iter().copied()).map(PageRange::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::from_addresses(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
    }

    #[test]
    fn normal_form() {
        let ranges = vec![range(0x30_0000, 0x40_0000), range(0, 0x20_0000), range(0x10_0000, 0x30_0000)];
        assert_eq!(normal(ranges), [range(0x10_0000, 0x40_0000)]);
        assert!(normal(vec![range(0, 0x10_0000)]).is_empty());
    }

    #[test]
    fn cmrs_look_like_real_ones() {
        // Shape of fixtures/e820/06: low memory in two pieces, one range above 4 GiB.
        let memory = [range(0x10_0000, 0x6713_e000), range(0x6c1f_f000, 0x6f80_0000), range(1 << 32, 0x80_8000_0000)];
        assert_eq!(cmrs_of(&memory), [range(0x10_0000, 0x6f80_0000), range(1 << 32, 0x80_8000_0000)]);
    }

    #[test]
    fn no_more_cmrs_than_the_table_has() {
        let gib = 1 << 30;
        let memory: Vec<_> = (4..60).map(|i| range(i * gib, i * gib + gib - (0x1000 << (i % 7)))).collect();
        let cmrs = cmrs_of(&memory);
        assert_eq!(cmrs.len(), MAX_CMRS);
        assert_eq!(outside(memory, &cmrs), 0);
    }
}
