//! `Host` on the software machine: each transition is checked, each part is published once, and a
//! handover at any instant reads what is published.
#![cfg(not(loom))]
// UNSAFETY: the test is the kernel that answers for its memory.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "../examples/kernel/mod.rs"]
mod kernel;

use kernel::{CRASH_KERNEL, Hardware, Kernel, MEMORY, words};
use tdx_host::bringup::{BringupCause, BringupStep};
use tdx_host::handover::{CameBack, StopCause};
use tdx_host::ledger::MarkError;
use tdx_host::page::TakeError;
use tdx_host::{Host, HostError, KexecKind, Leaf, OwnedPages, Page, PageRange, Policy, SharedPage};
use tdx_machine::{Fault, ModuleProfile, When};

#[test]
fn each_part_is_none_before_its_transition() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::boot(&hardware, &tdx);
    assert!(tdx.platform().is_none() && tdx.memory().platform().is_none());
    let error = tdx.bring_up(&mut kernel, &MEMORY).unwrap_err();
    assert_eq!((error.cause, error.errno()), (BringupCause::NotDetected, -19));
    tdx.detect(&hardware).unwrap();
    assert_eq!((tdx.tracking_words(), tdx.track(words(8)).unwrap_err()), (0, HostError::NotUp));
    assert!(tdx.layout().is_none() && tdx.module().is_none() && tdx.ledger().is_none() && tdx.tds().is_none());
}

#[test]
fn each_part_is_published_once() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::with_tdx(&hardware, &tdx);
    let platform = *tdx.platform().unwrap();
    // SAFETY: it is this machine's.
    assert_eq!(unsafe { tdx.set_platform(platform) }, Err(HostError::AlreadySet));
    assert_eq!(tdx.bring_up(&mut kernel, &MEMORY).unwrap_err().cause, BringupCause::Claimed);
    assert_eq!(tdx.module().unwrap().version.to_string(), "1.5.01");
    let needed = tdx.tracking_words();
    assert_eq!(tdx.track(words(needed - 1)).unwrap_err(), HostError::TooSmall { needed, given: needed - 1 });
    let ledger = std::ptr::from_ref(tdx.track(words(needed)).unwrap().ledger());
    assert_eq!(tdx.track(words(needed)).unwrap_err(), HostError::AlreadySet);
    assert_eq!(std::ptr::from_ref(tdx.tds().unwrap().ledger()), ledger);
    // Too late for the ledger.
    assert_eq!(tdx.reserve(&[CRASH_KERNEL]), Err(HostError::AlreadySet));
}

#[test]
fn reserved_memory_cannot_be_given() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    assert_eq!(tdx.reserve(&[CRASH_KERNEL; 5]), Err(HostError::TooManyReserved { count: 5 }));
    tdx.reserve(&[CRASH_KERNEL]).unwrap();
    let _kernel = Kernel::with_tdx(&hardware, &tdx);
    let tds = tdx.track(words(tdx.tracking_words())).unwrap();
    let page = PageRange::new(CRASH_KERNEL.start(), Page::new(CRASH_KERNEL.start().index() + 1));
    // SAFETY: nothing uses the crash kernel's memory here.
    let TakeError { cause, .. } = SharedPage::take(tds.ledger(), unsafe { OwnedPages::new(page) }).unwrap_err();
    assert_eq!(cause, MarkError::Reserved { page: page.start() }.into());
    assert_eq!(tdx.memory().reserved(), [CRASH_KERNEL]);
}

#[test]
fn a_failed_bring_up_can_be_tried_again() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::boot(&hardware, &tdx);
    tdx.detect(&hardware).unwrap();
    hardware
        .machine()
        .inject(Fault::Answer(tdx_abi::StatusCode::SYS_NOT_READY.with(0)), When::CallOf(Leaf::SYS_CONFIG, 1));
    let error = tdx.bring_up(&mut kernel, &MEMORY).unwrap_err();
    assert_eq!(error.step, BringupStep::Config);
    assert!(tdx.memory().features().is_none() && tdx.pamt_ranges().next().is_none());
    let ready = tdx.bring_up(&mut kernel, &MEMORY).unwrap();
    assert_eq!(tdx.module(), Some(&ready.module));
    assert!(tdx.layout().is_some() && tdx.pamt_ranges().next().is_some());
}

#[test]
fn a_bring_up_that_is_dropped_keeps_the_host() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::boot(&hardware, &tdx);
    tdx.detect(&hardware).unwrap();
    drop(tdx.start_bring_up(&mut kernel).unwrap().sys_init().unwrap());
    assert_eq!(tdx.bring_up(&mut kernel, &MEMORY).unwrap_err().cause, BringupCause::Claimed);
}

