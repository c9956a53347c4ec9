//! The physical-address metadata table: its entry and its size.

use crate::{PAGE_SIZE, PageSize, PhysAddr, open_enum::open_enum};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

open_enum! {
    /// What the module holds a page for.
    pub enum PamtPageType: u8 {
        /// Not directly assigned: free from the module's point of view. Says nothing on the lines'
        /// owner.
        NDA = 0, "NDA";
        /// Reserved area of a TDMR.
        RSVD = 1, "RSVD";
        /// TD private page.
        REG = 3, "REG";
        /// Root page of a TD.
        TDR = 4, "TDR";
        /// TDCS page, or extension page of a VCPU.
        TDCX = 5, "TDCX";
        /// Root page of a VCPU.
        TDVPR = 6, "TDVPR";
        /// Secure-EPT page.
        EPT = 8, "EPT";
        /// Dynamic PAMT: a 2 MiB page whose entries stand in a pair of pages, or such a page
        /// itself. After 1.5.01; not observed.
        PAMT = 15, "PAMT";
    }
}

/// One PAMT entry, 16 bytes, the same at all three levels.
///
/// Source: TDX module 1.5.01, `tdx_abi.md` section 5. It lies in private memory; the host sees only
/// what PHYMEM.PAGE.RDMD says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PamtEntry {
    /// Bit 0 exclusive, bit 1 host priority, bits 15:2 readers.
    pub lock: u16,
    /// Page type, [`PamtPageType`].
    pub page_type: u8,
    /// TDR page number, 40 bits, little-endian; stale once the page is NDA again.
    pub owner: [u8; 5],
    /// TLB-tracking epoch at which the page was blocked.
    pub bepoch: u64,
}

const _: () = assert!(size_of::<PamtEntry>() == 16);

impl PamtEntry {
    /// Address of the owning TD's TDR page.
    pub const fn owner_address(&self) -> PhysAddr {
        let o = self.owner;
        PhysAddr::new(u64::from_le_bytes([o[0], o[1], o[2], o[3], o[4], 0, 0, 0]) * PAGE_SIZE)
    }
}

/// Bytes of PAMT that a TDMR of `tdmr_bytes` needs at one level, rounded up to 4 KiB. `entry_size`
/// is in bytes (16).
///
/// `None` if the numbers overflow 64 bits. Source: Linux `tdmr_get_pamt_sz`.
pub const fn pamt_bytes(tdmr_bytes: u64, level: PageSize, entry_size: u16) -> Option<u64> {
    match (tdmr_bytes / level.bytes()).checked_mul(entry_size as u64) {
        Some(bytes) => bytes.checked_next_multiple_of(PAGE_SIZE),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pamt_of_one_gib() {
        let gib = 1 << 30;
        assert_eq!(pamt_bytes(gib, PageSize::Size4K, 16), Some(4 << 20));
        assert_eq!(pamt_bytes(gib, PageSize::Size2M, 16), Some(8 << 10));
        assert_eq!(pamt_bytes(gib, PageSize::Size1G, 16), Some(4096));
        assert_eq!(pamt_bytes(u64::MAX, PageSize::Size4K, u16::MAX), None);
    }

    #[test]
    fn entry_owner() {
        let entry = PamtEntry { owner: [0x45, 0x23, 0x01, 0, 0], ..PamtEntry::default() };
        assert_eq!(entry.owner_address(), PhysAddr::new(0x1234_5000));
    }
}
