//! What `follow` makes of SEAMCALLs, call by call. That it makes the same of a whole life as the
//! hypervisor itself is shown in `tdx-lab`, `tests/traffic.rs`.

mod promise;

use promise::{Observe as _, Refs};
use std::sync::atomic::AtomicU64;

use tdx_abi::{Leaf, LeafCall, Operand, Page, PageRange, Registers, Status, StatusCode};
use tdx_host::effect::TABLE;
use tdx_host::follow::{MAX_MOVED, ModuleEvent, Moves, NotFollowed};
use tdx_host::ledger::{Ledger, PageState};

/// 2 GiB from 0 on.
fn ledger() -> Ledger<'static> {
    let memory = PageRange::new(Page::new(0), Page::new(2 << 18));
    let words: Vec<AtomicU64> = (0..Ledger::words_needed([memory])).map(|_| AtomicU64::new(0)).collect();
    Ledger::new([memory], words.leak()).unwrap()
}

const PAGE: u64 = 0x1234_5000;

fn page() -> Page {
    Page::new(PAGE >> 12)
}

fn answer(status: u64, rcx: u64) -> Registers {
    Registers { rax: status, rcx, ..Registers::default() }
}

fn busy() -> Registers {
    answer(StatusCode::OPERAND_BUSY.operand(Operand::R8).raw(), 0)
}

fn make(ledger: &Ledger<'_>, refs: &Refs, call: &Registers, answer: &Registers) {
    let moves = Moves::of(call, false).unwrap();
    moves.seen_before(ledger, refs).unwrap();
    moves.seen_after(ledger, answer).unwrap();
    refs.assert_those_of(ledger);
}

#[test]
fn every_leaf_with_a_name_is_known_and_no_other() {
    for number in 0..=u16::MAX {
        let (leaf, call) = (Leaf(number), Registers::call(Leaf(number)));
        assert_eq!(Moves::of(&call, false).is_ok(), leaf.name().is_some(), "{leaf}");
    }
    let migration = Registers::call(Leaf(96));
    assert_eq!(Moves::of(&migration, false), Err(NotFollowed::Leaf(Leaf(96))));
    // The P-SEAMLDR's calls have bit 63 set.
    let loader = Registers { rax: 1 << 63 | 0x60, ..Registers::default() };
    assert!(Moves::of(&loader, false).unwrap().taken().is_empty());
}

#[test]
fn which_operand_is_the_page() {
    let by_rcx = [Leaf::MNG_CREATE, Leaf::MNG_ADDCX, Leaf::VP_CREATE, Leaf::VP_ADDCX];
    let by_r8 =
        [Leaf::MEM_PAGE_ADD, Leaf::MEM_SEPT_ADD, Leaf::MEM_PAGE_AUG, Leaf::MEM_PAGE_RELOCATE, Leaf::MEM_PAGE_DEMOTE];
    let small = PageRange::new(page(), Page::new(page().index() + 1));
    for leaf in by_rcx {
        assert_eq!(Moves::of(&Registers::call(leaf).rcx(PAGE), false).unwrap().taken().as_slice(), [small], "{leaf}");
    }
    for leaf in by_r8 {
        assert_eq!(Moves::of(&Registers::call(leaf).r8(PAGE), false).unwrap().taken().as_slice(), [small], "{leaf}");
    }
    let large = Registers::call(Leaf::MEM_PAGE_AUG).rcx(0x4000_0001).r8(0x4000_0000);
    let large = Moves::of(&large, false).unwrap();
    assert_eq!(large.taken()[0].pages(), 512);
    // Level 7 is none: the module will refuse it, and one page is marked meanwhile.
    assert_eq!(Moves::of(&Registers::call(Leaf::MEM_PAGE_AUG).rcx(7), false).unwrap().taken()[0].pages(), 1);
}

#[test]
fn every_row_of_the_table_fits() {
    assert!(TABLE.iter().all(|row| row.takes.len() <= MAX_MOVED && row.returns.len() <= MAX_MOVED));
}

