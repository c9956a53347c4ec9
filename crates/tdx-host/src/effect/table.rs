//! The table of SEAMCALL page operands: data alone.
//!
//! Sources: the TDX module ABI specification; the conformance vectors of modules 1.5.01 and 1.5.25,
//! with which `crates/tdx-lab/tests/page_operands.rs` compares every row; for pages of L2 VMs,
//! which the vectors hardly have, the module's source (1.5.01 and 1.5.24: `tdh_mem_sept_add.c`,
//! `tdh_mem_sept_remove.c`, `tdh_mem_page_demote.c`, `tdh_mem_page_promote.c`). SYS.DISABLE is
//! known from Linux alone.

use tdx_abi::{Leaf, StatusCode};

use super::LeafEffect::{ChangesState, EntersGuest, MovesPages, Nothing, WritesMemory};
use super::Register::{R8, R9, R10, R11, R12, R13, Rcx, Rdx};
use super::There::{PairOf2M, UnlessAllOnes, UnlessAllOnesOrZero};
use super::Written::{AlsoOn, OnAccept};
use super::{Kept, LeafEffect, Return, Row, Size, Take};

/// What ends a MEM.PAGE.DEMOTE after it has filled the new Secure-EPT pages.
const LATE_IN_DEMOTE: &[StatusCode] = &[
    StatusCode::INTERRUPTED_RESTARTABLE,
    StatusCode::OPERAND_BUSY,
    StatusCode::OPERAND_INVALID,
    StatusCode::OPERAND_ADDR_RANGE_ERROR,
    StatusCode::PAGE_NOT_FREE,
    StatusCode::L2_SEPT_WALK_FAILED,
];

/// A leaf that moves no page, in version 0.
const fn still(leaf: Leaf, effect: LeafEffect) -> Row {
    Row { leaf, versions: &[0], effect, takes: &[], takes_pamts: false, returns: &[], note: "" }
}

/// A leaf that takes pages, in version 0.
const fn takes(leaf: Leaf, takes: &'static [Take]) -> Row {
    Row { takes, ..still(leaf, MovesPages) }
}

/// A leaf that returns pages, in version 0.
const fn returns(leaf: Leaf, returns: &'static [Return]) -> Row {
    Row { returns, ..still(leaf, MovesPages) }
}

/// The Secure-EPT page of an L2 VM that DEMOTE takes.
const fn l2_of_demote(register: super::Register) -> Take {
    Take::small(register).there(UnlessAllOnesOrZero).written(AlsoOn(LATE_IN_DEMOTE)).kept(Kept::AsAnswered)
}

/// The Secure-EPT page that SEPT.ADD version 1 takes, for L1 or an L2 VM.
const fn of_sept_add(register: super::Register) -> Take {
    Take::small(register).there(UnlessAllOnes).written(AlsoOn(BETWEEN_PAGES)).kept(Kept::AsAnswered)
}

/// The Secure-EPT page of an L2 VM that comes back.
const fn l2_back(register: super::Register) -> Return {
    Return::small(register).there(UnlessAllOnes)
}

/// A page of a pair of Dynamic PAMT that comes back from a merged page.
const fn pair_back(register: super::Register) -> Return {
    Return::small(register).there(PairOf2M)
}

/// What ends a MEM.SEPT.ADD between two pages.
const BETWEEN_PAGES: &[StatusCode] = &[StatusCode::INTERRUPTED_RESUMABLE];
const V0_1: &[u8] = &[0, 1];
const V1: &[u8] = &[1];
const NO_ENTROPY: &[StatusCode] = &[StatusCode::RND_NO_ENTROPY];
const ADDCX: &[StatusCode] = &[StatusCode::RND_NO_ENTROPY, StatusCode::OP_STATE_INCORRECT];
const UNNAMED_L2: &str = "Pages of L2 VMs come back with it, and the answer does not name them";

