//! Dynamic PAMT from bring-up to kexec, by the product's own code on the software machine: pairs
//! come and go on all CPUs, calls fail at each step, and in the end nothing but PAMT was ever
//! private and unmarked, and nothing is private any more.

#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use tdx_abi::{
    KeyId, Leaf, Operand, Page, PageRange, PageSize, PhysAddr, Registers, Status, StatusCode, page_and_level,
};
use tdx_host::bringup::NoDynamicPamt;
use tdx_host::dynamic_pamt::{DynamicPamt, Pair, Recovered};
use tdx_host::handover::{KexecKind, Policy};
use tdx_host::layout::{FrameRequest, FrameSource, Layout, Tdmr};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::page::SharedPage;
use tdx_host::platform::{Cpu, CpuTask, Cpus, Step};
use tdx_host::seamcall::call;
use tdx_host::td::{GuestPage, SeptLevel, TDCS_PAGES, TdHost};
use tdx_lab::platform::{Lab, LabCpu, LabKernel};
use tdx_lab::tds::track;
use tdx_machine::{Fault, Machine, ModuleProfile, When};
use tdx_operator::host::{Host, HostOptions};

const LARGE: u64 = PageSize::Size2M.pages();
/// A status that no retry helps against.
const NO: Status = StatusCode::OPERAND_INVALID.operand(Operand::RCX);

fn small_host() -> Host {
    host("../../fixtures/made-up/spr-small.toml")
}

fn host(file: &str) -> Host {
    Host::from_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file), &HostOptions::default()).unwrap()
}

/// What a kernel has after bring-up with dynamic PAMT.
struct World<'l> {
    lab: &'l Lab<'l>,
    tdx: &'l tdx_host::Host<'l>,
    kernel: LabKernel<'l>,
    tdmrs: Vec<PageRange>,
    pamt_kb: u64,
    pamt_lines: u64,
}

/// What a kernel knows of TDX, as long as the test.
fn new_tdx<'l>(lab: &'l Lab<'_>) -> &'l tdx_host::Host<'l> {
    let tdx = Box::leak(Box::new(tdx_host::Host::new(lab.slots())));
    tdx.detect(lab).unwrap();
    tdx
}

impl<'l> World<'l> {
    fn new(host: &'l Host, lab: &'l Lab<'l>) -> Self {
        let tdx = new_tdx(lab);
        let mut kernel = LabKernel::new(lab, tdx, host);
        let mut known = tdx
            .start_bring_up(&mut kernel)
            .and_then(|bringup| bringup.sys_init()?.init_cpus()?.read_module_info())
            .unwrap();
        known.use_dynamic_pamt().unwrap();
        let planned = known.plan(host.memory()).unwrap();
        planned.configure().unwrap().configure_keys().unwrap().init_tdmrs().unwrap();
        kernel.run_on_all(&WriteBack);
        let layout = tdx.layout().unwrap();
        let tdmrs = layout.tdmrs().iter().map(Tdmr::range).collect();
        let pamt_lines = lab.ask(Machine::private_lines);
        Self { lab, tdx, kernel, pamt_kb: layout.pamt_kb(), pamt_lines, tdmrs }
    }

    /// TDs can be built.
    fn tds(&self) -> TdHost<'l> {
        track(self.tdx, Box::leak(Box::default())).unwrap()
    }

    /// Every line outside PAMT that is private, in memory or in a cache, lies in a marked page.
    fn assert_superset(&self, ledger: &Ledger<'_>) {
        self.lab.ask(|machine| {
            let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
            let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
            for page in owned.chain(dirty).flat_map(|lines| pages(lines.pages())) {
                let in_pamt = self.tdx.pamt_ranges().any(|range| range.contains(page));
                let marked = ledger.state(page).is_some_and(|state| state != PageState::Shared);
                assert!(in_pamt || marked, "page {page} is private and not marked");
            }
        });
    }

    /// Nothing but PAMT is private, also after every cache was emptied.
    fn assert_only_pamt(&self, ledger: &Ledger<'_>) {
        assert_eq!(ledger.marked_pages(), 0);
        self.kernel.run_on_all(&WriteBack);
        self.assert_superset(ledger);
        assert_eq!(self.lab.ask(Machine::private_lines), self.pamt_lines);
        self.lab.check().unwrap();
    }

    /// The next kernel after a kexec finds a clean machine, whatever came before.
    fn assert_kexec_is_clean(&self) {
        let memory = self.tdx.memory();
        let kexec = self.tdx.kexec(Policy::Tracked, KexecKind::Normal).unwrap();
        let alone = kexec.stop_other_cpus(&self.kernel).unwrap();
        let report = alone.ask_module(|_| ()).write_back_caches().reset();
        assert!(report.is_clean(&memory), "{report:?}");
        assert_eq!(self.lab.ask(|machine| (machine.private_lines(), machine.dirty_private_lines())), (0, 0));
        self.lab.check().unwrap();
    }
}