/// Pages of 4 KiB at these addresses.
fn small(addresses: &[u64]) -> Vec<PageRange> {
    addresses.iter().map(|address| PageRange::new(Page::new(address >> 12), Page::new((address >> 12) + 1))).collect()
}

fn sept_add_v1(pages: [u64; 4]) -> Registers {
    let [r8, r9, r10, r11] = pages;
    let call = Registers::call(LeafCall::with_version(Leaf::MEM_SEPT_ADD, 1)).r8(r8).r9(r9);
    Registers { r10, r11, ..call }
}

/// All ones: no page.
const NULL_PA: u64 = u64::MAX;
/// Beside an address: the module has not used the page.
const NOT_USED: u64 = 1 << 63;

fn taken(call: &Registers, dynamic_pamt: bool) -> Vec<PageRange> {
    Moves::of(call, dynamic_pamt).unwrap().taken().to_vec()
}

#[test]
fn sept_add_version_1_takes_a_page_for_each_vm() {
    let [l1, a, b, c] = [0x1000, 0x2000, 0x3000, 0x4000];
    assert_eq!(taken(&sept_add_v1([l1, a, b, c]), false), small(&[l1, a, b, c]));
    assert_eq!(taken(&sept_add_v1([NULL_PA, a, NULL_PA, NULL_PA]), false), small(&[a]));
    assert_eq!(taken(&sept_add_v1([l1 | NOT_USED, a, NULL_PA, NULL_PA]), false), small(&[l1, a]), "bit 63 is ignored");
    // Version 0 does not look at them.
    assert_eq!(taken(&Registers { rax: 3, ..sept_add_v1([l1, a, b, c]) }, false), small(&[l1]));
}

/// The answer says of each page whether it was used: all ones if it was, bit 63 if not.
#[test]
fn a_page_that_sept_add_did_not_use_is_not_the_modules() {
    let states = |ledger: &Ledger<'_>| [1, 2, 3].map(|page| ledger.state(Page::new(page)).unwrap());
    let call = sept_add_v1([0x1000, 0x2000, 0x3000, NULL_PA]);
    let seen = |status, pages: [u64; 3]| {
        let (ledger, refs) = (ledger(), Refs::default());
        let [r8, r9, r10] = pages;
        make(&ledger, &refs, &call, &Registers { r10, ..answer(status, 0).r8(r8).r9(r9) });
        states(&ledger)
    };
    let (private, returned) = (PageState::Private, PageState::Returned);
    assert_eq!(seen(0, [NULL_PA; 3]), [private; 3]);
    assert_eq!(seen(0, [0x1000 | NOT_USED, NULL_PA, 0x3000 | NOT_USED]), [returned, private, returned]);
    // A wrapper that hands no registers back leaves them as they were in the call.
    assert_eq!(seen(0, [0x1000, 0x2000, 0x3000]), [private; 3]);
    let interrupted = StatusCode::INTERRUPTED_RESUMABLE.with(0).raw();
    assert_eq!(seen(interrupted, [NULL_PA, NULL_PA, 0x3000]), [private, private, returned]);
    assert_eq!(seen(busy().rax, [0x1000, 0x2000, 0x3000]), [returned; 3]);
}

/// Version 0 with the flag "one may exist" does not say whether it used the page.
#[test]
fn a_page_that_may_have_been_there_already_is_not_taken_for_the_modules() {
    let (ledger, refs) = (ledger(), Refs::default());
    make(&ledger, &refs, &Registers::call(Leaf::MEM_SEPT_ADD).rdx(0x5001).r8(PAGE), &answer(0, 0));
    assert_eq!(ledger.state(page()), Some(PageState::Returned), "marked, and the host's to reset");
}

