//! The instructions of `tdx_host::arch` for C, so that a kernel needs no assembly of its own for
//! them.

use tdx_abi::Registers;
use tdx_host::arch::{self, FaultFixup, SavedRegisters};
use tdx_host::platform::Msr;

use crate::detect::TdxhCpuid;
use crate::storage::output;

/// CPUID. See the header.
///
/// # Safety
/// `registers` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_cpuid(leaf: u32, subleaf: u32, registers: *mut TdxhCpuid) {
    let found = arch::cpuid(leaf, subleaf);
    let found = TdxhCpuid { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx };
    // SAFETY: as the caller has promised, the place for the result is null or can be written. A
    // null pointer asks for nothing.
    let _ = unsafe { output(registers, found) };
}

/// RDMSR. See the header.
///
/// # Safety
/// As [`arch::rdmsr`]; `value` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_rdmsr(msr: u32, value: *mut u64) -> u32 {
    // SAFETY: the contract is that of this function.
    let Some(found) = (unsafe { arch::rdmsr(Msr(msr)) }) else { return 0 };
    // SAFETY: as the caller has promised, the place for the result is null or can be written.
    unsafe { output(value, found) }.is_ok().into()
}

/// SEAMCALL. See the header.
///
/// # Safety
/// As [`arch::seamcall`]; `registers` is valid for reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_seamcall(registers: *mut Registers) {
    // SAFETY: the contract is that of this function.
    unsafe { arch::seamcall(&mut *registers) }
}

/// SEAMCALL with all registers, for VP.ENTER. See the header.
///
/// # Safety
/// As [`arch::seamcall_saved`]; `registers` is valid for reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_seamcall_saved(registers: *mut SavedRegisters) {
    // SAFETY: the contract is that of this function.
    unsafe { arch::seamcall_saved(&mut *registers) }
}

/// MOVDIR64B of zeros. See the header.
///
/// # Safety
/// As [`arch::movdir64b_zero`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_reset_lines(first: *mut u8, lines: u64) -> u64 {
    // SAFETY: the contract is the same.
    unsafe { arch::movdir64b_zero(first, lines) }
}

/// CLFLUSHOPT. See the header.
///
/// # Safety
/// As [`arch::clflushopt`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_flush_lines(first: *const u8, lines: u64) -> u64 {
    // SAFETY: the contract is the same.
    unsafe { arch::clflushopt(first, lines) }
}

/// MFENCE. See the header.
#[unsafe(no_mangle)]
pub extern "C" fn tdxh_x86_fence() {
    arch::mfence();
}

/// WBINVD. See the header.
///
/// # Safety
/// As [`arch::wbinvd`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_write_back_caches() {
    // SAFETY: the contract is the same.
    unsafe { arch::wbinvd() }
}

/// The instructions above that may fault. See the header.
///
/// # Safety
/// `count` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_x86_fixups(count: *mut usize) -> *const FaultFixup {
    let fixups = arch::fault_fixups();
    // SAFETY: as the caller has promised, the place for the result is null or can be written.
    let _ = unsafe { output(count, fixups.len()) };
    fixups.as_ptr()
}
