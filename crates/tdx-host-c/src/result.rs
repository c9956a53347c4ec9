//! What a function says to C: one number for each way to fail, and the errno of Linux for each
//! number.

use tdx_abi::Status;
use tdx_host::bringup::{BringupCause, BringupError};
use tdx_host::handover::{Refused, StopCause, TableError};
use tdx_host::layout::LayoutError;
use tdx_host::ledger::{LedgerError, MarkError};
use tdx_host::platform::NoTdx;
use tdx_host::seamcall::SeamcallError;

use crate::c_enum::c_enum;

c_enum! {
    /// Result of a function. The header says what each means.
    #[must_use]
    pub enum TdxhResult as "tdxh_result" {
        /// Done.
        Ok = 0, "TDXH_OK";
        /// A pointer that must not be null is.
        Null = 7000, "TDXH_NULL";
        /// A pointer is not aligned as its type wants it.
        Misaligned = 7001, "TDXH_MISALIGNED";
        /// An object was never initialized.
        NotInitialized = 7002, "TDXH_NOT_INITIALIZED";
        /// An object is initialized already.
        AlreadyInitialized = 7003, "TDXH_ALREADY_INITIALIZED";
        /// Another CPU is using the object.
        Busy = 7004, "TDXH_BUSY";
        /// A number is none of its enum, or a count is too large.
        BadValue = 7005, "TDXH_BAD_VALUE";
        /// A range is empty, not page-aligned, reversed or above 2^52.
        BadRange = 7006, "TDXH_BAD_RANGE";
        /// `struct_size` is not that of this version, or a function pointer is null.
        BadKernel = 7007, "TDXH_BAD_KERNEL";
        /// The visitor stopped the walk.
        Stopped = 7008, "TDXH_STOPPED";
        /// No TDX on this CPU.
        NoTdx = 7100, "TDXH_NO_TDX";
        /// TDX is off in the BIOS.
        BiosOff = 7101, "TDXH_BIOS_OFF";
        /// Fewer than two private KeyIDs.
        TooFewKeyIds = 7102, "TDXH_TOO_FEW_KEY_IDS";
        /// The private KeyIDs do not fit an address.
        KeyIdsDoNotFit = 7103, "TDXH_KEY_IDS_DO_NOT_FIT";
        /// No MOVDIR64B.
        NoMovdir64b = 7104, "TDXH_NO_MOVDIR64B";
        /// The layout owns PAMT memory.
        LayoutInUse = 7200, "TDXH_LAYOUT_IN_USE";
        /// The module has the PAMTs of the layout.
        LayoutPrivate = 7201, "TDXH_LAYOUT_PRIVATE";
        /// A list of ranges is not ascending, or two of them overlap.
        Unordered = 7202, "TDXH_UNORDERED";
        /// PAMT entries of no bytes.
        PamtEntrySize = 7203, "TDXH_PAMT_ENTRY_SIZE";
        /// No memory that TDX can use.
        NoUsableMemory = 7204, "TDXH_NO_USABLE_MEMORY";
        /// More TDMRs needed than allowed.
        TdmrsExhausted = 7205, "TDXH_TDMRS_EXHAUSTED";
        /// More reserved areas needed than allowed.
        ReservedAreasExhausted = 7206, "TDXH_RESERVED_AREAS_EXHAUSTED";
        /// No contiguous memory for a PAMT.
        NoPamtMemory = 7207, "TDXH_NO_PAMT_MEMORY";
        /// SEAMCALL: the module is not loaded, or died.
        NoModule = 7300, "TDXH_NO_MODULE";
        /// SEAMCALL: SEAM is off.
        SeamOff = 7301, "TDXH_SEAM_OFF";
        /// SEAMCALL: the CPU is not in VMX operation.
        NoVmx = 7302, "TDXH_NO_VMX";
        /// SEAMCALL: the module said no.
        SeamcallFailed = 7303, "TDXH_SEAMCALL_FAILED";
        /// No SEAMCALL was made: a handover has closed the gate, or the CPU has no slot.
        GateClosed = 7304, "TDXH_GATE_CLOSED";
        /// A bring-up runs, or has succeeded.
        Claimed = 7305, "TDXH_CLAIMED";
        /// The module's metadata make no sense.
        ModuleInfo = 7306, "TDXH_MODULE_INFO";
        /// No memory for TDMR_INFO, or no room in the record.
        NoMemory = 7307, "TDXH_NO_MEMORY";
        /// The words given for a ledger are too few.
        LedgerTooSmall = 7400, "TDXH_LEDGER_TOO_SMALL";
        /// The host has a ledger with marked pages.
        LedgerInUse = 7401, "TDXH_LEDGER_IN_USE";
        /// The host has no ledger.
        NoLedger = 7402, "TDXH_NO_LEDGER";
        /// A page lies outside every TDMR.
        Outside = 7403, "TDXH_OUTSIDE";
        /// A page is the crash kernel's.
        Reserved = 7404, "TDXH_RESERVED";
        /// A page is not in the state that the operation starts from.
        WrongState = 7405, "TDXH_WRONG_STATE";
        /// A page is in no mapping of the kernel, and stays private.
        NotReset = 7406, "TDXH_NOT_RESET";
        /// Another handover is under way.
        HandoverUnderWay = 7500, "TDXH_HANDOVER_UNDER_WAY";
        /// A CPU did not stop.
        NotAlone = 7501, "TDXH_NOT_ALONE";
        /// The policy is to refuse, and there may be private memory.
        RefusedPrivateMemory = 7502, "TDXH_REFUSED_PRIVATE_MEMORY";
        /// A segment lies on private memory.
        RefusedSegment = 7503, "TDXH_REFUSED_SEGMENT";
        /// A segment of the crash image lies outside the crash kernel's memory.
        RefusedOutside = 7504, "TDXH_REFUSED_OUTSIDE";
        /// Not even the header of the table has room.
        TableTooSmall = 7600, "TDXH_TABLE_TOO_SMALL";
        /// There is no table.
        NoTable = 7601, "TDXH_NO_TABLE";
        /// A table of another version.
        TableVersion = 7602, "TDXH_TABLE_VERSION";
        /// A table that is broken.
        TableBroken = 7603, "TDXH_TABLE_BROKEN";
        /// A way to fail that this version has no number for.
        Other = 7999, "TDXH_OTHER";
    }
}

