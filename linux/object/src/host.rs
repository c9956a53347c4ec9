//! A kernel without TDX host support: initializes the TDX module, then tracks its pages. One call
//! at a time: the C files hold a mutex, exclude CPU and memory hotplug and keep every CPU in VMX
//! operation.

use arrayvec::ArrayVec;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tdx_abi::{PageRange, PhysAddr};
use tdx_host::{
    bringup::BringupError,
    layout::{Layout, MapFrames},
    platform::{NodeId, NodeRange},
};

use crate::kernel::Linux;
use crate::nodes::{self, MAX_MEMORY, Memory, node_range};
use crate::roster::note_cpus;
use crate::{EINVAL, ENOMEM, HOST, log};

static TDS: AtomicU32 = AtomicU32::new(0);

/// TDs.
pub fn tds() -> u32 {
    TDS.load(Ordering::Relaxed)
}

/// Counts a TD, for `tds` in sysfs.
pub fn count_td() {
    TDS.fetch_add(1, Ordering::Relaxed);
}

/// What a bring-up needs besides the host, too large for a kernel stack.
struct Work<'p> {
    memory: ArrayVec<NodeRange, MAX_MEMORY>,
    /// The pool, if there is one.
    frames: Option<MapFrames<'p>>,
}

/// Size of the memory that [`cleanslate_bring_up`] works in.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_work_bytes() -> u64 {
    size_of::<Work<'_>>() as u64
}

/// Copies the memory map. False if it has too many ranges. Not inlined: its stack frame must be
/// gone when the bring-up begins.
///
/// # Safety
/// `work` is memory for a `Work`.
#[inline(never)]
unsafe fn note_memory<'p>(work: *mut Work<'p>, given: &[Memory], pool: &'p mut [NodeRange; 1]) -> bool {
    // SAFETY: the caller's; each field is written before the first reference to it.
    let memory = unsafe {
        (&raw mut (*work).memory).write(ArrayVec::new());
        (&raw mut (*work).frames).write(None);
        &mut (*work).memory
    };
    for part in given.iter().map(node_range).filter(|part| !part.range.is_empty()) {
        if memory.try_push(part).is_err() {
            log(format_args!("more than {MAX_MEMORY} memory ranges"));
            return false;
        }
    }
    if !pool[0].range.is_empty() {
        // PAMTs are only put where memory is. What is left of the pool is never given to a TD.
        let at = memory.partition_point(|part| part.range.start() < pool[0].range.start());
        pool[0].node = at.checked_sub(1).and_then(|before| memory.get(before)).map_or(NodeId(0), |before| before.node);
        if memory.try_insert(at, pool[0]).is_err() {
            return false;
        }
        crate::pool::set(pool[0].range);
        // SAFETY: as above; the field holds a value.
        unsafe { (*work).frames = Some(MapFrames::new(pool)) };
    }
    true
}

/// Initializes the TDX module. `memory` is all that TDs may get, ascending; `pool` is where PAMTs
/// go, or empty for the page allocator. 0, or a negative errno, after everything was undone; the
/// kernel log has the reason.
///
/// # Safety
/// `memory` points to `count` ranges, `work` to [`cleanslate_work_bytes`] bytes, aligned to 8, for
/// this call alone. The pool is for this object alone, and mapped by `cleanslate_map`. CPU and
/// memory hotplug are excluded, every online CPU is in VMX operation, and no other function of this
/// file runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_bring_up(
    memory: *const Memory,
    count: u32,
    pool: Memory,
    work: *mut c_void,
) -> i32 {
    let mut pool = [node_range(&pool)];
    let work = work.cast::<Work<'_>>();
    // SAFETY: the caller's.
    if !unsafe { note_memory(work, core::slice::from_raw_parts(memory, count as usize), &mut pool) } {
        return -EINVAL;
    }
    // SAFETY: the caller's; `note_memory` has made the value.
    let work = unsafe { &mut *work };
    // SAFETY: the caller's; `note_memory` has set the pool, and these are its only frames.
    let mut linux = unsafe { Linux::with_pool(work.frames.as_mut()) };
    nodes::note(work.memory.iter().copied());
    bring_up(&mut linux, &work.memory)
}

#[inline(never)]
fn bring_up(linux: &mut Linux<'_, '_>, memory: &[NodeRange]) -> i32 {
    if let Err(error) = HOST.bring_up(linux, memory) {
        return failed(&error);
    }
    note_cpus(linux);
    let kb = HOST.layout().map_or(0, Layout::pamt_kb);
    if let Some(module) = HOST.module() {
        log(format_args!("TDX module {} initialized, {kb} KB of PAMT may be private", module.version));
    }
    0
}

/// Logs the error. Its errno.
#[inline(never)]
fn failed(error: &BringupError) -> i32 {
    log(format_args!("{error}"));
    if error.errno() == -ENOMEM {
        log(format_args!(
            "PAMT needs 4108 KB of contiguous memory per GiB of TDMR: reserve it at boot (memmap=SIZE$BASE) and load this \
             module with pool_base=BASE pool_bytes=SIZE"
        ));
    }
    error.errno()
}

/// 64-bit words that [`cleanslate_track`] needs.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_track_words() -> u64 {
    HOST.tracking_words() as u64
}

/// Starts to track pages of TDs. 0, or a negative errno: a part of `words` may be in use then, too.
///
/// # Safety
/// `words` are as many words as [`cleanslate_track_words`] returns, for this object alone, and
/// never freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_track(words: *mut u64) -> i32 {
    // SAFETY: the caller's.
    let words = unsafe { core::slice::from_raw_parts_mut(words.cast::<AtomicU64>(), HOST.tracking_words()) };
    HOST.track(words).map_or(-EINVAL, |_| 0)
}

/// Is all of this memory in TDMRs? After a takeover there is no layout; the ledger covers them.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_covers(base: u64, end: u64) -> bool {
    let range = PageRange::inside(PhysAddr::new(base), PhysAddr::new(end));
    match HOST.layout() {
        Some(layout) => layout.tdmrs().iter().any(|tdmr| tdmr.range().contains_range(range)),
        None => HOST.ledger().is_some_and(|ledger| ledger.ranges().any(|covered| covered.contains_range(range))),
    }
}
