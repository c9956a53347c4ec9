//! Keeping TDX for the next kernel (`policy=keep`): where the takeover table goes, and the handover
//! that resets nothing of the TDs. All that may be private lies in the pool, which the next kernel
//! does not use before it has read the table.

use arrayvec::ArrayVec;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use tdx_abi::{Page, PhysAddr, subtract};
use tdx_host::{
    handover::{HandoverReport, Kexec, Outcome, StopCpus, Stopped},
    takeover::{TakeoverFacts, WrittenBy},
};

use crate::cpu::ThisCpu;
use crate::roster::{MAX_TDS, cpu_ids, has_tds_left, tds, tsc_adjust};
use crate::{HOST, line, pool, shim};

/// Bytes at the start of the pool for the takeover table, its header of this module included.
pub const CLEANSLATE_TAKEOVER_BYTES: usize = 65536;

/// The header of this module, ahead of the table: mark, number of the kernel's, pool.
pub(crate) const HEADER: usize = 64;
const MARK: u64 = u64::from_le_bytes(*b"CLNTAKE1");
/// In place of the mark: there is no table, because nothing private was left.
const MARK_RESET: u64 = u64::from_le_bytes(*b"CLNRESET");
/// 64-bit words at the start of the pool that are wiped: both headers.
const WIPED: usize = 512;

/// The table: its physical address, 0 for none; the number that the next kernel must name; and the
/// bytes of the pool, from the table on.
static PLACE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// TDX was kept for the next kernel: what is left for this one is the jump.
static KEPT: AtomicBool = AtomicBool::new(false);

/// Sets the place of the table: the start of the pool, which is `bytes` long. The next kernel must
/// name `nonce`. Before the bring-up.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_keep_place(address: u64, bytes: u64, nonce: u64) {
    for (place, value) in PLACE.iter().zip([address, nonce, bytes]) {
        place.store(value, Ordering::Relaxed);
    }
}

/// Pages of TDs come from the pool.
pub fn is_wanted() -> bool {
    place()[0] != 0
}

fn place() -> [u64; 3] {
    PLACE.each_ref().map(|value| value.load(Ordering::Relaxed))
}

/// The words of this module's header.
pub(crate) fn header(address: u64, nonce: u64, bytes: u64) -> [u64; 4] {
    [MARK, nonce, address, bytes]
}

/// May a page outside the pool be private?
fn is_outside() -> bool {
    subtract(HOST.memory().private_ranges(), [pool::range()]).next().is_some()
}

/// Why TDX cannot be kept, as far as memory is concerned, or null. From any context.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_keep_refusal() -> *const c_char {
    let why: Option<&CStr> = if !is_wanted() {
        Some(c"the module was loaded without policy=keep")
    } else if HOST.tds().is_none() {
        Some(c"TDX is not initialized")
    } else if has_tds_left() {
        Some(c"TDs of the earlier kernel were neither adopted nor torn down")
    } else if is_outside() {
        Some(c"memory outside the pool may be private")
    } else {
        None
    };
    why.map_or(core::ptr::null(), CStr::as_ptr)
}

/// The first word of the pool, or null without a place for tables.
fn start() -> *mut u64 {
    let address = place()[0];
    if address == 0 {
        return core::ptr::null_mut();
    }
    #[expect(clippy::cast_ptr_alignment, reason = "the address of a page")]
    // SAFETY: the start of the pool, which has a mapping as long as this object is in use.
    let start = unsafe { shim::map(PhysAddr::new(address)) }.cast::<u64>();
    start
}

/// Writes words at the start of the pool. From any context: a crash may come here while another
/// function of this file is at work, and that one never goes on.
fn put(words: impl Iterator<Item = u64>) {
    let start = start();
    if start.is_null() {
        return;
    }
    for (at, word) in words.take(WIPED).enumerate() {
        // SAFETY: the mapping has CLEANSLATE_TAKEOVER_BYTES there at least, for tables alone. No
        // reference to these words is in use: `write` alone makes one, to what is behind this
        // module's header, when all other CPUs have stopped; if a crash interrupts it, its code
        // does not run again.
        unsafe { start.add(at).write_volatile(word) };
    }
}

/// Wipes a table that stands in the pool: what it says is about to be untrue.
pub(crate) fn wipe() {
    KEPT.store(false, Ordering::SeqCst);
    put(core::iter::repeat_n(0, WIPED));
}

/// Says to the next kernel that no private memory is left, so that it does not look for a table.
/// Right before the jump, when that is so.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_keep_write_reset() {
    wipe();
    let [address, nonce, bytes] = place();
    put([MARK_RESET, nonce, address, bytes].into_iter());
}

/// Something else: nobody has used it for tables, or it was overwritten.
pub const CLEANSLATE_POOL_OTHER: u32 = 0;
/// Zeros: a table was wiped, or there was none.
pub const CLEANSLATE_POOL_EMPTY: u32 = 1;
/// The kernel before says that it has left nothing private.
pub const CLEANSLATE_POOL_RESET: u32 = 2;
/// A takeover table.
pub const CLEANSLATE_POOL_TABLE: u32 = 3;

