//! Orderly kexec: each policy's events, exactly.

use crate::promise;
use crate::world::{Event, GRANITE_RAPIDS, SAPPHIRE_RAPIDS, TestCpu, World, pages};
use tdx_abi::Leaf;
use tdx_host::handover::{
    CameBack, HandoverReport, Kexec, KexecKind, LeftPrivate, Leftover, LeftoverKind, LeftoverReason, NothingToDo,
    Outcome, Policy, Refused, StopCause, StopCpus, Suspects, check_crash_image, check_image_load, offline_this_cpu,
};
use tdx_host::platform::{Cpu, CpuId, CpuTask, Step};
use tdx_host::reset::ResetCount;

/// A kexec on the only CPU; the report and what the CPU did.
fn alone(world: &World, policy: Policy) -> (HandoverReport, Vec<Event>) {
    let report = world.kexec(policy, KexecKind::Normal);
    (report, world.take_alone())
}

fn reset(lines: u64, ranges: u64) -> Outcome {
    Outcome::Reset(ResetCount { lines, ranges, left: 0 })
}

#[test]
fn the_default_is_tracked() {
    assert_eq!(Policy::default(), Policy::Tracked);
}

#[test]
fn tracked_resets_pamt_and_every_marked_page_and_nothing_else() {
    let world = World::new(1).with_pages();
    let (report, events) = alone(&world, Policy::Tracked);
    assert_eq!(report.outcome, reset((4 + 2 + 76) * 64, 3));
    // 82 pages in chunks of 16; a chunk goes on in the next range, and a CPU fences after each.
    let expected = [
        Event::WriteBack,
        Event::Reset(pages(16, 20).lines()),
        Event::Reset(pages(600, 602).lines()),
        Event::Reset(pages(1024, 1034).lines()),
        Event::Fence,
        Event::Reset(pages(1034, 1050).lines()),
        Event::Fence,
        Event::Reset(pages(1050, 1066).lines()),
        Event::Fence,
        Event::Reset(pages(1066, 1082).lines()),
        Event::Fence,
        Event::Reset(pages(1082, 1098).lines()),
        Event::Fence,
        Event::Reset(pages(1098, 1100).lines()),
        Event::Fence,
    ];
    assert_eq!(events, expected);
    assert!(report.is_clean(&world.memory()));
}

#[test]
fn everything_resets_what_the_caller_names_and_what_is_private_besides() {
    let world = World::new(1).with_pages();
    let (report, _) = alone(&world, Policy::Everything);
    // [0, 100) was named and holds the PAMTs; the marked pages lie outside.
    assert_eq!(report.outcome, reset((100 + 2 + 76) * 64, 3));
}

#[test]
fn without_a_platform_private_memory_is_reset() {
    let world = World::on(None, 1);
    let (report, events) = alone(&world, Policy::Tracked);
    assert_eq!(report.outcome, reset(4 * 64, 1));
    assert_eq!(events[0], Event::WriteBack, "this CPU's caches are written back");
}

#[test]
fn kexec_jump_keeps_everything_and_seamcalls_go_on_after_it() {
    let world = World::new(2).with_pages();
    let report = world.kexec(Policy::Module, KexecKind::Jump);
    assert_eq!(report.outcome, Outcome::LeftPrivate(LeftPrivate::KexecJump));
    assert_eq!(report.module, None, "a disabled module could not be gone back to");
    assert_eq!(world.take(), [(1, Event::WriteBack), (0, Event::WriteBack)]);
    assert!(world.cpu(1).cpu_gate().enter(Leaf::VP_ENTER).is_err(), "not before it is back");
    assert_eq!(report.came_back(&world.memory()), CameBack::TdxGoesOn);
    assert!(world.cpu(1).cpu_gate().enter(Leaf::VP_ENTER).is_ok());
}

#[test]
fn after_a_kexec_that_reset_pamt_the_gate_stays_closed() {
    let world = World::new(1);
    let report = world.kexec(Policy::Tracked, KexecKind::Normal);
    assert_eq!(report.came_back(&world.memory()), CameBack::TdxIsGone);
    assert!(world.memory().may_have_private_memory() && world.gate().is_closed());
}

