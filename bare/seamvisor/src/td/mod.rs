//! Virtual CPUs of TDs. TDH.VP.ENTER runs the code of a TD on a VMCB of its own, on nested page
//! tables made of its Secure EPT and of the host's EPT for shared addresses, until an exit that the
//! emulated module hands to the host.
//!
//! Trust boundary: neither the host nor a TD is trusted. Every table is bounded, every allocation
//! that they can cause is counted, and what is not modeled stops the virtual CPU
//! ([`outcome::stop`]), never this program.

mod cpuid;
mod delivery;
mod enter;
mod exits;
mod extended_state;
mod interrupts;
mod msr;
mod nested;
mod outcome;
mod page_faults;
mod permissions;
mod posted;
mod read_memory;
mod registers;
mod tdcall;
mod vcpu;
mod vcpus;

pub use enter::run;
pub use extended_state::enable as enable_extended_state;
