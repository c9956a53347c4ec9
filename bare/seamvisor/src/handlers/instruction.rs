//! Decoding of the guest's current instruction: registers and memory operands.

use arrayvec::ArrayVec;
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register};

use crate::guest_memory;
use crate::vcpu::Vcpu;

/// A memory operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Linear address.
    pub linear: u64,
    /// Bytes.
    pub bytes: u64,
    /// The instruction reads it.
    pub read: bool,
    /// The instruction writes it.
    pub written: bool,
}

/// Decodes the instruction at CS:RIP. `None` if it is not readable or not valid.
pub fn decode(vcpu: &Vcpu) -> Option<Instruction> {
    let (bytes, length) = guest_memory::instruction(&vcpu.vmcb);
    let bitness = guest_memory::bitness(&vcpu.vmcb);
    let mut decoder = Decoder::with_ip(bitness, &bytes[..length], vcpu.vmcb.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The encoding of an instruction at CS:RIP.
pub fn bytes(vcpu: &Vcpu, instruction: &Instruction) -> ArrayVec<u8, 15> {
    let (bytes, length) = guest_memory::instruction(&vcpu.vmcb);
    bytes.iter().copied().take(length.min(instruction.len())).collect()
}

/// The value of a register, or the base of a segment.
pub fn register(vcpu: &Vcpu, register: Register) -> Option<u64> {
    let (vmcb, guest) = (&vcpu.vmcb, &vcpu.registers);
    let long = guest_memory::bitness(vmcb) == 64;
    let full = match register {
        Register::ES if !long => vmcb.es.base,
        Register::CS if !long => vmcb.cs.base,
        Register::SS if !long => vmcb.ss.base,
        Register::DS if !long => vmcb.ds.base,
        Register::ES | Register::CS | Register::SS | Register::DS => 0,
        Register::FS => vmcb.fs.base,
        Register::GS => vmcb.gs.base,
        _ => match register.full_register() {
            Register::RAX => vmcb.rax,
            Register::RCX => guest.rcx,
            Register::RDX => guest.rdx,
            Register::RBX => guest.rbx,
            Register::RSP => vmcb.rsp,
            Register::RBP => guest.rbp,
            Register::RSI => guest.rsi,
            Register::RDI => guest.rdi,
            Register::R8 => guest.r8,
            Register::R9 => guest.r9,
            Register::R10 => guest.r10,
            Register::R11 => guest.r11,
            Register::R12 => guest.r12,
            Register::R13 => guest.r13,
            Register::R14 => guest.r14,
            Register::R15 => guest.r15,
            Register::RIP => vmcb.rip,
            _ => return None,
        },
    };
    Some(match register {
        Register::AH | Register::BH | Register::CH | Register::DH => full >> 8 & 0xff,
        _ => match register.size() {
            1 => full & 0xff,
            2 if !register.is_segment_register() => full & 0xffff,
            4 if !register.is_segment_register() => full & 0xffff_ffff,
            _ => full,
        },
    })
}

/// Sets a 32- or 64-bit general register. False for every other register.
pub fn set_register(vcpu: &mut Vcpu, register: Register, value: u64) -> bool {
    let value = match register.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        _ => return false,
    };
    let guest = &mut vcpu.registers;
    let place = match register.full_register() {
        Register::RAX => &mut vcpu.vmcb.rax,
        Register::RCX => &mut guest.rcx,
        Register::RDX => &mut guest.rdx,
        Register::RBX => &mut guest.rbx,
        Register::RSP => &mut vcpu.vmcb.rsp,
        Register::RBP => &mut guest.rbp,
        Register::RSI => &mut guest.rsi,
        Register::RDI => &mut guest.rdi,
        Register::R8 => &mut guest.r8,
        Register::R9 => &mut guest.r9,
        Register::R10 => &mut guest.r10,
        Register::R11 => &mut guest.r11,
        Register::R12 => &mut guest.r12,
        Register::R13 => &mut guest.r13,
        Register::R14 => &mut guest.r14,
        Register::R15 => &mut guest.r15,
        _ => return false,
    };
    *place = value;
    true
}

/// Memory operands of an instruction; those of the next iteration for a repeated string
/// instruction.
pub fn operands(vcpu: &Vcpu, instruction: &Instruction) -> ArrayVec<Operand, 8> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let mut operands = ArrayVec::new();
    for memory in info.used_memory() {
        let (read, written) = match memory.access() {
            OpAccess::Read | OpAccess::CondRead => (true, false),
            OpAccess::Write | OpAccess::CondWrite => (false, true),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
            OpAccess::None | OpAccess::NoMemAccess => continue,
        };
        if let Some(linear) = memory.virtual_address(0, |name, _, _| register(vcpu, name)) {
            let bytes = memory.memory_size().size().max(1) as u64;
            // No instruction has more than eight memory operands.
            let _ = operands.try_push(Operand { linear, bytes, read, written });
        }
    }
    operands
}
