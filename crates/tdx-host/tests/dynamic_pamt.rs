//! Dynamic PAMT's counts and pairs against a plain model, over a module that only knows pairs: any
//! traffic, any call refused.
#![cfg(not(loom))]
// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use proptest::prelude::*;
use support::{Event, Recorder, SAPPHIRE_RAPIDS};
use tdx_abi::{
    Leaf, LineRange, Operand, Page, PageRange, PageSize, PhysAddr, Registers, Status, StatusCode, page_and_level,
};
use tdx_host::dynamic_pamt::{CountError, DynamicPamt, Pair, PamtCause, TooSmall};
use tdx_host::gate::CpuGate;
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::page::SharedPage;
use tdx_host::platform::{Cpu, CpuId, LineReset, PackageId, detect};
use tdx_host::seamcall::Seamcall;
use tdx_host::takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, WrittenBy};
use tdx_host::{Host, td::TdHost};

/// Two TDMRs of 1 GiB with a gap.
const TDMRS: [PageRange; 2] =
    [PageRange::new(Page::new(4 << 18), Page::new(5 << 18)), PageRange::new(Page::new(7 << 18), Page::new(8 << 18))];
const LARGE: u64 = PageSize::Size2M.pages();
/// Spare pages come from here.
const SPARES: Page = Page::new((8 << 18) - 1024);
const NO: Status = StatusCode::OPERAND_INVALID.operand(Operand::RCX);

/// Something to be done once.
type Meanwhile = Rc<RefCell<Option<Box<dyn FnOnce()>>>>;

/// Knows pairs by 2 MiB page, and the SEAMCALL that fails next.
#[derive(Clone, Default)]
struct Module {
    recorder: Recorder,
    pairs: Rc<RefCell<BTreeMap<u64, [u64; 2]>>>,
    refuse: Rc<RefCell<Option<Leaf>>>,
    /// What another CPU does in the middle of the next PHYMEM.PAMT.ADD.
    meanwhile: Meanwhile,
    /// To see what it says while a call is under way.
    ledger: Option<&'static Ledger<'static>>,
}

impl Module {
    fn with(ledger: &'static Ledger<'static>) -> Self {
        Self { ledger: Some(ledger), ..Self::default() }
    }

