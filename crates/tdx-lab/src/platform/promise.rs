//! The promises about memory that `tdx-host` asks its embedder for in `unsafe`, made once for the
//! software machine.
//!
//! The memory of the software machine is not Rust memory: no object of this program lies in it, so
//! nothing that is converted or overwritten there can break the program. What a broken promise does
//! to the machine's kernels is what the laboratory is there to show: the machine judges.

// UNSAFETY: each block rests on the paragraph above.
#![allow(unsafe_code)]

use first_kernel::{AnyPolicy, Handed, NotHandedOver};
use tdx_abi::{LineRange, Page, PageRange, Registers};
use tdx_host::{
    HostError,
    follow::{self, Moves, NotFollowed, PageRefs},
    gate::GateHandle,
    handover::{HandoverReport, HostMemory, HostParts, Kexec, LedgerRef, StopCpus, WrittenBack},
    ledger::{Ledger, MarkError},
    platform::{Cpu, OwnedPages},
    reset::reset_ranges,
    seamcall::{SeamcallError, call_unchecked},
};

/// Pages that a kernel of the machine has set aside.
pub fn owned(range: PageRange) -> OwnedPages {
    // SAFETY: memory of the software machine.
    unsafe { OwnedPages::new(range) }
}

/// What a kernel knows at an instant, on a copy of its machine: the records of the original, the
/// gate of the copy, and `ledger` if the copy's is not the original's.
///
/// A branch of the explorer has no [`tdx_host::Host`] of its own, and needs none: it changes no
/// record, since a handover only reads them, and it is over before the original goes on. It has a
/// gate of its own, which its handover closes.
pub fn memory_of_copy<'h>(
    memory: HostMemory<'h>,
    gate: GateHandle<'h>,
    ledger: Option<&'h Ledger<'h>>,
) -> HostMemory<'h> {
    let parts = memory.parts();
    let ledger = ledger.map_or(parts.ledger, LedgerRef::from);
    // SAFETY: memory of the software machine.
    unsafe { HostMemory::new(HostParts { gate, ledger, ..parts }) }
}

/// A kernel of a copy of the machine takes over what another has brought up there.
///
/// # Errors
/// As [`tdx_host::Host::resume`].
pub fn resume(tdx: &tdx_host::Host<'_>, earlier: &tdx_host::Host<'_>) -> Result<(), HostError> {
    // SAFETY: memory of the software machine.
    unsafe { tdx.resume(earlier) }
}

/// Any SEAMCALL.
///
/// # Errors
/// As [`call_unchecked`].
pub fn call_any<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, SeamcallError> {
    // SAFETY: memory of the software machine, and a guest there runs no code on this CPU.
    unsafe { call_unchecked(cpu, input) }
}

/// Pages of code that frees none before its reset.
struct NeverFreed;

// SAFETY: no allocator of the software machine gets these pages while they are marked.
unsafe impl PageRefs for NeverFreed {
    fn hold(&self, _page: Page) -> bool {
        true
    }

    unsafe fn release(&self, _page: Page) {}
}

/// A SEAMCALL of code that is not the product's, whose pages [`Moves`] enters into the ledger. With
/// static PAMT.
///
/// # Errors
/// As [`call_unchecked`]. A call that [`Moves`] does not know is not made.
pub fn observed<C: Cpu>(cpu: &C, ledger: &Ledger<'_>, input: Registers) -> Result<Registers, SeamcallError> {
    let Ok(moves) = Moves::of(&input, false) else {
        let (call, cpu) = (input.leaf_call(), cpu.id());
        return Err(SeamcallError { call, cpu, input, registers: input, attempts: 0 });
    };
    // SAFETY: memory of the software machine; the call follows, and then its answer.
    let marked = unsafe { moves.before(ledger, &NeverFreed) };
    let result = call_any(cpu, input);
    let answer = result.as_ref().unwrap_or_else(|error| &error.registers);
    // SAFETY: as above.
    let entered = unsafe { moves.after(ledger, answer) };
    debug_assert!(marked.is_ok() && entered.is_ok());
    result
}

/// The reset of pages of such code: by this CPU, then fenced, then unmarked.
///
/// # Errors
/// As [`follow::reset`].
pub fn observed_reset<C: Cpu>(cpu: &C, ledger: &Ledger<'_>, range: PageRange) -> Result<(), NotFollowed> {
    // SAFETY: memory of the software machine.
    unsafe { cpu.reset_lines(range.lines()) };
    cpu.fence();
    // SAFETY: as above; reset and fenced.
    unsafe { follow::reset(ledger, range, &NeverFreed) }
}

/// Writes back and drops the host's own lines.
pub fn flush<C: Cpu>(cpu: &C, lines: LineRange) {
    // SAFETY: memory of the software machine.
    unsafe { cpu.flush_lines(lines) };
}

/// Marks pages without a SEAMCALL: a ledger as a reader sees it between two stores.
///
/// # Errors
/// As [`Ledger::give`].
pub fn mark(ledger: &Ledger<'_>, range: PageRange) -> Result<(), MarkError> {
    // SAFETY: memory of the software machine.
    unsafe { ledger.give(range) }
}

/// Opens the gate, no matter who has closed it: what a faulty kernel does.
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
