//! What went wrong in a bring-up, at which step, what was undone, and what a person can do about
//! it.

use core::fmt;
use tdx_abi::{Status, StatusCode};

use super::module_info::ModuleInfoError;
use crate::layout::LayoutError;
use crate::seamcall::SeamcallError;

/// The steps of a bring-up, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BringupStep {
    /// Taking the record of private memory.
    Claim,
    /// SYS.INIT.
    SysInit,
    /// SYS.LP.INIT on every CPU.
    LpInit,
    /// SYS.RD.
    ModuleInfo,
    /// TDMRs and PAMTs.
    Layout,
    /// SYS.CONFIG.
    Config,
    /// WBINVD, the flag, SYS.KEY.CONFIG on every package.
    KeyConfig,
    /// SYS.TDMR.INIT.
    TdmrInit,
}

impl fmt::Display for BringupStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claim => "start",
            Self::SysInit => "global initialization",
            Self::LpInit => "initialization of the CPUs",
            Self::ModuleInfo => "reading the module's metadata",
            Self::Layout => "layout of TDMRs and PAMTs",
            Self::Config => "configuration of TDMRs",
            Self::KeyConfig => "configuration of the global KeyID",
            Self::TdmrInit => "initialization of TDMRs",
        })
    }
}

/// Why a step failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BringupCause {
    /// Another bring-up runs or has succeeded.
    #[error("the record of private memory is taken: a bring-up runs, or TDX is up already")]
    Claimed,
    /// [`crate::Host::detect`] has found no TDX, or was not called.
    #[error("no TDX was detected")]
    NotDetected,
    /// The CPUs pass the gate of another host.
    #[error("the CPUs pass another gate than that of this host")]
    OtherGate,
    /// A SEAMCALL failed.
    #[error("{0}")]
    Seamcall(SeamcallError),
    /// The metadata are no good.
    #[error("{0}")]
    ModuleInfo(ModuleInfoError),
    /// No layout.
    #[error("{0}")]
    Layout(LayoutError),
    /// No memory for TDMR_INFO.
    #[error("no contiguous memory for TDMR_INFO: {pages} pages")]
    NoMemory {
        /// 4 KiB pages that were asked for.
        pages: u64,
    },
    /// The record is too small for the layout.
    #[error("{0}")]
    Record(crate::host::PublishError),
}

/// What the way back did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unwound {
    /// PAMT lines made normal again, after WBINVD on every CPU. 0 if nothing had been private yet.
    pub reset_lines: u64,
    /// PAMT lines that no mapping of the kernel has, and that are still private. If there are any,
    /// the PAMTs are not given back: they stay recorded, a handover reports them as left, and this
    /// host cannot be brought up again.
    pub left_lines: u64,
    /// PAMT memory given back, in bytes.
    pub freed_bytes: u64,
}

/// A bring-up that failed, fully undone on the host's side. The module itself cannot be rolled
/// back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BringupError {
    /// Where.
    pub step: BringupStep,
    /// Why.
    pub cause: BringupCause,
    /// What was undone.
    pub unwound: Unwound,
}

impl BringupError {
    /// Nothing was done.
    pub(super) fn at_start(cause: BringupCause) -> Self {
        Self { step: BringupStep::Claim, cause, unwound: Unwound::default() }
    }

    /// The completion status, if a SEAMCALL failed.
    pub fn status(&self) -> Option<Status> {
        self.seamcall().map(SeamcallError::status)
    }

    /// The SEAMCALL that failed, if one did.
    pub fn seamcall(&self) -> Option<&SeamcallError> {
        match &self.cause {
            BringupCause::Seamcall(error) | BringupCause::ModuleInfo(ModuleInfoError::Read { error, .. }) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// The negative errno that Linux gives for this failure.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = -5;
        const ENOMEM: i32 = -12;
        const EACCES: i32 = -13;
        const EBUSY: i32 = -16;
        const ENODEV: i32 = -19;
        const EINVAL: i32 = -22;
        const EOPNOTSUPP: i32 = -95;
        match (&self.cause, self.status()) {
            (_, Some(Status::VMFAIL_INVALID)) | (BringupCause::NotDetected, None) => ENODEV,
            (_, Some(Status::GENERAL_PROTECTION)) => EOPNOTSUPP,
            (_, Some(Status::UNDEFINED_OPCODE)) => EACCES,
            (_, Some(_)) => EIO,
            (BringupCause::Claimed, None) => EBUSY,
            (BringupCause::Layout(error), None) => error.errno(),
            (BringupCause::NoMemory { .. } | BringupCause::Record(_), None) => ENOMEM,
            (BringupCause::ModuleInfo(_) | BringupCause::Seamcall(_) | BringupCause::OtherGate, None) => EINVAL,
        }
    }

    /// What a person can do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        let status = self.status()?;
        Some(match (status, status.code()) {
            (Status::VMFAIL_INVALID, _) => "the module is not loaded, or it died: check that the BIOS loads it",
            (Status::GENERAL_PROTECTION, _) => "SEAM is not enabled: turn TDX on in the BIOS",
            (Status::UNDEFINED_OPCODE, _) => "the CPU is not in VMX operation: run VMXON on every CPU first",
            (_, StatusCode::SYS_LP_INIT_NOT_PENDING) => {
                "the module is past its initialization (an earlier bring-up or kernel): only a power cycle or a reload helps"
            }
            (_, StatusCode::SYS_CONFIG_NOT_PENDING) => {
                "the module is configured already, or not every CPU of the machine is online and initialized"
            }
            (_, StatusCode::SYS_SHUTDOWN) => "the module was shut down for an update that did not finish",
            (_, StatusCode::SYS_NOT_READY) if self.step == BringupStep::TdmrInit => {
                "a package has no CPU that is online, so its key is not configured"
            }
            (_, StatusCode::SYS_NOT_READY) => "the module does not know this call in its state; is it older than 1.5?",
            (_, StatusCode::INCORRECT_CPUID_VALUE) => "the module does not know this CPU: update the module",
            (_, StatusCode::INCORRECT_MSR_VALUE | StatusCode::INCONSISTENT_MSR) => {
                "an MSR has a value the module does not accept: update the BIOS or check its TDX settings"
            }
            (_, StatusCode::RND_NO_ENTROPY | StatusCode::KEY_GENERATION_FAILED) => {
                "the CPU ran out of random numbers: try again later"
            }
            (_, StatusCode::TDMR_OUTSIDE_CMRS | StatusCode::PAMT_OUTSIDE_CMRS) => {
                "the memory map names memory that the BIOS did not verify for TDX: use the `fit` layout"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for BringupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TDX bring-up failed at the {}: {}", self.step, self.cause)?;
        if self.unwound.left_lines > 0 {
            write!(f, "; {} lines of PAMT are not mapped and stay private", self.unwound.left_lines)?;
        }
        if let Some(hint) = self.hint() { write!(f, "; {hint}") } else { Ok(()) }
    }
}

impl core::error::Error for BringupError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.seamcall().map(|error| error as _)
    }
}