#[test]
fn without_erratum_or_private_memory_there_is_nothing_to_reset() {
    let nothing = |world: &World| {
        let (report, events) = alone(world, Policy::Tracked);
        assert_eq!(events, [Event::WriteBack]);
        assert!(report.is_clean(&world.memory()));
        report.outcome
    };
    let world = World::on(Some(&GRANITE_RAPIDS), 1).with_pages();
    assert_eq!(nothing(&world), Outcome::NothingToDo(NothingToDo::NoErratum));
    // Memory that is never written may stay private as well: nothing there can harm anyone.
    let world = World::on(Some(&GRANITE_RAPIDS), 1).with_pages().reserving(&[pages(600, 700)]);
    assert_eq!(nothing(&world), Outcome::NothingToDo(NothingToDo::NoErratum));
    let world = World::without_pamts(Some(&SAPPHIRE_RAPIDS), 1);
    assert_eq!(nothing(&world), Outcome::NothingToDo(NothingToDo::NoPrivateMemory));
}

#[test]
fn without_tdx_a_kexec_makes_no_wbinvd_and_no_seamcall() {
    let world = World::without_pamts(None, 2);
    let report = world.kexec(Policy::Module, KexecKind::Normal);
    assert_eq!(report.outcome, Outcome::NothingToDo(NothingToDo::NoTdx));
    assert_eq!(world.take(), [], "no WBINVD and no SEAMCALL on a machine that needs none");
}

#[test]
fn the_reset_is_shared_by_all_cpus_after_all_have_written_back() {
    let world = World::new(3).with_pages();
    let report = world.kexec(Policy::Tracked, KexecKind::Normal);
    assert_eq!(report.outcome, reset(82 * 64, 3));
    let events = world.take();
    assert_eq!(events[..3], [(1, Event::WriteBack), (2, Event::WriteBack), (0, Event::WriteBack)]);
    for cpu in 0..3 {
        let own: Vec<_> = events[3..].iter().filter(|(id, _)| *id == cpu).collect();
        assert!(own.len() >= 4, "CPU {cpu} takes its part: {own:?}");
        assert_eq!(own.last().unwrap().1, Event::Fence, "CPU {cpu} fences last");
    }
    let mut written: Vec<_> = events
        .iter()
        .filter_map(|(_, event)| if let Event::Reset(l) = event { Some(l.pages()) } else { None })
        .collect();
    written.sort_by_key(|range| range.start());
    assert_eq!(
        tdx_abi::union(written.iter().copied(), []).collect::<Vec<_>>(),
        [pages(16, 20), pages(600, 602), pages(1024, 1100)]
    );
    assert_eq!(written.iter().map(|range| range.pages()).sum::<u64>(), 82, "each page once");
}

#[test]
fn a_cpu_that_holds_private_lines_in_spite_of_its_stop_writes_back_before_the_reset() {
    let world = World::new(2);
    drop(world.cpu(1).cpu_gate().enter(Leaf::VP_ENTER));
    // A kernel that parks its CPUs without `stop_this_cpu`: nothing but the slot knows.
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, world.memory()).unwrap();
    let report = kexec.stop_other_cpus(&Parked(&world)).unwrap().ask_module(|_| ()).write_back_caches().reset();
    let events = world.take();
    assert_eq!(events[..2], [(0, Event::WriteBack), (1, Event::WriteBack)]);
    assert!(matches!(events[2], (_, Event::Reset(_))));
    assert_eq!(report.suspects, Suspects::default());
}

/// Stops CPUs and asks nothing of them.
struct Parked<'w>(&'w World);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl<'w> tdx_host::handover::StopCpus for Parked<'w> {
    type Cpu = crate::world::TestCpu<'w>;

    fn this_cpu(&self) -> Self::Cpu {
        self.0.cpu(0)
    }

