//! Why a table is not written or not believed.

use tdx_abi::{KeyId, Page};

use super::{HEADER, VERSION};
use crate::ledger::LedgerError;

/// Why a takeover table cannot be written or read. The next kernel then treats all old memory as
/// private.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeoverError {
    /// There is no room for all entries. Nothing stands there that reads as a table.
    #[error("the takeover table has {given} bytes, {entries} entries and more need {}", HEADER as u64 + entries * 32)]
    TooSmall {
        /// Bytes given.
        given: usize,
        /// Entries that had room, and one more.
        entries: u64,
    },
    /// There is no table.
    #[error("there is no takeover table here")]
    NoTable,
    /// Another version.
    #[error("takeover table of version {version}, only version {VERSION} is known")]
    Version {
        /// Its version.
        version: u16,
    },
    /// The header contradicts itself or the memory it stands in.
    #[error("the takeover table has a bad header: {entries} entries of {entry_bytes} bytes, written by {written_by}")]
    Header {
        /// Entries.
        entries: u64,
        /// Bytes of each.
        entry_bytes: u32,
        /// What wrote it, as a number.
        written_by: u16,
    },
    /// It was written half-way or overwritten.
    #[error("the takeover table has checksum {written:#010x}, its bytes have {computed:#010x}")]
    Checksum {
        /// In the header.
        written: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// An entry that is none: an address that is not aligned or too high, a number that is none.
    #[error("entry {index} of the takeover table is not valid")]
    Entry {
        /// Its index.
        index: u64,
    },
    /// An entry that does not come after the one before it: kinds and ranges ascend.
    #[error("entry {index} of the takeover table does not come after the one before it")]
    Order {
        /// Its index.
        index: u64,
    },
    /// An entry of a TD that the table does not have.
    #[error("entry {index} of the takeover table is of TD {td}, and there are {tds}")]
    NoSuchTd {
        /// Its index.
        index: u64,
        /// The TD.
        td: u32,
        /// TDs in the table.
        tds: u64,
    },
    /// A TDMR that is not 1 GiB aligned, or one too many.
    #[error("entry {index} of the takeover table is no TDMR: not 1 GiB aligned, or one too many")]
    Tdmr {
        /// Its index.
        index: u64,
    },
    /// Marked pages outside every TDMR, or in a PAMT; or unknown pages that are not marked.
    #[error("entry {index} of the takeover table has pages outside every TDMR, in a PAMT, or without a mark")]
    Pages {
        /// Its index.
        index: u64,
    },
    /// A KeyID that is the global one, or of the host.
    #[error("entry {index} of the takeover table has KeyID {key}, which no TD can have")]
    KeyId {
        /// Its index.
        index: u64,
        /// The KeyID.
        key: KeyId,
    },
    /// A page that two entries have.
    #[error("entry {index} of the takeover table has page {page}, which another one has")]
    PageTwice {
        /// Index of the second.
        index: u64,
        /// The first such page.
        page: Page,
    },
    /// A KeyID that two entries have.
    #[error("entry {index} of the takeover table has KeyID {key}, which another one has")]
    KeyIdTwice {
        /// Index of the second.
        index: u64,
        /// The KeyID.
        key: KeyId,
    },
    /// The table is of another machine, or its firmware was set otherwise.
    #[error("the takeover table has global KeyID {given}, this machine has {has}")]
    OtherMachine {
        /// In the table.
        given: KeyId,
        /// Of this machine.
        has: KeyId,
    },
    /// The memory for the claims does not do.
    #[error("claims of the takeover table: {0}")]
    Claims(LedgerError),
}