#[test]
fn sept_remove_and_promote_version_1_return_a_page_for_each_vm() {
    for leaf in [Leaf::MEM_SEPT_REMOVE, Leaf::MEM_PAGE_PROMOTE] {
        let (ledger, refs) = (ledger(), Refs::default());
        make(
            &ledger,
            &refs,
            &sept_add_v1([0x1000, 0x2000, NULL_PA, 0x4000]),
            &Registers { rax: 0, ..sept_add_v1([NULL_PA; 4]) },
        );
        let remove = Registers::call(LeafCall::with_version(leaf, 1)).rcx(1);
        // Bit 62: the pair of Dynamic PAMT can be removed.
        let back = Registers { r10: NULL_PA, r11: 0x4000, ..answer(0, 0x1000).r9(0x2000 | 1 << 62) };
        make(&ledger, &refs, &remove, &back);
        for page in [1, 2, 4] {
            assert_eq!(ledger.state(Page::new(page)), Some(PageState::Returned), "{leaf} {page}");
        }
        assert_eq!(ledger.marked_pages(), 3);
    }
}

#[test]
fn demote_takes_a_page_for_each_vm_and_page_0_is_none() {
    let demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(1).r8(0x1000).r9(0x2000);
    assert_eq!(taken(&Registers { r10: NULL_PA, r11: 0x4000, ..demote }, false), small(&[0x1000, 0x2000, 0x4000]));
    assert_eq!(taken(&Registers { r9: 0, ..demote }, true).len(), 3, "R12 and R13 are named, although 0");
    let (ledger, refs) = (ledger(), Refs::default());
    // Interrupted after it has filled them.
    make(&ledger, &refs, &demote, &answer(StatusCode::INTERRUPTED_RESTARTABLE.with(0).raw(), 1).r8(0x1000).r9(0x2000));
    assert_eq!(ledger.state(Page::new(2)), Some(PageState::Returned));
    make(&ledger, &refs, &demote, &answer(0, 0).r8(0x1000).r9(0x2000 | NOT_USED));
    let state = |page| ledger.state(Page::new(page));
    assert_eq!((state(1), state(2)), (Some(PageState::Private), Some(PageState::Returned)));
}

#[test]
fn a_version_that_is_not_known_is_an_error() {
    for (leaf, last) in [
        (Leaf::MEM_SEPT_ADD, 1),
        (Leaf::MEM_SEPT_REMOVE, 1),
        (Leaf::MEM_PAGE_PROMOTE, 1),
        (Leaf::MEM_PAGE_DEMOTE, 0),
        (Leaf::MNG_CREATE, 0),
        (Leaf::PHYMEM_PAMT_ADD, 0),
        (Leaf::VP_INIT, 1),
        (Leaf::MEM_TRACK, 0),
    ] {
        for version in 0..=u8::MAX {
            let call = LeafCall::with_version(leaf, version);
            let known = if version <= last { Ok(()) } else { Err(NotFollowed::Version(call)) };
            assert_eq!(Moves::of(&Registers::call(call), false).map(drop), known, "{leaf} version {version}");
        }
    }
}

#[test]
fn the_pair_of_dynamic_pamt_is_followed_where_it_is_on() {
    let demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(1).r8(0x1000).r12(0x2000).r13(0x3000);
    assert_eq!(taken(&demote, false), small(&[0x1000]));
    assert_eq!(taken(&demote, true), small(&[0x1000, 0x2000, 0x3000]));
    // A 1 GiB page is split into 2 MiB pages, which need no pair.
    assert_eq!(taken(&Registers { rcx: 2, ..demote }, true), small(&[0x1000]));
    let (ledger, refs) = (ledger(), Refs::default());
    let add = Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(0x20_0001).rdx(0x2000).r8(0x3000);
    make(&ledger, &refs, &add, &answer(0, 0));
    assert_eq!(ledger.marked_pages(), 2);
    let remove = Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(0x20_0001);
    make(&ledger, &refs, &remove, &answer(0, 0).rdx(0x2000).r8(0x3000));
    for page in [2, 3] {
        assert_eq!(ledger.state(Page::new(page)), Some(PageState::Returned));
    }
    assert!(ledger.is_settled());
}