    fn refuse_next(&self, leaf: Leaf) {
        *self.refuse.borrow_mut() = Some(leaf);
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for Module {
    unsafe fn seamcall(&self, input: Registers) -> Registers {
        let leaf = input.leaf_call().leaf();
        self.recorder.push(Event::Seamcall(input.rax));
        let with = |status: Status| Registers { rax: status.raw(), ..input };
        let settled = self.ledger.is_none_or(Ledger::is_settled);
        assert_eq!(settled, leaf != Leaf::PHYMEM_PAMT_REMOVE, "which pages return is announced before the call");
        if *self.refuse.borrow() == Some(leaf) {
            *self.refuse.borrow_mut() = None;
            return with(NO);
        }
        let meanwhile = self.meanwhile.borrow_mut().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let mut pairs = self.pairs.borrow_mut();
        match leaf {
            Leaf::PHYMEM_PAMT_ADD if pairs.contains_key(&input.rcx) => {
                with(StatusCode::HPA_RANGE_NOT_FREE.operand(Operand::RCX))
            }
            Leaf::PHYMEM_PAMT_ADD => {
                pairs.insert(input.rcx, [input.rdx, input.r8]);
                with(Status::SUCCESS)
            }
            Leaf::PHYMEM_PAMT_REMOVE => match pairs.remove(&input.rcx) {
                Some([rdx, r8]) => Registers { rdx, r8, ..with(Status::SUCCESS) },
                None => with(StatusCode::NO_PAMT_PAGE_PAIR.operand(Operand::RCX)),
            },
            Leaf::PHYMEM_PAGE_WBINVD => {
                // 6 KeyID bits, the global KeyID is 32.
                assert_eq!(input.rcx >> 46, 32, "written back under the global KeyID");
                let page = input.rcx & ((1 << 46) - 1);
                let in_use = pairs.values().flatten().any(|other| *other == page);
                with(if in_use { StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::RCX) } else { Status::SUCCESS })
            }
            _ => panic!("{leaf} is not for dynamic PAMT"),
        }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for Module {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        let in_use = self.pairs.borrow().values().flatten().any(|page| lines.contains(PhysAddr::new(*page).line()));
        assert!(!in_use, "a page of a pair was reset while the module has it");
        // SAFETY: a model.
        unsafe { self.recorder.reset_lines(lines) }
    }

    fn fence(&self) {
        self.recorder.fence();
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for Module {
    fn id(&self) -> CpuId {
        self.recorder.id()
    }

    fn package(&self) -> PackageId {
        self.recorder.package()
    }

    fn write_back_caches(&self) {
        self.recorder.write_back_caches();
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        // SAFETY: a model.
        unsafe { self.recorder.flush_lines(lines) };
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        self.recorder.cpu_gate()
    }
}

/// Memory and tables that a kernel would own, leaked: the tests are short.
fn world() -> (TdHost<'static>, &'static Ledger<'static>, DynamicPamt<'static>) {
    let host: &Host<'static> = Box::leak(Box::new(Host::new(&[])));
    let platform = detect(&SAPPHIRE_RAPIDS).unwrap();
    promise::set_platform(host, platform);
    let facts = TakeoverFacts {
        written_by: WrittenBy::Kexec,
        tsc_adjust: 0,
        tsc: 0,
        global_key_id: platform.global_key_id(),
        not_stopped: 0,
        may_hold_private_lines: 0,
    };
    let mut table = [0; 256];
    let mut writer = TakeoverWriter::new(&mut table).unwrap();
    TDMRS.into_iter().try_for_each(|range| writer.entry(Entry::Tdmr(range))).unwrap();
    writer.finish(&facts);
    let table = TakeoverTable::read(&table).unwrap();
    let words = (0..table.claim_words()).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    // SAFETY: no memory of the test.
    let tds = unsafe { host.take_over(&table, words.leak()) }.unwrap();
    let ledger = host.ledger().unwrap();
    let counts = (0..DynamicPamt::words_needed(ledger)).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    (tds, ledger, DynamicPamt::new(tds, counts.leak()).unwrap())
}

fn spare_page<'h>(ledger: &'h Ledger<'h>, number: u64) -> SharedPage<'h> {
    promise::take(ledger, Page::new(SPARES.index() + number), PageSize::Size4K).unwrap()
}

fn spares<'h>(ledger: &'h Ledger<'h>, first: u64) -> Pair<'h> {
    (first..first + 2).map(|number| spare_page(ledger, number)).collect()
}

fn leaves(events: &[Event]) -> Vec<Leaf> {
    let leaf = |event: &Event| match event {
        Event::Seamcall(rax) => Some(Leaf(*rax as u16)),
        _ => None,
    };
    events.iter().filter_map(leaf).collect()
}

#[test]
fn the_counts_need_4_bytes_for_each_2_mib() {
    let (host, ledger, _) = world();
    assert_eq!(DynamicPamt::words_needed(ledger), 2 * 512);
    let few = (0..1023).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    let error = DynamicPamt::new(host, few.leak()).unwrap_err();
    assert_eq!(error, TooSmall { needed: 1024, given: 1023 });
    assert!(error.to_string().contains("1024"));
    // Whatever the memory held before.
    let used = (0..1024).map(|_| AtomicU32::new(u32::MAX)).collect::<Vec<_>>();
    let pamt = DynamicPamt::new(host, used.leak()).unwrap();
    assert_eq!((pamt.pairs(), pamt.counted(TDMRS[1].start())), (0, Some(0)));
}

/// The order that makes a pair safe: own lines out of the cache, marks, the call; and on the way
/// back call, write-back, reset, unmark.
#[test]
fn a_pair_comes_and_goes_in_order() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = Page::new(TDMRS[0].start().index() + 3 * LARGE + 7);
    let mut spare = spares(ledger, 0);
    pamt.get(&cpu, page, &mut spare).unwrap();
    assert!(spare.is_empty());
    let lines = |number: u64| {
        PageRange::new(Page::new(SPARES.index() + number), Page::new(SPARES.index() + number + 1)).lines()
    };
    let add = Event::Seamcall(Leaf::PHYMEM_PAMT_ADD.0.into());
    let given = [Event::Flush(lines(0)), Event::Fence, Event::Flush(lines(1)), Event::Fence, add];
    assert_eq!(cpu.recorder.take(), given);
    let large = page_and_level(Page::new(TDMRS[0].start().index() + 3 * LARGE), PageSize::Size2M);
    assert_eq!(cpu.pairs.borrow().keys().copied().collect::<Vec<_>>(), [large]);
    for number in 0..2 {
        assert_eq!(ledger.state(Page::new(SPARES.index() + number)), Some(PageState::Private));
    }
    assert_eq!((pamt.counted(page), pamt.pairs()), (Some(1), 1));

    // The second page of the 2 MiB asks for nothing.
    let neighbor = Page::new(page.index() + 1);
    pamt.get(&cpu, neighbor, &mut spare).unwrap();
    assert!(pamt.put(&cpu, page).unwrap().pages.is_empty());
    assert_eq!(cpu.recorder.take(), []);

    let recovered = pamt.put(&cpu, neighbor).unwrap();
    assert_eq!(
        recovered.pages.iter().map(|page| page.page().index()).collect::<Vec<_>>(),
        [SPARES.index(), SPARES.index() + 1]
    );
    assert_eq!((recovered.lost, recovered.lost_pages), (None, 0));
    let wbinvd = || Event::Seamcall(Leaf::PHYMEM_PAGE_WBINVD.0.into());
    let back = [
        Event::Seamcall(Leaf::PHYMEM_PAMT_REMOVE.0.into()),
        wbinvd(),
        Event::Reset(lines(0)),
        Event::Fence,
        wbinvd(),
        Event::Reset(lines(1)),
        Event::Fence,
    ];
    assert_eq!(cpu.recorder.take(), back);
    assert_eq!((ledger.marked_pages(), ledger.leaked_pages(), pamt.pairs()), (0, 0, 0));
}

#[test]
fn bad_input_changes_nothing() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = TDMRS[0].start();
    let mut none = Pair::new();
    assert_eq!(pamt.get(&cpu, page, &mut none).unwrap_err().cause, PamtCause::NoSpare);
    let mut one: Pair<'_> = [spare_page(ledger, 0)].into_iter().collect();
    assert_eq!(pamt.get(&cpu, page, &mut one).unwrap_err().cause, PamtCause::NoSpare);
    assert_eq!(one.len(), 1, "the page is still the caller's");
    let large = promise::take(ledger, TDMRS[0].start(), PageSize::Size2M).unwrap();
    one.push(large);
    assert_eq!(pamt.get(&cpu, page, &mut one).unwrap_err().cause, PamtCause::NoSpare);
    assert_eq!(one.len(), 2);

    let outside = TDMRS[0].end();
    for cause in [pamt.get(&cpu, outside, &mut none).unwrap_err().cause, pamt.put(&cpu, outside).unwrap_err().cause] {
        assert_eq!(cause, PamtCause::Outside { page: outside });
    }
    assert_eq!(pamt.put(&cpu, page).unwrap_err().cause, PamtCause::Count(CountError::Empty));
    assert_eq!(pamt.counted(outside), None);

    // One page twice: the ledger refuses the second mark, and the first is taken back.
    let mut twice: Pair<'_> = [spare_page(ledger, 1), spare_page(ledger, 1)].into_iter().collect();
    assert!(matches!(pamt.get(&cpu, page, &mut twice).unwrap_err().cause, PamtCause::Mark(_)));
    assert_eq!((twice.len(), ledger.marked_pages(), pamt.counted(page)), (2, 0, Some(0)));
    assert_eq!(leaves(&cpu.recorder.take()), []);

    let mut spare = spares(ledger, 2);
    for number in 0..512 {
        pamt.get(&cpu, Page::new(page.index() + number), &mut spare).unwrap();
    }
    assert_eq!(pamt.get(&cpu, page, &mut spare).unwrap_err().cause, PamtCause::Count(CountError::Full));
    assert_eq!(pamt.counted(page), Some(512));
}

/// A pair that the module may have written to is reset before anybody sees its pages; one that it
/// still has never is.
#[test]
fn a_refused_add_and_a_refused_write_back() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = TDMRS[0].start();
    let mut spare = spares(ledger, 0);
    cpu.refuse_next(Leaf::PHYMEM_PAMT_ADD);
    let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
    assert_eq!((error.cause.status(), error.lost_pages), (Some(NO), 0));
    assert_eq!((spare.len(), pamt.counted(page), ledger.marked_pages()), (2, Some(0), 0));
    let events = cpu.recorder.take();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Reset(_))).count(), 2, "{events:?}");

    // The answer to an ADD got lost: the module has the pair.
    let [first, second] = [0, 1].map(|number| Page::new(SPARES.index() + number).start().get());
    cpu.pairs.borrow_mut().insert(page_and_level(page, PageSize::Size2M), [first, second]);
    let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
    assert_eq!(error.cause.status().map(Status::code), Some(StatusCode::HPA_RANGE_NOT_FREE));
    assert_eq!((error.lost_pages, spare.len()), (2, 0));
    assert_eq!((ledger.marked_pages(), ledger.leaked_pages()), (2, 2), "marked for the handover");
}

