//! Initial states of a virtual CPU: real mode after INIT-SIPI, long mode for the boot CPU.

use super::Vcpu;
use crate::vmcb::{self, EFER_SVME, GuestRegisters, Segment};

impl Vcpu {
    /// State after INIT and SIPI: real mode, CS:IP at the SIPI vector's page.
    pub fn reset(&mut self, page: u64) {
        self.finish_halt(false);
        let vmcb = &mut self.vmcb;
        let data = Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        (vmcb.es, vmcb.ss, vmcb.ds, vmcb.fs, vmcb.gs) = (data, data, data, data, data);
        vmcb.cs = Segment { selector: (page << 8) as u16, attributes: 0x9b, limit: 0xffff, base: page << 12 };
        vmcb.gdtr = Segment { limit: 0xffff, ..Segment::default() };
        vmcb.idtr = vmcb.gdtr;
        vmcb.ldtr = Segment { attributes: 0x82, limit: 0xffff, ..Segment::default() };
        vmcb.tr = Segment { attributes: 0x8b, limit: 0xffff, ..Segment::default() };
        (vmcb.cr0, vmcb.cr3, vmcb.cr4, vmcb.cr2) = (0x10, 0, 0, 0);
        (vmcb.efer, vmcb.rflags, vmcb.rip, vmcb.rsp, vmcb.rax) = (EFER_SVME, 2, 0, 0, 0);
        (vmcb.dr6, vmcb.dr7, vmcb.cpl, vmcb.inject, vmcb.interrupt_shadow) = (0xffff_0ff0, 0x400, 0, 0, 0);
        *self.registers = GuestRegisters::default();
        self.vmxe = false;
        (self.in_nmi, self.nmi_return) = (false, None);
        self.vmcb.intercept_1 &= !vmcb::INTERCEPT_IRET;
    }

    /// Long mode at `entry` with identity page tables at `page_tables` and `argument` in RDI and
    /// RSI, as firstkernel and the 64-bit boot protocol of Linux expect.
    pub fn start_in_long_mode(&mut self, entry: u64, argument: u64, page_tables: u64) {
        self.reset(0);
        let vmcb = &mut self.vmcb;
        let data = Segment { selector: 0x18, attributes: 0xc93, limit: u32::MAX, base: 0 };
        (vmcb.es, vmcb.ss, vmcb.ds, vmcb.fs, vmcb.gs) = (data, data, data, data, data);
        vmcb.cs = Segment { selector: 0x10, attributes: 0xa9b, limit: u32::MAX, base: 0 };
        vmcb.cr0 = 0x8000_0031;
        vmcb.cr3 = page_tables;
        vmcb.cr4 = 0x20;
        vmcb.efer = EFER_SVME | 0x500;
        vmcb.rip = entry;
        self.registers.rdi = argument;
        self.registers.rsi = argument;
    }
}
