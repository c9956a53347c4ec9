//! Runs every program of `examples/` to its end, and holds it to what it says. The judge is the
//! software machine.

#![allow(dead_code)] // their `main` is not called here
#![expect(clippy::duplicate_mod, reason = "each example has the kernel that they share")]

#[path = "../examples/hypervisor.rs"]
mod hypervisor;
#[path = "../examples/kdump.rs"]
mod kdump;
#[path = "../examples/kexec.rs"]
mod kexec;
#[path = "../examples/skeleton.rs"]
mod skeleton;

use tdx_host::Policy;
use tdx_host::handover::ModuleAnswer;
use tdx_machine::ModuleProfile;

#[test]
fn a_hypervisor_gives_and_takes_pages() {
    hypervisor::run();
}

#[test]
fn the_skeleton_hands_over_clean_with_tdx_and_without() {
    for (name, hardware) in skeleton::hosts() {
        assert!(skeleton::run(&hardware), "{name}");
    }
}

#[test]
fn kexec_is_clean_and_fatal_without_handover() {
    for policy in [Policy::Tracked, Policy::Module, Policy::Everything] {
        let outcome = kexec::run(policy, ModuleProfile::V1_5_01);
        assert_eq!((outcome.left, outcome.next_kernel), (0, Ok(())), "{policy:?}");
    }
    assert!(kexec::run_without_handover().is_err());
    let asked = kexec::run(Policy::Module, ModuleProfile::V1_5_01.with_sys_disable());
    assert!(matches!(asked.report.module, Some(ModuleAnswer::Disabled { .. })));
    assert_eq!(asked.next_kernel, Ok(()));
}

#[test]
fn kdump_reads_all_that_the_table_allows() {
    let all_stop = kdump::run(true, None);
    assert_eq!((all_stop.leftovers.as_deref(), all_stop.crash_kernel), (Some(&[][..]), Ok(())));
    assert_eq!(all_stop.heedless, Ok(()));
    assert!(all_stop.explained.contains("PAMT_4K of TDMR 0"), "{}", all_stop.explained);

    // CPU 1 may have private lines in its caches, so all that was private is listed.
    let deaf = kdump::run(true, Some(1));
    let suspects = deaf.report.unwrap().suspects;
    assert_eq!((suspects.not_stopped, suspects.may_hold_private_lines), (1, 1));
    assert!(deaf.leftovers.is_some_and(|left| !left.is_empty()));
    assert_eq!(deaf.crash_kernel, Ok(()));

    // The wild store was real: without a reset a crash kernel dies of it, unless it keeps to the
    // table.
    let left = kdump::run(false, None);
    assert!(left.heedless.is_err() && left.leftovers.is_none());
    assert_eq!(left.crash_kernel, Ok(()));
}
