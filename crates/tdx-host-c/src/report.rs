//! What a handover did and what it left, as numbers; and what a kernel can do that returns from
//! one.

use core::ffi::c_void;
use tdx_host::handover::{
    CameBack, HandoverKind, HandoverReport, LeftPrivate, Leftover, LeftoverKind, LeftoverReason, ModuleAnswer,
    NothingToDo, Outcome as What,
};

use crate::c_enum::c_enum;
use crate::host::{Host, TdxhHost};
use crate::range::TdxhRange;
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhReport, content, is_usable, output};

c_enum! {
    /// How the machine was handed over.
    pub enum TdxhHandoverKind as "tdxh_handover_kind" {
        /// Kexec.
        Kexec = 0, "TDXH_HANDOVER_KEXEC";
        /// Kexec jump.
        Jump = 1, "TDXH_HANDOVER_JUMP";
        /// Crash.
        Crash = 2, "TDXH_HANDOVER_CRASH";
    }
}

c_enum! {
    /// What the module said.
    pub enum TdxhModuleAnswer as "tdxh_module_answer" {
        /// It was not asked.
        NotAsked = 0, "TDXH_MODULE_NOT_ASKED";
        /// It took all memory back and cleared it.
        Disabled = 1, "TDXH_MODULE_DISABLED";
        /// It has no SYS.DISABLE.
        NoLeaf = 2, "TDXH_MODULE_NO_LEAF";
        /// It failed.
        Failed = 3, "TDXH_MODULE_FAILED";
    }
}

c_enum! {
    /// What became of private memory.
    pub enum TdxhOutcome as "tdxh_outcome" {
        /// Reset.
        Reset = 0, "TDXH_OUTCOME_RESET";
        /// No TDX.
        NoTdx = 1, "TDXH_OUTCOME_NO_TDX";
        /// None was handed to the module.
        NoPrivateMemory = 2, "TDXH_OUTCOME_NO_PRIVATE_MEMORY";
        /// It does no harm on this CPU.
        NoErratum = 3, "TDXH_OUTCOME_NO_ERRATUM";
        /// Left, because this kernel is returned to.
        LeftForJump = 6, "TDXH_OUTCOME_LEFT_FOR_JUMP";
        /// None of the above.
        Other = 7, "TDXH_OUTCOME_OTHER";
    }
}

c_enum! {
    /// What a kernel that was returned to can do with TDX.
    pub enum TdxhCameBack as "tdxh_came_back_result" {
        /// All as before.
        TdxGoesOn = 0, "TDXH_TDX_GOES_ON";
        /// TDX can be brought up anew.
        CanBringUpAgain = 1, "TDXH_CAN_BRING_UP_AGAIN";
        /// Nothing.
        TdxIsGone = 2, "TDXH_TDX_IS_GONE";
    }
}

c_enum! {
    /// What a leftover is.
    pub enum TdxhLeftoverKind as "tdxh_leftover_kind" {
        /// PAMT.
        Pamt = 1, "TDXH_LEFTOVER_PAMT";
        /// A page of a TD.
        Page = 2, "TDXH_LEFTOVER_PAGE";
    }
}

c_enum! {
    /// Why it is left.
    pub enum TdxhLeftoverReason as "tdxh_leftover_reason" {
        /// The policy was not to reset it.
        NotReset = 1, "TDXH_LEFTOVER_NOT_RESET";
        /// A CPU may still hold lines of it.
        Caches = 2, "TDXH_LEFTOVER_CACHES";
        /// It lies in memory that is never touched.
        Reserved = 3, "TDXH_LEFTOVER_RESERVED";
        /// Some of it is in no mapping of the kernel.
        NotMapped = 4, "TDXH_LEFTOVER_NOT_MAPPED";
    }
}

impl From<What> for TdxhOutcome {
    fn from(outcome: What) -> Self {
        match outcome {
            What::Reset(_) => Self::Reset,
            What::NothingToDo(NothingToDo::NoTdx) => Self::NoTdx,
            What::NothingToDo(NothingToDo::NoPrivateMemory) => Self::NoPrivateMemory,
            What::NothingToDo(NothingToDo::NoErratum) => Self::NoErratum,
            What::LeftPrivate(LeftPrivate::KexecJump) => Self::LeftForJump,
            _ => Self::Other,
        }
    }
}

/// `struct tdxh_handover`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhHandover {
    /// [`TdxhPolicy`](crate::kexec::TdxhPolicy) that was asked for.
    pub policy: u32,
    /// [`TdxhHandoverKind`].
    pub kind: u32,
    /// [`TdxhOutcome`].
    pub outcome: u32,
    /// [`TdxhModuleAnswer`].
    pub module: u32,
    /// Completion status of SYS.DISABLE, if it failed; 0 otherwise.
    pub module_status: u64,
    /// 64-byte lines reset.
    pub lines: u64,
    /// 64-byte lines that no mapping has.
    pub lines_left: u64,
    /// Ranges they lie in.
    pub ranges: u64,
    /// CPUs that did not stop.
    pub not_stopped: u32,
    /// CPUs whose caches may hold private lines.
    pub may_hold_private_lines: u32,
    /// 1: nothing is left that can do harm, as far as the host can know.
    pub clean: u32,
    /// 1: the next kernel can bring TDX up from the start.
    pub next_kernel_can_use_tdx: u32,
}

