//! The front door: one value that owns everything a TDX host knows of a machine, and publishes each
//! part before the first use that depends on it.
//!
//! Lock-free, does not allocate. A kernel keeps one in a `static`, or several by reference (tests,
//! software machines):
//!
//! ```
//! use tdx_host::{CpuSlot, Host};
//!
//! const MAX_CPUS: usize = 64;
//! static SLOTS: [CpuSlot; MAX_CPUS] = [const { CpuSlot::new() }; MAX_CPUS];
//! static TDX: Host = Host::new(&SLOTS);
//!
//! // At any instant, on any CPU, TDX or not:
//! assert!(TDX.memory().private_ranges().next().is_none());
//! ```
//!
//! # The order
//!
//! Each transition is checked, and each publishes what it made before it returns:
//!
//! ```text
//! new --detect--> platform --bring_up--> up: module, layout, PAMTs --track--> ledger, KeyIDs: TDs
//!                    ^          |
//!                    \--failed--/  everything was undone
//!
//! a kernel with TDX code of its own (crate::follow):
//! new --detect--> platform --follow--> ledger --observe_pamts--> PAMTs
//!
//! a machine that is resumed from a snapshot:
//! new --resume--> up --track--> ledger, KeyIDs: TDs
//!
//! after a kexec from a kernel that has left TDX as it was (crate::takeover):
//! new --detect--> platform --take_over--> PAMTs, ledger, KeyIDs: TDs
//! ```
//!
//! * **Published before the first give.** A page can only be given through the ledger that
//!   [`Host::track`] or [`Host::follow`] has published, so a handover that sees a private page sees
//!   the ledger that marks it.
//! * **A handover never waits.** [`Host::memory`] returns what is published at that instant.
//! * **Write-once.** A second platform, bring-up or ledger is an error, and nothing has changed.
//!
//! # Why the handover sees the ledger
//!
//! 1. The CPU that calls [`Host::track`] fills the ledger, publishes it (release), and passes a
//!    sequentially consistent fence.
//! 2. The CPU that gives a page got the ledger from [`Host::ledger`] (acquire). It marks the page,
//!    passes a fence, and makes the SEAMCALL.
//! 3. The CPU that hands over passes a fence in [`Host::memory`], and then looks for the ledger. If
//!    it can see any effect of the SEAMCALL it sees the ledger and the mark: the argument of
//!    the record of PAMTs (`private_memory.rs`).
//!
//! loom runs this module against weakened twins: `tests/loom_host.rs`.

mod error;
mod handover;
mod observe;
mod resume;
mod take_over;

use arrayvec::ArrayVec;
use tdx_abi::PageRange;

use crate::bringup::{self, Bringup, BringupError, Kernel, ModuleInfo, Ready, Started, Up};
use crate::gate::{CpuSlot, Gate, GateHandle};
use crate::handover::{HostMemory, LiveLedger};
use crate::key_ids::KeyIds;
use crate::layout::Layout;
use crate::ledger::{Ledger, MAX_RESERVED};
use crate::once::Once;
use crate::platform::{LocalProcessor, NoTdx, NodeRange, TdxPlatform, detect};
use crate::private_memory::PrivateMemory;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::td::TdHost;

pub use crate::private_memory::MAX_PAMT_RANGES;
pub use error::{HostError, PublishError};

/// What a host knows of its machine's TDX: platform, PAMTs, gate, layout, ledger, KeyIDs and
/// module. One per machine.
///
/// About 39 KiB: a `static`, or memory from the kernel's allocator.
#[derive(Debug)]
pub struct Host<'m> {
    platform: Once<Option<TdxPlatform>>,
    reserved: Once<ArrayVec<PageRange, MAX_RESERVED>>,
    gate: Gate<'m>,
    record: PrivateMemory,
    up: Up,
    ledger: Once<Option<Ledger<'m>>>,
    key_ids: Once<Option<KeyIds<'m>>>,
}

impl<'m> Host<'m> {
    /// Nothing is known. `slots` has one slot for each CPU number; a CPU whose number is not below
    /// their count can make no SEAMCALL.
    #[cfg(not(loom))]
    pub const fn new(slots: &'m [CpuSlot]) -> Self {
        Self {
            platform: Once::new(None),
            reserved: Once::new(ArrayVec::new_const()),
            gate: Gate::new(slots),
            record: PrivateMemory::new(),
            up: Up::new(),
            ledger: Once::new(None),
            key_ids: Once::new(None),
        }
    }

