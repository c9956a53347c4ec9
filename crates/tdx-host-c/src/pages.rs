//! Pages on their way to the module and back. Mark, SEAMCALL and answer are one function where they
//! can be, and single steps for a kernel whose SEAMCALLs stand elsewhere. The only way to an
//! ordinary page is through the reset.

use tdx_abi::{PageRange, Registers};
use tdx_host::ledger::{Ledger, MarkError, PageState};
use tdx_host::platform::Cpu;
use tdx_host::reset::reset_ranges;
use tdx_host::seamcall::call_unchecked;

use crate::cpu::PinnedCpu;
use crate::error::{Details, TdxhError};
use crate::host::{Host, TdxhHost};
use crate::range::TdxhRange;
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhReturning, content, input};

/// Host, ledger, pages and the place for details: what each function here begins with.
struct Pages<'h> {
    host: &'h Host,
    ledger: &'h Ledger<'static>,
    range: PageRange,
    details: Details,
}

impl Pages<'_> {
    /// # Safety
    /// `host` was initialized; `error` is null or valid for a write.
    unsafe fn new(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> Outcome<Self> {
        // SAFETY: the contracts are the same.
        let (host, details) = unsafe { (Host::of(host)?, Details::new(error)) };
        let range = TdxhRange { start, end }.some_pages()?;
        Ok(Self { host, ledger: host.ledger().ok_or(TdxhResult::NoLedger)?, range, details })
    }

    fn marked(&self, result: Result<(), MarkError>) -> Outcome {
        result.map_err(|error| self.details.fill((&error).into(), &error))
    }

    /// A dirty line of the host that is evicted later would land on the module's data.
    fn give<C: Cpu>(&self, cpu: &C) -> Outcome {
        // SAFETY: the pages are the caller's (contract of `tdxh_give`), and in a TDMR.
        unsafe { cpu.flush_lines(self.range.lines()) };
        cpu.fence();
        // SAFETY: as above, and they hold nothing that anyone needs.
        self.marked(unsafe { self.ledger.give(self.range) })
    }

    /// The SEAMCALL, its answer written to `registers`.
    ///
    /// # Safety
    /// `registers` is valid for a write.
    unsafe fn seamcall<C: Cpu>(&self, cpu: &C, input: Registers, registers: *mut Registers) -> Outcome {
        // SAFETY: the contract of the function that C calls.
        let (answer, result) = match unsafe { call_unchecked(cpu, input) } {
            Ok(answer) => (answer, Ok(())),
            Err(error) => (error.registers, Err(self.details.seamcall(&error))),
        };
        // SAFETY: by the contract of this function.
        unsafe { registers.write(answer) };
        result
    }
}

/// Shared -> InFlight. See the header.
///
/// # Safety
/// `host` was initialized; `error` is null or valid for a write. The pages are the caller's and
/// hold nothing that anyone needs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_give(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that `tdxh_host_init` has filled, and
    // the place for details is null or can be written.
    let pages = unsafe { Pages::new(host, start, end, error) };
    flat(pages.and_then(|pages| pages.give(&PinnedCpu::new(pages.host))))
}

/// InFlight -> Private. See the header.
///
/// # Safety
/// As [`tdxh_give`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_commit(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that `tdxh_host_init` has filled, and
    // the place for details is null or can be written.
    let pages = unsafe { Pages::new(host, start, end, error) };
    flat(pages.and_then(|pages| {
        // SAFETY: the caller's promise.
        pages.marked(unsafe { pages.ledger.commit(pages.range) })
    }))
}

/// InFlight -> Returned. See the header.
///
/// # Safety
/// As [`tdxh_give`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_abort(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that `tdxh_host_init` has filled, and
    // the place for details is null or can be written.
    let pages = unsafe { Pages::new(host, start, end, error) };
    flat(pages.and_then(|pages| {
        // SAFETY: the caller's promise.
        pages.marked(unsafe { pages.ledger.abort(pages.range) })
    }))
}

/// Private -> Returned. See the header.
///
/// # Safety
/// As [`tdxh_give`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_reclaim(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that `tdxh_host_init` has filled, and
    // the place for details is null or can be written.
    let pages = unsafe { Pages::new(host, start, end, error) };
    flat(pages.and_then(|pages| {
        // SAFETY: the caller's promise.
        pages.marked(unsafe { pages.ledger.reclaim(pages.range) })
    }))
}

