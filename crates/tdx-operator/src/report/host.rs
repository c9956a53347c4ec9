//! The host, as contained in every report.

use serde::Serialize;
use tdx_host::platform::CpuModel;

use super::Span;
use crate::{cpu_model, host::Host};

/// The host of a report.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// File, or the name a host file gives itself.
    pub name: String,
    /// Usable bytes above 1 MiB.
    pub memory_bytes: u64,
    /// Usable bytes that no CMR covers.
    pub bytes_outside_cmrs: u64,
    /// NUMA nodes with memory.
    pub nodes: usize,
    /// Convertible memory ranges.
    pub cmrs: Vec<Span>,
    /// Private KeyIDs.
    pub key_ids: KeyIdReport,
    /// The CPU.
    pub cpu: CpuReport,
    /// Packages.
    pub packages: u32,
    /// Logical processors.
    pub cpus: u32,
    /// What the kernel of the log did.
    pub logged: LoggedReport,
    /// What the log does not say.
    pub assumptions: Vec<AssumptionReport>,
}

/// Private KeyIDs, `[first, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct KeyIdReport {
    /// First.
    pub first: u32,
    /// End, exclusive.
    pub end: u64,
}

/// A CPU model.
#[derive(Clone, Debug, Serialize)]
pub struct CpuReport {
    /// Family and model, as `06_8F`.
    pub model: String,
    /// Name, if known.
    pub name: Option<&'static str>,
    /// It has the partial-write erratum.
    pub partial_write_erratum: bool,
}

/// What the kernel of the log did on this host.
#[derive(Clone, Debug, Serialize)]
pub struct LoggedReport {
    /// Kernel version.
    pub kernel: Option<String>,
    /// TDX module.
    pub module: Option<String>,
    /// KiB allocated for PAMT.
    pub pamt_kb: Option<u64>,
    /// Line number and text of the first failure.
    pub failure: Option<(u64, String)>,
}

/// Something that was assumed.
#[derive(Clone, Debug, Serialize)]
pub struct AssumptionReport {
    /// What it is about: memory, cmrs, key-ids, cpu, nodes, packages, cpus, cut, linux-failed,
    /// dynamic-pamt.
    pub about: &'static str,
    /// In words.
    pub text: String,
}

impl From<CpuModel> for CpuReport {
    fn from(model: CpuModel) -> Self {
        Self {
            model: model.to_string(),
            name: cpu_model::name(model),
            partial_write_erratum: model.has_partial_write_erratum(),
        }
    }
}

impl From<&Host> for HostReport {
    fn from(host: &Host) -> Self {
        let logged = host.logged();
        Self {
            name: host.name().to_owned(),
            memory_bytes: host.memory_bytes(),
            bytes_outside_cmrs: host.bytes_outside_cmrs(),
            nodes: host.nodes(),
            cmrs: host.cmrs().iter().copied().map(Span::from).collect(),
            key_ids: KeyIdReport { first: host.key_ids().shared() + 1, end: host.key_ids().private_end() },
            cpu: host.cpu().into(),
            packages: host.packages(),
            cpus: host.cpus(),
            logged: LoggedReport {
                kernel: logged.kernel.clone(),
                module: logged.module.map(|version| version.to_string()),
                pamt_kb: logged.pamt_kb,
                failure: logged.failure.as_ref().map(|at| (at.line, at.value.1.clone())),
            },
            assumptions: host
                .assumptions()
                .iter()
                .map(|assumption| AssumptionReport { about: assumption.key(), text: assumption.to_string() })
                .collect(),
        }
    }
}
