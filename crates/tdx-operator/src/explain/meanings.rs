//! What each completion status means to the kernel that gets it, what to do, and whether to call
//! again. Says nothing about one occurrence; the details of that are in the status itself.
//!
//! Source: `tdx_abi.md` sections 2, 4, 6, 7 and 9. What is said of `INTERRUPTED_PAMT` and the three
//! beside it was read in the source of later modules.

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

const BUSY: &str = "let go of what this CPU holds, then call again; for a guest's page, kick its VCPUs first";
const ORDER: &str = "a fault of the caller: compare the order of its calls with the module's state";
const SEPT: &str =
    "RCX has the Secure-EPT entry and RDX its level and state: build or block what is missing, or fix the caller";
const LAYOUT: &str = "a fault of the layout: `cleanslate plan --host LOG` shows one that the module accepts";

#[rustfmt::skip]
const MEANINGS: &[Meaning] = {
    use Retry::{After, AtOnce, Later, No, NotNeeded, Resume};
    use StatusCode as S;
    &[
    m(S::SUCCESS, NotNeeded, "the call did what it says", "nothing"),
    m(S::NON_RECOVERABLE_VCPU, No, "the VCPU cannot run again; the TD can", "stop this VCPU; the TD may go on or be torn down"),
    m(S::NON_RECOVERABLE_TD, No, "the TD cannot run again", "tear the TD down and reset its pages"),
    m(S::INTERRUPTED_RESUMABLE, Resume, "an interrupt came; the module kept its progress", "take the interrupt, then call again, on the same package for PHYMEM.CACHE.WB, until another status comes"),
    m(S::INTERRUPTED_RESTARTABLE, AtOnce, "an interrupt came and nothing was kept, but a page that was to be given may be private already", "take the interrupt, then call again; if not, reset the page that the call named"),
    m(S::INVALID_RESUMPTION, No, "the call says that it resumes, and there is nothing to resume as it says", "start the operation anew"),
    m(S::OPERAND_INVALID, No, "an operand is out of its rules: alignment, reserved bits, a KeyID in an address, a page that may not be used so; with RAX: the module does not know this leaf or version", "fix the named operand; with RAX, ask TDX_FEATURES0 before using the leaf, or update the module"),
    m(S::OPERAND_ADDR_RANGE_ERROR, No, "the page lies in no TDMR, or in a 1 GiB block that TDMR.INIT has not finished", "give pages inside of TDMRs only, and finish TDMR.INIT first"),
    m(S::OPERAND_BUSY, Later, "another CPU, or this call itself, holds the operand's lock; the module never waits", BUSY),
    m(S::PREVIOUS_TLB_EPOCH_BUSY, Later, "a VCPU that entered in the epoch before has not left the TD", "kick the TD's VCPUs, then call again"),
    m(S::SYS_BUSY, Later, "another SYS call holds the module's global lock", "call again; make SYS calls one at a time, but for SYS.LP.INIT and SYS.TDMR.INIT"),
    m(S::RND_NO_ENTROPY, AtOnce, "the random-number generator had nothing to give; a page that was to be given may be private already", "call again, ten times as Linux does; if it still fails, reset the page that the call named"),
    m(S::OPERAND_BUSY_HOST_PRIORITY, Later, "seen by a guest: the host has failed to get this lock and goes first", "the guest calls again; the host must make its call again, or the guest waits"),
    m(S::HOST_PRIORITY_BUSY_TIMEOUT, Later, "seen by a guest: it waited for the host, and the host did not come", "the host makes the call again that failed with OPERAND_BUSY"),
    m(S::PAGE_METADATA_INCORRECT, No, "PAMT says that the page is of another type, or part of a larger one", "the caller's books are wrong: PHYMEM.PAGE.RDMD tells type, owner and size; do not touch the page until it is clear"),
    m(S::PAGE_ALREADY_FREE, NotNeeded, "the page is free already", "nothing"),
    m(S::PAGE_NOT_OWNED_BY_TD, No, "the page is another TD's", "the caller's books are wrong: PHYMEM.PAGE.RDMD names the owner"),
    m(S::PAGE_NOT_FREE, No, "the page is in use", "give a free page, or take this one back first"),
    m(S::HPA_RANGE_NOT_FREE, No, "Dynamic PAMT: this 2 MiB has its pair of PAMT pages already", "count users of each 2 MiB; give the pair with the first alone"),
    m(S::NO_PAMT_PAGE_PAIR, No, "Dynamic PAMT: this 2 MiB has no pair of PAMT pages to give back", "count users of each 2 MiB; take the pair with the last alone"),
    m(S::PAMT_PAGE_NOT_EMPTY, After, "Dynamic PAMT: a page in this 2 MiB is still in use", "take back its pages first"),
    m(S::INTERRUPTED_PAMT, AtOnce, "Dynamic PAMT: an interrupt came", "take the interrupt, then call again"),
    m(S::MISSING_PAMT_PAGE_PAIR, After, "Dynamic PAMT: the 2 MiB of this page has no pair of PAMT pages", "PHYMEM.PAMT.ADD for its 2 MiB, then call again"),
    m(S::TD_ASSOCIATED_PAGES_EXIST, After, "the TD still has pages", "PHYMEM.PAGE.RECLAIM every other page of the TD, its TDR last"),
    m(S::SYS_INIT_NOT_PENDING, No, "the module has been initialised before: by this kernel, or by one before a kexec", "after a kexec: power cycle, or let the old kernel make TDH.SYS.DISABLE; else a fault of the caller"),
    m(S::SYS_LP_INIT_NOT_DONE, After, "SYS.LP.INIT has not run on this CPU", "SYS.LP.INIT on this CPU, then call again"),
    m(S::SYS_LP_INIT_DONE, No, "SYS.LP.INIT has run on this CPU before", "nothing, if this kernel did it"),
    m(S::SYS_NOT_READY, No, "the module is not ready: its bring-up is not complete; on SYS.RD: a module of the time of 1.0, which has no such leaf so early", "finish SYS.CONFIG and SYS.KEY.CONFIG on every package; for SYS.RD, update the module to 1.5"),
    m(S::SYS_SHUTDOWN, No, "the module is shut down, for an update that did not complete", "complete the update, or power cycle; memory stays private until then, so reset it before a kexec"),
    m(S::SYS_KEY_CONFIG_NOT_PENDING, No, "SYS.KEY.CONFIG is not due: before SYS.CONFIG, or after the last package", ORDER),
    m(S::SYS_STATE_INCORRECT, No, "the module is in another state", ORDER),
    m(S::SYS_INVALID_HANDOFF, No, "the module before left nothing that this one can take over", "install a module that knows its handoff version, or power cycle"),
    m(S::SYS_INCOMPATIBLE_SIGSTRUCT, No, "the module and its signature structure do not fit", "install module and signature of one release"),
    m(S::SYS_LP_INIT_NOT_PENDING, No, "SYS.LP.INIT is not due: before SYS.INIT, or after SYS.CONFIG", "SYS.INIT first; a CPU that comes up after SYS.CONFIG cannot take part"),
    m(S::SYS_CONFIG_NOT_PENDING, After, "SYS.CONFIG is not due: SYS.LP.INIT has not run on every CPU of the platform, or it is done", "SYS.LP.INIT on every CPU, also those that the kernel left offline"),
    m(S::INCOMPATIBLE_SEAM_CAPABILITIES, No, "CPU or firmware lacks what this module needs of SEAM", "update the BIOS and its microcode, or take another module"),
    m(S::TD_FATAL, No, "the TD is in its fatal state", "tear the TD down and reset its pages"),
    m(S::TD_NON_DEBUG, No, "only a debug TD can be asked this", "a fault of the caller"),
    m(S::TDCS_NOT_ALLOCATED, After, "the TD has too few TDCS pages", "MNG.ADDCX until it has six"),
    m(S::LIFECYCLE_STATE_INCORRECT, No, "the TD is at another point of its life", ORDER),
    m(S::OP_STATE_INCORRECT, No, "the TD does not allow this now; after MNG.ADDCX the page may be private already", "compare the order of the calls with the TD's state; reset the page that the call named"),
    m(S::NO_VCPUS, After, "the TD has no VCPU", "VP.CREATE, VP.ADDCX, VP.INIT, then call again"),
    m(S::TDCX_NUM_INCORRECT, After, "too few or too many control pages", "give as many as TDCS_BASE_SIZE or TDVPS_BASE_SIZE says"),
    m(S::VCPU_STATE_INCORRECT, No, "the VCPU does not allow this now", ORDER),
    m(S::VCPU_ASSOCIATED, After, "the VCPU belongs to another CPU", "VP.FLUSH on that CPU, then call again"),
    m(S::VCPU_NOT_ASSOCIATED, After, "the VCPU does not belong to this CPU, or was flushed", "make the call on the CPU that ran it last; nothing, if it was flushed"),
    m(S::MAX_VCPUS_EXCEEDED, No, "the TD has as many VCPUs as it was made for", "raise MAX_VCPUS in TD_PARAMS of a new TD"),
    m(S::TSC_ROLLBACK, No, "the time-stamp counter went back", "power cycle; ask the vendor of the BIOS"),
    m(S::KEY_GENERATION_FAILED, AtOnce, "the key engine had no random number", "call again, a few times"),
    m(S::TD_KEYS_NOT_CONFIGURED, After, "the TD has no key: not yet on every package, or no longer after MNG.VPFLUSHDONE", "MNG.KEY.CONFIG on every package; in a teardown, go on with the next step"),
    m(S::KEY_STATE_INCORRECT, No, "the KeyID is in another state; module 1.5.01 never says so", ORDER),
    m(S::KEY_CONFIGURED, NotNeeded, "this package has the key already", "go on with the next package"),
    m(S::WBCACHE_NOT_COMPLETE, After, "the caches of some package still hold lines of this KeyID", "PHYMEM.CACHE.WB on every package, to its end, then call again"),
    m(S::HKID_NOT_FREE, No, "the KeyID is in use, not yet flushed, or was named as the global one before", "take another KeyID"),
    m(S::NO_HKID_READY_TO_WBCACHE, NotNeeded, "no KeyID waits for a write-back; nothing was written back", "nothing"),
    m(S::WBCACHE_RESUME_ERROR, No, "there is no write-back to resume on this package", "start PHYMEM.CACHE.WB anew with RCX = 0"),
    m(S::FLUSHVP_NOT_DONE, After, "a VCPU still belongs to a CPU", "VP.FLUSH on the CPU of each VCPU, then call again"),
    m(S::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED, No, "the BIOS activated more KeyIDs than the module can count", "give fewer KeyIDs in the BIOS"),
    m(S::INCORRECT_CPUID_VALUE, No, "CPUID says what this module does not accept: module and CPU or microcode do not fit", "update the BIOS, its microcode and the module it brings"),
    m(S::INCONSISTENT_CPUID_FIELD, No, "CPUID of this CPU differs from that of the first; RCX, RDX and R8 say where", "update the BIOS; look for mixed CPUs or settings"),
    m(S::INVALID_PKG_ID, No, "the CPU's package number is beyond what the module counts", "ask the vendor of the BIOS"),
    m(S::SMRR_OVERLAPS_CMR, No, "the BIOS laid SMM memory over convertible memory", "update the BIOS"),
    m(S::INCONSISTENT_MSR, No, "a register of this CPU differs from that of the first", "update the BIOS; look for a kernel option that sets this register on some CPUs"),
    m(S::INCORRECT_MSR_VALUE, No, "a register has a value that the module does not accept", "look for the BIOS setting and the kernel option that set this register"),
    m(S::INVALID_TDMR, No, "a TDMR is not a whole, non-empty number of GiB inside the address width", LAYOUT),
    m(S::NON_ORDERED_TDMR, No, "TDMRs do not ascend, or overlap", LAYOUT),
    m(S::TDMR_OUTSIDE_CMRS, No, "a part of a TDMR that is not reserved lies in no CMR", LAYOUT),
    m(S::TDMR_ALREADY_INITIALIZED, NotNeeded, "all of this TDMR is initialised", "go on with the next TDMR"),
    m(S::INVALID_PAMT, No, "a PAMT is misaligned, too small, or outside the address width", LAYOUT),
    m(S::PAMT_OUTSIDE_CMRS, No, "a PAMT lies in no CMR", LAYOUT),
    m(S::PAMT_OVERLAP, No, "a PAMT overlaps another, or a part of a TDMR that is not reserved", LAYOUT),
    m(S::INVALID_RESERVED_IN_TDMR, No, "a reserved area is misaligned or not inside its TDMR", LAYOUT),
    m(S::NON_ORDERED_RESERVED_IN_TDMR, No, "reserved areas do not ascend, overlap, or follow an empty one", LAYOUT),
    m(S::CMR_LIST_INVALID, No, "the BIOS left a list of CMRs that does not hold", "update the BIOS"),
    m(S::EPT_WALK_FAILED, After, "the Secure-EPT has no table on the way to this page", SEPT),
    m(S::EPT_ENTRY_FREE, No, "the Secure-EPT entry is free", SEPT),
    m(S::EPT_ENTRY_NOT_FREE, No, "the Secure-EPT entry is in use", SEPT),
    m(S::EPT_ENTRY_NOT_PRESENT, After, "the Secure-EPT entry maps nothing", SEPT),
    m(S::EPT_ENTRY_NOT_LEAF, No, "the Secure-EPT entry is a table, not a page", SEPT),
    m(S::EPT_ENTRY_LEAF, No, "the Secure-EPT entry is a page, not a table", SEPT),
    m(S::GPA_RANGE_NOT_BLOCKED, After, "the range is not blocked", "MEM.RANGE.BLOCK, MEM.TRACK, kick the VCPUs, then call again"),
    m(S::GPA_RANGE_ALREADY_BLOCKED, NotNeeded, "the range is blocked already", "go on with MEM.TRACK"),
    m(S::TLB_TRACKING_NOT_DONE, After, "a VCPU may still have the old translation", "MEM.TRACK, kick the VCPUs, then call again"),
    m(S::EPT_INVALID_PROMOTE_CONDITIONS, No, "the 512 pages are not all mapped, alike and next to each other", "leave them small"),
    m(S::PAGE_ALREADY_ACCEPTED, NotNeeded, "seen by a guest: it has accepted this page before", "a guest that did not mean it must stop: its page may have been exchanged"),
    m(S::PAGE_SIZE_MISMATCH, No, "seen by a guest: the page is mapped at another size", "the guest accepts at the other size, or the host splits the page"),
    m(S::GPA_RANGE_BLOCKED, After, "the range is blocked", "MEM.RANGE.UNBLOCK, or end what blocked it"),
    m(S::EPT_ENTRY_STATE_INCORRECT, No, "the Secure-EPT entry does not allow this now", SEPT),
    m(S::EPT_PAGE_NOT_FREE, After, "the Secure-EPT page still maps something", "remove what it maps first"),
    m(S::L2_SEPT_WALK_FAILED, After, "a Secure-EPT of a nested VM has no table on the way", SEPT),
    m(S::L2_SEPT_PAGE_NOT_PROVIDED, After, "a nested VM needs a Secure-EPT page that was not given", "give it in R9 to R11 of version 1"),
    m(S::METADATA_FIELD_ID_INCORRECT, No, "the module knows no such field", "an older module: do without the field, or update the module"),
    m(S::METADATA_FIELD_NOT_READABLE, No, "the field may not be read by the host", "a fault of the caller"),
    m(S::METADATA_LIST_OVERFLOW, No, "the list is too short for the fields", "read field by field with SYS.RD"),
    m(S::METADATA_FIRST_FIELD_ID_IN_CONTEXT, NotNeeded, "RDX has the first field's id", "read that one"),
    m(S::METADATA_FIELD_SKIP, NotNeeded, "the field is to be skipped", "go on with the next"),
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
            let fatal_to_something = matches!(code, StatusCode::NON_RECOVERABLE_TD | StatusCode::NON_RECOVERABLE_VCPU);
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
