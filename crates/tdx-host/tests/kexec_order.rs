//! The kexec path: which policy does what, in which order, and when it says no.

mod support;

use support::{Event, GRANITE_RAPIDS, Host, Recorder, SAPPHIRE_RAPIDS};
use tdx_abi::{Page, PageRange};
use tdx_host::handover::{
    HandoverReport, Kexec, KexecKind, LeftPrivate, NotAlone, NothingToDo, Outcome, Policy, Refused, StopCpus,
    check_image_load, stop_this_cpu,
};
use tdx_host::platform::{TdxPlatform, detect};
use tdx_host::private_memory::PrivateMemory;
use tdx_host::reset::ResetCount;

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

/// One other CPU, which stops or does not.
struct Other<'a> {
    cpu: &'a Recorder,
    platform: Option<&'a TdxPlatform>,
    stops: bool,
}

impl StopCpus for Other<'_> {
    fn stop_other_cpus(&self) -> u32 {
        self.cpu.push(Event::Stop);
        stop_this_cpu(self.cpu.clone(), self.platform);
        if self.stops { 1 } else { 2 }
    }
}

fn published() -> PrivateMemory {
    let record = PrivateMemory::new();
    record.publish([pages(16, 18), pages(18, 19), pages(19, 20)].into_iter()).unwrap();
    record
}

fn kexec(policy: Policy, kind: KexecKind, host: Option<&Host>, record: &PrivateMemory) -> (HandoverReport, Vec<Event>) {
    let cpu = Recorder::default();
    let platform = host.map(|host| detect(host).unwrap());
    let other = Other { cpu: &cpu, platform: platform.as_ref(), stops: true };
    let report = Kexec::begin(policy, kind, platform.as_ref(), record)
        .unwrap()
        .stop_other_cpus(&other)
        .unwrap()
        .write_back_caches(cpu.clone())
        .reset([pages(0, 100)]);
    (report, cpu.take())
}

#[test]
fn pamt_resets_each_range_and_fences_after_it() {
    let (report, events) = kexec(Policy::Pamt, KexecKind::Normal, Some(&SAPPHIRE_RAPIDS), &published());
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 4 * 64, ranges: 3 }));
    let expected = [
        Event::Stop,
        Event::WriteBack, // the other CPU, before it acknowledges
        Event::WriteBack, // this CPU
        Event::Reset(pages(16, 18).lines()),
        Event::Fence,
        Event::Reset(pages(18, 19).lines()),
        Event::Fence,
        Event::Reset(pages(19, 20).lines()),
        Event::Fence,
    ];
    assert_eq!(events, expected);
}

#[test]
fn everything_resets_what_the_caller_names() {
    let (report, events) = kexec(Policy::Everything, KexecKind::Normal, Some(&SAPPHIRE_RAPIDS), &published());
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 6400, ranges: 1 }));
    assert_eq!(events[3..], [Event::Reset(pages(0, 100).lines()), Event::Fence]);
}

#[test]
fn everything_resets_pamt_even_if_the_caller_leaves_it_out() {
    let platform = detect(&SAPPHIRE_RAPIDS).unwrap();
    let record = published();
    let cpu = Recorder::default();
    let other = Other { cpu: &cpu, platform: Some(&platform), stops: true };
    let report = Kexec::begin(Policy::Everything, KexecKind::Normal, Some(&platform), &record)
        .unwrap()
        .stop_other_cpus(&other)
        .unwrap()
        .write_back_caches(cpu.clone())
        .reset([pages(0, 17)]);
    // 17 pages that were named, and PAMT [16, 20) but for the one page in both.
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: (17 + 3) * 64, ranges: 2 }));
}

#[test]
fn a_caller_that_forgets_the_platform_gets_a_reset_all_the_same() {
    let (report, events) = kexec(Policy::Pamt, KexecKind::Normal, None, &published());
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 4 * 64, ranges: 3 }));
    assert_eq!(events[..2], [Event::Stop, Event::WriteBack], "this CPU's caches are written back");
}

