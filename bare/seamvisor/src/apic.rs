//! The local APIC: all of it is the guest's, but what could stop a real CPU. INIT, SIPI and NMI go
//! to virtual CPUs.

use core::sync::atomic::Ordering;
use iced_x86::{Mnemonic, OpKind};
use metal::{MAX_CPUS, lapic, println};

use crate::vcpu::Vcpu;
use crate::{instruction, kick};

const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;

/// Delivery modes of the command register.
const SMI: u32 = 2;
const NMI: u32 = 4;
const INIT: u32 = 5;
const STARTUP: u32 = 6;

/// Answers an access to the APIC's page by a plain MOV. False for every other instruction: the
/// guest finds a page of ones there with the register that it reads, never the real page, in which
/// a store that begins before the command register and ends in it would stop real CPUs. Such stores
/// are lost.
pub fn answer(vcpu: &mut Vcpu) -> bool {
    let offset = vcpu.vmcb.exit_info_2 - lapic::BASE;
    let plain = instruction::decode(vcpu)
        .filter(|it| it.mnemonic() == Mnemonic::Mov && offset.is_multiple_of(16) && it.op_count() == 2);
    let Some(instruction) = plain else {
        if vcpu.vmcb.exit_info_1 & 0b10 != 0 {
            println!(
                "cpu={} stores to the APIC at {offset:#x} by an instruction that is not followed: lost",
                vcpu.number
            );
        }
        return false;
    };
    let done = if instruction.op0_kind() == OpKind::Memory {
        let value = match instruction.op1_kind() {
            OpKind::Register => instruction::register(vcpu, instruction.op1_register()),
            OpKind::Immediate32 => Some(u64::from(instruction.immediate32())),
            _ => None,
        };
        value.map(|value| write(vcpu.number, offset, value as u32)).is_some()
    } else {
        let value = lapic::read(offset);
        instruction::set_register(vcpu, instruction.op0_register(), u64::from(value))
    };
    if done {
        vcpu.skip(instruction.len() as u64);
    }
    done
}

fn write(cpu: usize, offset: u64, value: u32) {
    let mode = value >> 8 & 7;
    if offset != COMMAND_LOW || !matches!(mode, SMI | NMI | INIT | STARTUP) {
        lapic::write(offset, value);
        return;
    }
    const LEVEL_ASSERTED: u32 = 1 << 14;
    let count = crate::cpu_count();
    let target = (lapic::read(COMMAND_HIGH) >> 24) as usize;
    for other in 0..count.min(MAX_CPUS) {
        let meant = match value >> 18 & 0b11 {
            0 => other == target || target == 0xff,
            1 => other == cpu,
            2 => true,
            _ => other != cpu,
        };
        if !meant {
            continue;
        }
        let mailbox = kick::mailbox(other);
        match mode {
            NMI => mailbox.nmi.store(true, Ordering::SeqCst),
            STARTUP => mailbox.startup.store(u64::from(value & 0xff) | 0x100, Ordering::SeqCst),
            // The de-assert of INIT does nothing on any CPU with TDX.
            INIT if value & LEVEL_ASSERTED != 0 => {
                mailbox.startup.store(0, Ordering::SeqCst);
                mailbox.init.store(true, Ordering::SeqCst);
            }
            _ => continue,
        }
        if other != cpu {
            kick::wake(other);
            kick::kick(other);
        }
    }
}
