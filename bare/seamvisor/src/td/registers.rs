//! Which registers TDG.VP.VMCALL and the VP.ENTER that follows pass, by the mask in the guest's
//! RCX: bit n is general register n, bit 16 + n is XMM n.

use crate::vmcb::GuestRegisters;

/// General registers that a mask can select: all but RAX, RCX and RSP.
const SELECTABLE: [u32; 13] = [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// RBP: kept where it is not selected.
const RBP: u32 = 5;

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

const fn selects(mask: u64, bit: u32) -> bool {
    mask >> bit & 1 == 1
}

/// Copies the selected registers.
pub fn pass(from: &GuestRegisters, to: &mut GuestRegisters, mask: u64) {
    let mut source = *from;
    for number in SELECTABLE {
        if selects(mask, number)
            && let (Some(to), Some(from)) = (general(to, number), general(&mut source, number))
        {
            *to = *from;
        }
    }
    for (number, (to, from)) in to.xmm.iter_mut().zip(from.xmm).enumerate() {
        if selects(mask, 16 + number as u32) {
            *to = from;
        }
    }
}

/// Clears what a TD has left in registers, except RBP, RAX, RCX and RSP.
pub fn clear(registers: &mut GuestRegisters) {
    for number in SELECTABLE {
        if number != RBP
            && let Some(register) = general(registers, number)
        {
            *register = 0;
        }
    }
    registers.xmm = Default::default();
}
