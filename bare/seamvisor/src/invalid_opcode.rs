//! #UD: the instructions that this processor does not have and a TDX host does. SEAMCALL, MOVDIR64B, and of VMX its beginning and
//! its end.

use core::sync::atomic::Ordering;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use metal::{interrupts, println};
use tdx_abi::{LINE_SIZE, Line, LineRange, Registers, Status};

use crate::control_registers::VMXE;
use crate::vcpu::Vcpu;
use crate::{guest_memory, instruction, msr, summary, tdx};

const CARRY: u64 = 1;
/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC_FLAGS: u64 = 0x8d5;
const PAGE: u64 = 4096;

/// Answers #UD.
pub fn answer(vcpu: &mut Vcpu) {
    let instruction = instruction::decode(vcpu);
    match instruction.map(|instruction| (instruction, instruction.mnemonic())) {
        Some((instruction, Mnemonic::Seamcall)) => seamcall(vcpu, &instruction),
        Some((instruction, Mnemonic::Movdir64b)) => movdir64b(vcpu, &instruction),
        Some((instruction, Mnemonic::Vmxon)) => vmxon(vcpu, &instruction),
        Some((instruction, Mnemonic::Vmxoff)) if in_vmx(vcpu) => {
            tdx::lock().set_vmx_operation(vcpu.number, false);
            succeed(vcpu, &instruction);
        }
        Some((instruction, other)) if is_vmx(other) && in_vmx(vcpu) => {
            println!("cpu={} {other:?}: this machine enters no virtual machine", vcpu.number);
            fail(vcpu, &instruction);
        }
        _ => vcpu.inject_exception(interrupts::INVALID_OPCODE),
    }
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

/// VMsucceed.
fn succeed(vcpu: &mut Vcpu, instruction: &Instruction) {
    vcpu.vmcb.rflags &= !ARITHMETIC_FLAGS;
    vcpu.skip(instruction.len() as u64);
}

/// VMfailInvalid.
fn fail(vcpu: &mut Vcpu, instruction: &Instruction) {
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
        fail(vcpu, instruction);
        return;
    }
    tdx::lock().set_vmx_operation(vcpu.number, true);
    succeed(vcpu, instruction);
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
    summary::instruction(&instruction_bytes(vcpu, instruction));
    let answer = tdx::lock().seamcall(vcpu.number, input);
    match answer.status() {
        Status::UNDEFINED_OPCODE => vcpu.inject_exception(interrupts::INVALID_OPCODE),
        Status::GENERAL_PROTECTION => vcpu.inject_general_protection(),
        Status::VMFAIL_INVALID => fail(vcpu, instruction),
        _ => {
            vcpu.vmcb.rax = answer.rax;
            let guest = &mut vcpu.registers;
            (guest.rcx, guest.rdx) = (answer.rcx, answer.rdx);
            (guest.r8, guest.r9, guest.r10) = (answer.r8, answer.r9, answer.r10);
            (guest.r11, guest.r12, guest.r13) = (answer.r11, answer.r12, answer.r13);
            succeed(vcpu, instruction);
        }
    }
}

fn instruction_bytes(vcpu: &Vcpu, instruction: &Instruction) -> arrayvec::ArrayVec<u8, 15> {
    let (bytes, length) = guest_memory::instruction(&vcpu.vmcb);
    bytes.iter().copied().take(length.min(instruction.len())).collect()
}

/// How a loop round a MOVDIR64B counts.
struct Loop {
    /// Bytes that the destination moves in a turn.
    counter: Option<Register>,
    end: Option<Register>,
    /// Address behind the loop.
    after: u64,
}

/// The most turns of a loop in one exit: a CPU that is stopped should not wait for long.
const TURNS: u64 = 64 * 1024;

