//! TDH.SYS.DISABLE: the module gives back all memory that it knows and clears it.

use core::fmt;
use tdx_abi::{Leaf, Registers, Status, StatusCode};

use crate::gate::Closing;
use crate::platform::Cpu;
use crate::seamcall::SeamcallError;

/// Most calls of SYS.DISABLE for one handover. Each makes progress or waits for another SYS.* call
/// that is on its way out; at a microsecond a call this is a quarter of a minute, after which the
/// host cleans up by itself.
///
/// Linux loops without a limit. That the module always makes progress is a promise which the draft
/// specification does not make.
pub const DISABLE_CALLS: u32 = 1 << 24;

/// What came of SYS.DISABLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ModuleAnswer {
    /// It has taken back and cleared all memory that it knows.
    Disabled {
        /// Calls that it took.
        calls: u32,
    },
    /// It does not have the leaf (TDX_FEATURES0 bit 53), or that was never read. No call was made.
    NoLeaf,
    /// Any status but success: it refused, it is dead, or it did not come to an end. The raw status
    /// is in the error.
    Failed(SeamcallError),
}

impl fmt::Display for ModuleAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled { calls } => {
                let plural = if *calls == 1 { "" } else { "s" };
                write!(f, "TDH.SYS.DISABLE cleared all memory the module knows ({calls} call{plural})")
            }
            Self::NoLeaf => f.write_str("the module has no TDH.SYS.DISABLE"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Calls SYS.DISABLE until it is done, fails, or has been called [`DISABLE_CALLS`] times.
/// `progress` is called after each.
///
/// The gate is closed by `closing`: this is the one call that its owner may still make, as long as
/// no crash has closed the gate for good. It may have, also from within `progress`; then the answer
/// is [`Status::GATE_CLOSED`].
pub(super) fn disable<C: Cpu>(cpu: &C, closing: Closing, mut progress: impl FnMut(u32)) -> ModuleAnswer {
    let input = Registers::call(Leaf::SYS_DISABLE);
    let mut calls = 0;
    loop {
        calls += 1;
        let registers = match cpu.cpu_gate().enter_for_handover(Leaf::SYS_DISABLE, closing) {
            // SAFETY: SYS.DISABLE makes the module give its memory back and clear it; what it does
            // not know stays marked. The gate is still closed by this handover, which has stopped
            // the other CPUs and reset nothing yet.
            Ok(_guard) => unsafe { cpu.seamcall(input) },
            Err(_) => Registers { rax: Status::GATE_CLOSED.raw(), ..input },
        };
        progress(calls);
        let status = registers.status();
        if status.code() == StatusCode::SUCCESS {
            return ModuleAnswer::Disabled { calls };
        }
        let again = matches!(status.code(), StatusCode::INTERRUPTED_RESUMABLE | StatusCode::SYS_BUSY);
        if !again || calls == DISABLE_CALLS {
            let call = input.leaf_call();
            return ModuleAnswer::Failed(SeamcallError { call, cpu: cpu.id(), input, registers, attempts: calls });
        }
        core::hint::spin_loop();
    }
}
