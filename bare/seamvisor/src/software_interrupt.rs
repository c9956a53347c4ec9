//! INT n, INT3 and INTO whose delivery a VM exit has interrupted: the exit leaves RIP at the
//! instruction. The delivery is repeated as that of an external interrupt, from behind the
//! instruction, so that another interruption is not taken for another instruction.

use metal::interrupts::GENERAL_PROTECTION;
use vmx::idt;

use crate::vmcb::{self, Vmcb};

/// What is injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeated {
    /// EVENTINJ.
    pub event: u64,
    /// RIP is to be behind the instruction.
    pub is_behind: bool,
}

/// Repeats the delivery of this vector. An external interrupt passes every gate, so the gate's
/// privilege is checked here. `read` reads a byte at a linear address; a gate that it cannot read
/// (32-bit page tables) passes.
pub fn repeat(vmcb: &Vmcb, vector: u8, read: impl FnOnce(u64, &mut [u8; 1]) -> bool) -> Repeated {
    const PROTECTED: u64 = 1 << 0;
    const LONG_MODE_ACTIVE: u64 = 1 << 10;
    let long_mode = vmcb.efer & LONG_MODE_ACTIVE != 0;
    let allowed = vmcb.cr0 & PROTECTED == 0
        || idt::type_address(vmcb.idtr.base, vmcb.idtr.limit, long_mode, vector).is_some_and(|address| {
            let mut kind = [0];
            !read(address, &mut kind) || idt::allows(kind[0], vmcb.cpl)
        });
    let event = if allowed {
        vmcb::interrupt(vector)
    } else {
        vmcb::exception_with_code(GENERAL_PROTECTION, idt::error_code(vector))
    };
    Repeated { event, is_behind: allowed }
}
