//! The subcommands: arguments and order of work of each. What the reports say is worked out in
//! `tdx-operator`, `tdx-lab` and `tdx-explorer`.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod explore;
pub(crate) mod fleet;
pub(crate) mod kexec;
pub(crate) mod linux;
pub(crate) mod packaging;
pub(crate) mod plan;
