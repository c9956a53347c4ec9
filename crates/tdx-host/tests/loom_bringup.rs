//! loom: the real bring-up on one CPU, the real kexec or crash on another that stops it at any
//! operation on the platform; and a module that takes PAMT before the record says so, which loom
//! must reject.
//!
//! The stop is an NMI: the CPU freezes where it is, and its acknowledgement orders nothing. What is
//! private, reset or freed is kept beside the model (std atomics, which loom does not see), so it
//! is the truth of the run and synchronizes nothing. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_bringup`
//! (`cargo xtask test` does).

#![cfg(loom)]
// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed, fence};
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool as Truth, Ordering::SeqCst};
use tdx_abi::{FieldId, Leaf, LineRange, Page, PageRange, PhysAddr, Registers, Status, StatusCode};
use tdx_host::Host;
use tdx_host::gate::{CpuGate, CpuSlot};
use tdx_host::handover::{KexecKind, NmiStop, Outcome, Policy, StopCpus, stop_this_cpu_at_crash};
use tdx_host::layout::{FrameRequest, FrameSource};
use tdx_host::platform::{
    Cpu, CpuId, CpuTask, CpuidOutput, Cpus, LineReset, LocalProcessor, Msr, NodeId, NodeRange, OwnedPages, PackageId,
    Processor, SharedMemory, Step,
};
use tdx_host::seamcall::Seamcall;

/// Memory of 2 GiB, the second of which is convertible.
const MEMORY: [NodeRange; 1] =
    [NodeRange { range: PageRange::new(Page::new(1 << 18), Page::new(2 << 18)), node: NodeId(0) }];
const PAMT_PAGES: PageRange = PageRange::new(Page::new(1 << 18), Page::new((1 << 18) + 1027));

/// Larger than the stack of a loom thread, so it is made on a larger one. loom's atomics live for
/// one run; the slots of each run are leaked.
fn host() -> Box<Host<'static>> {
    let make = || {
        let tdx = Box::new(Host::new(Box::leak(Box::new([CpuSlot::new(), CpuSlot::new()]))));
        tdx.detect(&SapphireRapids).unwrap();
        tdx
    };
    thread::Builder::new().stack_size(64 << 10).spawn(make).unwrap().join().unwrap()
}

struct Machine {
    tdx: Box<Host<'static>>,
    /// Some line of PAMT is private.
    private: Truth,
    /// PAMT memory is somebody else's.
    freed: Truth,
    /// A reset wrote over memory that was somebody else's.
    harmed: Truth,
    stop: AtomicBool,
    stopped: AtomicBool,
}

impl Machine {
    fn new() -> Self {
        Self {
            tdx: host(),
            private: Truth::default(),
            freed: Truth::default(),
            harmed: Truth::default(),
            stop: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }
}

/// How the module behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Module {
    Succeeds,
    /// TDMR.INIT fails, so that bring-up unwinds.
    TdmrInitFails,
    /// SYS.CONFIG makes PAMT private: the record comes too late. The twin.
    EarlyPrivate,
}

struct Frozen;

/// A CPU. The one that brings up obeys the stop at each of its operations; the one that kexecs does
/// not.
#[derive(Clone)]
struct FakeCpu {
    machine: Arc<Machine>,
    obeys: bool,
    module: Module,
}