#[test]
fn none_leaves_it_and_says_so() {
    let (report, events) = kexec(Policy::None, KexecKind::Normal, Some(&SAPPHIRE_RAPIDS), &published());
    assert_eq!(report.outcome, Outcome::LeftPrivate(LeftPrivate::PolicyNone));
    assert_eq!(events, [Event::Stop, Event::WriteBack, Event::WriteBack]);
}

#[test]
fn kexec_jump_skips_the_reset_and_says_why() {
    let (report, events) = kexec(Policy::Pamt, KexecKind::Jump, Some(&SAPPHIRE_RAPIDS), &published());
    assert_eq!(report.outcome, Outcome::LeftPrivate(LeftPrivate::KexecJump));
    assert_eq!(events, [Event::Stop, Event::WriteBack, Event::WriteBack]);
}

#[test]
fn without_erratum_or_private_memory_there_is_nothing_to_reset() {
    let nothing = |host, record: &PrivateMemory| {
        let (report, events) = kexec(Policy::Pamt, KexecKind::Normal, Some(host), record);
        assert!(!events.iter().any(|event| matches!(event, Event::Reset(_))));
        report.outcome
    };
    assert_eq!(nothing(&GRANITE_RAPIDS, &published()), Outcome::NothingToDo(NothingToDo::NoErratum));
    assert_eq!(nothing(&SAPPHIRE_RAPIDS, &PrivateMemory::new()), Outcome::NothingToDo(NothingToDo::NoPrivateMemory));
}

#[test]
fn a_kernel_without_tdx_makes_the_same_calls_and_nothing_happens() {
    let (report, events) = kexec(Policy::Pamt, KexecKind::Normal, None, &PrivateMemory::new());
    assert_eq!(report.outcome, Outcome::NothingToDo(NothingToDo::NoTdx));
    assert_eq!(events, [Event::Stop], "no WBINVD on a machine that needs none");
}

#[test]
fn refuse_refuses_at_load_and_only_with_private_memory() {
    let spr = detect(&SAPPHIRE_RAPIDS).unwrap();
    let gnr = detect(&GRANITE_RAPIDS).unwrap();
    let refused = Err(Refused::PrivateMemory { model: spr.model() });
    assert_eq!(check_image_load(Policy::Refuse, Some(&spr), &published()), refused);
    assert_eq!(check_image_load(Policy::Refuse, Some(&spr), &PrivateMemory::<192>::new()), Ok(()));
    assert_eq!(check_image_load(Policy::Refuse, Some(&gnr), &published()), Ok(()));
    assert_eq!(check_image_load(Policy::Refuse, None, &published()), Ok(()));
    assert_eq!(check_image_load(Policy::Pamt, Some(&spr), &published()), Ok(()));
    assert!(Kexec::begin(Policy::Refuse, KexecKind::Normal, Some(&spr), &published()).is_err());
}

#[test]
fn tdx_brought_up_after_a_refusing_load_is_cleaned() {
    let platform = detect(&SAPPHIRE_RAPIDS).unwrap();
    let record = PrivateMemory::<192>::new();
    let kexec = Kexec::begin(Policy::Refuse, KexecKind::Normal, Some(&platform), &record).unwrap();
    record.publish([pages(1, 2)].into_iter()).unwrap();
    let cpu = Recorder::default();
    let other = Other { cpu: &cpu, platform: Some(&platform), stops: true };
    let report = kexec.stop_other_cpus(&other).unwrap().write_back_caches(cpu.clone()).reset([]);
    assert_eq!(report.outcome, Outcome::Reset(ResetCount { lines: 64, ranges: 1 }));
}

#[test]
fn a_cpu_that_still_runs_is_an_error() {
    let platform = detect(&SAPPHIRE_RAPIDS).unwrap();
    let record = published();
    let cpu = Recorder::default();
    let other = Other { cpu: &cpu, platform: Some(&platform), stops: false };
    let kexec = Kexec::begin(Policy::Pamt, KexecKind::Normal, Some(&platform), &record).unwrap();
    assert_eq!(kexec.stop_other_cpus(&other).unwrap_err(), NotAlone { running: 2 });
    assert!(!cpu.take().iter().any(|event| matches!(event, Event::Reset(_))));
}
