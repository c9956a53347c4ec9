//! The Secure EPT of a TD: entries by level and guest page, the walk, and how an entry looks in
//! registers.
//!
//! Level 3 is the root, level 4 with five levels; its page is part of TDCS. An entry of level n
//! maps 4 KiB << 9 n.

use tdx_abi::{LineRange, Operand, PAGE_SIZE, Page, PageSize, PhysAddr, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::locks::LockId;
use crate::LockMode;
use crate::tree::Tree;

/// Highest level of root entries: that of a TD with five levels.
const HIGHEST_ROOT: u64 = 4;
/// Bytes of an entry.
const ENTRY: u64 = 8;

/// State of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    Blocked,
    Pending,
    PendingBlocked,
    Mapped,
    NonLeafBlocked,
    NonLeafMapped,
}

impl State {
    pub(super) fn is_leaf(self) -> bool {
        matches!(self, Self::Blocked | Self::Pending | Self::PendingBlocked | Self::Mapped)
    }

    pub(super) fn is_blocked(self) -> bool {
        matches!(self, Self::Blocked | Self::PendingBlocked | Self::NonLeafBlocked)
    }

    pub(super) fn is_pending(self) -> bool {
        matches!(self, Self::Pending | Self::PendingBlocked)
    }

    /// The state after BLOCK.
    pub(super) fn blocked(self) -> Self {
        match self {
            Self::Mapped => Self::Blocked,
            Self::Pending => Self::PendingBlocked,
            Self::NonLeafMapped => Self::NonLeafBlocked,
            other => other,
        }
    }

    /// The state after UNBLOCK.
    pub(super) fn unblocked(self) -> Self {
        match self {
            Self::Blocked => Self::Mapped,
            Self::PendingBlocked => Self::Pending,
            Self::NonLeafBlocked => Self::NonLeafMapped,
            other => other,
        }
    }

    /// The number in RDX.
    pub(super) const fn code(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Blocked => 1,
            Self::Pending => 2,
            Self::PendingBlocked => 3,
            Self::Mapped => 4,
            Self::NonLeafBlocked => 0x81,
            Self::NonLeafMapped => 0x84,
        }
    }
}

/// An entry: its state, and the page it points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) page: Page,
}

impl Entry {
    pub(super) const FREE: Self = Self { state: State::Free, page: Page::new(0) };

    /// The architectural entry as RCX shows it; `present` are bits that newer modules show in every
    /// entry that is not free.
    fn shown(self, present: u64) -> u64 {
        /// Suppress #VE.
        const SUPPRESS_VE: u64 = 1 << 63;
        let leaf = SUPPRESS_VE | 0xf0 | self.page.start().get();
        match self.state {
            State::Free => SUPPRESS_VE,
            State::NonLeafMapped => present | 0b111,
            State::NonLeafBlocked => 0,
            State::Mapped => leaf | present | 0b111,
            State::Blocked | State::Pending | State::PendingBlocked => leaf,
        }
    }
}

/// Entries of the levels, by guest page number at that level. An entry below a free one is
/// free.
#[derive(Clone, Debug)]
pub(super) struct Sept {
    levels: [Tree<Entry>; HIGHEST_ROOT as usize + 1],
}

impl Sept {
    pub(super) fn new() -> Self {
        Self { levels: [const { Tree::new(Entry::FREE) }; HIGHEST_ROOT as usize + 1] }
    }

    pub(super) fn get(&self, level: u64, number: u64) -> Entry {
        self.levels.get(level as usize).map_or(Entry::FREE, |tree| tree.get(number))
    }

    /// Sets the entries `[number, number + count)`.
    pub(super) fn set(&mut self, level: u64, number: u64, count: u64, entry: Entry) {
        if let Some(tree) = self.levels.get_mut(level as usize) {
            tree.set(number, number + count, entry);
        }
    }

    /// Are the 512 entries of the page below this entry all free?
    pub(super) fn is_page_free(&self, level: u64, number: u64) -> bool {
        let below = level.saturating_sub(1);
        self.levels.get(below as usize).is_none_or(|tree| {
            tree.runs(number << 9, (number + 1) << 9, |_, _, entry| match entry.state {
                State::Free => core::ops::ControlFlow::Continue(()),
                _ => core::ops::ControlFlow::Break(()),
            })
            .is_continue()
        })
    }
}

/// A guest page: an address and the level of the entry that maps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GuestPage {
    pub(super) level: u64,
    /// Address divided by the size of the page.
    pub(super) number: u64,
}

impl GuestPage {
    /// From a register: level in bits 2:0, address above; the level within the given ones, the
    /// address aligned to it.
    pub(super) fn parse(register: u64, levels: core::ops::RangeInclusive<u64>) -> Result<Self, Stop> {
        let level = register & 0b111;
        let address = register & !0b111;
        let shift = 12 + 9 * level;
        if !levels.contains(&level) || address >> 52 != 0 || address & ((1 << shift) - 1) != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        Ok(Self { level, number: address >> shift })
    }

