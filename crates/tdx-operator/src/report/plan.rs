//! Report of `plan`: TDMRs, PAMTs, reserved areas, and Linux's layout for the same host.

use serde::Serialize;

use super::{HostReport, Span};

/// Everything that `plan` says.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// Always `cleanslate/plan`.
    pub schema: &'static str,
    /// Version of the schema: 1.
    pub version: u32,
    /// Program and version.
    pub tool: &'static str,
    /// The host.
    pub host: HostReport,
    /// The layout asked for; its keys stand at the top level of the JSON.
    #[serde(flatten)]
    pub layout: LayoutReport,
    /// What Linux would do.
    pub linux: LinuxReport,
    /// Why the layout and Linux's differ; empty if they do not.
    pub differences: Vec<String>,
    /// What it costs; `None` without a layout.
    pub cost: Option<CostReport>,
}

/// A layout, or why there is none.
#[derive(Clone, Debug, Serialize)]
pub struct LayoutReport {
    /// `fit` or `linux`.
    pub layout: &'static str,
    /// `ok`, or the negative errno.
    pub result: String,
    /// Why there is none.
    pub error: Option<String>,
    /// TDMRs, ascending.
    pub tdmrs: Vec<TdmrReport>,
    /// KiB of PAMT, all TDMRs; `None` if there is no layout.
    pub pamt_kb: Option<u64>,
    /// Usable convertible bytes that TDX does not have.
    pub given_up_bytes: u64,
    /// Usable memory that TDX does not have, and why; what lies in no CMR included.
    pub given_up: Vec<GivenUpReport>,
    /// Most TDMRs the module takes.
    pub max_tdmrs: u16,
    /// Most reserved areas of one TDMR.
    pub max_reserved_per_tdmr: u16,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// One TDMR.
#[derive(Clone, Debug, Serialize)]
pub struct TdmrReport {
    /// Its place in the table given to SYS.CONFIG.
    pub index: usize,
    /// Base, end and size.
    #[serde(flatten)]
    pub range: Span,
    /// Node its PAMT was wanted on.
    pub node: u32,
    /// Number of reserved areas.
    pub reserved_count: usize,
    /// Reserved areas, ascending.
    pub reserved: Vec<Span>,
    /// PAMTs: 4 KiB, 2 MiB, 1 GiB pages.
    pub pamt: PamtReport,
    /// Bytes of PAMT, all three.
    pub pamt_bytes: u64,
}

/// The three PAMTs of a TDMR.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PamtReport {
    /// For 4 KiB pages.
    #[serde(rename = "4k")]
    pub small: Span,
    /// For 2 MiB pages.
    #[serde(rename = "2m")]
    pub large: Span,
    /// For 1 GiB pages.
    #[serde(rename = "1g")]
    pub huge: Span,
}

/// Usable memory that TDX does not have.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GivenUpReport {
    /// Which.
    #[serde(flatten)]
    pub range: Span,
    /// Why.
    pub reason: &'static str,
}

/// What Linux does on this host.
#[derive(Clone, Debug, Serialize)]
pub struct LinuxReport {
    /// `ok`, or the negative errno that the kernel prints, e.g. `-28`.
    pub result: String,
    /// Why it fails.
    pub error: Option<String>,
    /// The TDMR at which it fails, if it is one.
    pub tdmr: Option<Span>,
    /// What is no usable memory in that TDMR: each hole takes a reserved area. Empty if it is none.
    pub holes: Vec<Span>,
    /// What was needed there: TDMRs or reserved areas.
    pub needed: Option<u64>,
    /// What the module allows.
    pub allowed: Option<u64>,
    /// Number of TDMRs; `None` if it fails.
    pub tdmrs: Option<usize>,
    /// KiB of PAMT; `None` if it fails.
    pub pamt_kb: Option<u64>,
    /// The log's kernel printed the same PAMT size, or failed at the same TDMR; `None` if the log
    /// says neither.
    pub equals_log: Option<bool>,
}

/// What TDX costs on this host. Every figure of seconds is an estimate.
#[derive(Clone, Debug, Serialize)]
pub struct CostReport {
    /// Bytes in TDMRs that TDs could have.
    pub memory_for_tds: u64,
    /// Memory.
    pub pamt: PamtCost,
    /// Time at boot.
    pub boot: BootCost,
    /// How fast lines are rewritten.
    pub rates: RateReport,
    /// Time at kexec.
    pub kexec: Vec<KexecCost>,
    /// How long the host stands still in Linux with `cleanslate.ko`.
    pub outage: Vec<OutageCost>,
}

/// Memory for PAMT.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PamtCost {
    /// Bytes for good.
    pub static_bytes: u64,
    /// Bytes for good with Dynamic PAMT; `None` if there is no such layout.
    pub dynamic_bytes: Option<u64>,
    /// The same with all memory in TDs, by 4 KiB pages.
    pub dynamic_bytes_all_in_tds: Option<u64>,
}

/// Time that a bring-up takes in Linux.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BootCost {
    /// Least and most of published logs, for this much memory.
    pub seconds: [f64; 2],
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RateReport {
    /// By one core.
    pub one_core: f64,
    /// By all.
    pub all_cores: f64,
    /// Where the figures come from.
    pub origin: &'static str,
    /// CPUs that `all_cores` follows from, if the log does not name their number and it is assumed;
    /// null if it is known or not needed.
    pub assumed_cpus: Option<u32>,
}

/// How much memory TDs have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// None.
    None,
    /// Half.
    Half,
    /// All there is.
    All,
}

impl Share {
    /// As JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Half => "half",
            Self::All => "all",
        }
    }
}

/// What the reset of `cleanslate.ko`, policy `tracked`, adds to a kexec and to the start of a
/// crash's dump, in seconds. WBINVD, and all that Linux does besides, apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OutageCost {
    /// Memory in TDs.
    pub memory_in_tds: Share,
    /// Kexec, if one CPU resets everything: the worst case, if not all CPUs take part.
    pub kexec_one_cpu: f64,
    /// Kexec, all CPUs.
    pub kexec_all_cpus: f64,
    /// Crash, `dump=reset`: the CPU that crashes resets everything.
    pub dump_reset: f64,
    /// Crash, `dump=exclude`: 0, nothing is reset and the crash kernel leaves private memory out;
    /// as `dump_reset`, if the crash kernel does not have the module.
    pub dump_exclude: f64,
}

/// Time that the reset of a kexec takes, WBINVD apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KexecCost {
    /// `pamt`, `tracked` or `everything`; `none` and `refuse` write nothing, `module` what the
    /// module cannot know.
    pub policy: &'static str,
    /// Memory in TDs.
    pub memory_in_tds: Share,
    /// Bytes rewritten.
    pub bytes: u64,
    /// By one core.
    pub seconds_one_core: f64,
    /// By all.
    pub seconds_all_cores: f64,
}
