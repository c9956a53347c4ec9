//! Where the running kernel and the loaded image stand: memory that is in use on every host and goes to nobody else.

use tdx_abi::{PageRange, PhysAddr};

use crate::host::Host;

/// Linux's place for a relocatable kernel (16 MiB), and room for an initrd and the next image behind it.
const PLACE: (u64, u64) = (16 << 20, 128 << 20);

/// The pages of both, or an empty range on a host that has no memory there.
pub fn pages(host: &Host) -> PageRange {
    let place = PageRange::inside(PhysAddr::new(PLACE.0), PhysAddr::new(PLACE.1));
    let pieces = host.memory().iter().map(|piece| piece.range.intersection(place));
    pieces.max_by_key(|piece| (piece.pages(), core::cmp::Reverse(piece.start()))).unwrap_or_default()
}
