//! The promises about memory that `tdx-host` asks its embedder for in `unsafe`, made once for the
//! software machine.
//!
//! The memory of the software machine is not Rust memory: no object of this program lies in it, so
//! nothing that is converted or overwritten there can break the program. What a broken promise does
//! to the machine's kernels is what the laboratory is there to show: the machine judges.

// UNSAFETY: each block rests on the paragraph above.
#![allow(unsafe_code)]

use first_kernel::{AnyPolicy, Handed, NotHandedOver};
use tdx_abi::{PageRange, Registers};
use tdx_host::{
    bringup::{Bringup, BringupError, Kernel, Ready, Started},
    gate::GateHandle,
    handover::{HandoverReport, HostMemory, HostParts, Kexec, StopCpus, WrittenBack},
    key_ids::KeyIds,
    layout::Layout,
    ledger::{Ledger, MarkError},
    platform::{Cpu, NodeRange, OwnedPages, TdxPlatform},
    private_memory::{PrivateMemory, PublishError},
    reset::reset_ranges,
    seamcall::{SeamcallError, call_unchecked},
    td::TdHost,
};

/// Pages that a kernel of the machine has set aside.
pub fn owned(range: PageRange) -> OwnedPages {
    // SAFETY: memory of the software machine.
    unsafe { OwnedPages::new(range) }
}

/// The records of a kernel of the machine.
pub fn host_memory(parts: HostParts<'_>) -> HostMemory<'_> {
    // SAFETY: memory of the software machine.
    unsafe { HostMemory::new(parts) }
}

/// The parts that the TDs of a kernel of the machine share.
pub fn td_host<'h>(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> TdHost<'h> {
    // SAFETY: memory of the software machine.
    unsafe { TdHost::new(platform, ledger, key_ids) }
}

/// Begins a bring-up.
///
/// # Errors
/// As [`Bringup::start`].
pub fn start<'k, K: Kernel>(
    kernel: &'k mut K,
    platform: TdxPlatform,
    record: &'k PrivateMemory,
    layout: &'k mut Layout,
) -> Result<Bringup<'k, K, Started>, BringupError> {
    // SAFETY: memory of the software machine.
    unsafe { Bringup::start(kernel, platform, record, layout) }
}

/// Any SEAMCALL.
///
/// # Errors
/// As [`call_unchecked`].
pub fn call_any<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, SeamcallError> {
    // SAFETY: memory of the software machine, and a guest there runs no code on this CPU.
    unsafe { call_unchecked(cpu, input) }
}

/// Enters PAMTs that a bring-up on another copy of the machine has made private.
///
/// # Errors
/// As [`PrivateMemory::publish`].
pub fn publish(record: &PrivateMemory, pamts: impl Iterator<Item = PageRange> + Clone) -> Result<(), PublishError> {
    // SAFETY: memory of the software machine.
    unsafe { record.publish(pamts) }
}

/// Marks pages without a SEAMCALL: a ledger as a reader sees it between two stores.
///
/// # Errors
/// As [`Ledger::give`].
pub fn mark(ledger: &Ledger<'_>, range: PageRange) -> Result<(), MarkError> {
    // SAFETY: memory of the software machine.
    unsafe { ledger.give(range) }
}

/// Opens the gate, whoever has closed it: what a faulty kernel does.
pub fn open(gate: GateHandle<'_>) {
    // SAFETY: memory of the software machine.
    unsafe { gate.open() };
}

/// The reset of a kexec under any policy; `all_memory` is what [`Policy::Everything`] overwrites.
///
/// [`Policy::Everything`]: tdx_host::handover::Policy::Everything
pub fn reset<P: StopCpus>(
    kexec: Kexec<'_, WrittenBack<'_, P>>,
    all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
) -> HandoverReport {
    // SAFETY: memory of the software machine.
    unsafe { kexec.reset_everything(all_memory) }
}

/// A reset on one CPU of what its kernel knows, whatever other CPUs do.
pub fn reset_alone<C: Cpu>(cpu: &C, ranges: impl IntoIterator<Item = PageRange>) {
    // SAFETY: memory of the software machine.
    unsafe { reset_ranges(cpu, ranges) };
}

/// The kexec of a first kernel, of which `all_memory` (ascending) may be overwritten.
///
/// # Errors
/// As [`first_kernel::kexec`].
pub fn kexec<'h, P: StopCpus>(
    policy: AnyPolicy,
    cpus: &P,
    memory: HostMemory<'h>,
    all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
) -> Result<Handed<'h>, NotHandedOver> {
    // SAFETY: memory of the software machine.
    unsafe { first_kernel::kexec(policy, cpus, memory, all_memory) }
}

/// A bring-up with static PAMT.
///
/// # Errors
/// As [`tdx_host::bringup::run`].
pub fn bring_up<'k, K: Kernel>(
    kernel: &'k mut K,
    platform: TdxPlatform,
    record: &'k PrivateMemory,
    layout: &'k mut Layout,
    memory: &[NodeRange],
) -> Result<Ready, BringupError> {
    // SAFETY: memory of the software machine.
    unsafe { tdx_host::bringup::run(kernel, platform, record, layout, memory) }
}
