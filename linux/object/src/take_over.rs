//! Taking TDX over from an earlier kernel that has kept it: its table is read with nothing trusted,
//! and what it lists is this kernel's from then on. No SEAMCALL before `cleanslate_take_over_join`.

use arrayvec::ArrayVec;
use core::fmt::Display;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use tdx_abi::{KeyId, Page, PageRange, PhysAddr, subtract, union};
use tdx_host::{
    platform::{CpuTask, Cpus, Step},
    takeover::{Entry, TakeoverTable, WrittenBy},
};

use crate::cpu::ThisCpu;
use crate::keep::{self, CLEANSLATE_TAKEOVER_BYTES, HEADER};
use crate::kernel::Linux;
use crate::roster::{MAX_TDS, cpu_ids, has_tds_left, note_cpus, set_tds_left, tds, tsc_adjust};
use crate::{EINVAL, EIO, ENODEV, HOST, log, pool};

/// A copy of the earlier kernel's table, which is never freed. Null: nothing was taken over.
static COPY: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

fn table_in(copy: &[u8]) -> Option<TakeoverTable<'_>> {
    TakeoverTable::read(copy.get(HEADER..)?).ok()
}

/// The table that was taken over.
pub fn table() -> Option<TakeoverTable<'static>> {
    let copy = COPY.load(Ordering::Acquire);
    // SAFETY: not null: the copy of `cleanslate_take_over`, which does not change.
    (!copy.is_null()).then(|| unsafe { copy_at::<'static>(copy) }).and_then(table_in)
}

/// # Safety
/// `copy` points to so many bytes, which do not change and are not freed during `'c`.
unsafe fn copy_at<'c>(copy: *const u8) -> &'c [u8] {
    // SAFETY: the caller's.
    unsafe { core::slice::from_raw_parts(copy, CLEANSLATE_TAKEOVER_BYTES) }
}

fn refused<T>(why: &dyn Display) -> Option<T> {
    log(format_args!("takeover table refused: {why}"));
    None
}

/// The table of the kernel that was here before, if it is one for this kernel: of this pool, with
/// this number, and with all that may be private in the pool.
fn check(copy: &[u8], address: u64, bytes: u64, nonce: u64) -> Option<TakeoverTable<'_>> {
    let (header, rest) = copy.split_at_checked(HEADER)?;
    let (words, _) = header.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    if !words.take(4).eq(keep::header(address, nonce, bytes)) {
        return refused(&"there is none with this number, for this pool");
    }
    let table = match TakeoverTable::read(rest) {
        Ok(table) => table,
        Err(error) => return refused(&error),
    };
    let facts = &table.facts;
    if facts.written_by != WrittenBy::Kexec || facts.not_stopped > 0 || facts.may_hold_private_lines > 0 {
        return refused(&"caches may hold private lines");
    }
    let pool = PageRange::inside(
        PhysAddr::new(address + CLEANSLATE_TAKEOVER_BYTES as u64),
        PhysAddr::new(address.saturating_add(bytes)),
    );
    match subtract(union(table.pamts(), table.marked()), [pool]).next() {
        Some(outside) => refused(&format_args!("{outside} may be private and is not in the pool")),
        None => Some(table),
    }
}

/// Reads the table of the earlier kernel. Returns the 64-bit words that `cleanslate_take_over`
/// needs, or 0 after it has logged why the table is refused.
///
/// # Safety
/// `copy` is a copy of the first [`CLEANSLATE_TAKEOVER_BYTES`] bytes of the pool, which starts at
/// `address` and has `bytes` bytes. It does not change meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_take_over_words(copy: *const u8, address: u64, bytes: u64, nonce: u64) -> u64 {
    // SAFETY: the caller's.
    check(unsafe { copy_at(copy) }, address, bytes, nonce).map_or(0, |table| table.claim_words())
}

