//! Policy `keep`: VCPUs are flushed behind the closed gate, the module says which TDs
//! own the pages in flight, and nothing that a TD needs is reset.

use crate::promise::Mark as _;
use crate::world::{Event, GRANITE_RAPIDS, World, pages};
use tdx_abi::{Leaf, Page, PageRange, Status};
use tdx_host::handover::{
    CameBack, HandoverReport, Kexec, KexecKind, LeftPrivate, LeftoverReason, Outcome, Policy, Refused, check_image_load,
};
use tdx_host::ledger::PageState;
use tdx_host::reset::ResetCount;

const FLUSH: Event = Event::Seamcall(Leaf::VP_FLUSH);
const ASK: Event = Event::Seamcall(Leaf::PHYMEM_PAGE_RDMD);

/// Of the pages in flight, 1030 to 1040 were taken.
fn world(cpus: usize) -> World {
    World::new(cpus).with_pages().holding(pages(1030, 1040))
}

fn keep(world: &World, vcpus: &[Page]) -> HandoverReport {
    let kexec = Kexec::begin(Policy::Keep, KexecKind::Normal, world.memory()).unwrap();
    kexec.stop_other_cpus(&world).unwrap().flush_vcpus(vcpus).write_back_caches().reset()
}

fn left(report: &HandoverReport, world: &World) -> Vec<PageRange> {
    report.leftovers(&world.memory()).map(|left| left.range).collect()
}

fn resets(events: &[(u32, Event)]) -> Vec<PageRange> {
    let lines =
        events.iter().filter_map(|(_, event)| if let Event::Reset(lines) = event { Some(lines.pages()) } else { None });
    tdx_abi::union(lines, []).collect()
}

#[test]
fn vcpus_are_flushed_and_what_no_td_needs_is_reset() {
    let world = world(3);
    let report = keep(&world, &[Page::new(600)]);
    let events = world.take();
    // Each CPU, the stopped ones too, and then the caches once more.
    let flushes: Vec<u32> = events.iter().filter(|(_, event)| *event == FLUSH).map(|(cpu, _)| *cpu).collect();
    assert_eq!(flushes, [0, 1, 2]);
    let last_call = events.iter().rposition(|(_, event)| matches!(event, Event::Seamcall(_))).unwrap();
    let written: Vec<u32> =
        events[last_call..].iter().filter(|(_, event)| *event == Event::WriteBack).map(|(cpu, _)| *cpu).collect();
    assert_eq!(written, [0, 1, 2], "no private line waits in a cache");
    let asked = events.iter().filter(|(_, event)| *event == ASK).count();
    assert_eq!(asked, 77, "each page in flight, and the one that was returned");
    // 601 was returned; of those in flight the module has ten. 600 and PAMT are the module's.
    assert_eq!(resets(&events), [pages(601, 602), pages(1024, 1030), pages(1040, 1100)]);
    assert_eq!(report.outcome, Outcome::Kept(ResetCount { lines: 67 * 64, ranges: 3, left: 0 }));
    assert_eq!((report.not_flushed, report.module), (None, None));
    assert_eq!(left(&report, &world), [pages(16, 20), pages(600, 601), pages(1030, 1040)]);
    assert!(report.leftovers(&world.memory()).all(|left| left.reason == LeftoverReason::NotReset));
    assert!(!report.next_kernel_can_use_tdx());
    assert_eq!(report.came_back(&world.memory()), CameBack::TdxIsGone, "pages were reset, no SEAMCALL follows");
    assert!(world.gate().is_closed());
}

/// Without a list of VCPUs, PHYMEM.PAGE.RDMD is still made.
#[test]
fn asking_the_module_never_disables_it() {
    let mut world = world(1);
    world.features = Some(crate::world::WITH_DISABLE);
    let report = world.kexec(Policy::Keep, KexecKind::Normal);
    let calls = world.take_alone();
    let asked: Vec<&Event> = calls.iter().filter(|event| matches!(event, Event::Seamcall(_))).collect();
    assert_eq!((asked.len(), asked.iter().all(|event| **event == ASK)), (77, true), "{asked:?}");
    assert!(matches!(report.outcome, Outcome::Kept(_)), "{report:?}");
}

