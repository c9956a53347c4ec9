//! Module update as an observer of SEAMCALLs sees it: what SYS.SHUTDOWN, SYS.INIT, SYS.UPDATE and
//! SYS.CONFIG of another driver mean for pages and PAMTs. Stateless.
//!
//! No call of an update makes a private line ordinary memory. What changes is which pages the
//! module knows, and so which ones a handover may leave to TDH.SYS.DISABLE. Source: conformance
//! vectors of module 1.5.25 (`module_update`, `sys_states`).

use tdx_abi::{Leaf, Registers};

use super::pages;
use crate::ledger::Ledger;

/// What a call that another driver has made says of the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ModuleEvent {
    /// SYS.SHUTDOWN has succeeded: the module answers nothing any more, and has left what the next
    /// one needs. Everything stays private and known.
    ShutDown,
    /// SYS.INIT has succeeded although memory is private: a module was loaded in the place of
    /// another. It knows no page yet.
    Replaced,
    /// SYS.UPDATE has succeeded: the module has TDs, PAMTs and keys of the one before.
    Resumed,
    /// SYS.CONFIG has succeeded although memory is private: the module knows nothing of the one
    /// before, whose PAMTs and pages stay private. No call returns them any more: see
    /// [`forgotten`].
    Forgot,
}

impl ModuleEvent {
    /// Of a call and its answer. `private`: memory may be private by an earlier SYS.CONFIG.
    ///
    /// A call that has failed changes nothing: SYS.SHUTDOWN is SYS_BUSY while a VCPU is inside, and
    /// the module goes on.
    pub const fn of(call: &Registers, answer: &Registers, private: bool) -> Option<Self> {
        if call.leaf_call().reserved() != 0 || answer.status().is_error() {
            return None;
        }
        match call.leaf_call().leaf() {
            Leaf::SYS_SHUTDOWN => Some(Self::ShutDown),
            Leaf::SYS_UPDATE => Some(Self::Resumed),
            Leaf::SYS_INIT if private => Some(Self::Replaced),
            Leaf::SYS_CONFIG if private => Some(Self::Forgot),
            _ => None,
        }
    }
}

/// After [`ModuleEvent::Forgot`]: every page that the module had is one that it does not know. All
/// marks stay.
///
/// # Safety
/// A module that knows none of the pages is in the place of the one that had them.
pub unsafe fn forgotten(ledger: &Ledger<'_>) {
    for range in ledger.marked() {
        for page in pages(range) {
            // A page that is returned, or in a call, counts as unknown to the module already.
            // SAFETY: the caller's promise.
            let _ = unsafe { ledger.reclaim(page) };
        }
    }
}
