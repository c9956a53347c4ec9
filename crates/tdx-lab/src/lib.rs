//! The laboratory around the TDX host stack: hosts read from real boot logs, and scenarios that run
//! the product's own code (`tdx-host`) on the software machine (`tdx-machine`) of such a host.
//!
//! It decides nothing about private memory: the product acts, the machine judges, this crate
//! connects, counts and reports.

#![warn(missing_docs)]

pub mod bootlog;
pub mod check;
pub mod cost;
pub mod cpu_model;
pub mod explain;
pub mod explore;
pub mod host;
mod images;
pub mod input;
pub mod kexec;
pub mod plan;
pub mod platform;
pub mod report;
pub mod size;
pub mod tds;
pub mod vectors;
mod watched;
pub mod words;