/// The ledger of a kernel whose TDX code is not its own follows SEAMCALLs without a platform: its
/// pages in flight may still be a TD's.
#[test]
fn without_a_platform_the_module_is_asked_too() {
    let in_order: fn(&World) -> HandoverReport = |world| keep(world, &[Page::new(600)]);
    for hand_over in [in_order, |world| world.kexec(Policy::Keep, KexecKind::Normal)] {
        let world = World::on(None, 1).with_pages().holding(pages(1030, 1040));
        let report = hand_over(&world);
        assert_eq!(resets(&world.take()), [pages(601, 602), pages(1024, 1030), pages(1040, 1100)]);
        assert!(left(&report, &world).contains(&pages(1030, 1040)));
    }
}

/// A page of which the module does not answer may be a TD's: a reset would destroy that TD.
#[test]
fn a_page_of_which_the_module_does_not_answer_is_not_reset() {
    let invalid = Status::new(0xc000_0100_0000_0000);
    let world = World::new(1).with_pages().answering([Status::SUCCESS, invalid, invalid]);
    let report = keep(&world, &[]);
    assert_eq!(resets(&world.take()), [pages(601, 602), pages(1026, 1100)]);
    assert_eq!(left(&report, &world), [pages(16, 20), pages(600, 601), pages(1024, 1026)]);
}

/// A page that the ledger takes for returned is reset only if the module says so, too.
#[test]
fn a_returned_page_is_reset_only_if_the_module_says_so() {
    let held = World::new(1).with_pages().holding(pages(601, 602));
    let unanswered = World::new(1).with_pages().answering([Status::new(0xc000_0100_0000_0000)]);
    for world in [held, unanswered] {
        let report = keep(&world, &[]);
        assert_eq!(resets(&world.take()), [pages(1024, 1100)]);
        assert_eq!(left(&report, &world), [pages(16, 20), pages(600, 602)]);
        assert_eq!(world.ledger.as_ref().unwrap().state(Page::new(601)), Some(PageState::Private));
    }
}

/// A CPU was stopped before it entered which page the module has returned: then the module is asked
/// of each marked page, and the takeover table calls none unknown that the module has.
#[test]
fn a_lost_answer_is_asked_again() {
    for held in [pages(600, 601), pages(0, 1)] {
        let world = World::new(1).with_pages().holding(held);
        let ledger = world.ledger.as_ref().unwrap();
        drop(ledger.returning());
        let report = keep(&world, &[]);
        let first = if held == pages(600, 601) { 601 } else { 600 };
        assert_eq!(resets(&world.take()), [pages(first, 602), pages(1024, 1100)]);
        assert!(matches!(report.outcome, Outcome::Kept(_)));
        assert!(ledger.unknown_to_module().eq([pages(first, 602), pages(1024, 1100)]));
    }
}

/// What is not answered stays unknown to the module.
#[test]
fn an_answer_stays_lost_if_the_module_does_not_give_it() {
    let world = World::new(1).with_pages().answering([Status::new(0xc000_0100_0000_0000)]);
    let ledger = world.ledger.as_ref().unwrap();
    drop(ledger.returning());
    let _ = keep(&world, &[]);
    assert_eq!(resets(&world.take()), [pages(601, 602), pages(1024, 1100)]);
    assert!(ledger.unknown_to_module().eq(ledger.marked()), "600 may be unknown");
}

#[test]
fn a_flush_that_fails_is_told() {
    let invalid = Status::new(0xc000_0100_0000_0001);
    let world = World::new(2).with_pages().answering([invalid]);
    let report = keep(&world, &[Page::new(600)]);
    let error = report.not_flushed.unwrap();
    assert_eq!((error.status(), error.call.leaf(), error.attempts), (invalid, Leaf::VP_FLUSH, 1));
    assert!(matches!(report.outcome, Outcome::Kept(_)), "the TDs stay");
}

/// All CPUs flush at the same time: one finds the page of the VCPU locked by another.
#[test]
fn a_flush_that_meets_another_is_made_again() {
    let busy = Status::new(0x8000_0200_0000_0001);
    let world = World::new(2).with_pages().answering([busy; 3]);
    let report = keep(&world, &[Page::new(600)]);
    assert_eq!(report.not_flushed, None);
    let flushes: Vec<u32> = world.take().iter().filter(|(_, event)| *event == FLUSH).map(|(cpu, _)| *cpu).collect();
    assert_eq!(flushes, [0, 0, 0, 0, 1]);
}