/// One machine has one gate, and so one host.
#[test]
fn another_host_of_the_machine_is_refused() {
    let hardware = Hardware::new();
    let (tdx, slots) = (Host::new(hardware.slots()), [const { tdx_host::CpuSlot::new() }; 4]);
    let mut kernel = Kernel::with_tdx(&hardware, &tdx);
    let other = Host::new(&slots);
    other.detect(&hardware).unwrap();
    assert_eq!(other.bring_up(&mut kernel, &MEMORY).unwrap_err().cause, BringupCause::OtherGate);
    let error = other.kexec(Policy::Tracked, KexecKind::Normal).unwrap().stop_other_cpus(&kernel).unwrap_err();
    assert_eq!(error.cause, StopCause::OtherGate);
    assert!(!tdx.gate().is_closed() && !other.gate().is_closed());
}

#[test]
fn a_kernel_s_own_tdx_code_is_followed() {
    let hardware = Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::boot(&hardware, &tdx);
    tdx.detect(&hardware).unwrap();
    let pages = |start, end| PageRange::new(Page::new(start), Page::new(end));
    let gib = pages(1 << 18, 2 << 18);
    tdx.follow([gib], words(tdx_host::Ledger::words_needed([gib]) as usize)).unwrap();
    let pamt = pages(4096, 5123);
    // SAFETY: free memory of the software machine, which this test alone uses.
    unsafe {
        assert!(matches!(tdx.observe_pamts([pages(9, 9)].into_iter()), Err(HostError::Pamts(_))));
        tdx.observe_pamts([pamt].into_iter()).unwrap();
        assert_eq!(tdx.observe_pamts([pamt].into_iter()), Err(HostError::AlreadySet));
    }
    assert!(tdx.memory().private_ranges().eq([pamt]));
    // The host brings nothing up beside it.
    assert_eq!(tdx.bring_up(&mut kernel, &MEMORY).unwrap_err().cause, BringupCause::Claimed);
    assert!(tdx.tds().is_none() && tdx.layout().is_none());
}

/// The module has given everything back, and the jump was not made: the same host starts over.
#[test]
fn a_host_can_start_over() {
    let hardware = Hardware::with(|config| config.module = Some(ModuleProfile::V1_5_01.with_sys_disable()));
    let tdx = Host::new(hardware.slots());
    let mut kernel = Kernel::with_tdx(&hardware, &tdx);
    tdx.track(words(tdx.tracking_words())).unwrap();
    // SAFETY: nothing that the host gave out is in use.
    let early = unsafe { tdx.start_over(&mut kernel) };
    assert_eq!(early, Err(HostError::MayHavePrivateMemory));

    let stopped = tdx.kexec(Policy::Module, KexecKind::Normal).unwrap().stop_other_cpus(&kernel).unwrap();
    let report = stopped.ask_module(|_| ()).write_back_caches().reset();
    assert_eq!(tdx.came_back(&report), CameBack::CanBringUpAgain);
    assert_eq!(tdx.bring_up(&mut kernel, &MEMORY).unwrap_err().cause, BringupCause::Claimed, "not started over");
    // SAFETY: as above.
    unsafe { tdx.start_over(&mut kernel) }.unwrap();
    assert!(tdx.layout().is_none() && tdx.ledger().is_none() && tdx.memory().features().is_none());

    tdx.bring_up(&mut kernel, &MEMORY).unwrap();
    tdx.track(words(tdx.tracking_words())).unwrap();
}

/// A kernel that runs on from a snapshot of its machine takes over what was brought up there.
#[test]
fn a_resumed_host_publishes_what_the_earlier_one_did() {
    let hardware = Hardware::new();
    let earlier = Host::new(hardware.slots());
    let tdx = Host::new(&[]);
    // SAFETY: `tdx` hands no machine over.
    let resume = |tdx: &Host<'_>, earlier: &Host<'_>| unsafe { tdx.resume(earlier) };
    assert_eq!(resume(&tdx, &earlier), Err(HostError::NotUp));
    let mut kernel = Kernel::with_tdx(&hardware, &earlier);
    resume(&tdx, &earlier).unwrap();
    assert_eq!((tdx.platform(), tdx.module()), (earlier.platform(), earlier.module()));
    assert_eq!(tdx.memory().features(), earlier.memory().features());
    assert!(tdx.pamt_ranges().eq(earlier.pamt_ranges()));
    assert_eq!(tdx.layout().unwrap().tdmrs(), earlier.layout().unwrap().tdmrs());
    tdx.track(words(tdx.tracking_words())).unwrap();
    assert_eq!(resume(&tdx, &earlier), Err(HostError::AlreadySet));
    // The PAMTs of a module that is up go to no allocator.
    // SAFETY: nothing that the host gave out is in use.
    assert_eq!(unsafe { tdx.start_over(&mut kernel) }, Err(HostError::MayHavePrivateMemory));
}
