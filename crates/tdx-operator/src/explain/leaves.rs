//! Statuses that each leaf can return. Checked against the conformance vectors by
//! `tests/explain_leaves.rs`. Leaves that are not emulated are not listed.

use tdx_abi::{Leaf, StatusCode};

type S = StatusCode;

/// A page that the host hands over or names.
const HPA: &[S] = &[S::OPERAND_INVALID, S::OPERAND_ADDR_RANGE_ERROR, S::OPERAND_BUSY, S::PAGE_METADATA_INCORRECT];
/// A TD that must be alive and in the right state.
const TD: &[S] =
    &[S::TD_FATAL, S::TD_KEYS_NOT_CONFIGURED, S::TDCS_NOT_ALLOCATED, S::OPERAND_BUSY, S::OP_STATE_INCORRECT];
/// A walk of the Secure-EPT.
const SEPT: &[S] = &[S::OPERAND_INVALID, S::OPERAND_BUSY, S::EPT_WALK_FAILED, S::EPT_ENTRY_STATE_INCORRECT];
/// What a range must have gone through before its pages move.
const TRACKED: &[S] = &[S::GPA_RANGE_NOT_BLOCKED, S::TLB_TRACKING_NOT_DONE];

/// What the module's dispatcher says before the leaf is asked, and the leaves that it lets
/// through in spite of it: the order of `tdx_abi.md` section 1.
const DISPATCHER: [(S, &[Leaf]); 3] = [
    // A bit of RAX or a version that the leaf does not take.
    (S::OPERAND_INVALID, &[]),
    (S::SYS_SHUTDOWN, &[Leaf::SYS_LP_SHUTDOWN]),
    (
        S::SYS_NOT_READY,
        &[
            Leaf::SYS_INFO,
            Leaf::SYS_RD,
            Leaf::SYS_RDALL,
            Leaf::SYS_INIT,
            Leaf::SYS_LP_INIT,
            Leaf::SYS_CONFIG,
            Leaf::SYS_KEY_CONFIG,
            Leaf::SYS_UPDATE,
            Leaf::SYS_LP_SHUTDOWN,
        ],
    ),
];