/// What stands at the start of the pool: one of the four above.
///
/// # Safety
/// `start` points to the first 64 bytes of the pool, or a copy of them; nobody writes there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_pool_start(start: *const u8) -> u32 {
    // SAFETY: the caller's.
    let header = unsafe { core::slice::from_raw_parts(start, HEADER) };
    match header.first_chunk().map(|mark| u64::from_le_bytes(*mark)) {
        Some(MARK) => CLEANSLATE_POOL_TABLE,
        Some(MARK_RESET) => CLEANSLATE_POOL_RESET,
        _ if header.iter().all(|byte| *byte == 0) => CLEANSLATE_POOL_EMPTY,
        _ => CLEANSLATE_POOL_OTHER,
    }
}

/// Why a kernel with this command line could use the pool before this module is loaded there, or
/// null. From any context.
///
/// # Safety
/// `line` points to `length` bytes, which do not change meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_line_refusal(
    line: *const u8,
    length: usize,
    base: u64,
    bytes: u64,
) -> *const c_char {
    // SAFETY: the caller's.
    let line = unsafe { core::slice::from_raw_parts(line, length) };
    line::refusal(line, base, bytes).map_or(core::ptr::null(), CStr::as_ptr)
}

/// Has this kernel TDs that a CPU may hold a VCPU of? Then no CPU may leave VMX operation before
/// the handover, which flushes them.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_keep_has_vcpus() -> bool {
    is_wanted() && tds().any(|td| td.vcpu.is_some())
}

/// TDX was kept, and nothing is left to be done before the jump.
pub(crate) fn is_kept() -> bool {
    KEPT.load(Ordering::SeqCst)
}

fn facts() -> Option<TakeoverFacts> {
    Some(TakeoverFacts {
        written_by: WrittenBy::Kexec,
        tsc_adjust: tsc_adjust(),
        tsc: shim::tsc(),
        global_key_id: HOST.platform()?.global_key_id(),
        not_stopped: 0,
        may_hold_private_lines: 0,
    })
}

fn write_table(table: &mut [u8], facts: &TakeoverFacts) -> bool {
    first_kernel::write_takeover(table, &HOST, facts, cpu_ids(), tds()).is_ok()
}

/// Has a table room for what it would list now? `scratch` is overwritten.
///
/// # Safety
/// `scratch` points to [`CLEANSLATE_TAKEOVER_BYTES`] bytes, for this call alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_keep_fits(scratch: *mut u8) -> bool {
    // SAFETY: the caller's.
    let table = unsafe { core::slice::from_raw_parts_mut(scratch, CLEANSLATE_TAKEOVER_BYTES - HEADER) };
    facts().is_some_and(|facts| write_table(table, &facts))
}

/// Writes the table, and its header last. False if there is no room.
fn write(facts: &TakeoverFacts) -> bool {
    let start = start();
    if start.is_null() {
        return false;
    }
    let behind = start.cast::<u8>().wrapping_add(HEADER);
    // SAFETY: the pool's mapping has it, and nothing but tables is there. All other CPUs have
    // stopped, interrupts are off, and this is the only reference; `put`, which a crash may call
    // meanwhile, ends this code.
    let table = unsafe { core::slice::from_raw_parts_mut(behind, CLEANSLATE_TAKEOVER_BYTES - HEADER) };
    if !write_table(table, facts) {
        return false;
    }
    compiler_fence(Ordering::SeqCst);
    let [address, nonce, pool] = place();
    put(header(address, nonce, pool).into_iter());
    true
}

/// The steps of a kexec that keeps TDX, once the other CPUs have stopped: VP.FLUSH of this kernel's
/// VCPUs, caches, what no TD needs, the table.
///
/// # Errors
/// Why private memory must be reset after all.
pub(crate) fn leave<P: StopCpus<Cpu = ThisCpu>>(
    stopped: Kexec<'_, Stopped<'_, P>>,
) -> Result<HandoverReport, &'static CStr> {
    // A TD without a KeyID has none to flush.
    let alive = tds().filter(|td| td.key_id.is_some());
    let vcpus: ArrayVec<Page, MAX_TDS> = alive.filter_map(|td| td.vcpu).collect();
    let report = stopped.flush_vcpus(&vcpus).write_back_caches().reset();
    let Outcome::Kept(_) = report.outcome else { return Err(c"there was nothing to keep") };
    if report.suspects.not_stopped > 0 || report.suspects.may_hold_private_lines > 0 {
        return Err(c"a CPU may hold private lines");
    }
    if is_outside() {
        return Err(c"memory outside the pool may be private");
    }
    if !write(&facts().ok_or(c"there is no TDX")?) {
        return Err(c"the takeover table has no room for so much");
    }
    KEPT.store(true, Ordering::SeqCst);
    Ok(report)
}
