//! Physical addresses, 64-byte lines and pages as types of their own. A value here never carries
//! KeyID bits unless it is a [`PhysAddr`] that says so; [`Line`] and [`Page`] are places in memory,
//! without a key.

use core::fmt;

/// Bytes of a cache line: the unit of TD ownership, of poison, and of MOVDIR64B.
pub const LINE_SIZE: u64 = 64;
/// Bytes of the smallest page.
pub const PAGE_SIZE: u64 = 4096;
/// Lines in a 4 KiB page.
pub const LINES_PER_PAGE: u64 = PAGE_SIZE / LINE_SIZE;

/// A physical address as it stands on the bus or in a SEAMCALL register: up to 52 bits, KeyID bits
/// included if any.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Takes any 64-bit value: addresses come from registers and logs, and the receiver checks
    /// them.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The raw 64 bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True if the address is a multiple of `align` (a power of two, in bytes).
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }

    /// `self + bytes`, or `None` past 2^64.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The line this byte lies in. KeyID bits, if present, stay in the number.
    pub const fn line(self) -> Line {
        Line(self.0 / LINE_SIZE)
    }

    /// The 4 KiB page this byte lies in. KeyID bits, if present, stay in the number.
    pub const fn page(self) -> Page {
        Page(self.0 / PAGE_SIZE)
    }
}

/// The index of a 64-byte line: physical address / 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Line(u64);

impl Line {
    /// Line number `index`; its first byte is at `index * 64`.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The line number.
    pub const fn index(self) -> u64 {
        self.0
    }

    /// Address of the first byte. Line numbers at or above 2^58 wrap and are never real.
    pub const fn start(self) -> PhysAddr {
        PhysAddr(self.0.wrapping_mul(LINE_SIZE))
    }

    /// The page the line lies in.
    pub const fn page(self) -> Page {
        Page(self.0 / LINES_PER_PAGE)
    }
}

/// The index of a 4 KiB page (page frame number): physical address / 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Page(u64);

impl Page {
    /// Page number `index`; its first byte is at `index * 4096`.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The page number.
    pub const fn index(self) -> u64 {
        self.0
    }

    /// Address of the first byte. Page numbers at or above 2^52 wrap and are never real.
    pub const fn start(self) -> PhysAddr {
        PhysAddr(self.0.wrapping_mul(PAGE_SIZE))
    }

    /// First line of the page.
    pub const fn first_line(self) -> Line {
        Line(self.0.wrapping_mul(LINES_PER_PAGE))
    }
}

/// The three page sizes of PAMT and Secure-EPT; the number is the level used in registers (0 = 4
/// KiB).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PageSize {
    /// 4 KiB, level 0.
    Size4K = 0,
    /// 2 MiB, level 1.
    Size2M = 1,
    /// 1 GiB, level 2.
    Size1G = 2,
}

impl PageSize {
    /// Smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// Bytes in a page of this size.
    pub const fn bytes(self) -> u64 {
        PAGE_SIZE << (9 * self as u32)
    }

    /// 4 KiB pages in a page of this size: 1, 512 or 262144.
    pub const fn pages(self) -> u64 {
        1 << (9 * self as u32)
    }

    /// The level in a register or an entry, or `None` if it is not 0, 1 or 2.
    pub const fn from_level(level: u64) -> Option<Self> {
        match level {
            0 => Some(Self::Size4K),
            1 => Some(Self::Size2M),
            2 => Some(Self::Size1G),
            _ => None,
        }
    }
}

macro_rules! hex_format {
    ($($name:ident => $address:expr;)*) => {$(
        impl fmt::Display for $name {
            /// The address of the first byte, in hex with `0x`, as in a kernel log.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let address: fn($name) -> u64 = $address;
                write!(f, "{:#x}", address(*self))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}
hex_format! {
    PhysAddr => |a| a.0;
    Line => |l| l.start().0;
    Page => |p| p.start().0;
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn line_page_and_address_agree() {
        let address = PhysAddr::new(0x12345fc0);
        assert_eq!(address.line().start(), address);
        assert_eq!(address.page().start().get(), 0x12345000);
        assert_eq!(address.line().page(), address.page());
        assert_eq!(address.page().first_line().start().get(), 0x12345000);
        assert_eq!(format!("{address} {:?}", address.page()), "0x12345fc0 Page(0x12345000)");
    }

    #[test]
    fn page_sizes() {
        assert_eq!(PageSize::Size4K.bytes(), 4096);
        assert_eq!(PageSize::Size2M.bytes(), 2 << 20);
        assert_eq!(PageSize::Size1G.bytes(), 1 << 30);
        assert_eq!(PageSize::Size1G.pages(), 262144);
        assert_eq!(PageSize::from_level(3), None);
    }
}
