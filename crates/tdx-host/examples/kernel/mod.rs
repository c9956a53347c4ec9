// The smallest kernel for `tdx-host`: every trait that it asks a kernel for, over the software
// machine. CPUs take turns, one step each, and pages are handed out one by one.
//
// The examples share it as a module. The examples in the documentation include it as text, hence no
// `//!` here. What a kernel on hardware writes in place of each piece is said there;
// `bare/firstkernel` in the repository is such a kernel.

use std::cell::{RefCell, RefMut};
use std::sync::atomic::AtomicU64;

use tdx_host::{
    Cpu, CpuGate, CpuId, CpuSlot, CpuTask, CpuidOutput, Cpus, FrameRequest, FrameSource, Host, KeyId, Ledger,
    LineRange, LineReset, LocalProcessor, MapFrames, Msr, NmiStop, NodeId, NodeRange, OwnedPages, PAGE_SIZE, PackageId,
    Page, PageRange, PhysAddr, Places, Processor, Registers, Seamcall, SharedMemory, SharedPage, Step, StopCpus,
    stop_this_cpu_at_crash,
};
use tdx_machine::{AccessError, CpuModel, Machine, MachineCheck, MachineConfig, MsrRead, PartialStore};

const fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start / PAGE_SIZE), Page::new(end / PAGE_SIZE))
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Usable memory, as the firmware's map has it: 2 GiB on node 0 and 4 GiB on node 1.
pub static MEMORY: [NodeRange; 2] = [
    NodeRange { range: range(MIB, 2 * GIB), node: NodeId(0) },
    NodeRange { range: range(4 * GIB, 8 * GIB), node: NodeId(1) },
];

/// Where this kernel runs: its own image and what it works with.
pub const IMAGE: PageRange = range(MIB, 32 * MIB);

/// Reserved for the crash kernel. Never given to TDX, never written by a reset.
pub const CRASH_KERNEL: PageRange = range(64 * MIB, 96 * MIB);

/// The machine, and a slot for each of its CPUs. In a kernel the slots are a
/// `static [CpuSlot; MAX_CPUS]`.
pub struct Hardware {
    machine: RefCell<Machine>,
    slots: Vec<CpuSlot>,
}

impl Hardware {
    /// A Sapphire Rapids host with four CPUs in two packages and module 1.5.01, after power-on.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// The same with changes: another CPU, another module, TDX off in the BIOS.
    pub fn with(change: impl FnOnce(&mut MachineConfig)) -> Self {
        let mut config = MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, 4, 2, MEMORY.iter().map(|part| part.range));
        change(&mut config);
        let machine = Machine::new(config).expect("such a machine can exist");
        let slots = (0..machine.cpus()).map(|_| CpuSlot::new()).collect();
        Self { machine: RefCell::new(machine), slots }
    }

    /// The machine itself: to look at it, and for what no kernel would do on purpose.
    pub fn machine(&self) -> RefMut<'_, Machine> {
        self.machine.borrow_mut()
    }

    /// For [`Host::new`].
    pub fn slots(&self) -> &[CpuSlot] {
        &self.slots
    }
}

/// On hardware: [`tdx_host::arch::cpuid`] and [`tdx_host::arch::rdmsr`].
impl Processor for Hardware {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        let output =
            self.machine().cpuid(tdx_machine::CpuId(0), leaf, subleaf).expect("detection reads modeled leaves");
        CpuidOutput { eax: output.eax, ebx: output.ebx, ecx: output.ecx, edx: output.edx }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        match self.machine().rdmsr(tdx_machine::CpuId(0), msr.0).expect("detection reads modeled MSRs") {
            MsrRead::Value(value) => Some(value),
            MsrRead::GeneralProtection => None,
        }
    }
}

// SAFETY: the machine's own answers.
unsafe impl LocalProcessor for Hardware {}

/// A CPU. In a kernel the code that holds one is pinned to that CPU, with preemption off.
#[derive(Clone, Copy)]
pub struct KernelCpu<'h> {
    hardware: &'h Hardware,
    tdx: &'h Host<'h>,
    id: CpuId,
}

impl KernelCpu<'_> {
    fn machine(&self) -> (RefMut<'_, Machine>, tdx_machine::CpuId) {
        (self.hardware.machine(), tdx_machine::CpuId(self.id.0))
    }
}

/// On hardware: [`tdx_host::arch::seamcall`].
// SAFETY: the software machine executes the call and gives all registers.
unsafe impl Seamcall for KernelCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        let (mut machine, cpu) = self.machine();
        machine.seamcall(cpu, registers).expect("the software machine models this SEAMCALL")
    }
}

