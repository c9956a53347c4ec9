//! Every SEAMCALL of a bring-up fails once, in a run of its own, on a small host: the way back
//! leaves nothing private, nothing poisoned, nothing allocated, and what comes next is a working
//! bring-up or a clear refusal.

use std::path::Path;
use tdx_abi::{KeyId, Leaf, Operand, Page, PageRange, Status, StatusCode};
use tdx_host::bringup::{BringupCause, BringupError, BringupStep};
use tdx_host::handover::{KexecKind, LeftoverReason, Outcome, Policy};
use tdx_lab::platform::{Lab, LabKernel};
use tdx_machine::{Fault, Machine, PartialStore, When};
use tdx_operator::host::{Host, HostOptions};

fn small_host() -> Host {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/made-up/spr-small.toml");
    Host::from_path(&path, &HostOptions::default()).unwrap()
}

/// A host with everything that a bring-up needs, and what must be as before when it fails.
struct World<'l> {
    host: &'l Host,
    lab: &'l Lab<'l>,
    tdx: &'l tdx_host::Host<'l>,
    kernel: LabKernel<'l>,
}

impl<'l> World<'l> {
    fn new(host: &'l Host, lab: &'l Lab<'l>) -> Self {
        // One for each run, as long as the test.
        let tdx = Box::leak(Box::new(tdx_host::Host::new(lab.slots())));
        tdx.detect(lab).unwrap();
        Self { host, lab, tdx, kernel: LabKernel::new(lab, tdx, host) }
    }

    fn bring_up(&mut self) -> Result<(), BringupError> {
        self.tdx.bring_up(&mut self.kernel, self.host.memory())?;
        assert_eq!(self.tdx.layout().map(tdx_host::layout::Layout::tdmr_count), Some(2));
        Ok(())
    }

    /// Nothing of TDX is left: not in memory, not in a cache, not in the allocator, not in the
    /// record.
    fn assert_clean(&self, before: &[tdx_abi::PageRange], what: &str) {
        self.lab.ask(|machine| {
            assert_eq!(machine.private_lines(), 0, "private lines after {what}");
            assert_eq!(machine.dirty_private_lines(), 0, "dirty private lines after {what}");
            assert!(machine.all_poisoned_runs().is_empty(), "poison after {what}");
            // What frees memory must survive its next user, partial stores and all.
            let mut next = machine.clone();
            for part in self.host.memory() {
                let used = next.use_memory(tdx_machine::CpuId(0), part.range, PartialStore::NonTemporal).unwrap();
                assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0), "the next user dies after {what}");
            }
        });
        assert_eq!(self.kernel.taken(), before, "memory kept after {what}");
        assert!(!self.tdx.memory().may_have_private_memory(), "flag up after {what}");
        assert_eq!(self.tdx.pamt_ranges().count(), 0, "list published after {what}");
        assert!(self.tdx.layout().is_none(), "layout kept after {what}");
        self.lab.check().unwrap();
    }

    /// The next kernel after a kexec under `pamt` finds a clean machine.
    fn assert_kexec_is_clean(&self) {
        let memory = self.tdx.memory();
        let report = self
            .tdx
            .kexec(Policy::Tracked, KexecKind::Normal)
            .unwrap()
            .stop_other_cpus(&self.kernel)
            .unwrap()
            .ask_module(|_| ())
            .write_back_caches()
            .reset();
        assert!(report.is_clean(&memory), "{report:?}");
        assert!(matches!(report.outcome, Outcome::Reset(_)), "{report:?}");
        assert_eq!(self.lab.ask(Machine::private_lines), 0);
    }
}

fn seamcalls(lab: &Lab<'_>) -> u64 {
    lab.ask(|machine| machine.counters().seamcalls.values().sum())
}

