//! Nested page faults: the guest touches a page that is not in the map. Private or poisoned memory
//! is judged by the machine, the APIC has its own file, and of this program's memory the guest sees
//! a page of ones.

use alloc::string::ToString;
use iced_x86::{Code, Instruction, Mnemonic};
use metal::registers::wrmsr;
use metal::{interrupts, lapic, println};
use tdx_machine::{MachineCheck, PartialStore};

use crate::guest_memory::{self, Mapping};
use crate::instruction::{self, Operand};
use crate::tdx::{self, Access, Tdx, Told};
use crate::vcpu::{Shown, Vcpu};
use crate::{apic, string_store, summary, vmcb};

const FETCH: u64 = 1 << 4;
const WALK: u64 = 1 << 33;
const WRITE: u64 = 1 << 1;
const PAGE: u64 = 4096;
const CR4_MCE: u64 = 1 << 6;

/// A page of the guest's that is only there for a step.
fn show(vcpu: &Vcpu, shown: &mut Shown, tdx: &Tdx, page: u64) {
    let frame = if tdx.watches(page) && !crate::is_hidden(page) { page } else { vcpu.nothing / PAGE };
    if !shown.iter().any(|(known, _)| *known == page) {
        // An instruction touches no more pages than a detour shows.
        let _ = shown.try_push((page, frame));
    }
}