/// What the functions of this crate use inside.
pub(crate) type Outcome<T = ()> = Result<T, TdxhResult>;

/// What C gets of it.
pub(crate) fn flat(outcome: Outcome) -> TdxhResult {
    outcome.err().unwrap_or(TdxhResult::Ok)
}

const EIO: i32 = -5;
const ENOENT: i32 = -2;
const ENOMEM: i32 = -12;
const EACCES: i32 = -13;
const EBUSY: i32 = -16;
const ENODEV: i32 = -19;
const EINVAL: i32 = -22;
const ENOSPC: i32 = -28;
const EBADMSG: i32 = -74;
const EOPNOTSUPP: i32 = -95;
const EADDRNOTAVAIL: i32 = -99;
const ECANCELED: i32 = -125;

impl TdxhResult {
    /// The negative error number that Linux gives for this, or would.
    pub const fn errno(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::NoTable => ENOENT,
            Self::SeamcallFailed | Self::Other => EIO,
            Self::NoPamtMemory | Self::NoMemory => ENOMEM,
            Self::NoVmx => EACCES,
            Self::AlreadyInitialized
            | Self::Busy
            | Self::LayoutInUse
            | Self::LayoutPrivate
            | Self::GateClosed
            | Self::Claimed
            | Self::LedgerInUse
            | Self::Reserved
            | Self::WrongState
            | Self::NotReset
            | Self::HandoverUnderWay
            | Self::NotAlone => EBUSY,
            Self::NoTdx
            | Self::BiosOff
            | Self::TooFewKeyIds
            | Self::KeyIdsDoNotFit
            | Self::NoMovdir64b
            | Self::NoModule => ENODEV,
            Self::Null
            | Self::Misaligned
            | Self::NotInitialized
            | Self::BadValue
            | Self::BadRange
            | Self::BadKernel
            | Self::Unordered
            | Self::PamtEntrySize
            | Self::NoUsableMemory
            | Self::ModuleInfo
            | Self::LedgerTooSmall
            | Self::NoLedger
            | Self::Outside => EINVAL,
            Self::TdmrsExhausted | Self::ReservedAreasExhausted | Self::TableTooSmall => ENOSPC,
            Self::TableBroken => EBADMSG,
            Self::SeamOff | Self::RefusedPrivateMemory | Self::TableVersion => EOPNOTSUPP,
            Self::RefusedSegment | Self::RefusedOutside => EADDRNOTAVAIL,
            Self::Stopped => ECANCELED,
        }
    }
}

