//! loom: a page's whole life on one CPU, from the mark to the allocator, and a panic on another at
//! any operation; and the same life in a wrong order, which loom must reject.
//!
//! The NMI freezes the CPU where it is, and its acknowledgement orders nothing. What is private,
//! dirty, reset or in use is kept beside the model (std atomics, which loom does not see), so it is
//! the truth of the run and synchronizes nothing. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_crash` (`cargo xtask test`
//! does).

#![cfg(loom)]
// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

use promise::Mark as _;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, fence};
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool as Truth, Ordering::SeqCst};
use tdx_abi::{Leaf, LineRange, Page, PageRange, PageSize, Registers, Status};
use tdx_host::Host;
use tdx_host::gate::CpuGate;
use tdx_host::handover::{NmiStop, Policy, stop_this_cpu_at_crash};
use tdx_host::ledger::Ledger;
use tdx_host::platform::{Cpu, CpuId, LineReset, PackageId};
use tdx_host::seamcall::Seamcall;

const SEGMENT: PageRange = PageRange::new(Page::new(512), Page::new(1024));
const PAGE: Page = Page::new(700);
const RANGE: PageRange = PageRange::new(PAGE, Page::new(701));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Other {
    /// Takes the NMI at any instant.
    Answers,
    /// Never takes it.
    Hangs,
}

/// One page, as the hardware has it.
struct Machine {
    host: Box<Host<'static>>,
    private: Truth,
    /// Private, in the other CPU's cache, not in memory yet.
    dirty: Truth,
    /// Somebody else's.
    in_use: Truth,
    harmed: Truth,
    /// The crash kernel runs.
    jumped: Truth,
    /// A SEAMCALL was made under the crash kernel.
    late: Truth,
    nmi: AtomicBool,
    stopped: AtomicBool,
}

