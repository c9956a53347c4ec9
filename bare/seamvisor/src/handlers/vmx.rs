//! VMX instructions: VMXON, VMXOFF, INVEPT. All others fail with VMfailInvalid, because VM entry is
//! not supported.

use iced_x86::{Instruction, Mnemonic};
use metal::{interrupts, println};

use super::control_registers::VMXE;
use super::{instruction, vmx_capabilities};
use crate::vcpu::Vcpu;
use crate::{guest_memory, tdx, translations};

const CARRY: u64 = 1;
/// CF, PF, AF, ZF, SF, OF.
pub const ARITHMETIC_FLAGS: u64 = 0x8d5;
const PAGE: u64 = 4096;

/// Emulates a VMX instruction. False if the instruction raises #UD.
pub fn emulate(vcpu: &mut Vcpu, instruction: &Instruction, mnemonic: Mnemonic) -> bool {
    match mnemonic {
        Mnemonic::Vmxon => vmxon(vcpu, instruction),
        Mnemonic::Vmxoff if vcpu.in_vmx => {
            vcpu.in_vmx = tdx::lock().set_vmx_operation(vcpu.number, false);
            succeed(vcpu, instruction.len() as u64);
        }
        Mnemonic::Invept if vcpu.in_vmx => invept(vcpu, instruction),
        _ if is_vmx(mnemonic) && vcpu.in_vmx => {
            println!("cpu={} {mnemonic:?}: VM entry is not supported", vcpu.number);
            fail_invalid(vcpu, instruction.len() as u64);
        }
        _ => return false,
    }
    true
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
            | Mnemonic::Invvpid
    )
}

/// VMsucceed of an instruction of this length: clears the arithmetic flags.
pub fn succeed(vcpu: &mut Vcpu, length: u64) {
    vcpu.vmcb.rflags &= !ARITHMETIC_FLAGS;
    vcpu.skip(length);
}

/// VMfailInvalid of an instruction of this length: sets CF.
pub fn fail_invalid(vcpu: &mut Vcpu, length: u64) {
    vcpu.vmcb.rflags = vcpu.vmcb.rflags & !ARITHMETIC_FLAGS | CARRY;
    vcpu.skip(length);
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
    if !is_region || u32::from_le_bytes(revision) != vmx_capabilities::REVISION || vcpu.in_vmx {
        fail_invalid(vcpu, instruction.len() as u64);
        return;
    }
    vcpu.in_vmx = tdx::lock().set_vmx_operation(vcpu.number, true);
    succeed(vcpu, instruction.len() as u64);
}

/// INVEPT of one context or of all: no virtual CPU of a TD keeps a translation over its next VM
/// entry. There is no current VMCS: every failure is VMfailInvalid.
fn invept(vcpu: &mut Vcpu, instruction: &Instruction) {
    const ONE: u64 = 1;
    const ALL: u64 = 2;
    if vcpu.vmcb.cpl != 0 {
        vcpu.inject_general_protection();
        return;
    }
    let kind = instruction::register(vcpu, instruction.op0_register());
    let operand = instruction::operands(vcpu, instruction).first().copied();
    let mut descriptor = [0; 16];
    let is_read = operand
        .and_then(|operand| guest_memory::translate(&vcpu.vmcb, operand.linear))
        .is_some_and(|mapping| guest_memory::read(mapping.address, &mut descriptor));
    let [pointer, reserved] = [0, 8].map(|at| {
        let word: [u8; 8] = core::array::from_fn(|index| descriptor[at + index]);
        u64::from_le_bytes(word)
    });
    let is_valid = match kind {
        Some(ONE) => is_ept_pointer(pointer),
        Some(ALL) => true,
        _ => false,
    };
    if is_read && reserved == 0 && is_valid {
        translations::invalidate();
        succeed(vcpu, instruction.len() as u64);
    } else {
        fail_invalid(vcpu, instruction.len() as u64);
    }
}

/// An EPT pointer that VM entry would take: uncacheable or write-back, four levels, no reserved
/// bit.
const fn is_ept_pointer(pointer: u64) -> bool {
    const UNCACHEABLE: u64 = 0;
    const WRITE_BACK: u64 = 6;
    const FOUR_LEVELS: u64 = 3;
    const ACCESSED_AND_DIRTY: u64 = 1 << 6;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    matches!(pointer & 0b111, UNCACHEABLE | WRITE_BACK)
        && pointer >> 3 & 0b111 == FOUR_LEVELS
        && pointer & !(ADDRESS | ACCESSED_AND_DIRTY | 0b11_1111) == 0
}
