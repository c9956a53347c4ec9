//! TDCALL, and VMCALL: both raise #UD on this processor.

use tdx_machine::TdExit;

use super::outcome::{self, Next, reason};
use super::read_memory;
use super::vcpu::TdVcpu;
use crate::guest_memory;
use crate::tdx::Tdx;

const TDCALL: [u8; 4] = [0x66, 0x0f, 0x01, 0xcc];
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];

const VP_VMCALL: u64 = 0;
const MEM_PAGE_ACCEPT: u64 = 6;

/// Handles #UD.
pub fn handle(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu) -> Next {
    let linear = guest_memory::linear_rip(&td.vmcb);
    let mut bytes = [0; TDCALL.len()];
    // VMCALL is the shorter one: the page behind it may not be there.
    let (start, last) = bytes.split_at_mut(VMCALL.len());
    let is_vmcall = read_memory::read(tdx, cpu, &td.vmcb, linear, start) && start == VMCALL;
    let is_read = read_memory::read(tdx, cpu, &td.vmcb, linear.wrapping_add(VMCALL.len() as u64), last);
    if is_read && bytes == TDCALL && guest_memory::bitness(&td.vmcb) == 64 {
        if td.vmcb.cpl == 0 {
            return tdcall(tdx, cpu, td);
        }
        td.inject_general_protection();
        return Next::Resume;
    }
    if is_vmcall {
        let length = VMCALL.len() as u64;
        let exit = TdExit { reason: reason::VMCALL, instruction_length: length, ..TdExit::default() };
        return outcome::report(tdx, cpu, td, exit);
    }
    td.inject(metal::interrupts::INVALID_OPCODE);
    Next::Resume
}

fn tdcall(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu) -> Next {
    let length = TDCALL.len() as u64;
    let before = outcome::guest_registers(td);
    let leaf = before.rax & 0xffff;
    let exit = TdExit { reason: reason::TDCALL, instruction_length: length, ..TdExit::default() };
    let next = outcome::report(tdx, cpu, td, exit);
    if leaf == MEM_PAGE_ACCEPT {
        // Lines may be private that were not.
        tdx.sync_map(cpu);
    }
    match next {
        // A call that has faulted stays at its instruction, as does an interrupted ACCEPT, which
        // leaves the registers as they were.
        Next::Resume if td.vmcb.inject == 0 && (leaf != MEM_PAGE_ACCEPT || outcome::guest_registers(td) != before) => {
            td.skip(length);
            Next::Resume
        }
        Next::Host { answer, .. } if leaf == VP_VMCALL && answer.rax == reason::TDCALL => {
            td.skip(length);
            Next::Host { answer, vmcall: Some(before.rcx) }
        }
        next => next,
    }
}
