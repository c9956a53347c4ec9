//! What the host of a TD sees of VMX, as functions of numbers: EPT walks, exit qualifications, the
//! registers that TDG.VP.VMCALL passes, valid values of XCR0. Tests run on any machine.

#![no_std]
#![forbid(unsafe_code)]

pub mod ept;
pub mod io;
pub mod vmcall;
pub mod xcr0;
