//! PUSHF to trapped pages. A single step would push the flags of the step: TF set, IF clear.

use iced_x86::{Instruction, Mnemonic};

use super::store_kind;
use crate::guest_memory;
use crate::tdx::Tdx;
use crate::vcpu::Vcpu;

const PAGE: u64 = 4096;
/// Pushed as 0.
const RESUME: u64 = 1 << 16;
const VIRTUAL_8086: u64 = 1 << 17;

/// Emulates PUSHFQ. False, and nothing is done, for every other instruction, a word that crosses a
/// page, memory that is not the guest's, and a page fault: those are single-stepped.
pub fn run(vcpu: &mut Vcpu, tdx: &mut Tdx, instruction: &Instruction) -> bool {
    let word = (vcpu.vmcb.rflags & !(RESUME | VIRTUAL_8086)).to_le_bytes();
    let bytes = word.len() as u64;
    let to = vcpu.vmcb.rsp.wrapping_sub(bytes);
    if instruction.mnemonic() != Mnemonic::Pushfq || to % PAGE > PAGE - bytes {
        return false;
    }
    let Ok(target) = guest_memory::access(&vcpu.vmcb, to, true) else { return false };
    if !guest_memory::write(target.address, &word) {
        return false;
    }
    if tdx.is_trapped(target.address / PAGE) {
        let access = store_kind::classify(vcpu, instruction, target, bytes);
        // A store never raises a machine check by itself.
        let _ = tdx.access(vcpu.number, target.address, bytes, access);
    }
    vcpu.vmcb.rsp = to;
    vcpu.skip(instruction.len() as u64);
    true
}
