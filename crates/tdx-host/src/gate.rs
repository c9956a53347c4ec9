//! SEAMCALL admission control and per-CPU dirty-cache tracking. Lock-free: any CPU reads both at
//! any instant. Refuses every SEAMCALL once a handover has closed it, except those of that handover
//! itself (SYS.DISABLE; VP.FLUSH and PHYMEM.PAGE.RDMD where it keeps TDs), and these too once a
//! crash has closed it for good.
//!
//! # Why no SEAMCALL is made after the gate is closed
//!
//! 1. A CPU writes "in leaf L, caches may hold private lines" into its slot, passes a sequentially
//!    consistent fence, and only then looks whether the gate is open.
//! 2. The CPU that hands over closes the gate, passes a fence, and only then looks at the slots.
//! 3. Of two fences one is the first, so either the CPU sees the gate closed and makes no SEAMCALL,
//!    or the other sees the slot and waits, or stops that CPU. loom runs this file against its
//!    weakened twin: `tests/loom_gate.rs`.
//!
//! A CPU stopped by an NMI between any two of these stores leaves a slot that says too much, never
//! too little: caches are then written back for nothing. The NMI of a CPU inside SEAM waits until
//! it has left; the slot still says so.
//!
//! Those of a handover pass by the same three steps, and look whether the gate is still closed as
//! their own handover has closed it. A crash on another CPU, or on this one in between two calls,
//! has changed that word.
//!
//! # Example
//!
//! A kernel's own SEAMCALLs, VP.ENTER above all, pass the gate as those of this crate do.
//!
//! ```
//! use tdx_host::{CpuId, CpuSlot, Host, Leaf};
//!
//! static SLOTS: [CpuSlot; 4] = [const { CpuSlot::new() }; 4];
//! static TDX: Host = Host::new(&SLOTS);
//!
//! let gate = TDX.gate();
//! // SAFETY: this thread is the only one here, so it is every CPU.
//! let (cpu1, cpu2) = unsafe { (gate.cpu_gate(CpuId(1)), gate.cpu_gate(CpuId(2))) };
//! let guard = cpu1.enter(Leaf::VP_ENTER)?;
//! // ... here comes the instruction. A panic elsewhere sees where this CPU is:
//! let cpu1 = gate.activity().nth(1).expect("a slot for each CPU");
//! assert_eq!((cpu1.in_seamcall, cpu1.may_hold_private_lines), (Some(Leaf::VP_ENTER), Some(Leaf::VP_ENTER)));
//! drop(guard);
//!
//! // A handover closes the gate: no CPU enters any more, and CPU 1 is known to need a WBINVD.
//! assert!(gate.close());
//! assert!(cpu2.enter(Leaf::VP_ENTER).is_err());
//! let cpu1 = gate.activity().nth(1).expect("a slot for each CPU");
//! assert_eq!(cpu1.to_string(), "CPU 1 may hold private lines since TDH.VP.ENTER");
//! # Ok::<(), tdx_host::gate::Closed>(())
//! ```

use core::fmt;
use core::marker::PhantomData;
use tdx_abi::Leaf;

use crate::ids::CpuId;
use crate::sync::{AtomicU64, Ordering, fence, fence_after_rmw};

const LEAF: u64 = 0xffff;
const IN_SEAMCALL: u64 = 1 << 16;
const MAY_HOLD: u64 = 1 << 17;
const STOPPED: u64 = 1 << 18;
const HAS_CALLED: u64 = 1 << 19;
/// What a CPU's slot says on its way into a SEAMCALL, the leaf apart.
const ENTERING: u64 = HAS_CALLED | MAY_HOLD | IN_SEAMCALL;

/// The gate is closed.
const CLOSED: u64 = 1 << 0;
/// It is closed for good: a crash is being handed over.
const FOR_GOOD: u64 = 1 << 1;
/// The rest counts how often it was opened again.
const OPENED_AGAIN: u64 = 1 << 2;

