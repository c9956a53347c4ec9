//! RDMSR and WRMSR of a TD that exit: EFER, PAT and the registers of the virtual APIC are emulated;
//! every other one is #VE, also those that the module virtualizes.

use vmx::apic::{self, Write};

use super::vcpu::TdVcpu;
use crate::vmcb::EFER_SVME;

const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;

/// What an access to an MSR comes to.
pub enum Done {
    Yes,
    GeneralProtection,
    /// Done, and an APIC-write exit with this qualification.
    ApicWrite(u64),
    VirtualizationException,
}

/// Emulates an intercepted access.
pub fn access(td: &mut TdVcpu, write: bool) -> Done {
    let value = td.vmcb.rax & 0xffff_ffff | td.registers.rdx << 32;
    let msr = td.registers.rcx as u32;
    if write {
        return match msr {
            EFER if td.vmcb.set_efer(value) => Done::Yes,
            PAT if value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) => {
                td.vmcb.pat = value;
                Done::Yes
            }
            EFER | PAT => Done::GeneralProtection,
            apic::FIRST_MSR..=apic::LAST_MSR => match td.apic.write(msr, value) {
                Write::Done => Done::Yes,
                Write::GeneralProtection => Done::GeneralProtection,
                Write::Exit(qualification) => Done::ApicWrite(qualification),
                Write::Other => Done::VirtualizationException,
            },
            _ => Done::VirtualizationException,
        };
    }
    let value = match msr {
        EFER => td.vmcb.efer & !EFER_SVME,
        PAT => td.vmcb.pat,
        apic::FIRST_MSR..=apic::LAST_MSR => match td.apic.read(msr) {
            Some(value) => value,
            None => return Done::VirtualizationException,
        },
        _ => return Done::VirtualizationException,
    };
    td.vmcb.rax = value & 0xffff_ffff;
    td.registers.rdx = value >> 32;
    Done::Yes
}
