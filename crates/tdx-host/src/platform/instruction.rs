//! The SEAMCALL instruction, as a trait that a kernel implements.

use tdx_abi::Registers;

/// The instruction. One call, no retry, no interpretation.
///
/// # Safety
/// [`Seamcall::seamcall`] executes the instruction on the CPU that runs the code and returns all
/// registers as the instruction left them. If it fails before the module runs (carry flag, #UD,
/// #GP) RAX is one of the software codes of [`tdx_abi::Status`] and the rest is as on entry.
pub unsafe trait Seamcall {
    /// Executes SEAMCALL with these registers.
    ///
    /// # Safety
    /// As [`crate::seamcall::call_unchecked`]; and the gate has admitted the call.
    unsafe fn seamcall(&self, registers: Registers) -> Registers;
}