#[test]
fn a_refused_remove_can_be_tried_again() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = TDMRS[1].start();
    pamt.get(&cpu, page, &mut spares(ledger, 0)).unwrap();
    cpu.refuse_next(Leaf::PHYMEM_PAMT_REMOVE);
    assert_eq!(pamt.put(&cpu, page).unwrap_err().cause.status(), Some(NO));
    assert_eq!((pamt.counted(page), ledger.marked_pages(), ledger.is_settled()), (Some(1), 2, true));
    assert_eq!(pamt.put(&cpu, page).unwrap().pages.len(), 2);

    // A page that cannot be written back stays marked; the other one is fine.
    pamt.get(&cpu, page, &mut spares(ledger, 0)).unwrap();
    cpu.refuse_next(Leaf::PHYMEM_PAGE_WBINVD);
    let recovered = pamt.put(&cpu, page).unwrap();
    assert_eq!((recovered.pages.len(), recovered.lost_pages), (1, 1));
    assert!(recovered.lost.is_some());
    assert_eq!((pamt.counted(page), ledger.marked_pages(), ledger.leaked_pages()), (Some(0), 1, 1));
}

/// A module that names pages which are not its: none of them is touched, and the ledger goes on
/// saying that two are lost.
#[test]
fn pages_that_the_kernel_did_not_give_are_not_touched() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = TDMRS[1].start();
    pamt.get(&cpu, page, &mut spares(ledger, 0)).unwrap();
    cpu.pairs.borrow_mut().values_mut().for_each(|pair| *pair = [0x1000, u64::MAX]);
    let recovered = pamt.put(&cpu, page).unwrap();
    assert!(matches!(recovered.lost, Some(PamtCause::Token(_))));
    assert_eq!((recovered.pages.len(), recovered.lost_pages), (0, 2));
    assert!(!ledger.is_settled());
    let unknown: u64 = ledger.unknown_to_module().map(PageRange::pages).sum();
    assert_eq!((unknown, pamt.counted(page)), (2, Some(0)));
    assert!(!cpu.recorder.take().iter().any(|event| matches!(event, Event::Reset(_))));
}

