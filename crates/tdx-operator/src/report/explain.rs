//! Report of `explain`: a status, an errno, an MSR, or the findings of a log.

use serde::Serialize;

use super::Basis;

/// Everything that `explain` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ExplainReport {
    /// Always `cleanslate/explain`.
    pub schema: &'static str,
    /// Version of the schema: 1.
    pub version: u32,
    /// Program and version.
    pub tool: &'static str,
    /// The value or file, as the user named it.
    pub input: String,
    /// What it was taken for, and what it means.
    #[serde(flatten)]
    pub subject: Subject,
}

impl ExplainReport {
    /// A report on this subject.
    pub fn new(input: &str, subject: Subject) -> Self {
        Self {
            schema: "cleanslate/explain",
            version: 1,
            tool: super::TOOL,
            input: crate::input::excerpt(input),
            subject,
        }
    }

    /// False if the value is not known to this program.
    pub fn is_known(&self) -> bool {
        match &self.subject {
            Subject::Status(status) => status.known,
            Subject::Errno(errno) => errno.known,
            Subject::Msr(msr) => msr.known,
            Subject::Log(log) => !log.findings.is_empty(),
        }
    }
}

/// What is explained.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A completion status.
    Status(StatusReport),
    /// An errno.
    Errno(ErrnoReport),
    /// A register's value.
    Msr(MsrReport),
    /// A log.
    Log(LogReport),
}

/// Whether to make the same call again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// It is done.
    NotNeeded,
    /// At once, a few times.
    AtOnce,
    /// When the resource is free.
    Later,
    /// Until it says something else.
    Resume,
    /// After another call or step that it asks for.
    After,
    /// The same call fails again.
    No,
    /// Not known.
    Unknown,
}

impl Retry {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotNeeded => "not needed",
            Self::AtOnce => "at once, a few times",
            Self::Later => "once the resource is free",
            Self::Resume => "until the status changes",
            Self::After => "after the required step",
            Self::No => "no: the same call will fail again",
            Self::Unknown => "not known",
        }
    }
}

/// How much of a status was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    /// All 64 bits.
    Whole,
    /// Bits 63:32, without the details of the occurrence.
    UpperHalf,
    /// Its name, without the details of the occurrence.
    Name,
}

/// A completion status.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "bits of the status, as the module sets them")]
pub struct StatusReport {
    /// 64 bits, hex; bits 31:0 are 0 unless all were given.
    pub raw: String,
    /// Whether this program knows it.
    pub known: bool,
    /// The kernel's name.
    pub name: Option<String>,
    /// How much of it was given.
    pub given: Given,
    /// Bits 47:40 in words.
    pub class: String,
    /// Bit 63.
    pub error: bool,
    /// Bit 62.
    pub non_recoverable: bool,
    /// Bit 61.
    pub fatal: bool,
    /// What bits 31:0 say: an operand, a TDMR, a register.
    pub detail: Option<String>,
    /// What it means.
    pub meaning: String,
    /// Whether to make the same call again.
    pub retry: Retry,
    /// What to do.
    pub todo: String,
    /// The module may answer any leaf so, before the leaf begins.
    pub any_leaf: bool,
    /// Any but these.
    pub any_leaf_but: Vec<String>,
    /// Leaves that answer so for reasons of their own.
    pub leaves: Vec<String>,
}

/// An errno of a bring-up or a kexec.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrnoReport {
    /// Negative, as the kernel prints it.
    pub number: i64,
    /// Name.
    pub name: Option<&'static str>,
    /// Whether this program knows what gives it.
    pub known: bool,
    /// What it means.
    pub meaning: String,
    /// The failures that give it.
    pub causes: Vec<ErrnoCause>,
    /// What to do.
    pub todo: String,
}

/// A failure that gives an errno.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrnoCause {
    /// The rule by which a log of it is judged, or the check that looks for it.
    pub rule: &'static str,
    /// The line of the kernel that stands before it, or what was called.
    pub line: &'static str,
    /// The cause.
    pub cause: &'static str,
}

/// A register's value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MsrReport {
    /// Number, hex.
    pub msr: String,
    /// Name.
    pub name: Option<&'static str>,
    /// Whether this program knows its bits.
    pub known: bool,
    /// 64 bits, hex.
    pub value: String,
    /// The bits that are known.
    pub fields: Vec<MsrField>,
    /// What it means.
    pub meaning: String,
    /// What to do, if there is something to do.
    pub todo: Option<String>,
}

/// Bits of a register.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MsrField {
    /// `63:32`.
    pub bits: String,
    /// Hex.
    pub value: String,
    /// What they say.
    pub text: String,
    /// What that rests on.
    pub basis: Basis,
}

/// What a log was found to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogReport {
    /// Lines.
    pub lines: u64,
    /// Boots in the file.
    pub boots: u64,
    /// What is explained, in the order of the lines.
    pub findings: Vec<LogFinding>,
    /// Findings beyond those: of a storm of machine checks the first and the last are kept.
    pub findings_left_out: u64,
    /// Lines on TDX or machine checks that this program does not know: how many, and the first of
    /// them.
    pub unknown_lines: u64,
    /// At most 16.
    pub unknown: Vec<LogLine>,
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogLine {
    /// From 1.
    pub line: u64,
    /// Its text, shortened.
    pub text: String,
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Whether TDX came up.
    BringUp,
    /// A SEAMCALL after that.
    Seamcall,
    /// How the kernel left TDX to the next one.
    Handover,
    /// A kexec or kdump image that was refused.
    Kexec,
    /// QEMU or libvirt could not start a TD.
    Vmm,
    /// A machine check or a memory error.
    MachineCheck,
    /// Who wrote the log, and what its text is.
    System,
}

/// How it is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// TDX is up.
    Up,
    /// TDX did not come up, or a call after that failed, and the cause is known.
    Failed,
    /// Likely the poison of a partial write to private memory: a fault of a kernel or a driver.
    TdxPoison,
    /// Likely hardware, or an error that was injected: not the poison of a partial write.
    Hardware,
    /// The log does not decide it.
    Undecidable,
    /// A fact to know before the other findings; no fault.
    Info,
}

impl Judgement {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Failed => "failed",
            Self::TdxPoison => "TDX poison",
            Self::Hardware => "hardware",
            Self::Undecidable => "undecidable",
            Self::Info => "info",
        }
    }
}

/// One thing that a log says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogFinding {
    /// What it is about.
    pub topic: Topic,
    /// How it is judged.
    pub judgement: Judgement,
    /// The rule that judged.
    pub rule: &'static str,
    /// What that rests on.
    pub basis: Basis,
    /// The lines that it was judged by, at most 12.
    pub evidence: Vec<LogLine>,
    /// The cause, or why it cannot be determined.
    pub cause: String,
    /// What to do.
    pub remedy: String,
    /// Which boot of the file it is about, from 1.
    pub boot: u64,
}
