//! SYS.DISABLE: when it is called, how often, and what is done with the answer.

use crate::promise;
use crate::world::{Event, GRANITE_RAPIDS, WITH_DISABLE, World, pages};
use std::cell::Cell;
use tdx_abi::{Leaf, LineRange, Operand, Registers, Status, StatusCode};
use tdx_host::Host;
use tdx_host::gate::CpuGate;
use tdx_host::handover::{
    CameBack, DISABLE_CALLS, HandoverReport, Kexec, KexecKind, ModuleAnswer, NothingToDo, Outcome, Policy, StopCpus,
};
use tdx_host::platform::{Cpu, CpuId, CpuTask, LineReset, PackageId, Step};
use tdx_host::reset::ResetCount;
use tdx_host::seamcall::Seamcall;

const DISABLE: Event = Event::Seamcall(Leaf::SYS_DISABLE);

fn world(statuses: impl IntoIterator<Item = Status>) -> World {
    let mut world = World::new(1).with_pages().answering(statuses);
    world.features = Some(WITH_DISABLE);
    world
}

fn kexec(world: &World, policy: Policy) -> (HandoverReport, Vec<Event>) {
    let report = world.kexec(policy, KexecKind::Normal);
    (report, world.take_alone())
}

#[test]
fn what_the_module_cleared_is_not_reset_again_and_what_it_cannot_know_is() {
    let world = world([]);
    let (report, events) = kexec(&world, Policy::Module);
    assert_eq!(report.module, Some(ModuleAnswer::Disabled { calls: 1 }));
    // 601 was returned, 1024 to 1100 never came back; 600 and PAMT are the module's.
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 77 * 64, ranges: 2, left: 0 }));
    let start = [DISABLE, Event::WriteBack, Event::Reset(pages(601, 602).lines())];
    assert_eq!(events[..3], start, "the module's own lines are written back before the reset");
    assert!(report.is_clean(&world.memory()) && report.next_kernel_can_use_tdx());
}

#[test]
fn a_kexec_that_was_not_made_leaves_a_kernel_that_can_bring_tdx_up_again() {
    let world = world([]);
    let (report, _) = kexec(&world, Policy::Module);
    assert_eq!(report.came_back(&world.memory()), CameBack::CanBringUpAgain);
    assert!(world.host.pamt_ranges().next().is_none() && !world.gate().is_closed());
    promise::observe_pamts(&world.host, [pages(30, 31)]).unwrap();
}

#[test]
fn after_sys_disable_with_a_leftover_tdx_is_gone() {
    let world = world([]).reserving(&[pages(601, 602)]);
    let (report, _) = kexec(&world, Policy::Module);
    assert_eq!(report.came_back(&world.memory()), CameBack::TdxIsGone);
    assert!(world.memory().may_have_private_memory() && world.gate().is_closed());
}

/// A CPU was stopped between PHYMEM.PAGE.RECLAIM and the ledger: 600 still looks given, and the
/// module does not know it.
#[test]
fn while_a_page_is_being_returned_every_marked_page_is_reset() {
    let world = world([]);
    let returning = world.ledger.as_ref().unwrap().returning();
    let (report, _) = kexec(&world, Policy::Module);
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 78 * 64, ranges: 2, left: 0 }));
    returning.settled();
    assert!(world.ledger.as_ref().unwrap().is_settled());
}

#[test]
fn the_other_cpus_have_stopped_before_the_module_is_asked() {
    let mut world = World::new(2);
    world.features = Some(WITH_DISABLE);
    let report = world.kexec(Policy::Module, KexecKind::Normal);
    assert_eq!(world.take(), [(1, Event::WriteBack), (0, DISABLE), (0, Event::WriteBack)]);
    assert_eq!(report.outcome, Outcome::Reset(ResetCount::default()), "nothing but PAMT was private");
}

#[test]
fn an_interrupted_or_busy_module_is_asked_again() {
    let interrupted = StatusCode::INTERRUPTED_RESUMABLE.with(0);
    let world = world([interrupted, StatusCode::SYS_BUSY.with(0), interrupted]);
    let (report, events) = kexec(&world, Policy::Module);
    assert_eq!(report.module, Some(ModuleAnswer::Disabled { calls: 4 }));
    let said = report.module.map(|answer| answer.to_string());
    assert_eq!(said.as_deref(), Some("TDH.SYS.DISABLE cleared all memory the module knows (4 calls)"));
    assert!(ModuleAnswer::Disabled { calls: 1 }.to_string().ends_with("(1 call)"));
    assert_eq!(events[..5], [DISABLE, DISABLE, DISABLE, DISABLE, Event::WriteBack]);
}

#[test]
fn a_module_without_the_leaf_is_not_asked_and_everything_is_reset() {
    for features in [None, Some(tdx_abi::TdxFeatures0::MODULE_1_5_01)] {
        let mut world = world([]);
        world.features = features;
        let (report, events) = kexec(&world, Policy::Module);
        assert_eq!(report.module, Some(ModuleAnswer::NoLeaf));
        assert_eq!(ModuleAnswer::NoLeaf.to_string(), "the module has no TDH.SYS.DISABLE");
        assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 82 * 64, ranges: 3, left: 0 }));
        assert_eq!(events[0], Event::WriteBack, "no SEAMCALL");
        assert!(!report.next_kernel_can_use_tdx());
    }
}