    fn stop_other_cpus(&self) -> u32 {
        1
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: tdx_host::platform::CpuTask<Self::Cpu>>(&self, task: &T) {
        self.0.run_on_stopped(task);
    }
}

#[test]
fn refuse_refuses_at_load_and_only_with_private_memory() {
    let load = |world: &World| check_image_load(Policy::Refuse, KexecKind::Normal, &world.memory(), &[]);
    let world = World::new(1);
    let refused = Err(Refused::PrivateMemory { model: world.platform().unwrap().model() });
    assert_eq!(load(&world), refused);
    assert!(Kexec::begin(Policy::Refuse, KexecKind::Normal, world.memory()).is_err());
    for policy in [Policy::Tracked, Policy::Module, Policy::Everything] {
        assert_eq!(check_image_load(policy, KexecKind::Normal, &world.memory(), &[pages(0, 100)]), Ok(()));
    }
    assert_eq!(load(&World::on(Some(&GRANITE_RAPIDS), 1)), Ok(()));
    assert_eq!(load(&World::on(None, 1)), Ok(()));
    assert_eq!(load(&World::without_pamts(Some(&SAPPHIRE_RAPIDS), 1)), Ok(()));
}

#[test]
fn tdx_brought_up_after_a_refusing_load_is_cleaned() {
    let world = World::without_pamts(Some(&SAPPHIRE_RAPIDS), 1);
    let kexec = Kexec::begin(Policy::Refuse, KexecKind::Normal, world.memory()).unwrap();
    promise::observe_pamts(&world.host, [pages(1, 2)]).unwrap();
    let report = kexec.stop_other_cpus(&&world).unwrap().ask_module(|_| ()).write_back_caches().reset();
    assert_eq!(report.outcome, reset(64, 1));
}

#[test]
fn a_jump_must_not_land_on_private_memory() {
    let world = World::new(1).with_pages();
    let load = |segment| check_image_load(Policy::Tracked, KexecKind::Jump, &world.memory(), &[pages(0, 16), segment]);
    assert_eq!(load(pages(20, 600)), Ok(()));
    let (segment, private) = (pages(599, 601), pages(600, 601));
    assert_eq!(load(segment), Err(Refused::JumpSegment { segment, private }));
    let (segment, private) = (pages(10, 17), pages(16, 17));
    assert_eq!(load(segment), Err(Refused::JumpSegment { segment, private }));
}

#[test]
fn a_crash_image_lives_in_reserved_memory_that_tdx_does_not_have() {
    let world = World::new(1).with_pages().reserving(&[pages(550, 610), pages(100, 200)]);
    let load = |segment| check_crash_image(&world.memory(), &[pages(100, 200), segment]);
    assert_eq!(load(pages(550, 600)), Ok(()));
    assert_eq!(load(pages(540, 560)), Err(Refused::CrashSegmentOutside { segment: pages(540, 560) }));
    let segment = pages(560, 601);
    assert_eq!(load(segment), Err(Refused::CrashSegment { segment, private: pages(600, 601) }));
}

#[test]
fn reserved_memory_is_not_reset_and_is_listed() {
    // In no order, and one of them cuts a marked range in three.
    let reserved = [pages(1050, 1060), pages(17, 18), pages(601, 700)];
    let world = World::new(1).with_pages().reserving(&reserved);
    let (report, events) = alone(&world, Policy::Tracked);
    assert_eq!(report.outcome, reset((82 - 1 - 1 - 10) * 64, 5));
    for event in events {
        if let Event::Reset(lines) = event {
            assert!(!reserved.iter().any(|range| range.overlaps(lines.pages())), "{lines}");
        }
    }
    let mut leftovers: Vec<_> = report.leftovers(&world.memory()).collect();
    leftovers.sort_by_key(|left| left.range.start());
    let left = |range, kind| Leftover { range, kind, reason: LeftoverReason::Reserved };
    let expected = [
        left(pages(17, 18), LeftoverKind::Pamt),
        left(pages(601, 602), LeftoverKind::Page),
        left(pages(1050, 1060), LeftoverKind::Page),
    ];
    assert_eq!(leftovers, expected);
}

#[test]
fn a_cpu_that_does_not_stop_puts_the_kexec_off_and_the_host_goes_on() {
    let mut world = World::new(3).with_pages();
    world.features = Some(crate::world::WITH_DISABLE);
    world.stuck = vec![2];
    let inside = promise::cpu_gate(world.gate(), CpuId(2)).enter(Leaf::VP_ENTER).unwrap();
    let kexec = Kexec::begin(Policy::Module, KexecKind::Normal, world.memory()).unwrap();
    let error = kexec.stop_other_cpus(&&world).unwrap_err();
    let text = "kexec put off: 1 CPU did not stop, 1 may hold private lines: CPU 2 in TDH.VP.ENTER";
    assert_eq!(error.to_string(), text);
    assert!(matches!(&error.cause, StopCause::NotAlone(not) if not.not_stopped == 1 && not.named.len() == 1));
    assert!(*world.resumed.borrow() && !world.gate().is_closed());
    assert_eq!(world.take(), [(1, Event::WriteBack)], "no SYS.DISABLE, no reset");
    drop(inside);
    // It stops after all: the same kexec goes through.
    let report = kexec.stop_other_cpus(&Parked(&world)).unwrap().ask_module(|_| ()).write_back_caches().reset();
    assert!(report.is_clean(&world.memory()));
}

/// Of CPUs that did not stop, those are named that could do harm: not the one that asks, which has
/// called the module as well, and not one that never did.
#[test]
fn only_cpus_that_may_hold_private_lines_are_named() {
    let mut world = World::new(4).with_pages();
    world.stuck = vec![2, 3];
    drop(promise::cpu_gate(world.gate(), CpuId(0)).enter(Leaf::VP_ENTER).unwrap());
    drop(promise::cpu_gate(world.gate(), CpuId(2)).enter(Leaf::VP_ENTER).unwrap());
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, world.memory()).unwrap();
    let StopCause::NotAlone(suspects) = kexec.stop_other_cpus(&&world).unwrap_err().cause else { panic!() };
    assert_eq!((suspects.not_stopped, suspects.may_hold_private_lines), (2, 1));
    assert_eq!(suspects.named.iter().map(|activity| activity.cpu).collect::<Vec<_>>(), [CpuId(2)]);
}

