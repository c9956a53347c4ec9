//! Single-stepping a guest instruction with trapped pages mapped, on page tables of this CPU.

use metal::lapic::{self, Ipi};

use super::{INTERRUPTS, TRAP, Vcpu};
use crate::nested::StepPages;
use crate::tdx;

/// What runs while extra pages are mapped.
pub(super) enum Step {
    /// One instruction. Holds the guest's own TF, IF and DR6.
    Instruction { flags: u64, dr6: u64 },
    /// Event delivery. The pages stay mapped until the next VM exit.
    Delivery,
    /// The IRET of an NMI handler, which loads TF and IF itself.
    Return,
}

impl Vcpu {
    /// True while extra pages are mapped or an IRET is stepped over.
    pub fn is_stepping(&self) -> bool {
        self.step.is_some()
    }

    /// True while the pages are mapped for the delivery of an event.
    pub fn is_delivering(&self) -> bool {
        matches!(self.step, Some(Step::Delivery))
    }

    /// Pages of the last step, if it was a step of the current instruction.
    pub fn last_step_pages(&self) -> StepPages {
        if self.last_step.0 == self.vmcb.rip { self.last_step.1.clone() } else { StepPages::new() }
    }

    /// Forgets the pages of the last step.
    pub fn clear_last_step(&mut self) {
        self.last_step.1.clear();
    }

    /// Executes only the current instruction, with these pages mapped. Interrupts are masked, and
    /// every exception is intercepted.
    pub fn step_with(&mut self, pages: StepPages) {
        self.step = Some(Step::Instruction { flags: self.vmcb.rflags & (TRAP | INTERRUPTS), dr6: self.vmcb.dr6 });
        self.vmcb.rflags = self.vmcb.rflags & !INTERRUPTS | TRAP;
        self.map_for_step(pages);
    }

    /// Delivers the pending event with these pages mapped.
    pub fn deliver_with(&mut self, pages: StepPages) {
        self.step = Some(Step::Delivery);
        self.map_for_step(pages);
        // The NMI ends VMRUN right after the delivery, so that the pages can be unmapped.
        lapic::send(self.number as u32, Ipi::Nmi);
    }

    /// Steps over the IRET of an NMI handler.
    pub(super) fn step_over_iret(&mut self) {
        self.vmcb.rflags |= TRAP;
        self.vmcb.intercept_exceptions = u32::MAX;
        self.step = Some(Step::Return);
    }

    fn map_for_step(&mut self, pages: StepPages) {
        self.vmcb.nested_cr3 = self.step_tables.map(tdx::lock().map(), &pages);
        self.vmcb.intercept_exceptions = u32::MAX;
        self.last_step = (self.vmcb.rip, pages);
    }

    /// Ends the step: restores the shared nested page tables and the guest's TF, IF and DR6.
    /// Returns true if the guest itself had set TF.
    pub fn finish_step(&mut self) -> bool {
        self.vmcb.intercept_exceptions = 1 << metal::interrupts::INVALID_OPCODE;
        self.vmcb.nested_cr3 = self.root;
        match self.step.take() {
            Some(Step::Instruction { flags, dr6 }) => {
                self.vmcb.rflags = self.vmcb.rflags & !(TRAP | INTERRUPTS) | flags;
                self.vmcb.dr6 = dr6;
                flags & TRAP != 0
            }
            Some(Step::Return) => {
                if self.nmi_return == Some(self.vmcb.rip) {
                    // The IRET has not executed: TF is still the one that `step_over_iret` set.
                    self.vmcb.rflags &= !TRAP;
                } else {
                    self.nmi_return = None;
                }
                false
            }
            Some(Step::Delivery) | None => self.vmcb.rflags & TRAP != 0,
        }
    }
}
