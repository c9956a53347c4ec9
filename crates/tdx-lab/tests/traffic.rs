//! Random traffic of a hypervisor with several TDs on several CPUs, against a model of who owns
//! which page that is recomputed from the machine after every step; then a kexec or a crash.
//! Superset: what is private is marked. No harm: what is in use is never reset.
//!
//! Beside it `tdx_host::follow` sees the SEAMCALLs and the resets, and nothing else. Its ledger
//! must say what the hypervisor's own ledger says.

#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;

use promise::{Observe as _, Refs};

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use first_kernel::{Move, Slot};
use proptest::prelude::*;
use tdx_abi::{KeyId, Leaf, LineRange, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::follow::{self, Moves};
use tdx_host::handover::{KexecKind, Policy};
use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::platform::CpuId;
use tdx_lab::platform::{Act, Deed, Lab, LabKernel, Operation, Watcher};
use tdx_lab::tds::{Custody, GUEST_PAGES, World, pool, track};
use tdx_machine::{EvictionPolicy, Fault, Machine, ModuleProfile, PartialStore, When};
use tdx_operator::host::{Host, HostOptions};

const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 2\ncpus = 4\n\
                    [tdx]\nkey_ids = \"[32, 36)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";
const CPU: tdx_machine::CpuId = tdx_machine::CpuId(0);
const PARAMS: PhysAddr = PhysAddr::new((1 << 30) + (16 << 20));
const CANARY: [u8; 8] = *b"in use!\n";

/// One step, on some CPU, for the TD in some slot.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Of the hypervisor.
    Make(Move),
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
    let size = || prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M)];
    let page = || 0..GUEST_PAGES;
    prop_oneof![
        8 => Just(Op::Make(Move::Build)),
        8 => (page(), size()).prop_map(|(page, size)| Op::Make(Move::Augment(page, size))),
        3 => Just(Op::Make(Move::Enter)),
        3 => (page(), size()).prop_map(|(page, size)| Op::Make(Move::Remove(page, size))),
        2 => page().prop_map(|page| Op::Make(Move::Relocate(page))),
        2 => page().prop_map(|page| Op::Make(Move::Demote(page))),
        2 => page().prop_map(|page| Op::Make(Move::Promote(page))),
        3 => Just(Op::Make(Move::TearDown)),
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

/// Follows the SEAMCALLs of a hypervisor.
struct Follower {
    ledger: Ledger<'static>,
    refs: Refs,
    /// Lines that a CPU has reset and not fenced.
    unfenced: Mutex<BTreeMap<u32, Vec<LineRange>>>,
    problems: Mutex<Vec<String>>,
}

impl Follower {
    /// Lives as long as the test: one small ledger a case.
    fn new() -> &'static Self {
        let memory = PageRange::inside(PhysAddr::new(1 << 30), PhysAddr::new(2 << 30));
        let words = (0..Ledger::words_needed([memory])).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let ledger = Ledger::new([memory], words.leak()).unwrap();
        Box::leak(Box::new(Self {
            ledger,
            refs: Refs::default(),
            unfenced: Mutex::default(),
            problems: Mutex::default(),
        }))
    }

    fn note<T>(&self, result: &Result<T, follow::NotFollowed>) {
        if let Err(problem) = result {
            self.problems.lock().unwrap().push(problem.to_string());
        }
    }

    /// What the hypervisor's own ledger says, page by page, and nothing went wrong.
    fn assert_same(&self, own: &Ledger<'_>, what: &dyn std::fmt::Debug) {
        assert_eq!(*self.problems.lock().unwrap(), Vec::<String>::new(), "after {what:?}");
        assert_eq!(self.ledger.marked().collect::<Vec<_>>(), own.marked().collect::<Vec<_>>(), "after {what:?}");
        for range in own.marked() {
            for page in (range.start().index()..range.end().index()).map(Page::new) {
                assert_eq!(self.ledger.state(page), own.state(page), "page {page} after {what:?}");
            }
        }
        assert_eq!(self.ledger.is_settled(), own.is_settled(), "after {what:?}");
        self.refs.assert_those_of(&self.ledger);
    }
}

