//! What `follow` makes of SEAMCALLs, call by call. That it makes the same of a whole life as the
//! hypervisor itself is shown in `tdx-lab`, `tests/traffic.rs`.

mod promise;

use promise::Observe as _;
use std::sync::atomic::AtomicU64;

use tdx_abi::{Leaf, LeafCall, Operand, Page, PageRange, Registers, StatusCode};
use tdx_host::follow::{Moves, NotFollowed};
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

fn make(ledger: &Ledger<'_>, call: &Registers, answer: &Registers) {
    let moves = Moves::of(call, false).unwrap();
    moves.seen_before(ledger).unwrap();
    moves.seen_after(ledger, answer).unwrap();
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
        assert_eq!(Moves::of(&Registers::call(leaf).rcx(PAGE), false).unwrap().taken(), [small], "{leaf}");
    }
    for leaf in by_r8 {
        assert_eq!(Moves::of(&Registers::call(leaf).r8(PAGE), false).unwrap().taken(), [small], "{leaf}");
    }
    // A version of a leaf takes what the leaf takes.
    let newer = Registers::call(LeafCall::with_version(Leaf::MEM_SEPT_ADD, 1)).r8(PAGE);
    assert_eq!(Moves::of(&newer, false).unwrap().taken(), [small]);
    let large = Registers::call(Leaf::MEM_PAGE_AUG).rcx(0x4000_0001).r8(0x4000_0000);
    let large = Moves::of(&large, false).unwrap();
    assert_eq!(large.taken()[0].pages(), 512);
    // Level 7 is none: the module will refuse it, and one page is marked meanwhile.
    assert_eq!(Moves::of(&Registers::call(Leaf::MEM_PAGE_AUG).rcx(7), false).unwrap().taken()[0].pages(), 1);
}

#[test]
fn the_pair_of_dynamic_pamt_is_followed_where_it_is_on() {
    let demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).r8(0x1000).r12(0x2000).r13(0x3000);
    assert_eq!(Moves::of(&demote, false).unwrap().taken().len(), 1);
    assert_eq!(Moves::of(&demote, true).unwrap().taken().len(), 3);
    let ledger = ledger();
    let add = Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(0x20_0001).rdx(0x2000).r8(0x3000);
    make(&ledger, &add, &answer(0, 0));
    assert_eq!(ledger.marked_pages(), 2);
    let remove = Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(0x20_0001);
    make(&ledger, &remove, &answer(0, 0).rdx(0x2000).r8(0x3000));
    for page in [2, 3] {
        assert_eq!(ledger.state(Page::new(page)), Some(PageState::Returned));
    }
    assert!(ledger.is_settled());
}

#[test]
fn a_page_is_marked_before_the_call_and_until_its_reset() {
    let ledger = ledger();
    let (state, range) = (|| ledger.state(page()).unwrap(), PageRange::new(page(), Page::new(page().index() + 1)));
    let give = Moves::of(&Registers::call(Leaf::MNG_ADDCX).rcx(PAGE), false).unwrap();
    give.seen_before(&ledger).unwrap();
    assert_eq!(state(), PageState::InFlight);
    give.seen_after(&ledger, &answer(0, 0)).unwrap();
    assert_eq!(state(), PageState::Private);
    assert_eq!(promise::seen_reset(&ledger, range), Err(NotFollowed::StillGiven(page())));
    assert_eq!(state(), PageState::Private, "and it keeps its mark");
    let reclaim = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(PAGE);
    make(&ledger, &reclaim, &busy());
    assert_eq!(state(), PageState::Private, "a call that failed returns nothing");
    let moves = Moves::of(&reclaim, false).unwrap();
    moves.seen_before(&ledger).unwrap();
    assert!(!ledger.is_settled(), "nobody knows which page is coming back");
    assert_eq!(moves.seen_after(&ledger, &answer(0, 1)).unwrap()[..], [range]);
    assert_eq!((state(), ledger.is_settled()), (PageState::Returned, true));
    promise::seen_reset(&ledger, range).unwrap();
    assert_eq!(state(), PageState::Shared);
    promise::seen_reset(&ledger, range).unwrap();
}

#[test]
fn a_page_whose_call_failed_keeps_its_mark_and_may_be_given_again() {
    let ledger = ledger();
    let give = Registers::call(Leaf::MEM_SEPT_ADD).r8(PAGE);
    make(&ledger, &give, &busy());
    assert_eq!(ledger.state(page()), Some(PageState::Returned));
    make(&ledger, &give, &answer(0, 0));
    assert_eq!(ledger.state(page()), Some(PageState::Private));
    // A bug of the kernel's: the module has it. It is refused, and the page is the module's as
    // before.
    make(&ledger, &give, &busy());
    assert_eq!(ledger.state(page()), Some(PageState::Private));
}

#[test]
fn two_calls_that_give_one_page_leave_it_marked_whatever_their_order() {
    for first_fails in [false, true] {
        let ledger = ledger();
        let give = Moves::of(&Registers::call(Leaf::MNG_ADDCX).rcx(PAGE), false).unwrap();
        give.seen_before(&ledger).unwrap();
        give.seen_before(&ledger).unwrap();
        let (bad, good) = (busy(), answer(0, 0));
        give.seen_after(&ledger, if first_fails { &bad } else { &good }).unwrap();
        give.seen_after(&ledger, if first_fails { &good } else { &bad }).unwrap();
        assert_eq!(ledger.state(page()), Some(PageState::Private), "{first_fails}");
    }
}

#[test]
fn a_large_page_of_which_a_part_was_returned_is_marked_whole() {
    let ledger = ledger();
    make(&ledger, &Registers::call(Leaf::MNG_ADDCX).rcx(0x4000_5000), &busy());
    let large = Registers::call(Leaf::MEM_PAGE_AUG).rcx(1).r8(0x4000_0000);
    make(&ledger, &large, &answer(0, 0));
    assert_eq!(ledger.marked_pages(), 512);
    assert_eq!(ledger.state(Page::new(0x4_0005)), Some(PageState::Private));
}

#[test]
fn what_the_ledger_does_not_cover_is_an_error() {
    let ledger = ledger();
    let far = 4 << 30;
    let give = Moves::of(&Registers::call(Leaf::MNG_CREATE).rcx(far), false).unwrap();
    assert_eq!(give.seen_before(&ledger), Err(NotFollowed::Outside(Page::new(far >> 12))));
    let remove = Moves::of(&Registers::call(Leaf::MEM_PAGE_REMOVE), false).unwrap();
    remove.seen_before(&ledger).unwrap();
    assert!(remove.seen_after(&ledger, &answer(0, PAGE)).is_err(), "a page that was never given");
    assert!(ledger.is_settled());
    // Memory of nobody's TD.
    promise::seen_reset(&ledger, PageRange::new(Page::new(far >> 12), Page::new((far >> 12) + 2))).unwrap();
}
