//! A task of `tdx-host` as C sees it: a pointer that the kernel hands to its CPUs, and a few bytes
//! that each CPU keeps between its steps.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};
use tdx_host::platform::Step;

use crate::c_enum::c_enum;
use crate::storage::{input, is_usable};

c_enum! {
    /// What a CPU says after a step.
    pub enum TdxhWorkStep as "tdxh_work_step_result" {
        /// This CPU is done.
        Done = 0, "TDXH_WORK_DONE";
        /// There is more to do on this CPU.
        Again = 1, "TDXH_WORK_AGAIN";
    }
}

/// `struct tdxh_work`: lives on the stack of the function that made it, until the kernel's callback
/// returns.
#[derive(Debug)]
#[repr(C)]
pub struct TdxhWork {
    step: unsafe fn(&TdxhWork, &mut TdxhWorkLocal) -> Step,
    pub(crate) task: *const (),
    pub(crate) host: *const (),
    /// No other work ever has this number.
    pub(crate) id: u64,
}

impl TdxhWork {
    /// Each step of this work is a call of `step`.
    ///
    /// # Safety
    /// `step` may be called with this work, on any CPU, as long as the kernel's callback has not
    /// returned; and with a local that has been zeroed or that `step` was given before.
    pub(crate) unsafe fn new(
        step: unsafe fn(&TdxhWork, &mut TdxhWorkLocal) -> Step,
        task: *const (),
        host: *const (),
    ) -> Self {
        Self { step, task, host, id: NEXT_WORK.fetch_add(1, Ordering::Relaxed) }
    }
}

/// Bytes for what a CPU keeps between its steps.
pub(crate) const LOCAL_BYTES: usize = 1008;

/// `struct tdxh_work_local`.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct TdxhWorkLocal {
    /// The work that this was last used for. Anything else is memory that this CPU begins afresh
    /// with.
    pub(crate) id: u64,
    pub(crate) done: u64,
    pub(crate) value: [MaybeUninit<u8>; LOCAL_BYTES],
}

impl TdxhWorkLocal {
    const fn new() -> Self {
        Self { id: 0, done: 0, value: [MaybeUninit::uninit(); LOCAL_BYTES] }
    }
}

/// The number of the next work. Not of a host: what a CPU kept for a work of one must not pass for
/// a work of another. It begins where no number stands by chance in memory that was not zeroed.
static NEXT_WORK: AtomicU64 = AtomicU64::new(0x7d7d_3d1f_0000_0001);

const _: () = assert!(core::mem::offset_of!(TdxhWorkLocal, value) == 16);

/// One short step of the work on this CPU. See the header.
///
/// # Safety
/// `work` is null or what the kernel's callback was given, and that callback has not returned.
/// `local` is null or valid for reads and writes of initialized bytes; they are zero, or were last
/// written by this function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_work_step(work: *const TdxhWork, local: *mut TdxhWorkLocal) -> TdxhWorkStep {
    if !is_usable(local) {
        // SAFETY: the contract on the work is the same. Work that is not done would be caches
        // that are not written back.
        unsafe { tdxh_work_run(work) };
        return TdxhWorkStep::Done;
    }
    // SAFETY: null and misaligned are answered; a work that the library handed out is valid until
    // its callback returns.
    let Ok(work) = (unsafe { input(work) }) else { return TdxhWorkStep::Done };
    // SAFETY: not null and aligned, valid by contract; `work.step` may be called
    // with this work by the contract of `TdxhWork::new`. A local that has the id of this work was
    // given it by `step`, because no two works have the same.
    match unsafe { (work.step)(work, &mut *local) } {
        Step::Again => TdxhWorkStep::Again,
        Step::Done => TdxhWorkStep::Done,
    }
}

/// All steps of the work on this CPU. See the header.
///
/// # Safety
/// As [`tdxh_work_step`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_work_run(work: *const TdxhWork) {
    let mut local = TdxhWorkLocal::new();
    // SAFETY: the contract on the work is the same; the local is fresh and this CPU's own.
    while unsafe { tdxh_work_step(work, &raw mut local) } == TdxhWorkStep::Again {}
}
