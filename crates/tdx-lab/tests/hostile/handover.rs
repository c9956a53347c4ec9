//! Handovers in an order that no kernel means: two at once, and those of a host that is not the
//! machine's.

use super::*;
use tdx_host::CpuSlot;
use tdx_host::handover::{HandoverReport, LeftPrivate, LeftoverTable, ModuleAnswer, OldMemory, Outcome};
use tdx_machine::{Fault, When};

/// A module with SYS.DISABLE.
fn module() -> ModuleProfile {
    ModuleProfile::V1_5_25.with_sys_disable()
}

/// The crash handover has reset everything; the kexec that it interrupts asks the module no more.
fn assert_not_asked(victim: &Victim<'_>, module: Option<ModuleAnswer>, crash: &HandoverReport, calls: u32) {
    let Some(ModuleAnswer::Failed(error)) = module else { panic!("a SEAMCALL after the reset: {module:?}") };
    assert_eq!((error.status(), error.attempts), (Status::GATE_CLOSED, calls));
    for activity in victim.tdx.gate().activity() {
        assert_eq!(activity.may_hold_private_lines, None, "{activity}");
    }
    assert!(crash.is_clean(&victim.memory()), "{crash:?}");
    victim.assert_next_kernel_lives();
}

#[test]
fn a_kexec_asks_the_module_nothing_after_a_crash() {
    let (host, lab) = (host(), Lab::with_module(&host(), module(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let kexec = victim.tdx.kexec(Policy::Module, KexecKind::Normal).unwrap();
    let stopped = kexec.stop_other_cpus(&victim.kernel).unwrap();
    let crash = victim.tdx.crash(Policy::Tracked, &victim.kernel.this_cpu(), &victim.kernel);
    let report = stopped.ask_module(|_| ()).write_back_caches().reset();
    assert_not_asked(&victim, report.module, &crash, 1);
    assert_eq!(victim.tdx.came_back(&report), CameBack::TdxIsGone);
}

/// Between two calls of one SYS.DISABLE: the second is not made.
#[test]
fn a_crash_in_the_middle_of_asking_ends_it() {
    let (host, lab) = (host(), Lab::with_module(&host(), module(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    lab.act(|machine| machine.inject(Fault::InterruptPending, When::Always));
    let kexec = victim.tdx.kexec(Policy::Module, KexecKind::Normal).unwrap();
    let stopped = kexec.stop_other_cpus(&victim.kernel).unwrap();
    let mut crash = None;
    let asked = stopped.ask_module(|_| {
        crash.get_or_insert_with(|| victim.tdx.crash(Policy::Tracked, &victim.kernel.this_cpu(), &victim.kernel));
    });
    let report = asked.write_back_caches().reset();
    assert_not_asked(&victim, report.module, &crash.unwrap(), 2);
    assert_eq!(victim.tdx.came_back(&report), CameBack::TdxIsGone);
}

/// Of this machine's memory a second host knows nothing, and says so.
#[test]
fn a_crash_by_another_host_calls_nothing_clean() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let td = victim.td(victim.tds());
    let other_slots = [const { CpuSlot::new() }; 2];
    let other = tdx_host::Host::new(&other_slots);
    let report = other.crash(Policy::Tracked, &victim.kernel.this_cpu(), &victim.kernel);
    assert_eq!(report.outcome, Outcome::LeftPrivate(LeftPrivate::OtherGate));
    for memory in [other.memory(), victim.memory()] {
        assert!(!report.is_clean(&memory), "{report:?}");
        let left: Vec<_> = report.leftovers(&memory).collect();
        for private in victim.memory().private_ranges() {
            assert!(left.iter().any(|left| left.range.intersection(private) == private), "{private} is not listed");
        }
        let mut table = [0; 4096];
        LeftoverTable::write(&mut table, &report, &memory).unwrap();
        assert!(matches!(LeftoverTable::read(&table).unwrap().old_memory, OldMemory::AllPrivate));
        assert_eq!(report.came_back(&memory), CameBack::TdxIsGone);
    }
    // The CPUs' own gate is closed, and the machine's own host still hands over clean.
    assert!(victim.tdx.gate().is_closed());
    let report = victim.tdx.crash(Policy::Tracked, &victim.kernel.this_cpu(), &victim.kernel);
    assert!(report.is_clean(&victim.memory()), "{report:?}");
    victim.assert_next_kernel_lives();
    drop(td);
}

/// A report is of the memory that was handed over, and of no other.
#[test]
fn a_report_says_nothing_of_another_host() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let other = new_tdx(&lab);
    let jump = victim.tdx.kexec(Policy::Tracked, KexecKind::Jump).unwrap();
    let report = jump.stop_other_cpus(&victim.kernel).unwrap().ask_module(|_| ()).write_back_caches().reset();
    // The other gate is closed by the same word.
    assert!(other.gate().close());
    assert_eq!(other.came_back(&report), CameBack::TdxIsGone);
    assert!(other.gate().is_closed() && !report.is_clean(&other.memory()));
    assert_eq!(victim.tdx.came_back(&report), CameBack::TdxGoesOn);
    victim.assert_kexec_is_clean();
}
