//! A TD's life, stopped for good at every point between two operations on the platform: before and
//! after each SEAMCALL, flush, reset, fence and write-back. From each of them the machine is handed
//! over, by kexec or by a panic on either CPU, and the next kernel lives. Nothing that is private
//! is ever unmarked, and nothing that is in use is ever reset.

use std::cell::OnceCell;

use first_kernel::{Comparison, TdPhase, crash};
use tdx_abi::{KeyId, LineRange, Page, PageRange, StatusCode};
use tdx_host::handover::{KexecKind, ModuleAnswer, Outcome, Policy};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::platform::CpuId;
use tdx_lab::platform::{Instant, Lab, LabKernel};
use tdx_lab::tds::{Hypervisor, pool, track};
use tdx_machine::{Machine, ModuleProfile, PartialStore};
use tdx_operator::host::{Host, HostOptions};

const CPU: tdx_machine::CpuId = tdx_machine::CpuId(0);

/// One TDMR of 1 GiB, two CPUs, one package: the bring-up is short, the TD is the same.
const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n\
                    [tdx]\nkey_ids = \"[32, 64)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";

fn host() -> Host {
    Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap()
}

/// How the machine is handed over.
#[derive(Clone, Copy, Debug)]
enum End {
    Kexec,
    /// Kexec that asks a module with TDH.SYS.DISABLE, and resets only what that cannot know.
    AskModule,
    /// The CPU that was stopped panics, or the other one does.
    Panic(CpuId),
}

/// The first word of a page that somebody uses.
const CANARY: [u8; 8] = *b"in use!\n";

struct Run {
    /// Points that the scenario has.
    instants: u64,
    /// It was stopped, and not over before.
    stopped: bool,
    /// The long loop of a call that is interrupted again and again: its instants are alike.
    in_the_loop: bool,
}

/// Every private line outside PAMT lies in a marked page.
fn assert_superset(machine: &Machine, tdx: &tdx_host::Host<'_>, what: &str) {
    let ledger = tdx.ledger();
    let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
    let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
    let poisoned = machine.all_poisoned_runs().into_iter().map(|run| run.lines);
    for lines in owned.chain(dirty).chain(poisoned) {
        for index in lines.pages().start().index()..lines.pages().end().index() {
            let page = Page::new(index);
            let in_pamt = tdx.pamt_ranges().any(|range| range.contains(page));
            let marked = ledger.and_then(|ledger| ledger.state(page)).is_some_and(|state| state != PageState::Shared);
            assert!(in_pamt || marked, "page {page} is private and not marked at {what}");
        }
    }
}