type Row = (Leaf, &'static [&'static [S]], &'static [S]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (Leaf::SYS_INIT, &[], &[S::SYS_BUSY, S::OPERAND_INVALID, S::SYS_INIT_NOT_PENDING, S::INCORRECT_MSR_VALUE, S::INCORRECT_CPUID_VALUE,
        S::CMR_LIST_INVALID, S::SMRR_OVERLAPS_CMR, S::INCOMPATIBLE_SEAM_CAPABILITIES, S::SYS_INCOMPATIBLE_SIGSTRUCT, S::RND_NO_ENTROPY]),
    (Leaf::SYS_LP_INIT, &[], &[S::SYS_BUSY, S::SYS_LP_INIT_NOT_PENDING, S::SYS_LP_INIT_DONE, S::RND_NO_ENTROPY, S::INCONSISTENT_MSR,
        S::INVALID_PKG_ID, S::INCONSISTENT_CPUID_FIELD]),
    (Leaf::SYS_INFO, &[], &[S::SYS_LP_INIT_NOT_DONE, S::OPERAND_INVALID]),
    (Leaf::SYS_RD, &[], &[S::SYS_LP_INIT_NOT_DONE, S::METADATA_FIELD_ID_INCORRECT, S::METADATA_FIRST_FIELD_ID_IN_CONTEXT]),
    (Leaf::SYS_RDALL, &[], &[S::SYS_LP_INIT_NOT_DONE]),
    (Leaf::SYS_CONFIG, &[], &[S::SYS_BUSY, S::SYS_CONFIG_NOT_PENDING, S::OPERAND_INVALID, S::INVALID_TDMR, S::NON_ORDERED_TDMR,
        S::NON_ORDERED_RESERVED_IN_TDMR, S::INVALID_RESERVED_IN_TDMR, S::INVALID_PAMT, S::PAMT_OVERLAP, S::PAMT_OUTSIDE_CMRS, S::TDMR_OUTSIDE_CMRS]),
    (Leaf::SYS_KEY_CONFIG, &[], &[S::SYS_BUSY, S::SYS_KEY_CONFIG_NOT_PENDING, S::KEY_CONFIGURED, S::OPERAND_BUSY, S::KEY_GENERATION_FAILED]),
    (Leaf::SYS_TDMR_INIT, &[], &[S::OPERAND_INVALID, S::OPERAND_BUSY, S::TDMR_ALREADY_INITIALIZED]),
    (Leaf::SYS_SHUTDOWN, &[], &[S::OPERAND_INVALID, S::SYS_BUSY]),
    (Leaf::SYS_UPDATE, &[], &[S::SYS_STATE_INCORRECT, S::SYS_INVALID_HANDOFF]),
    (Leaf::SYS_DISABLE, &[], &[S::INTERRUPTED_RESUMABLE, S::SYS_BUSY]),
    (Leaf::MNG_CREATE, &[HPA], &[S::HKID_NOT_FREE, S::RND_NO_ENTROPY]),
    (Leaf::MNG_KEY_CONFIG, &[HPA], &[S::TD_FATAL, S::LIFECYCLE_STATE_INCORRECT, S::KEY_CONFIGURED, S::KEY_GENERATION_FAILED]),
    (Leaf::MNG_ADDCX, &[HPA], &[S::TD_FATAL, S::TD_KEYS_NOT_CONFIGURED, S::TDCX_NUM_INCORRECT, S::RND_NO_ENTROPY, S::OP_STATE_INCORRECT]),
    (Leaf::MNG_INIT, &[HPA, TD], &[]),
    (Leaf::MNG_VPFLUSHDONE, &[HPA], &[S::LIFECYCLE_STATE_INCORRECT, S::FLUSHVP_NOT_DONE]),
    (Leaf::MNG_KEY_FREEID, &[HPA], &[S::LIFECYCLE_STATE_INCORRECT, S::WBCACHE_NOT_COMPLETE]),
    (Leaf::VP_CREATE, &[HPA, TD], &[]),
    (Leaf::VP_ADDCX, &[HPA, TD], &[S::VCPU_STATE_INCORRECT, S::TDCX_NUM_INCORRECT]),
    (Leaf::VP_INIT, &[HPA, TD], &[S::TDCX_NUM_INCORRECT, S::VCPU_STATE_INCORRECT, S::MAX_VCPUS_EXCEEDED, S::INCONSISTENT_MSR]),
    (Leaf::VP_ENTER, &[HPA], &[S::NON_RECOVERABLE_VCPU, S::NON_RECOVERABLE_TD, S::NON_RECOVERABLE_TD_NON_ACCESSIBLE, S::TD_FATAL,
        S::VCPU_STATE_INCORRECT, S::VCPU_ASSOCIATED, S::INCONSISTENT_MSR, S::TSC_ROLLBACK]),
    (Leaf::VP_FLUSH, &[HPA], &[S::VCPU_NOT_ASSOCIATED, S::TD_KEYS_NOT_CONFIGURED, S::TDCX_NUM_INCORRECT]),
    (Leaf::MEM_SEPT_ADD, &[HPA, TD, SEPT], &[S::INTERRUPTED_RESUMABLE]),
    (Leaf::MEM_SEPT_REMOVE, &[HPA, TD, SEPT, TRACKED], &[S::EPT_PAGE_NOT_FREE]),
    (Leaf::MEM_PAGE_ADD, &[HPA, TD, SEPT], &[]),
    (Leaf::MEM_PAGE_AUG, &[HPA, TD, SEPT], &[]),
    (Leaf::MEM_RANGE_BLOCK, &[HPA, TD, SEPT], &[S::GPA_RANGE_ALREADY_BLOCKED]),
    (Leaf::MEM_RANGE_UNBLOCK, &[HPA, TD, SEPT, TRACKED], &[]),
    (Leaf::MEM_TRACK, &[HPA, TD], &[S::PREVIOUS_TLB_EPOCH_BUSY]),
    (Leaf::MEM_PAGE_REMOVE, &[HPA, TD, SEPT, TRACKED], &[]),
    (Leaf::MEM_PAGE_RELOCATE, &[HPA, TD, SEPT, TRACKED], &[]),
    (Leaf::MEM_PAGE_PROMOTE, &[HPA, TD, SEPT, TRACKED], &[S::EPT_INVALID_PROMOTE_CONDITIONS, S::INTERRUPTED_RESTARTABLE]),
    (Leaf::MEM_PAGE_DEMOTE, &[HPA, TD, SEPT, TRACKED], &[S::INTERRUPTED_RESTARTABLE]),
    (Leaf::MR_EXTEND, &[HPA, TD, SEPT], &[S::EPT_ENTRY_NOT_PRESENT]),
    (Leaf::MR_FINALIZE, &[HPA, TD], &[S::NO_VCPUS]),
    (Leaf::PHYMEM_PAGE_RDMD, &[], &[S::OPERAND_INVALID, S::OPERAND_ADDR_RANGE_ERROR, S::OPERAND_BUSY]),
    (Leaf::PHYMEM_PAGE_RECLAIM, &[HPA], &[S::LIFECYCLE_STATE_INCORRECT, S::TD_ASSOCIATED_PAGES_EXIST]),
    (Leaf::PHYMEM_PAGE_WBINVD, &[HPA], &[]),
    (Leaf::PHYMEM_CACHE_WB, &[], &[S::OPERAND_INVALID, S::OPERAND_BUSY, S::NO_HKID_READY_TO_WBCACHE, S::INTERRUPTED_RESUMABLE, S::WBCACHE_RESUME_ERROR]),
    (Leaf::PHYMEM_PAMT_ADD, &[], &[S::HPA_RANGE_NOT_FREE, S::OPERAND_BUSY]),
];

/// The leaves that return this status for reasons of their own, in the order of the reference.
pub(super) fn returning(code: StatusCode) -> Vec<Leaf> {
    let has = |(_, sets, own): &&Row| own.contains(&code) || sets.iter().any(|set| set.contains(&code));
    ROWS.iter().filter(has).map(|(leaf, ..)| *leaf).collect()
}

/// The leaves that the module never answers so before they begin, if it answers all others so.
pub(super) fn any_leaf_but(code: StatusCode) -> Option<&'static [Leaf]> {
    DISPATCHER.iter().find(|(found, _)| *found == code).map(|(_, but)| *but)
}

/// True if this leaf may answer so, as far as the reference says.
pub fn may_return(leaf: Leaf, code: StatusCode) -> bool {
    let before = any_leaf_but(code).is_some_and(|but| !but.contains(&leaf));
    code == S::SUCCESS || before || returning(code).contains(&leaf)
}
