//! Registers that TDG.VP.VMCALL and the VP.ENTER that follows pass.

use vmx::vmcall;

use crate::vmcb::GuestRegisters;

fn general(registers: &mut GuestRegisters, number: u32) -> Option<&mut u64> {
    Some(match number {
        2 => &mut registers.rdx,
        3 => &mut registers.rbx,
        5 => &mut registers.rbp,
        6 => &mut registers.rsi,
        7 => &mut registers.rdi,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        13 => &mut registers.r13,
        14 => &mut registers.r14,
        15 => &mut registers.r15,
        _ => return None,
    })
}

/// Copies the registers that the mask selects.
pub fn pass(from: &GuestRegisters, to: &mut GuestRegisters, mask: u64) {
    let mut source = *from;
    for number in vmcall::general(mask) {
        if let (Some(to), Some(from)) = (general(to, number), general(&mut source, number)) {
            *to = *from;
        }
    }
    for number in vmcall::xmm(mask) {
        to.xmm[number as usize] = from.xmm[number as usize];
    }
}

/// Clears what a TD has left in registers, except RBP, RAX, RCX and RSP.
pub fn clear(registers: &mut GuestRegisters) {
    for number in vmcall::SELECTABLE {
        if number != vmcall::RBP
            && let Some(register) = general(registers, number)
        {
            *register = 0;
        }
    }
    registers.xmm = Default::default();
}
