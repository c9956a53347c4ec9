//! The instructions themselves, and the only `unsafe` of this crate. No policy, no retry, no
//! address translation.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    FaultFixup, SavedRegisters, clflushopt, cpuid, fault_fixups, mfence, movdir64b_zero, rdmsr, seamcall,
    seamcall_saved, wbinvd,
};

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::prefetch;

/// Nothing: only a hint.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn prefetch<T>(_value: &T) {}
