//! Steps that the kexec path and the crash path share: write back this CPU's caches, and whether
//! anything has to be reset.

use super::memory::HostMemory;
use super::policy::NothingToDo;
use crate::platform::Cpu;

/// WBINVD on the CPU that hands over, wherever there may be TDX.
pub(super) fn write_back_this_cpu<C: Cpu>(cpu: &C, memory: &HostMemory<'_>) {
    let gate = cpu.cpu_gate();
    let may_hold = gate.may_hold_private_lines().is_some();
    if may_hold || memory.platform().is_some() || memory.may_have_private_memory() {
        cpu.write_back_caches();
        gate.written_back();
    }
}

/// Why nothing needs to be reset, if nothing does. The record decides: if the flag is up, a
/// forgotten platform is no reason.
pub(super) fn nothing_to_do(memory: &HostMemory<'_>) -> Option<NothingToDo> {
    match memory.platform() {
        None if !memory.may_have_private_memory() => Some(NothingToDo::NoTdx),
        _ if !memory.may_have_private_memory() => Some(NothingToDo::NoPrivateMemory),
        Some(platform) if !platform.has_partial_write_erratum() => Some(NothingToDo::NoErratum),
        _ => None,
    }
}
