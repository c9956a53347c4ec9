//! The SEAMCALL trait, the retry rules of the ABI, and errors that keep the raw status.

use core::fmt;
use tdx_abi::{LeafCall, Registers, Status, StatusCode};

use crate::platform::CpuId;

/// Immediate retries on RND_NO_ENTROPY. Source: Linux, the same constant as for RDRAND.
pub const ENTROPY_RETRIES: u32 = 10;

/// The instruction. One call, no retry, no interpretation.
///
/// # SEAMCALL
/// Implementations execute the instruction on the CPU that calls and return all registers. If the instruction fails before
/// the module runs (carry flag, #UD, #GP) RAX is one of the software codes of [`Status`] and the rest is as on entry.
pub trait Seamcall {
    /// Executes SEAMCALL with these registers.
    fn seamcall(&self, registers: Registers) -> Registers;
}

/// A SEAMCALL that did not do what was asked. The raw 64-bit status is always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeamcallError {
    /// Leaf and version.
    pub call: LeafCall,
    /// Where.
    pub cpu: CpuId,
    /// What the module (or the instruction) said.
    pub status: Status,
    /// All output registers.
    pub registers: Registers,
    /// Calls made, the first one included.
    pub attempts: u32,
}

impl fmt::Display for SeamcallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SEAMCALL ({:#018x}) {} on {} failed: {:#018x} {}",
            self.call.rax(),
            self.call.leaf(),
            self.cpu,
            self.status.raw(),
            self.status
        )?;
        if self.attempts > 1 { write!(f, " after {} attempts", self.attempts) } else { Ok(()) }
    }
}

impl core::error::Error for SeamcallError {}

/// Which statuses are worth an immediate second call, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// Calls after RND_NO_ENTROPY or KEY_GENERATION_FAILED.
    pub entropy: u32,
    /// Calls after a busy status.
    pub busy: u32,
}