/// Returned -> Shared, by way of MOVDIR64B and a fence. See the header.
///
/// # Safety
/// As [`tdxh_give`]. No cache holds a line of the pages under a private KeyID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_reset(host: *mut TdxhHost, start: u64, end: u64, error: *mut TdxhError) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that `tdxh_host_init` has filled, and
    // the place for details is null or can be written.
    let pages = unsafe { Pages::new(host, start, end, error) };
    flat(pages.and_then(|pages| {
        // First, so that a page in use or still the module's is never written.
        pages.marked(pages.ledger.check(pages.range, PageState::Returned))?;
        let cpu = PinnedCpu::new(pages.host);
        // SAFETY: returned pages hold nothing that anyone needs; caches are the caller's promise.
        unsafe { reset_ranges(&cpu, [pages.range]) };
        // SAFETY: reset and fenced in the line before.
        pages.marked(unsafe { pages.ledger.unmark(pages.range) })
    }))
}

/// Marks, calls, and enters the answer. See the header.
///
/// # Safety
/// As [`tdxh_give`]; `registers` is valid for reads and writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_seamcall_giving(
    host: *mut TdxhHost,
    registers: *mut Registers,
    start: u64,
    end: u64,
    error: *mut TdxhError,
) -> TdxhResult {
    let give = || -> Outcome {
        // SAFETY: as the caller has promised, inputs can be read and the host is storage that
        // `tdxh_host_init` has filled, and the place for details is null or can be written.
        let (pages, input) = unsafe { (Pages::new(host, start, end, error)?, *input(registers)?) };
        let cpu = PinnedCpu::new(pages.host);
        pages.give(&cpu)?;
        // SAFETY: `input` has found the pointer usable; valid for writes by contract.
        match unsafe { pages.seamcall(&cpu, input, registers) } {
            // SAFETY: the call has succeeded.
            Ok(()) => pages.marked(unsafe { pages.ledger.commit(pages.range) }),
            // A failed call may have made the pages private.
            // SAFETY: the call has failed.
            Err(failed) => pages.marked(unsafe { pages.ledger.abort(pages.range) }).and(Err(failed)),
        }
    };
    flat(give())
}

/// Calls, and enters which pages came back. See the header.
///
/// # Safety
/// As [`tdxh_seamcall_giving`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_seamcall_returning(
    host: *mut TdxhHost,
    registers: *mut Registers,
    start: u64,
    end: u64,
    error: *mut TdxhError,
) -> TdxhResult {
    let take = || -> Outcome {
        // SAFETY: as the caller has promised, inputs can be read and the host is storage that
        // `tdxh_host_init` has filled, and the place for details is null or can be written.
        let (pages, input) = unsafe { (Pages::new(host, start, end, error)?, *input(registers)?) };
        pages.marked(pages.ledger.check(pages.range, PageState::Private))?;
        let cpu = PinnedCpu::new(pages.host);
        let returning = pages.ledger.returning();
        // SAFETY: `input` has found the pointer usable; valid for writes by contract.
        let called = unsafe { pages.seamcall(&cpu, input, registers) };
        // SAFETY: the call has succeeded.
        let entered = called.and_then(|()| pages.marked(unsafe { pages.ledger.reclaim(pages.range) }));
        // A call that failed has returned nothing; an answer that could not be entered is one that
        // nobody knows.
        if called.is_err() || entered.is_ok() {
            returning.settled();
        }
        entered
    };
    flat(take())
}

/// A SEAMCALL that returns pages is about to be made. See the header.
///
/// # Safety
/// `host` was initialized; `returning` is storage as [`crate::Opaque`] wants it; the ledger stays
/// in use until it is settled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_returning_begin(host: *mut TdxhHost, returning: *mut TdxhReturning) -> TdxhResult {
    let begin = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled and opaque objects are storage that was zeroed or that this
        // library has filled. the contracts are those of this function; hosts live as long as the
        // machine.
        let (host, returning): (&'static Host, _) = unsafe { (Host::of(host)?, content(returning)?) };
        let ledger = host.ledger().ok_or(TdxhResult::NoLedger)?;
        returning.init(|| ledger.returning())
    };
    flat(begin())
}

/// The ledger has its answer. See the header.
///
/// # Safety
/// As [`tdxh_returning_begin`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_returning_settle(returning: *mut TdxhReturning) -> TdxhResult {
    let settle = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        let returning = unsafe { content(returning) }?;
        returning.remove()?.settled();
        Ok(())
    };
    flat(settle())
}