fn pages(range: PageRange) -> impl Iterator<Item = Page> {
    (range.start().index()..range.end().index()).map(Page::new)
}

fn counts(ledger: &Ledger<'_>) -> Vec<AtomicU32> {
    (0..DynamicPamt::words_needed(ledger)).map(|_| AtomicU32::new(0)).collect()
}

/// Pages of the kernel for pairs.
fn take_spares<'h>(kernel: &mut LabKernel<'_>, ledger: &'h Ledger<'h>, count: u64) -> Vec<SharedPage<'h>> {
    let owned = kernel.allocate(FrameRequest::anywhere(count, None)).unwrap();
    pages(owned.range()).map(|page| promise::take(ledger, page, PageSize::Size4K).unwrap()).collect()
}

struct WriteBack;

impl<C: Cpu> CpuTask<C> for WriteBack {
    type Local = ();

    fn step(&self, cpu: &C, (): &mut ()) -> Step {
        cpu.write_back_caches();
        Step::Done
    }
}

#[test]
fn bring_up_takes_a_hundredth_of_the_memory() {
    for file in ["../../fixtures/made-up/spr-small.toml", "../../fixtures/made-up/emr-two-nodes.toml"] {
        let host = host(file);
        let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
        let world = World::new(&host, &lab);
        let tdmrs = world.tdmrs.len() as u64;
        let gibs: u64 = world.tdmrs.iter().map(|tdmr| tdmr.bytes() >> 30).sum();
        // Each GiB: 32 KiB of bitmap, 8 KiB of PAMT_2M; a page of PAMT_1G for each TDMR.
        assert_eq!(world.pamt_kb, 40 * gibs + 4 * tdmrs, "{file}");
        let in_pamt = world.tdx.pamt_ranges().map(PageRange::lines).collect::<Vec<_>>();
        let private = |lines| lab.ask(|machine| machine.private_lines_in(lines));
        assert_eq!(in_pamt.into_iter().map(private).sum::<u64>(), world.pamt_lines, "nothing outside PAMT is private");
        world.assert_kexec_is_clean();
    }
}

/// A bring-up that fails takes all of its small PAMT back, as one with static PAMT does.
#[test]
fn a_failed_bring_up_leaves_nothing() {
    let host = small_host();
    let failures = [(Leaf::SYS_CONFIG, 1), (Leaf::SYS_KEY_CONFIG, 2)].into_iter();
    for (leaf, number) in failures.chain([1, 2, 65, 175, 256].map(|number| (Leaf::SYS_TDMR_INIT, number))) {
        let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
        let tdx = new_tdx(&lab);
        let mut kernel = LabKernel::new(&lab, tdx, &host);
        let before = kernel.taken().to_vec();
        lab.act(|machine| machine.inject(Fault::Answer(NO), When::CallOf(leaf, number)));
        let mut known = tdx
            .start_bring_up(&mut kernel)
            .and_then(|bringup| bringup.sys_init()?.init_cpus()?.read_module_info())
            .unwrap();
        known.use_dynamic_pamt().unwrap();
        let planned = known.plan(host.memory()).unwrap();
        let error = planned.configure().and_then(|ready| ready.configure_keys()?.init_tdmrs()).unwrap_err();
        assert_eq!(error.seamcall().map(|failed| failed.call.leaf()), Some(leaf));
        assert_eq!(error.unwound.freed_bytes, 4 * (40 << 10) + 2 * 4096);
        assert_eq!(kernel.taken(), before, "{leaf} {number}");
        assert!(!tdx.memory().may_have_private_memory());
        assert_eq!(lab.ask(|machine| (machine.private_lines(), machine.dirty_private_lines())), (0, 0));
        lab.check().unwrap();
    }
}

