//! MOVDIR64B, and the loops around it that reset memory: many iterations in one exit.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use metal::println;
use tdx_abi::{LINE_SIZE, Line, LineRange};

use super::instruction;
use super::vmx::ARITHMETIC_FLAGS;
use crate::vcpu::Vcpu;
use crate::{counters, guest_memory, tdx, vmcb};

const PAGE: u64 = 4096;

/// A loop around a MOVDIR64B.
struct Loop {
    /// Register that is decremented to 0.
    counter: Option<Register>,
    /// Register that holds the end of the destination.
    end: Option<Register>,
    /// Address of the instruction behind the loop.
    after: u64,
}

/// Maximum number of iterations in one exit, so that NMIs are not delayed for long.
const MAX_ITERATIONS: u64 = 64 * 1024;

/// Emulates MOVDIR64B, with the loop around it if [`find_loop`] recognizes one.
pub fn emulate(vcpu: &mut Vcpu, instruction: &Instruction) {
    counters::count_instruction(&instruction::bytes(vcpu, instruction));
    let destination = instruction.op0_register();
    let Some(mut to) = instruction::register(vcpu, destination) else { return };
    // The destination segment is ES, whose base is 0 in 64-bit mode. Other modes are not supported.
    let source = instruction.virtual_address(1, 0, |name, _, _| instruction::register(vcpu, name));
    let mut line = [0; LINE_SIZE as usize];
    let Some(source) = source else { return vcpu.inject_general_protection() };
    let from = match guest_memory::access(&vcpu.vmcb, source, false) {
        Ok(mapping) => mapping.address,
        Err(code) => return page_fault(vcpu, source, code),
    };
    if !guest_memory::read(from, &mut line) || !to.is_multiple_of(LINE_SIZE) {
        vcpu.inject_general_protection();
        return;
    }
    let around = find_loop(vcpu, instruction, destination);
    let wanted = around.as_ref().map_or(1, |around| iterations(vcpu, around, to)).clamp(1, MAX_ITERATIONS);
    let (mut left, mut fault) = (wanted, 0);
    let mut tdx = tdx::lock();
    while left > 0 {
        let target = match guest_memory::access(&vcpu.vmcb, to, true) {
            Ok(mapping) => mapping,
            Err(code) => {
                fault = code;
                break;
            }
        };
        let lines = left.min((PAGE - target.address % PAGE) / LINE_SIZE);
        for index in 0..lines {
            let address = target.address + index * LINE_SIZE;
            let mut old = [0; LINE_SIZE as usize];
            if guest_memory::read(address, &mut old) && counters::count_overwritten(address, &old) {
                // The guest may not come to its end.
                println!(r#"@ {{"event":"overwritten","cpu":{},"address":"{address:#x}"}}"#, vcpu.number);
            }
            if !guest_memory::write(address, &line) {
                counters::count_hidden_access();
            }
        }
        let first = target.address / LINE_SIZE;
        tdx.direct_store(vcpu.number, LineRange::new(Line::new(first), Line::new(first + lines)));
        to += lines * LINE_SIZE;
        left -= lines;
    }
    tdx.sync_map(vcpu.number);
    drop(tdx);
    let done = wanted - left;
    if done == 0 {
        page_fault(vcpu, to, fault);
        return;
    }
    match around {
        None => vcpu.skip(instruction.len() as u64),
        Some(around) => finish_loop(vcpu, &around, destination, to, done),
    }
}

/// Injects #PF.
fn page_fault(vcpu: &mut Vcpu, linear: u64, code: u32) {
    vcpu.vmcb.cr2 = linear;
    vcpu.vmcb.inject = vmcb::exception_with_code(metal::interrupts::PAGE_FAULT, code);
}

/// Recognizes the loops `movdir64b d, [s]; add d, 64; dec c; jne` and
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

/// Iterations that are left.
fn iterations(vcpu: &Vcpu, around: &Loop, to: u64) -> u64 {
    let value = |register: Option<Register>| register.and_then(|register| instruction::register(vcpu, register));
    match (value(around.counter), value(around.end)) {
        (Some(count), _) => count,
        (_, Some(end)) => end.saturating_sub(to).div_ceil(LINE_SIZE),
        _ => 1,
    }
}

/// Sets registers and RIP as after `done` iterations. At the end of the loop, the flags are those
/// of its comparison.
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
