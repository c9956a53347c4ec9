//! The first error of a task that runs on many CPUs, kept without a lock.

use tdx_abi::{LeafCall, Registers};

use crate::platform::CpuId;
use crate::seamcall::SeamcallError;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// All registers of one side of a call.
#[derive(Default)]
struct StoredRegisters([AtomicU64; 9]);

impl StoredRegisters {
    fn set(&self, r: Registers) {
        let values = [r.rax, r.rcx, r.rdx, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13];
        for (slot, value) in self.0.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Registers {
        let [rax, rcx, rdx, r8, r9, r10, r11, r12, r13] = self.0.each_ref().map(|slot| slot.load(Ordering::Relaxed));
        Registers { rax, rcx, rdx, r8, r9, r10, r11, r12, r13 }
    }
}

/// Holds one [`SeamcallError`]: the first one is stored, later ones are dropped.
#[derive(Default)]
pub(crate) struct FirstError {
    taken: AtomicBool,
    stored: AtomicBool,
    call: AtomicU64,
    cpu: AtomicU32,
    attempts: AtomicU32,
    input: StoredRegisters,
    registers: StoredRegisters,
}

impl FirstError {
    /// True once any CPU has failed; the others then stop at their next step.
    pub(crate) fn is_set(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Stores the error if it is the first.
    pub(crate) fn set(&self, error: &SeamcallError) {
        if self.taken.swap(true, Ordering::AcqRel) {
            return;
        }
        self.call.store(error.call.rax(), Ordering::Relaxed);
        self.cpu.store(error.cpu.0, Ordering::Relaxed);
        self.attempts.store(error.attempts, Ordering::Relaxed);
        self.input.set(error.input);
        self.registers.set(error.registers);
        self.stored.store(true, Ordering::Release);
    }

    /// The error, once every CPU is done.
    pub(crate) fn get(&self) -> Option<SeamcallError> {
        if !self.stored.load(Ordering::Acquire) {
            return None;
        }
        Some(SeamcallError {
            call: LeafCall::from_rax(self.call.load(Ordering::Relaxed)),
            cpu: CpuId(self.cpu.load(Ordering::Relaxed)),
            attempts: self.attempts.load(Ordering::Relaxed),
            input: self.input.get(),
            registers: self.registers.get(),
        })
    }
}