/// A module without the feature says so before anything is laid out, and the bring-up goes on with
/// static PAMT.
#[test]
fn an_old_module_goes_on_with_static_pamt() {
    let host = small_host();
    let lab = Lab::new(&host, &()).unwrap();
    let tdx = new_tdx(&lab);
    let mut kernel = LabKernel::new(&lab, tdx, &host);
    let mut known = tdx
        .start_bring_up(&mut kernel)
        .and_then(|bringup| bringup.sys_init()?.init_cpus()?.read_module_info())
        .unwrap();
    assert_eq!(known.use_dynamic_pamt(), Err(NoDynamicPamt::NotInModule));
    let planned = known.plan(host.memory()).unwrap();
    planned.configure().unwrap().configure_keys().unwrap().init_tdmrs().unwrap();
    assert_eq!(tdx.layout().map(Layout::pamt_kb), host.logged().pamt_kb);
}

/// Pages come and go on every CPU, and each CPU leaves dirty lines of the pairs in its cache.
struct Storm<'s, 'h> {
    pamt: &'s DynamicPamt<'h>,
    pages: PageRange,
    steps: u32,
    shared: Mutex<Shared<'h>>,
}

struct Shared<'h> {
    random: u64,
    spare: Vec<SharedPage<'h>>,
    held: Vec<Page>,
}

impl<'h> Shared<'h> {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64: any sequence will do, as long as it is the same one each time.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn get(&mut self, pamt: &DynamicPamt<'h>, cpu: &impl Cpu, page: Page) {
        let few = self.spare.len() - 2;
        let mut spare: Pair<'h> = self.spare.drain(few..).collect();
        pamt.get(cpu, page, &mut spare).unwrap();
        self.spare.extend(spare);
        self.held.push(page);
    }

    fn put(&mut self, pamt: &DynamicPamt<'h>, cpu: &impl Cpu, page: Page) {
        let Recovered { pages, lost, .. } = pamt.put(cpu, page).unwrap();
        assert_eq!(lost, None);
        self.spare.extend(pages);
    }
}

impl<C: Cpu> CpuTask<C> for Storm<'_, '_> {
    type Local = u32;

    fn step(&self, cpu: &C, steps: &mut u32) -> Step {
        let mut shared = self.shared.lock().unwrap();
        let few = shared.held.len() < 3;
        if few || (shared.held.len() < 40 && shared.below(2) == 0) {
            let offset = shared.below(self.pages.pages());
            let page = Page::new(self.pages.start().index() + offset);
            shared.get(self.pamt, cpu, page);
        } else {
            let held = shared.held.len() as u64;
            let at = shared.below(held) as usize;
            let page = shared.held.swap_remove(at);
            shared.put(self.pamt, cpu, page);
        }
        // The module looks at a page that is covered: its walk stores to the pair.
        if let Some(page) = shared.held.last() {
            call(cpu, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(page.start())).unwrap();
        }
        *steps += 1;
        if *steps < self.steps { Step::Again } else { Step::Done }
    }
}

#[test]
fn concurrent_traffic_leaves_no_pair_and_no_mark() {
    let host = small_host();
    for seed in 1..=5u64 {
        let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
        let mut world = World::new(&host, &lab);
        let tds = world.tds();
        let ledger = tds.ledger();
        let mut words = counts(ledger);
        let pamt = DynamicPamt::new(tds, &mut words).unwrap();
        let spare = take_spares(&mut world.kernel, ledger, 64);
        let taken = world.kernel.taken().to_vec();
        // The last eight 2 MiB pages of the upper TDMR.
        let end = world.tdmrs[1].end().index();
        let shared = Mutex::new(Shared { random: seed, spare, held: Vec::new() });
        let storm = Storm {
            pamt: &pamt,
            pages: PageRange::new(Page::new(end - 8 * LARGE), Page::new(end)),
            steps: 100,
            shared,
        };
        for _ in 0..5 {
            world.kernel.run_on_all(&storm);
            world.assert_superset(ledger);
            let held = storm.shared.lock().unwrap().held.len() as u64;
            let counted: u32 = (0..8).filter_map(|n| pamt.counted(Page::new(end - 1 - n * LARGE))).sum();
            assert_eq!(u64::from(counted), held);
            assert_eq!(ledger.marked_pages(), 2 * pamt.pairs());
        }
        let mut shared = storm.shared.into_inner().unwrap();
        let cpu = world.kernel.this_cpu();
        while let Some(page) = shared.held.pop() {
            shared.put(&pamt, &cpu, page);
        }
        assert_eq!((pamt.pairs(), shared.spare.len(), ledger.leaked_pages()), (0, 64, 0), "seed {seed}");
        assert_eq!(world.kernel.taken(), taken);
        world.assert_only_pamt(ledger);
        world.assert_kexec_is_clean();
    }
}