/// Stopped CPUs that can run nothing any more, one of which may hold private lines: it is named
/// although it does not run.
#[test]
fn a_stopped_cpu_that_may_hold_private_lines_is_named() {
    let world = World::new(2).with_pages();
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, world.memory()).unwrap();
    let cpus = Deaf(&world);
    let stopped = kexec.stop_other_cpus(&cpus).unwrap();
    let report = stopped.ask_module(|_| ()).write_back_caches().reset();
    assert_eq!((report.suspects.not_stopped, report.suspects.may_hold_private_lines), (0, 1));
    assert_eq!(report.suspects.named.iter().map(|activity| activity.cpu).collect::<Vec<_>>(), [CpuId(1)]);
    assert!(!report.is_clean(&world.memory()));
}

/// A kernel that says that CPU 1 has stopped, without its caches written back.
struct Deaf<'w>(&'w World);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl<'w> StopCpus for Deaf<'w> {
    type Cpu = TestCpu<'w>;

    fn this_cpu(&self) -> TestCpu<'w> {
        self.0.cpu(0)
    }

    fn stop_other_cpus(&self) -> u32 {
        // It was on its way into SEAM, and found the gate closed after all of it.
        promise::open(self.0.gate());
        drop(promise::cpu_gate(self.0.gate(), CpuId(1)).enter(Leaf::VP_ENTER));
        self.0.gate().close();
        1
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<TestCpu<'w>>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.0.cpu(0), &mut local) == Step::Again {}
    }
}

#[test]
fn of_two_handovers_the_second_is_refused() {
    let world = World::new(1);
    let begin = || Kexec::begin(Policy::Tracked, KexecKind::Normal, world.memory()).unwrap();
    let cpus = &world;
    let first = begin().stop_other_cpus(&cpus).unwrap();
    assert_eq!(begin().stop_other_cpus(&&world).unwrap_err().cause, StopCause::HandoverUnderWay);
    assert!(world.gate().is_closed(), "the first one's gate is not opened by the second");
    let _ = first.ask_module(|_| ()).write_back_caches().reset();
}

#[test]
fn a_cpu_that_goes_offline_writes_back_and_is_not_waited_for() {
    let world = World::new(2);
    drop(world.cpu(1).cpu_gate().enter(Leaf::SYS_LP_INIT));
    offline_this_cpu(world.cpu(1), None);
    assert_eq!(world.take(), [(1, Event::WriteBack)]);
    assert!(world.gate().activity().nth(1).unwrap().stopped);
}
