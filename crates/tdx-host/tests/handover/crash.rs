//! A panic: what each CPU does, in which order, and what is said of a CPU that does not answer.

use crate::promise::{self, Mark as _};
use crate::world::{Event, GRANITE_RAPIDS, WITH_DISABLE, World, pages};
use std::sync::atomic::AtomicU64;
use tdx_abi::Leaf;
use tdx_host::handover::{HandoverKind, Kexec, KexecKind, LeftoverReason, NmiStop, NothingToDo, Outcome, Policy};
use tdx_host::ledger::Ledger;
use tdx_host::platform::CpuId;
use tdx_host::reset::ResetCount;

const ALL: Outcome = Outcome::Reset(ResetCount { lines: 82 * 64, ranges: 3, left: 0 });

fn enter(world: &World, cpu: u32, leaf: Leaf) -> tdx_host::gate::SeamcallGuard<'_> {
    promise::cpu_gate(world.gate(), CpuId(cpu)).enter(leaf).unwrap()
}

#[test]
fn only_cpus_with_a_reason_write_back_and_the_crash_cpu_resets_alone() {
    let world = World::new(4).with_pages();
    drop(enter(&world, 2, Leaf::MEM_PAGE_AUG));
    let _inside = enter(&world, 3, Leaf::VP_ENTER);
    let report = world.crash(Policy::Tracked);
    assert_eq!((report.outcome, report.kind), (ALL, HandoverKind::Crash));
    let events = world.take();
    assert_eq!(events[..3], [(2, Event::WriteBack), (3, Event::WriteBack), (0, Event::WriteBack)]);
    assert!(events[3..].iter().all(|(cpu, event)| *cpu == 0 && matches!(event, Event::Reset(_) | Event::Fence)));
    assert_eq!(events.last(), Some(&(0, Event::Fence)));
    assert!(report.is_clean(&world.memory()));
    assert!(promise::cpu_gate(world.gate(), CpuId(1)).enter(Leaf::VP_ENTER).is_err(), "no SEAMCALL after a crash");
}

#[test]
fn whatever_the_policy_the_crash_path_makes_no_seamcall() {
    for policy in [Policy::Tracked, Policy::Module, Policy::Everything, Policy::Refuse] {
        let mut world = World::new(1).with_pages();
        world.features = Some(WITH_DISABLE);
        let report = world.crash(policy);
        assert_eq!((report.outcome, report.module), (ALL, None), "{policy:?}");
        assert!(!world.take_alone().iter().any(|event| matches!(event, Event::Seamcall(_))));
    }
}

#[test]
fn a_cpu_that_never_answers_is_named_with_what_it_was_doing() {
    let mut world = World::new(3).with_pages();
    world.stuck = vec![2];
    let _inside = enter(&world, 2, Leaf::MEM_PAGE_AUG);
    let report = world.crash(Policy::Tracked);
    assert_eq!(report.outcome, ALL, "memory is still reset");
    assert_eq!((report.suspects.not_stopped, report.suspects.may_hold_private_lines), (1, 1));
    let text = "1 CPU did not stop, 1 may hold private lines: CPU 2 in TDH.MEM.PAGE.AUG";
    assert_eq!(report.suspects.to_string(), text);
    let left: Vec<_> = report.leftovers(&world.memory()).collect();
    assert_eq!(left.iter().map(|left| left.range.pages()).sum::<u64>(), 82, "every page that was private");
    assert!(left.iter().all(|left| left.reason == LeftoverReason::CachesNotWrittenBack));
}

#[test]
fn a_silent_cpu_without_private_lines_leaves_the_report_clean() {
    let mut world = World::new(2).with_pages();
    world.stuck = vec![1];
    let report = world.crash(Policy::Tracked);
    assert_eq!((report.suspects.not_stopped, report.suspects.may_hold_private_lines), (1, 0));
    assert!(report.is_clean(&world.memory()));
}

#[test]
fn more_suspects_than_names_are_counted() {
    let mut world = World::new(20).with_pages();
    world.stuck = (1..20).collect();
    for cpu in 1..20 {
        drop(enter(&world, cpu, Leaf::VP_ENTER));
    }
    let suspects = world.crash(Policy::Tracked).suspects;
    assert_eq!((suspects.not_stopped, suspects.may_hold_private_lines, suspects.named.len()), (19, 19, 8));
}