/// Why a pair is written back under the global KeyID before the reset: a walk has left its lines
/// dirty in a cache, PAMT.REMOVE does not flush them, and their eviction undoes a reset that came
/// too early. Here the kernel forgets it.
#[test]
fn a_reset_without_write_back_comes_undone() {
    let host = small_host();
    let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
    let mut world = World::new(&host, &lab);
    let pair = world.kernel.allocate(FrameRequest::anywhere(2, None)).unwrap().into_range();
    let cpu = world.kernel.this_cpu();
    let covered = Page::new(world.tdmrs[1].end().index() - LARGE);
    let large = page_and_level(covered, PageSize::Size2M);
    let [first, second] = [0, 1].map(|number| Page::new(pair.start().index() + number).start().get());
    promise::call_any(&cpu, Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(large).rdx(first).r8(second)).unwrap();
    call(&cpu, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(covered.start())).unwrap();
    promise::call_any(&cpu, Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(large)).unwrap();
    promise::reset_ranges(&cpu, [pair]);
    let private = || lab.ask(|machine| machine.private_lines_in(pair.lines()));
    assert_eq!(private(), 0);
    lab.act(|machine| machine.evict(pair.lines(), KeyId::new(32)));
    assert_eq!(private(), 1, "the page is free, in use, and private again");
}

/// Runs `fail` on a fresh machine; whatever it leaves marked, the next kernel finds clean.
fn on_a_fresh_machine(fail: impl for<'h> Fn(&World<'_>, LabCpu<'_>, &DynamicPamt<'h>, Pair<'h>, Page) -> u64) {
    let host = small_host();
    let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
    let mut world = World::new(&host, &lab);
    let tds = world.tds();
    let ledger = tds.ledger();
    let mut words = counts(ledger);
    let pamt = DynamicPamt::new(tds, &mut words).unwrap();
    let spare: Pair<'_> = take_spares(&mut world.kernel, ledger, 2).into_iter().collect();
    let page = world.tdmrs[0].start();
    let marked = fail(&world, world.kernel.this_cpu(), &pamt, spare, page);
    world.assert_superset(ledger);
    assert_eq!(ledger.marked_pages(), marked);
    if marked == 0 {
        assert_eq!(pamt.pairs(), 0);
        world.assert_only_pamt(ledger);
    }
    world.assert_kexec_is_clean();
}

fn inject(lab: &Lab<'_>, fault: Fault, leaf: Leaf) {
    lab.act(|machine| machine.inject(fault, When::CallOf(leaf, 1)));
}

/// The module refuses the pair, having written to it or not: both pages come back clean, and the
/// same pages do the next time.
#[test]
fn add_is_refused() {
    for late in [false, true] {
        on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
            let range = PageRange::new(spare[0].page(), Page::new(spare[1].page().index() + 1));
            if late {
                // Every attempt fills the pair and fails as busy, until the retries are used up.
                world.lab.act(|machine| machine.inject(Fault::LateFailure, When::Always));
            } else {
                inject(world.lab, Fault::Answer(NO), Leaf::PHYMEM_PAMT_ADD);
            }
            let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
            world.lab.act(|machine| machine.clear(Fault::LateFailure));
            assert_eq!((error.lost_pages, spare.len(), pamt.counted(page)), (0, 2, Some(0)), "{error}");
            assert_eq!(world.lab.ask(|machine| machine.private_lines_in(range.lines())), 0);
            pamt.get(&cpu, page, &mut spare).unwrap();
            assert_eq!(pamt.put(&cpu, page).unwrap().pages.len(), 2);
            0
        });
    }
}

