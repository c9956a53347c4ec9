//! Guest physical addresses.

use tdx_abi::PageSize;

/// A page of guest memory, by guest physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GuestPage(u64);

impl GuestPage {
    /// The 4 KiB page that the guest physical address lies in. An operation on a larger page starts
    /// at its first one.
    pub const fn containing(gpa: u64) -> Self {
        Self(gpa & !(tdx_abi::PAGE_SIZE - 1))
    }

    /// The guest physical address of its first byte.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// Address and level, as RCX of MEM.* has them.
    pub(super) const fn operand(self, size: PageSize) -> u64 {
        self.0 | size as u64
    }
}
