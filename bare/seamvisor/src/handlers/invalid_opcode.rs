//! #UD: emulates SEAMCALL, MOVDIR64B and VMX instructions, which this processor does not have.

use iced_x86::{Instruction, Mnemonic};
use metal::interrupts;
use tdx_abi::{Leaf, Registers, Status};

use super::{instruction, movdir64b, vmx};
use crate::vcpu::Vcpu;
use crate::{counters, tdx};

/// Handles #UD. Every other instruction raises it in the guest.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let instruction = instruction::decode(vcpu);
    match instruction.map(|instruction| (instruction, instruction.mnemonic())) {
        Some((instruction, Mnemonic::Seamcall)) => seamcall(vcpu, &instruction),
        Some((instruction, Mnemonic::Movdir64b)) => movdir64b::emulate(vcpu, &instruction),
        Some((instruction, mnemonic)) if vmx::emulate(vcpu, &instruction, mnemonic) => {}
        _ => vcpu.inject_exception(interrupts::INVALID_OPCODE),
    }
}

fn seamcall(vcpu: &mut Vcpu, instruction: &Instruction) {
    if vcpu.vmcb.cpl != 0 {
        vcpu.inject_general_protection();
        return;
    }
    let guest = &vcpu.registers;
    let input = Registers {
        rax: vcpu.vmcb.rax,
        rcx: guest.rcx,
        rdx: guest.rdx,
        r8: guest.r8,
        r9: guest.r9,
        r10: guest.r10,
        r11: guest.r11,
        r12: guest.r12,
        r13: guest.r13,
    };
    counters::count_instruction(&instruction::bytes(vcpu, instruction));
    let output = tdx::lock().seamcall(vcpu.number, input);
    match output.status() {
        Status::UNDEFINED_OPCODE => vcpu.inject_exception(interrupts::INVALID_OPCODE),
        Status::GENERAL_PROTECTION => vcpu.inject_general_protection(),
        Status::VMFAIL_INVALID => vmx::fail_invalid(vcpu, instruction.len() as u64),
        // The registers are those of the exit.
        Status::SUCCESS if input.leaf_call().leaf() == Leaf::VP_ENTER => {
            vcpu.enters_td = Some(instruction.len() as u64);
        }
        _ => {
            vcpu.vmcb.rax = output.rax;
            let guest = &mut vcpu.registers;
            (guest.rcx, guest.rdx) = (output.rcx, output.rdx);
            (guest.r8, guest.r9, guest.r10) = (output.r8, output.r9, output.r10);
            (guest.r11, guest.r12, guest.r13) = (output.r11, output.r12, output.r13);
            vmx::succeed(vcpu, instruction.len() as u64);
        }
    }
}
