//! Calls of the same leaf with the same status.

use std::collections::BTreeSet;

use tdx_abi::Leaf;

use crate::{bootlog::call::Call, report::LogLine};

/// The same leaf with the same status.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) call: Call,
    pub(super) count: u64,
    /// KeyIDs that the kernel gave up.
    pub(super) leaked: BTreeSet<u64>,
    /// The leaf whose failure leaves the same behind, where the leaf is not known.
    pub(super) like: Option<Leaf>,
    /// It was read from the registers of a warning.
    pub(super) from_registers: bool,
    pub(super) evidence: Vec<LogLine>,
}