#[test]
fn the_crash_kernel_s_memory_is_never_written() {
    let reserved = [pages(1024, 1030), pages(0, 17)];
    let world = World::new(1).with_pages().reserving(&reserved);
    let report = world.crash(Policy::Everything);
    for event in world.take_alone() {
        if let Event::Reset(lines) = event {
            assert!(!reserved.iter().any(|range| range.overlaps(lines.pages())), "{lines}");
        }
    }
    let left: Vec<_> = report.leftovers(&world.memory()).map(|left| (left.range, left.reason)).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&(pages(16, 17), LeftoverReason::Reserved)));
    assert!(left.contains(&(pages(1024, 1030), LeftoverReason::Reserved)));
}

#[test]
fn a_panic_in_the_middle_of_a_kexec_begins_anew() {
    let world = World::new(2).with_pages();
    let cpus = &world;
    let kexec = Kexec::begin(Policy::Tracked, KexecKind::Normal, world.memory()).unwrap();
    let _half_way = kexec.stop_other_cpus(&cpus).unwrap();
    assert_eq!(world.crash(Policy::Tracked).outcome, ALL);
}

#[test]
fn without_tdx_a_crash_makes_no_wbinvd_and_no_reset() {
    let world = World::without_pamts(None, 2);
    assert_eq!(world.crash(Policy::Module).outcome, Outcome::NothingToDo(NothingToDo::NoTdx));
    assert_eq!(world.take(), []);
    let world = World::on(Some(&GRANITE_RAPIDS), 2).with_pages();
    drop(enter(&world, 1, Leaf::VP_ENTER));
    assert_eq!(world.crash(Policy::Tracked).outcome, Outcome::NothingToDo(NothingToDo::NoErratum));
    assert_eq!(world.take(), [(1, Event::WriteBack), (0, Event::WriteBack)], "old lines must not land on new data");
}

#[test]
fn the_ledger_is_looked_up_after_the_others_have_stopped() {
    /// Publishes the ledger when the others have stopped, and gives a page.
    struct Late<'w>(&'w World);

    // SAFETY: a model: no memory of this program is behind it.
    unsafe impl NmiStop for Late<'_> {
        fn stop_other_cpus(&self) {
            NmiStop::stop_other_cpus(self.0);
            let gate = self.0.gate();
            assert!(gate.is_closed() && gate.activity().nth(1).unwrap().stopped);
            let words: Vec<_> = (0..Ledger::words_needed([pages(512, 1536)])).map(|_| AtomicU64::new(0)).collect();
            let ledger = self.0.host.follow([pages(512, 1536)], words.leak()).unwrap();
            ledger.mark_in_flight(pages(600, 602)).unwrap();
        }

        fn is_online(&self, _cpu: CpuId) -> bool {
            true
        }
    }

    let world = World::new(2);
    let report = world.host.crash(Policy::Tracked, &world.cpu(0), &Late(&world));
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: (4 + 2) * 64, ranges: 2, left: 0 }));
}

/// As cleanslate.ko does for a CPU that Linux stops, or takes offline, after it has written back
/// its caches: from the next SEAMCALL on it counts again.
#[test]
fn a_cpu_whose_caches_other_code_has_written_back_is_no_suspect_until_it_calls() {
    let world = World::new(4);
    let activity = |cpu: usize| world.gate().activity().nth(cpu).unwrap();
    drop(enter(&world, 1, Leaf::VP_ENTER));
    drop(enter(&world, 2, Leaf::VP_ENTER));
    promise::cpu_is_clean(world.gate(), CpuId(1));
    let clean = activity(1);
    assert_eq!((clean.may_hold_private_lines, clean.in_seamcall), (None, None));
    assert!(clean.stopped && clean.has_made_seamcalls, "{clean:?}");
    assert_eq!(activity(2).may_hold_private_lines, Some(Leaf::VP_ENTER), "its own slot alone");
    promise::cpu_is_clean(world.gate(), CpuId(1000));
    drop(enter(&world, 1, Leaf::VP_FLUSH));
    let again = activity(1);
    assert_eq!((again.may_hold_private_lines, again.stopped), (Some(Leaf::VP_FLUSH), false));
}