/// Runs a bring-up with a fault at SEAMCALL `number` (1 is the first), checks the way back, and
/// tries again.
fn fail_once(host: &Host, number: u64, fault: Fault) -> (BringupError, Result<(), BringupError>) {
    let lab = Lab::new(host, &()).unwrap();
    let mut world = World::new(host, &lab);
    let before = world.kernel.taken().to_vec();
    lab.act(|machine| machine.inject(fault, When::Call(number)));
    let what = format!("{fault:?} at SEAMCALL {number}");
    let error = world.bring_up().expect_err(&what);
    world.assert_clean(&before, &what);
    let second = world.bring_up();
    match &second {
        Ok(()) => {
            assert!(lab.ask(Machine::private_lines) > 0);
            world.assert_kexec_is_clean();
        }
        Err(again) => {
            world.assert_clean(&before, &format!("{what}, second bring-up"));
            assert!(again.hint().is_some(), "the refusal says nothing a person can do: {again}");
        }
    }
    (error, second)
}

fn calls_of_a_good_bring_up(host: &Host) -> u64 {
    let lab = Lab::new(host, &()).unwrap();
    let mut world = World::new(host, &lab);
    world.bring_up().unwrap();
    assert!(lab.ask(Machine::private_lines) > 0);
    world.assert_kexec_is_clean();
    seamcalls(&lab)
}

/// Statuses that no retry helps against, so that each call fails for good.
const NO: Status = StatusCode::OPERAND_INVALID.operand(Operand::RCX);

#[test]
fn each_seamcall_fails_once() {
    let host = small_host();
    let calls = calls_of_a_good_bring_up(&host);
    let mut steps = std::collections::BTreeMap::<BringupStep, (u64, u64)>::new();
    for number in 1..=calls {
        let (error, second) = fail_once(&host, number, Fault::Answer(NO));
        let failed = error.seamcall().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(error.status(), Some(NO), "the raw status is kept");
        let leaf = failed.call.leaf();
        let expected = match error.step {
            BringupStep::SysInit => Leaf::SYS_INIT,
            BringupStep::LpInit => Leaf::SYS_LP_INIT,
            BringupStep::ModuleInfo => Leaf::SYS_RD,
            BringupStep::Config => Leaf::SYS_CONFIG,
            BringupStep::KeyConfig => Leaf::SYS_KEY_CONFIG,
            BringupStep::TdmrInit => Leaf::SYS_TDMR_INIT,
            BringupStep::Claim | BringupStep::Layout => panic!("no SEAMCALL in {error}"),
        };
        assert_eq!(leaf, expected);
        // Up to and with SYS.CONFIG the module can be brought up again; after it, only a reload
        // helps.
        let again = error.step <= BringupStep::Config;
        assert_eq!(second.is_ok(), again, "after {error}: {second:?}");
        if let Err(refusal) = second {
            assert_eq!(refusal.step, BringupStep::LpInit);
            assert_eq!(refusal.status().map(Status::code), Some(StatusCode::SYS_LP_INIT_NOT_PENDING));
        }
        let reset = error.unwound.reset_lines > 0;
        assert_eq!(reset, error.step >= BringupStep::KeyConfig, "{error:?}");
        let count = steps.entry(error.step).or_default();
        count.0 += 1;
    }
    let seen: Vec<(BringupStep, u64)> = steps.into_iter().map(|(step, (count, _))| (step, count)).collect();
    // 4 CPUs, 2 packages, 2 TDMRs of 2 GiB each at 256 calls a GiB.
    let calls_of = |step| seen.iter().find(|(s, _)| *s == step).map_or(0, |(_, count)| *count);
    assert_eq!(calls_of(BringupStep::SysInit), 1);
    assert_eq!(calls_of(BringupStep::LpInit), 4);
    assert_eq!(calls_of(BringupStep::Config), 1);
    assert_eq!(calls_of(BringupStep::KeyConfig), 2);
    assert_eq!(calls_of(BringupStep::TdmrInit), 4 * 256);
}

