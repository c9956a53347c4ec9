//! Why a table for the crash kernel cannot be written or read.

/// Why a table is refused. The kernel that was to write it resets private memory; the one that was
/// to read it does not know what is private.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The memory for the root is not as long as it must be.
    #[error("the root of the table has {given} words")]
    Size {
        /// Words given.
        given: usize,
    },
    /// The ledger, its index and the PAMTs do not fit.
    #[error("the table needs {needed} words")]
    Full {
        /// Words needed.
        needed: usize,
    },
    /// The ledger is not in the memory that was prepared.
    #[error("the ledger is elsewhere")]
    Elsewhere,
    /// There is no table.
    #[error("there is no table at this address")]
    NoTable,
    /// Another version.
    #[error("a table of version {version}")]
    Version {
        /// Its version.
        version: u16,
    },
    /// A table of another address, or another number.
    #[error("another kernel's table")]
    Stranger,
    /// The header contradicts itself.
    #[error("the header of the table is not valid")]
    Header,
    /// It was overwritten, or written half-way.
    #[error("the checksum of the table is wrong")]
    Checksum,
    /// A segment, PAMT or address of the index that no writer writes.
    #[error("word {word} of the table is not valid")]
    Entry {
        /// Its first word.
        word: usize,
    },
    /// A page of the index that was overwritten, or is another one.
    #[error("page {number} of the table's index is not valid")]
    Index {
        /// Its number.
        number: u64,
    },
}
