//! The promises about memory that `tdx-host` asks its embedder for in `unsafe`, made once for the
//! software machine.
//!
//! The memory of the software machine is not Rust memory: no object of this program lies in it, so
//! nothing that is converted or overwritten there can break the program. What a broken promise does
//! to the machine's kernels is what the laboratory is there to show: the machine judges.

// UNSAFETY: each block rests on the paragraph above.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use first_kernel::{AnyPolicy, Handed, NotHandedOver};
use tdx_abi::{KeyId, LineRange, Page, PageRange, Registers};
use tdx_host::{
    HostError, SharedPage,
    follow::{self, Moves, NotFollowed, PageRefs},
    gate::GateHandle,
    handover::{HandoverReport, HostMemory, Kexec, StopCpus, WrittenBack},
    ledger::{Ledger, MarkError},
    platform::{Cpu, Cpus, OwnedPages},
    reset::reset_ranges,
    seamcall::{SeamcallError, call_unchecked},
    takeover::TakeoverTable,
    td::{AdoptError, Runnable, Td, TdHost, Vacuumed, VcpuHost},
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
    // SAFETY: memory of the software machine.
    let memory = unsafe { memory.with_gate(gate) };
    // SAFETY: as above.
    ledger.map_or(memory, |ledger| unsafe { memory.with_ledger(Some(ledger)) })
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

/// Reference counts of the pages of code that may free them while they are private: what it has
/// allocated, with the number of references to it. The allocator gets it back with the last one.
pub struct Refs<'f> {
    allocated: RefCell<Vec<(PageRange, u32)>>,
    are_taken: bool,
    free: &'f dyn Fn(PageRange),
}

impl<'f> Refs<'f> {
    /// Nothing is allocated yet. If not `are_taken`, this kernel's observer takes no reference, and
    /// what its owner frees is free. `free` is the allocator.
    pub fn new(are_taken: bool, free: &'f dyn Fn(PageRange)) -> Self {
        Self { allocated: RefCell::new(Vec::new()), are_taken, free }
    }

    /// The owner's reference to what it has just allocated.
    pub fn allocate(&self, range: PageRange) {
        self.allocated.borrow_mut().push((range, 1));
    }

    /// The owner drops its reference, whatever the range is used for.
    pub fn put(&self, range: PageRange) {
        self.drop_reference(range.start());
    }

    /// The owner has the range back and uses it: it is counted no more.
    pub fn forget(&self, range: PageRange) {
        self.allocated.borrow_mut().retain(|(other, _)| *other != range);
    }

    fn drop_reference(&self, page: Page) {
        let mut allocated = self.allocated.borrow_mut();
        let Some(place) = allocated.iter().position(|(range, _)| range.contains(page)) else { return };
        allocated[place].1 -= 1;
        if allocated[place].1 == 0 {
            let (range, _) = allocated.swap_remove(place);
            drop(allocated);
            (self.free)(range);
        }
    }
}

// SAFETY: memory of the software machine. With `are_taken` the contract holds as it is: a range has
// a reference of each page of it that is held, and is freed with the last one.
unsafe impl PageRefs for Refs<'_> {
    fn hold(&self, page: Page) -> bool {
        let mut allocated = self.allocated.borrow_mut();
        let Some((_, count)) = allocated.iter_mut().find(|(range, _)| range.contains(page)) else { return false };
        *count += u32::from(self.are_taken);
        true
    }

    unsafe fn release(&self, page: Page) {
        if self.are_taken {
            self.drop_reference(page);
        }
    }
}

/// A SEAMCALL of code that is not the product's, whose pages [`Moves`] enters into the ledger. With
/// static PAMT.
///
/// # Errors
/// As [`call_unchecked`]. A call that [`Moves`] does not know is not made.
pub fn observed<C: Cpu>(
    cpu: &C,
    ledger: &Ledger<'_>,
    refs: &Refs<'_>,
    input: Registers,
) -> Result<Registers, SeamcallError> {
    let Ok(moves) = Moves::of(&input, false) else {
        let (call, cpu) = (input.leaf_call(), cpu.id());
        return Err(SeamcallError { call, cpu, input, registers: input, attempts: 0 });
    };
    // SAFETY: memory of the software machine; the call follows, and then its answer.
    let marked = unsafe { moves.before(ledger, refs) };
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
pub fn observed_reset<C: Cpu>(
    cpu: &C,
    ledger: &Ledger<'_>,
    refs: &Refs<'_>,
    range: PageRange,
) -> Result<(), NotFollowed> {
    // SAFETY: memory of the software machine.
    let left = unsafe { cpu.reset_lines(range.lines()) };
    cpu.fence();
    if left > 0 {
        // The pages stay marked, as in cleanslate.ko.
        return Ok(());
    }
    // SAFETY: as above; reset and fenced.
    unsafe { follow::reset(ledger, range, refs) }
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

/// The kexec of a first kernel, of which `all_memory` (ascending) may be overwritten; `vcpus` are
/// flushed if it keeps TDX, and `image` is where the next kernel goes.
///
/// # Errors
/// As [`first_kernel::kexec`].
pub fn kexec<'h, P: StopCpus>(
    policy: AnyPolicy,
    cpus: &P,
    memory: HostMemory<'h>,
    vcpus: &[Page],
    image: &[PageRange],
    all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
) -> Result<Handed<'h>, NotHandedOver> {
    // SAFETY: memory of the software machine.
    unsafe { first_kernel::kexec(policy, cpus, memory, vcpus, image, all_memory) }
}

/// A kernel of the machine takes over the TDX module that another has left.
///
/// # Errors
/// As [`tdx_host::Host::take_over`].
pub fn take_over<'t, 'm>(
    tdx: &'t tdx_host::Host<'m>,
    table: &TakeoverTable<'_>,
    words: &'m mut [AtomicU64],
) -> Result<TdHost<'t>, HostError> {
    // SAFETY: memory of the software machine.
    unsafe { tdx.take_over(table, words) }
}

/// Tears down the TDs of an earlier kernel. As [`TdHost::vacuum`].
pub fn vacuum<'h, K: Cpus>(
    tds: TdHost<'h>,
    cpus: &K,
    keys: &(impl Iterator<Item = (Page, KeyId)> + Clone),
    adopted: &[Page],
    back: impl FnMut(SharedPage<'h>),
) -> Vacuumed {
    // SAFETY: memory of the software machine.
    unsafe { tds.vacuum(cpus, keys, adopted, back) }
}

/// Makes a VCPU of an adopted TD this kernel's. As [`Td::resume_vcpu`].
///
/// # Errors
/// As [`Td::resume_vcpu`].
pub fn resume_vcpu<C: Cpu>(td: &Td<'_, Runnable>, cpu: &C, vcpu: Page, host: &VcpuHost) -> Result<u64, AdoptError> {
    // SAFETY: memory of the software machine.
    unsafe { td.resume_vcpu(cpu, vcpu, host) }
}
