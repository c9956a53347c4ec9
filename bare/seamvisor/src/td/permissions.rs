//! Permission maps of all TDs: every I/O port is intercepted, and every MSR but those that VMLOAD
//! and VMSAVE switch, and TSC_AUX.

use alloc::boxed::Box;
use spin::Once;

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

#[repr(C, align(4096))]
struct MsrMap([u8; 8192]);

static MSRS: Once<Box<MsrMap>> = Once::new();

/// Physical address of the MSR permission map of all TDs.
pub fn msrs() -> u64 {
    let map = MSRS.call_once(|| {
        let mut map = Box::new(MsrMap([0xff; 8192]));
        for msr in OWN {
            let (range, index) = if msr < 0x2000 { (0, msr) } else { (0x800, msr - 0xc000_0000) };
            map.0[range + index as usize / 4] &= !(0b11 << (2 * (index % 4)));
        }
        map
    });
    core::ptr::from_ref::<MsrMap>(map).expose_provenance() as u64
}

#[repr(C, align(4096))]
struct IoMap([u8; 3 * 4096]);

static PORTS: Once<Box<IoMap>> = Once::new();

/// Physical address of the I/O permission map of all TDs.
pub fn ports() -> u64 {
    let map = PORTS.call_once(|| Box::new(IoMap([0xff; 3 * 4096])));
    core::ptr::from_ref::<IoMap>(map).expose_provenance() as u64
}
