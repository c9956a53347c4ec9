//! The lives of the laboratory's TDs: the moves of `first_kernel::TdPhase`, with a guest that runs,
//! a MNG.CREATE without entropy and a MEM.PAGE.DEMOTE that is interrupted for good.

use std::cell::RefCell;

use first_kernel::{Backend, GuestMap, Hypervisor as Moves, Move, Slot, StepError, Stuck, TdPhase, guest_page};
use tdx_abi::{Leaf, Page, PageSize, PhysAddr, Registers};
use tdx_host::{
    ledger::Ledger,
    page::SharedPage,
    td::{TDCS_PAGES, TdHost},
};
use tdx_machine::{Fault, When};

use super::{LabTd, PARAMS, SOURCE, TdsError, memory};
use crate::platform::{GuestAct, Lab, LabCpus, LabKernel, Pool, promise};
use tdx_operator::words;

/// Guest memory of a TD: 16 measured pages, then 16 pages of 4 KiB and 4 of 2 MiB while it runs.
const MAP: GuestMap = GuestMap { measured: 0..16, augmented: 16..32, large: 4 };

/// A kernel that runs TDs.
pub struct Hypervisor<'k, 'h> {
    kernel: LifeKernel<'k, 'h>,
    tds: TdHost<'h>,
}

/// The kernel that it is part of.
struct LifeKernel<'k, 'h> {
    lab: &'k Lab<'k>,
    cpus: LabCpus<'k>,
    ledger: &'h Ledger<'h>,
    pool: RefCell<Pool>,
    debug: bool,
}

impl<'k, 'h> Backend<'h> for LifeKernel<'k, 'h> {
    type Cpus = LabCpus<'k>;

    fn cpus(&self) -> &LabCpus<'k> {
        &self.cpus
    }

    fn page(&self, size: PageSize) -> Result<SharedPage<'h>, StepError> {
        const STEP: &str = "a page of the pool";
        match memory::take(&self.pool, self.ledger, size) {
            Some(page) => page.map_err(|error| StepError::new(STEP, error)),
            None => Err(StepError::new(STEP, "the pool is empty")),
        }
    }

    fn free(&self, page: SharedPage<'h>) {
        let size = page.size();
        self.pool.borrow_mut().put(page.release().range().start(), size);
    }

    fn params(&self) -> PhysAddr {
        PARAMS
    }

    fn write_params(&self) {
        self.lab.write_shared(PARAMS, &super::params(self.debug));
    }

    fn source(&self) -> PhysAddr {
        SOURCE
    }

    /// The guest accepts all pages but the last of each size, and stores to each.
    fn enter(&self, vcpu: Page, map: &GuestMap) -> Result<(), StepError> {
        let address = |page, size| guest_page(page, size).address();
        let small = (map.augmented.start..map.augmented.end - 1).map(|page| (page, PageSize::Size4K));
        let large = (0..map.large - 1).map(|page| (page, PageSize::Size2M));
        let accepted = small.chain(large).flat_map(|(page, size)| {
            [GuestAct::Accept(address(page, size), size), GuestAct::Store(address(page, size))]
        });
        let touched = map.measured.clone().map(|page| GuestAct::Store(address(page, PageSize::Size4K)));
        self.lab.let_guest(accepted.chain(touched).collect::<Vec<_>>());
        let input = Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start());
        promise::call_any(&self.cpus.this_cpu(), input).map(drop).map_err(|error| StepError::new("VP.ENTER", error))
    }
}

impl<'k, 'h> Hypervisor<'k, 'h> {
    /// On this kernel, with the pages of this pool.
    pub fn new(lab: &'k Lab<'k>, kernel: &LabKernel<'k>, tds: TdHost<'h>, pool: Pool) -> Self {
        let (cpus, pool) = (kernel.cpus().clone(), RefCell::new(pool));
        Self { kernel: LifeKernel { lab, cpus, ledger: tds.ledger(), pool, debug: false }, tds }
    }

    /// Of debug TDs, whose memory the host can write and read.
    #[must_use]
    pub fn of_debug_tds(mut self) -> Self {
        self.kernel.debug = true;
        self
    }

