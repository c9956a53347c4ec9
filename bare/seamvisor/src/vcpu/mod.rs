//! Virtual CPU state: VMCB, general registers, pending event, NMI blocking, HLT, single-step state.
//!
//! Exit handlers take this state and change it. They never call the run loop (`run.rs`).

mod halt;
mod reset;
mod step;

use alloc::boxed::Box;
use core::arch::asm;
use metal::registers::{rdmsr, wrmsr};

use crate::guest_memory;
use crate::nested::{StepPages, StepTables};
use crate::vmcb::{self, EFER_SVME, GuestRegisters, Vmcb};

use step::Step;

const TRAP: u64 = 1 << 8;
const INTERRUPTS: u64 = 1 << 9;

const EFER: u32 = 0xc000_0080;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// A virtual CPU. Pinned to the real CPU of the same number.
pub struct Vcpu {
    /// Number of the virtual CPU, and of the real CPU that runs it.
    pub number: usize,
    /// VMCB: control area, and the registers that VMRUN loads.
    pub vmcb: Box<Vmcb>,
    /// General registers that VMRUN does not load.
    pub registers: Box<GuestRegisters>,
    /// CR4.VMXE as the guest sees it. The real CR4.VMXE is reserved on SVM and stays 0.
    pub vmxe: bool,
    /// Between VMXON and VMXOFF.
    pub in_vmx: bool,
    /// Physical address of a page that stands for memory that does not exist.
    pub absent_frame: u64,
    /// TDH.VP.ENTER has been granted by a SEAMCALL of this length: a TD runs next on this CPU.
    pub enters_td: Option<u64>,
    /// Root of the nested page tables that all CPUs share.
    root: u64,
    step_tables: StepTables,
    step: Option<Step>,
    /// RIP of the last single step and the pages mapped for it. An instruction that needs several
    /// pages gets them one nested page fault at a time.
    last_step: (u64, StepPages),
    /// The guest is in its NMI handler: further NMIs wait for IRET.
    in_nmi: bool,
    /// RIP of that IRET, from its intercept until it has executed.
    nmi_return: Option<u64>,
    /// RIP of the HLT in which the guest waits for an interrupt.
    halted_at: Option<u64>,
}

fn address(page: &Vmcb) -> u64 {
    core::ptr::from_ref(page).expose_provenance() as u64
}

/// What a virtual CPU needs of the rest of the hypervisor: physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    /// Root of the shared nested page tables.
    pub nested_root: u64,
    /// I/O permission map.
    pub io_permissions: u64,
    /// MSR permission map.
    pub msr_permissions: u64,
}

impl Vcpu {
    /// Creates the virtual CPU of this CPU. Enables SVM and clears GIF, permanently.
    pub fn new(number: usize, tables: Tables) -> Self {
        let save = Box::leak(Vmcb::zeroed());
        // SAFETY: the CPU has SVM, which `main` has checked; the save area is a leaked page. With
        // GIF 0 this program takes no interrupt or NMI, except where it sets GIF itself.
        unsafe {
            wrmsr(EFER, rdmsr(EFER) | EFER_SVME);
            wrmsr(VM_HSAVE_PA, address(save));
            asm!("clgi", options(nostack, nomem));
        }
        let mut vmcb = Vmcb::zeroed();
        vmcb.intercept_cr = vmcb::INTERCEPT_CR4_READ | vmcb::INTERCEPT_CR4_WRITE;
        vmcb.intercept_exceptions = 1 << metal::interrupts::INVALID_OPCODE;
        vmcb.intercept_1 = vmcb::INTERCEPT_1;
        vmcb.intercept_2 = vmcb::INTERCEPT_2;
        vmcb.io_permissions = tables.io_permissions;
        vmcb.msr_permissions = tables.msr_permissions;
        (vmcb.asid, vmcb.tlb_control) = (1, vmcb::FLUSH_TLB);
        vmcb.nested_paging = 1;
        vmcb.nested_cr3 = tables.nested_root;
        vmcb.efer = EFER_SVME;
        vmcb.pat = 0x0007_0406_0007_0406;
        vmcb.dr6 = 0xffff_0ff0;
        vmcb.dr7 = 0x400;
        vmcb.rflags = 2;
        Self {
            number,
            vmcb,
            registers: Box::default(),
            vmxe: false,
            in_vmx: false,
            absent_frame: address(Box::leak(Vmcb::zeroed())),
            enters_td: None,
            root: tables.nested_root,
            step_tables: StepTables::new(),
            step: None,
            last_step: (0, StepPages::new()),
            in_nmi: false,
            nmi_return: None,
            halted_at: None,
        }
    }

