//! VM exit handlers, one file for each cause. A handler takes the state of the virtual CPU, changes
//! it, and returns to the run loop.

mod apic;
pub mod control_registers;
pub mod cpuid;
pub mod instruction;
pub mod invalid_opcode;
pub mod io;
pub mod machine_check;
mod movdir64b;
pub mod msr;
pub mod page_fault;
mod push_flags;
mod reserved_bits;
mod store_kind;
mod string_store;
pub mod vmx;
mod vmx_capabilities;
