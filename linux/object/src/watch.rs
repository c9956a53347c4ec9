//! TDX that the kernel brings up by itself: PAMTs as SYS.CONFIG names them, and pages of its TDs as
//! each SEAMCALL moves them. Makes no SEAMCALL; it only listens.

use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tdx_abi::{Leaf, MAX_TDMRS, PageRange, PamtPageType, PhysAddr, Registers};
use tdx_host::{
    follow::{self, Moves, NotFollowed},
    ledger::Ledger,
    platform::{CpuId, LineReset},
    private_memory::MAX_PAMT_RANGES,
};

use crate::cpu::{GATE, ThisCpu};
use crate::host::Memory;
use crate::once::Once;
use crate::{EINVAL, RECORD, shim};

/// PAMTs that the kernel is about to give to the module, before they are published.
static PENDING: [(AtomicU64, AtomicU64); MAX_PAMT_RANGES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_PAMT_RANGES];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A PAMT `[base, base + bytes)` that SYS.CONFIG names. False if there are too many, or it is none.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_pamt(base: u64, bytes: u64) -> bool {
    if PageRange::from_base_size(PhysAddr::new(base), bytes).is_err() || bytes == 0 {
        return false;
    }
    // The kernel makes this call under a lock of its own, once.
    let index = COUNT.load(Ordering::Relaxed);
    let Some((start, end)) = PENDING.get(index as usize) else { return false };
    start.store(base, Ordering::Relaxed);
    end.store(base + bytes, Ordering::Relaxed);
    COUNT.store(index + 1, Ordering::Release);
    true
}

/// The pending PAMTs in ascending order: the least above the one before, again and again. There are
/// at most 192.
#[derive(Clone)]
struct Ascending {
    above: u64,
}

impl Iterator for Ascending {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let pending = PENDING.iter().take(COUNT.load(Ordering::Acquire) as usize);
        let ranges = pending.map(|(start, end)| (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)));
        let (start, end) = ranges.filter(|(start, _)| *start >= self.above).min()?;
        self.above = end;
        Some(PageRange::inside(PhysAddr::new(start), PhysAddr::new(end)))
    }
}

/// All PAMTs were named: from now on they may be private. 0, or a negative errno, also if none was;
/// then the handover cannot know what is private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_publish() -> i32 {
    let named = Ascending { above: 0 };
    // Two that overlap would make one vanish from the list: as many must come out as went in.
    let count = named.clone().count();
    if count == 0 || count != COUNT.load(Ordering::Acquire) as usize {
        return -EINVAL;
    }
    // SAFETY: the kernel has allocated these for PAMT, and is about to hand them to the module.
    unsafe { RECORD.publish(named) }.map_or(-EINVAL, |()| 0)
}

/// The kernel is about to make this SEAMCALL on this CPU: from now on its caches may hold private
/// lines.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_seamcall(cpu: u32, leaf: u64) {
    // The kernel makes the call whatever the gate says.
    // SAFETY: the shim runs this on that CPU, with preemption off.
    unsafe { GATE.cpu_gate(CpuId(cpu)) }.observed(Leaf(leaf as u16));
}

static FOLLOWED: Once<Ledger<'static>> = Once::new();
static TDS: AtomicU32 = AtomicU32::new(0);
/// PHYMEM.PAMT.ADD was seen: the module has dynamic PAMT on.
static DYNAMIC_PAMT: AtomicBool = AtomicBool::new(false);

/// Pages of the kernel's TDs.
pub fn ledger() -> Option<&'static Ledger<'static>> {
    FOLLOWED.get()
}

/// TDs that there are.
pub fn tds() -> u32 {
    TDS.load(Ordering::Relaxed)
}

/// Whatever TDMRs the kernel may make of this memory lie in these ranges: whole GiB, joined where
/// they touch, and where there are too many.
fn covered(memory: &[Memory]) -> ArrayVec<PageRange, MAX_TDMRS> {
    const GIB: u64 = 1 << 30;
    let mut ranges = ArrayVec::<PageRange, MAX_TDMRS>::new();
    for part in memory.iter().filter(|part| part.bytes > 0) {
        let (start, end) =
            (part.base / GIB * GIB, part.base.saturating_add(part.bytes).div_ceil(GIB).saturating_mul(GIB));
        let range = PageRange::inside(PhysAddr::new(start), PhysAddr::new(end));
        let full = ranges.is_full();
        match ranges.last_mut() {
            Some(last) if full || range.start() <= last.end() => {
                *last = PageRange::new(last.start(), last.end().max(range.end()));
            }
            _ => ranges.push(range),
        }
    }
    ranges
}