impl From<&NoTdx> for TdxhResult {
    fn from(error: &NoTdx) -> Self {
        match error {
            NoTdx::NotThere { .. } | NoTdx::NoTmeActivate { .. } => Self::NoTdx,
            NoTdx::BiosOff { .. } => Self::BiosOff,
            NoTdx::TooFewKeyIds { .. } => Self::TooFewKeyIds,
            NoTdx::KeyIdsDoNotFit { .. } => Self::KeyIdsDoNotFit,
            NoTdx::NoMovdir64b { .. } => Self::NoMovdir64b,
            _ => Self::Other,
        }
    }
}

impl From<&LayoutError> for TdxhResult {
    fn from(error: &LayoutError) -> Self {
        match error {
            LayoutError::InUse => Self::LayoutInUse,
            LayoutError::Private => Self::LayoutPrivate,
            LayoutError::Unordered { .. } => Self::Unordered,
            LayoutError::TooHigh { .. } => Self::BadRange,
            LayoutError::PamtEntrySize { .. } => Self::PamtEntrySize,
            LayoutError::NoMemory => Self::NoUsableMemory,
            LayoutError::TdmrsExhausted { .. } => Self::TdmrsExhausted,
            LayoutError::ReservedAreasExhausted { .. } => Self::ReservedAreasExhausted,
            LayoutError::NoPamtMemory { .. } => Self::NoPamtMemory,
            _ => Self::Other,
        }
    }
}

impl From<&SeamcallError> for TdxhResult {
    fn from(error: &SeamcallError) -> Self {
        match error.status() {
            Status::VMFAIL_INVALID => Self::NoModule,
            Status::GENERAL_PROTECTION => Self::SeamOff,
            Status::UNDEFINED_OPCODE => Self::NoVmx,
            Status::GATE_CLOSED => Self::GateClosed,
            _ => Self::SeamcallFailed,
        }
    }
}

impl From<&BringupError> for TdxhResult {
    fn from(error: &BringupError) -> Self {
        match (&error.cause, error.seamcall()) {
            (_, Some(seamcall)) => seamcall.into(),
            (BringupCause::Claimed, None) => Self::Claimed,
            (BringupCause::Layout(layout), None) => layout.into(),
            (BringupCause::NoMemory { .. } | BringupCause::Record(_), None) => Self::NoMemory,
            (BringupCause::ModuleInfo(_), None) => Self::ModuleInfo,
            _ => Self::Other,
        }
    }
}

impl From<&LedgerError> for TdxhResult {
    fn from(error: &LedgerError) -> Self {
        match error {
            LedgerError::TooSmall { .. } => Self::LedgerTooSmall,
            LedgerError::BadRange { .. } => Self::BadRange,
            LedgerError::TooManyRanges { .. } | LedgerError::TooManyReserved { .. } => Self::BadValue,
            _ => Self::Other,
        }
    }
}

impl From<&MarkError> for TdxhResult {
    fn from(error: &MarkError) -> Self {
        match error {
            MarkError::Outside { .. } => Self::Outside,
            MarkError::Reserved { .. } => Self::Reserved,
            MarkError::WrongState { .. } => Self::WrongState,
            MarkError::NotReset { .. } => Self::NotReset,
            _ => Self::Other,
        }
    }
}

impl From<&StopCause> for TdxhResult {
    fn from(cause: &StopCause) -> Self {
        match cause {
            StopCause::HandoverUnderWay => Self::HandoverUnderWay,
            StopCause::NotAlone(_) => Self::NotAlone,
            _ => Self::Other,
        }
    }
}

impl From<&Refused> for TdxhResult {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::PrivateMemory { .. } => Self::RefusedPrivateMemory,
            Refused::JumpSegment { .. } | Refused::KeptSegment { .. } | Refused::CrashSegment { .. } => {
                Self::RefusedSegment
            }
            Refused::CrashSegmentOutside { .. } => Self::RefusedOutside,
            _ => Self::Other,
        }
    }
}

impl From<&TableError> for TdxhResult {
    fn from(error: &TableError) -> Self {
        match error {
            TableError::TooSmall { .. } => Self::TableTooSmall,
            TableError::NoTable => Self::NoTable,
            TableError::Version { .. } => Self::TableVersion,
            TableError::Header { .. } | TableError::Checksum { .. } | TableError::Entry { .. } => Self::TableBroken,
            _ => Self::Other,
        }
    }
}
