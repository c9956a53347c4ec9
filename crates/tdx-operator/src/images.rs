//! Where the running kernel, the loaded image and the crash kernel are: memory in use, excluded
//! from every allocation.

use tdx_abi::{PAGE_SIZE, Page, PageRange, PhysAddr};

use crate::host::Host;

/// Linux's place for a relocatable kernel (16 MiB), and room for an initrd and the next image
/// behind it.
const PLACE: (u64, u64) = (16 << 20, 128 << 20);

/// The pages of both, or an empty range on a host that has no memory there.
pub fn pages(host: &Host) -> PageRange {
    let place = PageRange::inside(PhysAddr::new(PLACE.0), PhysAddr::new(PLACE.1));
    let pieces = host.memory().iter().map(|piece| piece.range.intersection(place));
    pieces.max_by_key(|piece| (piece.pages(), core::cmp::Reverse(piece.start()))).unwrap_or_default()
}

/// What `crashkernel=` reserves on servers of this size, and the share of memory it never exceeds
/// here.
const CRASH_BYTES: u64 = 256 << 20;
const CRASH_SHARE: u64 = 8;

/// The crash kernel's memory: the highest place below 4 GiB, where Linux looks first.
pub fn crash_pages(host: &Host) -> PageRange {
    let low = PageRange::inside(PhysAddr::new(PLACE.1), PhysAddr::new(4 << 30));
    let room = host.memory().iter().map(|piece| piece.range.intersection(low)).filter(|room| !room.is_empty());
    let Some(room) = room.max_by_key(|room| (room.pages() >= CRASH_BYTES / PAGE_SIZE, room.end())) else {
        return PageRange::default();
    };
    let pages = (CRASH_BYTES / PAGE_SIZE).min(host.memory_bytes() / CRASH_SHARE / PAGE_SIZE).min(room.pages());
    PageRange::new(Page::new(room.end().index() - pages), room.end())
}
