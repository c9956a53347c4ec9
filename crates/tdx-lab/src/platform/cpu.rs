//! One CPU of the software machine, as the product sees it.

use tdx_abi::{LineRange, Registers};
use tdx_host::{
    gate::Admission,
    platform::{Cpu, CpuId, LineReset, PackageId},
    seamcall::Seamcall,
};

use super::Lab;

/// A CPU. Copies are handles to the same one: the laboratory has one thread, so each is as good as pinned.
#[derive(Clone, Copy)]
pub struct LabCpu<'l> {
    lab: &'l Lab<'l>,
    id: tdx_machine::CpuId,
    package: PackageId,
}

impl<'l> LabCpu<'l> {
    pub(super) fn new(lab: &'l Lab<'l>, number: u32) -> Self {
        let id = tdx_machine::CpuId(number);
        let package = lab.try_act(|machine| machine.package_of(id));
        Self { lab, id, package: PackageId(package.0) }
    }
}

impl LabCpu<'_> {
    /// An operation on the platform, between two points where the kernel may be stopped.
    fn operate<R>(&self, operation: impl FnOnce() -> R) -> R {
        self.lab.freezer.tick();
        let result = operation();
        self.lab.freezer.tick();
        result
    }
}

impl Seamcall for LabCpu<'_> {
    fn seamcall(&self, registers: Registers) -> Registers {
        self.operate(|| self.lab.seamcall(self.id, registers))
    }
}

impl LineReset for LabCpu<'_> {
    fn reset_lines(&self, lines: LineRange) {
        self.lab.freezer.before_reset();
        self.operate(|| self.lab.try_act(|machine| machine.direct_store(self.id, lines)));
    }

    fn fence(&self) {
        self.operate(|| self.lab.try_act(|machine| machine.fence(self.id)));
    }
}

impl Cpu for LabCpu<'_> {
    fn id(&self) -> CpuId {
        CpuId(self.id.0)
    }

    fn package(&self) -> PackageId {
        self.package
    }

    fn write_back_caches(&self) {
        self.operate(|| self.lab.try_act(|machine| machine.wbinvd(self.id)));
    }

    fn flush_lines(&self, lines: LineRange) {
        self.operate(|| self.lab.try_act(|machine| machine.flush_lines(self.id, lines, tdx_abi::KeyId::HOST)));
    }

    fn admission(&self) -> Admission<'_> {
        self.lab.gate().admission(self.id())
    }
}
