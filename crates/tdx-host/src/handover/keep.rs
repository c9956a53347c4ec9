//! The SEAMCALLs of a kexec that keeps TDX: VP.FLUSH of every VCPU, and
//! PHYMEM.PAGE.RDMD of the pages that the handover would reset: a TD may own them.
//! All CPUs have stopped; each call passes the gate only while it is closed by this handover.

use tdx_abi::{Leaf, Page, PageRange, PageSize, PamtPageType, Registers, StatusCode};

use super::memory::HostMemory;
use super::stop::StopCpus;
use crate::bringup::FirstError;
use crate::gate::Closing;
use crate::ledger::{Ledger, PageState};
use crate::platform::{Cpu, CpuTask, Step};
use crate::seamcall::{SeamcallError, call_behind};

/// One of the calls below, on this CPU, again if it was busy: all CPUs flush the same VCPUs at the
/// same time, and VP.FLUSH locks the page of the VCPU before it finds that another CPU holds it.
fn call<C: Cpu>(cpu: &C, input: Registers, closing: Closing) -> Result<Registers, SeamcallError> {
    let enter = |leaf| cpu.cpu_gate().enter_for_handover(leaf, closing);
    // SAFETY: VP.FLUSH and PHYMEM.PAGE.RDMD take and return no page, and write none but by lines of
    // a TD's own. The gate is still closed by this handover, which has stopped the other CPUs and
    // reset nothing yet.
    unsafe { call_behind(cpu, input, enter) }
}

/// VP.FLUSH of every VCPU on each CPU, which holds some of them or none.
struct Flush<'v> {
    vcpus: &'v [Page],
    closing: Closing,
    error: &'v FirstError,
}

impl<C: Cpu> CpuTask<C> for Flush<'_> {
    type Local = usize;

    fn step(&self, cpu: &C, next: &mut usize) -> Step {
        let Some(vcpu) = self.vcpus.get(*next) else { return Step::Done };
        *next += 1;
        if let Err(error) = call(cpu, Registers::call(Leaf::VP_FLUSH).rcx_address(vcpu.start()), self.closing)
            // Of another CPU, or there is no VMCS yet.
            && !matches!(
                error.status().code(),
                StatusCode::VCPU_NOT_ASSOCIATED
                    | StatusCode::TDCX_NUM_INCORRECT
                    | StatusCode::TD_KEYS_NOT_CONFIGURED
            )
        {
            self.error.set(&error);
        }
        Step::Again
    }
}

/// Flushes the VCPUs, each on the stopped CPU that holds it, and settles what was under way when
/// the CPUs stopped. Gives the first VP.FLUSH that failed.
pub(super) fn leave_in_order<P: StopCpus>(
    cpus: &P,
    memory: &HostMemory<'_>,
    vcpus: &[Page],
    closing: Closing,
) -> Option<SeamcallError> {
    let error = FirstError::default();
    if !vcpus.is_empty() {
        cpus.run_on_stopped(&Flush { vcpus, closing, error: &error });
    }
    if let Some(ledger) = memory.ledger() {
        settle(&cpus.this_cpu(), ledger, closing);
    }
    error.get()
}

/// Asks the module of each page that would be reset, and of each of which the ledger cannot tell
/// whether the module has it. A page whose SEAMCALL was made, and not yet entered when its CPU
/// stopped, is a TD's: a reset would destroy that TD. A page of which the module does not answer
/// counts as a TD's, too.
fn settle<C: Cpu>(cpu: &C, ledger: &Ledger<'_>, closing: Closing) {
    let is_settled = ledger.is_settled();
    let mut all_answered = true;
    for range in ledger.marked() {
        let mut at = range.start();
        while at < range.end() {
            let after = |size: PageSize| Page::new(at.index() / size.pages() * size.pages() + size.pages());
            let mut next = after(PageSize::Size4K);
            if ledger.state(at) != Some(PageState::Private) || !is_settled {
                let answer = call(cpu, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(at.start()), closing);
                let is_free =
                    matches!(&answer, Ok(registers) if PamtPageType(registers.rcx as u8) == PamtPageType::NDA);
                match answer {
                    Ok(registers) if !is_free => {
                        next = after(PageSize::from_level(registers.r8).unwrap_or(PageSize::Size4K));
                    }
                    Ok(_) => {}
                    Err(_) => all_answered = false,
                }
                (at.index()..next.min(range.end()).index()).for_each(|page| enter(ledger, Page::new(page), is_free));
            }
            at = next;
        }
    }
    if all_answered {
        // Whichever answers were lost, the module has given them again, of each marked page: all
        // CPUs have stopped, so that none returns a page after this, and the gate stays closed.
        ledger.settle_all_returning();
    }
}

/// Enters what the module has said of a page.
fn enter(ledger: &Ledger<'_>, page: Page, is_free: bool) {
    let range = PageRange::new(page, Page::new(page.index() + 1));
    // SAFETY: no SEAMCALL is under way, all CPUs have stopped: what the module says of the page is
    // how its call ended. One of which it does not answer stays marked, as if it had been taken. So
    // does one that it has though it was entered as returned: this host does not use the page.
    // No error: the state was looked at a moment ago, and nobody else runs.
    let _ = unsafe {
        match (ledger.state(page), is_free) {
            (Some(PageState::InFlight), false) => ledger.commit(range),
            (Some(PageState::InFlight), true) => ledger.abort(range),
            (Some(PageState::Private), true) => ledger.reclaim(range),
            (Some(PageState::Returned), false) => ledger.give_again(range).and_then(|()| ledger.commit(range)),
            _ => Ok(()),
        }
    };
}
