//! Bugs of the life of TDs: pages that come, go, or fail to.

use super::super::bug::{Bug, Special};
use super::super::history::{Given, Part};
use super::{given_as, given_by, is_fence, is_write_back, leaf, no_reset_after, pretend, reset, skip_if};
use tdx_abi::{Leaf, LineRange, PageRange, PageSize};
use tdx_lab::platform::{Deed, Operation};

const LIFE: &[&str] = &["td-life"];
const L2: &[&str] = &["l2-tables"];
const OVERLAPPING: &[&str] = &["overlapping-builds"];
const DYNAMIC: &[&str] = &["dynamic-pamt"];

/// Lines of a 4 KiB page.
const PAGE: u64 = 64;

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "tdr-unmarked",
        what: "TDRs are not in the ledger",
        origin: "the 2023 series tracked PAMT alone",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::MNG_CREATE)),
        ..Bug::NONE
    },
    Bug {
        name: "control-pages-unmarked",
        what: "TDCS and TDVPS pages are not in the ledger",
        origin: "plausible: four calls give control pages, one is forgotten",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::VP_ADDCX)),
        ..Bug::NONE
    },
    Bug {
        name: "sept-page-unmarked",
        what: "Secure-EPT pages are not in the ledger",
        origin: "plausible: KVM gives them in another function than guest pages",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::MEM_SEPT_ADD)),
        ..Bug::NONE
    },
    Bug {
        name: "aug-page-forgotten",
        what: "guest pages added while the TD runs are not in the ledger",
        origin: "plausible: the fault path is not the build path",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::MEM_PAGE_AUG)),
        ..Bug::NONE
    },
    Bug {
        name: "relocated-page-forgotten",
        what: "the page that a guest page moves to is not in the ledger",
        origin: "plausible: RELOCATE gives one page and takes another in one call",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::MEM_PAGE_RELOCATE)),
        ..Bug::NONE
    },
    Bug {
        name: "demote-page-forgotten",
        what: "the Secure-EPT page that DEMOTE takes is not in the ledger",
        origin: "plausible: DEMOTE is about a page that the TD has already",
        scenarios: LIFE,
        forgets: Some(|past, page| given_by(past, page, Leaf::MEM_PAGE_DEMOTE)),
        ..Bug::NONE
    },
    Bug {
        name: "leaf-version-ignored",
        what: "version 1 of MEM.SEPT.ADD is taken for version 0: pages of L2 VMs are not in the ledger",
        origin: "this project's own observer before module 1.5.25 was examined (linux_2026.md: follow.rs misses pages)",
        scenarios: L2,
        forgets: Some(|past, page| given_as(past, page, Leaf::MEM_SEPT_ADD, Part::L2)),
        ..Bug::NONE
    },
    Bug {
        name: "demote-l2-page-forgotten",
        what: "of the Secure-EPT pages that DEMOTE takes only that of the TD itself is in the ledger",
        origin: "an observer that takes R8 of MEM.PAGE.DEMOTE for its only page; R9 to R11 are pages too, in version 0 as well",
        scenarios: L2,
        forgets: Some(|past, page| given_as(past, page, Leaf::MEM_PAGE_DEMOTE, Part::L2)),
        ..Bug::NONE
    },
    Bug {
        name: "demote-pair-forgotten",
        what: "the pair of Dynamic PAMT that DEMOTE takes is not in the ledger",
        origin: "an observer that takes R8 of MEM.PAGE.DEMOTE for its only page (module_1_5_25.md, Dynamic PAMT)",
        scenarios: &["dynamic-pamt-large"],
        forgets: Some(|past, page| given_as(past, page, Leaf::MEM_PAGE_DEMOTE, Part::Pair)),
        ..Bug::NONE
    },
    Bug {
        name: "update-forgets-ledger",
        what: "a runtime update of the module makes the kernel forget the pages of its TDs",
        origin: "plausible: a module that was just loaded has no pages (module_1_5_25.md 22: all stay private)",
        scenarios: &["module-update"],
        forgets: Some(|past, page| past.history.of(page).is_some_and(|given| given.before_update)),
        ..Bug::NONE
    },
    Bug {
        name: "shutdown-believed",
        what: "whatever SYS.SHUTDOWN answers, the module counts as down and its pages as given back",
        origin: "module_1_5_25.md 7 and 19: it is SYS_BUSY while a VCPU is inside, OPERAND_INVALID for RCX = 0",
        scenarios: &["shutdown-refused"],
        forgets: Some(|past, page| past.history.shutdown_refused && past.history.of(page).is_some()),
        ..Bug::NONE
    },
    Bug {
        name: "shutdown-busy-believed",
        what: "SYS.SHUTDOWN that is SYS_BUSY counts as done by the CPU that is inside, and all pages as given back",
        origin: "module_1_5_25.md 7: SYS.SHUTDOWN is SYS_BUSY while a VCPU is inside, and nothing is shut down",
        scenarios: &["shutdown-beside-guest", "overlapping-shutdown"],
        forgets: Some(|past, page| past.history.shutdown_busy && past.history.of(page).is_some()),
        ..Bug::NONE
    },
    Bug {
        name: "busy-drops-other-mark",
        what: "a call that is busy takes back the mark of the page that was given last, which is that of the CPU inside",
        origin: "plausible: one variable for the page being given, where each CPU needs its own",
        scenarios: OVERLAPPING,
        forgets: Some(|past, page| past.history.given_beside_busy.contains(&page.index())),
        ..Bug::NONE
    },
    Bug {
        name: "busy-of-another-cpu",
        what: "a call that has succeeded counts as busy because another CPU's was meanwhile: its page counts as shared",
        origin: "plausible: the last status is kept once for the host, where each CPU needs its own",
        scenarios: OVERLAPPING,
        forgets: Some(|past, page| past.history.taken_beside_busy.contains(&page.index())),
        ..Bug::NONE
    },
    Bug {
        name: "dynamic-pamt-pair-forgotten",
        what: "pages given by PHYMEM.PAMT.ADD are not in the ledger",
        origin: "reliability_performance.md 3.1: with dynamic PAMT the reset set is no longer a few fixed ranges",
        scenarios: DYNAMIC,
        forgets: Some(|past, page| given_by(past, page, Leaf::PHYMEM_PAMT_ADD)),
        ..Bug::NONE
    },
    Bug {
        name: "mark-after-give",
        what: "a page is marked after the SEAMCALL that gives it has returned",
        origin: "design.md, invariant 1: mark before give",
        scenarios: LIFE,
        forgets: Some(|past, page| past.history.is_being_given(page)),
        ..Bug::NONE
    },
    Bug {
        name: "summary-after-give",
        what: "the summary bit of 2 MiB is set when the SEAMCALL has returned, so a reader skips the first page there (modeled as: that page is not seen)",
        origin: "design.md, invariant 1: summary before leaf, both before the call",
        scenarios: LIFE,
        forgets: Some(|past, page| {
            let block = page.index() / PageSize::Size2M.pages();
            past.history.fresh_blocks.contains(&block) && past.history.is_being_given(page)
        }),
        ..Bug::NONE
    },
    Bug {
        name: "lost-mark",
        what: "the ledger is changed by load and store: of two CPUs that mark in one word, one loses (modeled as: the word is loaded at the flush before, and stored at the call)",
        origin: "plausible: |= where an atomic OR was meant",
        scenarios: &["two-cpus"],
        forgets: Some(|past, page| past.history.lost.contains(&page.index())),
        ..Bug::NONE
    },
    Bug {
        name: "unmark-at-return",
        what: "a page is unmarked when the module has returned it, before its reset",
        origin: "returned by the module, not yet reset (kexec --hole returned)",
        scenarios: LIFE,
        forgets: Some(|past, page| past.history.of(page).is_some_and(|given| given.returned.is_some())),
        ..Bug::NONE
    },
    Bug {
        name: "unmark-before-fence",
        what: "a page is unmarked after its reset and before the fence",
        origin: "design.md, invariant 1: unmark only after the reset has fenced",
        scenarios: LIFE,
        forgets: Some(|past, page| past.history.is_unfenced(page)),
        ..Bug::NONE
    },
    Bug {
        name: "stale-mark",
        what: "a page goes back to the allocator and stays marked",
        origin: "design.md, invariant 2: no harm",
        scenarios: LIFE,
        also_resets: |past| {
            let given = |page: &PageRange| past.history.of(page.start()).is_some();
            past.history.came_back.iter().filter(|page| !given(page)).copied().collect()
        },
        ..Bug::NONE
    },
    Bug {
        name: "page-freed-before-reset",
        what: "a page goes back to the allocator without a reset",
        origin: "KVM before tdx_clear_page() on the reclaim path; the 2025 patch that skips it without the erratum",
        scenarios: LIFE,
        deed: |moment| skip_if(reset(moment).is_some() && !moment.hands_over() && !moment.history().unwinding),
        ..Bug::NONE
    },
    Bug {
        name: "private-page-freed",
        what: "an allocator gets a page that is private, because nobody has a reference to marked pages",
        origin: "cleanslate.ko beside KVM of Linux 7.3: guest_memfd frees its pages when the module is dead",
        scenarios: &["guest-memory-freed"],
        special: Some(Special::TakesNoReference),
        ..Bug::NONE
    },
    Bug {
        name: "page-freed-before-fence",
        what: "a page goes back to the allocator before the direct stores of its reset are done",
        origin: "Linux: mb() after the MOVDIR64B loop",
        scenarios: LIFE,
        deed: |moment| {
            let waiting = moment.history().unfenced.iter().any(|(cpu, _)| *cpu == moment.act.cpu);
            skip_if(is_fence(moment) && waiting && !moment.hands_over() && !moment.history().unwinding)
        },
        ..Bug::NONE
    },
    Bug {
        name: "large-page-reset-as-small",
        what: "of a 2 MiB page only the first 4 KiB are reset",
        origin: "plausible: tdx_clear_page(page, PAGE_SIZE) before KVM had huge pages",
        scenarios: LIFE,
        deed: |moment| match reset(moment) {
            Some(lines) if lines.len() > PAGE && !moment.hands_over() && !moment.history().unwinding => {
                let end = tdx_abi::Line::new(lines.start().index() + PAGE);
                Deed::Lines(vec![LineRange::new(lines.start(), end)])
            }
            _ => Deed::AsIs,
        },
        ..Bug::NONE
    },
    Bug {
        name: "failed-create-frees-page",
        what: "the page of a failed MNG.CREATE goes back as it is",
        origin: "design.md, invariant 6: without entropy MNG.CREATE has filled the page (tdx_abi.md 7)",
        scenarios: &["create-fails"],
        deed: |moment| no_reset_after(moment, Leaf::MNG_CREATE),
        ..Bug::NONE
    },
    Bug {
        name: "failed-addcx-frees-page",
        what: "the page of a failed MNG.ADDCX goes back as it is",
        origin: "design.md, invariant 6: without entropy the last MNG.ADDCX has filled its page (tdx_abi.md 7)",
        scenarios: &["addcx-fails"],
        deed: |moment| no_reset_after(moment, Leaf::MNG_ADDCX),
        ..Bug::NONE
    },
    Bug {
        name: "failed-demote-frees-page",
        what: "the page of an interrupted MEM.PAGE.DEMOTE goes back as it is",
        origin: "design.md, invariant 6: an interrupted DEMOTE has filled the page",
        scenarios: &["demote-interrupted"],
        deed: |moment| no_reset_after(moment, Leaf::MEM_PAGE_DEMOTE),
        ..Bug::NONE
    },
    Bug {
        name: "failed-pamt-add-frees-pages",
        what: "the pages of a failed PHYMEM.PAMT.ADD go back as they are",
        origin: "Linux's dynamic PAMT series resets them on its error path; design.md, invariant 6",
        scenarios: &["pamt-add-fails"],
        deed: |moment| no_reset_after(moment, Leaf::PHYMEM_PAMT_ADD),
        ..Bug::NONE
    },
    Bug {
        name: "no-page-wbinvd",
        what: "PHYMEM.PAGE.WBINVD is left out before a page is reset",
        origin: "design.md, invariant 4: order of release",
        scenarios: LIFE,
        deed: |moment| match moment.act.operation {
            Operation::Seamcall(registers) if leaf(moment) == Some(Leaf::PHYMEM_PAGE_WBINVD) => pretend(registers),
            _ => Deed::AsIs,
        },
        ..Bug::NONE
    },
    Bug {
        name: "tdr-flushed-with-td-keyid",
        what: "the TDR is written back under the TD's KeyID and not under the global one",
        origin: "linux.md: KVM's tdh_phymem_page_wbinvd_tdr() exists because the TDR has the global KeyID",
        scenarios: LIFE,
        deed: |moment| match moment.act.operation {
            Operation::Seamcall(registers) if leaf(moment) == Some(Leaf::PHYMEM_PAGE_WBINVD) => {
                let page = moment.past.without_key(registers.rcx);
                match moment.history().tdrs.iter().find(|(tdr, _)| tdr.start() == page) {
                    Some((tdr, key)) => Deed::Call(registers.rcx(moment.past.tag(tdr.start(), *key).get())),
                    None => Deed::AsIs,
                }
            }
            _ => Deed::AsIs,
        },
        ..Bug::NONE
    },
    Bug {
        name: "no-flush-before-give",
        what: "the host's dirty lines of a page are not written back before the module takes it",
        origin: "KVM: tdx_clflush_page() before every call that gives a page",
        scenarios: LIFE,
        deed: |moment| skip_if(matches!(moment.act.operation, Operation::Flush(_))),
        ..Bug::NONE
    },
    Bug {
        name: "offline-without-wbinvd",
        what: "a CPU goes offline with private lines in its caches",
        origin: "Linux 2026: the CPU offline path lost its WBINVD when code moved (reliability_performance.md 1.1)",
        scenarios: &["cpu-offline"],
        deed: |moment| {
            let up = moment.history().tdmr_inits > 0 && !moment.history().unwinding;
            skip_if(is_write_back(moment) && up && !moment.hands_over())
        },
        ..Bug::NONE
    },
    Bug {
        name: "reclaimed-page-trusted",
        what: "a page that the module has returned counts as clean, and so does one that it has refused",
        origin: "kexec --hole returned; \"nothing on the module's release path writes the page\"",
        scenarios: LIFE,
        deed: |moment| {
            let reclaimed = |lines: LineRange| {
                let of = moment.history().of(lines.pages().start());
                matches!(of, Some(Given { returned: Some(Leaf::PHYMEM_PAGE_RECLAIM), .. }))
            };
            skip_if(reset(moment).is_some_and(reclaimed) && !moment.hands_over())
        },
        ..Bug::NONE
    },
];