    /// Brings a TD to its phase.
    ///
    /// # Errors
    /// [`TdsError`]: the module refused what it should not.
    pub fn live(&self, number: u32, phase: TdPhase) -> Result<LabTd<'h>, TdsError> {
        let mut td = LabTd { number, phase, key: None, tdr: None, pages: 0, held: Slot::Empty, story: Vec::new() };
        for what in phase.moves(&MAP) {
            self.make(&mut td, what).map_err(|error| TdsError { number, error })?;
        }
        if phase == TdPhase::HalfBuilt {
            td.story.push(format!("its build stopped after {} of {TDCS_PAGES} TDCS pages", TDCS_PAGES / 2));
        }
        Ok(td)
    }

    /// Makes a move, after one that fails where the laboratory wants that.
    fn make(&self, td: &mut LabTd<'h>, what: Move) -> Result<(), StepError> {
        let moves = Moves::new(&self.kernel, self.tds, &MAP);
        let mut held = std::mem::take(&mut td.held);
        match (what, &held) {
            (Move::Build, Slot::Empty) => {
                held = self.fails(&moves, held, what, Fault::NoEntropy)?;
                td.story.push("MNG.CREATE failed for lack of entropy once, and its page was reset".to_owned());
            }
            (Move::Demote(_), _) => held = self.fails(&moves, held, what, Fault::InterruptPending)?,
            (Move::TearDown, Slot::Runnable(runnable, _)) => td.pages = runnable.pages(),
            _ => {}
        }
        td.held = moves.make(held, what).map_err(|stuck| stuck.error)?;
        match (what, &td.held) {
            (Move::Build, Slot::Keyed(keyed, 0)) => (td.key, td.tdr) = (Some(keyed.key_id()), Some(keyed.tdr())),
            (Move::Build, Slot::Runnable(..)) => {
                td.story.push(format!("built with {} measured pages", count(&MAP.measured)));
            }
            (Move::Enter, _) => {
                let (small, large) = (count(&MAP.augmented), MAP.large);
                td.story.push(format!("{small} pages of 4 KiB and {large} of 2 MiB added while it ran"));
                td.story.push("its guest accepted all but one of each size, and stored to them".to_owned());
            }
            (Move::Promote(_), _) => td.story.push(
                "one page relocated, one removed, one of 2 MiB split (interrupted for good first) and joined again"
                    .to_owned(),
            ),
            (Move::ReclaimOne, _) => {
                td.story.push(format!("its KeyID is free, 1 of its {} is back", words::count(td.pages, "page")));
            }
            (Move::TearDown, Slot::Empty) => {
                td.story.push(format!("torn down: {} and its TDR came back", words::count(td.pages, "page")));
            }
            _ => {}
        }
        Ok(())
    }

    /// A move that a fault makes fail: the TD stays as it was, and the page of the call comes back
    /// clean.
    fn fails(
        &self,
        moves: &Moves<'_, 'h, LifeKernel<'k, 'h>>,
        td: Slot<'h>,
        what: Move,
        fault: Fault,
    ) -> Result<Slot<'h>, StepError> {
        self.kernel.lab.act(|machine| machine.inject(fault, When::Always));
        let made = moves.make(td, what);
        self.kernel.lab.act(|machine| machine.clear(fault));
        match made {
            Err(Stuck { td, .. }) => Ok(td),
            Ok(_) => Err(StepError::new("a call that a fault makes fail", "it succeeded")),
        }
    }

    /// A page leaves the running TD, and the kernel is stopped before it has rewritten it.
    ///
    /// # Errors
    /// [`TdsError`] if that did not come about.
    pub fn leave_returned(&self, td: &mut LabTd<'h>) -> Result<Page, TdsError> {
        let failed =
            |step, why: &dyn std::fmt::Display| TdsError { number: td.number, error: StepError::new(step, why) };
        let Slot::Runnable(runnable, _) = &td.held else {
            return Err(failed("a page on its way back", &"this TD does not run"));
        };
        let cpu = self.kernel.cpus.this_cpu();
        let gpa = guest_page(2, PageSize::Size4K);
        runnable.block(&cpu, gpa, PageSize::Size4K).map_err(|error| failed("MEM.RANGE.BLOCK", &error))?;
        runnable.track(&cpu).map_err(|error| failed("MEM.TRACK", &error))?;
        let stopped = self.kernel.lab.until(crate::platform::Instant::BeforeReset(1), || {
            let _ = runnable.remove_page(&cpu, gpa, PageSize::Size4K);
        });
        let returned = self.kernel.ledger.unknown_to_module().next();
        match (stopped, returned) {
            (None, Some(range)) => {
                td.story.push(format!("the module has returned page {}, and it is not rewritten yet", range.start()));
                Ok(range.start())
            }
            _ => Err(failed("a page on its way back", &"the kernel was not stopped before the reset")),
        }
    }
}

fn count(pages: &std::ops::Range<u64>) -> u64 {
    pages.end - pages.start
}
