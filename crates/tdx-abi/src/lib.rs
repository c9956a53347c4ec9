//! What the ABI of Intel's TDX module looks like to the host: physical addresses and page ranges,
//! KeyIDs, SEAMCALL leaves and registers, completion status, metadata fields, and the structures
//! that travel through memory.
//!
//! This crate *describes*. It makes no SEAMCALL, reads no memory, allocates nothing, and has no
//! `unsafe`. Both the product (`tdx-host`) and the emulator that judges it (`tdx-machine`) stand on
//! it, and on nothing else of each other.
//!
//! Numbers that come from outside are open: an unknown [`Status`], [`Leaf`] or [`FieldId`] is a
//! value that keeps its raw bits, never an error and never undefined behavior.
//!
//! Sources: Intel TDX module 1.5.01 as observed (`docs/reference/tdx_abi.md`), Linux
//! `arch/x86/virt/vmx/tdx`.
//!
//! # What is what
//!
//! | thing | here | in words |
//! | --- | --- | --- |
//! | physical address | [`PhysAddr`] | a byte; may carry a KeyID in its upper bits |
//! | page, line | [`Page`], [`Line`] | numbers of 4 KiB pages and of 64-byte lines: what is owned, and what is private |
//! | ranges of them | [`PageRange`], [`LineRange`] | half-open `[a, b)`; [`union`], [`intersect`], [`subtract`] and [`walk`] over ascending lists |
//! | KeyID | [`KeyId`], [`KeyIdField`], [`KeyIdPartition`] | which key memory is encrypted with: 0 the host's, then shared ones, then private ones |
//! | a SEAMCALL | [`Leaf`], [`LeafCall`], [`Registers`] | what is called, with what |
//! | its answer | [`Status`], [`StatusCode`], [`Operand`] | 64 bits: error, recoverable, class, code, and what it is about |
//! | metadata | [`FieldId`], [`TdxFeatures0`] | what SYS.RD is asked for |
//! | structures in memory | [`TdmrInfo`], [`CmrInfo`], [`TdSysInfo`], [`PamtEntry`] | as the module reads and writes them |
//!
//! # Examples
//!
//! An address under a KeyID, as PHYMEM.PAGE.WBINVD wants it:
//!
//! ```
//! use tdx_abi::{KeyId, KeyIdField, KeyIdPartition, PhysAddr};
//!
//! // MSR 0x87: 31 shared KeyIDs, 32 private ones. MSR 0x982: 6 bits of an address are KeyID.
//! let partition = KeyIdPartition::from_msr(0x20_0000_001f);
//! let field = KeyIdField::from_tme_activate(6 << 32);
//! let global = partition.first_private().expect("TDX is on");
//! assert_eq!((global, field.shift()), (KeyId::new(32), 46));
//!
//! let tagged = field.tag(PhysAddr::new(0x1234_5000), global);
//! assert_eq!(tagged.get(), 32 << 46 | 0x1234_5000);
//! assert_eq!((field.strip(tagged), field.key_of(tagged)), (PhysAddr::new(0x1234_5000), global));
//! ```
//!
//! A call and its answer. An unknown code is a value like any other:
//!
//! ```
//! use tdx_abi::{Leaf, Operand, PhysAddr, Registers, Status, StatusCode};
//!
//! let input = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx_address(PhysAddr::new(0x1234_5000));
//! assert_eq!(input.leaf_call().leaf().to_string(), "TDH.PHYMEM.PAGE.RECLAIM");
//!
//! let status = Status::new(0x8000_0200_0000_0001);
//! assert!(status.is_error() && !status.is_non_recoverable());
//! assert_eq!((status.code(), status.operand()), (StatusCode::OPERAND_BUSY, Operand::RCX));
//! assert_eq!(status.to_string(), "TDX_OPERAND_BUSY (RCX)");
//! assert_eq!(Status::new(0xc000_7777_0000_0000).raw(), 0xc000_7777_0000_0000);
//! ```
//!
//! Ranges without allocation, and the price of a TDMR:
//!
//! ```
//! use tdx_abi::{Page, PageRange, PageSize, pamt_bytes, subtract};
//!
//! let range = |start, end| PageRange::new(Page::new(start), Page::new(end));
//! let rest: Vec<_> = subtract([range(0, 10), range(20, 30)], [range(5, 22)]).collect();
//! assert_eq!(rest, [range(0, 5), range(22, 30)]);
//! assert_eq!(range(0, 1).lines().len(), 64);
//!
//! let pamt: Option<u64> = PageSize::ALL.into_iter().map(|level| pamt_bytes(1 << 30, level, 16)).sum();
//! assert_eq!(pamt, Some((4 << 20) + (8 << 10) + 4096), "of one GiB: 4 KiB, 2 MiB and 1 GiB pages");
//! ```
//!
//! There are no cargo features.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
mod dynamic_pamt;
mod field;
mod keyid;
mod leaf;
mod open_enum;
mod pamt;
mod range;
mod registers;
mod status;
mod structures;

pub use address::{LINE_SIZE, LINES_PER_PAGE, Line, PAGE_SIZE, Page, PageSize, PhysAddr};
pub use dynamic_pamt::{
    DYNAMIC_PAMT_MAX_PHYS_BITS, PAMT_PAIR_PAGES, PAMT_REMOVAL_HINT, SYS_CONFIG_DYNAMIC_PAMT, page_and_level,
    pamt_bitmap_bytes, removed_page,
};
pub use field::{FieldId, TdxFeatures0};
pub use keyid::{KeyId, KeyIdError, KeyIdField, KeyIdPartition, MAX_PHYS_BITS};
pub use leaf::{Leaf, LeafCall};
/// Which TDX modules this crate describes, for people: what was observed on a real one, and what is
/// known from documents alone.
pub const MODULE_RANGE: &str =
    "1.5 (1.5.01 and 1.5.25 as observed; TDH.SYS.DISABLE of later ones from documents, unverified)";

pub use pamt::{PamtEntry, PamtPageType, pamt_bytes};
pub use range::{
    Covered, Intersect, LineRange, PageRange, RangeError, Subtract, Union, Walk, intersect, subtract, union, walk,
};
pub use registers::Registers;
pub use status::{Operand, Status, StatusClass, StatusCode};
pub use structures::{
    CmrInfo, MAX_CMRS, MAX_RESERVED_AREAS, MAX_TDMRS, ReservedArea, STRUCTURE_ALIGN, TDMR_GRANULARITY, TdSysInfo,
    TdmrInfo,
};

#[cfg(target_endian = "big")]
compile_error!("the TDX module's structures are little-endian and so is every host that has one");