impl Machine {
    fn new() -> Self {
        // loom's atomics live for one run; the few words of each run are leaked.
        let words = (0..Ledger::words_needed([SEGMENT])).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let host = promise::host(2);
        host.follow([SEGMENT], words.leak()).unwrap();
        promise::observe_pamts(&host, []).unwrap();
        Self {
            host,
            private: Truth::default(),
            dirty: Truth::default(),
            in_use: Truth::default(),
            harmed: Truth::default(),
            jumped: Truth::default(),
            late: Truth::default(),
            nmi: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }
}

struct Frozen;

#[derive(Clone)]
struct FakeCpu {
    machine: Arc<Machine>,
    id: u32,
    /// Takes NMIs, and has not taken one yet.
    listens: bool,
}

impl FakeCpu {
    /// The CPU may be stopped here. Every operation has an instant before it and one after it.
    fn instant(&self) {
        if self.listens && self.machine.nmi.load(Relaxed) {
            resume_unwind(Box::new(Frozen));
        }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for FakeCpu {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        self.instant();
        if self.machine.jumped.load(SeqCst) {
            self.machine.late.store(true, SeqCst);
        }
        if registers.leaf_call().leaf() == Leaf::MEM_PAGE_AUG {
            self.machine.dirty.store(true, SeqCst);
        }
        self.instant();
        Registers { rax: Status::SUCCESS.raw(), ..registers }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for FakeCpu {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        self.instant();
        assert_eq!(lines, RANGE.lines());
        if self.machine.in_use.load(SeqCst) {
            self.machine.harmed.store(true, SeqCst);
        }
        self.machine.private.store(false, SeqCst);
        self.instant();
        0
    }

    fn fence(&self) {
        self.instant();
        fence(loom::sync::atomic::Ordering::SeqCst);
        self.instant();
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for FakeCpu {
    fn id(&self) -> CpuId {
        CpuId(self.id)
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    /// Orders nothing for another CPU.
    fn write_back_caches(&self) {
        self.instant();
        if self.id == 1 && self.machine.dirty.swap(false, SeqCst) {
            self.machine.private.store(true, SeqCst);
        }
        self.instant();
    }

    unsafe fn flush_lines(&self, _lines: LineRange) {}

    fn cpu_gate(&self) -> CpuGate<'_> {
        promise::cpu_gate(self.machine.host.gate(), self.id())
    }
}

/// In which order a page lives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Product,
    /// The SEAMCALL comes before the mark.
    MarkedLate,
    /// The page is somebody else's before the mark is taken off.
    UnmarkedLate,
}

/// From the allocator to the module and back.
fn life(cpu: &FakeCpu, order: Life) {
    let machine = &cpu.machine;
    let ledger = machine.host.ledger().unwrap();
    if order == Life::MarkedLate && promise::call_any(cpu, Registers::call(Leaf::MEM_PAGE_AUG)).is_err() {
        return;
    }
    let giving = promise::take(ledger, PAGE, PageSize::Size4K).unwrap().give(cpu).unwrap();
    cpu.instant();
    if promise::call_any(cpu, Registers::call(Leaf::MEM_PAGE_AUG)).is_err() {
        // The gate is closed. The page stays marked, and the crash handover resets it.
        std::mem::forget(giving);
        return;
    }
    cpu.instant();
    promise::commit(giving).unwrap().into_tracked();
    cpu.instant();
    if promise::call_any(cpu, Registers::call(Leaf::MEM_PAGE_REMOVE)).is_err() {
        return;
    }
    cpu.instant();
    let page = promise::find(ledger, PAGE, PageSize::Size4K).unwrap();
    std::mem::forget(promise::reclaim(page).unwrap());
    cpu.instant();
    // The rest of the way as `td` and the reset pass take it, in their order.
    cpu.write_back_caches();
    promise::reset_ranges(cpu, [RANGE]);
    if order == Life::UnmarkedLate {
        machine.in_use.store(true, SeqCst);
        cpu.instant();
    }
    ledger.mark_shared(RANGE).unwrap();
    cpu.instant();
    machine.in_use.store(true, SeqCst);
    cpu.instant();
}

struct Nmi(Arc<Machine>, Other);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl NmiStop for Nmi {
    fn stop_other_cpus(&self) {
        self.0.nmi.store(true, Relaxed);
        while self.1 == Other::Answers && !self.0.stopped.load(Relaxed) {
            thread::yield_now();
        }
    }

    fn is_online(&self, _cpu: CpuId) -> bool {
        true
    }
}

fn panic_at_any_operation(other: Other, order: Life) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.max_branches = 20_000;
    model.check(move || {
        let machine = Arc::new(Machine::new());
        let life = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || {
                let cpu = FakeCpu { machine: Arc::clone(&machine), id: 1, listens: other == Other::Answers };
                match catch_unwind(AssertUnwindSafe(|| life(&cpu, order))) {
                    Err(payload) if !payload.is::<Frozen>() => resume_unwind(payload),
                    _ if other == Other::Answers => {
                        stop_this_cpu_at_crash(&FakeCpu { listens: false, ..cpu });
                        machine.stopped.store(true, Relaxed);
                    }
                    _ => {}
                }
            })
        };
        let cpu = FakeCpu { machine: Arc::clone(&machine), id: 0, listens: false };
        let nmi = Nmi(Arc::clone(&machine), other);
        let report = machine.host.crash(Policy::Tracked, &cpu, &nmi);
        let left = machine.private.load(SeqCst) || machine.dirty.load(SeqCst);
        let harmed = machine.harmed.load(SeqCst);
        machine.jumped.store(true, SeqCst);
        life.join().unwrap();
        let late = machine.late.load(SeqCst);
        match other {
            Other::Answers => {
                assert!(!left, "a private line is left: {report:?}");
                assert!(!harmed, "the reset wrote over memory that is in use: {report:?}");
                assert!(!late, "a SEAMCALL under the crash kernel: {report:?}");
                assert_eq!(report.suspects.may_hold_private_lines, 0, "{report:?}");
            }
            Other::Hangs => {
                assert!(!(left || late) || report.suspects.may_hold_private_lines == 1, "not said: {report:?}");
            }
        }
    });
}

#[test]
fn a_panic_at_any_operation_of_a_page_s_life() {
    panic_at_any_operation(Other::Answers, Life::Product);
}

#[test]
fn a_cpu_that_hangs_is_clean_or_named() {
    panic_at_any_operation(Other::Hangs, Life::Product);
}

#[test]
#[should_panic(expected = "a private line is left")]
fn loom_rejects_a_mark_after_the_seamcall() {
    panic_at_any_operation(Other::Answers, Life::MarkedLate);
}

#[test]
#[should_panic(expected = "memory that is in use")]
fn loom_rejects_a_mark_that_outlives_the_reset() {
    panic_at_any_operation(Other::Answers, Life::UnmarkedLate);
}
