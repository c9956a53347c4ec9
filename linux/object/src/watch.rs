//! A kernel with TDX host support: PAMTs and pages of TDs from the operands of its SEAMCALLs. Makes
//! no SEAMCALL.

use arrayvec::ArrayVec;
use core::ffi::{CStr, c_char, c_void};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use tdx_abi::{
    Leaf, MAX_TDMRS, Page, PageRange, PageSize, PamtEntry, PamtPageType, PhysAddr, Registers, SYS_CONFIG_DYNAMIC_PAMT,
    TDMR_GRANULARITY, TdmrInfo, pamt_bitmap_bytes, pamt_bytes,
};
use tdx_host::{
    follow::{self, ModuleEvent, Moves, NotFollowed, PageRefs},
    host::MAX_PAMT_RANGES,
    ledger::Ledger,
    platform::{CpuId, LineReset},
};

use crate::cpu::ThisCpu;
use crate::handover::seamcall_is_made;
use crate::nodes::{self, Memory};
use crate::pages::{
    CLEANSLATE_PAGES_GUEST, CLEANSLATE_PAGES_KINDS, CLEANSLATE_PAGES_PAMT_PAIR, CLEANSLATE_PAGES_SEPT,
    CLEANSLATE_PAGES_TDCX, CLEANSLATE_PAGES_TDR, CLEANSLATE_PAGES_TDVPR, Pages, kind,
};
use crate::{EINVAL, HOST, cleanslate_is_private, log, pamt_kb, shim};

/// PAMTs that the kernel is about to give to the TDX module, before they are published.
static PENDING: [(AtomicU64, AtomicU64); MAX_PAMT_RANGES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_PAMT_RANGES];
static COUNT: AtomicU32 = AtomicU32::new(0);
/// A SYS.CONFIG was not understood: what is pending must not be published.
static UNUSABLE: AtomicBool = AtomicBool::new(false);

/// Notes a PAMT. False if there are too many, or it is no range of pages. The caller is alone: the
/// kernel makes SYS.CONFIG under a lock, once.
fn note_pamt(base: u64, bytes: u64) -> bool {
    if PageRange::from_base_size(PhysAddr::new(base), bytes).is_err() || bytes == 0 {
        return false;
    }
    let index = COUNT.load(Ordering::Relaxed);
    // The kernel repeats a SYS.CONFIG that has failed for lack of entropy.
    let same = |(start, end): &(AtomicU64, AtomicU64)| {
        (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)) == (base, base + bytes)
    };
    if PENDING.iter().take(index as usize).any(same) {
        return true;
    }
    let Some((start, end)) = PENDING.get(index as usize) else { return false };
    start.store(base, Ordering::Relaxed);
    end.store(base + bytes, Ordering::Relaxed);
    COUNT.store(index + 1, Ordering::Release);
    true
}

const LEVELS: [PageSize; 3] = [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K];

/// Notes the PAMTs of a TDMR.
fn note_tdmr(tdmr: &TdmrInfo) -> bool {
    LEVELS.into_iter().all(|level| {
        let (base, bytes) = tdmr.pamt(level);
        note_pamt(base, bytes)
    })
}

/// Bits that the bitmap of Dynamic PAMT has for each page: the one value of
/// PAMT_PAGE_BITMAP_ENTRY_BITS that is known.
const BITMAP_BITS: u16 = 1;

/// Does every PAMT of this TDMR have the size that the specification gives it? With Dynamic PAMT a
/// bitmap stands in for PAMT_4K. Memory that is no TDMR_INFO does not pass.
fn is_sane(tdmr: &TdmrInfo, dynamic: bool) -> bool {
    let aligned =
        tdmr.size > 0 && tdmr.base.is_multiple_of(TDMR_GRANULARITY) && tdmr.size.is_multiple_of(TDMR_GRANULARITY);
    let size = |level| match level {
        PageSize::Size4K if dynamic => pamt_bitmap_bytes(tdmr.size, BITMAP_BITS),
        _ => pamt_bytes(tdmr.size, level, size_of::<PamtEntry>() as u16),
    };
    aligned && LEVELS.into_iter().all(|level| Some(tdmr.pamt(level).1) == size(level))
}

