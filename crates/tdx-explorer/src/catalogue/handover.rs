//! Bugs of kexec and of the crash path.

use super::super::bug::{Bug, Special};
use super::super::history::Phase;
use super::{is_fence, is_write_back, leaf, reset, skip_if};
use tdx_abi::{Leaf, Line, LineRange, PageSize, Status, StatusCode};
use tdx_lab::platform::Deed;

const LIFE: &[&str] = &["td-life"];

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "pamt-2m-forgotten",
        what: "PAMT_2M is not reset",
        origin: "plausible: a TDMR has three PAMTs in three sizes",
        scenarios: &["bring-up"],
        forgets: Some(|past, page| past.table(page) == Some(PageSize::Size2M)),
        ..Bug::NONE
    },
    Bug {
        name: "pamt-1g-forgotten",
        what: "PAMT_1G is not reset",
        origin: "plausible: PAMT_1G has one page for a TDMR, and is easily left out",
        scenarios: &["bring-up"],
        forgets: Some(|past, page| past.table(page) == Some(PageSize::Size1G)),
        ..Bug::NONE
    },
    Bug {
        name: "last-page-off-by-one",
        what: "the last page of each range is not reset",
        origin: "plausible: [a, b) read as [a, b]",
        scenarios: &["bring-up"],
        deed: |moment| match reset(moment) {
            Some(lines) if moment.hands_over() => {
                let end = Line::new(lines.end().index() - 64);
                Deed::Lines(vec![LineRange::new(lines.start(), end)])
            }
            _ => Deed::AsIs,
        },
        ..Bug::NONE
    },
    Bug {
        name: "no-fence-after-reset",
        what: "the jump comes before the direct stores of the reset are done",
        origin: "MOVDIR64B is weakly ordered; Linux: mb() in tdx_quirk_reset_paddr()",
        scenarios: &["bring-up"],
        deed: |moment| skip_if(is_fence(moment) && moment.hands_over()),
        ..Bug::NONE
    },
    Bug {
        name: "fence-on-one-cpu",
        what: "of several CPUs that reset together only the one that jumps fences",
        origin: "plausible: a fence orders the stores of its own CPU",
        scenarios: &["bring-up"],
        deed: |moment| skip_if(is_fence(moment) && moment.in_kexec().is_some() && !moment.is_handing_over()),
        ..Bug::NONE
    },
    Bug {
        name: "reset-with-cached-stores",
        what: "memset() instead of MOVDIR64B",
        origin: "the comment at tdx_quirk_reset_paddr(): a cached store reads the line first, poison and all",
        scenarios: &["bring-up"],
        deed: |moment| {
            if reset(moment).is_some() && moment.hands_over() { Deed::CachedStores } else { Deed::AsIs }
        },
        ..Bug::NONE
    },
    Bug {
        name: "reset-with-movnti",
        what: "clear_page() with MOVNTI instead of MOVDIR64B",
        origin: "the erratum itself: a write of less than a line poisons",
        scenarios: &["bring-up"],
        deed: |moment| {
            if reset(moment).is_some() && moment.hands_over() { Deed::NonTemporalStores } else { Deed::AsIs }
        },
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-before-reset",
        what: "the CPU that runs the kexec does not write back its caches before the reset",
        origin: "design.md, invariant 4",
        scenarios: LIFE,
        deed: |moment| skip_if(is_write_back(moment) && moment.in_kexec() == Some(moment.act.cpu)),
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-on-stop",
        what: "CPUs stop for a kexec without writing back their caches",
        origin: "Linux stop_this_cpu(): WBINVD moved, and moved again (2025)",
        scenarios: LIFE,
        deed: |moment| skip_if(is_write_back(moment) && moment.in_kexec().is_some_and(|cpu| cpu != moment.act.cpu)),
        ..Bug::NONE
    },
    Bug {
        name: "stop-acknowledged-before-wbinvd",
        what: "a CPU counts as stopped while it is still writing back: its lines land on the reset",
        origin: "Linux commit 1f5e7eb7868e (2023)",
        scenarios: LIFE,
        special: Some(Special::WritesBackLate),
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-at-crash",
        what: "the CPU that panics does not write back its caches",
        origin: "plausible: native_machine_crash_shutdown() has no WBINVD of its own",
        scenarios: LIFE,
        deed: |moment| skip_if(is_write_back(moment) && moment.in_crash() == Some(moment.act.cpu)),
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-at-nmi",
        what: "CPUs that a crash stops do not write back their caches",
        origin: "plausible: crash_nmi_callback() has no WBINVD of its own",
        scenarios: LIFE,
        deed: |moment| skip_if(is_write_back(moment) && moment.in_crash().is_some_and(|cpu| cpu != moment.act.cpu)),
        ..Bug::NONE
    },
    Bug {
        name: "call-after-reset",
        what: "a SEAMCALL is made after PAMT was reset",
        origin: "design.md, invariant 7: any SEAMCALL after a PAMT reset makes PAMT private again",
        scenarios: &["bring-up"],
        special: Some(Special::CallsAfterReset),
        ..Bug::NONE
    },
    Bug {
        name: "other-cpus-go-on",
        what: "a kexec counts CPUs as stopped that are not, and the gate is open: they continue to make SEAMCALLs",
        origin: "smp_send_stop() gives up after a second (linux.md 2); counting online bits",
        scenarios: &["kexec-beside"],
        special: Some(Special::DoesNotStop),
        ..Bug::NONE
    },
    Bug {
        name: "rdmd-as-oracle",
        what: "of the marked pages only those are reset that the module says it has",
        origin: "the answer to the 2023 thread: paddr_is_tdx_private() asks RDMD, and says that it is imprecise",
        scenarios: LIFE,
        forgets: Some(|past, page| past.table(page).is_none() && !(past.assigned)(page)),
        ..Bug::NONE
    },
    Bug {
        name: "slot-after-call",
        what: "a CPU is recorded as holding private lines after its SEAMCALL has returned, so that one inside a SEAMCALL counts as clean",
        origin: "design.md, invariant 8; Linux 2025: the per-CPU flag \"cache may be incoherent\" is set before the SEAMCALL",
        scenarios: LIFE,
        special: Some(Special::SlotAfterCall),
        ..Bug::NONE
    },
    Bug {
        name: "panic-in-kexec-trusts-kexec",
        what: "a panic in the middle of a kexec finds the gate closed and resets nothing",
        origin: "plausible: \"handover is under way already\"",
        scenarios: &["kexec-then-panic"],
        deed: |moment| skip_if(reset(moment).is_some() && moment.history().kexec_was_under_way),
        ..Bug::NONE
    },
    Bug {
        name: "kexec-jump-resets",
        what: "a kexec jump resets private memory, which the old kernel needs when it returns",
        origin: "linux.md 2: preserve_context must not reset",
        scenarios: &["kexec-jump"],
        special: Some(Special::JumpResets),
        ..Bug::NONE
    },
    Bug {
        name: "sys-disable-taken-as-success",
        what: "whatever TDH.SYS.DISABLE answers, the module counts as having cleared its memory",
        origin: "Linux 7.2: best effort, the kernel jumps anyway (kexec --hole bring-up)",
        scenarios: &["module-policy", "module-policy-bring-up"],
        answer: |moment, answer| {
            if leaf(moment) == Some(Leaf::SYS_DISABLE) {
                answer.rax = Status::SUCCESS.raw();
            }
        },
        ..Bug::NONE
    },
    Bug {
        name: "module-trusted-with-returned-pages",
        what: "after TDH.SYS.DISABLE nothing is reset, not even pages that the module had returned before",
        origin: "pages returned and not yet reset are unknown to the module (kexec --hole returned)",
        scenarios: &["module-policy"],
        forgets: Some(|past, _| past.history.disables > 0 && past.history.phase != Phase::Life),
        ..Bug::NONE
    },
    Bug {
        name: "sys-disable-once",
        what: "TDH.SYS.DISABLE is called once, an interrupt ends it, and that counts as done",
        origin: "Linux's series loops on TDX_INTERRUPTED_RESUMABLE; its mock exists to exercise that loop",
        scenarios: &["module-interrupted"],
        answer: |moment, answer| {
            if leaf(moment) == Some(Leaf::SYS_DISABLE) && answer.status().code() == StatusCode::INTERRUPTED_RESUMABLE {
                answer.rax = Status::SUCCESS.raw();
            }
        },
        ..Bug::NONE
    },
];
