//! REP STOS and REP MOVS over watched pages: many turns at once, up to the end of a page. One turn
//! for each exit would take minutes for what a kernel clears in a second.

use iced_x86::{Instruction, Mnemonic, Register};

use crate::guest_memory;
use crate::page_fault;
use crate::tdx::Tdx;
use crate::vcpu::Vcpu;

const PAGE: u64 = 4096;
const DIRECTION: u64 = 1 << 10;

/// Runs some turns. False if this is no such instruction, or one that needs more care: then nothing
/// was done.
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
    let mut turns = vcpu.registers.rcx.min(room(to));
    if copies {
        turns = turns.min(room(from));
    }
    let Some(target) = guest_memory::translate(&vcpu.vmcb, to) else { return false };
    if turns < 2 {
        return false;
    }
    let bytes = turns * size;
    let mut buffer = [0u8; PAGE as usize];
    let buffer = &mut buffer[..bytes as usize];
    if copies {
        let Some(source) = guest_memory::translate(&vcpu.vmcb, from) else { return false };
        // A read of poison is told by the slower way, with the very byte that it is.
        let clean = !tdx.watches(source.address / PAGE) || tdx.is_readable(source.address, bytes);
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
    if tdx.watches(target.address / PAGE) {
        let access = page_fault::store(vcpu, instruction, target, size);
        // A store never raises a machine check by itself.
        let _ = tdx.access(vcpu.number, target.address, bytes, access);
    }
    vcpu.registers.rdi = to.wrapping_add(bytes);
    if copies {
        vcpu.registers.rsi = from.wrapping_add(bytes);
    }
    vcpu.registers.rcx -= turns;
    if vcpu.registers.rcx == 0 {
        vcpu.skip(instruction.len() as u64);
    }
    true
}