impl Watcher for Follower {
    fn before(&self, _lab: &Lab<'_>, act: &Act) -> Deed {
        if let Operation::Seamcall(call) = act.operation {
            self.note(&Moves::of(&call, false).and_then(|moves| moves.seen_before(&self.ledger, &self.refs)));
        }
        Deed::AsIs
    }

    fn after(&self, _lab: &Lab<'_>, act: &Act, answer: Option<&mut Registers>) {
        match act.operation {
            Operation::Seamcall(call) => {
                let answer = answer.expect("a SEAMCALL has an answer");
                self.note(&Moves::of(&call, false).and_then(|moves| moves.seen_after(&self.ledger, answer)));
            }
            Operation::Reset(lines) => self.unfenced.lock().unwrap().entry(act.cpu.0).or_default().push(lines),
            Operation::Fence => {
                for lines in self.unfenced.lock().unwrap().remove(&act.cpu.0).unwrap_or_default() {
                    self.note(&promise::seen_reset(&self.ledger, lines.pages(), &self.refs));
                }
            }
            _ => {}
        }
    }
}

/// A hypervisor, its laboratory and its pages.
struct Traffic<'w, 'h> {
    lab: &'w Lab<'w>,
    tdx: &'w tdx_host::Host<'w>,
    custody: &'w Custody,
    world: World<'w, 'h>,
}

impl<'h> Traffic<'_, 'h> {
    fn ledger(&self) -> &'h Ledger<'h> {
        self.world.tds().ledger()
    }

    /// A step, after which every page that came back is clean.
    fn step(&mut self, slot: usize, op: Op) {
        match op {
            Op::Make(what) => self.world.make(slot, what),
            Op::ShutDown => {
                promise::call_any(&self.world.cpus().this_cpu(), Registers::call(Leaf::SYS_SHUTDOWN)).unwrap();
            }
            Op::Evict => {
                self.lab.act(Machine::evict_something);
            }
            Op::Fail(failure) => {
                let refused = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
                let fault = match failure {
                    Failure::NoEntropy => Fault::NoEntropy,
                    Failure::Interrupt => Fault::InterruptPending,
                    Failure::Refused => Fault::Answer(refused),
                };
                self.lab.act(|machine| machine.inject(fault, When::Call(1)));
            }
        }
        assert_eq!(self.custody.complaints(), Vec::<String>::new());
    }
}

fn has_canary(machine: &mut Machine, page: Page) -> bool {
    let mut bytes = [0; 8];
    machine.read_shared(CPU, page.start(), &mut bytes).is_ok() && bytes == CANARY
}

/// Who owns which page, from the machine alone: everything private lies in PAMT or in a marked
/// page.
fn assert_superset(machine: &Machine, tdx: &tdx_host::Host<'_>, ledger: &Ledger<'_>, what: &dyn std::fmt::Debug) {
    let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
    let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
    let known = machine.assigned_pages().into_iter().map(|run| run.pages.lines());
    for lines in owned.chain(dirty).chain(known) {
        for index in lines.pages().start().index()..lines.pages().end().index() {
            let page = Page::new(index);
            let in_pamt = tdx.pamt_ranges().any(|range| range.contains(page));
            let marked = ledger.state(page).is_some_and(|state| state != PageState::Shared);
            assert!(in_pamt || marked, "page {page} is private and not marked after {what:?}");
        }
    }
}

/// A host with TDX up and nothing else.
struct Scene {
    host: Host,
    lab: Lab<'static>,
    follower: &'static Follower,
}

impl Scene {
    fn new() -> Self {
        Self::with_eviction(EvictionPolicy::Never, 0)
    }

    fn with_eviction(eviction: EvictionPolicy, seed: u64) -> Self {
        let host = Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap();
        let lab = Lab::with_config(&host, &(), |config| {
            (config.module, config.eviction, config.seed) =
                (Some(ModuleProfile::V1_5_01.with_sys_disable()), eviction, seed);
        })
        .unwrap();
        let follower = Follower::new();
        Self { host, lab: lab.watched_by(follower), follower }
    }