#[test]
fn promote_returns_a_pair_for_2_mib_alone() {
    for (level, pair) in [(1, true), (2, false)] {
        let (ledger, refs) = (ledger(), Refs::default());
        make(&ledger, &refs, &Registers::call(Leaf::MEM_SEPT_ADD).r8(PAGE), &answer(0, 0));
        make(&ledger, &refs, &Registers::call(Leaf::PHYMEM_PAMT_ADD).rdx(0x2000).r8(0x3000), &answer(0, 0));
        let call_of_moves = Registers::call(Leaf::MEM_PAGE_PROMOTE).rcx(level);
        let moves = Moves::of(&call_of_moves, true).unwrap();
        moves.seen_before(&ledger, &refs).unwrap();
        let (r12, r13) = if pair { (0x2000, 0x3000) } else { (0, 0) };
        let back = moves.seen_after(&ledger, &answer(0, PAGE).r12(r12).r13(r13)).unwrap();
        assert_eq!(back.len(), if pair { 3 } else { 1 });
    }
}

#[test]
fn the_end_of_a_call_whose_beginning_was_not_seen_leaves_nothing_unsettled() {
    let (ledger, refs) = (ledger(), Refs::default());
    let call_of_reclaim = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(PAGE);
    let reclaim = Moves::of(&call_of_reclaim, false).unwrap();
    reclaim.seen_after(&ledger, &busy()).unwrap();
    assert!(ledger.is_settled());
    reclaim.seen_before(&ledger, &refs).unwrap();
    assert!(!ledger.is_settled());
    reclaim.seen_after(&ledger, &busy()).unwrap();
    assert!(ledger.is_settled());
}

#[test]
fn a_page_is_marked_before_the_call_and_until_its_reset() {
    let (ledger, refs) = (ledger(), Refs::default());
    let (state, range) = (|| ledger.state(page()).unwrap(), PageRange::new(page(), Page::new(page().index() + 1)));
    let call_of_give = Registers::call(Leaf::MNG_ADDCX).rcx(PAGE);
    let give = Moves::of(&call_of_give, false).unwrap();
    give.seen_before(&ledger, &refs).unwrap();
    assert_eq!(state(), PageState::InFlight);
    give.seen_after(&ledger, &answer(0, 0)).unwrap();
    assert_eq!(state(), PageState::Private);
    assert_eq!(promise::seen_reset(&ledger, range, &refs), Err(NotFollowed::StillGiven(page())));
    assert_eq!(state(), PageState::Private, "and it keeps its mark");
    let reclaim = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(PAGE);
    make(&ledger, &refs, &reclaim, &busy());
    assert_eq!(state(), PageState::Private, "a call that failed returns nothing");
    let moves = Moves::of(&reclaim, false).unwrap();
    moves.seen_before(&ledger, &refs).unwrap();
    assert!(!ledger.is_settled(), "nobody knows which page is coming back");
    assert_eq!(moves.seen_after(&ledger, &answer(0, 1)).unwrap()[..], [range]);
    assert_eq!((state(), ledger.is_settled()), (PageState::Returned, true));
    promise::seen_reset(&ledger, range, &refs).unwrap();
    assert_eq!(state(), PageState::Shared);
    promise::seen_reset(&ledger, range, &refs).unwrap();
}

#[test]
fn a_page_whose_call_failed_keeps_its_mark_and_may_be_given_again() {
    let (ledger, refs) = (ledger(), Refs::default());
    let give = Registers::call(Leaf::MEM_SEPT_ADD).r8(PAGE);
    make(&ledger, &refs, &give, &busy());
    assert_eq!(ledger.state(page()), Some(PageState::Returned));
    make(&ledger, &refs, &give, &answer(0, 0));
    assert_eq!(ledger.state(page()), Some(PageState::Private));
    // A bug of the kernel's: the module has it. It is refused, and the page is the module's as
    // before.
    make(&ledger, &refs, &give, &busy());
    assert_eq!(ledger.state(page()), Some(PageState::Private));
}