/// On hardware: [`tdx_host::arch::movdir64b_zero`] and [`tdx_host::arch::mfence`].
// SAFETY: MOVDIR64B of each line on the software machine, whose fence is that of the CPU.
unsafe impl LineReset for KernelCpu<'_> {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        let (mut machine, cpu) = self.machine();
        machine.direct_store(cpu, lines).expect("memory that is there");
        0
    }

    fn fence(&self) {
        let (mut machine, cpu) = self.machine();
        machine.fence(cpu).expect("a CPU that is there");
    }
}

/// On hardware: [`tdx_host::arch::wbinvd`] and [`tdx_host::arch::clflushopt`].
// SAFETY: a CPU of the software machine does what its handle is told, whichever thread holds it.
unsafe impl Cpu for KernelCpu<'_> {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        let (machine, cpu) = self.machine();
        PackageId(machine.package_of(cpu).expect("a CPU that is there").0)
    }

    fn write_back_caches(&self) {
        let (mut machine, cpu) = self.machine();
        machine.wbinvd(cpu).expect("a CPU that is there");
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        let (mut machine, cpu) = self.machine();
        machine.flush_lines(cpu, lines, KeyId::HOST).expect("memory that is there");
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: one thread is all CPUs here, one after the other.
        unsafe { self.tdx.gate().cpu_gate(self.id) }
    }
}

/// The kernel. It runs on CPU 0 unless [`Kernel::this`] says otherwise.
pub struct Kernel<'h> {
    hardware: &'h Hardware,
    tdx: &'h Host<'h>,
    /// The CPU that this code runs on.
    pub this: u32,
    /// A CPU that does not react to IPI or NMI.
    pub deaf: Option<u32>,
    frames: MapFrames<'static>,
}

impl<'h> Kernel<'h> {
    /// All CPUs are online and in VMX operation; all memory but the kernel's and the crash kernel's
    /// is free.
    pub fn boot(hardware: &'h Hardware, tdx: &'h Host<'h>) -> Self {
        let cpus = hardware.machine().cpus();
        for cpu in 0..cpus {
            hardware.machine().vmxon(tdx_machine::CpuId(cpu)).expect("a CPU that is there");
        }
        let mut frames = MapFrames::new(&MEMORY);
        assert!(frames.reserve(IMAGE) && frames.reserve(CRASH_KERNEL));
        Self { hardware, tdx, this: 0, deaf: None, frames }
    }

    /// As [`Kernel::boot`], with TDX up.
    pub fn with_tdx(hardware: &'h Hardware, tdx: &'h Host<'h>) -> Self {
        let mut kernel = Self::boot(hardware, tdx);
        tdx.detect(hardware).expect("this machine has TDX");
        tdx.bring_up(&mut kernel, &MEMORY).expect("the bring-up succeeds");
        kernel
    }

    /// The CPU that this code runs on.
    pub fn cpu(&self) -> KernelCpu<'h> {
        self.cpu_number(self.this)
    }

    /// A CPU by number.
    pub fn cpu_number(&self, number: u32) -> KernelCpu<'h> {
        KernelCpu { hardware: self.hardware, tdx: self.tdx, id: CpuId(number) }
    }

    fn cpus(&self) -> impl Iterator<Item = KernelCpu<'h>> {
        let count = self.hardware.machine().cpus();
        (0..count).map(|number| self.cpu_number(number))
    }

    fn others(&self) -> impl Iterator<Item = KernelCpu<'h>> {
        self.cpus().filter(|cpu| cpu.id.0 != self.this && Some(cpu.id.0) != self.deaf)
    }

    /// Runs the task on these CPUs, one step each in turn. A kernel sends IPIs, and the CPUs work
    /// in parallel.
    fn run<T: CpuTask<KernelCpu<'h>>>(cpus: impl Iterator<Item = KernelCpu<'h>>, task: &T) {
        let mut running: Vec<_> = cpus.map(|cpu| (cpu, T::Local::default())).collect();
        while !running.is_empty() {
            running.retain_mut(|(cpu, local)| task.step(cpu, local) == Step::Again);
        }
    }

    /// A free 4 KiB page that a TD can have: inside a TDMR.
    pub fn take_page<'l>(&mut self, ledger: &'l Ledger<'l>) -> SharedPage<'l> {
        let tdmrs: Vec<PageRange> = ledger.ranges().collect();
        let page = tdmrs
            .into_iter()
            .find_map(|within| self.allocate(FrameRequest { within, ..FrameRequest::anywhere(1, None) }))
            .expect("there is free memory");
        SharedPage::take(ledger, page).expect("a free page is shared")
    }

    /// A page of the kernel's own, for what it shows to the module.
    pub fn own_page(&mut self) -> OwnedPages {
        self.allocate_any(1).expect("there is free memory")
    }

    /// Back into the allocator.
    pub fn put_page(&mut self, page: SharedPage<'_>) {
        self.free(page.release());
    }

    /// The jump, and a next kernel that knows nothing of TDX: it stores less than 64 bytes to
    /// every line of all memory, and reads it back. Lines that waited in a cache are written back
    /// under it.
    ///
    /// # Errors
    /// The machine check that kills it.
    pub fn next_kernel(&self) -> Result<(), MachineCheck> {
        let mut machine = self.hardware.machine();
        machine.kexec_boundary();
        for run in machine.dirty_private_runs() {
            machine.evict(run.lines, run.key);
        }
        for part in &MEMORY {
            let used = machine.use_memory(tdx_machine::CpuId(0), part.range, PartialStore::NonTemporal);
            if let Some(check) = used.expect("memory that is there").first {
                return Err(check);
            }
        }
        Ok(())
    }

    /// The jump, and a crash kernel that reads all old memory but `left_alone`, as /proc/vmcore
    /// does.
    ///
    /// # Errors
    /// The machine check that kills it.
    pub fn crash_kernel(&self, left_alone: &[PageRange]) -> Result<(), MachineCheck> {
        let mut machine = self.hardware.machine();
        machine.kexec_boundary();
        let mut skipped = left_alone.to_vec();
        skipped.sort_unstable_by_key(|range| range.start());
        for part in tdx_abi::subtract(MEMORY.iter().map(|part| part.range), skipped) {
            match machine.load(tdx_machine::CpuId(self.this), part.lines(), KeyId::HOST) {
                Ok(()) => {}
                Err(AccessError::MachineCheck(check)) => return Err(check),
                Err(AccessError::Refused(refusal)) => panic!("{refusal}"),
            }
        }
        Ok(())
    }
}

