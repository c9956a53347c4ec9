//! SEAMCALLs of a C kernel's own, which pass the gate as those of the library do.

use core::ffi::c_void;
use tdx_abi::{Leaf, Registers};
use tdx_host::platform::Cpu;
use tdx_host::seamcall::call_unchecked;

use crate::cpu::PinnedCpu;
use crate::error::{Details, TdxhError};
use crate::host::{Host, TdxhHost};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::input;

/// A SEAMCALL of the kernel's own. See the header.
///
/// # Safety
/// `host` was initialized; `registers` is valid for reads and writes; `error` is null or valid for
/// a write. What the leaf does with its operands is the caller's to do, as
/// [`tdx_host::seamcall::call_unchecked`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_seamcall(
    host: *mut TdxhHost,
    registers: *mut Registers,
    error: *mut TdxhError,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled, inputs can be read and the place for details is null or can be
    // written.
    let (host, input, details) = unsafe { (Host::of(host), input(registers).copied(), Details::new(error)) };
    let called = || -> Outcome {
        let (host, input) = (host?, input?);
        // SAFETY: the caller's promise.
        let (answer, result) = match unsafe { call_unchecked(&PinnedCpu::new(host), input) } {
            Ok(answer) => (answer, Ok(())),
            Err(error) => (error.registers, Err(details.seamcall(&error))),
        };
        // SAFETY: `input` has found the pointer usable; valid for writes by contract.
        unsafe { registers.write(answer) };
        result
    };
    flat(called())
}

/// Calls a function of the kernel that executes SEAMCALL itself. See the header.
///
/// # Safety
/// `host` was initialized; `function` may be called with `context` on this CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_call_admitted(
    host: *mut TdxhHost,
    leaf: u16,
    function: Option<unsafe extern "C" fn(context: *mut c_void)>,
    context: *mut c_void,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    let host = unsafe { Host::of(host) };
    let called = || -> Outcome {
        let (host, function) = (host?, function.ok_or(TdxhResult::Null)?);
        let cpu = PinnedCpu::new(host);
        let guard = cpu.cpu_gate().enter(Leaf(leaf)).map_err(|_| TdxhResult::GateClosed)?;
        // SAFETY: by the contract of this function.
        unsafe { function(context) };
        drop(guard);
        Ok(())
    };
    flat(called())
}
