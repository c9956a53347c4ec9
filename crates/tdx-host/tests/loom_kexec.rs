//! loom: a kexec asks the module (SYS.DISABLE) on one CPU while another one panics and resets, over
//! a real `Host`, by safe calls alone, and over twins that are too weak.
//!
//! The kexec has closed the gate and goes past it with its own closing; the crash closes it for
//! good. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_kexec` (`cargo xtask test`
//! does). The twins are here to test the test: loom must reject each of them.

#![cfg(loom)]
// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;
use std::sync::atomic::{AtomicBool as Truth, Ordering::SeqCst};
use tdx_abi::{Leaf, LineRange, Page, PageRange, Registers, Status, StatusCode, TdxFeatures0};
use tdx_host::Host;
use tdx_host::gate::CpuGate;
use tdx_host::handover::{Kexec, KexecKind, NmiStop, Policy, StopCpus};
use tdx_host::platform::{Cpu, CpuId, CpuTask, CpuidOutput, LineReset, Msr, PackageId, Processor, Step, detect};
use tdx_host::seamcall::Seamcall;

const PAMT: PageRange = PageRange::new(Page::new(16), Page::new(17));

/// What happened, kept beside the model: it orders nothing.
struct Machine {
    /// Touched by SYS.DISABLE and by the reset, so that loom runs them in either order.
    instant: AtomicBool,
    /// The crash has written its first line.
    reset: Truth,
    /// SYS.DISABLE was executed after that.
    late: Truth,
    /// Calls of SYS.DISABLE: the first is interrupted, so there is a second.
    asked: Truth,
}

impl Machine {
    fn new() -> Self {
        let [reset, late, asked] = Default::default();
        Self { instant: AtomicBool::new(false), reset, late, asked }
    }

    fn write_a_line(&self) {
        self.instant.store(true, Ordering::Relaxed);
        self.reset.store(true, SeqCst);
    }

    fn disable(&self) -> Status {
        self.instant.load(Ordering::Relaxed);
        if self.reset.load(SeqCst) {
            self.late.store(true, SeqCst);
        }
        if self.asked.swap(true, SeqCst) { Status::SUCCESS } else { StatusCode::INTERRUPTED_RESUMABLE.with(0) }
    }
}

/// A kexec and a crash, so that a twin can stand in for them.
trait Handovers: Send + Sync + 'static {
    fn new() -> Self;
    /// Begins a kexec and asks the module until it has an answer.
    fn kexec(&self, machine: &Arc<Machine>);
    /// Panics and resets. True if the other CPU is not named: it has made no SEAMCALL, and is in
    /// none.
    fn crash(&self, machine: &Arc<Machine>) -> bool;
}

struct Product(Box<Host<'static>>);

impl Handovers for Product {
    fn new() -> Self {
        let host = promise::host(2);
        promise::set_platform(&host, detect(&SapphireRapids).unwrap());
        promise::observe_pamts(&host, [PAMT]).unwrap();
        Self(host)
    }

    fn kexec(&self, machine: &Arc<Machine>) {
        let memory = self.0.memory().with_features(TdxFeatures0::default().with_sys_disable());
        let cpus = FakeCpu { host: &self.0, machine, id: 0 };
        let kexec = Kexec::begin(Policy::Module, KexecKind::Normal, memory).unwrap();
        if let Ok(stopped) = kexec.stop_other_cpus(&cpus) {
            let _ = stopped.ask_module(|_| ());
        }
    }

    fn crash(&self, machine: &Arc<Machine>) -> bool {
        let cpu = FakeCpu { host: &self.0, machine, id: 1 };
        self.0.crash(Policy::Tracked, &cpu, &Deaf).suspects.may_hold_private_lines == 0
    }
}

#[derive(Clone, Copy)]
struct FakeCpu<'w> {
    host: &'w Host<'static>,
    machine: &'w Arc<Machine>,
    id: u32,
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for FakeCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        assert_eq!(registers.leaf_call().leaf(), Leaf::SYS_DISABLE);
        Registers { rax: self.machine.disable().raw(), ..registers }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for FakeCpu<'_> {
    unsafe fn reset_lines(&self, _lines: LineRange) -> u64 {
        self.machine.write_a_line();
        0
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for FakeCpu<'_> {
    fn id(&self) -> CpuId {
        CpuId(self.id)
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    fn write_back_caches(&self) {}

    unsafe fn flush_lines(&self, _lines: LineRange) {}

    fn cpu_gate(&self) -> CpuGate<'_> {
        promise::cpu_gate(self.host.gate(), self.id())
    }
}

/// The kexec's CPU, which takes the other one for stopped.
// SAFETY: a model: no memory of this program is behind it.
unsafe impl<'w> StopCpus for FakeCpu<'w> {
    type Cpu = FakeCpu<'w>;

    fn this_cpu(&self) -> FakeCpu<'w> {
        *self
    }

    fn stop_other_cpus(&self) -> u32 {
        1
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<FakeCpu<'w>>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(self, &mut local) == Step::Again {}
    }
}

