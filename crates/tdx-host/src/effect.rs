//! What each SEAMCALL leaf does to memory of the host: the one table that
//! [`seamcall::call`](crate::seamcall::call) and [`follow`](crate::follow) read.
//!
//! A leaf that is not in the table may do anything: it is refused by the one and an error of the
//! other.

use tdx_abi::Leaf;

/// What a leaf does to memory of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LeafEffect {
    /// Reads, or works on what the module already has. No page changes its owner, no memory of the
    /// host is written, and no state changes that lets another leaf or a guest do so.
    Nothing,
    /// Writes memory of the host at an address among its operands.
    WritesMemory,
    /// Changes the life of the module, a TD, a VCPU or a KeyID, or what a guest can reach.
    ChangesState,
    /// Takes pages of the host or returns them.
    MovesPages,
    /// Runs a guest, and leaves no register as it was.
    EntersGuest,
}

/// Where a call names a page that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// 4 KiB at RCX.
    Rcx,
    /// 4 KiB at RDX.
    Rdx,
    /// 4 KiB at R8.
    R8,
    /// At R8, of the level in RCX.
    R8Sized,
    /// 4 KiB at R12, if the module has dynamic PAMT on.
    R12Dynamic,
    /// 4 KiB at R13, if the module has dynamic PAMT on.
    R13Dynamic,
}

/// Where the answer of a call that succeeds names the pages that it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returned {
    /// It returns none.
    None,
    /// 4 KiB at RCX.
    Rcx,
    /// At RCX, of the level in RCX of the call.
    RcxSized,
    /// 4 KiB at RCX and, if the module has dynamic PAMT on, at R12 and R13.
    RcxAndPair,
    /// The page in RCX of the call; R8 is its size.
    Asked,
    /// 4 KiB at RDX and at R8.
    RdxAndR8,
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) effect: LeafEffect,
    pub(crate) takes: &'static [Taken],
    pub(crate) returns: Returned,
}

impl Row {
    const fn takes(takes: &'static [Taken]) -> Self {
        Self::moves(takes, Returned::None)
    }

    const fn returns(returns: Returned) -> Self {
        Self::moves(&[], returns)
    }

    const fn moves(takes: &'static [Taken], returns: Returned) -> Self {
        Self { effect: LeafEffect::MovesPages, takes, returns }
    }

    const fn no_page(effect: LeafEffect) -> Self {
        Self { effect, takes: &[], returns: Returned::None }
    }
}

/// The row of a leaf, or `None` if it is not known.
///
/// Source: the TDX module ABI specification and module 1.5.01; PHYMEM.PAMT.* and SYS.DISABLE from
/// Linux and the module's source.
pub(crate) const fn row(leaf: Leaf) -> Option<Row> {
    use LeafEffect::{ChangesState, EntersGuest, Nothing, WritesMemory};
    Some(match leaf {
        Leaf::MNG_CREATE | Leaf::MNG_ADDCX | Leaf::VP_CREATE | Leaf::VP_ADDCX => Row::takes(&[Taken::Rcx]),
        Leaf::MEM_PAGE_ADD | Leaf::MEM_SEPT_ADD => Row::takes(&[Taken::R8]),
        Leaf::MEM_PAGE_AUG => Row::takes(&[Taken::R8Sized]),
        Leaf::MEM_PAGE_DEMOTE => Row::takes(&[Taken::R8, Taken::R12Dynamic, Taken::R13Dynamic]),
        Leaf::MEM_PAGE_RELOCATE => Row::moves(&[Taken::R8], Returned::Rcx),
        Leaf::PHYMEM_PAMT_ADD => Row::takes(&[Taken::Rdx, Taken::R8]),
        Leaf::MEM_PAGE_REMOVE => Row::returns(Returned::RcxSized),
        Leaf::MEM_PAGE_PROMOTE => Row::returns(Returned::RcxAndPair),
        Leaf::MEM_SEPT_REMOVE => Row::returns(Returned::Rcx),
        Leaf::PHYMEM_PAGE_RECLAIM => Row::returns(Returned::Asked),
        Leaf::PHYMEM_PAMT_REMOVE => Row::returns(Returned::RdxAndR8),
        Leaf::SYS_RD
        | Leaf::MNG_RD
        | Leaf::VP_RD
        | Leaf::MEM_RD
        | Leaf::MEM_SEPT_RD
        | Leaf::PHYMEM_PAGE_RDMD
        | Leaf::MEM_RANGE_BLOCK
        | Leaf::MEM_RANGE_UNBLOCK
        | Leaf::MEM_TRACK
        | Leaf::PHYMEM_CACHE_WB
        | Leaf::PHYMEM_PAGE_WBINVD => Row::no_page(Nothing),
        Leaf::SYS_INFO | Leaf::SYS_RDALL => Row::no_page(WritesMemory),
        Leaf::VP_ENTER => Row::no_page(EntersGuest),
        // PAMTs are in the record of PAMTs, and what SYS.DISABLE clears may stay marked.
        Leaf::SYS_INIT
        | Leaf::SYS_LP_INIT
        | Leaf::SYS_CONFIG
        | Leaf::SYS_KEY_CONFIG
        | Leaf::SYS_TDMR_INIT
        | Leaf::SYS_LP_SHUTDOWN
        | Leaf::SYS_SHUTDOWN
        | Leaf::SYS_UPDATE
        | Leaf::SYS_DISABLE
        | Leaf::MNG_KEY_CONFIG
        | Leaf::MNG_KEY_FREEID
        | Leaf::MNG_KEY_RECLAIMID
        | Leaf::MNG_VPFLUSHDONE
        | Leaf::MNG_INIT
        // MNG.WR and VP.WR can set the shared EPT pointer, MEM.SEPT.WR and MEM.WR what a guest
        // sees.
        | Leaf::MNG_WR
        | Leaf::MEM_WR
        | Leaf::MEM_SEPT_WR
        | Leaf::VP_INIT
        | Leaf::VP_WR
        | Leaf::VP_FLUSH
        | Leaf::MR_EXTEND
        | Leaf::MR_FINALIZE => Row::no_page(ChangesState),
        _ => return None,
    })
}

/// What a leaf does to memory of the host; `None` if the leaf is not known.
pub const fn leaf_effect(leaf: Leaf) -> Option<LeafEffect> {
    match row(leaf) {
        Some(row) => Some(row.effect),
        None => None,
    }
}