/// Another CPU has its turn: typed, at once, and nothing has changed.
#[test]
fn a_cpu_in_the_middle_sends_others_away() {
    let (_, ledger, pamt) = world();
    let pamt: &'static DynamicPamt<'static> = Box::leak(Box::new(pamt));
    let (cpu, other) = (Module::with(ledger), Module::with(ledger));
    let page = TDMRS[1].start();
    *cpu.meanwhile.borrow_mut() = Some(Box::new(move || {
        let mut spare = spares(ledger, 2);
        for _ in 0..2 {
            let error = pamt.get(&other, page, &mut spare).unwrap_err();
            assert!(error.cause.is_busy() && error.to_string().contains("try again"), "{error}");
            assert!(pamt.put(&other, page).unwrap_err().cause.is_busy());
        }
        assert_eq!((spare.len(), pamt.counted(page), pamt.pairs()), (2, None, 1));
        // Only this 2 MiB is busy.
        pamt.get(&other, Page::new(page.index() + LARGE), &mut spare).unwrap();
    }));
    pamt.get(&cpu, page, &mut spares(ledger, 0)).unwrap();
    pamt.get(&cpu, page, &mut Pair::new()).unwrap();
    assert_eq!((pamt.counted(page), pamt.pairs()), (Some(2), 2));
}