/// Lives until the instant, hands over, and lets the next kernel loose.
fn run(host: &Host, instant: u64, end: End) -> Run {
    let what = format!("instant {instant}, {end:?}");
    let (policy, module) = match end {
        End::AskModule => (Policy::Module, ModuleProfile::V1_5_01.with_sys_disable()),
        _ => (Policy::Tracked, ModuleProfile::V1_5_01),
    };
    let lab = Lab::with_module(host, module, &()).unwrap();
    let mut words = Vec::new();
    let mut place = Some(&mut words);
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    let pages = OnceCell::new();
    let life = || {
        tdx.bring_up(&mut kernel, host.memory()).unwrap();
        let tds = track(&tdx, place.take().unwrap()).unwrap();
        let pool = pool(tds.ledger(), &mut kernel, 1).unwrap();
        pages.set(pool.range()).unwrap();
        lab.act(|machine| {
            for page in (pool.range().start().index()..pool.range().end().index()).step_by(7) {
                machine.write_shared(CPU, Page::new(page).start(), &CANARY).unwrap();
            }
        });
        let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
        let _ = hypervisor.live(0, TdPhase::Gone).unwrap();
    };
    let over = lab.until(Instant::Nth(instant), life).is_some();
    let instants = lab.instants();
    let (memory_of_tds, ledger) = (pages.get().copied().unwrap_or_default(), tdx.ledger());
    lab.ask(|machine| assert_superset(machine, &tdx, &what));

    let interrupted = lab.ask(|machine| {
        let calls = &machine.counters().seamcalls;
        calls
            .iter()
            .filter(|((_, status), _)| *status == StatusCode::INTERRUPTED_RESTARTABLE)
            .map(|(_, n)| *n)
            .sum::<u64>()
    });
    let result = Run { instants, stopped: !over, in_the_loop: (3..1_000).contains(&interrupted) };
    if result.in_the_loop && !instant.is_multiple_of(101) {
        return result;
    }

    let has_canary = |machine: &mut Machine, page: u64| {
        let mut bytes = [0; 8];
        machine.read_shared(CPU, Page::new(page).start(), &mut bytes).is_ok() && bytes == CANARY
    };
    let shared = |page| ledger.is_none_or(|ledger| ledger.state(Page::new(page)) == Some(PageState::Shared));
    let used: Vec<u64> = lab.act(|machine| {
        let all = memory_of_tds.start().index()..memory_of_tds.end().index();
        all.filter(|page| shared(*page) && has_canary(machine, *page)).collect()
    });

    let report = match end {
        End::Kexec | End::AskModule => tdx
            .kexec(policy, KexecKind::Normal)
            .unwrap()
            .stop_other_cpus(&kernel)
            .unwrap()
            .ask_module(|_| ())
            .write_back_caches()
            .reset(),
        End::Panic(cpu) => {
            stray_stores(&lab);
            kernel.move_to(cpu);
            tdx.crash(policy, &kernel.this_cpu(), &kernel)
        }
    };
    assert!(report.is_clean(&tdx.memory()), "{what}: {report:?}");
    lab.act(|machine| {
        machine.kexec_boundary();
        for page in &used {
            assert!(has_canary(machine, *page), "page {page:#x} was in use and was reset at {what}");
        }
        let disabled = matches!(report.module, Some(ModuleAnswer::Disabled { .. }));
        if let Outcome::Reset(count) = report.outcome
            && !disabled
        {
            let marked: u64 = ledger.map_or(0, Ledger::marked_pages);
            let pamt: u64 = tdx.pamt_ranges().map(PageRange::pages).sum();
            assert_eq!(count.lines, (marked + pamt) * 64, "exactly what is marked, at {what}");
        }
        assert_eq!(machine.dirty_private_lines(), 0, "{what}");
        for part in host.memory() {
            match end {
                End::Kexec | End::AskModule => {
                    let used = machine.use_memory(CPU, part.range, PartialStore::NonTemporal).unwrap();
                    assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0), "{what}: {:?}", used.first);
                }
                End::Panic(_) => machine.load(CPU, part.range.lines(), KeyId::HOST).unwrap_or_else(|check| {
                    panic!("the crash kernel dies at {what}: {check:?}");
                }),
            }
        }
    });
    lab.check().unwrap();
    result
}

/// Why it panics: a wild pointer has written to the first line of everything private.
fn stray_stores(lab: &Lab<'_>) {
    lab.act(|machine| {
        for run in machine.all_owner_runs() {
            let line = LineRange::single(run.lines.start());
            machine.partial_write(CPU, line, KeyId::HOST, PartialStore::NonTemporal).unwrap();
        }
    });
}

/// Every instant of a TD's life, and some of the bring-up before it, which has a test of its own,
/// at every operation, under loom.
fn at_every_instant(ends: &[End]) {
    let host = host();
    let whole = run(&host, u64::MAX, ends[0]);
    assert!(!whole.stopped);
    let calls_of_bring_up = 256 + 30;
    let mut stops = 0;
    for instant in 1..=whole.instants {
        if instant < 2 * calls_of_bring_up && !instant.is_multiple_of(23) {
            continue;
        }
        // Points before and after an operation alternate, so the ends must not have the same
        // period.
        let end = ends[(instant / 2 + instant) as usize % ends.len()];
        let run = run(&host, instant, end);
        assert!(run.stopped || instant + 8 > whole.instants, "instant {instant} of {}", whole.instants);
        stops += u64::from(run.stopped);
    }
    assert!(stops > 1_500, "{stops}");
}

