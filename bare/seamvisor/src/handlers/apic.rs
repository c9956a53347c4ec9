//! Local APIC accesses: passed through, except INIT, SIPI and NMI, which go to virtual CPUs. A real
//! INIT would stop the hypervisor on that CPU.

use core::sync::atomic::Ordering;
use iced_x86::{Mnemonic, OpKind};
use metal::{MAX_CPUS, lapic, println, smp};

use super::instruction;
use crate::kick;
use crate::vcpu::Vcpu;

const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;

/// Delivery modes of the command register.
const SMI: u32 = 2;
const NMI: u32 = 4;
const INIT: u32 = 5;
const STARTUP: u32 = 6;

/// Emulates a MOV to or from an APIC register. False for every other instruction: it is then
/// stepped on a page of ones that holds the register it reads, and its stores are dropped. The real
/// page is never mapped, because a store that begins before the command register and ends in it
/// would stop real CPUs.
pub fn handle_exit(vcpu: &mut Vcpu) -> bool {
    let offset = vcpu.vmcb.exit_info_2 - lapic::BASE;
    let plain = instruction::decode(vcpu)
        .filter(|it| it.mnemonic() == Mnemonic::Mov && offset.is_multiple_of(16) && it.op_count() == 2);
    let Some(instruction) = plain else {
        if vcpu.vmcb.exit_info_1 & 0b10 != 0 {
            println!("cpu={} unsupported store to the APIC at {offset:#x}: dropped", vcpu.number);
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
    let count = smp::cpu_count();
    let target = (lapic::read(COMMAND_HIGH) >> 24) as usize;
    for other in 0..count.min(MAX_CPUS) {
        let is_target = match value >> 18 & 0b11 {
            0 => other == target || target == 0xff,
            1 => other == cpu,
            2 => true,
            _ => other != cpu,
        };
        if !is_target {
            continue;
        }
        let mailbox = kick::mailbox(other);
        match mode {
            NMI => mailbox.nmi.store(true, Ordering::SeqCst),
            STARTUP => mailbox.startup.store(u64::from(value & 0xff) | 0x100, Ordering::SeqCst),
            // INIT level de-assert has no effect on processors with TDX.
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
