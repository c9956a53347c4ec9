//! What the ABI of Intel's TDX module looks like to the host: physical addresses and page ranges, KeyIDs, SEAMCALL
//! leaves and registers, completion status, metadata fields, and the structures that travel through memory.
//!
//! This crate *describes*. It makes no SEAMCALL, reads no memory, allocates nothing, and has no `unsafe`. Both the product
//! (`tdx-host`) and the emulator that judges it (`tdx-machine`) stand on it, and on nothing else of each other.
//!
//! Numbers that come from outside are open: an unknown [`Status`], [`Leaf`] or [`FieldId`] is a value that keeps its raw
//! bits, never an error and never undefined behaviour.
//!
//! Sources: Intel TDX module 1.5.01 as observed (`shared/reference/tdx_abi.md`), Linux `arch/x86/virt/vmx/tdx`.

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