/// All leaves and versions that are known.
pub const TABLE: &[Row] = &[
    takes(Leaf::MNG_CREATE, &[Take::small(Rcx).written(AlsoOn(NO_ENTROPY))]),
    takes(Leaf::MNG_ADDCX, &[Take::small(Rcx).written(AlsoOn(ADDCX))]),
    takes(Leaf::VP_CREATE, &[Take::small(Rcx)]),
    takes(Leaf::VP_ADDCX, &[Take::small(Rcx)]),
    takes(Leaf::MEM_PAGE_ADD, &[Take::small(R8)]),
    takes(Leaf::MEM_PAGE_AUG, &[Take::small(R8).sized(Size::LevelInRcx).written(OnAccept)]),
    takes(Leaf::MEM_SEPT_ADD, &[Take::small(R8).kept(Kept::UnlessOneMayExist)]),
    Row {
        versions: V1,
        note: "Interrupted between pages: keeps those whose register is all ones",
        ..takes(Leaf::MEM_SEPT_ADD, &[of_sept_add(R8), of_sept_add(R9), of_sept_add(R10), of_sept_add(R11)])
    },
    takes(
        Leaf::MEM_PAGE_DEMOTE,
        &[
            Take::small(R8).written(AlsoOn(LATE_IN_DEMOTE)),
            l2_of_demote(R9),
            l2_of_demote(R10),
            l2_of_demote(R11),
            Take::small(R12).there(PairOf2M),
            Take::small(R13).there(PairOf2M),
        ],
    ),
    Row { returns: &[Return::small(Rcx)], ..takes(Leaf::MEM_PAGE_RELOCATE, &[Take::small(R8)]) },
    takes(Leaf::PHYMEM_PAMT_ADD, &[Take::small(Rdx), Take::small(R8)]),
    returns(Leaf::MEM_PAGE_REMOVE, &[Return::small(Rcx).sized(Size::LevelInRcx)]),
    Row { note: UNNAMED_L2, ..returns(Leaf::MEM_SEPT_REMOVE, &[Return::small(Rcx)]) },
    Row {
        versions: V1,
        ..returns(Leaf::MEM_SEPT_REMOVE, &[Return::small(Rcx), l2_back(R9), l2_back(R10), l2_back(R11)])
    },
    Row { note: UNNAMED_L2, ..returns(Leaf::MEM_PAGE_PROMOTE, &[Return::small(Rcx), pair_back(R12), pair_back(R13)]) },
    Row {
        versions: V1,
        ..returns(
            Leaf::MEM_PAGE_PROMOTE,
            &[Return::small(Rcx), l2_back(R9), l2_back(R10), l2_back(R11), pair_back(R12), pair_back(R13)],
        )
    },
    returns(Leaf::PHYMEM_PAGE_RECLAIM, &[Return::small(Rcx).by_call().sized(Size::LevelInR8)]),
    returns(Leaf::PHYMEM_PAMT_REMOVE, &[Return::small(Rdx), Return::small(R8)]),
    // What only reads, or works on what the module has.
    still(Leaf::SYS_RD, Nothing),
    Row { versions: V0_1, ..still(Leaf::MNG_RD, Nothing) },
    Row { versions: V0_1, ..still(Leaf::VP_RD, Nothing) },
    still(Leaf::MEM_RD, Nothing),
    still(Leaf::MEM_SEPT_RD, Nothing),
    still(Leaf::PHYMEM_PAGE_RDMD, Nothing),
    still(Leaf::MEM_RANGE_BLOCK, Nothing),
    still(Leaf::MEM_RANGE_UNBLOCK, Nothing),
    still(Leaf::MEM_TRACK, Nothing),
    still(Leaf::PHYMEM_CACHE_WB, Nothing),
    still(Leaf::PHYMEM_PAGE_WBINVD, Nothing),
    still(Leaf::SYS_INFO, WritesMemory),
    still(Leaf::SYS_RDALL, WritesMemory),
    Row {
        note: "A guest's accept makes lines of pages private that MEM.PAGE.AUG gave",
        ..still(Leaf::VP_ENTER, EntersGuest)
    },
    // The life of the module, of TDs, VCPUs and KeyIDs.
    Row { versions: V0_1, note: "Works once for each load of a module", ..still(Leaf::SYS_INIT, ChangesState) },
    still(Leaf::SYS_LP_INIT, ChangesState),
    Row {
        takes_pamts: true,
        note: "With the bit for Dynamic PAMT in R8, PAMT_4K is a bitmap",
        ..still(Leaf::SYS_CONFIG, ChangesState)
    },
    still(Leaf::SYS_KEY_CONFIG, ChangesState),
    Row { note: "Writes the next piece of the PAMTs that SYS.CONFIG took", ..still(Leaf::SYS_TDMR_INIT, ChangesState) },
    still(Leaf::SYS_LP_SHUTDOWN, ChangesState),
    Row { note: "All pages stay private, also when it succeeds", ..still(Leaf::SYS_SHUTDOWN, ChangesState) },
    Row { versions: V0_1, note: "All pages stay the module's", ..still(Leaf::SYS_UPDATE, ChangesState) },
    Row {
        note: "Unverified: takes back and clears all pages that the module knows",
        ..still(Leaf::SYS_DISABLE, ChangesState)
    },
    still(Leaf::MNG_KEY_CONFIG, ChangesState),
    still(Leaf::MNG_KEY_FREEID, ChangesState),
    still(Leaf::MNG_KEY_RECLAIMID, ChangesState),
    still(Leaf::MNG_VPFLUSHDONE, ChangesState),
    still(Leaf::MNG_INIT, ChangesState),
    // MNG.WR and VP.WR can set the shared EPT pointer, MEM.SEPT.WR and MEM.WR what a guest sees.
    still(Leaf::MNG_WR, ChangesState),
    still(Leaf::MEM_WR, ChangesState),
    still(Leaf::MEM_SEPT_WR, ChangesState),
    Row { versions: V0_1, ..still(Leaf::VP_INIT, ChangesState) },
    still(Leaf::VP_WR, ChangesState),
    still(Leaf::VP_FLUSH, ChangesState),
    still(Leaf::MR_EXTEND, ChangesState),
    still(Leaf::MR_FINALIZE, ChangesState),
];
