//! The laboratory: the product's own code (`tdx-host`) on the software machine (`tdx-machine`) of a
//! host that `tdx-operator` read. Kexec and crash rehearsals, TDs, and the conformance vectors of
//! the real module.
//!
//! It decides nothing about private memory: the product acts, the machine judges, this crate
//! connects, counts and reports.

#![deny(unsafe_code)] // but in `platform`, the adapter, which says why
#![warn(missing_docs)]

pub mod kexec;
pub mod platform;
pub mod report;
pub mod tds;
pub mod vectors;

/// What the software machine does not model.
pub use tdx_machine::LIMITS;