/// 64-bit words that the ledger over this memory needs.
///
/// # Safety
/// `memory` points to `count` ranges, ascending.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_follow_words(memory: *const Memory, count: u32) -> u64 {
    // SAFETY: the caller's.
    Ledger::words_needed(covered(unsafe { core::slice::from_raw_parts(memory, count as usize) }))
}

/// Storage for the ledger of the kernel's TDs. 0, or a negative errno.
///
/// # Safety
/// As [`cleanslate_follow_words`]; `words` are as many zeroed words as it says, which nobody else
/// uses and which are never freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_follow(words: *mut AtomicU64, memory: *const Memory, count: u32) -> i32 {
    // SAFETY: the caller's.
    let (ranges, words) = unsafe {
        let memory = core::slice::from_raw_parts(memory, count as usize);
        let ranges = covered(memory);
        let needed = Ledger::words_needed(ranges.iter().copied());
        (ranges, core::slice::from_raw_parts_mut(words, needed as usize))
    };
    if Ledger::new(ranges, words).is_ok_and(|ledger| FOLLOWED.set(ledger)) { 0 } else { -EINVAL }
}

/// As in `follow.c`. 0: nothing is wrong.
fn problem(result: Result<(), NotFollowed>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(NotFollowed::Outside(_)) => 2,
        Err(NotFollowed::StillGiven(_)) => 3,
        Err(_) => 1,
    }
}

fn moves(call: &Registers) -> Result<Moves, NotFollowed> {
    if call.leaf_call().leaf() == Leaf::PHYMEM_PAMT_ADD {
        DYNAMIC_PAMT.store(true, Ordering::Relaxed);
    }
    Moves::of(call, DYNAMIC_PAMT.load(Ordering::Relaxed))
}

/// The kernel is about to make this SEAMCALL. Gives the number of a problem, as `follow.c` has
/// them.
///
/// # Safety
/// `call` can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_before(call: *const Registers) -> u32 {
    let Some(ledger) = ledger() else { return 0 };
    // SAFETY: the caller's.
    let moves = moves(unsafe { &*call });
    // SAFETY: the kernel makes the call right after this.
    problem(moves.and_then(|moves| unsafe { moves.before(ledger) }))
}

/// The kernel has made this SEAMCALL. Gives the number of a problem.
///
/// # Safety
/// Both can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_after(call: *const Registers, answer: *const Registers) -> u32 {
    let Some(ledger) = ledger() else { return 0 };
    // SAFETY: the caller's.
    let (call, answer) = unsafe { (&*call, &*answer) };
    // A leaf that is not known was told of before the call.
    let Ok(moves) = moves(call) else { return 0 };
    let failed = answer.status().is_error();
    // Before the ledger says so: the kernel frees the page of a failed call when this returns, not
    // earlier.
    for range in moves.taken() {
        // A range is one folio, which its first page keeps.
        let page = range.start().index();
        if failed {
            // SAFETY: the kernel holds the page of a failed call until this returns.
            unsafe { shim::hold(page) };
        } else {
            // SAFETY: the kernel holds a page that it has given.
            unsafe { shim::release(page) };
        }
    }
    match call.leaf_call().leaf() {
        Leaf::MNG_CREATE if !failed => {
            TDS.fetch_add(1, Ordering::Relaxed);
        }
        Leaf::PHYMEM_PAGE_RECLAIM if !failed && PamtPageType(answer.rcx as u8) == PamtPageType::TDR => {
            TDS.fetch_sub(1, Ordering::Relaxed);
        }
        _ => {}
    }
    // SAFETY: the answer of the call that `cleanslate_before` was called for.
    problem(unsafe { moves.after(ledger, answer) }.map(drop))
}

/// The kernel wants these pages to be ordinary ones again: they are reset, fenced, and lose their
/// mark. Gives the number of a problem.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_reset(cpu: u32, base: u64, bytes: u64) -> u32 {
    let range = PageRange::inside(PhysAddr::new(base), PhysAddr::new(base.saturating_add(bytes)));
    // SAFETY: the shim runs this on that CPU, with preemption off.
    let cpu = unsafe { ThisCpu::pinned_to(cpu) };
    // SAFETY: the kernel itself clears these pages, and makes no SEAMCALL about them any more.
    unsafe { cpu.reset_lines(tdx_abi::LineRange::touching(PhysAddr::new(base), bytes)) };
    cpu.fence();
    let Some(ledger) = ledger() else { return 0 };
    // SAFETY: the module has returned the pages, or `reset` says so; reset and fenced above.
    let result = problem(unsafe { follow::reset(ledger, range) });
    for page in range.start().index()..range.end().index() {
        // SAFETY: ordinary memory from here on.
        unsafe { shim::release(page) };
    }
    result
}
