//! RDMSR and WRMSR of a TD that exit: EFER and PAT are emulated; every other one is #VE, also those
//! that the module virtualizes.

use super::vcpu::TdVcpu;

const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE.
const EFER_ALLOWED: u64 = 1 | EFER_LME | EFER_LMA | 1 << 11;

/// What an access to an MSR comes to.
pub enum Done {
    Yes,
    GeneralProtection,
    VirtualizationException,
}

/// Emulates an intercepted access.
pub fn access(td: &mut TdVcpu, write: bool) -> Done {
    let value = td.vmcb.rax & 0xffff_ffff | td.registers.rdx << 32;
    let msr = td.registers.rcx as u32;
    if write {
        return match msr {
            EFER => set_efer(td, value),
            PAT if value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) => {
                td.vmcb.pat = value;
                Done::Yes
            }
            PAT => Done::GeneralProtection,
            _ => Done::VirtualizationException,
        };
    }
    let value = match msr {
        EFER => td.vmcb.efer & !EFER_SVME,
        PAT => td.vmcb.pat,
        _ => return Done::VirtualizationException,
    };
    td.vmcb.rax = value & 0xffff_ffff;
    td.registers.rdx = value >> 32;
    Done::Yes
}

fn set_efer(td: &mut TdVcpu, value: u64) -> Done {
    let paging = td.vmcb.cr0 >> 31 & 1 == 1;
    let switches = (value ^ td.vmcb.efer) & EFER_LME != 0;
    if value & !EFER_ALLOWED != 0 || paging && switches {
        return Done::GeneralProtection;
    }
    td.vmcb.efer = value & !EFER_LMA | td.vmcb.efer & EFER_LMA | EFER_SVME;
    Done::Yes
}
