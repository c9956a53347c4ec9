//! What the host of a TD sees of VMX, as functions of numbers: virtual APIC, EPT walks, exit
//! qualifications, the registers that TDG.VP.VMCALL passes, valid values of XCR0; and gates of the
//! IDT. Tests run on any machine.

#![no_std]
#![forbid(unsafe_code)]

pub mod apic;
pub mod ept;
pub mod idt;
pub mod io;
pub mod vmcall;
pub mod xcr0;