#[test]
fn kexec_and_panics_on_either_cpu_are_clean() {
    at_every_instant(&[End::Kexec, End::Panic(CpuId(0)), End::Panic(CpuId(1))]);
}

#[test]
fn asking_the_module_is_clean() {
    at_every_instant(&[End::AskModule]);
}

/// The checker would notice: a kexec that resets PAMT only leaves the TD's pages behind.
#[test]
fn the_machine_notices_what_pamt_alone_leaves() {
    let host = host();
    let lab = Lab::new(&host, &()).unwrap();
    let mut words = Vec::new();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, &host);
    tdx.bring_up(&mut kernel, host.memory()).unwrap();
    let tds = track(&tdx, &mut words).unwrap();
    let ledger = tds.ledger();
    let pool = pool(ledger, &mut kernel, 1).unwrap();
    let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
    let td = hypervisor.live(0, TdPhase::Running).unwrap();
    let handed = crash(Comparison::Pamt.into(), &kernel.this_cpu(), &kernel, tdx.memory());
    assert!(!handed.is_clean());
    let left: u64 = handed.leftovers().map(|left| left.range.pages()).sum();
    assert_eq!(left, ledger.marked_pages());
    assert!(lab.ask(Machine::private_lines) > 0);
    drop(td);
}

/// Every page of the host holds something when the kernel dies. What the reset may write, it
/// writes: PAMT and marked pages. All others are as they were.
#[test]
fn a_canary_in_every_other_page_survives() {
    let text = HOST.replace("[1G, 2G)", "[1G, 1280M)");
    let host = Host::from_reader("tiny", text.as_bytes(), &HostOptions::default()).unwrap();
    let lab = Lab::new(&host, &()).unwrap();
    let mut words = Vec::new();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, &host);
    lab.act(|machine| {
        for page in host.memory()[0].range.start().index()..host.memory()[0].range.end().index() {
            machine.write_shared(CPU, Page::new(page).start(), &CANARY).unwrap();
        }
    });
    tdx.bring_up(&mut kernel, host.memory()).unwrap();
    let tds = track(&tdx, &mut words).unwrap();
    let ledger = tds.ledger();
    let pool = pool(ledger, &mut kernel, 2).unwrap();
    let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
    let tds = [hypervisor.live(0, TdPhase::Running).unwrap(), hypervisor.live(1, TdPhase::HalfBuilt).unwrap()];
    let canaries = |lab: &Lab<'_>| -> Vec<u64> {
        let range = host.memory()[0].range;
        lab.act(|machine| {
            let is_canary = |page: &u64| {
                let mut bytes = [0; 8];
                machine.read_shared(CPU, Page::new(*page).start(), &mut bytes).is_ok() && bytes == CANARY
            };
            (range.start().index()..range.end().index()).filter(is_canary).collect()
        })
    };
    let may_be_written = |page: u64| {
        let page = Page::new(page);
        tdx.pamt_ranges().any(|range| range.contains(page)) || ledger.state(page) != Some(PageState::Shared)
    };
    let before: Vec<u64> = canaries(&lab).into_iter().filter(|page| !may_be_written(*page)).collect();
    assert!(before.len() > 60_000, "{}", before.len());
    let report = tdx.crash(Policy::Tracked, &kernel.this_cpu(), &kernel);
    let Outcome::Reset(count) = report.outcome else { panic!("{report:?}") };
    let pamt: u64 = tdx.pamt_ranges().map(PageRange::pages).sum();
    assert_eq!(count.lines, (pamt + ledger.marked_pages()) * 64);
    assert_eq!(canaries(&lab), before, "exactly these");
    drop(tds);
}