/// A crash overtakes the kexec: no SEAMCALL is made, and every page that may be a TD's stays.
#[test]
fn no_call_is_made_after_a_crash() {
    let world = &world(1);
    let kexec = Kexec::begin(Policy::Keep, KexecKind::Normal, world.memory()).unwrap();
    let stopped = kexec.stop_other_cpus(&world).unwrap();
    let crash = world.crash(Policy::Keep);
    assert_eq!(crash.outcome, Outcome::Kept(ResetCount::default()));
    world.take();
    let report = stopped.flush_vcpus(&[Page::new(600)]).write_back_caches().reset();
    let events = world.take();
    assert!(events.iter().all(|(_, event)| !matches!(event, Event::Seamcall(_))), "{events:?}");
    assert_eq!(report.not_flushed.unwrap().status(), Status::GATE_CLOSED);
    assert_eq!(resets(&events), []);
}

#[test]
fn a_crash_resets_nothing_and_asks_nothing() {
    let world = world(2);
    let report = world.crash(Policy::Keep);
    let events = world.take();
    assert!(events.iter().all(|(_, event)| matches!(event, Event::WriteBack | Event::Fence)), "{events:?}");
    assert_eq!(report.outcome, Outcome::Kept(ResetCount::default()));
    assert_eq!(left(&report, &world), [pages(16, 20), pages(600, 602), pages(1024, 1100)]);
}

#[test]
fn a_kexec_jump_keeps_everything_and_comes_back() {
    let world = &world(1);
    let kexec = Kexec::begin(Policy::Keep, KexecKind::Jump, world.memory()).unwrap();
    let report = kexec.stop_other_cpus(&world).unwrap().flush_vcpus(&[Page::new(600)]).write_back_caches().reset();
    assert_eq!(report.outcome, Outcome::LeftPrivate(LeftPrivate::KexecJump));
    assert!(world.take_alone().iter().all(|event| *event == Event::WriteBack));
    assert_eq!(report.came_back(&world.memory()), CameBack::TdxGoesOn);
}

/// A TD is as easily lost on a CPU without the erratum.
#[test]
fn without_the_erratum_tds_are_kept_too() {
    let world = World::on(Some(&GRANITE_RAPIDS), 1).with_pages().holding(pages(1030, 1040));
    let report = keep(&world, &[]);
    assert_eq!(report.outcome, Outcome::Kept(ResetCount::default()), "nothing needs a reset");
    assert_eq!(resets(&world.take()), []);
    assert!(left(&report, &world).contains(&pages(1030, 1040)));
}

#[test]
fn an_image_on_memory_of_a_td_is_refused() {
    let world = world(1);
    let check = |policy| check_image_load(policy, KexecKind::Normal, &world.memory(), &[pages(550, 650)]);
    let refused = check(Policy::Keep).unwrap_err();
    assert_eq!(refused, Refused::KeptSegment { segment: pages(550, 650), private: pages(600, 602) });
    assert!(refused.to_string().contains("load the image elsewhere"), "{refused}");
    check(Policy::Tracked).unwrap();
}

/// A TD has got a page there since the image was loaded.
#[test]
fn an_image_on_memory_that_a_td_got_later_calls_the_kexec_off() {
    let world = &world(2);
    let image = [pages(700, 800)];
    check_image_load(Policy::Keep, KexecKind::Normal, &world.memory(), &image).unwrap();
    world.ledger.as_ref().unwrap().mark_in_flight(pages(750, 751)).unwrap();
    let stop =
        |policy| Kexec::begin(policy, KexecKind::Normal, world.memory()).unwrap().stop_other_cpus(&world).unwrap();
    let refused = stop(Policy::Keep).check_segments(&image).unwrap_err();
    assert_eq!(refused, Refused::KeptSegment { segment: image[0], private: pages(750, 751) });
    assert!(!world.gate().is_closed() && *world.resumed.borrow());
    world.resumed.replace(false);
    let kexec = stop(Policy::Keep).check_segments(&[pages(700, 750)]).unwrap();
    assert!(world.gate().is_closed() && !*world.resumed.borrow());
    let report = kexec.flush_vcpus(&[]).write_back_caches().reset();
    assert!(matches!(report.outcome, Outcome::Kept(_)));
}