/// The other CPU never takes its NMI.
struct Deaf;

// SAFETY: a model: no memory of this program is behind it.
unsafe impl NmiStop for Deaf {
    fn stop_other_cpus(&self) {}

    fn is_online(&self, _cpu: CpuId) -> bool {
        true
    }
}

struct SapphireRapids;

impl Processor for SapphireRapids {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
        match leaf {
            0 => CpuidOutput { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
            1 => CpuidOutput { eax: 0x0008_06f8, ..CpuidOutput::default() },
            7 => CpuidOutput { ecx: 1 << 28, ..CpuidOutput::default() },
            _ => CpuidOutput::default(),
        }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        Some(if msr == Msr::TME_ACTIVATE { 6 << 32 } else { 0x20_0000_001f })
    }
}

const CLOSED: u64 = 1;
const FOR_GOOD: u64 = 2;

/// A gate and the slot of the kexec's CPU. Without `OWN`: any closed gate lets the kexec pass.
/// Without `EACH_CALL`: it looks before the first call alone. Without `FENCED`: no fence between
/// slot and gate.
struct Twin<const OWN: bool, const EACH_CALL: bool, const FENCED: bool> {
    state: AtomicU64,
    slot: AtomicBool,
}

impl<const OWN: bool, const EACH_CALL: bool, const FENCED: bool> Twin<OWN, EACH_CALL, FENCED> {
    fn barrier() {
        if FENCED {
            fence(Ordering::SeqCst);
        }
    }
}

impl<const OWN: bool, const EACH_CALL: bool, const FENCED: bool> Handovers for Twin<OWN, EACH_CALL, FENCED> {
    fn new() -> Self {
        Self { state: AtomicU64::new(0), slot: AtomicBool::new(false) }
    }

    fn kexec(&self, machine: &Arc<Machine>) {
        if self.state.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED != 0 {
            return;
        }
        for call in 0..2 {
            if call == 0 || EACH_CALL {
                self.slot.store(true, Ordering::Release);
                Self::barrier();
                let state = self.state.load(Ordering::Acquire);
                let admitted = if OWN { state == CLOSED } else { state & CLOSED != 0 };
                if !admitted {
                    self.slot.store(call > 0, Ordering::Release);
                    return;
                }
            }
            machine.disable();
            if !EACH_CALL {
                // Interrupted: as idle as a CPU that has asked nothing.
                self.slot.store(false, Ordering::Release);
            }
        }
    }

    fn crash(&self, machine: &Arc<Machine>) -> bool {
        self.state.fetch_or(CLOSED | FOR_GOOD, Ordering::AcqRel);
        Self::barrier();
        let idle = !self.slot.load(Ordering::Acquire);
        machine.write_a_line();
        idle
    }
}

/// A CPU that a crash does not name makes no SYS.DISABLE once the reset has begun.
fn no_sys_disable_after_a_reset<H: Handovers>() {
    loom::model(|| {
        let shared = Arc::new((H::new(), Arc::new(Machine::new())));
        let kexec = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.kexec(&shared.1))
        };
        let unnamed = shared.0.crash(&shared.1);
        kexec.join().unwrap();
        assert!(!(unnamed && shared.1.late.load(SeqCst)), "SYS.DISABLE after a reset");
    });
}

#[test]
fn product_no_sys_disable_after_a_reset() {
    no_sys_disable_after_a_reset::<Product>();
}

#[test]
fn full_twin_no_sys_disable_after_a_reset() {
    no_sys_disable_after_a_reset::<Twin<true, true, true>>();
}

/// The bug: a closed gate was no obstacle for SYS.DISABLE, whoever had closed it.
#[test]
#[should_panic(expected = "SYS.DISABLE after a reset")]
fn loom_rejects_a_closing_of_another_handover() {
    no_sys_disable_after_a_reset::<Twin<false, true, true>>();
}

#[test]
#[should_panic(expected = "SYS.DISABLE after a reset")]
fn loom_rejects_a_look_before_the_first_call_alone() {
    no_sys_disable_after_a_reset::<Twin<true, false, true>>();
}

#[test]
#[should_panic(expected = "SYS.DISABLE after a reset")]
fn loom_rejects_a_kexec_without_fences() {
    no_sys_disable_after_a_reset::<Twin<true, true, false>>();
}
