//! VMX instructions: VMXON and VMXOFF. All others fail with VMfailInvalid, because VM entry is not
//! supported.

use iced_x86::{Instruction, Mnemonic};
use metal::{interrupts, println};

use super::control_registers::VMXE;
use super::{instruction, msr};
use crate::vcpu::Vcpu;
use crate::{guest_memory, tdx};

const CARRY: u64 = 1;
/// CF, PF, AF, ZF, SF, OF.
pub const ARITHMETIC_FLAGS: u64 = 0x8d5;
const PAGE: u64 = 4096;

/// Emulates a VMX instruction. False if the instruction raises #UD.
pub fn emulate(vcpu: &mut Vcpu, instruction: &Instruction, mnemonic: Mnemonic) -> bool {
    match mnemonic {
        Mnemonic::Vmxon => vmxon(vcpu, instruction),
        Mnemonic::Vmxoff if in_vmx(vcpu) => {
            tdx::lock().set_vmx_operation(vcpu.number, false);
            succeed(vcpu, instruction);
        }
        _ if is_vmx(mnemonic) && in_vmx(vcpu) => {
            println!("cpu={} {mnemonic:?}: VM entry is not supported", vcpu.number);
            fail_invalid(vcpu, instruction);
        }
        _ => return false,
    }
    true
}

fn in_vmx(vcpu: &Vcpu) -> bool {
    tdx::lock().in_vmx_operation(vcpu.number)
}

const fn is_vmx(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Vmlaunch
            | Mnemonic::Vmresume
            | Mnemonic::Vmclear
            | Mnemonic::Vmptrld
            | Mnemonic::Vmptrst
            | Mnemonic::Vmread
            | Mnemonic::Vmwrite
            | Mnemonic::Invept
            | Mnemonic::Invvpid
    )
}

/// VMsucceed: clears the arithmetic flags.
pub fn succeed(vcpu: &mut Vcpu, instruction: &Instruction) {
    vcpu.vmcb.rflags &= !ARITHMETIC_FLAGS;
    vcpu.skip(instruction.len() as u64);
}

/// VMfailInvalid: sets CF.
pub fn fail_invalid(vcpu: &mut Vcpu, instruction: &Instruction) {
    vcpu.vmcb.rflags = vcpu.vmcb.rflags & !ARITHMETIC_FLAGS | CARRY;
    vcpu.skip(instruction.len() as u64);
}

fn vmxon(vcpu: &mut Vcpu, instruction: &Instruction) {
    if !vcpu.vmxe {
        debug_assert_eq!(vcpu.vmcb.cr4 & VMXE, 0);
        vcpu.inject_exception(interrupts::INVALID_OPCODE);
        return;
    }
    if vcpu.vmcb.cpl != 0 {
        vcpu.inject_general_protection();
        return;
    }
    let operand = instruction::operands(vcpu, instruction).first().copied();
    let read = |linear: u64, buffer: &mut [u8]| {
        guest_memory::translate(&vcpu.vmcb, linear).is_some_and(|mapping| guest_memory::read(mapping.address, buffer))
    };
    let (mut pointer, mut revision) = ([0; 8], [0; 4]);
    let is_region = operand.is_some_and(|operand| read(operand.linear, &mut pointer)) && {
        let region = u64::from_le_bytes(pointer);
        region.is_multiple_of(PAGE) && guest_memory::read(region, &mut revision)
    };
    if !is_region || u32::from_le_bytes(revision) != msr::VMX_REVISION || in_vmx(vcpu) {
        fail_invalid(vcpu, instruction);
        return;
    }
    tdx::lock().set_vmx_operation(vcpu.number, true);
    succeed(vcpu, instruction);
}