/// On hardware: IPIs for other CPUs, and the caller waits.
// SAFETY: the task runs on every CPU of the machine, or one of each package, to its end.
unsafe impl<'h> Cpus for Kernel<'h> {
    type Cpu = KernelCpu<'h>;

    fn run_on_all<T: CpuTask<KernelCpu<'h>>>(&self, task: &T) {
        Self::run(self.cpus(), task);
    }

    fn run_on_each_package<T: CpuTask<KernelCpu<'h>>>(&self, task: &T) {
        let mut packages: Vec<PackageId> = Vec::new();
        for cpu in self.cpus() {
            if !packages.contains(&cpu.package()) {
                packages.push(cpu.package());
                Self::run(std::iter::once(cpu), task);
            }
        }
    }

    fn run_here<R>(&self, function: impl FnOnce(&KernelCpu<'h>) -> R) -> R {
        function(&self.cpu())
    }
}

/// On hardware: the allocator of contiguous ranges.
// SAFETY: `MapFrames` hands out each page of the map once; the kernel's and the crash kernel's are
// taken at boot, and nothing else here uses memory of the software machine.
unsafe impl FrameSource for Kernel<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        // SAFETY: as above.
        self.frames.allocate(request).map(|range| unsafe { OwnedPages::new(range) })
    }

    fn free(&mut self, pages: OwnedPages) {
        self.frames.free(pages.into_range());
    }
}

/// On hardware: stores through the direct map.
// SAFETY: writes these bytes of the software machine.
unsafe impl SharedMemory for Kernel<'_> {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        let cpu = tdx_machine::CpuId(self.this);
        self.hardware.machine().write_shared(cpu, address, bytes).expect("memory that is there");
    }
}

/// On hardware: an IPI whose handler runs [`Host::stop_this_cpu`], acknowledges, and waits with
/// interrupts off.
// SAFETY: all CPUs take turns on one thread; one that has stopped has no turn but in
// `run_on_stopped`.
unsafe impl<'h> StopCpus for Kernel<'h> {
    type Cpu = KernelCpu<'h>;

    fn this_cpu(&self) -> KernelCpu<'h> {
        self.cpu()
    }

    fn stop_other_cpus(&self) -> u32 {
        self.others().for_each(|cpu| self.tdx.stop_this_cpu(cpu));
        1 + u32::from(self.deaf.is_some())
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<KernelCpu<'h>>>(&self, task: &T) {
        Self::run(self.cpus(), task);
    }
}

/// On hardware: an NMI whose handler runs [`stop_this_cpu_at_crash`] and halts, and a wait of a
/// second at most.
// SAFETY: as for `StopCpus`; every CPU of the machine is online.
unsafe impl NmiStop for Kernel<'_> {
    fn stop_other_cpus(&self) {
        self.others().for_each(|cpu| stop_this_cpu_at_crash(&cpu));
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        cpu.0 < self.hardware.machine().cpus()
    }
}

/// Words from the kernel's allocator, for [`Host::track`]. Never freed, as long as TDX is up.
pub fn words(count: usize) -> &'static mut [AtomicU64] {
    (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}
