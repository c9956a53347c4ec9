//! RDMSR and WRMSR of a TD. MSRs that VMLOAD and VMSAVE switch, and TSC_AUX, are its own; EFER and
//! PAT are emulated; every other one is #VE, also those that the module virtualizes.

use alloc::boxed::Box;
use spin::Once;

use super::vcpu::TdVcpu;

const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
/// SYSENTER_CS, ESP, EIP; STAR, LSTAR, CSTAR, FMASK; FS, GS and kernel GS base; TSC_AUX.
const OWN: [u32; 11] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE.
const EFER_ALLOWED: u64 = 1 | EFER_LME | EFER_LMA | 1 << 11;

#[repr(C, align(4096))]
struct Bitmap([u8; 8192]);

static PERMISSIONS: Once<Box<Bitmap>> = Once::new();

/// Physical address of the MSR permission map of all TDs.
pub fn permissions() -> u64 {
    let map = PERMISSIONS.call_once(|| {
        let mut map = Box::new(Bitmap([0xff; 8192]));
        for msr in OWN {
            let (range, index) = if msr < 0x2000 { (0, msr) } else { (0x800, msr - 0xc000_0000) };
            map.0[range + index as usize / 4] &= !(0b11 << (2 * (index % 4)));
        }
        map
    });
    core::ptr::from_ref::<Bitmap>(map).expose_provenance() as u64
}

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