#[test]
fn two_calls_that_give_one_page_leave_it_marked_whatever_their_order() {
    for first_fails in [false, true] {
        let (ledger, refs) = (ledger(), Refs::default());
        let call_of_give = Registers::call(Leaf::MNG_ADDCX).rcx(PAGE);
        let give = Moves::of(&call_of_give, false).unwrap();
        give.seen_before(&ledger, &refs).unwrap();
        give.seen_before(&ledger, &refs).unwrap();
        let (bad, good) = (busy(), answer(0, 0));
        give.seen_after(&ledger, if first_fails { &bad } else { &good }).unwrap();
        give.seen_after(&ledger, if first_fails { &good } else { &bad }).unwrap();
        assert_eq!(ledger.state(page()), Some(PageState::Private), "{first_fails}");
    }
}

#[test]
fn a_large_page_of_which_a_part_was_returned_is_marked_whole() {
    let (ledger, refs) = (ledger(), Refs::default());
    make(&ledger, &refs, &Registers::call(Leaf::MNG_ADDCX).rcx(0x4000_5000), &busy());
    let large = Registers::call(Leaf::MEM_PAGE_AUG).rcx(1).r8(0x4000_0000);
    make(&ledger, &refs, &large, &answer(0, 0));
    assert_eq!(ledger.marked_pages(), 512);
    assert_eq!(ledger.state(Page::new(0x4_0005)), Some(PageState::Private));
}

#[test]
fn what_the_ledger_does_not_cover_is_an_error() {
    let (ledger, refs) = (ledger(), Refs::default());
    let far = 4 << 30;
    let call_of_give = Registers::call(Leaf::MNG_CREATE).rcx(far);
    let give = Moves::of(&call_of_give, false).unwrap();
    assert_eq!(give.seen_before(&ledger, &refs), Err(NotFollowed::Outside(Page::new(far >> 12))));
    let call_of_remove = Registers::call(Leaf::MEM_PAGE_REMOVE);
    let remove = Moves::of(&call_of_remove, false).unwrap();
    remove.seen_before(&ledger, &refs).unwrap();
    assert!(remove.seen_after(&ledger, &answer(0, PAGE)).is_err(), "a page that was never given");
    assert!(ledger.is_settled());
    // Memory of nobody's TD.
    promise::seen_reset(&ledger, PageRange::new(Page::new(far >> 12), Page::new((far >> 12) + 2)), &refs).unwrap();
}

#[test]
fn a_marked_page_has_one_reference_until_its_reset() {
    let (ledger, refs) = (ledger(), Refs::default());
    let range = PageRange::new(page(), Page::new(page().index() + 1));
    let give = Registers::call(Leaf::MEM_PAGE_AUG).rcx(0).r8(PAGE);
    // Refused, given again, refused although the module has it: one reference all the time.
    for status in [busy(), answer(0, 0), busy()] {
        make(&ledger, &refs, &give, &status);
        assert_eq!(ledger.marked_pages(), 1);
    }
    assert_eq!(promise::seen_reset(&ledger, range, &refs), Err(NotFollowed::StillGiven(page())));
    refs.assert_those_of(&ledger);
    make(&ledger, &refs, &Registers::call(Leaf::MEM_PAGE_REMOVE), &answer(0, PAGE));
    assert_eq!(ledger.marked_pages(), 1);
    // Twice: the second is of a page that is ordinary memory.
    for _ in 0..2 {
        promise::seen_reset(&ledger, range, &refs).unwrap();
        assert_eq!(ledger.marked_pages(), 0);
        refs.assert_those_of(&ledger);
    }
}

#[test]
fn a_dead_module_leaves_every_page_with_its_reference() {
    let (ledger, refs) = (ledger(), Refs::default());
    let pages = [PAGE, PAGE + 0x1000, PAGE + 0x5000];
    for address in pages {
        make(&ledger, &refs, &Registers::call(Leaf::MEM_PAGE_AUG).r8(address), &answer(0, 0));
    }
    let dead = answer(Status::VMFAIL_INVALID.raw(), 0);
    let teardown = [Leaf::MEM_RANGE_BLOCK, Leaf::MEM_PAGE_REMOVE, Leaf::PHYMEM_PAGE_WBINVD, Leaf::PHYMEM_PAGE_RECLAIM];
    for (leaf, address) in teardown.into_iter().flat_map(|leaf| pages.map(|address| (leaf, address))) {
        make(&ledger, &refs, &Registers::call(leaf).rcx(address), &dead);
    }
    make(&ledger, &refs, &Registers::call(Leaf::MEM_PAGE_AUG).r8(PAGE + 0x9000), &dead);
    assert_eq!(ledger.marked_pages(), 4, "whoever frees them now frees nothing");
}

