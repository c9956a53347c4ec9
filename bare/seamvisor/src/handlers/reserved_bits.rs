//! #PF for addresses with a KeyID: a processor outside SEAM mode takes the bits of a private KeyID
//! for reserved ones. Shared (MKTME) KeyIDs are not modeled and raise it, too.
//!
//! QEMU finds bits from its own width of physical addresses on in the guest's page tables. What is
//! below comes here as a nested page fault.

use metal::interrupts::{DOUBLE_FAULT, PAGE_FAULT};

use super::instruction;
use crate::vcpu::Vcpu;
use crate::{guest_memory, summary, vmcb};

const PAGE: u64 = 4096;

/// Error code: present, write, user, reserved bit, fetch.
const PRESENT: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const USER: u32 = 1 << 2;
const RESERVED: u32 = 1 << 3;
const FETCH: u32 = 1 << 4;
const USER_LEVEL: u8 = 3;

/// The access that has met the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An operand of the instruction.
    Operand { write: bool },
    /// The instruction itself.
    Fetch,
    /// A page table, for any of these.
    Walk,
    /// The delivery of an event.
    Delivery,
}

/// Injects #PF for an access to a physical address. A delivery that fails is a double fault, and
/// that of a double fault is a shutdown.
pub fn raise(vcpu: &mut Vcpu, address: u64, access: Access) {
    if access == Access::Delivery {
        if vmcb::exception_vector(vcpu.vmcb.exit_interrupt) == Some(DOUBLE_FAULT) {
            summary::shut_down(vcpu);
        }
        vcpu.vmcb.inject = vmcb::exception_with_code(DOUBLE_FAULT, 0);
        return;
    }
    let Some((linear, write, fetch)) = linear(vcpu, address, access) else {
        // An instruction that is not decoded: an error that is not the processor's, but one.
        vcpu.inject_general_protection();
        return;
    };
    let user = vcpu.vmcb.cpl == USER_LEVEL;
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    let code = PRESENT | RESERVED | bit(write, WRITE) | bit(user, USER) | bit(fetch, FETCH);
    vcpu.vmcb.cr2 = linear;
    vcpu.vmcb.inject = vmcb::exception_with_code(PAGE_FAULT, code);
}

/// Linear address of the access, whether it writes, whether it fetches.
fn linear(vcpu: &Vcpu, address: u64, access: Access) -> Option<(u64, bool, bool)> {
    let page_of = |linear: u64| guest_memory::translate(&vcpu.vmcb, linear).map(|mapping| mapping.address / PAGE);
    // A walk whose page table is behind the address ends nowhere.
    let is_it = |linear: u64| match access {
        Access::Walk => page_of(linear).is_none(),
        _ => page_of(linear) == Some(address / PAGE),
    };
    let fetch = || {
        let rip = guest_memory::linear_rip(&vcpu.vmcb);
        // An instruction may begin in the page before.
        let last = rip.wrapping_add(guest_memory::MAX_INSTRUCTION as u64 - 1);
        let fetched = [rip, last - last % PAGE].into_iter().find(|linear| is_it(*linear));
        fetched.map(|linear| (linear, false, true))
    };
    if access == Access::Fetch {
        return fetch();
    }
    // The walk was not for the fetch if all of the instruction can be read.
    let Some(instruction) = instruction::decode(vcpu) else { return fetch() };
    for operand in instruction::operands(vcpu, &instruction) {
        let end = operand.linear.wrapping_add(operand.bytes - 1);
        for linear in [operand.linear, end - end % PAGE] {
            if is_it(linear) {
                let write = matches!(access, Access::Operand { write: true }) || operand.written && !operand.read;
                return Some((linear, write, false));
            }
        }
    }
    None
}
