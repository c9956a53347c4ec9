//! TDX that this module brings up itself, in a kernel that has no code for it: bring-up, the
//! ledger, TDs for tests. The shim calls it under one mutex, with CPU and memory hotplug off and
//! every CPU in VMX operation.

use arrayvec::{ArrayString, ArrayVec};
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use first_kernel::TdPhase;
use tdx_abi::{PageRange, PhysAddr, TdxFeatures0};
use tdx_host::{
    bringup::{Bringup, BringupError, ModuleVersion},
    key_ids::KeyIds,
    layout::{FrameSource, Layout, MapFrames},
    ledger::Ledger,
    platform::{NodeId, NodeRange, TdxPlatform},
    td::TdHost,
};

use crate::kernel::{KernelPages, Linux};
use crate::once::{Once, Workplace};
use crate::{EINVAL, EIO, ENODEV, ENOMEM, EPERM, RECORD, platform, shim};

static LAYOUT: Workplace<Layout> = Workplace::new(Layout::new());
static LEDGER: Once<Ledger<'static>> = Once::new();
static KEY_IDS: Once<KeyIds<'static>> = Once::new();
static FEATURES: Once<TdxFeatures0> = Once::new();
static TDS: AtomicU32 = AtomicU32::new(0);

/// The layout, if this module has brought TDX up.
pub fn layout() -> Option<&'static Layout> {
    LAYOUT.get()
}

/// Pages of TDs that this module builds.
pub fn ledger() -> Option<&'static Ledger<'static>> {
    LEDGER.get()
}

/// What the module can do.
pub fn features() -> Option<TdxFeatures0> {
    FEATURES.get().copied()
}

/// TDs that were built.
pub fn tds() -> u32 {
    TDS.load(Ordering::Relaxed)
}

/// A line for the log, cut if it is too long.
fn say(arguments: core::fmt::Arguments<'_>) {
    let mut text = ArrayString::<256>::new();
    // What does not fit is cut.
    let _ = text.write_fmt(arguments);
    shim::say(&text);
}

/// A range of memory that the kernel uses, on a node.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
    /// The node.
    pub node: u32,
}

/// Ranges of memory at most.
const MAX_MEMORY: usize = 128;

static MEMORY: Workplace<ArrayVec<NodeRange, MAX_MEMORY>> = Workplace::new(ArrayVec::new_const());
static POOL: Workplace<Option<MapFrames<'static>>> = Workplace::new(None);
static POOL_MEMORY: Once<[NodeRange; 1]> = Once::new();

/// Memory that was reserved for PAMTs at boot, or an empty range.
pub fn pool() -> PageRange {
    POOL_MEMORY.get().map_or(PageRange::default(), |pool| pool[0].range)
}

/// Writes down what the shim says. False if it is too much. Not inlined: its frame must be gone
/// when the bring-up begins.
#[inline(never)]
fn note_memory(given: &[Memory], pool: Memory) -> bool {
    // SAFETY: `cleanslate_bring_up` runs once at a time and takes its own references later.
    let (memory, frames) = unsafe { (MEMORY.exclusive(), POOL.exclusive()) };
    let (Some(memory), Some(frames)) = (memory, frames) else { return false };
    memory.clear();
    for part in given.iter().map(node_range).filter(|part| !part.range.is_empty()) {
        if memory.try_push(part).is_err() {
            say(format_args!("more than {MAX_MEMORY} ranges of memory"));
            return false;
        }
    }
    let mut pool = node_range(&pool);
    if !pool.range.is_empty() {
        // PAMTs are only put where memory is. What is left of the pool is never given to a TD.
        let at = memory.partition_point(|part| part.range.start() < pool.range.start());
        pool.node = at.checked_sub(1).and_then(|before| memory.get(before)).map_or(NodeId(0), |before| before.node);
        if memory.try_insert(at, pool).is_err() {
            return false;
        }
    }
    POOL_MEMORY.set([pool]);
    *frames = POOL_MEMORY.get().filter(|pool| !pool[0].range.is_empty()).map(|pool| MapFrames::new(pool));
    true
}

/// Brings TDX up. `memory` is all that TDs may get, ascending; `pool` is where PAMTs go, or empty
/// for the kernel's allocator. 0, or a negative errno; what went wrong stands in the log, and
/// everything was undone.
///
/// # Safety
/// `memory` points to `count` ranges. Nobody else uses the pool, which is mapped as
/// `cleanslate_map` says. CPU and memory hotplug are off, every online CPU is in VMX operation, and
/// no other call into this file is under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_bring_up(memory: *const Memory, count: u32, pool: Memory) -> i32 {
    // SAFETY: the caller's.
    if !note_memory(unsafe { core::slice::from_raw_parts(memory, count as usize) }, pool) {
        return -EINVAL;
    }
    // SAFETY: one call at a time, and `note_memory` has returned.
    let (layout, memory, frames) = unsafe { (LAYOUT.exclusive(), MEMORY.exclusive(), POOL.exclusive()) };
    let (Some(platform), Some(layout), Some(memory), Some(frames)) = (platform(), layout, memory, frames) else {
        return -ENODEV;
    };
    match bring_up(&mut Linux { pool: frames.as_mut() }, *platform, layout, memory) {
        Ok(version) => {
            // SAFETY: the reference was used for the last time.
            unsafe { LAYOUT.publish() };
            let kb = LAYOUT.get().map_or(0, Layout::pamt_kb);
            say(format_args!("TDX module {version} is up, {kb} KB of PAMT may be private from now on"));
            0
        }
        Err(errno) => errno,
    }
}