/// Makes this kernel the host of what the table lists: from here on a kexec or a crash resets it.
/// Wipes the table in the pool. 0, or a negative errno after the reason was logged.
///
/// # Safety
/// `copy` as for [`cleanslate_take_over_words`], which has returned the number of `words`: memory
/// for this object alone. Neither is written to or freed from here on, whatever this returns. This
/// kernel has used nothing of the pool. Once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_take_over(copy: *const u8, address: u64, bytes: u64, words: *mut u64) -> i32 {
    // SAFETY: the caller's.
    let Some(table) = table_in(unsafe { copy_at::<'static>(copy) }) else { return -EINVAL };
    // SAFETY: the caller's.
    let words = unsafe { core::slice::from_raw_parts_mut(words.cast::<AtomicU64>(), table.claim_words() as usize) };
    // SAFETY: the caller's: the table says that all caches were written back and that it was
    // written by an orderly kexec; all that it lists is in the pool, which nobody uses.
    if let Err(error) = unsafe { HOST.take_over(&table, words) } {
        refused::<()>(&error);
        return -EINVAL;
    }
    pool::set(PageRange::inside(
        PhysAddr::new(address + CLEANSLATE_TAKEOVER_BYTES as u64),
        PhysAddr::new(address.saturating_add(bytes)),
    ));
    set_tds_left(true);
    COPY.store(copy.cast_mut(), Ordering::Release);
    keep::wipe();
    0
}

/// Counts CPUs whose IA32_TSC_ADJUST is not the table's.
struct Compare<'t> {
    table: &'t TakeoverTable<'static>,
    other_tsc: AtomicU32,
}

impl CpuTask<ThisCpu> for Compare<'_> {
    type Local = ();

    fn step(&self, _cpu: &ThisCpu, (): &mut ()) -> Step {
        self.other_tsc.fetch_add(u32::from(tsc_adjust() != self.table.facts.tsc_adjust), Ordering::Relaxed);
        Step::Done
    }
}

/// TDX is up: every CPU is in VMX operation. Compares CPUs with the table; makes no SEAMCALL. 0, or
/// a negative errno after the reason was logged.
///
/// CPU hotplug is excluded.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_take_over_join() -> i32 {
    let Some(table) = table() else { return -ENODEV };
    let linux = Linux::without_pool();
    note_cpus(&linux);
    let listed = table.entries().filter_map(|entry| if let Entry::Cpu(id) = entry { Some(id) } else { None });
    if !listed.eq(cpu_ids()) {
        log(format_args!("TDX not taken over: the CPUs that are online are not those of the earlier kernel"));
        return -EINVAL;
    }
    let compare = Compare { table: &table, other_tsc: AtomicU32::new(0) };
    linux.run_on_all(&compare);
    if compare.other_tsc.into_inner() > 0 {
        log(format_args!("TDX not taken over: IA32_TSC_ADJUST has changed"));
        return -EINVAL;
    }
    let pages = HOST.ledger().map_or(0, tdx_host::ledger::Ledger::marked_pages);
    log(format_args!("TDX taken over and not initialized again: {} TDs, {pages} pages of TDs", table.tds()));
    0
}

/// What `cleanslate_vacuum` has done.
#[repr(C)]
#[derive(Default)]
pub struct Vacuumed {
    /// TDs that are gone.
    pub tds: u64,
    /// 4 KiB pages that were given back, clean.
    pub pages: u64,
    /// 4 KiB pages that are still private.
    pub left: u64,
}

/// Tears down every TD of the earlier kernel that was not adopted. 0, or a negative errno: -ENODEV,
/// if there is nothing to tear down; -EIO, if a call failed, whose reason is logged.
///
/// # Safety
/// `done` can be written. Every CPU is in VMX operation, CPU hotplug is excluded, and no TD is used
/// meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_vacuum(done: *mut Vacuumed) -> i32 {
    let (Some(table), Some(host), true) = (table(), HOST.tds(), has_tds_left()) else { return -ENODEV };
    let keys = table.entries().filter_map(|entry| match entry {
        Entry::Td { tdr, key_id: Some(key), .. } => Some::<(Page, KeyId)>((tdr, key)),
        _ => None,
    });
    let adopted: ArrayVec<Page, MAX_TDS> = tds().map(|td| td.tdr).collect();
    // SAFETY: after `take_over`, and no TD is built before this has been done (`has_tds_left`):
    // those in the list were adopted. The keys are the table's.
    let vacuumed = unsafe { host.vacuum(&Linux::without_pool(), &keys, &adopted, |_| ()) };
    // SAFETY: the caller's.
    unsafe { done.write(Vacuumed { tds: vacuumed.tds, pages: vacuumed.pages, left: vacuumed.left }) };
    if let Some(error) = vacuumed.error {
        log(format_args!("a TD of the earlier kernel stays: {error}"));
        return -EIO;
    }
    set_tds_left(false);
    let Vacuumed { tds, pages, left } = Vacuumed { tds: vacuumed.tds, pages: vacuumed.pages, left: vacuumed.left };
    log(format_args!("{tds} TDs of the earlier kernel torn down, {pages} pages reset, {left} are still private"));
    0
}
