//! Posted interrupts (SDM volume 3, "Posted-interrupt processing"): the host writes requests to a
//! descriptor in its memory and sends the notification vector, to the CPU that runs the TD or to
//! itself before VP.ENTER. The notification is no exit: the CPU ends it at its own APIC and moves
//! the requests to the virtual APIC.

use metal::lapic;
use tdx_abi::PAGE_SIZE;
use vmx::apic::VirtualApic;

use super::outcome::{self, Next};
use super::vcpu::TdVcpu;
use crate::tdx::Tdx;
use crate::{counters, guest_memory};

/// Offset of the word with the bit "outstanding notification"; the requests are before it.
const CONTROL: u64 = 32;
const OUTSTANDING: u64 = 1 << 0;

/// Moves the requests of a descriptor to the virtual APIC. `None`: it is not the host's memory.
fn take_requests(tdx: &Tdx, descriptor: u64, apic: &mut VirtualApic) -> Option<()> {
    if tdx.is_trapped(descriptor / PAGE_SIZE) {
        return None;
    }
    guest_memory::clear_bits(descriptor.checked_add(CONTROL)?, OUTSTANDING)?;
    let mut requests = [0; 4];
    for (address, word) in (descriptor..).step_by(8).zip(&mut requests) {
        *word = guest_memory::swap(address, 0)?;
    }
    apic.post(requests);
    Some(())
}

/// Handles the notification, which this CPU has acknowledged.
pub fn handle(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, descriptor: u64) -> Next {
    lapic::end_of_interrupt();
    counters::count_notification();
    if take_requests(tdx, descriptor, &mut td.apic).is_some() {
        return Next::Resume;
    }
    let rip = td.vmcb.rip;
    outcome::stop(tdx, cpu, rip, &format_args!("posted-interrupt descriptor {descriptor:#x} is no memory of the host"))
}
