//! HLT. With interrupts disabled, this program waits for the guest: only an NMI or INIT wakes the
//! CPU. With interrupts enabled, the guest waits itself, because interrupts are its own.
//!
//! HLT is intercepted because a kick ends one that executes in the guest. That is harmless where
//! an interrupt could end it at any time. A CPU that was stopped for good must not go on: its code
//! may be gone, as that of a CPU that Linux has stopped for kexec.

use super::{INTERRUPTS, Vcpu};
use crate::vmcb;

/// Bytes of the instruction.
const LENGTH: u64 = 1;

impl Vcpu {
    /// The guest executes HLT. True if it waits itself, in its next VM entry. Otherwise the caller
    /// waits, until an event can be delivered: the HLT is over.
    pub fn halt(&mut self) -> bool {
        if self.vmcb.rflags & INTERRUPTS == 0 {
            self.skip(LENGTH);
            return false;
        }
        self.halted_at = Some(self.vmcb.rip);
        self.vmcb.intercept_1 = self.vmcb.intercept_1 & !vmcb::INTERCEPT_HLT | vmcb::INTERCEPT_INTR;
        true
    }

    /// Intercepts HLT again, after each VM exit. `is_over`: an event ends the HLT, also one that
    /// comes before it has executed. QEMU 7.2 does not load the interrupt shadow of STI.
    pub fn finish_halt(&mut self, is_over: bool) {
        let Some(rip) = self.halted_at.take() else { return };
        self.vmcb.intercept_1 = self.vmcb.intercept_1 & !vmcb::INTERCEPT_INTR | vmcb::INTERCEPT_HLT;
        if is_over && self.vmcb.rip == rip {
            self.skip(LENGTH);
        }
    }
}