/// The module dies at each of the calls: nothing can be written back any more, so the pair stays
/// marked for the handover.
#[test]
fn the_module_dies_at_each_call() {
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        inject(world.lab, Fault::Crash, Leaf::PHYMEM_PAMT_ADD);
        let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
        assert_eq!((error.cause.status(), error.lost_pages), (Some(Status::VMFAIL_INVALID), 2));
        assert_eq!((spare.len(), pamt.counted(page)), (0, Some(0)));
        2
    });
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        pamt.get(&cpu, page, &mut spare).unwrap();
        inject(world.lab, Fault::Crash, Leaf::PHYMEM_PAMT_REMOVE);
        assert_eq!(pamt.put(&cpu, page).unwrap_err().cause.status(), Some(Status::VMFAIL_INVALID));
        assert_eq!(pamt.counted(page), Some(1));
        2
    });
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        pamt.get(&cpu, page, &mut spare).unwrap();
        inject(world.lab, Fault::Crash, Leaf::PHYMEM_PAGE_WBINVD);
        let recovered = pamt.put(&cpu, page).unwrap();
        assert_eq!((recovered.pages.len(), recovered.lost_pages), (0, 2));
        2
    });
}

#[test]
fn remove_and_the_write_back_are_refused() {
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        pamt.get(&cpu, page, &mut spare).unwrap();
        inject(world.lab, Fault::Answer(NO), Leaf::PHYMEM_PAMT_REMOVE);
        assert_eq!(pamt.put(&cpu, page).unwrap_err().cause.status(), Some(NO));
        assert_eq!(pamt.put(&cpu, page).unwrap().pages.len(), 2, "the second attempt");
        0
    });
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        inject(world.lab, Fault::Answer(NO), Leaf::PHYMEM_PAMT_ADD);
        inject(world.lab, Fault::Answer(NO), Leaf::PHYMEM_PAGE_WBINVD);
        let error = pamt.get(&cpu, page, &mut spare).unwrap_err();
        assert_eq!((error.lost_pages, spare.len()), (1, 1));
        1
    });
    // The gate closes while the module has the pair.
    on_a_fresh_machine(|world, cpu, pamt, mut spare, page| {
        pamt.get(&cpu, page, &mut spare).unwrap();
        world.tdx.gate().close();
        assert_eq!(pamt.put(&cpu, page).unwrap_err().cause.status(), Some(Status::GATE_CLOSED));
        tdx_lab::platform::promise::open(world.tdx.gate());
        2
    });
}

/// TD_PARAMS that the emulated module accepts: x87 and SSE, write-back EPT of four levels, 1 VCPU,
/// 1 GHz.
fn td_params() -> [u8; 1024] {
    let mut bytes = [0; 1024];
    (bytes[8], bytes[16], bytes[24], bytes[40]) = (3, 1, 0x1e, 40);
    bytes
}

