//! What an operator of a TDX host asks, answered without a machine: boot logs and host files read,
//! a running host checked, errors and logs explained, the TDMRs of a host planned and what they
//! cost, and the reports of all of these.
//!
//! Depends on `tdx-host` for what the product would do, and never on `tdx-machine`: the laboratory
//! (`tdx-lab`) runs, this crate reads and computes.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bootlog;
pub mod check;
pub mod cost;
pub mod cpu_model;
pub mod explain;
pub mod host;
pub mod images;
pub mod input;
mod kernel;
pub mod layout;
pub mod plan;
pub mod progress;
pub mod report;
pub mod size;
mod watched;
pub mod words;