/// Notes the PAMTs of all TDMRs that SYS.CONFIG names.
///
/// # Safety
/// `call` is a SYS.CONFIG that the kernel is about to make: RCX is the address of an array of RDX
/// addresses of TDMR_INFO structures, all in the direct map.
unsafe fn note_config(call: &Registers) -> Result<(), &'static CStr> {
    if call.rdx > MAX_TDMRS as u64 {
        return Err(c"TDH.SYS.CONFIG with too many TDMRs");
    }
    // SAFETY: the caller's.
    let pointers = unsafe { shim::map(PhysAddr::new(call.rcx)) }.cast::<[u8; 8]>();
    for index in 0..call.rdx as usize {
        // SAFETY: the caller's; a TDMR_INFO is plain old data.
        let tdmr = unsafe {
            let address = u64::from_le_bytes(pointers.add(index).read());
            shim::map(PhysAddr::new(address)).cast::<TdmrInfo>().read_unaligned()
        };
        if !note_tdmr(&tdmr) {
            return Err(c"malformed PAMT in TDH.SYS.CONFIG");
        }
    }
    Ok(())
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

/// All PAMTs were named: from now on they may be private.
fn publish() {
    if !UNUSABLE.load(Ordering::Relaxed) {
        let named = Ascending { above: 0 };
        // Of two that overlap one is not in the list: as many must come out as went in.
        let count = named.clone().count();
        let complete = count > 0 && count == COUNT.load(Ordering::Acquire) as usize;
        // SAFETY: the kernel has allocated these for PAMT, and is about to give them to the TDX
        // module or has given them.
        if complete && unsafe { HOST.observe_pamts(named) }.is_ok() {
            log(format_args!("{} KB of PAMT may be private", pamt_kb()));
        } else {
            shim::lost(c"PAMTs overlap, or were configured before this module was loaded");
        }
    }
    shim::stay_loaded();
}

/// Notes that the caches of this CPU may hold private lines from now on.
///
/// # Safety
/// `cpu` is this CPU, and the caller stays on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_cpu_may_hold(cpu: u32) {
    // SAFETY: the caller's.
    let gate = unsafe { HOST.gate().cpu_gate(CpuId(cpu)) };
    // Any leaf that the gate does not exempt.
    gate.observed(Leaf::SYS_LP_INIT);
}

/// Learns the PAMTs of a kernel that has initialized TDX already, from its TDMRs. Null, or why they
/// are not accepted.
///
/// # Safety
/// `tdmrs` points to `count` structures, each `stride` bytes after the one before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_learn(tdmrs: *const c_void, count: u32, stride: u32) -> *const c_char {
    let all_fields = core::mem::offset_of!(TdmrInfo, reserved);
    if count as usize > MAX_TDMRS || (stride as usize) < all_fields {
        return c"TDX already initialized, unexpected tdx_tdmr_list".as_ptr();
    }
    // One at a time: all of them are larger than a kernel stack.
    let tdmr = |index: u32| {
        let mut tdmr = TdmrInfo::default();
        // SAFETY: the caller's; the fields before the reserved areas fit into `stride`, and into
        // `tdmr`, which is plain old data of this function's own.
        unsafe {
            let from = tdmrs.cast::<u8>().add(index as usize * stride as usize);
            (&raw mut tdmr).cast::<u8>().copy_from_nonoverlapping(from, all_fields);
        }
        tdmr
    };
    // SYS.CONFIG switches it on for all of them.
    let is_so = |dynamic: &bool| (0..count).all(|index| is_sane(&tdmr(index), *dynamic));
    let dynamic = [false, true].into_iter().find(is_so);
    let Some(dynamic) = dynamic.filter(|_| (0..count).all(|index| note_tdmr(&tdmr(index)))) else {
        return c"TDX already initialized, unexpected TDMR".as_ptr();
    };
    DYNAMIC_PAMT.store(dynamic, Ordering::Relaxed);
    publish();
    core::ptr::null()
}

static TDS: AtomicU32 = AtomicU32::new(0);
/// The module has Dynamic PAMT on: SYS.CONFIG said so, the kernel's TDMRs have bitmaps, or a
/// PHYMEM.PAMT.ADD has succeeded.
static DYNAMIC_PAMT: AtomicBool = AtomicBool::new(false);

/// Has the kernel's TDX Dynamic PAMT on? Then pages of PAMT come and go in pairs, and the ledger
/// has them.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_dynamic_pamt() -> bool {
    DYNAMIC_PAMT.load(Ordering::Relaxed)
}

/// TDs of the kernel.
pub fn tds() -> u32 {
    TDS.load(Ordering::Relaxed)
}

/// 4 KiB pages of the kernel's TDs, by kind. Signed: a page that was given before this module was
/// loaded may come back.
static PAGES: [AtomicI64; CLEANSLATE_PAGES_KINDS] = [const { AtomicI64::new(0) }; CLEANSLATE_PAGES_KINDS];

