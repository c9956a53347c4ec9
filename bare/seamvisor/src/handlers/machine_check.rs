//! Machine checks in the guest: record, bank MSRs, #MC.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
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
    let record = record(tdx, check, vcpu.vmcb.rip, what);
    println!(
        "machine check cpu={} {check} kind={} rip={:#x} {}",
        vcpu.number, record.kind, record.rip, record.instruction
    );
    keep(&mut tdx.checks, record);
    if vcpu.vmcb.cr4 & CR4_MCE == 0 {
        summary::report_and_exit_locked(tdx, "shutdown", metal::exit::PANIC);
    }
    fill_bank(check);
    vcpu.inject_exception(interrupts::MACHINE_CHECK);
}

/// A machine check in the TD on this CPU: it is the module's to handle. The host finds the bank
/// filled.
pub fn raise_in_td(cpu: usize, tdx: &mut Tdx, check: MachineCheck, rip: u64) {
    let record = record(tdx, check, rip, "access of a TD".to_string());
    println!("machine check in a TD cpu={cpu} {check} kind={} rip={rip:#x}", record.kind);
    keep(&mut tdx.td_checks, record);
    fill_bank(check);
}

fn record(tdx: &Tdx, check: MachineCheck, rip: u64, instruction: String) -> MachineCheckRecord {
    let private_then = tdx.machine.private_lines();
    MachineCheckRecord { check, rip, instruction, kind: tdx.kind(check.line()), private_then }
}

/// Bounded, because the guest decides how many there are. The first ones are of interest.
fn keep(records: &mut Vec<MachineCheckRecord>, record: MachineCheckRecord) {
    if records.len() < MAX_RECORDS {
        records.push(record);
    }
}

fn fill_bank(check: MachineCheck) {
    let bank = BANKS + 4 * check.bank;
    // SAFETY: the machine-check banks belong to the guest; this program does not use them.
    unsafe {
        wrmsr(bank + 1, check.status);
        wrmsr(bank + 2, check.address.get());
        wrmsr(bank + 3, check.misc);
        wrmsr(MCG_STATUS, check.mcg_status);
    }
}

/// iced-x86 code of an instruction, for the summary.
fn describe(instruction: &Instruction) -> String {
    alloc::format!("{:?}", instruction.code() as Code)
}