/// What one CPU has done, on a line of its own. Written by that CPU alone.
#[derive(Debug)]
#[repr(align(64))]
pub struct CpuSlot(AtomicU64);

impl CpuSlot {
    /// A CPU that has made no SEAMCALL.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A CPU that has made no SEAMCALL. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl CpuSlot {
    fn activity(&self, cpu: CpuId) -> CpuActivity {
        let word = self.0.load(Ordering::Acquire);
        let leaf = Leaf((word & LEAF) as u16);
        CpuActivity {
            cpu,
            in_seamcall: (word & IN_SEAMCALL != 0).then_some(leaf),
            may_hold_private_lines: (word & MAY_HOLD != 0).then_some(leaf),
            stopped: word & STOPPED != 0,
            has_made_seamcalls: word & HAS_CALLED != 0,
        }
    }
}

impl Default for CpuSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl From<CpuActivity> for CpuSlot {
    /// A slot that says this: for a copy of a machine, or one read from a dump. Its CPU goes by its
    /// place among the slots.
    fn from(activity: CpuActivity) -> Self {
        let leaf = activity.in_seamcall.or(activity.may_hold_private_lines).map_or(0, |leaf| u64::from(leaf.0));
        let flag = |set, bit| if set { bit } else { 0 };
        let word = leaf
            | flag(activity.in_seamcall.is_some(), IN_SEAMCALL)
            | flag(activity.may_hold_private_lines.is_some(), MAY_HOLD)
            | flag(activity.stopped, STOPPED)
            | flag(activity.has_made_seamcalls, HAS_CALLED);
        Self(AtomicU64::new(word))
    }
}

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuActivity {
    /// The CPU.
    pub cpu: CpuId,
    /// The leaf it is in, or is about to enter.
    pub in_seamcall: Option<Leaf>,
    /// Why its caches may hold lines of private KeyIDs: the last SEAMCALL since they were written
    /// back.
    pub may_hold_private_lines: Option<Leaf>,
    /// It has written back its caches and stopped. Until its next SEAMCALL.
    pub stopped: bool,
    /// It has made SEAMCALLs at some time.
    pub has_made_seamcalls: bool,
}

impl fmt::Display for CpuActivity {
    /// `CPU 3 in TDH.VP.ENTER`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cpu)?;
        match (self.in_seamcall, self.may_hold_private_lines) {
            (Some(leaf), _) => write!(f, " in {leaf}"),
            (None, Some(leaf)) => write!(f, " may hold private lines since {leaf}"),
            (None, None) => f.write_str(" holds no private lines"),
        }
    }
}

/// One per host. A CPU whose number is not below the count of slots can make no SEAMCALL.
#[derive(Debug)]
pub(crate) struct Gate<'m> {
    state: AtomicU64,
    slots: &'m [CpuSlot],
}

impl<'m> Gate<'m> {
    /// Open.
    #[cfg(not(loom))]
    pub(crate) const fn new(slots: &'m [CpuSlot]) -> Self {
        Self { state: AtomicU64::new(0), slots }
    }

    /// Open. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub(crate) fn new(slots: &'m [CpuSlot]) -> Self {
        Self { state: AtomicU64::new(0), slots }
    }

    /// By reference.
    pub(crate) fn handle(&self) -> GateHandle<'_> {
        GateHandle { state: &self.state, slots: self.slots }
    }
}

/// The gate of a [`Host`](crate::Host), by reference.
#[derive(Clone, Copy, Debug)]
pub struct GateHandle<'g> {
    state: &'g AtomicU64,
    slots: &'g [CpuSlot],
}

/// A gate that was closed by the holder of this. It opens that gate, and only until another CPU
/// has opened it or a crash has closed it for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closing(u64);

/// Which gate: the place of its word. A machine has one gate, in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GateId(usize);

impl GateId {
    fn of(state: &AtomicU64) -> Self {
        Self(core::ptr::from_ref(state).addr())
    }
}