/// Kind of the pages that a leaf gives or returns, or `None` for pages of no TD. Of RECLAIM the
/// answer says it.
fn kind_of(leaf: Leaf, answer: &Registers) -> Option<usize> {
    match leaf {
        Leaf::MNG_CREATE => Some(CLEANSLATE_PAGES_TDR),
        Leaf::MNG_ADDCX | Leaf::VP_ADDCX => Some(CLEANSLATE_PAGES_TDCX),
        Leaf::VP_CREATE => Some(CLEANSLATE_PAGES_TDVPR),
        Leaf::MEM_SEPT_ADD | Leaf::MEM_SEPT_REMOVE | Leaf::MEM_PAGE_DEMOTE | Leaf::MEM_PAGE_PROMOTE => {
            Some(CLEANSLATE_PAGES_SEPT)
        }
        Leaf::MEM_PAGE_ADD | Leaf::MEM_PAGE_AUG | Leaf::MEM_PAGE_REMOVE | Leaf::MEM_PAGE_RELOCATE => {
            Some(CLEANSLATE_PAGES_GUEST)
        }
        Leaf::PHYMEM_PAMT_ADD | Leaf::PHYMEM_PAMT_REMOVE => Some(CLEANSLATE_PAGES_PAMT_PAIR),
        Leaf::PHYMEM_PAGE_RECLAIM => kind(PamtPageType(answer.rcx as u8)),
        _ => None,
    }
}

/// Counts the pages that a call has given and returned.
fn count_pages(call: &Registers, answer: &Registers, moves: &Moves<'_>, returned: &[PageRange]) {
    let leaf = call.leaf_call().leaf();
    let Some(kind) = kind_of(leaf, answer) else { return };
    // DEMOTE and PROMOTE move pairs of Dynamic PAMT, too: by these registers.
    let pairs = match leaf {
        Leaf::MEM_PAGE_DEMOTE => [call.r12, call.r13],
        Leaf::MEM_PAGE_PROMOTE => [answer.r12, answer.r13],
        _ => [u64::MAX; 2],
    };
    let add = |range: &PageRange, sign: i64| {
        let kind = if pairs.contains(&range.base().get()) { CLEANSLATE_PAGES_PAMT_PAIR } else { kind };
        if let Some(count) = PAGES.get(kind) {
            count.fetch_add(sign * range.pages().cast_signed(), Ordering::Relaxed);
        }
    };
    for (range, _) in moves.kept(answer).filter(|(_, kept)| *kept) {
        add(&range, 1);
    }
    for range in returned {
        add(range, -1);
    }
}

/// 4 KiB pages of the kernel's TDs by kind, as its SEAMCALLs have given and returned them. Makes no
/// SEAMCALL.
///
/// # Safety
/// `pages` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_observed_pages(pages: *mut Pages) {
    let count = PAGES.each_ref().map(|count| count.load(Ordering::Relaxed).max(0).cast_unsigned());
    // SAFETY: the caller's.
    unsafe { pages.write(Pages { count }) };
}

/// Ranges that contain every TDMR that the kernel can make of this memory: whole GiB, joined where
/// they touch, and where there are too many.
fn covered(memory: &[Memory]) -> ArrayVec<PageRange, MAX_TDMRS> {
    const GIB: u64 = TDMR_GRANULARITY;
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

/// Starts to track pages of the kernel's TDs. 0, or a negative errno.
///
/// # Safety
/// As [`cleanslate_follow_words`]; `words` are as many zeroed words as it returns, for this object
/// alone, and never freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_follow(words: *mut u64, memory: *const Memory, count: u32) -> i32 {
    // SAFETY: the caller's.
    let (ranges, words) = unsafe {
        let memory = core::slice::from_raw_parts(memory, count as usize);
        nodes::note(memory.iter().map(nodes::node_range));
        let ranges = covered(memory);
        let needed = Ledger::words_needed(ranges.iter().copied());
        (ranges, core::slice::from_raw_parts_mut(words.cast::<AtomicU64>(), needed as usize))
    };
    HOST.follow(ranges, words).map_or(-EINVAL, |_| 0)
}

/// Are pages of TDs tracked?
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_follows() -> bool {
    HOST.ledger().is_some()
}

/// Pages of TDs that were there before this module are being learned.
static LEARNING: AtomicBool = AtomicBool::new(false);

/// While this is on, pages of a SEAMCALL whose answer is seen are marked, also if its beginning was
/// not seen.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_set_learning(on: bool) {
    LEARNING.store(on, Ordering::SeqCst);
}

