//! `tdx-host` for the Linux module: which memory is private, and its reset before the jump. The C shim says what the kernel does; every
//! decision is here. It makes no SEAMCALL: the kernel brings TDX up by itself, and this only listens.

#![no_std]

use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tdx_abi::{Leaf, LineRange, PageRange, PhysAddr, Registers, Status};
use tdx_host::{
    arch,
    gate::{Admission, CpuSlot, Gate},
    handover::{
        HandoverReport, HostMemory, Kexec, KexecKind, NmiStop, Outcome, Policy, StopCpus, hand_over_crash,
        stop_this_cpu,
    },
    platform::{Cpu, CpuId, CpuTask, CpuidOutput, LineReset, Msr, PackageId, Processor, Step, TdxPlatform, detect},
    private_memory::{MAX_PAMT_RANGES, PrivateMemory},
    seamcall::Seamcall,
};

unsafe extern "C" {
    /// RDMSR; false if the register does not exist. Touches `value` alone.
    fn cleanslate_rdmsr(msr: u32, value: *mut u64) -> bool;
    /// Says that this object has a bug, and does not come back.
    fn cleanslate_panic() -> !;
}

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    // SAFETY: a function of the shim without arguments.
    unsafe { cleanslate_panic() }
}

/// Slots of the gate. A CPU beyond them counts as one that never made a SEAMCALL, so the shim refuses such a machine.
pub const CPUS: usize = 1024;

static GATE: Gate<[CpuSlot; CPUS]> = Gate::new([const { CpuSlot::new() }; CPUS]);
static RECORD: PrivateMemory = PrivateMemory::new();

/// Written once, by `cleanslate_detect`, before anything else is called.
struct Platform(UnsafeCell<Option<TdxPlatform>>);

// SAFETY: the shim calls `cleanslate_detect` once, when the module is loaded and no probe is armed yet; afterwards it is only read.
unsafe impl Sync for Platform {}

static PLATFORM: Platform = Platform(UnsafeCell::new(None));

fn platform() -> Option<&'static TdxPlatform> {
    // SAFETY: see `Platform`.
    unsafe { (*PLATFORM.0.get()).as_ref() }
}

struct ThisProcessor;

impl Processor for ThisProcessor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        arch::cpuid(leaf, subleaf)
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the shim writes the value, or nothing.
        unsafe { cleanslate_rdmsr(msr.0, &raw mut value) }.then_some(value)
    }
}

/// Is there TDX, and does this CPU have the erratum? 0: no TDX; 1: TDX; 3: TDX and the erratum.
///
/// # Safety
/// Called once, before any other function of this object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_detect() -> u32 {
    let Ok(found) = detect(&ThisProcessor) else { return 0 };
    // SAFETY: the caller's.
    unsafe { *PLATFORM.0.get() = Some(found) };
    if found.has_partial_write_erratum() { 3 } else { 1 }
}

/// PAMTs that the kernel is about to give to the module, before they are published.
static PENDING: [(AtomicU64, AtomicU64); MAX_PAMT_RANGES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_PAMT_RANGES];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A PAMT `[base, base + bytes)` that SYS.CONFIG names. False if there are too many, or it is none.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_pamt(base: u64, bytes: u64) -> bool {
    if PageRange::from_base_size(PhysAddr::new(base), bytes).is_err() || bytes == 0 {
        return false;
    }
    // The kernel makes this call under a lock of its own, once.
    let index = COUNT.load(Ordering::Relaxed);
    let Some((start, end)) = PENDING.get(index as usize) else { return false };
    start.store(base, Ordering::Relaxed);
    end.store(base + bytes, Ordering::Relaxed);
    COUNT.store(index + 1, Ordering::Release);
    true
}

/// The pending PAMTs in ascending order: the least above the one before, again and again. There are at most 192.
#[derive(Clone)]
struct Ascending {
    above: u64,
}

impl Iterator for Ascending {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let pending = PENDING.iter().take(COUNT.load(Ordering::Acquire) as usize);
        let ranges = pending.map(|(start, end)| (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)));
        let (start, end) = ranges.filter(|(start, _)| *start >= self.above).min()?;
        self.above = end;
        Some(PageRange::inside(PhysAddr::new(start), PhysAddr::new(end)))
    }
}

/// All PAMTs were named: from now on they may be private. 0, or a negative errno; then the handover cannot know what is private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_publish() -> i32 {
    const EINVAL: i32 = 22;
    let named = Ascending { above: 0 };
    // Two that overlap would make one vanish from the list: as many must come out as went in.
    if named.clone().count() != COUNT.load(Ordering::Acquire) as usize {
        return -EINVAL;
    }
    RECORD.publish(named).map_or(-EINVAL, |()| 0)
}