/// A TD whose pages of 4 KiB are all covered before they are given, and uncovered when they are
/// back. The page of 2 MiB needs no pair.
#[test]
fn a_td_of_small_pages_has_a_pair_for_each_2_mib() {
    let host = small_host();
    let lab = Lab::with_module(&host, ModuleProfile::V1_5_25, &()).unwrap();
    let mut world = World::new(&host, &lab);
    let tds = world.tds();
    let ledger = tds.ledger();
    let mut words = counts(ledger);
    let pamt = DynamicPamt::new(tds, &mut words).unwrap();
    let mut spare = take_spares(&mut world.kernel, ledger, 16);
    let params = PhysAddr::new(16 << 20);
    lab.write_shared(params, &td_params());
    let cpu = world.kernel.this_cpu();

    let pool = world.kernel.allocate(FrameRequest::anywhere(8 * LARGE, None)).unwrap();
    let first = pool.range().start().index().next_multiple_of(LARGE);
    // Every page from another 2 MiB page than the one before.
    let mut next = (0..LARGE).flat_map(|small| (0..4).map(move |large| Page::new(first + large * LARGE + small)));
    let mut given = Vec::new();
    let mut covered = || {
        let page = next.next().unwrap();
        let mut pair: Pair<'_> = spare.drain(spare.len() - 2..).collect();
        pamt.get(&cpu, page, &mut pair).unwrap();
        spare.extend(pair);
        given.push(page);
        promise::take(ledger, page, PageSize::Size4K).unwrap()
    };
    let td = tds.create(&cpu, covered()).unwrap().configure_keys(&world.kernel).unwrap();
    let mut td = td;
    for _ in 0..TDCS_PAGES {
        td.add_control_page(&cpu, covered()).unwrap();
    }
    let td = td.init(&cpu, params).unwrap();
    let gpa = |address| GuestPage::containing(address);
    for level in [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M] {
        td.add_sept_page(&cpu, gpa(0), level, covered()).unwrap();
    }
    // Alone in its 2 MiB page, so that the module hints at its pair when it goes.
    let alone = Page::new(first + 4 * LARGE);
    let refused = td.augment(&cpu, gpa(0), promise::take(ledger, alone, PageSize::Size4K).unwrap()).unwrap_err();
    assert_eq!(refused.cause.status().map(Status::code), Some(StatusCode::MISSING_PAMT_PAGE_PAIR));
    let alone = SharedPage::take(ledger, refused.page.unwrap()).unwrap();
    let mut pair: Pair<'_> = take_spares(&mut world.kernel, ledger, 2).into_iter().collect();
    pamt.get(&cpu, alone.page(), &mut pair).unwrap();
    td.augment(&cpu, gpa(0), alone).unwrap();
    let large = promise::take(ledger, Page::new(first + 5 * LARGE), PageSize::Size2M).unwrap();
    td.augment(&cpu, gpa(2 << 20), large).unwrap();
    world.assert_superset(ledger);
    assert_eq!(pamt.pairs(), 5);
    assert_eq!(ledger.marked_pages(), td.pages() + 1 + 2 * 5);

    // The page of 2 MiB is split, which fails at first, merged, and split for good.
    let large = Page::new(first + 5 * LARGE);
    let mut pair: Pair<'_> = take_spares(&mut world.kernel, ledger, 2).into_iter().collect();
    inject(&lab, Fault::Answer(NO), Leaf::MEM_PAGE_DEMOTE);
    let failed = td.demote_with_pair(&cpu, gpa(2 << 20), large, covered(), &pamt, &mut pair).unwrap_err();
    assert_eq!((failed.cause.status(), pair.len(), pamt.counted(large)), (Some(NO), 2, Some(0)));
    let sept_page = SharedPage::take(ledger, failed.page.unwrap()).unwrap();
    td.demote_with_pair(&cpu, gpa(2 << 20), large, sept_page, &pamt, &mut pair).unwrap();
    assert_eq!((pair.len(), pamt.counted(large), pamt.pairs()), (0, Some(512), 6));
    world.assert_superset(ledger);
    inject(&lab, Fault::Answer(NO), Leaf::MEM_PAGE_PROMOTE);
    assert_eq!(td.promote_with_pair(&cpu, gpa(2 << 20), large, &pamt).unwrap_err().status(), Some(NO));
    assert_eq!(pamt.counted(large), Some(512));
    let promoted = td.promote_with_pair(&cpu, gpa(2 << 20), large, &pamt).unwrap();
    assert_eq!((promoted.pair.lost, pamt.counted(large), pamt.pairs()), (None, Some(0), 5));
    let (sept_page, mut pair) = (promoted.sept_page.unwrap(), promoted.pair.pages);
    td.demote_with_pair(&cpu, gpa(2 << 20), large, sept_page, &pamt, &mut pair).unwrap();
    assert_eq!(ledger.marked_pages(), td.pages() + 1 + 2 * 6);

    // Too early: the module still has the page, and takes no pair from under it.
    let early = pamt.put(&cpu, Page::new(first + 4 * LARGE)).unwrap_err();
    assert_eq!(early.cause.status().map(Status::code), Some(StatusCode::PAMT_PAGE_NOT_EMPTY));
    let alone = td.remove_page(&cpu, gpa(0), PageSize::Size4K).unwrap();
    assert_eq!(alone.page(), Page::new(first + 4 * LARGE), "the hint is no part of the address");
    assert_eq!(pamt.put(&cpu, alone.release().range().start()).unwrap().pages.len(), 2);

    let dead = td.tear_down().free_key(&world.kernel).unwrap();
    dead.reclaim_all(&cpu, |page| {
        let _ = page.unwrap().release();
    });
    let _ = dead.finish(&cpu).unwrap().release();
    given.extend((0..LARGE).map(|small| Page::new(first + 5 * LARGE + small)));
    for page in given {
        assert_eq!(pamt.put(&cpu, page).unwrap().lost, None);
    }
    assert_eq!((pamt.pairs(), ledger.leaked_pages(), world.tdx.key_ids().unwrap().lost()), (0, 0, 0));
    world.assert_only_pamt(ledger);
    world.assert_kexec_is_clean();
}
