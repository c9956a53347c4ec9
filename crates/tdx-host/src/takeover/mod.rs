//! The takeover table: what a kernel tells the next one of a TDX module that goes on, with its TDs.
//! Writer and reader of one binary layout.
//!
//! The module and its state on each CPU survive VMXOFF, INIT and a kexec; what is lost is what the
//! host knows. The next kernel finds no TDMR, PAMT, TDR or Secure-EPT page by asking the module,
//! nor the global KeyID (public module source, 1.5.01 to 1.5.25). Assumed, as no CPU has shown it:
//! that all of it survives on hardware as it does by that source.
//!
//! * The old kernel writes it with [`TakeoverWriter`]: the ledger and the PAMTs from its host
//!   ([`Host::write_takeover`]), TDs and CPUs from its own lists. It does not allocate, lock or
//!   wait, so that a crash can write it, too: what was there at that instant.
//! * The next kernel reads it with [`TakeoverTable::read`], and trusts nothing: checksum, lengths,
//!   order, overlaps, ranges outside TDMRs, pages of a TD that no mark covers. Then
//!   [`TakeoverTable::claim`] finds a page or a KeyID that is named twice, and what no TD has.
//!
//! * [`Host::take_over`] makes a host of it. [`TdHost::adopt`] takes TDs over that can run, checked
//!   against what the module says of them, and [`TdHost::vacuum`] tears the others down by ordinary
//!   SEAMCALLs: TDX goes on without a new initialization of the module.
//!
//! The old kernel hands over by [`Policy::Keep`](crate::handover::Policy::Keep).
//!
//! [`Host::write_takeover`]: crate::Host::write_takeover
//! [`Host::take_over`]: crate::Host::take_over
//! [`TdHost::adopt`]: crate::td::TdHost::adopt
//! [`TdHost::vacuum`]: crate::td::TdHost::vacuum
//!
//! # Layout, version 1
//!
//! Little-endian, at any alignment, without an address of its own. 64 bytes of header, then entries
//! of 32 bytes, by ascending kind.
//!
//! | offset | bytes | header |
//! | --- | --- | --- |
//! | 0 | 8 | `TDXKEEP` and a zero byte |
//! | 8 | 2 | version: 1 |
//! | 10 | 2 | 1: written in an orderly kexec; 2: in a crash |
//! | 12 | 4 | bytes of an entry: 32 |
//! | 16 | 8 | number of entries |
//! | 24 | 8 | IA32_TSC_ADJUST of all CPUs, as at SYS.INIT: the module refuses VP.ENTER with another |
//! | 32 | 8 | TSC at the end of the table: a lower one means that VP.ENTER is TSC_ROLLBACK |
//! | 40 | 2 | global KeyID |
//! | 42 | 2 | 0 |
//! | 44 | 4 | CPUs that did not stop |
//! | 48 | 4 | CPUs whose caches may hold private lines |
//! | 52 | 8 | 0 |
//! | 60 | 4 | CRC-32C (polynomial 0x82F63B78 reflected, start and final XOR all ones) of the entries, then of the header up to here |
//!
//! An entry is 16 bits of kind, 16 of detail, 32 of the TD's number in this table (from 1 on; 0:
//! of none), and three 64-bit words. What is not named is 0.
//!
//! | kind | entry | detail | first word | second | third |
//! | --- | --- | --- | --- | --- | --- |
//! | 1 | TDMR, 1 GiB aligned | | first byte | byte after the last | |
//! | 2 | PAMT | | first byte | byte after the last | |
//! | 3 | marked pages | | first byte | byte after the last | |
//! | 4 | marked pages that the module may not know | | first byte | byte after the last | |
//! | 5 | CPU that had SYS.LP.INIT | | its x2APIC id | | |
//! | 6 | KeyID in use that no TD has | | KeyID | | |
//! | 7 | TD | [`TdState`] | its TDR | KeyID; 0: freed | |
//! | 8 | TDCX page of a TD | | page | | |
//! | 9 | VCPU | its number | its TDVPR | | |
//! | 10 | further page of a VCPU | its number | page | | |
//! | 11 | Secure-EPT page | level of its entry, 1 to 4 | page | GPA | |
//! | 12 | guest pages, one after another | size: 0, 1, 2 | first byte | GPA | number of pages |
//! | 13 | pair of Dynamic PAMT | | page | page | the 2 MiB they are for |
//!
//! Kinds 1 to 6 are ascending by their first word, 7 by its number, without a gap. Addresses are
//! multiples of 4096 and below 2^52; guest pages are aligned to their size. A kernel without a
//! table, or with one that does not read, treats all old memory as private.

mod entry;
mod error;
mod read;
mod write;

pub use entry::{Entry, TdState};
pub use error::TakeoverError;
pub use read::{Claims, Entries, TakeoverTable};
pub use write::{TakeoverFacts, TakeoverWriter};

const MAGIC: [u8; 8] = *b"TDXKEEP\0";
const VERSION: u16 = 1;
const HEADER: usize = 64;
const ENTRY: usize = 32;
const CHECKSUM_AT: usize = 60;

/// What wrote a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrittenBy {
    /// An orderly kexec: nothing ran beside it.
    Kexec,
    /// A crash: what was there at that instant.
    Crash,
}