#[test]
fn a_page_that_nobody_has_allocated_is_an_error_and_not_marked() {
    let (ledger, refs) = (ledger(), Refs { free: vec![Page::new(0x4_0005)], ..Refs::default() });
    let call_of_large = Registers::call(Leaf::MEM_PAGE_AUG).rcx(1).r8(0x4000_0000);
    let large = Moves::of(&call_of_large, false).unwrap();
    assert_eq!(large.seen_before(&ledger, &refs), Err(NotFollowed::NotAllocated(Page::new(0x4_0005))));
    assert_eq!(ledger.state(Page::new(0x4_0005)), Some(PageState::Shared), "it may be in use");
    assert_eq!(ledger.marked_pages(), 511, "the other pages are marked");
    refs.assert_those_of(&ledger);
}

/// SYS_BUSY while a VCPU is inside: the module goes on, and so does the ledger.
#[test]
fn a_shutdown_counts_if_it_succeeds() {
    let event = |leaf, status| ModuleEvent::of(&Registers::call(leaf), &answer(status, 0), true);
    for failure in [
        StatusCode::SYS_BUSY.with(0),
        StatusCode::OPERAND_INVALID.operand(Operand::RCX),
        StatusCode::SYS_SHUTDOWN.with(0),
        tdx_abi::Status::VMFAIL_INVALID,
    ] {
        for leaf in [Leaf::SYS_SHUTDOWN, Leaf::SYS_UPDATE, Leaf::SYS_INIT, Leaf::SYS_CONFIG] {
            assert_eq!(event(leaf, failure.raw()), None, "{leaf} {failure}");
        }
    }
    assert_eq!(event(Leaf::SYS_SHUTDOWN, 0), Some(ModuleEvent::ShutDown));
    // The deprecated leaf of each CPU, and a call of the P-SEAMLDR with the same number.
    assert_eq!(event(Leaf::SYS_LP_SHUTDOWN, 0), None);
    let loader = Registers { rax: 1 << 63 | u64::from(Leaf::SYS_SHUTDOWN.0), ..Registers::default() };
    assert_eq!(ModuleEvent::of(&loader, &answer(0, 0), true), None);
}

#[test]
fn a_module_update_keeps_every_mark() {
    let (ledger, refs) = (ledger(), Refs::default());
    make(&ledger, &refs, &Registers::call(Leaf::MNG_CREATE).rcx(PAGE), &answer(0, 0));
    let event = |leaf, private| ModuleEvent::of(&Registers::call(leaf), &answer(0, 0), private);
    // The first bring-up of a machine is no update.
    assert_eq!((event(Leaf::SYS_INIT, false), event(Leaf::SYS_CONFIG, false)), (None, None));
    assert_eq!(event(Leaf::SYS_INIT, true), Some(ModuleEvent::Replaced));
    assert_eq!(event(Leaf::SYS_UPDATE, true), Some(ModuleEvent::Resumed));
    for leaf in [Leaf::SYS_SHUTDOWN, Leaf::SYS_INIT, Leaf::SYS_LP_INIT, Leaf::SYS_UPDATE] {
        make(&ledger, &refs, &Registers::call(leaf), &answer(0, 0));
    }
    assert_eq!(ledger.state(page()), Some(PageState::Private));
    assert_eq!(ledger.unknown_to_module().count(), 0);
    // Configured anew: SYS.DISABLE of this module would not clear it.
    assert_eq!(event(Leaf::SYS_CONFIG, true), Some(ModuleEvent::Forgot));
    promise::seen_forgotten(&ledger);
    assert_eq!(ledger.unknown_to_module().collect::<Vec<_>>(), small(&[PAGE]));
    promise::seen_reset(&ledger, small(&[PAGE])[0], &refs).unwrap();
}