/// `struct tdxh_leftover`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhLeftover {
    /// The pages.
    pub range: TdxhRange,
    /// [`TdxhLeftoverKind`].
    pub kind: u32,
    /// [`TdxhLeftoverReason`].
    pub reason: u32,
}

impl From<Leftover> for TdxhLeftover {
    fn from(leftover: Leftover) -> Self {
        let kind = match leftover.kind {
            LeftoverKind::Pamt => TdxhLeftoverKind::Pamt,
            LeftoverKind::Page => TdxhLeftoverKind::Page,
        };
        let reason = match leftover.reason {
            LeftoverReason::NotReset => TdxhLeftoverReason::NotReset,
            LeftoverReason::CachesNotWrittenBack => TdxhLeftoverReason::Caches,
            LeftoverReason::Reserved => TdxhLeftoverReason::Reserved,
            LeftoverReason::NotMapped => TdxhLeftoverReason::NotMapped,
        };
        Self { range: leftover.range.into(), kind: kind as u32, reason: reason as u32 }
    }
}

fn describe(report: &HandoverReport, host: &Host) -> TdxhHandover {
    let (module, module_status) = match &report.module {
        None => (TdxhModuleAnswer::NotAsked, 0),
        Some(ModuleAnswer::Disabled { .. }) => (TdxhModuleAnswer::Disabled, 0),
        Some(ModuleAnswer::NoLeaf) => (TdxhModuleAnswer::NoLeaf, 0),
        Some(ModuleAnswer::Failed(error)) => (TdxhModuleAnswer::Failed, error.status().raw()),
        Some(_) => (TdxhModuleAnswer::Failed, 0),
    };
    let (lines, lines_left, ranges) = match report.outcome {
        What::Reset(count) => (count.lines, count.left, count.ranges),
        _ => (0, 0, 0),
    };
    let kind = match report.kind {
        HandoverKind::Kexec => TdxhHandoverKind::Kexec,
        HandoverKind::Jump => TdxhHandoverKind::Jump,
        HandoverKind::Crash => TdxhHandoverKind::Crash,
    };
    TdxhHandover {
        policy: crate::kexec::number(report.policy),
        kind: kind as u32,
        outcome: TdxhOutcome::from(report.outcome) as u32,
        module: module as u32,
        module_status,
        lines,
        lines_left,
        ranges,
        not_stopped: report.suspects.not_stopped,
        may_hold_private_lines: report.suspects.may_hold_private_lines,
        clean: report.is_clean(&host.memory()).into(),
        next_kernel_can_use_tdx: report.next_kernel_can_use_tdx().into(),
    }
}

/// What a handover did. See the header.
///
/// # Safety
/// `host` was initialized; `report` is storage as [`crate::Opaque`] wants it; `handover` is null or
/// valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_report_get(
    host: *mut TdxhHost,
    report: *mut TdxhReport,
    handover: *mut TdxhHandover,
) -> TdxhResult {
    let get = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled and opaque objects are storage that was zeroed or that this
        // library has filled.
        let (host, report) = unsafe { (Host::of(host)?, content(report)?.take()?) };
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(handover, describe(&report, host)) }
    };
    flat(get())
}

/// Walks what the next kernel must not touch. See the header.
///
/// # Safety
/// `host` and `report` as in [`tdxh_report_get`]; `visit` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_walk_leftovers(
    host: *mut TdxhHost,
    report: *mut TdxhReport,
    visit: Option<unsafe extern "C" fn(context: *mut c_void, leftover: *const TdxhLeftover) -> i32>,
    context: *mut c_void,
) -> TdxhResult {
    let walk = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled and opaque objects are storage that was zeroed or that this
        // library has filled.
        let (host, report) = unsafe { (Host::of(host)?, content(report)?.take()?) };
        let visit = visit.ok_or(TdxhResult::Null)?;
        for leftover in report.leftovers(&host.memory()) {
            let leftover = TdxhLeftover::from(leftover);
            // SAFETY: by the contract of this function; the struct lives through the call.
            if unsafe { visit(context, &raw const leftover) } != 0 {
                return Err(TdxhResult::Stopped);
            }
        }
        Ok(())
    };
    flat(walk())
}

/// This kernel goes on after all. See the header.
///
/// # Safety
/// `host` and `report` as in [`tdxh_report_get`]; `came_back` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_came_back(
    host: *mut TdxhHost,
    report: *mut TdxhReport,
    came_back: *mut u32,
) -> TdxhResult {
    let back = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled and opaque objects are storage that was zeroed or that this
        // library has filled.
        let (host, report) = unsafe { (Host::of(host)?, content(report)?.take()?) };
        if !is_usable(came_back) {
            return Err(TdxhResult::Null);
        }
        let found = match report.came_back(&host.memory()) {
            CameBack::TdxGoesOn => TdxhCameBack::TdxGoesOn,
            CameBack::CanBringUpAgain => TdxhCameBack::CanBringUpAgain,
            CameBack::TdxIsGone => TdxhCameBack::TdxIsGone,
        };
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(came_back, found as u32) }
    };
    flat(back())
}