#[test]
fn a_closed_gate_loses_no_spare_page() {
    let (_, ledger, pamt) = world();
    let cpu = Module::with(ledger);
    let page = TDMRS[0].start();
    let mut spare = spares(ledger, 0);
    cpu.recorder.host.0.gate().close();
    let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
    assert_eq!((error.cause.status(), error.lost_pages), (Some(Status::GATE_CLOSED), 0));
    assert_eq!((spare.len(), ledger.marked_pages(), pamt.counted(page)), (2, 0, Some(0)));
}

/// What a kernel could do next.
#[derive(Clone, Copy, Debug)]
enum Op {
    Get(u64),
    Put(u64),
}

/// Pages of a few 2 MiB pages at both ends of both TDMRs.
fn page() -> impl Strategy<Value = u64> {
    let large = prop_oneof![Just(0u64), Just(1), Just(511)];
    (0..2usize, large, prop_oneof![0..3u64, 509..512u64])
        .prop_map(|(tdmr, large, small)| TDMRS[tdmr].start().index() + large * LARGE + small)
}

fn traffic() -> impl Strategy<Value = Vec<(Op, Option<Leaf>)>> {
    let op = prop_oneof![5 => page().prop_map(Op::Get), 4 => page().prop_map(Op::Put)];
    let leaf = prop_oneof![Just(Leaf::PHYMEM_PAMT_ADD), Just(Leaf::PHYMEM_PAMT_REMOVE)];
    prop::collection::vec((op, prop::option::weighted(0.15, leaf)), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_traffic_keeps_counts_pairs_and_marks_together(traffic in traffic()) {
        let (_, ledger, pamt) = world();
        let cpu = Module::with(ledger);
        // The plain model: pages that need a pair, by 2 MiB page.
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut free: Vec<SharedPage<'_>> = (0..512).map(|number| spare_page(ledger, number)).collect();
        for (op, refuse) in traffic {
            *cpu.refuse.borrow_mut() = refuse;
            let (Op::Get(index) | Op::Put(index)) = op;
            let (page, large) = (Page::new(index), index / LARGE);
            let count = model.get(&large).copied().unwrap_or(0);
            match op {
                Op::Get(_) => {
                    let mut spare: Pair<'_> = free.drain(free.len() - 2..).collect();
                    let result = pamt.get(&cpu, page, &mut spare);
                    let refused = count == 0 && refuse == Some(Leaf::PHYMEM_PAMT_ADD);
                    prop_assert_eq!(result.is_err(), refused);
                    prop_assert_eq!(spare.len(), if count == 0 && !refused { 0 } else { 2 });
                    free.extend(spare);
                    if !refused {
                        model.insert(large, count + 1);
                    }
                }
                Op::Put(_) => {
                    let result = pamt.put(&cpu, page);
                    let refused = count == 0 || (count == 1 && refuse == Some(Leaf::PHYMEM_PAMT_REMOVE));
                    prop_assert_eq!(result.is_err(), refused);
                    if let Ok(recovered) = result {
                        prop_assert_eq!(recovered.pages.len(), if count == 1 { 2 } else { 0 });
                        free.extend(recovered.pages);
                        model.insert(large, count - 1);
                    }
                }
            }
            let now = model.get(&large).copied().unwrap_or(0);
            prop_assert_eq!(pamt.counted(page), Some(now as u32));
            let with_pair: Vec<u64> = model.iter().filter(|(_, count)| **count > 0).map(|(large, _)| *large).collect();
            let pairs: Vec<u64> = cpu.pairs.borrow().keys().map(|rcx| PhysAddr::new(*rcx).page().index() / LARGE).collect();
            prop_assert_eq!(&pairs, &with_pair);
            prop_assert_eq!(pamt.pairs(), pairs.len() as u64);
            prop_assert_eq!(ledger.marked_pages(), 2 * pairs.len() as u64);
            prop_assert_eq!(free.len() as u64, 512 - 2 * pairs.len() as u64);
            prop_assert_eq!((ledger.leaked_pages(), ledger.is_settled()), (0, true));
        }
    }
}
