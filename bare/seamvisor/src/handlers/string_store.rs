//! REP STOS and REP MOVS to trapped pages: many iterations in one exit, up to the end of a page.
//! One exit for each iteration would take minutes to clear memory.

use iced_x86::{Instruction, Mnemonic, Register};

use super::store_kind;
use crate::guest_memory;
use crate::tdx::Tdx;
use crate::vcpu::Vcpu;

const PAGE: u64 = 4096;
const DIRECTION: u64 = 1 << 10;

/// Emulates some iterations. False, and nothing is done, for every other instruction and for forms
/// that are not supported: those are single-stepped.
pub fn run(vcpu: &mut Vcpu, tdx: &mut Tdx, instruction: &Instruction) -> bool {
    let (size, copies) = match instruction.mnemonic() {
        Mnemonic::Stosb => (1, false),
        Mnemonic::Stosw => (2, false),
        Mnemonic::Stosd => (4, false),
        Mnemonic::Stosq => (8, false),
        Mnemonic::Movsb => (1, true),
        Mnemonic::Movsw => (2, true),
        // MOVSD of SSE2 has the same mnemonic and no REP.
        Mnemonic::Movsd => (4, true),
        Mnemonic::Movsq => (8, true),
        _ => return false,
    };
    let plain = instruction.has_rep_prefix()
        && instruction.segment_prefix() == Register::None
        && guest_memory::bitness(&vcpu.vmcb) == 64
        && vcpu.vmcb.rflags & DIRECTION == 0;
    if !plain || instruction.is_vsib() {
        return false;
    }
    let (to, from) = (vcpu.registers.rdi, vcpu.registers.rsi);
    let room = |linear: u64| (PAGE - linear % PAGE) / size;
    let mut iterations = vcpu.registers.rcx.min(room(to));
    if copies {
        iterations = iterations.min(room(from));
    }
    let Some(target) = guest_memory::translate(&vcpu.vmcb, to) else { return false };
    if iterations < 2 {
        return false;
    }
    let bytes = iterations * size;
    let mut buffer = [0u8; PAGE as usize];
    let buffer = &mut buffer[..bytes as usize];
    if copies {
        let Some(source) = guest_memory::translate(&vcpu.vmcb, from) else { return false };
        // Single-stepping reports a read of poison with its exact address.
        let clean = !tdx.is_trapped(source.address / PAGE) || tdx.is_readable(source.address, bytes);
        if !clean || !guest_memory::read(source.address, buffer) {
            return false;
        }
    } else {
        let value = vcpu.vmcb.rax.to_le_bytes();
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = value[index % size as usize];
        }
    }
    if !guest_memory::write(target.address, buffer) {
        return false;
    }
    if tdx.is_trapped(target.address / PAGE) {
        let access = store_kind::classify(vcpu, instruction, target, size);
        // A store never raises a machine check by itself.
        let _ = tdx.access(vcpu.number, target.address, bytes, access);
    }
    vcpu.registers.rdi = to.wrapping_add(bytes);
    if copies {
        vcpu.registers.rsi = from.wrapping_add(bytes);
    }
    vcpu.registers.rcx -= iterations;
    if vcpu.registers.rcx == 0 {
        vcpu.skip(instruction.len() as u64);
    }
    true
}
