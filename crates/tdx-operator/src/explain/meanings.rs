//! Meaning of each completion status for the kernel that gets it: text, action, retry rule.

use tdx_abi::StatusCode;

use crate::report::Retry;

/// What a status means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meaning {
    pub(super) code: StatusCode,
    pub(super) retry: Retry,
    pub(super) text: &'static str,
    pub(super) todo: &'static str,
}

/// The meaning of a code, if this program knows it.
pub(super) fn of(code: StatusCode) -> Option<&'static Meaning> {
    MEANINGS.iter().find(|meaning| meaning.code == code)
}

const fn m(code: StatusCode, retry: Retry, text: &'static str, todo: &'static str) -> Meaning {
    Meaning { code, retry, text, todo }
}

const BUSY: &str = "drop any locks held by this CPU, then retry; for a guest page, kick the TD's VCPUs first";
const ORDER: &str = "caller bug: check the order of calls against the module state";
const SEPT: &str =
    "RCX holds the Secure-EPT entry and RDX its level and state: add or block what is missing, or fix the caller";
const LAYOUT: &str = "invalid TDMR layout: `cleanslate plan --host LOG` shows one that the module accepts";

#[rustfmt::skip]
const MEANINGS: &[Meaning] = {
    use Retry::{After, AtOnce, Later, No, NotNeeded, Resume};
    use StatusCode as S;
    &[
    m(S::SUCCESS, NotNeeded, "the call succeeded", "nothing"),
    m(S::NON_RECOVERABLE_VCPU, No, "the VCPU cannot run again; the TD can", "stop this VCPU; the TD may \
        continue or be torn down"),
    m(S::NON_RECOVERABLE_TD, No, "the TD cannot run again", "tear the TD down and reset its pages"),
    m(S::NON_RECOVERABLE_TD_NON_ACCESSIBLE, No, "the TD cannot run again, and its memory is not accessible", "tear the TD down and reset its pages"),
    m(S::INTERRUPTED_RESUMABLE, Resume, "interrupted; progress is kept", "handle the interrupt, then call \
        again (PHYMEM.CACHE.WB: on the same package) until the status changes"),
    m(S::INTERRUPTED_RESTARTABLE, AtOnce, "interrupted; no progress is kept, but the page passed to the \
        call may already be private", "handle the interrupt, then retry; when giving up, reset the page \
             passed to the call"),
    m(S::INVALID_RESUMPTION, No, "the call is marked as resumed, but there is no matching operation to \
        resume", "restart the operation"),
    m(S::OPERAND_INVALID, No, "invalid operand: alignment, reserved bits, a KeyID in an address, a page \
        that may not be used this way; with RAX: unknown leaf or leaf version", "fix the named operand; \
             with RAX, check TDX_FEATURES0 before using the leaf, or update the module"),
    m(S::OPERAND_ADDR_RANGE_ERROR, No, "the page is outside all TDMRs, or in a 1 GiB block not yet \
        initialized by TDMR.INIT", "pass pages inside TDMRs only, and complete TDMR.INIT first"),
    m(S::OPERAND_BUSY, Later, "the operand is locked by another CPU or by this call; the module never waits", BUSY),
    m(S::PREVIOUS_TLB_EPOCH_BUSY, Later, "a VCPU that entered in the previous TLB epoch is still inside the \
        TD", "kick the TD's VCPUs, then call again"),
    m(S::SYS_BUSY, Later, "another SYS call holds the module's global lock", "retry; serialize SYS leaves \
        other than SYS.LP.INIT and SYS.TDMR.INIT"),
    m(S::RND_NO_ENTROPY, AtOnce, "the random number generator had no entropy; the page passed to the call \
        may already be private", "retry up to ten times, as Linux does; if it still fails, reset the \
             page passed to the call"),
    m(S::OPERAND_BUSY_HOST_PRIORITY, Later, "guest side: the host failed to get this lock and has \
        priority", "the guest retries; the host must repeat its call, or the guest keeps waiting"),
    m(S::HOST_PRIORITY_BUSY_TIMEOUT, Later, "guest side: timed out waiting for the host", "the host must \
        repeat the call that failed with OPERAND_BUSY"),
    m(S::PAGE_METADATA_INCORRECT, No, "the page has a different type in PAMT, or is part of a larger page", "caller's page state is wrong: PHYMEM.PAGE.RDMD returns type, owner and size; do not use the page until this is resolved"),
    m(S::PAGE_ALREADY_FREE, NotNeeded, "the page is free already", "nothing"),
    m(S::PAGE_NOT_OWNED_BY_TD, No, "the page belongs to another TD", "caller's page state is wrong: PHYMEM.PAGE.RDMD returns the owner"),
    m(S::PAGE_NOT_FREE, No, "the page is in use", "pass a free page, or reclaim this one first"),
    m(S::HPA_RANGE_NOT_FREE, No, "Dynamic PAMT: this 2 MiB range already has its PAMT page pair", "refcount each 2 MiB range; add the pair with the first user only"),
    m(S::NO_PAMT_PAGE_PAIR, No, "Dynamic PAMT: this 2 MiB range has no PAMT page pair to remove", "refcount \
        each 2 MiB range; remove the pair with the last user only"),
    m(S::PAMT_PAGE_NOT_EMPTY, After, "Dynamic PAMT: a page in this 2 MiB range is still in use", "reclaim \
        its pages first"),
    m(S::INTERRUPTED_PAMT, AtOnce, "Dynamic PAMT: interrupted", "handle the interrupt, then retry"),
    m(S::MISSING_PAMT_PAGE_PAIR, After, "Dynamic PAMT: the 2 MiB range of this page has no PAMT page pair", "PHYMEM.PAMT.ADD for its 2 MiB range, then retry"),
    m(S::TD_ASSOCIATED_PAGES_EXIST, After, "the TD still has pages", "PHYMEM.PAGE.RECLAIM every other page \
        of the TD, its TDR last"),
    m(S::SYS_INIT_NOT_PENDING, No, "the module was already initialized, by this kernel or by one before a \
        kexec", "after a kexec: power cycle, or have the old kernel call TDH.SYS.DISABLE; otherwise a caller bug"),
    m(S::SYS_LP_INIT_NOT_DONE, After, "SYS.LP.INIT has not run on this CPU", "call SYS.LP.INIT on this CPU, \
        then retry"),
    m(S::SYS_LP_INIT_DONE, No, "SYS.LP.INIT has run on this CPU before", "nothing, if this kernel called it"),
    m(S::SYS_NOT_READY, No, "the module is not ready: initialization is incomplete; on SYS.RD: a 1.0 \
        module, which does not allow this leaf so early", "complete SYS.CONFIG, and SYS.KEY.CONFIG on \
             every package; for SYS.RD, update the module to 1.5"),
    m(S::SYS_SHUTDOWN, No, "the module is shut down, for an update that did not complete", "complete the \
        update or power cycle; memory stays private until then, so reset it before a kexec"),
    m(S::SYS_KEY_CONFIG_NOT_PENDING, No, "SYS.KEY.CONFIG is not pending: before SYS.CONFIG, or after the \
        last package", ORDER),
    m(S::SYS_STATE_INCORRECT, No, "the module is in a different state", ORDER),
    m(S::SYS_INVALID_HANDOFF, No, "the previous module left no handoff data that this one can use", "install a module that supports its handoff version, or power cycle"),
    m(S::SYS_INCOMPATIBLE_SIGSTRUCT, No, "module and SIGSTRUCT do not match", "install module and SIGSTRUCT \
        of the same release"),
    m(S::SYS_LP_INIT_NOT_PENDING, No, "SYS.LP.INIT is not pending: before SYS.INIT, or after SYS.CONFIG", "call SYS.INIT first; a CPU brought online after SYS.CONFIG cannot be used for TDX"),
    m(S::SYS_CONFIG_NOT_PENDING, After, "SYS.CONFIG is not pending: SYS.LP.INIT has not run on every CPU of \
        the platform, or SYS.CONFIG is done", "call SYS.LP.INIT on every CPU, including offline ones"),
    m(S::UPDATE_COMPATIBILITY_SENSITIVE, Later, "a TD is being built or migrated, and the caller asked not to update now", "complete or tear down that TD, then retry"),
    m(S::INCOMPATIBLE_SEAM_CAPABILITIES, No, "CPU or firmware lacks SEAM capabilities required by this \
        module", "update the BIOS and microcode, or use another module version"),
    m(S::TD_FATAL, No, "the TD is in the fatal state", "tear the TD down and reset its pages"),
    m(S::TD_NON_DEBUG, No, "only allowed on a debug TD", "caller bug"),
    m(S::TDCS_NOT_ALLOCATED, After, "the TD has too few TDCS pages", "MNG.ADDCX until it has enough \
        (TDCS_BASE_SIZE)"),
    m(S::LIFECYCLE_STATE_INCORRECT, No, "the TD is in a different lifecycle state", ORDER),
    m(S::OP_STATE_INCORRECT, No, "not allowed in the TD's current state; after MNG.ADDCX the page may \
        already be private", "check the order of calls against the TD state; reset the page passed to the call"),
    m(S::NO_VCPUS, After, "the TD has no VCPU", "VP.CREATE, VP.ADDCX, VP.INIT, then retry"),
    m(S::TDCX_NUM_INCORRECT, After, "too few or too many control pages", "add as many as TDCS_BASE_SIZE or \
        TDVPS_BASE_SIZE specifies"),
    m(S::VCPU_STATE_INCORRECT, No, "not allowed in the VCPU's current state", ORDER),
    m(S::VCPU_ASSOCIATED, After, "the VCPU is associated with another CPU", "VP.FLUSH on that CPU, then retry"),
    m(S::VCPU_NOT_ASSOCIATED, After, "the VCPU is not associated with this CPU, or was flushed", "make the \
        call on the CPU that ran the VCPU last; nothing, if it was flushed"),
    m(S::MAX_VCPUS_EXCEEDED, No, "the TD already has its maximum number of VCPUs", "raise MAX_VCPUS in \
        TD_PARAMS of a new TD"),
    m(S::X2APIC_ID_NOT_UNIQUE, No, "another VCPU of the TD has this x2APIC id", "pass a unique x2APIC id to VP.INIT"),
    m(S::NO_VALID_VE_INFO, No, "guest side: there is no #VE information to read", "a guest bug: read it once after a #VE"),
    m(S::TSC_ROLLBACK, No, "the TSC went backwards", "power cycle; contact the BIOS vendor"),
    m(S::TD_VMCS_FIELD_NOT_INITIALIZED, After, "a VMCS field of the VCPU that this one depends on is not set; \
        its encoding is in bits 31:0", "write that field first (VP.WR)"),
    m(S::KEY_GENERATION_FAILED, AtOnce, "key generation failed for lack of entropy", "retry a few times"),
    m(S::TD_KEYS_NOT_CONFIGURED, After, "the TD's key is not configured on every package, or no longer \
        after MNG.VPFLUSHDONE", "MNG.KEY.CONFIG on every package; in a teardown, continue with the next step"),
    m(S::KEY_STATE_INCORRECT, No, "the KeyID is in a different state; never returned by module 1.5.01", ORDER),
    m(S::KEY_CONFIGURED, NotNeeded, "the key is already configured on this package", "continue with the \
        next package"),
    m(S::WBCACHE_NOT_COMPLETE, After, "the caches of some package may still hold lines of this KeyID", "complete PHYMEM.CACHE.WB on every package, then retry"),
    m(S::HKID_NOT_FREE, No, "the KeyID is in use, not yet flushed, or already used as the global KeyID", "use another KeyID"),
    m(S::NO_HKID_READY_TO_WBCACHE, NotNeeded, "no KeyID is pending write-back; nothing was written back", "nothing"),
    m(S::WBCACHE_RESUME_ERROR, No, "there is no write-back to resume on this package", "restart \
        PHYMEM.CACHE.WB with RCX = 0"),
    m(S::FLUSHVP_NOT_DONE, After, "a VCPU is still associated with a CPU", "VP.FLUSH on the CPU of each \
        VCPU, then retry"),
    m(S::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED, No, "the BIOS activated more KeyIDs than the module supports", "configure fewer KeyIDs in the BIOS"),
    m(S::INCORRECT_CPUID_VALUE, No, "a CPUID value is not accepted by this module: module and CPU or \
        microcode do not match", "update the BIOS with its microcode and TDX module"),
    m(S::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED, No, "the topology that the VMM sets for CPUID leaf 0x1f is none",
        "correct the CPU topology of the TD in the VMM's configuration"),
    m(S::INCONSISTENT_CPUID_FIELD, No, "CPUID of this CPU differs from that of the first; see RCX, RDX and \
        R8", "update the BIOS; check for mixed CPUs or settings"),
    m(S::INVALID_PKG_ID, No, "the CPU's package number exceeds the module's limit", "contact the BIOS vendor"),
    m(S::SMRR_OVERLAPS_CMR, No, "SMRR overlaps a CMR", "update the BIOS"),
    m(S::SMRR_NOT_LOCKED, No, "the BIOS did not lock SMRR", "update the BIOS"),
    m(S::SMRR_NOT_SUPPORTED, No, "the CPU reports no SMRR support", "update the BIOS and microcode"),
    m(S::INCONSISTENT_MSR, No, "an MSR of this CPU differs from that of the first", "update the BIOS; check \
        for a kernel option that sets this MSR on some CPUs only"),
    m(S::INCORRECT_MSR_VALUE, No, "an MSR has a value that the module does not accept", "check the BIOS \
        setting and the kernel option that set this MSR"),
    m(S::INVALID_TDMR, No, "a TDMR is empty, not a multiple of 1 GiB, or beyond the physical address width", LAYOUT),
    m(S::NON_ORDERED_TDMR, No, "TDMRs are not ascending or overlap", LAYOUT),
    m(S::TDMR_OUTSIDE_CMRS, No, "a non-reserved part of a TDMR is outside all CMRs", LAYOUT),
    m(S::TDMR_ALREADY_INITIALIZED, NotNeeded, "this TDMR is completely initialized", "continue with the next TDMR"),
    m(S::INVALID_PAMT, No, "a PAMT is misaligned, too small, or beyond the physical address width", LAYOUT),
    m(S::PAMT_OUTSIDE_CMRS, No, "a PAMT is outside all CMRs", LAYOUT),
    m(S::PAMT_OVERLAP, No, "a PAMT overlaps another PAMT or a non-reserved part of a TDMR", LAYOUT),
    m(S::INVALID_RESERVED_IN_TDMR, No, "a reserved area is misaligned or outside its TDMR", LAYOUT),
    m(S::NON_ORDERED_RESERVED_IN_TDMR, No, "reserved areas are not ascending, overlap, or follow an empty \
        one", LAYOUT),
    m(S::CMR_LIST_INVALID, No, "the BIOS provided an invalid CMR list", "update the BIOS"),
    m(S::EPT_WALK_FAILED, After, "Secure-EPT walk failed: a table is missing on the path to this page", SEPT),
    m(S::EPT_ENTRY_FREE, No, "the Secure-EPT entry is free", SEPT),
    m(S::EPT_ENTRY_NOT_FREE, No, "the Secure-EPT entry is in use", SEPT),
    m(S::EPT_ENTRY_NOT_PRESENT, After, "the Secure-EPT entry is not present", SEPT),
    m(S::EPT_ENTRY_NOT_LEAF, No, "the Secure-EPT entry is a table, not a page", SEPT),
    m(S::EPT_ENTRY_LEAF, No, "the Secure-EPT entry is a page, not a table", SEPT),
    m(S::GPA_RANGE_NOT_BLOCKED, After, "the range is not blocked", "MEM.RANGE.BLOCK, MEM.TRACK, kick the \
        VCPUs, then retry"),
    m(S::GPA_RANGE_ALREADY_BLOCKED, NotNeeded, "the range is already blocked", "continue with MEM.TRACK"),
    m(S::TLB_TRACKING_NOT_DONE, After, "a VCPU may still hold the old translation in its TLB", "MEM.TRACK, \
        kick the VCPUs, then retry"),
    m(S::EPT_INVALID_PROMOTE_CONDITIONS, No, "the 512 pages are not all mapped, in the same state and \
        contiguous", "keep the small pages"),
    m(S::PAGE_ALREADY_ACCEPTED, NotNeeded, "guest side: the page was already accepted", "a guest that does \
        not expect this must stop: the page may have been replaced"),
    m(S::PAGE_SIZE_MISMATCH, No, "guest side: the page is mapped at a different size", "the guest accepts \
        at that size, or the host demotes the page"),
    m(S::GPA_RANGE_BLOCKED, After, "the range is blocked", "MEM.RANGE.UNBLOCK, or complete the operation \
        that blocked it"),
    m(S::EPT_ENTRY_STATE_INCORRECT, No, "not allowed in the Secure-EPT entry's current state", SEPT),
    m(S::EPT_PAGE_NOT_FREE, After, "the Secure-EPT page still maps something", "remove what it maps first"),
    m(S::L2_SEPT_WALK_FAILED, After, "L2 Secure-EPT walk failed: a table is missing", SEPT),
    m(S::L2_SEPT_ENTRY_NOT_FREE, No, "the L2 VM already has a Secure-EPT page there", "continue without it, or \
        pass the flag that allows existing pages"),
    m(S::L2_SEPT_PAGE_NOT_PROVIDED, After, "a page for an L2 Secure-EPT is required and was not passed", "pass it in R9 to R11 of version 1"),
    m(S::METADATA_FIELD_ID_INCORRECT, No, "unknown metadata field", "not supported by this module version: \
        do without the field, or update the module"),
    m(S::METADATA_FIELD_NOT_WRITABLE, No, "none of the bits to write is writable by the host", "caller bug: check \
        the field and the mask in R9"),
    m(S::METADATA_FIELD_NOT_READABLE, No, "the field is not readable by the host", "caller bug"),
    m(S::METADATA_FIELD_VALUE_NOT_VALID, No, "the value is not valid for the field, or changes read-only bits", "caller bug: \
        check the value; an address must be shared and aligned"),
    m(S::METADATA_LIST_OVERFLOW, No, "the list is too short for the fields", "read field by field with SYS.RD"),
    m(S::METADATA_WR_MASK_NOT_VALID, No, "the field is written as a whole only", "pass all ones in R9"),
    m(S::METADATA_FIRST_FIELD_ID_IN_CONTEXT, NotNeeded, "RDX holds the first field id", "read that field"),
    m(S::METADATA_FIELD_SKIP, NotNeeded, "skip this field", "continue with the next"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_has_one_meaning_that_its_bits_bear() {
        for &code in StatusCode::KNOWN {
            let found: Vec<_> = MEANINGS.iter().filter(|meaning| meaning.code == code).collect();
            assert_eq!(found.len(), 1, "{code:?}");
            // Bit 63 says that the operation did not complete, bit 62 that the same call cannot
            // succeed.
            let retry = found[0].retry;
            let fatal_to_something = matches!(
                code,
                StatusCode::NON_RECOVERABLE_TD
                    | StatusCode::NON_RECOVERABLE_VCPU
                    | StatusCode::NON_RECOVERABLE_TD_NON_ACCESSIBLE
            );
            assert_eq!(retry == Retry::NotNeeded, !code.is_error() && !fatal_to_something, "{code:?}");
            if code.0 >> 30 & 1 == 1 {
                assert!(matches!(retry, Retry::No | Retry::After), "{code:?}");
            } else if code.is_error() {
                assert_ne!(retry, Retry::No, "{code:?}");
            }
        }
        assert_eq!(MEANINGS.len(), StatusCode::KNOWN.len());
        assert_eq!(of(StatusCode(0xC000_4242)), None);
    }
}
