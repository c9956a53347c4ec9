//! Machine checks in the guest: record, bank MSRs, #MC.

use alloc::string::{String, ToString};
use iced_x86::{Code, Instruction};
use metal::registers::wrmsr;
use metal::{interrupts, println};
use tdx_machine::MachineCheck;

use crate::summary;
use crate::tdx::{MachineCheckRecord, Tdx};
use crate::vcpu::Vcpu;

const CR4_MCE: u64 = 1 << 6;

/// Machine checks that the summary lists.
const MAX_RECORDS: usize = 64;

const BANKS: u32 = 0x400;
const MCG_STATUS: u32 = 0x17a;

/// Raises a machine check in the guest, with the bank filled as on hardware. Without CR4.MCE:
/// shutdown.
pub fn raise(vcpu: &mut Vcpu, tdx: &mut Tdx, check: MachineCheck, instruction: Option<&Instruction>) {
    let what = instruction.map_or_else(|| "fetch, walk or event".to_string(), describe);
    let kind = tdx.kind(check.line());
    println!("machine check cpu={} {check} kind={kind} rip={:#x} {what}", vcpu.number, vcpu.vmcb.rip);
    // Bounded, because the guest decides how many there are. The first ones are of interest.
    if tdx.checks.len() < MAX_RECORDS {
        let private_then = tdx.machine.private_lines();
        tdx.checks.push(MachineCheckRecord { check, rip: vcpu.vmcb.rip, instruction: what, kind, private_then });
    }
    if vcpu.vmcb.cr4 & CR4_MCE == 0 {
        summary::report_and_exit_locked(tdx, "shutdown", metal::exit::PANIC);
    }
    let bank = BANKS + 4 * check.bank;
    // SAFETY: the machine-check banks belong to the guest; this program does not use them.
    unsafe {
        wrmsr(bank + 1, check.status);
        wrmsr(bank + 2, check.address.get());
        wrmsr(bank + 3, check.misc);
        wrmsr(MCG_STATUS, check.mcg_status);
    }
    vcpu.inject_exception(interrupts::MACHINE_CHECK);
}

/// iced-x86 code of an instruction, for the summary.
fn describe(instruction: &Instruction) -> String {
    alloc::format!("{:?}", instruction.code() as Code)
}
