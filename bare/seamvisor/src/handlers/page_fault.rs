//! Nested page faults: accesses to private or poisoned memory go to the machine and are then
//! single-stepped; hidden memory reads as ones.

use iced_x86::Instruction;
use metal::lapic;
use tdx_machine::MachineCheck;

use super::instruction::{self, Operand};
use super::{apic, machine_check, push_flags, reserved_bits, store_kind, string_store};
use crate::guest_memory::{self, Mapping};
use crate::hidden::{self, APIC_PAGE};
use crate::nested::StepPages;
use crate::tdx::{self, Access, Tdx};
use crate::vcpu::Vcpu;
use crate::{counters, vmcb};

/// EXITINFO1 of a nested page fault: instruction fetch.
const FETCH: u64 = 1 << 4;
/// EXITINFO1: during a walk of the guest's page tables.
const WALK: u64 = 1 << 33;
/// EXITINFO1: write.
const WRITE: u64 = 1 << 1;
const PAGE: u64 = 4096;

/// Adds a page to those that are mapped for the step.
fn add(vcpu: &Vcpu, pages: &mut StepPages, tdx: &Tdx, page: u64) {
    let frame = if tdx.is_trapped(page) && !hidden::is_hidden(page) { page } else { vcpu.absent_frame / PAGE };
    if !pages.iter().any(|(known, _)| *known == page) {
        // Does not fail, except for a gather over more pages, which is not supported.
        let _ = pages.try_push((page, frame));
    }
}

/// Handles a nested page fault.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let (info, address) = (vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2);
    let page = address / PAGE;
    let by_instruction = info & (FETCH | WALK) == 0 && !vmcb::is_event(vcpu.vmcb.exit_interrupt);
    if page == APIC_PAGE && by_instruction && apic::handle_exit(vcpu) {
        return;
    }
    let mut tdx = tdx::lock();
    if !tdx.is_memory_address(address) {
        drop(tdx);
        let write = info & WRITE != 0;
        let access = match (vmcb::is_event(vcpu.vmcb.exit_interrupt), info & FETCH != 0, info & WALK != 0) {
            (true, ..) => reserved_bits::Access::Delivery,
            (_, true, _) => reserved_bits::Access::Fetch,
            (_, _, true) => reserved_bits::Access::Walk,
            _ => reserved_bits::Access::Operand { write },
        };
        reserved_bits::raise(vcpu, address, access);
        return;
    }
    let is_hidden = hidden::is_hidden(page);
    if !tdx.is_trapped(page) && !is_hidden {
        // Another CPU has mapped the page meanwhile.
        return;
    }
    if is_hidden {
        if page != APIC_PAGE {
            counters::count_hidden_access();
        }
        vcpu.fill_absent_frame();
        if page == APIC_PAGE {
            let register = address & 0xff0;
            vcpu.set_absent_word(register, lapic::read(register));
        }
    }
    let mut pages = vcpu.last_step_pages();
    add(vcpu, &mut pages, &tdx, page);
    let event = vmcb::is_event(vcpu.vmcb.exit_interrupt);
    let result = if event {
        // Event delivery: pushes of eight bytes to the handler's stack, reads of IDT and GDT.
        let access = if info & WRITE == 0 { Access::Load } else { Access::Store };
        tdx.access(vcpu.number, address, 8, access).map_err(|check| (check, None))
    } else if info & FETCH != 0 {
        let bytes = 1.max((PAGE - address % PAGE).min(guest_memory::MAX_INSTRUCTION as u64));
        tdx.access(vcpu.number, address, bytes, Access::Load).map_err(|check| (check, None))
    } else if info & WALK != 0 {
        // SVM reports nested walks of the guest's page tables as writes: they set the accessed bit.
        let entry = address & !7;
        let read = tdx.access(vcpu.number, entry, 8, Access::Load);
        read.and_then(|()| tdx.access(vcpu.number, entry, 8, Access::Store)).map_err(|check| (check, None))
    } else {
        match instruction::decode(vcpu) {
            None => Ok(()),
            Some(instruction) => {
                if string_store::run(vcpu, &mut tdx, &instruction) || push_flags::run(vcpu, &mut tdx, &instruction) {
                    tdx.untrap(page);
                    return;
                }
                access_operands(vcpu, &mut tdx, &instruction, &mut pages).map_err(|check| (check, Some(instruction)))
            }
        }
    };
    if let Err((check, instruction)) = result {
        machine_check::raise(vcpu, &mut tdx, check, instruction.as_ref());
    } else {
        if info & WRITE != 0 {
            tdx.untrap(page);
        }
        drop(tdx);
        if event {
            vcpu.deliver_with(pages);
        } else {
            vcpu.step_with(pages);
        }
    }
}

/// Performs the accesses of an instruction to trapped pages on the machine, reads first.
fn access_operands(
    vcpu: &Vcpu,
    tdx: &mut Tdx,
    instruction: &Instruction,
    pages: &mut StepPages,
) -> Result<(), MachineCheck> {
    let operands = instruction::operands(vcpu, instruction);
    for writes in [false, true] {
        for operand in operands.iter().filter(|operand| if writes { operand.written } else { operand.read }) {
            for_each_page(vcpu, *operand, |mapping, bytes| {
                let page = mapping.address / PAGE;
                if hidden::is_hidden(page) {
                    add(vcpu, pages, tdx, page);
                }
                if !tdx.is_trapped(page) {
                    return Ok(());
                }
                add(vcpu, pages, tdx, page);
                let access =
                    if writes { store_kind::classify(vcpu, instruction, mapping, bytes) } else { Access::Load };
                tdx.access(vcpu.number, mapping.address, bytes, access)
            })?;
        }
    }
    Ok(())
}

/// Calls a function for each mapped page of an operand, with the number of bytes in it.
fn for_each_page<E>(
    vcpu: &Vcpu,
    operand: Operand,
    mut function: impl FnMut(Mapping, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    while done < operand.bytes {
        let linear = operand.linear.wrapping_add(done);
        let piece = (PAGE - linear % PAGE).min(operand.bytes - done);
        if let Some(mapping) = guest_memory::translate(&vcpu.vmcb, linear) {
            function(mapping, piece)?;
        }
        done += piece;
    }
    Ok(())
}
