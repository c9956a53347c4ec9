//! IA32_MCi_STATUS of a machine-check bank, given where a completion status was expected. Its bits
//! are general knowledge (SDM).

use super::status;
use crate::report::{Basis, MsrField, MsrReport};
use tdx_abi::Status;
use tdx_host::platform::Msr;

/// True for a value that is no completion status and is valid as the status of a bank: bit 63
/// (VAL), and an error code.
pub(super) fn is_bank_status(value: u64) -> bool {
    status::is_impossible(Status::new(value)) && value >> 63 == 1 && value & 0xffff != 0
}

/// The same, of a register that was read.
pub(super) fn of_register(msr: Msr, value: u64) -> MsrReport {
    let mut report = explain(value);
    report.msr = format!("{:#x}", msr.0);
    let bank = (msr.0 - 0x400) / 4;
    if value >> 63 == 0 {
        report.meaning =
            format!("bank {bank} holds no error: bit 63 (VAL) is clear, so that the other bits say nothing");
        report.todo = None;
    } else if let Some((_, says)) = report.meaning.split_once(": ") {
        report.meaning = format!("bank {bank} holds an error: {says}");
    }
    report
}

/// What it says.
pub(super) fn explain(value: u64) -> MsrReport {
    let bit = |number: u32| value >> number & 1;
    let field = |bits: &str, shift: u32, width: u32, text: &str| MsrField {
        bits: bits.to_owned(),
        value: format!("{:#x}", value >> shift & (u64::MAX >> (64 - width))),
        text: text.to_owned(),
        basis: Basis::Unverified,
    };
    let code = value & 0xefff;
    let kind = match code {
        0x80..=0xff => "memory controller error",
        0x100..=0x1ff | 0x0c..=0x0f => "cache hierarchy error",
        0x280..=0x2ff => "error of memory used as cache",
        0x10..=0x1f => "TLB error",
        0x400 => "internal timer error",
        0x800..=0xfff => "bus or interconnect error",
        _ => "other error",
    };
    let uncorrected = if bit(61) == 1 { "uncorrected" } else { "corrected by hardware" };
    MsrReport {
        msr: "0x401 + 4 * bank".to_owned(),
        name: Some("IA32_MCi_STATUS"),
        known: true,
        value: format!("{value:#x}"),
        fields: vec![
            field("63", 63, 1, "the bank holds an error (VAL)"),
            field("62", 62, 1, "an earlier error was overwritten (OVER)"),
            field("61", 61, 1, "not corrected (UC)"),
            field("59", 59, 1, "IA32_MCi_MISC is valid (MISCV)"),
            field("58", 58, 1, "IA32_MCi_ADDR is valid (ADDRV)"),
            field("57", 57, 1, "the state of the CPU is corrupt (PCC)"),
            field("56", 56, 1, "signaled as a machine check (S)"),
            field("55", 55, 1, "action is required (AR)"),
            field("31:16", 16, 16, "model-specific error code"),
            field("15:0", 0, 16, kind),
        ],
        meaning: format!(
            "no completion status (bits 59:48 of one are 0) but the status of a machine-check bank: {uncorrected}, {kind}"
        ),
        todo: Some("explain the whole record: `dmesg | cleanslate explain -`".to_owned()),
    }
}
