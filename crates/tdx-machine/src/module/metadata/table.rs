//! Tables of metadata fields: what a host may do with a field, which field an id names, which one
//! is next.

use tdx_abi::{FieldId, StatusCode};

use super::super::call::Stop;
use crate::fields::Edition;

/// Bits of a field id that say nothing about which field it is: sizes, INC_SIZE, WRITE_MASK_VALID,
/// context, NON_ARCH.
pub(in crate::module) const IGNORED: u64 = 0b11 << 32 | 0b1_1111 << 50 | 1 << 63;
/// Bits that tell one field from another: class and field code.
pub(in crate::module) const IDENTITY: u64 = CLASS | CODE;
pub(super) const CLASS: u64 = 0b11_1111 << 56;
pub(super) const CODE: u64 = 0xff_ffff;
/// Context of a field id.
const CONTEXT: u64 = 0b111 << 52;
/// Field codes are two apart, as VMCS encodings are.
const INC_SIZE: u64 = 1 << 50;

/// A field id for one element: bits that are neither ignored nor part of its name are 0.
pub(in crate::module) fn single(field: u64) -> Result<u64, Stop> {
    if field & !(IGNORED | IDENTITY) != 0 {
        return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
    }
    Ok(field & IDENTITY)
}

/// All ones but for the context: the host asks for the first field.
pub(super) fn is_null(field: u64) -> bool {
    field | CONTEXT == FieldId::NONE.0
}

/// Bits of an element that one may read and write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Masks {
    pub(super) read: u64,
    pub(super) write: u64,
}

/// Who reads and writes a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reader {
    /// The host, of a TD in production.
    Host,
    /// The host, of a debug TD.
    HostOfDebugTd,
    /// The guest itself.
    Guest,
}

/// What each of them may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Access {
    production: Masks,
    debug: Masks,
    guest: Masks,
}

impl Access {
    /// The guest reads it, and writes these bits.
    pub(super) const fn guest(self, write: u64) -> Self {
        self.guest_bits(ALL, write)
    }

    /// The guest reads and writes these bits.
    pub(super) const fn guest_bits(self, read: u64, write: u64) -> Self {
        Self { guest: Masks { read, write }, ..self }
    }
}

pub(super) const ALL: u64 = u64::MAX;
/// A host reads it.
pub(super) const READ: Access = access(ALL, 0, ALL, 0);
/// A host reads it in a debug TD.
pub(super) const DEBUG: Access = access(0, 0, ALL, 0);
/// A host reads and writes it in a debug TD.
pub(super) const DEBUG_WRITE: Access = debug_write(ALL);
/// No host reads it.
pub(super) const NONE: Access = access(0, 0, 0, 0);

pub(super) const fn access(read: u64, write: u64, debug_read: u64, debug_write: u64) -> Access {
    Access {
        production: Masks { read, write },
        debug: Masks { read: debug_read, write: debug_write },
        guest: Masks { read: 0, write: 0 },
    }
}

/// A host reads it, and writes these bits.
pub(super) const fn write(mask: u64) -> Access {
    access(ALL, mask, ALL, mask)
}

/// A host reads it in a debug TD, and writes these bits there.
pub(super) const fn debug_write(mask: u64) -> Access {
    access(0, 0, ALL, mask)
}

/// Fields with adjacent codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    /// Of the first element, as the module gives it.
    pub(super) id: u64,
    fields: u64,
    elements: u64,
    access: Access,
    /// `None`: every version has it.
    only_in: Option<Edition>,
}

/// A row of both versions.
pub(super) const fn both(id: u64, fields: u64, elements: u64, access: Access) -> Row {
    Row { id, fields, elements, access, only_in: None }
}

/// A row of 1.5.01 alone.
pub(super) const fn old(id: u64, fields: u64, elements: u64, access: Access) -> Row {
    Row { only_in: Some(Edition::V1_5_01), ..both(id, fields, elements, access) }
}

/// A row of 1.5.25 alone.
pub(super) const fn new(id: u64, fields: u64, elements: u64, access: Access) -> Row {
    Row { only_in: Some(Edition::V1_5_25), ..both(id, fields, elements, access) }
}

