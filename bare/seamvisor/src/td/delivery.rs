//! NMIs and virtual interrupts of a TD: before each VM entry, the one that can be delivered is
//! injected; for one that cannot, the CPU exits once the guest is interruptible.

use super::outcome;
use super::read_memory;
use super::vcpu::TdVcpu;
use crate::{guest_memory, tdx, vmcb};

const INTERRUPTS: u64 = 1 << 9;
const TRAP: u64 = 1 << 8;
/// Bits of the VMCB's virtual interrupt control: CR8; an interrupt is pending, whatever CR8 is.
const VIRTUAL_CR8: u64 = 0xf;
const PENDING: u64 = 1 << 8 | 1 << 20;

/// Prepares the next VM entry.
pub fn prepare(cpu: usize, td: &mut TdVcpu) {
    let in_shadow = keep_shadow(cpu, td);
    if td.nmi_requested && !in_shadow && td.is_open_to_nmi() {
        outcome::deliver_nmi(&mut tdx::lock(), cpu, td);
    }
    if td.vmcb.inject == 0
        && td.vmcb.rflags & INTERRUPTS != 0
        && !in_shadow
        && let Some(vector) = td.apic.accept()
    {
        td.vmcb.inject = vmcb::interrupt(vector);
    }
    let waits = td.apic.pending().is_some() && !in_shadow;
    let control = td.vmcb.virtual_interrupt & !(VIRTUAL_CR8 | PENDING) | u64::from(td.apic.cr8());
    if waits {
        td.vmcb.virtual_interrupt = control | PENDING;
        td.vmcb.intercept_1 |= vmcb::INTERCEPT_VINTR;
    } else {
        td.vmcb.virtual_interrupt = control;
        td.vmcb.intercept_1 &= !vmcb::INTERCEPT_VINTR;
    }
}

/// After a VM exit: the guest may have written CR8.
pub fn follow_cr8(td: &mut TdVcpu) {
    let cr8 = (td.vmcb.virtual_interrupt & VIRTUAL_CR8) as u8;
    if cr8 != td.apic.cr8() {
        td.apic.set_cr8(cr8);
    }
}

/// QEMU 7.2 does not load the interrupt shadow of the VMCB. A guest that waits by `sti; tdcall`
/// would miss its wake-up: the interrupt must not come between the two. So the guest executes the
/// STI again, from IF clear. If the byte before RIP is the end of a MOV to SS instead, the result
/// is the same: IF set, and the shadow. True if the guest is in a shadow that cannot be had so,
/// that of another MOV to SS: what waits for its end waits for the next exit.
fn keep_shadow(cpu: usize, td: &mut TdVcpu) -> bool {
    const STI: u8 = 0xfb;
    let is_new = core::mem::take(&mut td.vmcb.interrupt_shadow) & 1 != 0;
    if td.vmcb.rflags & INTERRUPTS == 0 || td.vmcb.inject != 0 {
        // It holds back nothing, or ends with the event.
        td.shadow = None;
        return false;
    }
    if !is_new {
        return td.shadow == Some(td.vmcb.rip);
    }
    let mut opcode = [0];
    let linear = guest_memory::linear_rip(&td.vmcb).wrapping_sub(1);
    let may_set = td.vmcb.rflags >> 12 & 3 >= u64::from(td.vmcb.cpl) && td.vmcb.rflags & TRAP == 0;
    if may_set && read_memory::read(&mut tdx::lock(), cpu, &td.vmcb, linear, &mut opcode) && opcode == [STI] {
        td.vmcb.rip = td.vmcb.rip.wrapping_sub(1);
        td.vmcb.rflags &= !INTERRUPTS;
        td.shadow = None;
        return false;
    }
    td.shadow = Some(td.vmcb.rip);
    true
}