fn movdir64b(vcpu: &mut Vcpu, instruction: &Instruction) {
    summary::instruction(&instruction_bytes(vcpu, instruction));
    let destination = instruction.op0_register();
    let Some(mut to) = instruction::register(vcpu, destination) else { return };
    // The destination lies in ES, which has base 0 in 64-bit mode; elsewhere nobody uses this
    // instruction.
    let source = instruction.virtual_address(1, 0, |name, _, _| instruction::register(vcpu, name));
    let mut line = [0; LINE_SIZE as usize];
    let source = source.and_then(|linear| guest_memory::translate(&vcpu.vmcb, linear));
    let readable = source.is_some_and(|mapping| guest_memory::read(mapping.address, &mut line));
    if !readable || !to.is_multiple_of(LINE_SIZE) {
        vcpu.inject_general_protection();
        return;
    }
    let around = find_loop(vcpu, instruction, destination);
    let turns = around.as_ref().map_or(1, |around| turns(vcpu, around, to)).clamp(1, TURNS);
    let mut left = turns;
    let mut tdx = tdx::lock();
    while left > 0 {
        let Some(target) = guest_memory::translate(&vcpu.vmcb, to) else { break };
        let lines = left.min((PAGE - target.address % PAGE) / LINE_SIZE);
        for index in 0..lines {
            if !guest_memory::write(target.address + index * LINE_SIZE, &line) {
                summary::HIDDEN_ACCESSES.fetch_add(1, Ordering::Relaxed);
            }
        }
        let first = target.address / LINE_SIZE;
        tdx.direct_store(vcpu.number, LineRange::new(Line::new(first), Line::new(first + lines)));
        to += lines * LINE_SIZE;
        left -= lines;
    }
    tdx.settle(vcpu.number);
    drop(tdx);
    let done = turns - left;
    if done == 0 {
        page_fault(vcpu, to);
        return;
    }
    match around {
        None => vcpu.skip(instruction.len() as u64),
        Some(around) => finish_loop(vcpu, &around, destination, to, done),
    }
}

/// The destination is not mapped: #PF, a write.
fn page_fault(vcpu: &mut Vcpu, linear: u64) {
    const PAGE_FAULT: u8 = 14;
    vcpu.vmcb.cr2 = linear;
    vcpu.vmcb.inject = crate::vmcb::exception_with_code(PAGE_FAULT, 0b10);
}

/// Recognises `movdir64b d, [s]; add d, 64; dec c; jne` and
/// `movdir64b d, [s]; add d, 64; cmp d, e; jb/jne`.
fn find_loop(vcpu: &Vcpu, instruction: &Instruction, destination: Register) -> Option<Loop> {
    let linear = vcpu.vmcb.rip.wrapping_add(instruction.len() as u64);
    let mut bytes = [0; 24];
    let mapping = guest_memory::translate(&vcpu.vmcb, linear)?;
    let length = bytes.len().min((PAGE - mapping.address % PAGE) as usize);
    if !guest_memory::read(mapping.address, &mut bytes[..length]) {
        return None;
    }
    let mut decoder = iced_x86::Decoder::with_ip(64, &bytes[..length], linear, iced_x86::DecoderOptions::NONE);
    let (step, count, jump) = (decoder.decode(), decoder.decode(), decoder.decode());
    let adds_a_line = step.mnemonic() == Mnemonic::Add
        && step.op0_kind() == OpKind::Register
        && step.op0_register() == destination
        && matches!(step.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64)
        && step.immediate(1) == LINE_SIZE;
    let back = jump.is_jcc_short_or_near() && jump.near_branch_target() == vcpu.vmcb.rip;
    if !adds_a_line || !back || destination.size() != 8 {
        return None;
    }
    let is_64 = |register: Register| register.size() == 8;
    let (counter, end) = match count.mnemonic() {
        Mnemonic::Dec if is_64(count.op0_register()) && jump.mnemonic() == Mnemonic::Jne => {
            (Some(count.op0_register()), None)
        }
        Mnemonic::Cmp
            if count.op0_register() == destination
                && count.op1_kind() == OpKind::Register
                && matches!(jump.mnemonic(), Mnemonic::Jne | Mnemonic::Jb) =>
        {
            (None, Some(count.op1_register()))
        }
        _ => return None,
    };
    Some(Loop { counter, end, after: jump.next_ip() })
}

fn turns(vcpu: &Vcpu, around: &Loop, to: u64) -> u64 {
    let value = |register: Option<Register>| register.and_then(|register| instruction::register(vcpu, register));
    match (value(around.counter), value(around.end)) {
        (Some(count), _) => count,
        (_, Some(end)) => end.saturating_sub(to).div_ceil(LINE_SIZE),
        _ => 1,
    }
}

/// Registers and RIP after so many turns. Flags: those of the comparison that ended the loop.
fn finish_loop(vcpu: &mut Vcpu, around: &Loop, destination: Register, to: u64, done: u64) {
    const ZERO: u64 = 1 << 6;
    const PARITY: u64 = 1 << 2;
    instruction::set_register(vcpu, destination, to);
    let over = match (around.counter, around.end) {
        (Some(counter), _) => {
            let left = instruction::register(vcpu, counter).unwrap_or(0).wrapping_sub(done);
            instruction::set_register(vcpu, counter, left);
            left == 0
        }
        (_, Some(end)) => instruction::register(vcpu, end).is_none_or(|end| to >= end),
        _ => true,
    };
    if over {
        vcpu.vmcb.rflags = vcpu.vmcb.rflags & !ARITHMETIC_FLAGS | ZERO | PARITY;
        vcpu.skip(around.after.wrapping_sub(vcpu.vmcb.rip));
    }
}