#[test]
fn the_module_dies_at_each_seamcall() {
    let host = small_host();
    let calls = calls_of_a_good_bring_up(&host);
    // Every call before the long loop, then a sample of the loop: its calls are alike.
    let numbers = (1..=calls).filter(|n| *n <= calls - 1024 + 4 || n % 37 == 0 || *n == calls);
    for number in numbers {
        let (error, second) = fail_once(&host, number, Fault::Crash);
        assert_eq!(error.status(), Some(Status::VMFAIL_INVALID));
        assert_eq!(second.unwrap_err().status(), Some(Status::VMFAIL_INVALID), "a dead module stays dead");
    }
}

#[test]
fn no_entropy_is_retried_and_then_reported() {
    let host = small_host();
    for (fault, leaf, step) in [
        (Fault::NoEntropy, Leaf::SYS_INIT, BringupStep::SysInit),
        (Fault::KeyEngineNoEntropy, Leaf::SYS_KEY_CONFIG, BringupStep::KeyConfig),
    ] {
        let lab = Lab::new(&host, &()).unwrap();
        let mut world = World::new(&host, &lab);
        lab.act(|machine| machine.inject(fault, When::CallOf(leaf, 1)));
        world.bring_up().expect("one failure for lack of entropy is retried");

        let lab = Lab::new(&host, &()).unwrap();
        let mut world = World::new(&host, &lab);
        let before = world.kernel.taken().to_vec();
        lab.act(|machine| machine.inject(fault, When::Always));
        let error = world.bring_up().unwrap_err();
        assert_eq!(error.step, step);
        assert_eq!(error.seamcall().unwrap().attempts, 11);
        world.assert_clean(&before, "no entropy at all");
    }
}

#[test]
fn vmx_off_and_seam_off_are_clear_refusals() {
    let host = small_host();
    let lab = Lab::new(&host, &()).unwrap();
    let mut world = World::new(&host, &lab);
    lab.act(|machine| machine.vmxoff(tdx_machine::CpuId(2))).unwrap();
    let error = world.bring_up().unwrap_err();
    assert_eq!((error.step, error.status()), (BringupStep::LpInit, Some(Status::UNDEFINED_OPCODE)));
    assert_eq!(error.seamcall().unwrap().cpu, tdx_host::platform::CpuId(2));
    assert!(error.to_string().contains("VMXON"), "{error}");
}

#[test]
fn only_one_bring_up_at_a_time() {
    let host = small_host();
    let lab = Lab::new(&host, &()).unwrap();
    let mut world = World::new(&host, &lab);
    world.bring_up().unwrap();
    let private = lab.ask(Machine::private_lines);
    let taken = world.kernel.taken().to_vec();
    let error = world.bring_up().unwrap_err();
    assert_eq!(world.kernel.taken(), taken, "PAMT stays allocated");
    assert_eq!(error.cause, BringupCause::Claimed);
    assert_eq!(lab.ask(Machine::private_lines), private, "the refusal touched nothing");
    assert!(world.tdx.memory().may_have_private_memory());
    world.assert_kexec_is_clean();
}

/// The kernel had used the memory that PAMT gets, so its lines are dirty in some CPU's cache.
/// Without WBINVD before KEY.CONFIG they would land on top of the module's data.
#[test]
fn the_hosts_own_dirty_lines_never_land_on_pamt() {
    let host = small_host();
    let lab = Lab::new(&host, &()).unwrap();
    let mut world = World::new(&host, &lab);
    for part in host.memory() {
        for cpu in 0..host.cpus() {
            // Each CPU has dirtied its own share of every range.
            let share = part.range.pages() / u64::from(host.cpus());
            let start = part.range.start().index() + u64::from(cpu) * share;
            let pages = PageRange::new(Page::new(start), Page::new(start + share));
            lab.act(|machine| machine.store(tdx_machine::CpuId(cpu), pages.lines(), KeyId::HOST)).unwrap();
        }
    }
    world.bring_up().unwrap();
    let private = lab.ask(Machine::private_lines);
    lab.act(|machine| {
        for part in host.memory() {
            machine.evict(part.range.lines(), KeyId::HOST);
        }
    });
    assert_eq!(lab.ask(|machine| machine.counters().lines_late_shared), 0, "old lines of the host landed on PAMT");
    assert_eq!(lab.ask(Machine::private_lines), private);
    world.assert_kexec_is_clean();
}

