//! Reports: one serializable structure for each command. In JSON addresses are hex strings, sizes
//! and counts are numbers, and the order is fixed.

mod check;
mod explain;
mod fleet;
mod host;
mod plan;
pub mod prometheus;
pub mod svg;

use core::fmt;

use serde::{Serialize, Serializer};
use tdx_abi::{PageRange, PhysAddr};

pub use check::{
    Basis, CheckCategory, CheckFacts, CheckFinding, CheckReport, CheckVerdict, Remedy, Status, UnseenReport,
};
pub use explain::{
    ErrnoCause, ErrnoReport, ExplainReport, Given, Judgement, LogFinding, LogLine, LogReport, MsrField, MsrReport,
    Retry, StatusReport, Subject, Topic,
};
pub use fleet::{FleetCounts, FleetMachine, FleetReason, FleetReport, FleetUnreadable};
pub use host::{AssumptionReport, CpuReport, HostReport, KeyIdReport, LoggedReport};
pub use plan::{
    BootCost, CostReport, GivenUpReport, KexecCost, LayoutReport, LinuxReport, OutageCost, PamtCost, PamtReport,
    PlanReport, RateReport, Share, TdmrReport,
};

/// Name and version of the program, as reports carry it.
pub const TOOL: &str = concat!("cleanslate ", env!("CARGO_PKG_VERSION"));

/// A physical address; a hex string in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address(pub PhysAddr);

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A half-open range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Span {
    /// First byte.
    pub base: Address,
    /// First byte after.
    pub end: Address,
    /// Bytes.
    pub size: u64,
}

impl From<PageRange> for Span {
    fn from(range: PageRange) -> Self {
        Self { base: Address(range.base()), end: Address(range.limit()), size: range.bytes() }
    }
}

impl fmt::Display for Span {
    /// `[0x1000, 0x2000)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.base, self.end)
    }
}
