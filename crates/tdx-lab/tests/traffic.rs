//! Random traffic of a hypervisor with several TDs on several CPUs, against a model of who owns which page that is recomputed from
//! the machine after every step; then a kexec or a crash. Superset: what is private is marked. No harm: what is in use is
//! never reset.

use std::cell::RefCell;

use proptest::prelude::*;
use tdx_abi::{KeyId, Leaf, LineRange, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::bringup;
use tdx_host::handover::{HostMemory, Kexec, KexecKind, Policy, hand_over_crash};
use tdx_host::key_ids::KeyIds;
use tdx_host::layout::{Algorithm, Layout};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::page::SharedPage;
use tdx_host::platform::{CpuId, SharedMemory, TdxPlatform, detect};
use tdx_host::private_memory::PrivateMemory;
use tdx_host::seamcall::call;
use tdx_host::td::{
    Building, Created, Dead, Dying, GuestPage, Keyed, Runnable, SeptLevel, TDCS_PAGES, TDVPS_PAGES, Td, TdHost,
};
use tdx_lab::host::{Host, HostOptions};
use tdx_lab::platform::{GuestAct, Lab, LabKernel, Pool};
use tdx_lab::tds::{TdMemory, td_params};
use tdx_machine::{EvictionPolicy, Fault, Machine, ModuleProfile, PartialStore, When};

const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 2\ncpus = 4\n\
                    [tdx]\nkey_ids = \"[32, 36)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";
const CPU: tdx_machine::CpuId = tdx_machine::CpuId(0);
const PARAMS: PhysAddr = PhysAddr::new((1 << 30) + (16 << 20));
const CANARY: [u8; 8] = *b"in use!\n";

/// One step of the hypervisor, on some CPU, for the TD in some slot.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// The next step of the TD's build, or its finalisation.
    Build,
    /// Memory comes: 4 KiB or 2 MiB at a guest page.
    Augment(u64, bool),
    /// The guest runs: accepts and stores.
    Enter,
    /// Blocks and tracks a guest page, and removes it.
    Remove(u64, bool),
    Relocate(u64),
    Demote(u64),
    Promote(u64),
    /// The next step of the teardown.
    TearDown,
    /// The adversary evicts something.
    Evict,
    /// The next call of this CPU fails in this way.
    Fail(Failure),
    /// A runtime update of the module begins, and goes no further.
    ShutDown,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    NoEntropy,
    Interrupt,
    Refused,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Kexec(Policy),
    Crash(CpuId),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Build),
        8 => (0u64..6, any::<bool>()).prop_map(|(page, large)| Op::Augment(page, large)),
        3 => Just(Op::Enter),
        3 => (0u64..6, any::<bool>()).prop_map(|(page, large)| Op::Remove(page, large)),
        2 => (0u64..6).prop_map(Op::Relocate),
        2 => (0u64..6).prop_map(Op::Demote),
        2 => (0u64..6).prop_map(Op::Promote),
        3 => Just(Op::TearDown),
        2 => Just(Op::Evict),
        2 => prop_oneof![Just(Failure::NoEntropy), Just(Failure::Interrupt), Just(Failure::Refused)].prop_map(Op::Fail),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Kexec(Policy::Tracked)),
        Just(End::Kexec(Policy::Module)),
        (0u32..4).prop_map(|cpu| End::Crash(CpuId(cpu))),
    ]
}