    /// Nothing is known. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub fn new(slots: &'m [CpuSlot]) -> Self {
        Self {
            platform: Once::new(None),
            reserved: Once::new(ArrayVec::new_const()),
            gate: Gate::new(slots),
            record: PrivateMemory::new(),
            up: Up::new(),
            ledger: Once::new(None),
            key_ids: Once::new(None),
        }
    }

    /// Replaces the slots, before the host is shared: for a host that was copied from a constant.
    ///
    /// # Safety
    /// No SEAMCALL was made through this host's gate: the new one is open, and knows no dirty
    /// cache.
    pub unsafe fn set_slots(&mut self, slots: &'m [CpuSlot]) {
        self.gate = Gate::new(slots);
    }

    /// The gate of every SEAMCALL of this machine. What [`crate::platform::Cpu::cpu_gate`] returns
    /// comes from here.
    pub fn gate(&self) -> GateHandle<'_> {
        self.gate.handle()
    }

    /// Looks for TDX, as [`detect`], and keeps the answer.
    ///
    /// # Errors
    /// [`NoTdx`]: the kernel goes on without TDX. Handovers then have nothing to do.
    pub fn detect(&self, processor: &impl LocalProcessor) -> Result<TdxPlatform, NoTdx> {
        let platform = detect(processor)?;
        // A second answer is the same one: a machine has one platform.
        // SAFETY: this machine's, by the contract of `LocalProcessor`.
        let _ = unsafe { self.set_platform(platform) };
        Ok(platform)
    }

    /// Keeps a platform that [`detect`] has returned.
    ///
    /// # Errors
    /// [`HostError::AlreadySet`]; the first platform stays.
    ///
    /// # Safety
    /// `platform` is this machine's: a handover without the erratum leaves private memory as it is.
    pub unsafe fn set_platform(&self, platform: TdxPlatform) -> Result<(), HostError> {
        let mut place = self.platform.own().ok_or(HostError::AlreadySet)?;
        *place = Some(platform);
        place.publish();
        Ok(())
    }

    /// The platform. `None` before [`Host::detect`] and on a machine without TDX.
    pub fn platform(&self) -> Option<&TdxPlatform> {
        self.platform.get()?.as_ref()
    }

    /// Memory that is never given to TDX and never overwritten by a handover: the crash kernel's.
    /// Once, before [`Host::track`].
    ///
    /// # Errors
    /// [`HostError::AlreadySet`], [`HostError::TooManyReserved`]; nothing has changed.
    pub fn reserve(&self, ranges: &[PageRange]) -> Result<(), HostError> {
        let list = ArrayVec::try_from(ranges).map_err(|_| HostError::TooManyReserved { count: ranges.len() })?;
        let mut place = self.reserved.own().ok_or(HostError::AlreadySet)?;
        *place = list;
        place.publish();
        Ok(())
    }

    /// What [`Host::reserve`] was told.
    pub fn reserved(&self) -> &[PageRange] {
        self.reserved.get().map_or(&[], ArrayVec::as_slice)
    }

    /// Brings TDX up: all steps, with static PAMT, each part in a stack frame of its own.
    ///
    /// `memory` is the usable memory, ascending, with its nodes. On success the module and the
    /// layout are published.
    ///
    /// # Errors
    /// [`BringupError`], after everything was undone; the bring-up can be tried again.
    ///
    /// # SEAMCALL
    /// SYS.INIT and SYS.CONFIG on the current CPU, SYS.LP.INIT and SYS.TDMR.INIT on all,
    /// SYS.KEY.CONFIG on one of each package. All CPUs are in VMX operation, and the kernel holds
    /// CPU hotplug and memory hotplug off.
    pub fn bring_up<K: Kernel>(&self, kernel: &mut K, memory: &[NodeRange]) -> Result<Ready, BringupError> {
        bringup::run_to_end(self.start_bring_up(kernel)?, memory)
    }

    /// Starts a bring-up whose steps the kernel takes one by one, see [`crate::bringup`]. The last
    /// step publishes the module and the layout.
    ///
    /// # Errors
    /// [`BringupError`]: no platform was detected, the CPUs' gate is not this host's, another
    /// bring-up runs, or TDX is up.
    pub fn start_bring_up<'k, K: Kernel>(&'k self, kernel: &'k mut K) -> Result<Bringup<'k, K, Started>, BringupError> {
        Bringup::of_host(kernel, self.platform(), self.gate(), &self.record, &self.up)
    }

    /// What the module said of itself. `None` before TDX is up.
    pub fn module(&self) -> Option<&ModuleInfo> {
        self.up.module()
    }

    /// TDMRs and PAMTs. `None` before TDX is up.
    pub fn layout(&self) -> Option<&Layout> {
        self.up.layout()
    }

    /// PAMTs that may be private, ascending. None before a bring-up or the kernel's own TDX code
    /// hands them to the module.
    pub fn pamt_ranges(&self) -> impl Iterator<Item = PageRange> + Clone + '_ {
        self.record.pamt_ranges()
    }

    /// 64-bit words that [`Host::track`] needs: 0.0062 % of the memory that TDMRs cover, and a few
    /// for the KeyIDs. 0 before TDX is up.
    pub fn tracking_words(&self) -> usize {
        let (Some(layout), Some(platform)) = (self.layout(), self.platform()) else { return 0 };
        let ledger = usize::try_from(Ledger::words_needed(tdmrs(layout))).unwrap_or(usize::MAX);
        ledger.saturating_add(KeyIds::words_needed(platform.key_ids()))
    }

    /// Makes the ledger of the TDMRs and the KeyIDs, and publishes both: from here on TDs can be
    /// built. `words` are [`Host::tracking_words`] words that nothing else uses; they need not be
    /// zero.
    ///
    /// # Errors
    /// [`HostError`]; nothing was published.
    pub fn track(&self, words: &'m mut [AtomicU64]) -> Result<TdHost<'_>, HostError> {
        let (layout, platform) = (self.layout().ok_or(HostError::NotUp)?, self.platform().ok_or(HostError::NotUp)?);
        let for_keys = KeyIds::words_needed(platform.key_ids());
        let too_small = HostError::TooSmall { needed: self.tracking_words(), given: words.len() };
        if words.len() < self.tracking_words() {
            return Err(too_small);
        }
        let (keys, rest) = words.split_at_mut_checked(for_keys).ok_or(too_small)?;
        // Both cells before anything is made: either both are published or none is.
        let mut place = self.key_ids.own().ok_or(HostError::AlreadySet)?;
        let made = KeyIds::new(platform.key_ids(), keys).map_err(HostError::from).and_then(|key_ids| {
            *place = Some(key_ids);
            self.publish_ledger(tdmrs(layout), rest, |_| Ok(()))
        });
        if let Err(error) = made {
            *place = None;
            place.give_back();
            return Err(error);
        }
        place.publish();
        self.tds().ok_or(HostError::NotUp)
    }

    /// The ledger is complete, with the reserved ranges and `marks` in it, before any CPU can see
    /// it. After it [`Host::reserve`] is too late.
    ///
    /// # Errors
    /// Nothing was published.
    #[inline(never)]
    fn publish_ledger(
        &self,
        ranges: impl Iterator<Item = PageRange> + Clone,
        words: &'m mut [AtomicU64],
        marks: impl FnOnce(&Ledger<'m>) -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let mut place = self.ledger.own().ok_or(HostError::AlreadySet)?;
        // Nobody has reserved anything if the list can be owned; nobody does while it is.
        let none = self.reserved.own();
        let reserved = match &none {
            Some(_) => Some(&[][..]),
            None => self.reserved.get().map(ArrayVec::as_slice),
        };
        let made = fill(&mut place, reserved, ranges, words).and_then(|()| place.as_ref().map_or(Ok(()), marks));
        if let Err(error) = made {
            *place = None;
            place.give_back();
            if let Some(none) = none {
                none.give_back();
            }
            return Err(error);
        }
        if let Some(none) = none {
            none.publish();
        }
        place.publish();
        // Any effect of a SEAMCALL that a page was given with comes after this.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Pages of TDs. `None` before [`Host::track`] or [`Host::follow`].
    pub fn ledger(&self) -> Option<&Ledger<'m>> {
        self.ledger.get()?.as_ref()
    }

    /// What TDs are created from. `None` before [`Host::track`].
    pub fn tds(&self) -> Option<TdHost<'_>> {
        let (ledger, key_ids) = (self.ledger()?, self.key_ids.get()?.as_ref()?);
        // SAFETY: `ledger` is published, so every handover of this host looks at it; this host is
        // the one that brings TDX up (see `start_bring_up`); KeyIDs and platform are this host's.
        Some(unsafe { TdHost::new(self.platform()?, ledger, key_ids) })
    }

    /// Private KeyIDs of TDs. `None` before [`Host::track`].
    pub fn key_ids(&self) -> Option<&KeyIds<'m>> {
        self.key_ids.get()?.as_ref()
    }

    /// What a handover needs to know, as of this instant. From any CPU, in any context, at any
    /// time.
    pub fn memory(&self) -> HostMemory<'_> {
        // A CPU that has closed the gate and then looks sees the ledger of every CPU that passed
        // the gate before.
        fence(Ordering::SeqCst);
        // The parts are this host's, which publishes its ledger before any page can be given by it.
        // If it is the machine's one host, these are all records there are. If it is not, the CPUs
        // do not pass its gate (`Cpu::cpu_gate`): a handover with this value then resets nothing
        // and calls nothing clean, and no bring-up of this host begins.
        HostMemory::of_host(self.platform(), self.up.features(), &self.record, self, self.gate(), self.reserved())
    }
}

impl LiveLedger for Host<'_> {
    fn ledger(&self) -> Option<&Ledger<'_>> {
        // A CPU that has closed the gate and then looks sees the ledger of every CPU that passed
        // the gate before.
        fence(Ordering::SeqCst);
        Host::ledger(self)
    }
}

/// Makes the ledger in its place. `reserved` is `None` while another CPU is about to publish it.
fn fill<'m>(
    place: &mut Option<Ledger<'m>>,
    reserved: Option<&[PageRange]>,
    ranges: impl Iterator<Item = PageRange> + Clone,
    words: &'m mut [AtomicU64],
) -> Result<(), HostError> {
    let reserved = reserved.ok_or(HostError::AlreadySet)?;
    let ledger = place.insert(Ledger::empty());
    ledger.set_up(ranges, words)?;
    Ok(reserved.iter().try_for_each(|range| ledger.reserve(*range))?)
}

fn tdmrs(layout: &Layout) -> impl Iterator<Item = PageRange> + Clone + '_ {
    layout.tdmrs().iter().map(crate::layout::Tdmr::range)
}
