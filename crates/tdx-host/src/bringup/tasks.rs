//! The work that bring-up gives to CPUs, in steps of one SEAMCALL or one WBINVD each.

use tdx_abi::{Leaf, PageRange, Registers, StatusCode, TDMR_GRANULARITY};

use super::first_error::FirstError;
use crate::layout::Tdmr;
use crate::platform::{Cpu, CpuTask, Step};
use crate::seamcall::{SeamcallError, call_unchecked};
use crate::sync::{AtomicU32, Ordering};

/// WBINVD.
pub(super) struct WriteBack;

impl<C: Cpu> CpuTask<C> for WriteBack {
    type Local = ();

    fn step(&self, cpu: &C, (): &mut ()) -> Step {
        cpu.write_back_caches();
        cpu.cpu_gate().written_back();
        Step::Done
    }
}

/// One SEAMCALL on each CPU that runs this; `fine` are the error codes that mean "done before".
pub(crate) struct OneCall<'e> {
    input: Registers,
    fine: &'static [StatusCode],
    error: &'e FirstError,
}

impl<'e> OneCall<'e> {
    /// # Safety
    /// The promise of [`call_unchecked`] holds for this call on every CPU that runs the task.
    pub(crate) unsafe fn new(input: Registers, fine: &'static [StatusCode], error: &'e FirstError) -> Self {
        Self { input, fine, error }
    }
}

impl<C: Cpu> CpuTask<C> for OneCall<'_> {
    type Local = ();

    fn step(&self, cpu: &C, (): &mut ()) -> Step {
        if !self.error.is_set()
            // SAFETY: promised to `OneCall::new`.
            && let Err(error) = unsafe { call_unchecked(cpu, self.input) }
            && !self.fine.contains(&error.status().code())
        {
            self.error.set(&error);
        }
        Step::Done
    }
}

/// Initializes the PAMTs of all TDMRs. A CPU takes a whole TDMR at a time: the module holds one
/// lock per TDMR, so two CPUs on the same one would only find it busy.
pub(super) struct InitTdmrs<'a> {
    pub(super) tdmrs: &'a [Tdmr],
    pub(super) next: AtomicU32,
    pub(super) error: &'a FirstError,
}

/// The TDMR that a CPU works on, and the calls it has made for it.
#[derive(Default)]
pub(super) struct Current {
    tdmr: Option<PageRange>,
    calls: u64,
}

/// Calls of SYS.TDMR.INIT that initialize 1 GiB. Source: module 1.5.01, observed; newer modules may
/// need fewer.
const CALLS_PER_GIB: u64 = 256;

impl<C: Cpu> CpuTask<C> for InitTdmrs<'_> {
    type Local = Current;

    fn step(&self, cpu: &C, current: &mut Current) -> Step {
        if self.error.is_set() {
            return Step::Done;
        }
        let tdmr = match current.tdmr {
            Some(tdmr) => tdmr,
            None => match self.tdmrs.get(self.next.fetch_add(1, Ordering::Relaxed) as usize) {
                Some(tdmr) => {
                    *current = Current { tdmr: Some(tdmr.range()), calls: 0 };
                    tdmr.range()
                }
                None => return Step::Done,
            },
        };
        current.calls += 1;
        let input = Registers::call(Leaf::SYS_TDMR_INIT).rcx_address(tdmr.base());
        // SAFETY: `Bringup::init_tdmrs` makes this task, with the TDMRs of a layout whose PAMTs are
        // in the record of private memory.
        match unsafe { call_unchecked(cpu, input) } {
            Ok(output) => {
                let complete =
                    output.status().code() == StatusCode::TDMR_ALREADY_INITIALIZED || output.rdx >= tdmr.limit().get();
                let stuck = current.calls > CALLS_PER_GIB * (tdmr.bytes() / TDMR_GRANULARITY);
                if complete {
                    current.tdmr = None;
                } else if stuck {
                    // A module that always answers SUCCESS must not hang the host.
                    self.error.set(&SeamcallError {
                        call: Leaf::SYS_TDMR_INIT.into(),
                        cpu: cpu.id(),
                        input,
                        registers: output,
                        attempts: 1,
                    });
                }
                Step::Again
            }
            Err(error) => {
                self.error.set(&error);
                Step::Done
            }
        }
    }
}