#[inline(never)]
fn bring_up(
    linux: &mut Linux<'_>,
    platform: TdxPlatform,
    layout: &mut Layout,
    memory: &[NodeRange],
) -> Result<ModuleVersion, i32> {
    // SAFETY: this object's one record, and the platform that it runs on.
    let started = unsafe { Bringup::start(linux, platform, &RECORD, layout) };
    let module = started.and_then(|started| first_kernel::bring_up(started, memory)).map_err(|error| told(&error))?;
    FEATURES.set(module.features);
    Ok(module.version)
}

/// Says what went wrong, and gives its errno.
#[inline(never)]
fn told(error: &BringupError) -> i32 {
    say(format_args!("{error}"));
    if error.errno() == -ENOMEM {
        say(format_args!(
            "PAMT takes 4108 KB in one piece for each GiB of a TDMR: reserve memory at boot (memmap=SIZE$BASE) and load this module \
             with pool_base=BASE pool_bytes=SIZE"
        ));
    }
    error.errno()
}

fn node_range(memory: &Memory) -> NodeRange {
    let (start, end) = (PhysAddr::new(memory.base), PhysAddr::new(memory.base.saturating_add(memory.bytes)));
    NodeRange { range: PageRange::inside(start, end), node: NodeId(memory.node) }
}

/// 64-bit words that the ledger needs, and then those that the KeyIDs need.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_words(key_ids: bool) -> u64 {
    if key_ids { first_kernel::KEY_ID_WORDS as u64 } else { LAYOUT.get().map_or(0, first_kernel::ledger_words) }
}

/// Storage for the ledger and for the KeyIDs: from here on TDs can be built. 0, or a negative
/// errno.
///
/// # Safety
/// Both point to as many zeroed words as `cleanslate_words` says, which nobody else uses and which
/// are never freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_ledger(ledger: *mut AtomicU64, key_ids: *mut AtomicU64) -> i32 {
    // SAFETY: the caller's.
    let words = |first: *mut AtomicU64, keys| unsafe {
        core::slice::from_raw_parts_mut(first, cleanslate_words(keys) as usize)
    };
    if make_key_ids(words(key_ids, true)) && make_ledger(words(ledger, false)) { 0 } else { -EINVAL }
}

#[inline(never)]
fn make_key_ids(words: &'static mut [AtomicU64]) -> bool {
    platform().is_some_and(|platform| first_kernel::key_ids(platform, words).is_ok_and(|key_ids| KEY_IDS.set(key_ids)))
}

#[inline(never)]
fn make_ledger(words: &'static mut [AtomicU64]) -> bool {
    LAYOUT.get().is_some_and(|layout| first_kernel::ledger(layout, words).is_ok_and(|ledger| LEDGER.set(ledger)))
}

/// Is all of this memory in TDMRs?
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_covers(base: u64, end: u64) -> bool {
    let range = PageRange::inside(PhysAddr::new(base), PhysAddr::new(end));
    LAYOUT.get().is_some_and(|layout| layout.tdmrs().iter().any(|tdmr| tdmr.range().contains_range(range)))
}

/// Builds a TD and leaves it at a point of its life: 0 runnable, 1 half built, 2 gone, 3 half gone.
/// 0, or a negative errno; what went wrong stands in the log. What a TD holds at the end it holds
/// until the kexec.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_td(fate: u32) -> i32 {
    let phase = match fate {
        0 => TdPhase::Running,
        1 => TdPhase::HalfBuilt,
        2 => TdPhase::Gone,
        _ => TdPhase::HalfTornDown,
    };
    let (Some(platform), Some(ledger), Some(key_ids)) = (platform(), ledger(), KEY_IDS.get()) else { return -EPERM };
    let mut linux = Linux { pool: None };
    let Some(mut shared) = linux.allocate_any(1) else { return -ENOMEM };
    // SAFETY: the ledger is in `LEDGER`, where handovers look; the KeyIDs are the only ones.
    let host = unsafe { TdHost::new(platform, ledger, key_ids) };
    let lived = first_kernel::live(&mut linux, host, &KernelPages, &mut shared, phase);
    linux.free(shared);
    match lived {
        Ok(()) => {
            TDS.fetch_add(1, Ordering::Relaxed);
            say(format_args!("TD: {}; {} pages may be private", phase.name(), ledger.marked_pages()));
            0
        }
        Err(error) => {
            say(format_args!("TD: {error}"));
            -EIO
        }
    }
}