/// References of the kernel's page allocator.
pub struct Refs;

// SAFETY: a page with a reference is not freed, whoever drops another one.
unsafe impl PageRefs for Refs {
    fn hold(&self, page: Page) -> bool {
        shim::hold(page)
    }

    unsafe fn release(&self, page: Page) {
        // SAFETY: the caller's.
        unsafe { shim::release(page) };
    }
}

/// Reports what the ledger cannot track.
fn check(result: Result<(), NotFollowed>) {
    if let Err(error) = result {
        report(error);
    }
}

/// Tracking is lost because of this.
fn report(error: NotFollowed) {
    shim::lost(match error {
        NotFollowed::Outside(_) => c"page outside of the ledger given to the TDX module",
        NotFollowed::StillGiven(_) => c"page reset that the TDX module owns",
        NotFollowed::NotAllocated(_) => c"page given to the TDX module that is not allocated",
        _ => UNKNOWN_OPERANDS,
    });
}

/// Counts pages that a sweep has learned.
pub fn count_learned(page_type: PamtPageType, pages: u64) {
    if let Some(count) = kind(page_type).and_then(|kind| PAGES.get(kind)) {
        count.fetch_add(pages.cast_signed(), Ordering::Relaxed);
    }
    if page_type == PamtPageType::TDR {
        TDS.fetch_add(pages as u32, Ordering::Relaxed);
    }
}

/// Marks pages of a call whose answer is seen, and whose beginning may not have been: it was under
/// way when the probes were put in. And pages that it returns before the sweep has found them.
///
/// # Safety
/// The kernel has made the call, `answer` is its answer, and [`Moves::after`] follows.
unsafe fn learn(ledger: &Ledger<'_>, moves: &Moves<'_>, call: &Registers, answer: &Registers) {
    for range in moves.taken() {
        // SAFETY: the caller's: the call has given them.
        check(unsafe { follow::learn(ledger, range, false, &Refs) }.1);
    }
    if answer.status().is_error() {
        return;
    }
    for range in moves.returned(answer) {
        // SAFETY: the caller's: the call has returned them, and the kernel has not reset them yet.
        let (learned, result) = unsafe { follow::learn(ledger, range, true, &Refs) };
        // They are counted as returned next.
        if let Some(count) = kind_of(call.leaf_call().leaf(), answer).and_then(|kind| PAGES.get(kind)) {
            count.fetch_add(learned.cast_signed(), Ordering::Relaxed);
        }
        if call.leaf_call().leaf() == Leaf::PHYMEM_PAGE_RECLAIM && PamtPageType(answer.rcx as u8) == PamtPageType::TDR {
            TDS.fetch_add(learned as u32, Ordering::Relaxed);
        }
        check(result);
    }
}

/// A leaf, or a version of one, that `follow` does not know.
const UNKNOWN_OPERANDS: &CStr = c"SEAMCALL with unknown page operands";

fn moves(call: &Registers) -> Result<Moves<'_>, NotFollowed> {
    Moves::of(call, DYNAMIC_PAMT.load(Ordering::Relaxed))
}

/// Bits of RAX above the leaf and its version: a call of the P-SEAMLDR has them.
const NOT_THE_MODULE: u32 = 24;

/// The kernel is about to make this SEAMCALL on this CPU.
///
/// # Safety
/// `call` can be read. If it is a SYS.CONFIG, its operands are in the direct map.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_observe_seamcall(cpu: u32, call: *const Registers) {
    // SAFETY: the caller's.
    let call = unsafe { &*call };
    let leaf = call.leaf_call().leaf();
    seamcall_is_made();
    // SAFETY: in a probe on that CPU. The kernel makes the call whatever the gate says.
    unsafe { HOST.gate().cpu_gate(CpuId(cpu)) }.observed(leaf);
    let moves = moves(call);
    if call.rax >> NOT_THE_MODULE == 0 {
        match leaf {
            Leaf::SYS_CONFIG => {
                // A version that is not known may name its TDMRs in another way.
                let known = moves.map_err(|_| UNKNOWN_OPERANDS);
                DYNAMIC_PAMT.store(call.r8 & SYS_CONFIG_DYNAMIC_PAMT != 0, Ordering::Relaxed);
                // SAFETY: the caller's.
                if let Err(why) = known.and_then(|_| unsafe { note_config(call) }) {
                    UNUSABLE.store(true, Ordering::Relaxed);
                    shim::lost(why);
                }
                return;
            }
            Leaf::SYS_KEY_CONFIG => {
                if !cleanslate_is_private() {
                    publish();
                }
                return;
            }
            Leaf::SYS_TDMR_INIT => {
                if !cleanslate_is_private() {
                    shim::lost(c"module loaded during TDX initialization");
                }
                return;
            }
            Leaf::MNG_CREATE if HOST.ledger().is_none() => {
                shim::lost(c"TD created, but no page reset function found in this kernel");
            }
            _ => {}
        }
    }
    check(moves.and_then(|moves| match HOST.ledger() {
        // SAFETY: the kernel makes the call right after this, and has its pages.
        Some(ledger) => unsafe { moves.before(ledger, &Refs) },
        None => Ok(()),
    }));
}

