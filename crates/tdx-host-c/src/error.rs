//! The details of a failure, in a struct that the caller provides: a message for people and the raw
//! status of a SEAMCALL.

use core::ffi::c_char;
use core::fmt;
use tdx_abi::Registers;
use tdx_host::bringup::{BringupError, BringupStep};
use tdx_host::seamcall::SeamcallError;

use crate::c_enum::c_enum;
use crate::result::TdxhResult;
use crate::storage::is_usable;
use crate::text::text;

/// Bytes of [`TdxhError::text`], the final zero included.
pub const TDXH_TEXT_SIZE: usize = 320;

c_enum! {
    /// The step of a bring-up that failed.
    pub enum TdxhStep as "tdxh_step" {
        /// The failure was not in a bring-up.
        None = 0, "TDXH_STEP_NONE";
        /// Taking the record of private memory.
        Claim = 1, "TDXH_STEP_CLAIM";
        /// SYS.INIT.
        SysInit = 2, "TDXH_STEP_SYS_INIT";
        /// SYS.LP.INIT.
        LpInit = 3, "TDXH_STEP_LP_INIT";
        /// SYS.RD.
        ModuleInfo = 4, "TDXH_STEP_MODULE_INFO";
        /// TDMRs and PAMTs.
        Layout = 5, "TDXH_STEP_LAYOUT";
        /// SYS.CONFIG.
        Config = 6, "TDXH_STEP_CONFIG";
        /// SYS.KEY.CONFIG.
        KeyConfig = 7, "TDXH_STEP_KEY_CONFIG";
        /// SYS.TDMR.INIT.
        TdmrInit = 8, "TDXH_STEP_TDMR_INIT";
    }
}

impl From<BringupStep> for TdxhStep {
    fn from(step: BringupStep) -> Self {
        match step {
            BringupStep::Claim => Self::Claim,
            BringupStep::SysInit => Self::SysInit,
            BringupStep::LpInit => Self::LpInit,
            BringupStep::ModuleInfo => Self::ModuleInfo,
            BringupStep::Layout => Self::Layout,
            BringupStep::Config => Self::Config,
            BringupStep::KeyConfig => Self::KeyConfig,
            BringupStep::TdmrInit => Self::TdmrInit,
        }
    }
}

/// `struct tdxh_error`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TdxhError {
    /// [`TdxhResult`].
    pub result: u32,
    /// [`TdxhStep`].
    pub step: u32,
    /// Completion status of the SEAMCALL that failed; 0 if none did.
    pub status: u64,
    /// CPU that made it.
    pub cpu: u32,
    /// Calls made, the first one included; 0 if no SEAMCALL failed.
    pub attempts: u32,
    /// Its input registers.
    pub input: Registers,
    /// Its output registers.
    pub output: Registers,
    /// What to tell a person: ASCII, ends with a zero byte.
    pub text: [c_char; TDXH_TEXT_SIZE],
}

/// A caller's `struct tdxh_error`, if it gave one.
#[derive(Clone, Copy)]
pub(crate) struct Details(*mut TdxhError);

impl Details {
    /// # Safety
    /// The pointer is null, or valid for writes during the call of C.
    pub(crate) unsafe fn new(error: *mut TdxhError) -> Self {
        Self(error)
    }

    /// Writes down what failed, and gives the result back.
    pub(crate) fn fill(self, result: TdxhResult, message: &dyn fmt::Display) -> TdxhResult {
        self.write(result, TdxhStep::None, None, message)
    }

    /// The same for a SEAMCALL.
    pub(crate) fn seamcall(self, error: &SeamcallError) -> TdxhResult {
        self.write(error.into(), TdxhStep::None, Some(error), error)
    }

    /// The same for a bring-up.
    pub(crate) fn bring_up(self, error: &BringupError) -> TdxhResult {
        self.write(error.into(), error.step.into(), error.seamcall(), error)
    }

    fn write(
        self,
        result: TdxhResult,
        step: TdxhStep,
        seamcall: Option<&SeamcallError>,
        message: &dyn fmt::Display,
    ) -> TdxhResult {
        if !is_usable(self.0) {
            return result;
        }
        let error = TdxhError {
            result: result as u32,
            step: step as u32,
            status: seamcall.map_or(0, |seamcall| seamcall.status().raw()),
            cpu: seamcall.map_or(0, |seamcall| seamcall.cpu.0),
            attempts: seamcall.map_or(0, |seamcall| seamcall.attempts),
            input: seamcall.map_or_else(Registers::default, |seamcall| seamcall.input),
            output: seamcall.map_or_else(Registers::default, |seamcall| seamcall.registers),
            text: text(message),
        };
        // SAFETY: not null and aligned (checked above), valid for writes by the contract of `new`;
        // the old bytes need no drop.
        unsafe { self.0.write(error) };
        result
    }
}
