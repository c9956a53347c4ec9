//! The table of leftovers, which the old kernel writes and the next one reads.

use core::ffi::c_void;
use tdx_host::handover::{LeftoverTable, OldMemory, TableError, Written};

use crate::host::{Host, TdxhHost};
use crate::report::TdxhLeftover;
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhReport, buffer, content, input_array, output};

/// Bytes of a table's header.
pub const TDXH_TABLE_HEADER_BYTES: usize = 32;

/// Bytes of an entry.
pub const TDXH_TABLE_ENTRY_BYTES: usize = 24;

/// `struct tdxh_written`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhWritten {
    /// Bytes of the table in use.
    pub bytes: usize,
    /// Entries.
    pub entries: u32,
    /// 1: there is no list; all old memory may be private.
    pub all_private: u32,
}

impl From<Written> for TdxhWritten {
    fn from(written: Written) -> Self {
        let Written { bytes, entries } = written;
        Self { bytes, entries: entries.unwrap_or(0), all_private: entries.is_none().into() }
    }
}

/// `struct tdxh_table`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhTable {
    /// CPUs that did not stop.
    pub not_stopped: u32,
    /// CPUs whose caches may hold private lines.
    pub may_hold_private_lines: u32,
    /// Entries.
    pub entries: u32,
    /// 1: there is no list; all old memory may be private.
    pub all_private: u32,
}

/// # Safety
/// `written` is null or valid for a write.
unsafe fn tell(written: *mut TdxhWritten, result: Result<Written, TableError>) -> Outcome {
    let done = result.map_err(|error| TdxhResult::from(&error))?;
    // SAFETY: by the contract of this function.
    if written.is_null() { Ok(()) } else { unsafe { output(written, done.into()) } }
}

/// Writes what a handover left. See the header.
///
/// # Safety
/// `host` was initialized; `report` is storage as [`crate::Opaque`] wants it; `table` is valid for
/// reads and writes of `bytes`; `written` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_table_write(
    host: *mut TdxhHost,
    report: *mut TdxhReport,
    table: *mut u8,
    bytes: usize,
    written: *mut TdxhWritten,
) -> TdxhResult {
    let write = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, opaque objects are storage that was zeroed or that this
        // library has filled and the buffer is as long as its count says and used by no other code.
        let (host, report, table) = unsafe { (Host::of(host)?, content(report)?.take()?, buffer(table, bytes)?) };
        let done = LeftoverTable::write(table, &report, &host.memory());
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { tell(written, done) }
    };
    flat(write())
}

/// Writes that all old memory may be private. See the header.
///
/// # Safety
/// As [`tdxh_table_write`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_table_write_all_private(
    table: *mut u8,
    bytes: usize,
    written: *mut TdxhWritten,
) -> TdxhResult {
    let write = || -> Outcome {
        // SAFETY: as the caller has promised, the buffer is as long as its count says and used by
        // no other code.
        let table = unsafe { buffer(table, bytes) }?;
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { tell(written, LeftoverTable::all_private(table)) }
    };
    flat(write())
}

/// Reads a table. See the header.
///
/// # Safety
/// `table` is valid for reads of `bytes`; `visit` is null or may be called with `context`; `info`
/// is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_table_read(
    table: *const u8,
    bytes: usize,
    info: *mut TdxhTable,
    visit: Option<unsafe extern "C" fn(context: *mut c_void, leftover: *const TdxhLeftover) -> i32>,
    context: *mut c_void,
) -> TdxhResult {
    let read = || -> Outcome {
        if table.is_null() {
            return Err(TdxhResult::Null);
        }
        // SAFETY: as the caller has promised, arrays are as long as their counts say.
        let memory = unsafe { input_array(table, bytes) }?;
        let read = LeftoverTable::read(memory).map_err(|error| TdxhResult::from(&error))?;
        let (entries, all_private) = match &read.old_memory {
            OldMemory::Listed(list) => (list.clone().count() as u32, 0),
            OldMemory::AllPrivate => (0, 1),
        };
        let found = TdxhTable {
            not_stopped: read.not_stopped,
            may_hold_private_lines: read.may_hold_private_lines,
            entries,
            all_private,
        };
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(info, found) }?;
        if let (OldMemory::Listed(list), Some(visit)) = (read.old_memory, visit) {
            for leftover in list {
                let leftover = TdxhLeftover::from(leftover);
                // SAFETY: by the contract of this function; the struct lives through the call.
                if unsafe { visit(context, &raw const leftover) } != 0 {
                    return Err(TdxhResult::Stopped);
                }
            }
        }
        Ok(())
    };
    flat(read())
}