impl Row {
    fn stride(self) -> u64 {
        if self.id & INC_SIZE != 0 { 2 } else { 1 }
    }

    /// Codes that belong to the row.
    fn codes(self) -> u64 {
        self.fields * self.elements * self.stride()
    }

    /// All bits of an element.
    pub(super) fn element_mask(self) -> u64 {
        match self.id >> 32 & 0b11 {
            0 => 0xff,
            1 => 0xffff,
            2 => 0xffff_ffff,
            _ => ALL,
        }
    }

    /// What the reader may do with an element.
    pub(super) fn masks(self, reader: Reader) -> Masks {
        let Masks { read, write } = match reader {
            Reader::Host => self.access.production,
            Reader::HostOfDebugTd => self.access.debug,
            Reader::Guest => self.access.guest,
        };
        Masks { read: read & self.element_mask(), write: write & self.element_mask() }
    }

    fn has(self, name: u64) -> bool {
        let first = self.id & CODE;
        self.id & CLASS == name & CLASS && (first..first + self.codes()).contains(&(name & CODE))
    }

    fn is_of(self, edition: Edition) -> bool {
        self.only_in.is_none_or(|only| only == edition)
    }
}

/// The fields of one context, in the order of the module.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) edition: Edition,
    /// Two pieces, the second behind the first.
    pub(super) rows: [&'static [Row]; 2],
    /// Classes that the TD does not have: those of L2 VMs beyond its own.
    pub(super) absent: &'static [u64],
}

impl Table {
    fn rows(self) -> impl Iterator<Item = Row> {
        let rows = self.rows.into_iter().flatten().copied();
        rows.filter(move |row| row.is_of(self.edition) && !self.absent.contains(&(row.id & CLASS)))
    }

    /// The row that has this class and code.
    pub(super) fn find(self, name: u64) -> Result<Row, Stop> {
        self.rows().find(|row| row.has(name)).ok_or(StatusCode::METADATA_FIELD_ID_INCORRECT.into())
    }

    /// Id of the first field that the reader may read.
    pub(super) fn first(self, reader: Reader) -> u64 {
        self.rows().find(|row| row.masks(reader).read != 0).map_or(FieldId::NONE.0, |row| row.id)
    }

    /// Id of the element behind this one, of those that the reader may read: within a row as the
    /// caller wrote it, otherwise as the table has it. [`FieldId::NONE`] behind the last.
    pub(super) fn next(self, field: u64, reader: Reader) -> u64 {
        let mut rows = self.rows().skip_while(|row| !row.has(field));
        let Some(row) = rows.next() else { return FieldId::NONE.0 };
        let code = (field & CODE) + row.stride();
        if code < (row.id & CODE) + row.codes() {
            return field & !(CODE | CONTEXT) | row.id & CONTEXT | code;
        }
        self.next_row(row.id, reader)
    }

    /// Id of the first readable field behind the row that has this one.
    pub(super) fn next_row(self, field: u64, reader: Reader) -> u64 {
        let mut rows = self.rows().skip_while(|row| !row.has(field)).skip(1);
        rows.find(|row| row.masks(reader).read != 0).map_or(FieldId::NONE.0, |row| row.id)
    }
}

/// A write: the value, and the bits to write.
#[derive(Clone, Copy)]
pub(super) struct Write {
    pub(super) value: u64,
    pub(super) mask: u64,
}

impl Write {
    /// Bits that the host asks for and may write.
    pub(super) fn allowed(self, masks: Masks) -> Result<u64, Stop> {
        match self.mask & masks.write {
            0 => Err(StatusCode::METADATA_FIELD_NOT_WRITABLE.into()),
            allowed => Ok(allowed),
        }
    }

    /// Bits that the host asks for and may not write stay as they are. `old` is what the host would
    /// have to repeat there.
    pub(super) fn check_forbidden(self, masks: Masks, old: u64) -> Result<(), Stop> {
        let forbidden = self.mask & !masks.write;
        if old & forbidden != self.value & forbidden {
            return Err(StatusCode::METADATA_FIELD_VALUE_NOT_VALID.into());
        }
        Ok(())
    }
}