/// The kernel has made this SEAMCALL on this CPU.
///
/// # Safety
/// Both can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_observe_return(cpu: u32, call: *const Registers, answer: *const Registers) {
    // SAFETY: the caller's.
    let (call, answer) = unsafe { (&*call, &*answer) };
    // It may be another CPU than the one on which the call was observed: Linux before 6.18 makes
    // SEAMCALLs with preemption on.
    // SAFETY: in a probe on that CPU.
    unsafe { HOST.gate().cpu_gate(CpuId(cpu)) }.observed(call.leaf_call().leaf());
    let Some(ledger) = HOST.ledger() else { return };
    match ModuleEvent::of(call, answer, cleanslate_is_private()) {
        Some(ModuleEvent::ShutDown) => log(format_args!("TDX module shut down, private memory stays tracked")),
        Some(ModuleEvent::Resumed) => log(format_args!("TDX module updated, private memory stays tracked")),
        Some(ModuleEvent::Forgot) => {
            // SAFETY: the module that SYS.CONFIG was made for knows no page of the one before.
            unsafe { follow::forgotten(ledger) };
            // The record of PAMTs has no room for a second set.
            shim::lost(c"TDX module replaced without a handoff");
        }
        _ => {}
    }
    // An unknown leaf or version was reported before the call.
    let Ok(moves) = moves(call) else { return };
    let failed = answer.status().is_error();
    match call.leaf_call().leaf() {
        Leaf::MNG_CREATE if !failed => {
            TDS.fetch_add(1, Ordering::Relaxed);
        }
        Leaf::PHYMEM_PAGE_RECLAIM if !failed && PamtPageType(answer.rcx as u8) == PamtPageType::TDR => {
            TDS.fetch_sub(1, Ordering::Relaxed);
        }
        // A module that has it off refuses.
        Leaf::PHYMEM_PAMT_ADD if !failed => DYNAMIC_PAMT.store(true, Ordering::Relaxed),
        _ => {}
    }
    if LEARNING.load(Ordering::SeqCst) {
        // SAFETY: the answer of the call, before the ledger takes it.
        unsafe { learn(ledger, &moves, call, answer) };
    }
    if !moves.is_any() {
        return;
    }
    // SAFETY: the answer of the call that `cleanslate_observe_seamcall` was called for.
    check(unsafe { moves.after(ledger, answer) }.map(|returned| count_pages(call, answer, &moves, &returned)));
}

/// Does the kernel's reset of pages: resets and fences them and clears their marks.
///
/// # Safety
/// The kernel owns the pages and is about to reset them. `cpu` is this CPU, and the caller stays on
/// it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_reset_pages(cpu: u32, base: u64, bytes: u64) {
    let range = PageRange::inside(PhysAddr::new(base), PhysAddr::new(base.saturating_add(bytes)));
    // SAFETY: the caller's: on that CPU, which it does not leave.
    let cpu = unsafe { ThisCpu::pinned_to(cpu) };
    // SAFETY: the kernel itself is about to clear these pages.
    let left = unsafe { cpu.reset_lines(tdx_abi::LineRange::touching(PhysAddr::new(base), bytes)) };
    cpu.fence();
    let Some(ledger) = HOST.ledger().filter(|_| left == 0) else { return };
    // SAFETY: the TDX module has returned the pages, or `reset` returns an error; reset and fenced
    // above.
    check(unsafe { follow::reset(ledger, range, &Refs) });
}

/// Pages that the kernel has freed and that may be private: only the reference of this module keeps
/// them out of the page allocator. Walks the ledger, and lets others run meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_kept_pages() -> u64 {
    let Some(ledger) = HOST.ledger() else { return 0 };
    let pages = ledger.marked().flat_map(|range| range.start().index()..range.end().index());
    let is_kept = |page: &u64| {
        shim::cond_resched();
        shim::is_only_held(Page::new(*page))
    };
    pages.filter(is_kept).count() as u64
}