    /// Refuses addresses that the guest shares with the host: from `shared` on.
    pub(super) fn check_private(self, shared: u64) -> Result<(), Stop> {
        if self.number << (12 + 9 * self.level) >= shared {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        Ok(())
    }

    /// Size of the page that a leaf entry at this level maps; the root maps none.
    pub(super) fn size(self) -> PageSize {
        PageSize::from_level(self.level).unwrap_or(PageSize::Size1G)
    }
}

/// Which lock on the tree a leaf takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TreeLock {
    /// The leaf holds the TDR exclusively, which is enough.
    None,
    Take(LockMode),
}

impl Module {
    /// Checks that the guest address is private, locks the tree and walks to the entry.
    pub(super) fn sept_walk(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        lock: TreeLock,
    ) -> Result<Entry, Stop> {
        guest.check_private(self.td(tdr)?.shared_gpa())?;
        if let TreeLock::Take(mode) = lock {
            self.lock_sept_tree(tdr, mode)?;
        }
        let (level, entry) = self.sept_find(tdr, guest)?;
        if level != guest.level {
            call.show(level, entry);
            return operand(StatusCode::EPT_WALK_FAILED, Operand::RCX);
        }
        if lock != TreeLock::None {
            self.lock_sept_entry(call, tdr, guest, entry)?;
        }
        Ok(entry)
    }

    /// Locks an entry; RCX and RDX show it if another call has it.
    pub(super) fn lock_sept_entry(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        entry: Entry,
    ) -> Result<(), Stop> {
        let id = LockId::SeptEntry(tdr, guest.level, guest.number);
        if self.locks.acquire(id, LockMode::Exclusive).is_err() {
            call.show(guest.level, entry);
            return operand(StatusCode::OPERAND_BUSY, Operand::RCX);
        }
        Ok(())
    }

    pub(super) fn lock_sept_tree(&mut self, tdr: Page, mode: LockMode) -> Result<(), Stop> {
        match self.locks.acquire(LockId::SeptTree(tdr), mode) {
            Ok(()) => Ok(()),
            Err(_) => operand(StatusCode::OPERAND_BUSY, Operand::SEPT_TREE),
        }
    }

    /// The entry where a walk to this guest page ends, and its level: above the one asked for if
    /// the way is cut.
    pub(super) fn sept_find(&self, tdr: Page, guest: GuestPage) -> Result<(u64, Entry), Stop> {
        let td = self.td(tdr)?;
        let sept = &td.sept;
        let mut level = td.root();
        loop {
            let entry = sept.get(level, guest.number >> (9 * (level - guest.level)));
            if level == guest.level || entry.state != State::NonLeafMapped {
                return Ok((level, entry));
            }
            level -= 1;
        }
    }

    /// Writes an entry: its line is dirty under the TD's key. The root page is part of TDCS.
    pub(super) fn sept_set(&mut self, call: &mut Call, tdr: Page, guest: GuestPage, entry: Entry) -> Result<(), Stop> {
        let td = self.td_mut(tdr)?;
        let key = td.key;
        td.sept.set(guest.level, guest.number, 1, entry);
        if guest.level == self.td(tdr)?.root() {
            return self.store_tdcs(call, tdr);
        }
        let parent = self.td(tdr)?.sept.get(guest.level + 1, guest.number >> 9);
        let address = parent.page.start().get() + guest.number % 512 * ENTRY;
        call.store(LineRange::single(PhysAddr::new(address).line()), key)
    }

    /// The page that an entry of this level points to was blocked in its present epoch and not
    /// tracked since, or was not blocked at all; only a TD that may run asks for it.
    pub(super) fn check_blocked_and_tracked(
        &self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        entry: Entry,
    ) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        if !td.needs_tracking() {
            return Ok(());
        }
        if !entry.state.is_blocked() {
            call.show(guest.level, entry);
            return operand(StatusCode::GPA_RANGE_NOT_BLOCKED, Operand::RCX);
        }
        let level = if entry.state.is_leaf() { guest.size() } else { PageSize::Size4K };
        if !self.is_tracked(tdr, self.pamt.get(entry.page, level).epoch)? {
            return operand(StatusCode::TLB_TRACKING_NOT_DONE, Operand::RCX);
        }
        Ok(())
    }
}

impl Call<'_> {
    /// RCX and RDX show the entry where a leaf stopped.
    pub(super) fn show(&mut self, level: u64, entry: Entry) {
        let present = self.hardware.config.module.map_or(0, |module| module.traits().sept_entry_bits);
        self.out.rcx = entry.shown(present);
        self.out.rdx = level | entry.state.code() << 8;
    }

    /// As [`Self::show`], with the status that says the state of the entry does not allow the leaf.
    pub(super) fn wrong_state<T>(&mut self, guest: GuestPage, entry: Entry) -> Result<T, Stop> {
        self.show(guest.level, entry);
        operand(StatusCode::EPT_ENTRY_STATE_INCORRECT, Operand::RCX)
    }
}

const _: () = assert!(PAGE_SIZE / ENTRY == 512);