#[test]
fn after_any_failure_of_sys_disable_all_is_reset() {
    for status in [
        StatusCode::OPERAND_INVALID.operand(Operand::RAX),
        StatusCode::SYS_NOT_READY.with(0),  // bring-up is half-way
        StatusCode::SYS_SHUTDOWN.with(0),   // a runtime update has failed
        Status::VMFAIL_INVALID,             // the module is dead
        Status::UNDEFINED_OPCODE,           // VMX is off
        StatusCode::KEY_CONFIGURED.with(0), // a success that is not the one
        Status::new(0xc0ff_eeee_0000_0000),
    ] {
        let world = world([status]);
        let (report, events) = kexec(&world, Policy::Module);
        let Some(ModuleAnswer::Failed(error)) = report.module else { panic!("{status}: {report:?}") };
        assert_eq!((error.status(), error.attempts), (status, 1), "the raw status is kept");
        assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 82 * 64, ranges: 3, left: 0 }), "{status}");
        assert_eq!(events[..2], [DISABLE, Event::WriteBack]);
        assert!(report.is_clean(&world.memory()));
    }
}

#[test]
fn the_module_is_asked_without_the_erratum_too() {
    let mut world = World::on(Some(&GRANITE_RAPIDS), 1).with_pages();
    world.features = Some(WITH_DISABLE);
    let (report, events) = kexec(&world, Policy::Module);
    assert_eq!(report.outcome, Outcome::NothingToDo(NothingToDo::NoErratum));
    assert!(report.next_kernel_can_use_tdx());
    assert_eq!(events, [DISABLE, Event::WriteBack]);
}

/// Nobody would know what it does: the CPU makes no call, says why, and resets all by itself.
#[test]
fn a_cpu_without_a_slot_makes_no_sys_disable() {
    let mut world = World::new(0).with_pages();
    world.features = Some(WITH_DISABLE);
    let report = world.kexec(Policy::Module, KexecKind::Normal);
    let Some(ModuleAnswer::Failed(error)) = report.module else { panic!("{report:?}") };
    assert_eq!((error.status(), error.attempts), (Status::GATE_CLOSED, 1));
    assert!(matches!(report.outcome, Outcome::Reset(_)));
    assert!(world.take().iter().all(|(_, event)| *event != DISABLE));
}

/// A module that is interrupted for ever. Counts, because a list of all calls would not fit.
struct Endless {
    host: Box<Host<'static>>,
    calls: Cell<u32>,
    reset: Cell<bool>,
}

#[derive(Clone, Copy)]
struct EndlessCpu<'w>(&'w Endless);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for EndlessCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        self.0.calls.set(self.0.calls.get() + 1);
        Registers { rax: StatusCode::INTERRUPTED_RESUMABLE.with(0).raw(), ..registers }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for EndlessCpu<'_> {
    unsafe fn reset_lines(&self, _lines: LineRange) -> u64 {
        self.0.reset.set(true);
        0
    }

    fn fence(&self) {}
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for EndlessCpu<'_> {
    fn id(&self) -> CpuId {
        CpuId(0)
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    fn write_back_caches(&self) {}

    unsafe fn flush_lines(&self, _lines: LineRange) {}

    fn cpu_gate(&self) -> CpuGate<'_> {
        promise::cpu_gate(self.0.host.gate(), self.id())
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl<'w> StopCpus for &'w Endless {
    type Cpu = EndlessCpu<'w>;

    fn this_cpu(&self) -> EndlessCpu<'w> {
        EndlessCpu(self)
    }

    fn stop_other_cpus(&self) -> u32 {
        1
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<EndlessCpu<'w>>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&EndlessCpu(self), &mut local) == Step::Again {}
    }
}

#[test]
fn sys_disable_is_given_up_after_its_last_call() {
    let endless = Endless { host: promise::host(1), calls: Cell::new(0), reset: Cell::new(false) };
    let world = World::new(1);
    let memory = promise::with_gate(world.memory(), endless.host.gate()).with_features(WITH_DISABLE);
    let mut heard = 0;
    let cpus = &endless;
    let report = Kexec::begin(Policy::Module, KexecKind::Normal, memory)
        .unwrap()
        .stop_other_cpus(&cpus)
        .unwrap()
        .ask_module(|calls| heard = calls)
        .write_back_caches()
        .reset();
    assert_eq!((endless.calls.get(), heard), (DISABLE_CALLS, DISABLE_CALLS), "each call is heard of");
    assert!(matches!(report.module, Some(ModuleAnswer::Failed(error)) if error.attempts == DISABLE_CALLS));
    assert!(endless.reset.get() && report.is_clean(&memory));
}
