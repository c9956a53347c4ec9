//! Parts of the report that are missing, and why.

use std::borrow::Cow;

use serde::Serialize;

/// A part of the report that may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    Processor,
    Module,
    Audit,
    Bandwidth,
    Wbinvd,
    Observer,
}

impl Part {
    /// The parts that the module measures.
    pub(super) const MEASURED: [Self; 2] = [Self::Wbinvd, Self::Observer];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Module => "module",
            Self::Audit => "audit",
            Self::Bandwidth => "bandwidth",
            Self::Wbinvd => "wbinvd",
            Self::Observer => "observer",
        }
    }
}

/// Why a part is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reason {
    /// By `--skip`.
    Skipped,
    /// This machine cannot have it.
    NotApplicable,
    /// It should be there.
    Failed,
    /// By Ctrl-C.
    Interrupted,
}

/// A part that is missing.
#[derive(Clone, Serialize)]
pub(super) struct Missing {
    pub(super) part: Part,
    pub(super) reason: Reason,
    pub(super) why: Cow<'static, str>,
}
