//! One CPU of the software machine, as the product sees it.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

use tdx_abi::{KeyId, LineRange, PageRange, Registers};
use tdx_host::{
    gate::{CpuGate, GateHandle},
    platform::{Cpu, CpuId, LineReset, NodeId, PackageId},
    seamcall::Seamcall,
};
use tdx_machine::PartialStore;

use super::{Act, Deed, Lab, Operation};

/// A CPU. Copies are handles to the same one: each is as good as pinned, because a kernel here runs
/// on a CPU and not on a thread.
#[derive(Clone, Copy)]
pub struct LabCpu<'l> {
    lab: &'l Lab<'l>,
    gate: GateHandle<'l>,
    id: tdx_machine::CpuId,
    package: PackageId,
}

impl<'l> LabCpu<'l> {
    pub(super) fn new(lab: &'l Lab<'l>, gate: GateHandle<'l>, number: u32) -> Self {
        let id = tdx_machine::CpuId(number);
        let package = lab.try_act(|machine| machine.package_of(id));
        Self { lab, gate, id, package: PackageId(package.0) }
    }
}

impl LabCpu<'_> {
    /// An operation on the platform, between two points where the kernel may be stopped.
    pub(crate) fn operate(&self, operation: Operation, perform: impl FnOnce(Deed)) {
        self.operate_to(operation, |deed| {
            perform(deed);
            operation
        });
    }

    /// The same, for one that has become another when it is done.
    pub(super) fn operate_to(&self, operation: Operation, perform: impl FnOnce(Deed) -> Operation) {
        self.lab.operate(self.id, operation, perform);
    }

    /// The same for the lines of an operation.
    fn each(lines: LineRange, deed: Deed, mut perform: impl FnMut(LineRange)) {
        match deed {
            Deed::Skip => {}
            Deed::Lines(parts) => parts.into_iter().for_each(perform),
            _ => perform(lines),
        }
    }
}

// SAFETY: the machine executes the call, or the watcher says what is done and answered instead; the
// memory of the machine is not Rust memory (`promise`).
unsafe impl Seamcall for LabCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        let act = Act { cpu: self.id, operation: Operation::Seamcall(registers) };
        self.lab.freezer.tick();
        let mut answer = match self.lab.watcher.before(self.lab, &act) {
            Deed::Answer(answer) => answer,
            Deed::Call(other) => self.lab.seamcall(self.id, other),
            _ => self.lab.seamcall(self.id, registers),
        };
        self.lab.watcher.after(self.lab, &act, Some(&mut answer));
        self.lab.freezer.tick();
        answer
    }
}

// SAFETY: as above.
unsafe impl LineReset for LabCpu<'_> {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        let (lab, id) = (self.lab, self.id);
        lab.freezer.before_reset();
        let mut left = lines.len();
        for lines in lab.mapped(lines.pages()).into_iter().map(PageRange::lines) {
            left -= lines.len();
            self.operate(Operation::Reset(lines), |deed| match deed {
                Deed::CachedStores => lab.try_act(|machine| machine.store(id, lines, KeyId::HOST)),
                Deed::NonTemporalStores => {
                    lab.try_act(|machine| {
                        machine.partial_write(id, lines, KeyId::HOST, PartialStore::NonTemporal).map(drop)
                    });
                }
                deed => Self::each(lines, deed, |lines| lab.try_act(|machine| machine.direct_store(id, lines))),
            });
        }
        left
    }

    fn fence(&self) {
        self.operate(Operation::Fence, |deed| {
            if deed != Deed::Skip {
                self.lab.try_act(|machine| machine.fence(self.id));
            }
        });
    }
}

// SAFETY: as above; a handle acts on its CPU of the machine, whichever thread holds it.
unsafe impl Cpu for LabCpu<'_> {
    fn id(&self) -> CpuId {
        CpuId(self.id.0)
    }

    fn package(&self) -> PackageId {
        self.package
    }

    /// A package is a node.
    fn node(&self) -> Option<NodeId> {
        Some(NodeId(self.package.0))
    }

    fn write_back_caches(&self) {
        self.operate(Operation::WriteBack, |deed| {
            if deed != Deed::Skip {
                self.lab.try_act(|machine| machine.wbinvd(self.id));
            }
        });
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        let (lab, id) = (self.lab, self.id);
        self.operate(Operation::Flush(lines), |deed| {
            Self::each(lines, deed, |lines| lab.try_act(|machine| machine.flush_lines(id, lines, KeyId::HOST)));
        });
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: a kernel here is on one CPU at a time, and each CPU's code on one thread.
        unsafe { self.gate.cpu_gate(self.id()) }
    }
}