/// KiB of PAMT that may be private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_private_kb() -> u64 {
    RECORD.pamt_ranges().map(PageRange::bytes).sum::<u64>() / 1024
}

/// CPUs that this object can watch.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_cpus() -> u32 {
    CPUS as u32
}

/// The kernel is about to make this SEAMCALL on this CPU: from now on its caches may hold private lines.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_seamcall(cpu: u32, leaf: u64) {
    // The kernel makes the call whatever the gate says; what matters is the mark that stays in the slot.
    drop(GATE.admission(CpuId(cpu)).enter(Leaf(leaf as u16)));
}

/// The kernel stops this CPU for good: its caches are written back.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_stop_this_cpu(cpu: u32) {
    stop_this_cpu(ThisCpu { id: CpuId(cpu), direct_map: 0 }, platform());
}

/// The CPU that runs this.
#[derive(Clone, Copy)]
struct ThisCpu {
    id: CpuId,
    /// Where physical address 0 is mapped, writable.
    direct_map: u64,
}

impl Seamcall for ThisCpu {
    /// Never made: this module only listens.
    fn seamcall(&self, registers: Registers) -> Registers {
        Registers { rax: Status::GATE_CLOSED.raw(), ..registers }
    }
}

impl LineReset for ThisCpu {
    fn reset_lines(&self, lines: LineRange) {
        let first = self.direct_map.wrapping_add(lines.start().start().get());
        let first = core::ptr::with_exposed_provenance_mut(first as usize);
        // SAFETY: PAMTs that the kernel has given to the module: nobody uses them, and on a CPU with TDX there is MOVDIR64B. The
        // shim gives the kernel's direct map, in which the kernel itself clears PAMTs after a failed bring-up.
        unsafe { arch::movdir64b_zero(first, lines.len()) };
    }

    fn fence(&self) {
        arch::mfence();
    }
}

impl Cpu for ThisCpu {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    fn write_back_caches(&self) {
        // SAFETY: the kernel runs at CPL 0.
        unsafe { arch::wbinvd() };
    }

    fn flush_lines(&self, _lines: LineRange) {}

    fn admission(&self) -> Admission<'_> {
        GATE.admission(self.id())
    }
}

/// The machine as `machine_kexec` finds it: the kernel has stopped the other CPUs.
struct Alone {
    cpu: ThisCpu,
    online: u32,
}

impl StopCpus for Alone {
    type Cpu = ThisCpu;

    fn this_cpu(&self) -> ThisCpu {
        self.cpu
    }

    fn stop_other_cpus(&self) -> u32 {
        self.online
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<ThisCpu>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.cpu, &mut local) == Step::Again {}
    }
}

impl NmiStop for Alone {
    /// The kernel has sent its NMIs.
    fn stop_other_cpus(&self) {}

    fn is_online(&self, cpu: CpuId) -> bool {
        cpu.0 < self.online
    }
}

/// What a handover did.
#[repr(C)]
#[derive(Default)]
pub struct Handover {
    /// Lines rewritten.
    pub lines: u64,
    /// Nothing private is left, as far as this module knows.
    pub clean: bool,
    /// Some CPU has not stopped; nothing was done.
    pub not_alone: bool,
}

fn memory() -> HostMemory<'static> {
    HostMemory {
        platform: platform(),
        features: None,
        record: &RECORD,
        ledger: None,
        gate: GATE.handle(),
        untouched: &[],
    }
}

fn told(report: &HandoverReport) -> Handover {
    let lines = match report.outcome {
        Outcome::Reset(count) => count.lines,
        _ => 0,
    };
    Handover { lines, clean: report.is_clean(&memory()), not_alone: false }
}

/// Resets all that may be private, by policy `tracked`. `direct_map` is where physical address 0 is mapped; `online` counts the CPUs
/// that run, of which this is `cpu`.
///
/// # Safety
/// Called right before the jump into the next kernel: interrupts are off, and `direct_map` maps all of memory writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_hand_over(direct_map: u64, cpu: u32, online: u32, crash: bool) -> Handover {
    let alone = Alone { cpu: ThisCpu { id: CpuId(cpu), direct_map }, online };
    if crash {
        return told(&hand_over_crash(Policy::Tracked, &alone.cpu, GATE.handle(), &alone, memory));
    }
    let Ok(kexec) = Kexec::begin(Policy::Tracked, KexecKind::Normal, memory()) else { return Handover::default() };
    match kexec.stop_other_cpus(&alone) {
        Ok(stopped) => told(&stopped.ask_module(|_| ()).write_back_caches().reset(core::iter::empty())),
        Err(_) => Handover { not_alone: true, ..Handover::default() },
    }
}
