//! What a crashed kernel leaves private, for the crash kernel that writes its dump: not a list, but
//! where the words of the ledger are. Written at the crash in a time that does not grow with the
//! memory that is private; read by a kernel that trusts nothing of it.
//!
//! # Why the ledger itself
//!
//! A list of ranges has no useful bound: the pages of TDs may be scattered one by one. The ledger
//! has two bits for each page, and it is true at every instant, also for a CPU that did not stop
//! and still marks a page. So the crash kernel reads the ledger where it is, in old memory that
//! nobody writes any more; the table tells it where.
//!
//! # Layout, version 1
//!
//! Little-endian words of 64 bits. The root is [`ROOT_WORDS`] long, contiguous, at an address that
//! is a multiple of 4096:
//!
//! | word | |
//! | --- | --- |
//! | 0 | `TDXDUMP` and a zero byte |
//! | 1 | bits 0 to 15: version, 1; 16 to 31: segments; 32 to 47: PAMTs; 48 to 63: 1 what is private stays so and is listed, 2 it was reset, and nothing is listed |
//! | 2 | a number that the writer has made up for this table |
//! | 3 | the address of the root |
//! | 4 | pages of the ledger's memory |
//! | 5, 6 | 0 |
//! | 7 | CRC-32C of all words in use, this one 0 |
//! | 8 | segments, three words each: first page, page after the last, number of the word in the ledger's memory in which the state of the first page is |
//! | then | PAMTs, two words each: first page, page after the last |
//! | then | addresses of the pages of the index, one word each |
//!
//! The index has the addresses of the pages of the ledger's memory, [`INDEX_ENTRIES`] in each of
//! its pages, 0 behind the last; the last word of a page is the CRC-32C of the number of this page,
//! the number of word 2 and the words before it.
//!
//! The state of 32 pages is in a word of the ledger, two bits each, the lowest first; 0 is ordinary
//! memory.

mod error;
mod read;
mod write;

pub use error::DumpError;
pub use read::DumpTable;
pub use write::{DumpPlace, write_index_page};

use crate::crc32c::Crc;

/// Words of the root: for ledgers of 100 TiB and more.
pub const ROOT_WORDS: usize = 4096;
/// Addresses in a page of the index.
pub const INDEX_ENTRIES: usize = 511;
/// Words of a page.
pub const PAGE_WORDS: usize = 512;

const MAGIC: u64 = u64::from_le_bytes(*b"TDXDUMP\0");
const VERSION: u16 = 1;
const LISTED: u16 = 1;
const RESET: u16 = 2;
const HEADER: usize = 8;
const CHECKSUM_AT: usize = 7;
const SEGMENT: usize = 3;
const PAMT: usize = 2;

fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    u64::from(words.into_iter().fold(Crc::new(), |crc, word| crc.add(&word.to_le_bytes())).end())
}

/// Of the words of a root that are in use.
fn root_checksum(used: &[u64]) -> u64 {
    checksum(used.iter().enumerate().map(|(at, word)| if at == CHECKSUM_AT { 0 } else { *word }))
}

/// Of a page of the index.
fn index_checksum(number: u64, nonce: u64, entries: &[u64]) -> u64 {
    checksum([number, nonce].into_iter().chain(entries.iter().copied()))
}
