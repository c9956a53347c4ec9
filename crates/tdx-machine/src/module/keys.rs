//! The key ownership table: what each private KeyID is used for.

use alloc::{vec, vec::Vec};
use tdx_abi::{KeyId, KeyIdPartition};

/// State of a KeyID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyState {
    Free,
    /// A TD has it.
    Assigned,
    /// Its TD is blocked; the bits are packages whose caches have not been written back since.
    Flushed {
        packages_left: u32,
    },
    /// The global KeyID, or one that was offered as such.
    Reserved,
}

/// One state for each private KeyID.
#[derive(Clone, Debug)]
pub(super) struct KeyTable {
    first: u16,
    states: Vec<KeyState>,
}

impl KeyTable {
    pub(super) fn new(key_ids: KeyIdPartition) -> Self {
        let first = key_ids.first_private().map_or(0, KeyId::get);
        Self { first, states: vec![KeyState::Free; key_ids.private() as usize] }
    }

    /// The state of a KeyID; `None` if it is not private.
    pub(super) fn get(&self, key: KeyId) -> Option<KeyState> {
        self.states.get(self.index(key)?).copied()
    }

    /// Sets it; without effect if it is not private.
    pub(super) fn set(&mut self, key: KeyId, state: KeyState) {
        if let Some(slot) = self.index(key).and_then(|index| self.states.get_mut(index)) {
            *slot = state;
        }
    }

    /// Every KeyID with its state.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (KeyId, &mut KeyState)> {
        self.states.iter_mut().zip(self.first..).map(|(state, key)| (KeyId::new(key), state))
    }

    fn index(&self, key: KeyId) -> Option<usize> {
        key.get().checked_sub(self.first).map(usize::from)
    }
}