impl<'g> GateHandle<'g> {
    pub(crate) fn id(self) -> GateId {
        GateId::of(self.state)
    }

    /// From now on no CPU begins a SEAMCALL. Those under way are in [`GateHandle::activity`]. False
    /// if it was closed before: another handover is under way.
    pub fn close(self) -> bool {
        self.close_for_handover().is_some()
    }

    /// As [`GateHandle::close`]; with what it returns the gate can be opened again.
    pub(crate) fn close_for_handover(self) -> Option<Closing> {
        let before = self.state.fetch_or(CLOSED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        (before & CLOSED == 0).then_some(Closing(before | CLOSED))
    }

    /// As [`GateHandle::close`], for a crash: no handover that began before it opens the gate
    /// again.
    pub(crate) fn close_for_good(self) {
        close_for_good(self.state);
    }

    /// A handover was given up, or a kexec jump came back. False if the gate is not closed by it
    /// any more.
    pub(crate) fn reopen(self, closing: Closing) -> bool {
        let open = (closing.0 & !CLOSED).wrapping_add(OPENED_AGAIN);
        self.state.compare_exchange(closing.0, open, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Allows SEAMCALLs again, no matter which CPU has closed the gate.
    ///
    /// # Safety
    /// No memory was reset since the gate was closed, or the module is as after loading: a SEAMCALL
    /// would make PAMT private again that the next kernel takes for clean.
    pub unsafe fn open(self) {
        let before = self.state.load(Ordering::SeqCst);
        self.state.store((before & !(CLOSED | FOR_GOOD)).wrapping_add(OPENED_AGAIN), Ordering::SeqCst);
    }

    /// Other code has written back the caches of a CPU: of one that has stopped or is offline.
    ///
    /// # Safety
    /// The CPU has made no SEAMCALL since its caches were written back, and makes none before it
    /// calls [`CpuGate::enter`] or [`CpuGate::observed`] again. Nobody else changes its slot
    /// meanwhile.
    pub unsafe fn cpu_is_clean(self, cpu: CpuId) {
        if let Some(slot) = self.slots.get(cpu.0 as usize) {
            let word = slot.0.load(Ordering::Acquire);
            slot.0.store((word & !(MAY_HOLD | IN_SEAMCALL)) | STOPPED, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// No SEAMCALL begins any more.
    pub fn is_closed(self) -> bool {
        self.state.load(Ordering::SeqCst) & CLOSED != 0
    }

    /// What each CPU is doing, by number.
    pub fn activity(self) -> impl Iterator<Item = CpuActivity> + 'g {
        fence(Ordering::SeqCst);
        (0u32..).zip(self.slots).map(|(number, slot)| slot.activity(CpuId(number)))
    }

    /// What a CPU shows on its way into a SEAMCALL.
    ///
    /// # Safety
    /// `cpu` is the number of the CPU that runs this code, and the code stays there as long as the
    /// value, or a [`SeamcallGuard`] of it, exists: a slot is written by its own CPU alone.
    pub unsafe fn cpu_gate(self, cpu: CpuId) -> CpuGate<'g> {
        CpuGate { state: self.state, slot: self.slots.get(cpu.0 as usize), pinned: PhantomData }
    }
}

fn close_for_good(state: &AtomicU64) {
    state.fetch_or(CLOSED | FOR_GOOD, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// A CPU's access to its own slot and to the gate. Stays on its CPU: it is not `Send`.
#[derive(Clone, Copy, Debug)]
pub struct CpuGate<'g> {
    state: &'g AtomicU64,
    /// `None`: the CPU has no slot, so no other CPU could see what it does.
    slot: Option<&'g CpuSlot>,
    pinned: PhantomData<*const ()>,
}

/// The gate is closed, or the CPU has no slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no SEAMCALL: the machine is being handed over, or the gate has no slot for this CPU")
    }
}

impl core::error::Error for Closed {}

/// The CPU may make its SEAMCALL until this is dropped.
#[derive(Debug)]
#[must_use = "the CPU counts as inside SEAM until this is dropped"]
pub struct SeamcallGuard<'g> {
    slot: &'g CpuSlot,
    pinned: PhantomData<*const ()>,
}

impl Drop for SeamcallGuard<'_> {
    fn drop(&mut self) {
        let word = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store(word & !IN_SEAMCALL, Ordering::Release);
    }
}

impl<'g> CpuGate<'g> {
    /// True for a CPU of this gate.
    pub(crate) fn is_of(self, gate: GateHandle<'_>) -> bool {
        GateId::of(self.state) == gate.id()
    }