/// The module joins CMRs that touch when it checks TDMRs, so the host must see them joined, too.
#[test]
fn cmrs_that_touch_are_one_range() {
    let log = "virt/tdx: BIOS enabled: private KeyID range [32, 64)\n\
               virt/tdx: CMR: [0x100000, 0x40000000)\n\
               virt/tdx: CMR: [0x40000000, 0x80000000)\n\
               virt/tdx: CMR: [0x100000000, 0x180000000)\n";
    let host = Host::from_reader("touching", log.as_bytes(), &HostOptions::default()).unwrap();
    let lab = Lab::new(&host, &()).unwrap();
    assert_eq!(lab.ask(|machine| machine.config().cmrs.iter().filter(|cmr| cmr.size > 0).count()), 3);
    let mut world = World::new(&host, &lab);
    let known = world
        .tdx
        .start_bring_up(&mut world.kernel)
        .and_then(|bringup| bringup.sys_init()?.init_cpus()?.read_module_info())
        .unwrap();
    let ends: Vec<u64> = known.module().cmrs.iter().map(|cmr| cmr.limit().get()).collect();
    assert_eq!(ends, [0x8000_0000, 0x1_8000_0000]);
}

/// Linux takes a page with a memory error out of its direct map. If it is PAMT, the reset of a
/// bring-up that has failed does not reach it: nothing is freed, and the next kernel is told.
#[test]
fn pamt_that_is_not_mapped_stays_recorded_and_is_not_freed() {
    let host = small_host();
    let good = Lab::new(&host, &()).unwrap();
    let mut world = World::new(&host, &good);
    world.bring_up().unwrap();
    let first = world.tdx.pamt_ranges().next().unwrap().start();
    let page = PageRange::new(first, Page::new(first.index() + 1));
    world.assert_kexec_is_clean();
    let calls = seamcalls(&good);

    let lab = Lab::new(&host, &()).unwrap();
    let mut world = World::new(&host, &lab);
    let before = world.kernel.taken().to_vec();
    lab.unmap(page);
    lab.act(|machine| machine.inject(Fault::Answer(NO), When::Call(calls)));
    let error = world.bring_up().unwrap_err();
    assert_eq!(error.step, BringupStep::TdmrInit);
    assert_eq!((error.unwound.left_lines, error.unwound.freed_bytes), (64, 0), "{error:?}");
    assert!(error.to_string().contains("64 lines of PAMT are not mapped and stay private"), "{error}");
    assert_eq!(lab.ask(Machine::private_lines), 64);
    assert_ne!(world.kernel.taken(), before, "PAMTs are not given back");
    assert!(world.tdx.memory().may_have_private_memory());
    assert!(world.tdx.pamt_ranges().any(|range| range.contains_range(page)), "still recorded");

    let again = world.bring_up().unwrap_err();
    assert_eq!((again.step, again.cause), (BringupStep::Claim, BringupCause::Claimed));

    let memory = world.tdx.memory();
    let kexec = world.tdx.kexec(Policy::Tracked, KexecKind::Normal).unwrap().stop_other_cpus(&world.kernel).unwrap();
    let report = kexec.ask_module(|_| ()).write_back_caches().reset();
    assert!(matches!(report.outcome, Outcome::Reset(count) if count.left == 64), "{report:?}");
    assert!(!report.is_clean(&memory));
    assert!(report.leftovers(&memory).all(|left| left.reason == LeftoverReason::NotMapped));
    lab.check().unwrap();
}
