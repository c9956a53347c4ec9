//! Why a transition of a [`Host`](super::Host) was refused.

use crate::key_ids::KeyIdsError;
use crate::ledger::{LedgerError, MAX_RESERVED, MarkError};
pub use crate::private_memory::PublishError;
use crate::takeover::TakeoverError;

/// Why a [`Host`](super::Host) did not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// TDX is not up.
    #[error("TDX is not up")]
    NotUp,
    /// This part of the host is published, or another CPU is about to publish it.
    #[error("already set: each part of a host is published once")]
    AlreadySet,
    /// More reserved ranges than there is room for.
    #[error("{count} reserved ranges, {MAX_RESERVED} can be")]
    TooManyReserved {
        /// Ranges given.
        count: usize,
    },
    /// The caller's memory is too small.
    #[error("{needed} words of 8 bytes are needed to track private pages, {given} were given")]
    TooSmall {
        /// 64-bit words needed.
        needed: usize,
        /// 64-bit words given.
        given: usize,
    },
    /// The ledger cannot be made.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// The KeyIDs cannot be set up.
    #[error("{0}")]
    KeyIds(#[from] KeyIdsError),
    /// The observed PAMTs cannot be recorded.
    #[error("{0}")]
    Pamts(#[from] PublishError),
    /// The takeover table contradicts itself, or this machine: its global KeyID is another one.
    #[error("{0}")]
    Takeover(#[from] TakeoverError),
    /// A range of the takeover table cannot be marked: it is reserved.
    #[error("{0}")]
    Mark(#[from] MarkError),
    /// There is private memory, or the gate is closed: TDX cannot start over.
    #[error("private memory may be left: TDX cannot start over")]
    MayHavePrivateMemory,
}