    /// As [`GateHandle::close_for_good`], for the gate that this CPU passes.
    pub(crate) fn close_for_good(self) {
        close_for_good(self.state);
    }

    /// Records the reason, then looks whether the gate is open. To be called right before the
    /// instruction, with preemption off.
    ///
    /// # Errors
    /// [`Closed`]; then the instruction must not be executed.
    pub fn enter(self, leaf: Leaf) -> Result<SeamcallGuard<'g>, Closed> {
        self.enter_if(leaf, |state| state & CLOSED == 0)
    }

    /// Other code makes a SEAMCALL on this CPU without asking: a kernel with TDX code of its own.
    /// From now on the caches may hold private lines, also when the gate is closed.
    pub fn observed(self, leaf: Leaf) {
        if let Some(slot) = self.slot {
            // An exchange is a barrier on x86: cheaper than a store and MFENCE.
            slot.0.swap((u64::from(leaf.0) | ENTERING) & !IN_SEAMCALL, Ordering::AcqRel);
            fence_after_rmw();
        }
    }

    /// As [`CpuGate::enter`] for the CPU that has closed the gate by `closing` and asks the module
    /// to clean up, and for stopped CPUs that flush VCPUs on its behalf. All others have stopped.
    ///
    /// # Errors
    /// [`Closed`] if the gate is not closed by `closing` any more: a crash has begun its reset.
    pub(crate) fn enter_for_handover(self, leaf: Leaf, closing: Closing) -> Result<SeamcallGuard<'g>, Closed> {
        self.enter_if(leaf, |state| state == closing.0)
    }

    /// The slot first, then the look at the gate: see the module.
    fn enter_if(self, leaf: Leaf, admits: impl FnOnce(u64) -> bool) -> Result<SeamcallGuard<'g>, Closed> {
        let slot = self.slot.ok_or(Closed)?;
        let before = slot.0.swap(u64::from(leaf.0) | ENTERING, Ordering::AcqRel);
        fence_after_rmw();
        if !admits(self.state.load(Ordering::Acquire)) {
            // Nothing was executed. The old reason stands again, if there was one.
            slot.0.store(before, Ordering::Release);
            return Err(Closed);
        }
        Ok(SeamcallGuard { slot, pinned: PhantomData })
    }

    /// The last SEAMCALL since this CPU wrote back its caches, if there was one. A CPU without a
    /// slot says it has none: it was never admitted.
    pub fn may_hold_private_lines(self) -> Option<Leaf> {
        let word = self.slot?.0.load(Ordering::Relaxed);
        (word & MAY_HOLD != 0).then_some(Leaf((word & LEAF) as u16))
    }

    /// This CPU has executed WBINVD and makes no SEAMCALL before it calls [`CpuGate::enter`]
    /// again.
    pub(crate) fn written_back(self) {
        if let Some(slot) = self.slot {
            let word = slot.0.load(Ordering::Relaxed);
            slot.0.store(word & !MAY_HOLD, Ordering::Release);
        }
    }

    /// This CPU runs no more; its caches are written back.
    pub(crate) fn stopped(self) {
        if let Some(slot) = self.slot {
            let word = slot.0.load(Ordering::Relaxed);
            slot.0.store(word | STOPPED, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }
}
