//! Some CPUs that write down what they are asked to do, in one list, and answer SEAMCALLs from a
//! script. They model nothing.

use crate::promise::{self, Mark as _};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use tdx_abi::{LineRange, Page, PageRange, PamtPageType, PhysAddr, Registers, Status, TdxFeatures0};
use tdx_host::Host;
use tdx_host::gate::{CpuGate, GateHandle};
use tdx_host::handover::{
    HandoverReport, HostMemory, Kexec, KexecKind, NmiStop, Policy, StopCpus, hand_over_crash, stop_this_cpu,
    stop_this_cpu_at_crash,
};
use tdx_host::ledger::Ledger;
use tdx_host::platform::{
    Cpu, CpuId, CpuTask, CpuidOutput, LineReset, Msr, PackageId, Processor, Step, TdxPlatform, detect,
};
use tdx_host::seamcall::Seamcall;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Seamcall(tdx_abi::Leaf),
    WriteBack,
    Reset(LineRange),
    Fence,
}

/// CPUs in VMX operation; 0 is the one that hands over.
pub(crate) struct World {
    pub(crate) host: Box<Host<'static>>,
    pub(crate) features: Option<TdxFeatures0>,
    /// In place of one of the host's, so that a page of it can lie in reserved memory.
    pub(crate) ledger: Option<Ledger<'static>>,
    events: RefCell<Vec<(u32, Event)>>,
    answers: RefCell<VecDeque<Status>>,
    /// Pages of which PHYMEM.PAGE.RDMD says that the module has them, each for itself; of all
    /// others that it does not.
    held: PageRange,
    /// CPUs that ignore every request to stop.
    pub(crate) stuck: Vec<u32>,
    pub(crate) resumed: RefCell<bool>,
}

pub(crate) fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

/// The module says that it has SYS.DISABLE.
pub(crate) const WITH_DISABLE: TdxFeatures0 = TdxFeatures0::new(1 << 53);

impl World {
    /// A Sapphire Rapids host on which TDX is up, with PAMTs at pages 16 to 20 and no ledger.
    pub(crate) fn new(cpus: usize) -> Self {
        Self::on(Some(&SAPPHIRE_RAPIDS), cpus)
    }

    /// The same on another platform, or on one that was not detected.
    pub(crate) fn on(model: Option<&Model>, cpus: usize) -> Self {
        let world = Self::without_pamts(model, cpus);
        promise::observe_pamts(&world.host, [pages(16, 18), pages(18, 19), pages(19, 20)]).unwrap();
        world
    }

    /// Nothing was handed to the module.
    pub(crate) fn without_pamts(model: Option<&Model>, cpus: usize) -> Self {
        let host = promise::host(cpus);
        if let Some(model) = model {
            promise::set_platform(&host, detect(model).unwrap());
        }
        Self {
            host,
            features: Some(TdxFeatures0::MODULE_1_5_01),
            ledger: None,
            events: RefCell::default(),
            answers: RefCell::default(),
            held: PageRange::default(),
            stuck: Vec::new(),
            resumed: RefCell::new(false),
        }
    }

    /// With a ledger over pages [512, 1536): 600 given, 601 returned, 1024 to 1100 in a SEAMCALL.
    pub(crate) fn with_pages(mut self) -> Self {
        let words: Vec<_> = (0..Ledger::words_needed([pages(512, 1536)])).map(|_| AtomicU64::new(0)).collect();
        let ledger = Ledger::new([pages(512, 1536)], words.leak()).unwrap();
        for range in [pages(600, 602), pages(1024, 1100)] {
            ledger.mark_in_flight(range).unwrap();
        }
        ledger.mark_private(pages(600, 602)).unwrap();
        ledger.mark_returned(pages(601, 602)).unwrap();
        self.ledger = Some(ledger);
        self
    }

    /// The next SEAMCALLs end so; all after them succeed.
    pub(crate) fn answering(self, statuses: impl IntoIterator<Item = Status>) -> Self {
        self.answers.borrow_mut().extend(statuses);
        self
    }

    /// Pages that the module has.
    pub(crate) fn holding(self, held: PageRange) -> Self {
        Self { held, ..self }
    }

    /// Memory that is never touched.
    pub(crate) fn reserving(self, ranges: &[PageRange]) -> Self {
        self.host.reserve(ranges).unwrap();
        self
    }