    /// Brings TDX up and runs the play on it.
    fn play(&self, play: impl FnOnce(Traffic<'_, '_>, &KeyIds<'_>)) {
        let mut words = Vec::new();
        let tdx = tdx_host::Host::new(self.lab.slots());
        tdx.detect(&self.lab).unwrap();
        let mut kernel = LabKernel::new(&self.lab, &tdx, &self.host);
        tdx.bring_up(&mut kernel, self.host.memory()).unwrap();
        let tds = track(&tdx, &mut words).unwrap();
        let pool = pool(tds.ledger(), &mut kernel, 6).unwrap();
        let custody = Custody::new(pool);
        let world = World::new(&self.lab, kernel.cpus().clone(), tds, None, &custody, PARAMS, 3);
        let world = Traffic { lab: &self.lab, tdx: &tdx, custody: &custody, world };
        play(world, tdx.key_ids().unwrap());
    }
}

fn run(ops: &[(u32, usize, Op)], end: End) {
    run_on(&Scene::new(), ops, end);
}

fn run_on(scene: &Scene, ops: &[(u32, usize, Op)], end: End) {
    scene.play(|world, _| traffic(scene, world, ops, end));
}

fn traffic(scene: &Scene, mut world: Traffic<'_, '_>, ops: &[(u32, usize, Op)], end: End) {
    let (host, lab, ledger, tdx) = (&scene.host, world.lab, world.ledger(), world.tdx);
    let pool = world.custody.range();
    // Somebody uses the pages around the pool.
    let neighbors: Vec<Page> = (1..=64u64)
        .flat_map(|n| [pool.start().index().wrapping_sub(n), pool.end().index() + n - 1])
        .map(Page::new)
        .filter(|page| host.memory().iter().any(|part| part.range.contains(*page)))
        .filter(|page| !tdx.pamt_ranges().any(|pamt| pamt.contains(*page)))
        .collect();
    lab.act(|machine| {
        for page in &neighbors {
            machine.write_shared(CPU, page.start(), &CANARY).unwrap();
        }
    });
    // Two TDs run from the start, the third is built by chance.
    for slot in [0, 1] {
        while !matches!(world.world.slots[slot], Slot::Runnable(..)) {
            world.step(slot, Op::Make(Move::Build));
        }
    }
    for (cpu, slot, op) in ops {
        // A VCPU stays with the CPU that made it: others would have to flush it first.
        world.world.move_to(CpuId(if matches!(op, Op::Make(Move::Enter)) { 0 } else { *cpu }));
        world.step(*slot, *op);
        lab.ask(|machine| assert_superset(machine, tdx, ledger, &(cpu, slot, op)));
        scene.follower.assert_same(ledger, &(cpu, slot, op));
        lab.check().unwrap();
    }
    let mut cpus = world.world.cpus().clone();
    let report = match end {
        End::Kexec(policy) => tdx
            .kexec(policy, KexecKind::Normal)
            .unwrap()
            .stop_other_cpus(&cpus)
            .unwrap()
            .ask_module(|_| ())
            .write_back_caches()
            .reset(),
        End::Crash(cpu) => {
            lab.act(|machine| {
                for run in machine.all_owner_runs() {
                    let line = LineRange::single(run.lines.start());
                    machine.partial_write(CPU, line, KeyId::HOST, PartialStore::NonTemporal).unwrap();
                }
            });
            cpus.move_to(cpu);
            tdx.crash(Policy::Tracked, &cpus.this_cpu(), &cpus)
        }
    };
    assert!(report.is_clean(&tdx.memory()), "{report:?}");
    lab.act(|machine| {
        machine.kexec_boundary();
        assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
        assert!(neighbors.iter().all(|page| has_canary(machine, *page)), "a page that is in use was reset");
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

    /// The same under an adversary who writes back pieces of dirty lines between any two
    /// operations, the reset's included.
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
    Op::Make(Move::Augment(1, PageSize::Size4K)),
    Op::Make(Move::Augment(2, PageSize::Size4K)),
    Op::Make(Move::Augment(0, PageSize::Size2M)),
    Op::Make(Move::Enter),
    Op::Make(Move::Remove(1, PageSize::Size4K)),
    Op::Make(Move::Relocate(2)),
    Op::Make(Move::Demote(0)),
    Op::Make(Move::Promote(0)),
];

/// Builds that end in a runnable TD.
const BUILDS: usize = 24;

/// Takes the TD down, again where a call failed. Panics if it does not come to an end.
fn tear_down(world: &mut Traffic<'_, '_>) {
    for _ in 0..12 {
        world.step(0, Op::Make(Move::TearDown));
        if matches!(world.world.slots[0], Slot::Empty) {
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
            scene.play(|mut world, key_ids| {
                for step in 0..steps {
                    world.step(0, if step < BUILDS { Op::Make(Move::Build) } else { LIFE[step - BUILDS] });
                }
                if fatal {
                    let tdr = world.world.slots[0].tdr();
                    let known = tdr.is_some_and(|tdr| world.lab.act(|machine| machine.make_td_fatal(tdr)));
                    assert_eq!(known, steps > 0);
                    if let Slot::Runnable(td, _) = &world.world.slots[0] {
                        assert!(td.track(&world.world.cpus().this_cpu()).unwrap_err().is_fatal());
                    }
                }
                tear_down(&mut world);
                let ledger = world.ledger();
                assert_eq!((ledger.marked_pages(), ledger.leaked_pages(), key_ids.lost()), (0, 0, 0), "step {steps}");
                assert!(ledger.is_settled());
                scene.follower.assert_same(ledger, &steps);
                world.lab.check().unwrap();
            });
        }
    }
}

/// Each SEAMCALL of a TD's life fails once. What is marked in the end is counted as leaked, and
/// nothing else is lost.
#[test]
fn each_seamcall_of_a_tds_life_fails_once() {
    let calls = |lab: &Lab<'_>| lab.ask(|machine| machine.counters().seamcalls.values().sum::<u64>());
    let status = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
    let live = |number: u64, leaked: &mut u64| {
        let scene = Scene::new();
        let mut made = 0;
        scene.play(|mut world, key_ids| {
            let before = calls(world.lab);
            if number > 0 {
                world.lab.act(|machine| machine.inject(Fault::Answer(status), When::Call(number)));
            }
            // A step that failed is tried again.
            for _ in 0..=BUILDS {
                world.step(0, Op::Make(Move::Build));
            }
            assert!(matches!(world.world.slots[0], Slot::Runnable(..)), "call {number}");
            for op in LIFE {
                world.step(0, op);
                world.lab.ask(|machine| assert_superset(machine, world.tdx, world.ledger(), &(number, op)));
                scene.follower.assert_same(world.ledger(), &(number, op));
            }
            tear_down(&mut world);
            made = calls(world.lab) - before;
            let ledger = world.ledger();
            assert_eq!(ledger.marked_pages(), ledger.leaked_pages(), "what is marked is counted, call {number}");
            assert!(ledger.leaked_pages() <= 512, "one page at most, of 2 MiB at most: call {number}");
            assert_eq!(key_ids.lost(), 0, "call {number}");
            *leaked += u64::from(ledger.leaked_pages() > 0);
            world.lab.ask(|machine| assert_superset(machine, world.tdx, ledger, &number));
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

/// A failed runtime update leaves a module that answers nothing but SYS_SHUTDOWN, with PAMT and TDs
/// as they were.
#[test]
fn a_failed_module_update_is_handed_over() {
    let ops = [
        (1, 0, Op::Make(Move::Augment(0, PageSize::Size4K))),
        (0, 0, Op::Make(Move::Enter)),
        (2, 1, Op::ShutDown),
        (3, 1, Op::Make(Move::TearDown)),
    ];
    for end in [End::Kexec(Policy::Tracked), End::Kexec(Policy::Module), End::Crash(CpuId(3))] {
        run(&ops, end);
    }
}

/// The module holds TDR and TDVPR while a VCPU is inside. A host that takes busy for "again" would
/// call for as long as the guest runs.
#[test]
fn a_host_gives_up_on_a_vcpu_that_stays_inside() {
    let scene = Scene::new();
    scene.play(|mut world, _| {
        while !matches!(world.world.slots[0], Slot::Runnable(..)) {
            world.step(0, Op::Make(Move::Build));
        }
        let vcpu = world.lab.act(|machine| {
            let tdvpr = |run: &tdx_machine::AssignedRun| run.kind == tdx_machine::AssignedKind::Tdvpr;
            let vcpu = machine.assigned_pages().into_iter().find(tdvpr).unwrap().pages.start();
            machine.seamcall(CPU, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())).unwrap();
            assert!(machine.vm_on(CPU).is_some());
            vcpu
        });
        world.world.move_to(CpuId(1));
        let cpu = world.world.cpus().this_cpu();
        let flush = Registers::call(Leaf::VP_FLUSH).rcx_address(vcpu.start());
        let error = promise::call_any(&cpu, flush).unwrap_err();
        assert!(error.is_still_busy(), "{error}");
        // SYS.SHUTDOWN is not done either, and the module goes on.
        let error = promise::call_any(&cpu, Registers::call(Leaf::SYS_SHUTDOWN)).unwrap_err();
        assert!(error.is_still_busy(), "{error}");
        assert_eq!(world.lab.ask(Machine::module_state), Some(tdx_machine::SysState::Ready));
        scene.follower.assert_same(world.ledger(), &"SYS.SHUTDOWN");
        world.lab.act(|machine| machine.leave_vcpu(CPU)).unwrap();
        let error = promise::call_any(&cpu, flush).unwrap_err();
        assert_eq!(error.status().code(), tdx_abi::StatusCode::VCPU_NOT_ASSOCIATED);
    });
}

/// Somebody else has a KeyID that the allocator thinks free: it is not tried again.
#[test]
fn a_key_id_that_is_taken_is_not_tried_again() {
    let scene = Scene::new();
    scene.play(|mut world, key_ids| {
        let cpu = world.world.cpus().this_cpu();
        let page = world.world.page(PageSize::Size4K).unwrap();
        let create = Registers::call(Leaf::MNG_CREATE).rcx_address(page.page().start()).rdx(33);
        promise::call_any(&cpu, create).unwrap();
        world.step(0, Op::Make(Move::Build));
        assert!(matches!(world.world.slots[0], Slot::Empty));
        assert_eq!((key_ids.lost(), world.ledger().marked_pages()), (1, 0));
        world.step(0, Op::Make(Move::Build));
        let Slot::Created(td) = &world.world.slots[0] else { panic!("not created") };
        assert_eq!(td.key_id(), KeyId::new(34));
        let _ = page.release();
    });
}

/// A TDR is dirty under the global KeyID, which no CACHE.WB of its TD covers: also when a kernel's
/// own list brings it to `reclaim`.
#[test]
fn a_tdr_reclaimed_as_a_page_is_clean() {
    let scene = Scene::new();
    scene.play(|mut world, _| {
        world.step(0, Op::Make(Move::Build));
        world.step(0, Op::Make(Move::TearDown));
        world.step(0, Op::Make(Move::TearDown));
        let cpu = world.world.cpus().this_cpu();
        let Slot::Dead(dead, _) = &world.world.slots[0] else { panic!("the TD is not dead") };
        let page = dead.reclaim(&cpu, dead.tdr()).unwrap();
        world.world.free(page);
        let Slot::Dead(dead, _) = std::mem::replace(&mut world.world.slots[0], Slot::Empty) else { unreachable!() };
        assert!(matches!(dead.finish(&cpu), Err(tdx_host::td::NotFinished::Kept { .. })), "it is gone already");
        assert_eq!(world.ledger().marked_pages(), 0);
    });
}

/// A page whose owner the module does not tell is not passed over in silence.
#[test]
fn reclaim_all_reports_what_it_could_not_ask_for() {
    let scene = Scene::new();
    scene.play(|mut world, _| {
        for _ in 0..4 {
            world.step(0, Op::Make(Move::Build));
        }
        world.step(0, Op::Make(Move::TearDown));
        world.step(0, Op::Make(Move::TearDown));
        let Slot::Dead(dead, _) = &world.world.slots[0] else { panic!("the TD is not dead") };
        let status = tdx_abi::StatusCode::OPERAND_INVALID.operand(tdx_abi::Operand::RCX);
        world.lab.act(|machine| machine.inject(Fault::Answer(status), When::CallOf(Leaf::PHYMEM_PAGE_RDMD, 1)));
        let (mut back, mut errors) = (0, 0);
        dead.reclaim_all(&world.world.cpus().this_cpu(), |page| match page {
            Ok(page) => {
                world.world.free(page);
                back += 1;
            }
            Err(_) => errors += 1,
        });
        assert_eq!((back, errors), (1, 1));
        tear_down(&mut world);
        assert_eq!(world.ledger().marked_pages(), 0);
    });
}