/// Answers a nested page fault.
pub fn answer(vcpu: &mut Vcpu) {
    let (info, address) = (vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2);
    let page = address / PAGE;
    let by_instruction = info & (FETCH | WALK) == 0 && !vmcb::is_event(vcpu.vmcb.exit_interrupt);
    if page == lapic::BASE / PAGE && by_instruction && apic::answer(vcpu) {
        return;
    }
    let mut tdx = tdx::lock();
    let hidden = crate::is_hidden(page);
    if !tdx.watches(page) && !hidden {
        // Another CPU has put it back meanwhile.
        return;
    }
    if hidden {
        if page != lapic::BASE / PAGE {
            summary::HIDDEN_ACCESSES.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
        vcpu.forget_nothing();
        if page == lapic::BASE / PAGE {
            let register = address & 0xff0;
            vcpu.nothing_but(register, lapic::read(register));
        }
    }
    let mut shown = vcpu.shown_before();
    show(vcpu, &mut shown, &tdx, page);
    let event = vmcb::is_event(vcpu.vmcb.exit_interrupt);
    let result = if event {
        // The stack of the handler: pushes of eight bytes.
        let access = if info & WRITE == 0 { Access::Load } else { Access::Store };
        tdx.access(vcpu.number, address, 8, access).map_err(|check| (check, None))
    } else if info & FETCH != 0 {
        let bytes = 1.max((PAGE - address % PAGE).min(guest_memory::LONGEST as u64));
        tdx.access(vcpu.number, address, bytes, Access::Load).map_err(|check| (check, None))
    } else if info & WALK != 0 {
        // Nested walks of the guest's tables count as stores: they set the accessed bit.
        let entry = address & !7;
        let read = tdx.access(vcpu.number, entry, 8, Access::Load);
        read.and_then(|()| tdx.access(vcpu.number, entry, 8, Access::Store)).map_err(|check| (check, None))
    } else {
        match instruction::decode(vcpu) {
            None => Ok(()),
            Some(instruction) => {
                if string_store::run(vcpu, &mut tdx, &instruction) {
                    tdx.reopen(page);
                    return;
                }
                judge(vcpu, &mut tdx, &instruction, &mut shown).map_err(|check| (check, Some(instruction)))
            }
        }
    };
    if let Err((check, instruction)) = result {
        machine_check(vcpu, &mut tdx, check, instruction.as_ref());
    } else {
        if info & WRITE != 0 {
            tdx.reopen(page);
        }
        drop(tdx);
        if event {
            vcpu.deliver_with(shown);
        } else {
            vcpu.step_with(shown);
        }
    }
}

/// Tells the machine what an instruction does to watched pages, reads first.
fn judge(vcpu: &Vcpu, tdx: &mut Tdx, instruction: &Instruction, shown: &mut Shown) -> Result<(), MachineCheck> {
    let operands = instruction::operands(vcpu, instruction);
    for writes in [false, true] {
        for operand in operands.iter().filter(|operand| if writes { operand.written } else { operand.read }) {
            for_each_page(vcpu, *operand, |mapping, bytes| {
                let page = mapping.address / PAGE;
                if crate::is_hidden(page) {
                    show(vcpu, shown, tdx, page);
                }
                if !tdx.watches(page) {
                    return Ok(());
                }
                show(vcpu, shown, tdx, page);
                let access = if writes { store(vcpu, instruction, mapping, bytes) } else { Access::Load };
                tdx.access(vcpu.number, mapping.address, bytes, access)
            })?;
        }
    }
    Ok(())
}

/// The pieces of an operand, page by page, where they are mapped.
fn for_each_page<E>(
    vcpu: &Vcpu,
    operand: Operand,
    mut function: impl FnMut(Mapping, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut done = 0;
    while done < operand.bytes {
        let linear = operand.linear.wrapping_add(done);
        let piece = (PAGE - linear % PAGE).min(operand.bytes - done);
        if let Some(mapping) = guest_memory::translate(&vcpu.vmcb, linear) {
            function(mapping, piece)?;
        }
        done += piece;
    }
    Ok(())
}

/// What kind of store it is: by the instruction, then by the memory type of its page.
pub fn store(vcpu: &Vcpu, instruction: &Instruction, mapping: Mapping, bytes: u64) -> Access {
    let full_line = bytes == tdx_abi::LINE_SIZE && mapping.address.is_multiple_of(tdx_abi::LINE_SIZE);
    let non_temporal = matches!(
        instruction.mnemonic(),
        Mnemonic::Movnti
            | Mnemonic::Movntq
            | Mnemonic::Movntdq
            | Mnemonic::Movntps
            | Mnemonic::Movntpd
            | Mnemonic::Vmovntdq
            | Mnemonic::Vmovntps
            | Mnemonic::Vmovntpd
            | Mnemonic::Maskmovdqu
            | Mnemonic::Maskmovq
            | Mnemonic::Vmaskmovdqu
    );
    const UNCACHED: u64 = 0;
    const WRITE_COMBINING: u64 = 1;
    const UNCACHED_MINUS: u64 = 7;
    match vcpu.vmcb.pat >> (8 * mapping.pat_index) & 7 {
        UNCACHED | UNCACHED_MINUS => Access::Partial(PartialStore::Uncached),
        WRITE_COMBINING if !full_line => Access::Partial(PartialStore::WriteCombining),
        _ if non_temporal && !full_line => Access::Partial(PartialStore::NonTemporal),
        _ => Access::Store,
    }
}

/// Machine checks that the summary tells.
const MAX_TOLD: usize = 64;

const BANKS: u32 = 0x400;
const MCG_STATUS: u32 = 0x17a;

/// The guest takes a machine check, with its bank filled as hardware does.
pub fn machine_check(vcpu: &mut Vcpu, tdx: &mut Tdx, check: MachineCheck, instruction: Option<&Instruction>) {
    let what = instruction.map_or_else(|| "fetch, walk or event".to_string(), describe);
    let kind = tdx.kind(check.line());
    println!("machine check cpu={} {check} kind={kind} rip={:#x} {what}", vcpu.number, vcpu.vmcb.rip);
    // The first ones decide, and a guest can have as many as it likes.
    if tdx.checks.len() < MAX_TOLD {
        let private_then = tdx.machine.private_lines();
        tdx.checks.push(Told { check, rip: vcpu.vmcb.rip, instruction: what, kind, private_then });
    }
    if vcpu.vmcb.cr4 & CR4_MCE == 0 {
        summary::end_locked(tdx, "shutdown", metal::exit::PANIC);
    }
    let bank = BANKS + 4 * check.bank;
    // SAFETY: the machine-check banks are the guest's; this program never takes one.
    unsafe {
        wrmsr(bank + 1, check.status);
        wrmsr(bank + 2, check.address.get());
        wrmsr(bank + 3, check.misc);
        wrmsr(MCG_STATUS, check.mcg_status);
    }
    vcpu.inject_exception(interrupts::MACHINE_CHECK);
}

fn describe(instruction: &Instruction) -> alloc::string::String {
    alloc::format!("{:?}", instruction.code() as Code)
}