    pub(crate) fn gate(&self) -> GateHandle<'_> {
        self.host.gate()
    }

    pub(crate) fn platform(&self) -> Option<&TdxPlatform> {
        self.host.platform()
    }

    pub(crate) fn memory(&self) -> HostMemory<'_> {
        let memory = promise::with_ledger(self.host.memory(), self.ledger.as_ref());
        self.features.map_or(memory, |features| memory.with_features(features))
    }

    pub(crate) fn cpu(&self, id: u32) -> TestCpu<'_> {
        TestCpu { world: self, id }
    }

    fn cpus(&self) -> impl Iterator<Item = TestCpu<'_>> {
        self.gate().activity().map(|activity| self.cpu(activity.cpu.0))
    }

    pub(crate) fn take(&self) -> Vec<(u32, Event)> {
        self.events.take()
    }

    /// What CPU 0 and nobody else did.
    pub(crate) fn take_alone(&self) -> Vec<Event> {
        let events = self.take();
        assert!(events.iter().all(|(cpu, _)| *cpu == 0), "{events:?}");
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// A kexec from begin to jump; `Everything` may have pages [0, 100).
    pub(crate) fn kexec(&self, policy: Policy, kind: KexecKind) -> HandoverReport {
        let kexec = Kexec::begin(policy, kind, self.memory()).unwrap().stop_other_cpus(&self).unwrap();
        promise::reset(kexec.ask_module(|_| ()).write_back_caches(), [pages(0, 100)])
    }
}

impl World {
    /// A panic on CPU 0.
    pub(crate) fn crash(&self, policy: Policy) -> HandoverReport {
        hand_over_crash(policy, &self.cpu(0), self, &self.memory())
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl<'w> StopCpus for &'w World {
    type Cpu = TestCpu<'w>;

    fn this_cpu(&self) -> TestCpu<'w> {
        self.cpu(0)
    }

    fn stop_other_cpus(&self) -> u32 {
        let obeying = self.cpus().skip(1).filter(|cpu| !self.stuck.contains(&cpu.id));
        obeying.for_each(|cpu| stop_this_cpu(cpu, self.platform()));
        1 + self.stuck.len() as u32
    }

    fn resume_other_cpus(&self) {
        *self.resumed.borrow_mut() = true;
    }

    /// One step on each CPU in turn.
    fn run_on_stopped<T: CpuTask<TestCpu<'w>>>(&self, task: &T) {
        let mut running: Vec<_> = self.cpus().map(|cpu| (cpu, T::Local::default())).collect();
        while !running.is_empty() {
            running.retain_mut(|(cpu, local)| task.step(cpu, local) == Step::Again);
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct TestCpu<'w> {
    world: &'w World,
    id: u32,
}

impl TestCpu<'_> {
    fn push(&self, event: Event) {
        self.world.events.borrow_mut().push((self.id, event));
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for TestCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        self.push(Event::Seamcall(registers.leaf_call().leaf()));
        let status = self.world.answers.borrow_mut().pop_front().unwrap_or(Status::SUCCESS);
        let answer = Registers { rax: status.raw(), ..registers };
        if registers.leaf_call().leaf() != tdx_abi::Leaf::PHYMEM_PAGE_RDMD {
            return answer;
        }
        let is_held = self.world.held.contains(PhysAddr::new(registers.rcx).page());
        let kind = if is_held { PamtPageType::REG } else { PamtPageType::NDA };
        Registers { rcx: kind.0.into(), r8: 0, ..answer }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for TestCpu<'_> {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        self.push(Event::Reset(lines));
        0
    }

    fn fence(&self) {
        self.push(Event::Fence);
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for TestCpu<'_> {
    fn id(&self) -> CpuId {
        CpuId(self.id)
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    fn write_back_caches(&self) {
        self.push(Event::WriteBack);
    }

    unsafe fn flush_lines(&self, _lines: LineRange) {}

    fn cpu_gate(&self) -> CpuGate<'_> {
        promise::cpu_gate(self.world.gate(), self.id())
    }
}

/// The crash kernel's way: every CPU is online; those that hear the NMI stop.
// SAFETY: a model: no memory of this program is behind it.
unsafe impl NmiStop for World {
    fn stop_other_cpus(&self) {
        let hearing = self.cpus().skip(1).filter(|cpu| !self.stuck.contains(&cpu.id));
        hearing.for_each(|cpu| stop_this_cpu_at_crash(&cpu));
    }

    fn is_online(&self, _cpu: CpuId) -> bool {
        true
    }
}

/// CPUID and MSRs of a host with TDX on; `version` is CPUID leaf 1 EAX.
pub(crate) struct Model {
    version: u32,
}

pub(crate) const SAPPHIRE_RAPIDS: Model = Model { version: 0x0008_06f8 };
pub(crate) const GRANITE_RAPIDS: Model = Model { version: 0x000a_06d1 };

impl Processor for Model {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
        match leaf {
            0 => CpuidOutput { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
            1 => CpuidOutput { eax: self.version, ..CpuidOutput::default() },
            7 => CpuidOutput { ecx: 1 << 28, ..CpuidOutput::default() },
            _ => CpuidOutput::default(),
        }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        Some(if msr == Msr::TME_ACTIVATE { 6 << 32 } else { 0x20_0000_001f })
    }
}