/// A TD in a slot of the hypervisor.
enum Slot<'h> {
    Empty,
    Created(Td<'h, Created>),
    Keyed(Td<'h, Keyed>, usize),
    Building(Td<'h, Building>, Build),
    Runnable(Td<'h, Runnable>, Page),
    Dying(Td<'h, Dying>, Vec<Page>),
    Dead(Dead<'h>),
}

/// How far a TD's build is after MNG.INIT.
#[derive(Default)]
struct Build {
    vcpu: Option<tdx_host::td::Vcpu>,
    vcpu_pages: usize,
    ready: bool,
    sept: usize,
}

struct World<'k, 'l, 'h> {
    lab: &'k Lab<'k>,
    kernel: &'k mut LabKernel<'l>,
    platform: TdxPlatform,
    tds: TdHost<'h>,
    pool: RefCell<Pool>,
    slots: [Slot<'h>; 3],
}

/// Where small guest pages of a TD begin, and where large ones do.
fn small_gpa(page: u64) -> GuestPage {
    GuestPage::containing(page * tdx_abi::PAGE_SIZE)
}

fn large_gpa(page: u64) -> GuestPage {
    GuestPage::containing((page + 1) << 21)
}

impl<'h> World<'_, '_, 'h> {
    fn page(&self, size: PageSize) -> Option<SharedPage<'h>> {
        let page = self.pool.borrow_mut().take(size)?;
        self.lab.act(|machine| assert!(!has_canary(machine, page), "a page in use was handed out"));
        Some(SharedPage::take(self.tds.ledger(), page, size).expect("a free page of the pool is shared"))
    }

    /// A page that comes back is clean: nothing of it is private, and nothing dirty will make it so.
    fn free(&self, page: SharedPage<'h>) {
        let range = page.range();
        self.lab.ask(|machine| {
            assert_eq!(machine.private_lines_in(range.lines()), 0, "{range} came back private");
            let dirty = machine.dirty_private_runs();
            let late = dirty.iter().find(|run| !run.lines.intersection(range.lines()).is_empty());
            assert!(late.is_none(), "{range} came back with private lines in a cache: {late:?}");
        });
        let size = page.size();
        self.pool.borrow_mut().put(page.release().start(), size);
    }

    fn keep<T>(&self, result: Result<T, tdx_host::td::PageError<'h>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if let Some(page) = error.page {
                    self.free(page);
                }
                None
            }
        }
    }

    fn step(&mut self, slot: usize, op: Op) {
        let cpu = self.kernel.this_cpu();
        let current = std::mem::replace(&mut self.slots[slot], Slot::Empty);
        self.slots[slot] = match (op, current) {
            (Op::Build, td) => self.build(td),
            (Op::TearDown, td) => self.tear_down(td),
            (Op::Augment(page, large), Slot::Runnable(td, vcpu)) => {
                let (gpa, size) =
                    if large { (large_gpa(page), PageSize::Size2M) } else { (small_gpa(page), PageSize::Size4K) };
                if let Some(page) = self.page(size) {
                    self.keep(td.augment(&cpu, gpa, page));
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::Enter, Slot::Runnable(td, vcpu)) => {
                let small = (0..6).map(|page| (small_gpa(page).address(), PageSize::Size4K));
                let large = (0..6).map(|page| (large_gpa(page).address(), PageSize::Size2M));
                for (gpa, size) in small.chain(large) {
                    self.lab.let_guest([GuestAct::Accept(gpa, size), GuestAct::Store(gpa + 64)]);
                    let _ = call(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start()));
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::Remove(page, large), Slot::Runnable(td, vcpu)) => {
                let (gpa, size) =
                    if large { (large_gpa(page), PageSize::Size2M) } else { (small_gpa(page), PageSize::Size4K) };
                let _ = td.block(&cpu, gpa, size).and_then(|()| td.track(&cpu));
                if let Some(page) = self.keep(td.remove_page(&cpu, gpa, size)) {
                    self.free(page);
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::Relocate(page), Slot::Runnable(td, vcpu)) => {
                let _ = td.block(&cpu, small_gpa(page), PageSize::Size4K).and_then(|()| td.track(&cpu));
                if let Some(new) = self.page(PageSize::Size4K)
                    && let Some(old) = self.keep(td.relocate_page(&cpu, small_gpa(page), new))
                {
                    self.free(old);
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::Demote(page), Slot::Runnable(td, vcpu)) => {
                let _ = td.block(&cpu, large_gpa(page), PageSize::Size2M).and_then(|()| td.track(&cpu));
                if let Some(sept) = self.page(PageSize::Size4K) {
                    self.keep(td.demote(&cpu, large_gpa(page), PageSize::Size2M, sept));
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::Promote(page), Slot::Runnable(td, vcpu)) => {
                let _ = td.block(&cpu, large_gpa(page), PageSize::Size2M).and_then(|()| td.track(&cpu));
                if let Some(sept) = self.keep(td.promote(&cpu, large_gpa(page), PageSize::Size2M)) {
                    self.free(sept);
                }
                Slot::Runnable(td, vcpu)
            }
            (Op::ShutDown, td) => {
                call(&cpu, Registers::call(Leaf::SYS_SHUTDOWN)).unwrap();
                td
            }
            (Op::Evict, td) => {
                self.lab.act(Machine::evict_something);
                td
            }
            (Op::Fail(failure), td) => {
                let (fault, when) = match failure {
                    Failure::NoEntropy => (Fault::NoEntropy, When::Call(1)),
                    Failure::Interrupt => (Fault::InterruptPending, When::Call(1)),
                    Failure::Refused => {
                        let status = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
                        (Fault::Answer(status), When::Call(1))
                    }
                };
                self.lab.act(|machine| machine.inject(fault, when));
                td
            }
            (_, td) => td,
        };
    }

    fn build(&mut self, td: Slot<'h>) -> Slot<'h> {
        let cpu = self.kernel.this_cpu();
        match td {
            Slot::Empty => match self.page(PageSize::Size4K) {
                Some(page) => self.keep(self.tds.create(&cpu, page)).map_or(Slot::Empty, Slot::Created),
                None => Slot::Empty,
            },
            Slot::Created(td) => match td.configure_keys(self.kernel) {
                Ok(td) => Slot::Keyed(td, 0),
                Err(failed) => Slot::Created(failed.td),
            },
            Slot::Keyed(mut td, pages) if pages < TDCS_PAGES => {
                let done = self.page(PageSize::Size4K).and_then(|page| self.keep(td.add_control_page(&cpu, page)));
                Slot::Keyed(td, pages + usize::from(done.is_some()))
            }
            Slot::Keyed(td, pages) => {
                self.kernel.write(PARAMS, &td_params());
                match td.init(&cpu, PARAMS) {
                    Ok(td) => Slot::Building(td, Build::default()),
                    Err(failed) => Slot::Keyed(failed.td, pages),
                }
            }
            Slot::Building(td, mut build) => {
                let levels = [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M];
                let page = self.page(PageSize::Size4K);
                match (build.vcpu, page) {
                    (None, Some(page)) => build.vcpu = self.keep(td.create_vcpu(&cpu, page)),
                    (Some(vcpu), Some(page)) if build.vcpu_pages + 1 < TDVPS_PAGES => {
                        let done = self.keep(td.add_vcpu_page(&cpu, &vcpu, page));
                        build.vcpu_pages += usize::from(done.is_some());
                    }
                    (Some(vcpu), page) if !build.ready => {
                        if let Some(page) = page {
                            self.free(page);
                        }
                        if let Ok(vcpu) = td.init_vcpu(&cpu, vcpu, 0) {
                            (build.vcpu, build.ready) = (Some(vcpu), true);
                        }
                    }
                    (_, Some(page)) if build.sept < levels.len() => {
                        let done = self.keep(td.add_sept_page(&cpu, small_gpa(0), levels[build.sept], page));
                        build.sept += usize::from(done.is_some());
                    }
                    (Some(vcpu), page) => {
                        if let Some(page) = page {
                            self.free(page);
                        }
                        return match td.finalize(&cpu) {
                            Ok(td) => Slot::Runnable(td, vcpu.tdvpr),
                            Err(failed) => Slot::Building(failed.td, build),
                        };
                    }
                    (None, None) => {}
                }
                Slot::Building(td, build)
            }
            running => running,
        }
    }

    fn tear_down(&self, td: Slot<'h>) -> Slot<'h> {
        let cpu = self.kernel.this_cpu();
        match td {
            Slot::Empty => Slot::Empty,
            Slot::Created(td) => Slot::Dying(td.tear_down(), Vec::new()),
            Slot::Keyed(td, _) => Slot::Dying(td.tear_down(), Vec::new()),
            Slot::Building(td, build) => {
                Slot::Dying(td.tear_down(), build.vcpu.iter().map(|vcpu| vcpu.tdvpr).collect())
            }
            Slot::Runnable(td, vcpu) => Slot::Dying(td.tear_down(), vec![vcpu]),
            Slot::Dying(td, vcpus) => {
                if td.flush_vcpus(self.kernel, &vcpus).is_err() {
                    return Slot::Dying(td, vcpus);
                }
                match td.free_key(self.kernel) {
                    Ok(dead) => Slot::Dead(dead),
                    Err(failed) => Slot::Dying(failed.td, vcpus),
                }
            }
            Slot::Dead(dead) => {
                dead.reclaim_all(&cpu, |page| {
                    if let Some(page) = self.keep(page) {
                        self.free(page);
                    }
                });
                match dead.finish(&cpu) {
                    Ok(page) => {
                        self.free(page);
                        Slot::Empty
                    }
                    Err(tdx_host::td::NotFinished::Kept { td, .. }) => Slot::Dead(td),
                    Err(tdx_host::td::NotFinished::Lost(_)) => Slot::Empty,
                }
            }
        }
    }
}

fn has_canary(machine: &mut Machine, page: Page) -> bool {
    let mut bytes = [0; 8];
    machine.read_shared(CPU, page.start(), &mut bytes).is_ok() && bytes == CANARY
}

/// Who owns which page, from the machine alone: everything private lies in PAMT or in a marked page.
fn assert_superset(machine: &Machine, record: &PrivateMemory, ledger: &Ledger<'_>, what: &dyn std::fmt::Debug) {
    let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
    let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
    let known = machine.assigned_pages().into_iter().map(|run| run.pages.lines());
    for lines in owned.chain(dirty).chain(known) {
        for index in lines.pages().start().index()..lines.pages().end().index() {
            let page = Page::new(index);
            let in_pamt = record.pamt_ranges().any(|range| range.contains(page));
            let marked = ledger.state(page).is_some_and(|state| state != PageState::Shared);
            assert!(in_pamt || marked, "page {page} is private and not marked after {what:?}");
        }
    }
}

/// A host with TDX up and nothing else.
struct Scene {
    host: Host,
    lab: Lab<'static>,
}

impl Scene {
    fn new() -> Self {
        Self::with_eviction(EvictionPolicy::Never, 0)
    }

    fn with_eviction(eviction: EvictionPolicy, seed: u64) -> Self {
        let host = Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap();
        let lab = Lab::with_config(&host, &(), |config| {
            (config.module, config.eviction, config.seed) = (Some(ModuleProfile::SysDisable), eviction, seed);
        })
        .unwrap();
        Self { host, lab }
    }

    /// Brings TDX up and runs the play on it.
    fn play(&self, play: impl FnOnce(World<'_, '_, '_>, &PrivateMemory, &KeyIds<'_>)) {
        let platform = detect(&self.lab).unwrap();
        let record = <PrivateMemory>::new();
        let mut layout = Box::new(Layout::new());
        let mut kernel = LabKernel::new(&self.lab, &self.host, Some(platform));
        bringup::run(&mut kernel, platform, &record, &mut layout, self.host.memory(), Algorithm::Fit).unwrap();
        let memory = TdMemory::new(&layout, &platform);
        let ledger = memory.ledger(PageRange::default()).unwrap();
        let key_ids = memory.key_ids(&platform).unwrap();
        let pool = memory.pool(&mut kernel, 6).unwrap();
        let world = World {
            lab: &self.lab,
            kernel: &mut kernel,
            platform,
            tds: TdHost::new(&platform, &ledger, &key_ids),
            pool: RefCell::new(pool),
            slots: [Slot::Empty, Slot::Empty, Slot::Empty],
        };
        play(world, &record, &key_ids);
    }
}

fn run(ops: &[(u32, usize, Op)], end: End) {
    run_on(&Scene::new(), ops, end);
}

fn run_on(scene: &Scene, ops: &[(u32, usize, Op)], end: End) {
    scene.play(|world, record, _| traffic(&scene.host, world, record, ops, end));
}

fn traffic(host: &Host, mut world: World<'_, '_, '_>, record: &PrivateMemory, ops: &[(u32, usize, Op)], end: End) {
    let (lab, ledger, platform) = (world.lab, world.tds.ledger(), world.platform);
    let pool = world.pool.borrow().range();
    // Somebody uses the pages around the pool.
    let neighbours: Vec<Page> = (1..=64u64)
        .flat_map(|n| [pool.start().index().wrapping_sub(n), pool.end().index() + n - 1])
        .map(Page::new)
        .filter(|page| host.memory().iter().any(|part| part.range.contains(*page)))
        .filter(|page| !record.pamt_ranges().any(|pamt| pamt.contains(*page)))
        .collect();
    lab.act(|machine| {
        for page in &neighbours {
            machine.write_shared(CPU, page.start(), &CANARY).unwrap();
        }
    });
    // Two TDs run from the start, the third is built by chance.
    for slot in [0, 1] {
        while !matches!(world.slots[slot], Slot::Runnable(..)) {
            world.step(slot, Op::Build);
        }
    }
    for (cpu, slot, op) in ops {
        // A VCPU stays with the CPU that made it: others would have to flush it first.
        world.kernel.move_to(CpuId(if matches!(op, Op::Enter) { 0 } else { *cpu }));
        world.step(*slot, *op);
        lab.ask(|machine| assert_superset(machine, record, ledger, &(cpu, slot, op)));
        lab.check().unwrap();
    }
    let World { kernel, .. } = world;
    let host_memory = HostMemory {
        platform: Some(&platform),
        features: Some(ModuleProfile::SysDisable.features()),
        record,
        ledger: Some(ledger),
        gate: lab.gate(),
        untouched: &[],
    };
    let report = match end {
        End::Kexec(policy) => Kexec::begin(policy, KexecKind::Normal, host_memory)
            .unwrap()
            .stop_other_cpus(kernel)
            .unwrap()
            .ask_module(|_| ())
            .write_back_caches()
            .reset([]),
        End::Crash(cpu) => {
            lab.act(|machine| {
                for run in machine.all_owner_runs() {
                    let line = LineRange::single(run.lines.start());
                    machine.partial_write(CPU, line, KeyId::HOST, PartialStore::NonTemporal).unwrap();
                }
            });
            kernel.move_to(cpu);
            hand_over_crash(Policy::Tracked, &kernel.this_cpu(), lab.gate(), kernel, || host_memory)
        }
    };
    assert!(report.is_clean(&host_memory), "{report:?}");
    lab.act(|machine| {
        machine.kexec_boundary();
        assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
        assert!(neighbours.iter().all(|page| has_canary(machine, *page)), "a page that is in use was reset");
        for part in host.memory() {
            let used = machine.use_memory(CPU, part.range, PartialStore::NonTemporal).unwrap();
            assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0), "{:?}", used.first);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn nothing_private_is_unmarked_and_nothing_in_use_is_reset(
        ops in proptest::collection::vec((0u32..4, 0usize..3, op()), 1..160),
        end in end(),
    ) {
        run(&ops, end);
    }

    /// The same under an adversary who writes back pieces of dirty lines between any two operations, the reset's included.
    #[test]
    fn nor_when_dirty_lines_leave_the_caches_at_any_moment(
        ops in proptest::collection::vec((0u32..4, 0usize..3, op()), 1..80),
        end in end(),
        seed in any::<u64>(),
        one_in in 1u32..8,
    ) {
        run_on(&Scene::with_eviction(EvictionPolicy::Seeded { one_in }, seed), &ops, end);
    }
}

/// What a whole life is made of, for a TD in the first slot.
const LIFE: [Op; 8] = [
    Op::Augment(1, false),
    Op::Augment(2, false),
    Op::Augment(0, true),
    Op::Enter,
    Op::Remove(1, false),
    Op::Relocate(2),
    Op::Demote(0),
    Op::Promote(0),
];

/// Builds that end in a runnable TD.
const BUILDS: usize = 22;

/// Takes the TD down, again where a call failed. Panics if it does not come to an end.
fn tear_down(world: &mut World<'_, '_, '_>) {
    for _ in 0..12 {
        world.step(0, Op::TearDown);
        if matches!(world.slots[0], Slot::Empty) {
            return;
        }
    }
    panic!("the TD is not gone");
}

#[test]
fn a_td_is_torn_down_from_every_step_fatal_or_not() {
    for fatal in [false, true] {
        for steps in 0..=BUILDS + LIFE.len() {
            let scene = Scene::new();
            scene.play(|mut world, _, key_ids| {
                for step in 0..steps {
                    world.step(0, if step < BUILDS { Op::Build } else { LIFE[step - BUILDS] });
                }
                if fatal {
                    let tdr = match &world.slots[0] {
                        Slot::Created(td) => Some(td.tdr()),
                        Slot::Keyed(td, _) => Some(td.tdr()),
                        Slot::Building(td, _) => Some(td.tdr()),
                        Slot::Runnable(td, _) => Some(td.tdr()),
                        _ => None,
                    };
                    let known = tdr.is_some_and(|tdr| world.lab.act(|machine| machine.make_td_fatal(tdr)));
                    assert_eq!(known, steps > 0);
                    if let Slot::Runnable(td, _) = &world.slots[0] {
                        assert!(td.track(&world.kernel.this_cpu()).unwrap_err().is_fatal());
                    }
                }
                tear_down(&mut world);
                let ledger = world.tds.ledger();
                assert_eq!((ledger.marked_pages(), ledger.leaked_pages(), key_ids.lost()), (0, 0, 0), "step {steps}");
                assert!(ledger.is_settled());
                world.lab.check().unwrap();
            });
        }
    }
}

/// Each SEAMCALL of a TD's life fails once. What is marked in the end is counted as leaked, and nothing else is lost.
#[test]
fn each_seamcall_of_a_tds_life_fails_once() {
    let calls = |lab: &Lab<'_>| lab.ask(|machine| machine.counters().seamcalls.values().sum::<u64>());
    let status = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
    let live = |number: u64, leaked: &mut u64| {
        let scene = Scene::new();
        let mut made = 0;
        scene.play(|mut world, record, key_ids| {
            let before = calls(world.lab);
            if number > 0 {
                world.lab.act(|machine| machine.inject(Fault::Answer(status), When::Call(number)));
            }
            // A step that failed is tried again.
            for _ in 0..=BUILDS {
                world.step(0, Op::Build);
            }
            assert!(matches!(world.slots[0], Slot::Runnable(..)), "call {number}");
            for op in LIFE {
                world.step(0, op);
                world.lab.ask(|machine| assert_superset(machine, record, world.tds.ledger(), &(number, op)));
            }
            tear_down(&mut world);
            made = calls(world.lab) - before;
            let ledger = world.tds.ledger();
            assert_eq!(ledger.marked_pages(), ledger.leaked_pages(), "what is marked is counted, call {number}");
            assert!(ledger.leaked_pages() <= 512, "one page at most, of 2 MiB at most: call {number}");
            assert_eq!(key_ids.lost(), 0, "call {number}");
            *leaked += u64::from(ledger.leaked_pages() > 0);
            world.lab.ask(|machine| assert_superset(machine, record, ledger, &number));
            world.lab.check().unwrap();
        });
        made
    };
    let mut leaked = 0;
    let all = live(0, &mut leaked);
    assert_eq!(leaked, 0, "nothing fails, nothing leaks");
    for number in 1..=all {
        live(number, &mut leaked);
    }
    // A page whose write-back failed cannot be cleaned: the one thing that leaks.
    assert!(leaked > 0 && leaked < all / 2, "{leaked} of {all}");
}

/// A failed runtime update leaves a module that answers nothing but SYS_SHUTDOWN, with PAMT and TDs as they were.
#[test]
fn a_failed_module_update_is_handed_over() {
    let ops = [(1, 0, Op::Augment(0, false)), (0, 0, Op::Enter), (2, 1, Op::ShutDown), (3, 1, Op::TearDown)];
    for end in [End::Kexec(Policy::Tracked), End::Kexec(Policy::Module), End::Crash(CpuId(3))] {
        run(&ops, end);
    }
}

/// Somebody else has a KeyID that the allocator thinks free: it is not tried again.
#[test]
fn a_key_id_that_is_taken_is_not_tried_again() {
    let scene = Scene::new();
    scene.play(|mut world, _, key_ids| {
        let cpu = world.kernel.this_cpu();
        let page = world.page(PageSize::Size4K).unwrap();
        let create = Registers::call(Leaf::MNG_CREATE).rcx_address(page.page().start()).rdx(33);
        call(&cpu, create).unwrap();
        world.step(0, Op::Build);
        assert!(matches!(world.slots[0], Slot::Empty));
        assert_eq!((key_ids.lost(), world.tds.ledger().marked_pages()), (1, 0));
        world.step(0, Op::Build);
        let Slot::Created(td) = &world.slots[0] else { panic!("not created") };
        assert_eq!(td.key_id(), KeyId::new(34));
        let _ = page.release();
    });
}

/// A TDR is dirty under the global KeyID, which no CACHE.WB of its TD covers: also when a kernel's own list brings it to `reclaim`.
#[test]
fn a_tdr_reclaimed_as_a_page_is_clean() {
    let scene = Scene::new();
    scene.play(|mut world, _, _| {
        world.step(0, Op::Build);
        world.step(0, Op::TearDown);
        world.step(0, Op::TearDown);
        let cpu = world.kernel.this_cpu();
        let Slot::Dead(dead) = &world.slots[0] else { panic!("the TD is not dead") };
        let page = dead.reclaim(&cpu, dead.tdr()).unwrap();
        world.free(page);
        let Slot::Dead(dead) = std::mem::replace(&mut world.slots[0], Slot::Empty) else { unreachable!() };
        assert!(matches!(dead.finish(&cpu), Err(tdx_host::td::NotFinished::Kept { .. })), "it is gone already");
        assert_eq!(world.tds.ledger().marked_pages(), 0);
    });
}

/// A page whose owner the module does not tell is not passed over in silence.
#[test]
fn reclaim_all_reports_what_it_could_not_ask_for() {
    let scene = Scene::new();
    scene.play(|mut world, _, _| {
        for _ in 0..4 {
            world.step(0, Op::Build);
        }
        world.step(0, Op::TearDown);
        world.step(0, Op::TearDown);
        let Slot::Dead(dead) = &world.slots[0] else { panic!("the TD is not dead") };
        let status = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
        world.lab.act(|machine| machine.inject(Fault::Answer(status), When::CallOf(Leaf::PHYMEM_PAGE_RDMD, 1)));
        let (mut back, mut errors) = (0, 0);
        dead.reclaim_all(&world.kernel.this_cpu(), |page| match page {
            Ok(page) => {
                world.free(page);
                back += 1;
            }
            Err(_) => errors += 1,
        });
        assert_eq!((back, errors), (1, 1));
        tear_down(&mut world);
        assert_eq!(world.tds.ledger().marked_pages(), 0);
    });
}
