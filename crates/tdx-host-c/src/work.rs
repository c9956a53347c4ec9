//! A task of `tdx-host` as C sees it: a pointer that the kernel hands to its CPUs, and a few bytes that each CPU keeps between its
//! steps.

use core::marker::PhantomData;
use core::mem::needs_drop;
use tdx_host::platform::{CpuTask, Step};

use crate::c_enum::c_enum;
use crate::host::Host;
use crate::kernel::PinnedCpu;
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

/// `struct tdxh_work`: lives on the stack of the function that made it, until the kernel's callback returns.
#[derive(Debug)]
#[repr(C)]
pub struct TdxhWork {
    step: unsafe fn(&TdxhWork, &mut TdxhWorkLocal) -> Step,
    task: *const (),
    host: *const Host,
    /// Shared by the CPUs that run it: the task is `Sync` by the bounds of `with_work`.
    made_by_with_work: PhantomData<*const ()>,
}

/// Bytes for what a CPU keeps between its steps.
const LOCAL_BYTES: usize = 1008;

/// `struct tdxh_work_local`.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct TdxhWorkLocal {
    state: u64,
    reserved: u64,
    value: [u8; LOCAL_BYTES],
}

/// A CPU that has not begun, has begun, is done.
const FRESH: u64 = 0;
const BEGUN: u64 = 1;

impl TdxhWorkLocal {
    const fn new() -> Self {
        Self { state: FRESH, reserved: 0, value: [0; LOCAL_BYTES] }
    }
}

/// Lends a task to the kernel for the time of `run`.
pub(crate) fn with_work<'h, T: CpuTask<PinnedCpu<'h>>>(host: &'h Host, task: &T, run: impl FnOnce(*const TdxhWork)) {
    let task = core::ptr::from_ref(task).cast();
    let work = TdxhWork { step: step::<T>, task, host, made_by_with_work: PhantomData };
    run(&raw const work);
}

/// # Safety
/// `work` was made by [`with_work`] with a task of type `T`, whose `run` has not returned; `local` is zeroed, or was last used for
/// this work on this CPU.
unsafe fn step<'h, T: CpuTask<PinnedCpu<'h>>>(work: &TdxhWork, local: &mut TdxhWorkLocal) -> Step {
    const {
        assert!(size_of::<T::Local>() <= LOCAL_BYTES && align_of::<T::Local>() <= align_of::<TdxhWorkLocal>());
        assert!(!needs_drop::<T::Local>(), "C forgets it without dropping it");
    }
    // SAFETY: `with_work` made both pointers from references that live until its `run` returns, the task's with this very type.
    // `CpuTask` is `Sync`, and so is `Host`: other CPUs may use them at the same time.
    let (task, host) = unsafe { (&*work.task.cast::<T>(), &*work.host) };
    let place = local.value.as_mut_ptr().cast::<T::Local>();
    if local.state == FRESH {
        // SAFETY: the place is large enough (asserted above). It is aligned: 16 bytes into a type of that alignment.
        unsafe { place.write(T::Local::default()) };
        local.state = BEGUN;
    }
    // SAFETY: the state is BEGUN, so a `T::Local` was written there, and `local` is borrowed for this caller alone.
    task.step(&PinnedCpu::new(host), unsafe { &mut *place })
}

const _: () = assert!(core::mem::offset_of!(TdxhWorkLocal, value) == 16);

/// One short step of the work on this CPU. See the header.
///
/// # Safety
/// `work` is what the kernel's callback was given, and that callback has not returned. `local` is zeroed, or was last used for this
/// work on this CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_work_step(work: *const TdxhWork, local: *mut TdxhWorkLocal) -> TdxhWorkStep {
    // SAFETY: null and misaligned are answered; a work that the library handed out is valid until its callback returns.
    let Ok(work) = (unsafe { input(work) }) else { return TdxhWorkStep::Done };
    if !is_usable(local) {
        return TdxhWorkStep::Done;
    }
    // SAFETY: not null, aligned, and this CPU's own by contract.
    let local = unsafe { &mut *local };
    if local.state > BEGUN {
        return TdxhWorkStep::Done;
    }
    // SAFETY: `work.step` is `step::<T>` of the type that the task has; the contract of this function is its contract.
    match unsafe { (work.step)(work, local) } {
        Step::Again => TdxhWorkStep::Again,
        Step::Done => {
            local.state = BEGUN + 1;
            TdxhWorkStep::Done
        }
    }
}

/// All steps of the work on this CPU. See the header.
///
/// # Safety
/// As [`tdxh_work_step`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_work_run(work: *const TdxhWork) {
    let mut local = TdxhWorkLocal::new();
    // SAFETY: the work is the caller's, the bytes are fresh and this CPU's own.
    while unsafe { tdxh_work_step(work, &raw mut local) } == TdxhWorkStep::Again {}
}
