//! A CPU that writes down what it is asked to do and answers SEAMCALLs from a script. It models
//! nothing.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]
#![allow(dead_code)] // each test binary uses its own part

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use tdx_abi::{LineRange, Registers, Status};
use tdx_host::gate::CpuGate;
use tdx_host::platform::{Cpu, CpuId, CpuidOutput, LineReset, Msr, PackageId, Processor};
use tdx_host::seamcall::Seamcall;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Seamcall(u64),
    WriteBack,
    Flush(LineRange),
    Reset(LineRange),
    Fence,
}

#[derive(Clone, Default)]
pub(crate) struct Recorder {
    pub(crate) events: Rc<RefCell<Vec<Event>>>,
    pub(crate) answers: Rc<RefCell<VecDeque<Status>>>,
    pub(crate) host: Rc<TestHost>,
    /// Lines in no mapping.
    pub(crate) unmapped: LineRange,
}

/// Of 8 CPUs.
pub(crate) struct TestHost(pub(crate) Box<tdx_host::Host<'static>>);

impl Default for TestHost {
    fn default() -> Self {
        Self(crate::promise::host(8))
    }
}

impl Recorder {
    pub(crate) fn answering(statuses: impl IntoIterator<Item = Status>) -> Self {
        let recorder = Self::default();
        recorder.answers.borrow_mut().extend(statuses);
        recorder
    }

    pub(crate) fn push(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        self.events.take()
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Seamcall for Recorder {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        self.push(Event::Seamcall(registers.rax));
        let status = self.answers.borrow_mut().pop_front().unwrap_or(Status::SUCCESS);
        Registers { rax: status.raw(), ..registers }
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for Recorder {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        self.push(Event::Reset(lines));
        self.unmapped.intersection(lines).len()
    }

    fn fence(&self) {
        self.push(Event::Fence);
    }
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl Cpu for Recorder {
    fn id(&self) -> CpuId {
        CpuId(7)
    }

    fn package(&self) -> PackageId {
        PackageId(0)
    }

    fn write_back_caches(&self) {
        self.push(Event::WriteBack);
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        self.push(Event::Flush(lines));
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        crate::promise::cpu_gate(self.host.0.gate(), self.id())
    }
}

/// CPUID and MSRs of a host with TDX on; `version` is CPUID leaf 1 EAX.
pub(crate) struct Host {
    pub(crate) version: u32,
}

pub(crate) const SAPPHIRE_RAPIDS: Host = Host { version: 0x0008_06f8 };
pub(crate) const GRANITE_RAPIDS: Host = Host { version: 0x000a_06d1 };

impl Processor for Host {
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
