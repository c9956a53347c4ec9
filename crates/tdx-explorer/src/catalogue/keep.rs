//! Bugs of handing TDX over with its TDs, and of taking it over.

use super::super::bug::{Bug, Wrong};

const LIFE: &[&str] = &["keep-life"];
const RELAY: &[&str] = &["keep-relay"];
const PANIC: &[&str] = &["keep-panic"];

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "keep-vcpu-not-flushed",
        what: "a kexec that keeps TDs leaves VCPUs associated with their CPUs",
        origin: "reference/takeover.md: what a CPU holds of a VMCS is lost at VMXOFF, VP.ENTER elsewhere is VCPU_ASSOCIATED",
        scenarios: RELAY,
        relay: Some(Wrong::NoFlush),
        ..Bug::NONE
    },
    Bug {
        name: "keep-flushes-lost-vcpu",
        what: "a kernel that inherited TDX from a panic flushes VCPUs of TDs that it has not adopted: the module then reports VCPUs as flushed whose state is lost",
        origin: "reference/takeover.md: what a CPU holds of a VMCS is lost at VMXOFF",
        scenarios: PANIC,
        relay: Some(Wrong::FlushesLost),
        ..Bug::NONE
    },
    Bug {
        name: "vacuum-of-runnable-td",
        what: "a kernel that is interrupted in its vacuum lists TDs as runnable whose VCPUs it has just flushed: the module no longer shows that their state was lost in a panic",
        origin: "this project: the adoption asked the module alone (TdHost::adopt before AdoptError::Dying)",
        scenarios: PANIC,
        relay: Some(Wrong::VacuumsUntold),
        ..Bug::NONE
    },
    Bug {
        name: "keep-no-write-back",
        what: "a kexec that keeps TDs does not write back caches: a page that was returned turns private after its reset",
        origin: "design.md, invariant 4: order of release",
        scenarios: LIFE,
        relay: Some(Wrong::NoWriteBack),
        ..Bug::NONE
    },
    Bug {
        name: "keep-resets-kept-page",
        what: "the old kernel resets a page of a TD that lives on",
        origin: "plausible: one walk over marked pages for all policies",
        scenarios: RELAY,
        relay: Some(Wrong::ResetsKept),
        ..Bug::NONE
    },
    Bug {
        name: "keep-resets-page-in-flight",
        what: "a page whose SEAMCALL was made and not entered yet counts as returned, and is reset",
        origin: "plausible: the module policy resets all that is unknown to the module, and rightly",
        scenarios: LIFE,
        relay: Some(Wrong::ResetsInFlight),
        ..Bug::NONE
    },
    Bug {
        name: "record-sept-page-forgotten",
        what: "a page of Secure EPT is not in the takeover table",
        origin: "reference/takeover.md: MEM.SEPT.RD tells addresses of leaf pages only",
        scenarios: RELAY,
        relay: Some(Wrong::SeptForgotten),
        ..Bug::NONE
    },
    Bug {
        name: "record-torn",
        what: "one entry of the takeover table is half of an older one, and the reader does not look at the checksum (modeled as: the range ends after its first page)",
        origin: "plausible: a crash in the middle of writing the table",
        scenarios: RELAY,
        relay: Some(Wrong::RecordTorn),
        ..Bug::NONE
    },
    Bug {
        name: "record-short",
        what: "the takeover table has the right checksum and the wrong length: half of its marks, and what follows, are missing",
        origin: "plausible: a table that is full ends where its memory ends",
        scenarios: RELAY,
        relay: Some(Wrong::RecordShort),
        ..Bug::NONE
    },
    Bug {
        name: "table-not-wiped",
        what: "a kernel that has torn down TDs of an earlier one, and built others, panics and leaves the earlier one's table: the third kernel uses pages of which it does not tell",
        origin: "docs/takeover.md: the table is wiped before the first SEAMCALL that changes what a TD has",
        scenarios: RELAY,
        relay: Some(Wrong::TableNotWiped),
        ..Bug::NONE
    },
    Bug {
        name: "key-id-given-twice",
        what: "the next kernel takes KeyIDs of TDs that do not run for free ones",
        origin: "reference/takeover.md: which KeyIDs are in use no SEAMCALL tells",
        scenarios: RELAY,
        relay: Some(Wrong::KeyIdForgotten),
        ..Bug::NONE
    },
    Bug {
        name: "global-key-id-reused",
        what: "the next kernel gives the global KeyID to a TD",
        origin: "reference/takeover.md: the global KeyID no SEAMCALL tells",
        scenarios: RELAY,
        relay: Some(Wrong::GlobalKeyIdReused),
        ..Bug::NONE
    },
    Bug {
        name: "tsc-adjust-repaired",
        what: "the next kernel changes IA32_TSC_ADJUST: no TD can be entered",
        origin: "reference/takeover.md: VP.ENTER is INCONSISTENT_MSR; Linux repairs the MSR at boot",
        scenarios: RELAY,
        relay: Some(Wrong::TscAdjustRepaired),
        ..Bug::NONE
    },
    Bug {
        name: "cpu-without-lp-init",
        what: "the next kernel uses a CPU that never had SYS.LP.INIT (modeled as: each SEAMCALL there is SYS_LP_INIT_NOT_DONE)",
        origin: "reference/takeover.md: a CPU that never had LP.INIT cannot join later",
        scenarios: RELAY,
        relay: Some(Wrong::NoLpInit),
        ..Bug::NONE
    },
    Bug {
        name: "table-read-late",
        what: "the next kernel has used memory when it reads the takeover table",
        origin: "docs/takeover.md: before its page allocator exists",
        scenarios: RELAY,
        relay: Some(Wrong::ReservesLate),
        ..Bug::NONE
    },
    Bug {
        name: "vacuum-after-adoption",
        what: "the vacuum tears down TDs that were adopted: they are torn down twice",
        origin: "plausible: a vacuum that finds TDs by PAGE.RDMD finds all of them",
        scenarios: RELAY,
        relay: Some(Wrong::VacuumsAdopted),
        ..Bug::NONE
    },
];
