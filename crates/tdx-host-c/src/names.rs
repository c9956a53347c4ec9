//! Numbers as words and as errnos, without formatting.

use core::ffi::{CStr, c_char};
use tdx_abi::Status;

use crate::result::TdxhResult;
use crate::storage::buffer;

/// Version of the library. See the header.
#[unsafe(no_mangle)]
pub extern "C" fn tdxh_abi_version() -> u32 {
    crate::TDXH_ABI_VERSION
}

/// The errno of a result. See the header.
#[unsafe(no_mangle)]
pub extern "C" fn tdxh_errno(result: u32) -> i32 {
    TdxhResult::from_number(result).unwrap_or(TdxhResult::Other).errno()
}

const UNKNOWN: &CStr = c"unknown";

/// The name of a result. See the header.
#[unsafe(no_mangle)]
pub extern "C" fn tdxh_result_name(result: u32) -> *const c_char {
    TdxhResult::from_number(result).map_or(UNKNOWN, TdxhResult::c_name).as_ptr()
}

/// The name of a completion status. See the header.
///
/// # Safety
/// `text` is null or valid for reads and writes of `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_status_name(status: u64, text: *mut c_char, bytes: usize) -> usize {
    let name = Status::new(status).code().name().unwrap_or("unknown");
    // SAFETY: as the caller has promised, the buffer is as long as its count says and used by
    // no other code. the contract is that of this function; `c_char` and `u8` have the same size.
    if let Ok(room) = unsafe { buffer(text.cast(), bytes) }
        && let Some((last, room)) = room.split_last_mut()
    {
        *last = 0;
        room.fill(0);
        for (place, byte) in room.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
    }
    name.len()
}