    /// RIP, CR0, CR3, CR4, EFER, for messages.
    pub fn state(&self) -> [u64; 5] {
        [self.vmcb.rip, self.vmcb.cr0, self.vmcb.cr3, self.vmcb.cr4, self.vmcb.efer]
    }

    /// Advances RIP past the emulated instruction and ends its interrupt shadow.
    pub fn skip(&mut self, bytes: u64) {
        guest_memory::skip(&mut self.vmcb, bytes);
    }

    /// Injects an exception without error code at the current instruction.
    pub fn inject_exception(&mut self, vector: u8) {
        self.vmcb.inject = vmcb::exception(vector);
    }

    /// Injects #GP(0) at the current instruction.
    pub fn inject_general_protection(&mut self) {
        self.vmcb.inject = vmcb::exception_with_code(metal::interrupts::GENERAL_PROTECTION, 0);
    }

    /// Fills [`Self::absent_frame`] with ones, as reads of absent memory return.
    pub fn fill_absent_frame(&mut self) {
        let page = core::ptr::with_exposed_provenance_mut::<u8>(self.absent_frame as usize);
        // SAFETY: a page of this program that only this CPU's guest accesses, and only while it
        // runs.
        unsafe { page.write_bytes(0xff, 4096) };
    }

    /// Stores one aligned word to [`Self::absent_frame`].
    pub fn set_absent_word(&mut self, offset: u64, word: u32) {
        let page = core::ptr::with_exposed_provenance_mut::<u32>(self.absent_frame as usize);
        // SAFETY: as above; the word is aligned and ends in the page.
        unsafe { page.add(offset as usize % 4096 / 4).write(word) };
    }

    /// True if an NMI of the guest must wait: for IRET, or for the end of a single step.
    pub fn is_nmi_blocked(&self) -> bool {
        self.in_nmi || self.step.is_some()
    }

    /// Injects an NMI and blocks further ones until IRET. If the IRET of the previous NMI has been
    /// reached and has not executed yet, steps over it instead, so that handlers do not nest, and
    /// returns false.
    pub fn inject_nmi(&mut self) -> bool {
        if self.nmi_return == Some(self.vmcb.rip) {
            self.step_over_iret();
            return false;
        }
        self.finish_halt(true);
        self.nmi_return = None;
        self.in_nmi = true;
        self.vmcb.intercept_1 |= vmcb::INTERCEPT_IRET;
        self.vmcb.inject = vmcb::NMI;
        true
    }

    /// An NMI of the guest is a VM exit of the TD that it runs, which blocks further ones until
    /// IRET.
    pub fn block_nmi_by_exit(&mut self) {
        self.nmi_return = None;
        self.in_nmi = true;
        self.vmcb.intercept_1 |= vmcb::INTERCEPT_IRET;
    }

    /// The guest has reached the IRET of its NMI handler: NMIs are unblocked once it has executed.
    pub fn unblock_nmi_at_iret(&mut self) {
        self.in_nmi = false;
        self.nmi_return = Some(self.vmcb.rip);
        self.vmcb.intercept_1 &= !vmcb::INTERCEPT_IRET;
    }
}
