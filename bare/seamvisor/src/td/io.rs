//! I/O instructions of a TD: #VE, with the exit qualification of VMX.

use super::vcpu::TdVcpu;

/// Exit qualification and length of the instruction that has exited.
pub fn qualification(td: &TdVcpu) -> (u64, u64) {
    let info = td.vmcb.exit_info_1;
    let bit = |from: u64, to: u64| (info >> from & 1) << to;
    let bytes_less_one = match info >> 4 & 0b111 {
        1 => 0,
        2 => 1,
        _ => 3,
    };
    // Input, string, REP. Whether the port is an operand is not known.
    let qualification = bytes_less_one | bit(0, 3) | bit(2, 4) | bit(3, 5) | info >> 16 << 16 & 0xffff_0000;
    (qualification, td.vmcb.exit_info_2.wrapping_sub(td.vmcb.rip) & 0xf)
}
