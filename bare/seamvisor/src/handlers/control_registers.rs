//! MOV to and from CR4. The guest's VMXE is kept apart, because it is reserved on SVM. Refuses
//! reserved bits with #GP, as the processor does.

use core::arch::x86_64::__cpuid_count;
use iced_x86::{Mnemonic, OpKind, Register};

use super::instruction;
use crate::vcpu::Vcpu;

/// CR4.VMXE.
pub const VMXE: u64 = 1 << 13;
const PAE: u64 = 1 << 5;
const PCIDE: u64 = 1 << 17;
const LONG_MODE_ACTIVE: u64 = 1 << 10;

/// CR4 bits that this processor supports, and VMXE.
fn supported() -> u64 {
    let (one, seven) = (__cpuid_count(1, 0), __cpuid_count(7, 0));
    let when = |register: u32, bit: u32, cr4: u32| u64::from(register >> bit & 1) << cr4;
    // VME to PCE, OSFXSR, OSXMMEXCPT.
    0x7ff
        | VMXE
        | when(seven.ecx, 2, 11)
        | when(seven.ebx, 0, 16)
        | when(one.ecx, 17, 17)
        | when(one.ecx, 26, 18)
        | when(seven.ebx, 7, 20)
        | when(seven.ebx, 20, 21)
        | when(seven.ecx, 3, 22)
}

/// Emulates MOV to and from CR4.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let Some(instruction) = instruction::decode(vcpu) else {
        vcpu.inject_general_protection();
        return;
    };
    let register = |operand: u32| match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand),
        _ => Register::None,
    };
    let done = match (instruction.mnemonic(), register(0), register(1)) {
        (Mnemonic::Mov, Register::CR4, from) => instruction::register(vcpu, from).is_some_and(|value| set(vcpu, value)),
        (Mnemonic::Mov, to, Register::CR4) => {
            let value = vcpu.vmcb.cr4 | if vcpu.vmxe { VMXE } else { 0 };
            instruction::set_register(vcpu, to, value)
        }
        _ => false,
    };
    if done {
        vcpu.skip(instruction.len() as u64);
    } else {
        vcpu.inject_general_protection();
    }
}

/// Sets CR4. False if the write raises #GP.
fn set(vcpu: &mut Vcpu, value: u64) -> bool {
    let long = vcpu.vmcb.efer & LONG_MODE_ACTIVE != 0;
    if value & !supported() != 0
        || long && value & PAE == 0
        || !long && value & PCIDE != 0
        || vcpu.in_vmx && value & VMXE == 0
        || value & PCIDE != 0 && vcpu.vmcb.cr4 & PCIDE == 0 && vcpu.vmcb.cr3 & 0xfff != 0
    {
        return false;
    }
    vcpu.vmxe = value & VMXE != 0;
    vcpu.vmcb.cr4 = value & !VMXE;
    true
}