impl FakeCpu {
    /// An instant: the CPU may be stopped here. Every operation has one before it and one after it.
    fn instant(&self) {
        if self.obeys && self.machine.stop.load(Relaxed) {
            resume_unwind(Box::new(Frozen));
        }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for FakeCpu {
    unsafe fn seamcall(&self, mut registers: Registers) -> Registers {
        self.instant();
        let status = match registers.leaf_call().leaf() {
            Leaf::SYS_RD => {
                registers.r8 = match FieldId(registers.rdx) {
                    FieldId::NUM_CMRS => 1,
                    FieldId::CMR_BASE => MEMORY[0].range.base().get(),
                    FieldId::CMR_SIZE => MEMORY[0].range.bytes(),
                    FieldId::MAX_TDMRS => 64,
                    _ => 16,
                };
                Status::SUCCESS
            }
            Leaf::SYS_CONFIG if self.module == Module::EarlyPrivate => {
                self.machine.private.store(true, SeqCst);
                Status::SUCCESS
            }
            // From KEY.CONFIG on the module may write with the global KeyID: the earliest instant
            // that counts.
            Leaf::SYS_KEY_CONFIG => {
                self.machine.private.store(true, SeqCst);
                Status::SUCCESS
            }
            Leaf::SYS_TDMR_INIT => {
                self.machine.private.store(true, SeqCst);
                registers.rdx = MEMORY[0].range.limit().get();
                if self.module == Module::TdmrInitFails { StatusCode::SYS_NOT_READY.with(0) } else { Status::SUCCESS }
            }
            _ => Status::SUCCESS,
        };
        self.instant();
        Registers { rax: status.raw(), ..registers }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for FakeCpu {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        self.instant();
        if self.machine.freed.load(SeqCst) {
            self.machine.harmed.store(true, SeqCst);
        }
        if lines.end() == PAMT_PAGES.lines().end() {
            self.machine.private.store(false, SeqCst);
        }
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
        CpuId(u32::from(!self.obeys))
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    /// Orders nothing for another CPU.
    fn write_back_caches(&self) {
        self.instant();
    }

    unsafe fn flush_lines(&self, _lines: LineRange) {
        self.instant();
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: no memory of the test.
        unsafe { self.machine.tdx.gate().cpu_gate(self.id()) }
    }
}

struct Kernel(FakeCpu);

impl Kernel {
    fn drive<T: CpuTask<FakeCpu>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.0, &mut local) == Step::Again {}
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpus for Kernel {
    type Cpu = FakeCpu;

    fn run_on_all<T: CpuTask<FakeCpu>>(&self, task: &T) {
        self.drive(task);
    }

    fn run_on_each_package<T: CpuTask<FakeCpu>>(&self, task: &T) {
        self.drive(task);
    }

    fn run_here<R>(&self, function: impl FnOnce(&FakeCpu) -> R) -> R {
        function(&self.0)
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl FrameSource for Kernel {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        self.0.instant();
        let range = PageRange::new(PAMT_PAGES.start(), Page::new(PAMT_PAGES.start().index() + request.pages));
        request.within.contains_range(range).then(|| promise::owned(range))
    }

    fn free(&mut self, pages: OwnedPages) {
        self.0.instant();
        if pages.into_range().end() == PAMT_PAGES.end() {
            self.0.machine.freed.store(true, SeqCst);
        }
        self.0.instant();
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl SharedMemory for Kernel {
    unsafe fn write(&mut self, _address: PhysAddr, _bytes: &[u8]) {}
}

struct SapphireRapids;

// SAFETY: the machine of this test is such a processor.
unsafe impl LocalProcessor for SapphireRapids {}

impl Processor for SapphireRapids {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
        match leaf {
            0 => CpuidOutput { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
            1 => CpuidOutput { eax: 0x0008_06f8, ..CpuidOutput::default() },
            _ => CpuidOutput { ecx: 1 << 28, ..CpuidOutput::default() },
        }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        Some(if msr == Msr::TME_ACTIVATE { 6 << 32 } else { 0x20_0000_001f })
    }
}

/// The CPU that kexecs: asks the other one to stop, and waits for a sign that orders nothing.
struct Nmi(FakeCpu);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl StopCpus for Nmi {
    type Cpu = FakeCpu;

    fn this_cpu(&self) -> FakeCpu {
        self.0.clone()
    }

    fn resume_other_cpus(&self) {}

    /// The other CPU is frozen and runs nothing more.
    fn run_on_stopped<T: CpuTask<FakeCpu>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.0, &mut local) == Step::Again {}
    }

    fn stop_other_cpus(&self) -> u32 {
        self.0.machine.stop.store(true, Relaxed);
        while !self.0.machine.stopped.load(Relaxed) {
            thread::yield_now();
        }
        self.0.machine.tdx.stop_this_cpu(self.0.clone());
        1
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl NmiStop for Nmi {
    fn stop_other_cpus(&self) {
        self.0.machine.stop.store(true, Relaxed);
        while !self.0.machine.stopped.load(Relaxed) {
            thread::yield_now();
        }
        stop_this_cpu_at_crash(&self.0);
    }

    fn is_online(&self, _cpu: CpuId) -> bool {
        true
    }
}

#[derive(Clone, Copy)]
enum Ends {
    InKexec,
    InCrash,
}

fn bring_up_races(ends: Ends, module: Module) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.max_branches = 20_000;
    model.check(move || {
        let machine = Arc::new(Machine::new());
        let bringup = {
            let machine = Arc::clone(&machine);
            thread::spawn(move || {
                let cpu = FakeCpu { machine: Arc::clone(&machine), obeys: true, module };
                let run = AssertUnwindSafe(|| {
                    let mut kernel = Kernel(cpu);
                    let result = machine.tdx.bring_up(&mut kernel, &MEMORY);
                    // A bring-up that finds the gate closed fails as well, and unwinds while it is
                    // being stopped.
                    let closed = machine.tdx.gate().is_closed();
                    assert!(if module == Module::TdmrInitFails { result.is_err() } else { result.is_ok() || closed });
                    assert_eq!(machine.tdx.layout().is_some(), result.is_ok());
                });
                if let Err(payload) = catch_unwind(run) {
                    if !payload.is::<Frozen>() {
                        resume_unwind(payload);
                    }
                }
                machine.stopped.store(true, Relaxed);
            })
        };
        let cpu = FakeCpu { machine: Arc::clone(&machine), obeys: false, module };
        let tdx = &machine.tdx;
        let report = match ends {
            Ends::InKexec => tdx
                .kexec(Policy::Tracked, KexecKind::Normal)
                .unwrap()
                .stop_other_cpus(&Nmi(cpu))
                .unwrap()
                .ask_module(|_| ())
                .write_back_caches()
                .reset(),
            Ends::InCrash => tdx.crash(Policy::Tracked, &cpu, &Nmi(cpu.clone())),
        };
        bringup.join().unwrap();
        assert!(!machine.private.load(SeqCst), "private lines are left for the next kernel: {report:?}");
        assert!(!machine.harmed.load(SeqCst), "the reset wrote over memory that is in use: {report:?}");
        if let Outcome::Reset(count) = report.outcome {
            assert_eq!(count.lines, PAMT_PAGES.lines().len(), "half a list");
        }
    });
}

#[test]
fn kexec_at_any_operation_of_a_bring_up_that_succeeds() {
    bring_up_races(Ends::InKexec, Module::Succeeds);
}

#[test]
fn kexec_at_any_operation_of_a_bring_up_that_fails() {
    bring_up_races(Ends::InKexec, Module::TdmrInitFails);
}

#[test]
fn panic_at_any_operation_of_a_bring_up_that_succeeds() {
    bring_up_races(Ends::InCrash, Module::Succeeds);
}

#[test]
fn panic_at_any_operation_of_a_bring_up_that_fails() {
    bring_up_races(Ends::InCrash, Module::TdmrInitFails);
}

#[test]
#[should_panic(expected = "private lines are left")]
fn loom_rejects_pamt_that_is_private_before_the_record() {
    bring_up_races(Ends::InCrash, Module::EarlyPrivate);
}
