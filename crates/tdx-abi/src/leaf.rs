//! SEAMCALL leaf numbers and the register that selects them.

use crate::open_enum::open_enum;
use core::fmt;

open_enum! {
    /// A host-side SEAMCALL leaf: RAX bits 15:0. Names as in the specification, without `TDH.`.
    pub enum Leaf: u16 {
        /// Enter a VCPU.
        VP_ENTER = 0, "VP.ENTER";
        /// Add a TDCS page.
        MNG_ADDCX = 1, "MNG.ADDCX";
        /// Add and measure a guest page before the TD is finalized.
        MEM_PAGE_ADD = 2, "MEM.PAGE.ADD";
        /// Add a Secure-EPT page.
        MEM_SEPT_ADD = 3, "MEM.SEPT.ADD";
        /// Add a TDCX page to a VCPU.
        VP_ADDCX = 4, "VP.ADDCX";
        /// Move a guest page.
        MEM_PAGE_RELOCATE = 5, "MEM.PAGE.RELOCATE";
        /// Add a guest page that the guest must accept.
        MEM_PAGE_AUG = 6, "MEM.PAGE.AUG";
        /// Block a Secure-EPT entry.
        MEM_RANGE_BLOCK = 7, "MEM.RANGE.BLOCK";
        /// Configure the TD's key on this package.
        MNG_KEY_CONFIG = 8, "MNG.KEY.CONFIG";
        /// Create a TD.
        MNG_CREATE = 9, "MNG.CREATE";
        /// Create a VCPU.
        VP_CREATE = 10, "VP.CREATE";
        /// Read a TD field.
        MNG_RD = 11, "MNG.RD";
        /// Read guest memory of a debug TD.
        MEM_RD = 12, "MEM.RD";
        /// Write a TD field.
        MNG_WR = 13, "MNG.WR";
        /// Write guest memory of a debug TD.
        MEM_WR = 14, "MEM.WR";
        /// Split a large page.
        MEM_PAGE_DEMOTE = 15, "MEM.PAGE.DEMOTE";
        /// Extend the measurement.
        MR_EXTEND = 16, "MR.EXTEND";
        /// Finalize the measurement.
        MR_FINALIZE = 17, "MR.FINALIZE";
        /// Dissociate a VCPU from this LP.
        VP_FLUSH = 18, "VP.FLUSH";
        /// All VCPUs are flushed; the TD is blocked.
        MNG_VPFLUSHDONE = 19, "MNG.VPFLUSHDONE";
        /// Free the TD's KeyID.
        MNG_KEY_FREEID = 20, "MNG.KEY.FREEID";
        /// Initialize a TD.
        MNG_INIT = 21, "MNG.INIT";
        /// Initialize a VCPU.
        VP_INIT = 22, "VP.INIT";
        /// Merge 512 pages.
        MEM_PAGE_PROMOTE = 23, "MEM.PAGE.PROMOTE";
        /// Read a page's metadata.
        PHYMEM_PAGE_RDMD = 24, "PHYMEM.PAGE.RDMD";
        /// Read a Secure-EPT entry.
        MEM_SEPT_RD = 25, "MEM.SEPT.RD";
        /// Read a VCPU field.
        VP_RD = 26, "VP.RD";
        /// Legacy: does nothing.
        MNG_KEY_RECLAIMID = 27, "MNG.KEY.RECLAIMID";
        /// Take a page back from a TD in teardown.
        PHYMEM_PAGE_RECLAIM = 28, "PHYMEM.PAGE.RECLAIM";
        /// Remove a guest page.
        MEM_PAGE_REMOVE = 29, "MEM.PAGE.REMOVE";
        /// Remove a Secure-EPT page.
        MEM_SEPT_REMOVE = 30, "MEM.SEPT.REMOVE";
        /// Configure the global key on this package.
        SYS_KEY_CONFIG = 31, "SYS.KEY.CONFIG";
        /// Read TDSYSINFO and the CMRs.
        SYS_INFO = 32, "SYS.INFO";
        /// Initialize the module, once.
        SYS_INIT = 33, "SYS.INIT";
        /// Read a global metadata field.
        SYS_RD = 34, "SYS.RD";
        /// Initialize the module on this LP.
        SYS_LP_INIT = 35, "SYS.LP.INIT";
        /// Initialize the next piece of a TDMR's PAMT.
        SYS_TDMR_INIT = 36, "SYS.TDMR.INIT";
        /// Read all global metadata fields.
        SYS_RDALL = 37, "SYS.RDALL";
        /// Advance the TD's TLB epoch.
        MEM_TRACK = 38, "MEM.TRACK";
        /// Unblock a Secure-EPT entry.
        MEM_RANGE_UNBLOCK = 39, "MEM.RANGE.UNBLOCK";
        /// Write back this package's caches.
        PHYMEM_CACHE_WB = 40, "PHYMEM.CACHE.WB";
        /// Flush the lines of one page.
        PHYMEM_PAGE_WBINVD = 41, "PHYMEM.PAGE.WBINVD";
        /// Write a Secure-EPT entry.
        MEM_SEPT_WR = 42, "MEM.SEPT.WR";
        /// Write a VCPU field.
        VP_WR = 43, "VP.WR";
        /// Deprecated: does nothing.
        SYS_LP_SHUTDOWN = 44, "SYS.LP.SHUTDOWN";
        /// Configure TDMRs and the global KeyID.
        SYS_CONFIG = 45, "SYS.CONFIG";
        /// Shut the module down for an update.
        SYS_SHUTDOWN = 52, "SYS.SHUTDOWN";
        /// Take over from the previous module.
        SYS_UPDATE = 53, "SYS.UPDATE";
        /// Dynamic PAMT: add the pair of pages of a 2 MiB page. After 1.5.01; known from Linux and
        /// the module's source.
        PHYMEM_PAMT_ADD = 58, "PHYMEM.PAMT.ADD";
        /// Dynamic PAMT: take the pair of pages back. After 1.5.01; known from Linux and the
        /// module's source.
        PHYMEM_PAMT_REMOVE = 59, "PHYMEM.PAMT.REMOVE";
        /// Disable the module and take back all its memory. Known from Linux only; to be confirmed.
        SYS_DISABLE = 69, "SYS.DISABLE";
    }
}

impl fmt::Display for Leaf {
    /// `TDH.SYS.CONFIG`, or `leaf 200` if unknown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "TDH.{name}"),
            None => write!(f, "leaf {}", self.0),
        }
    }
}

/// RAX of a SEAMCALL: leaf in bits 15:0, version in bits 23:16, the rest must be 0 for the TDX
/// module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct LeafCall(u64);

impl LeafCall {
    /// Version 0 of a leaf.
    pub const fn new(leaf: Leaf) -> Self {
        Self(leaf.0 as u64)
    }

    /// A given version of a leaf.
    pub const fn with_version(leaf: Leaf, version: u8) -> Self {
        Self(leaf.0 as u64 | (version as u64) << 16)
    }

    /// Any RAX, valid or not: the module is the judge.
    pub const fn from_rax(rax: u64) -> Self {
        Self(rax)
    }

    /// The 64 bits of RAX.
    pub const fn rax(self) -> u64 {
        self.0
    }

    /// Bits 15:0.
    pub const fn leaf(self) -> Leaf {
        Leaf(self.0 as u16)
    }

    /// Bits 23:16.
    pub const fn version(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Bits 63:24; anything but 0 is not for the TDX module.
    pub const fn reserved(self) -> u64 {
        self.0 >> 24
    }
}

impl From<Leaf> for LeafCall {
    fn from(leaf: Leaf) -> Self {
        Self::new(leaf)
    }
}
