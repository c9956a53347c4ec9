//! State of a TD's virtual CPU: VMCB, registers, extended state, nested page tables. Its initial
//! state is that after VP.INIT.

use alloc::boxed::Box;
use tdx_machine::VcpuOnCpu;
use vmx::apic::VirtualApic;

use super::extended_state::ExtendedState;
use super::nested::Tables;
use super::permissions;
use crate::guest_memory;
use crate::vmcb::{self, EFER_SVME, GuestRegisters, Segment, Vmcb};

/// Address space ID: not the host's.
const ADDRESS_SPACE: u32 = 2;
const V_INTR_MASKING: u64 = 1 << 24;
/// SCE, LME, NXE.
const EFER: u64 = 0x901;
/// PE and NE; MCE.
const CR0: u64 = 0x21;
const CR4: u64 = 0x40;
const RESET_VECTOR: u64 = 0xffff_fff0;
const PAT: u64 = 0x0007_0406_0007_0406;
/// Those of the host; interrupts, RDPMC, task switch.
const INTERCEPT_1: u32 = vmcb::INTERCEPT_1 | vmcb::INTERCEPT_INTR | 1 << 15 | 1 << 29;
/// Those of the host; MONITOR, MWAIT, XSETBV.
const INTERCEPT_2: u32 = vmcb::INTERCEPT_2 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13;

/// How the last VP.ENTER ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastExit {
    /// By an exit that the guest does not know of.
    Asynchronous,
    /// By TDG.VP.VMCALL with this RCX: the next VP.ENTER passes the registers that it selects.
    Vmcall(u64),
}

/// A virtual CPU of a TD.
pub struct TdVcpu {
    /// Its VP.INIT, by number ([`crate::tdx::Tdx::vcpu_birth`]): a later one at the same TDVPR page
    /// is another virtual CPU.
    pub birth: u64,
    /// VMCB.
    pub vmcb: Box<Vmcb>,
    /// General registers that VMRUN does not load.
    pub registers: Box<GuestRegisters>,
    /// XSAVE components, XCR0, debug registers, TSC_AUX.
    pub extended: ExtendedState,
    /// Nested page tables.
    pub tables: Tables,
    /// Virtual APIC.
    pub apic: VirtualApic,
    /// How the last VP.ENTER ended.
    pub last_exit: LastExit,
    /// The host has asked for an NMI, which was not delivered yet.
    pub nmi_requested: bool,
    /// The guest is in its NMI handler: the host's next NMI for it waits for IRET.
    in_nmi: bool,
    /// RIP of that IRET, from its intercept until it has executed.
    nmi_return: Option<u64>,
    /// RIP of an instruction in the shadow of a MOV to SS.
    pub shadow: Option<u64>,
}

impl TdVcpu {
    /// State after VP.INIT. `None` if there is no memory, or this CPU cannot switch the state.
    pub fn new(on: &VcpuOnCpu, birth: u64, signature: u32) -> Option<Box<Self>> {
        let (tables, extended) = (Tables::new()?, ExtendedState::new(on.xfam)?);
        let mut vmcb = Vmcb::zeroed();
        vmcb.intercept_exceptions = 1 << metal::interrupts::INVALID_OPCODE;
        vmcb.intercept_1 = INTERCEPT_1;
        vmcb.intercept_2 = INTERCEPT_2;
        vmcb.io_permissions = permissions::ports();
        vmcb.msr_permissions = permissions::msrs();
        (vmcb.asid, vmcb.tlb_control) = (ADDRESS_SPACE, vmcb::FLUSH_TLB);
        vmcb.virtual_interrupt = V_INTR_MASKING;
        vmcb.nested_paging = 1;
        vmcb.nested_cr3 = tables.root();
        let data = Segment { selector: 0, attributes: 0xc93, limit: u32::MAX, base: 0 };
        (vmcb.es, vmcb.ss, vmcb.ds, vmcb.fs, vmcb.gs) = (data, data, data, data, data);
        vmcb.cs = Segment { attributes: 0xc9b, ..data };
        vmcb.gdtr = Segment { limit: 0xffff, ..Segment::default() };
        vmcb.ldtr = Segment { attributes: 0x82, limit: 0xffff, ..Segment::default() };
        vmcb.tr = Segment { attributes: 0x8b, limit: 0xffff, ..Segment::default() };
        (vmcb.cr0, vmcb.cr4, vmcb.efer) = (CR0, CR4, EFER | EFER_SVME);
        (vmcb.rip, vmcb.rflags, vmcb.pat) = (RESET_VECTOR, 2, PAT);
        (vmcb.dr6, vmcb.dr7) = (0xffff_0ff0, 0x400);
        let registers = GuestRegisters {
            // The width of guest addresses.
            rbx: u64::from(on.shared_bit.trailing_zeros()) + 1,
            rcx: on.initial_rcx,
            rdx: u64::from(signature),
            rsi: u64::from(on.index),
            r8: on.initial_rcx,
            ..GuestRegisters::default()
        };
        let registers = Box::new(registers);
        let last_exit = LastExit::Asynchronous;
        Some(Box::new(Self {
            birth,
            vmcb,
            registers,
            extended,
            tables,
            apic: VirtualApic::default(),
            last_exit,
            nmi_requested: false,
            in_nmi: false,
            nmi_return: None,
            shadow: None,
        }))
    }

    /// Advances RIP past the emulated instruction and ends its interrupt shadow.
    pub fn skip(&mut self, bytes: u64) {
        guest_memory::skip(&mut self.vmcb, bytes);
    }

    /// Injects an exception without error code.
    pub fn inject(&mut self, vector: u8) {
        self.vmcb.inject = vmcb::exception(vector);
    }

    /// Injects #GP(0).
    pub fn inject_general_protection(&mut self) {
        self.vmcb.inject = vmcb::exception_with_code(metal::interrupts::GENERAL_PROTECTION, 0);
    }

    /// True if an NMI can be injected: handlers do not nest, so that the IRET of the last one must
    /// have executed.
    pub fn is_open_to_nmi(&self) -> bool {
        self.vmcb.inject == 0 && !self.in_nmi && self.nmi_return != Some(self.vmcb.rip)
    }

    /// Injects an NMI and blocks further ones until IRET.
    pub fn inject_nmi(&mut self) {
        self.vmcb.inject = vmcb::NMI;
        (self.in_nmi, self.nmi_return) = (true, None);
        self.vmcb.intercept_1 |= vmcb::INTERCEPT_IRET;
    }

    /// The guest has reached the IRET of its NMI handler.
    pub fn unblock_nmi_at_iret(&mut self) {
        self.in_nmi = false;
        self.nmi_return = Some(self.vmcb.rip);
        self.vmcb.intercept_1 &= !vmcb::INTERCEPT_IRET;
    }
}
