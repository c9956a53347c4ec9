//! Fault injection: no entropy, a busy key engine, pending interrupts, a crash, locks held by
//! another CPU. None of them changes the module's rules.

use alloc::vec::Vec;
use tdx_abi::{Leaf, PageSize, PhysAddr, Status};

use crate::PackageId;

/// A condition of the world, for as long as it is injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// RDRAND and RDSEED give nothing.
    NoEntropy,
    /// Programming a key finds the key engine busy.
    KeyEngineBusy,
    /// Programming a random key finds no entropy.
    KeyEngineNoEntropy,
    /// An interrupt is pending whenever the module looks.
    InterruptPending,
    /// PHYMEM.PAMT.ADD writes its two pages and then fails after all: OPERAND_BUSY (RCX). The
    /// module's source has no such path; Linux allows for one, and so must a host.
    LateFailure,
    /// The module crashes in the middle of the call: VMfailInvalid for this and every later call,
    /// on every CPU. What the leaf had done before it crashed is not modeled: the call does
    /// nothing.
    Crash,
    /// The call answers this status without running. For the host's error paths; no claim that the
    /// module ever would.
    Answer(Status),
}

/// The calls that a fault applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Every call until it is cleared.
    Always,
    /// Only the n-th SEAMCALL from now on, on any CPU; 1 is the next.
    Call(u64),
    /// Only the n-th SEAMCALL of this leaf from now on; 1 is the next.
    CallOf(Leaf, u64),
}

/// A lock of the module, to be held by a CPU that stopped in the middle of a SEAMCALL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lock {
    /// The PAMT entry of a page.
    Pamt {
        /// Any address in the page.
        address: PhysAddr,
        /// Which of the three tables.
        level: PageSize,
    },
    /// The key ownership table.
    Kot,
    /// The global lock of SYS.* leaves.
    Sys,
    /// Cache write-back of a package.
    CacheWriteBack {
        /// The package.
        package: PackageId,
    },
    /// A TDMR, by its base.
    Tdmr {
        /// First byte.
        base: PhysAddr,
    },
    /// A TD's operation state, by its TDR.
    OpState {
        /// The TDR page.
        tdr: PhysAddr,
    },
    /// A TD's Secure-EPT, by its TDR.
    SeptTree {
        /// The TDR page.
        tdr: PhysAddr,
    },
    /// A TD's TLB epoch, by its TDR.
    Epoch {
        /// The TDR page.
        tdr: PhysAddr,
    },
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// What the module finds during one call.
#[expect(clippy::struct_excessive_bools, reason = "each is on or off by itself")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) no_entropy: bool,
    pub(crate) key_engine_busy: bool,
    pub(crate) key_engine_no_entropy: bool,
    pub(crate) interrupt: bool,
    pub(crate) late_failure: bool,
    pub(crate) crash: bool,
    pub(crate) answer: Option<Status>,
}

/// Injected faults with their countdowns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    injected: Vec<(Fault, When)>,
}

impl Faults {
    pub(crate) fn inject(&mut self, fault: Fault, when: When) {
        self.injected.push((fault, when));
    }

    pub(crate) fn clear(&mut self, fault: Fault) {
        self.injected.retain(|(injected, _)| *injected != fault);
    }

    /// Is an interrupt pending for a guest? Countdowns are of SEAMCALLs and are not looked at.
    pub(crate) fn is_interrupt_pending(&self) -> bool {
        self.injected.contains(&(Fault::InterruptPending, When::Always))
    }

    /// The conditions of the call that begins now; counts down.
    pub(crate) fn begin(&mut self, leaf: Leaf) -> Conditions {
        let mut conditions = Conditions::default();
        self.injected.retain_mut(|(fault, when)| {
            let left = match when {
                When::Always => None,
                When::Call(left) => Some(left),
                When::CallOf(of, left) if *of == leaf => Some(left),
                When::CallOf(..) => return true,
            };
            let due = left.as_ref().is_none_or(|left| **left <= 1);
            if due {
                match *fault {
                    Fault::NoEntropy => conditions.no_entropy = true,
                    Fault::KeyEngineBusy => conditions.key_engine_busy = true,
                    Fault::KeyEngineNoEntropy => conditions.key_engine_no_entropy = true,
                    Fault::InterruptPending => conditions.interrupt = true,
                    Fault::LateFailure => conditions.late_failure = true,
                    Fault::Crash => conditions.crash = true,
                    Fault::Answer(status) => conditions.answer = Some(status),
                }
            }
            match left {
                None => true,
                Some(left) => {
                    *left = left.saturating_sub(1);
                    !due
                }
            }
        });
        conditions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countdowns() {
        let mut faults = Faults::default();
        faults.inject(Fault::NoEntropy, When::Call(2));
        faults.inject(Fault::InterruptPending, When::CallOf(Leaf::SYS_CONFIG, 1));
        faults.inject(Fault::KeyEngineBusy, When::Always);
        let busy = Conditions { key_engine_busy: true, ..Conditions::default() };
        assert_eq!(faults.begin(Leaf::SYS_INIT), busy);
        assert_eq!(faults.begin(Leaf::SYS_INIT), Conditions { no_entropy: true, ..busy });
        assert_eq!(faults.begin(Leaf::SYS_INIT), busy);
        assert_eq!(faults.begin(Leaf::SYS_CONFIG), Conditions { interrupt: true, ..busy });
        assert_eq!(faults.begin(Leaf::SYS_CONFIG), busy);
        faults.clear(Fault::KeyEngineBusy);
        assert_eq!(faults.begin(Leaf::SYS_CONFIG), Conditions::default());
    }
}
