//! What happens to a TD, step by step, up to its fate.

use std::cell::RefCell;
use std::fmt::Display;

use tdx_abi::{Leaf, Page, PageSize, Registers};
use tdx_host::{
    ledger::Ledger,
    page::SharedPage,
    platform::SharedMemory,
    seamcall::call,
    td::{Building, GuestPage, Keyed, PageError, Runnable, SeptLevel, TDCS_PAGES, TDVPS_PAGES, Td, TdHost},
};
use tdx_machine::{Fault, When};

use super::{Fate, Held, LabTd, PARAMS, SOURCE, TdsError, memory};
use crate::platform::{GuestAct, Lab, LabCpu, LabKernel, Pool};
use tdx_operator::words;

/// Guest pages added and measured before the TD runs, from guest address 0 on.
const ADDED: u64 = 16;
/// 4 KiB pages added while it runs, behind them.
const AUGMENTED: u64 = 16;
/// 2 MiB pages added while it runs, from guest address 2 MiB on.
const LARGE: u64 = 4;
const MIB: u64 = 1 << 20;

/// A kernel that runs TDs.
pub struct Hypervisor<'k, 'l, 'h> {
    lab: &'k Lab<'k>,
    kernel: &'k mut LabKernel<'l>,
    tds: TdHost<'h>,
    pool: RefCell<Pool>,
}

/// Turns any error into the scenario's, with its place.
fn at<T, E: Display>(number: u32, step: &'static str, result: Result<T, E>) -> Result<T, TdsError> {
    result.map_err(|error| TdsError { number, step, cause: error.to_string() })
}

impl<'k, 'l, 'h> Hypervisor<'k, 'l, 'h> {
    /// On this kernel, with the pages of this pool.
    pub fn new(lab: &'k Lab<'k>, kernel: &'k mut LabKernel<'l>, tds: TdHost<'h>, pool: Pool) -> Self {
        Self { lab, kernel, tds, pool: RefCell::new(pool) }
    }

    fn ledger(&self) -> &'h Ledger<'h> {
        self.tds.ledger()
    }

    fn cpu(&self) -> LabCpu<'l> {
        self.kernel.this_cpu()
    }

    fn page(&self, number: u32, size: PageSize) -> Result<SharedPage<'h>, TdsError> {
        match memory::take(&self.pool, self.ledger(), size) {
            Some(page) => at(number, "a page of the pool", page),
            None => at(number, "a page of the pool", Err("the pool is empty")),
        }
    }

    fn small(&self, number: u32) -> Result<SharedPage<'h>, TdsError> {
        self.page(number, PageSize::Size4K)
    }

    /// A clean page is free again.
    fn free(&self, page: SharedPage<'h>) {
        let size = page.size();
        self.pool.borrow_mut().put(page.release().start(), size);
    }

    /// Brings a TD to its fate.
    ///
    /// # Errors
    /// [`TdsError`]: the module refused what it should not.
    pub fn live(&mut self, number: u32, fate: Fate) -> Result<LabTd<'h>, TdsError> {
        let mut story = Vec::new();
        let mut td = self.create(number, &mut story)?;
        let (key, tdr) = (Some(td.key_id()), Some(td.tdr()));
        let held = if fate == Fate::HalfBuilt {
            for _ in 0..TDCS_PAGES / 2 {
                at(number, "MNG.ADDCX", td.add_control_page(&self.cpu(), self.small(number)?))?;
            }
            story.push(format!("its build stopped after {} of {TDCS_PAGES} TDCS pages", TDCS_PAGES / 2));
            Held::Keyed(td)
        } else {
            let (td, vcpu) = self.build(number, td, &mut story)?;
            let td = self.run(number, td, vcpu, &mut story)?;
            if fate == Fate::Running { Held::Runnable(td) } else { self.tear_down(number, td, vcpu, fate, &mut story)? }
        };
        Ok(LabTd { number, fate, key, tdr, held, story })
    }

    /// MNG.CREATE, which fails for lack of entropy once, and the keys.
    fn create(&mut self, number: u32, story: &mut Vec<String>) -> Result<Td<'h, Keyed>, TdsError> {
        let cpu = self.cpu();
        let page = self.small(number)?;
        self.lab.act(|machine| machine.inject(Fault::NoEntropy, When::Always));
        let failed = self.tds.create(&cpu, page);
        self.lab.act(|machine| machine.clear(Fault::NoEntropy));
        let page = match failed {
            Err(PageError { page: Some(page), .. }) => {
                story.push("MNG.CREATE failed for lack of entropy once, and its page was reset".to_owned());
                page
            }
            Err(error) => return at(number, "MNG.CREATE without entropy", Err(error)),
            Ok(_) => return at(number, "MNG.CREATE without entropy", Err("it succeeded")),
        };
        let td = at(number, "MNG.CREATE", self.tds.create(&cpu, page))?;
        at(number, "MNG.KEY.CONFIG", td.configure_keys(self.kernel))
    }

    fn build(
        &mut self,
        number: u32,
        mut td: Td<'h, Keyed>,
        story: &mut Vec<String>,
    ) -> Result<(Td<'h, Runnable>, Page), TdsError> {
        let cpu = self.cpu();
        for _ in 0..TDCS_PAGES {
            at(number, "MNG.ADDCX", td.add_control_page(&cpu, self.small(number)?))?;
        }
        self.kernel.write(PARAMS, &td_params());
        let td: Td<'h, Building> = at(number, "MNG.INIT", td.init(&cpu, PARAMS))?;
        let mut vcpu = at(number, "VP.CREATE", td.create_vcpu(&cpu, self.small(number)?))?;
        for _ in 1..TDVPS_PAGES {
            at(number, "VP.ADDCX", td.add_vcpu_page(&cpu, &vcpu, self.small(number)?))?;
        }
        vcpu = at(number, "VP.INIT", td.init_vcpu(&cpu, vcpu, 0))?;
        for level in [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M] {
            at(number, "MEM.SEPT.ADD", td.add_sept_page(&cpu, guest(0), level, self.small(number)?))?;
        }
        for index in 0..ADDED {
            let gpa = guest(index * tdx_abi::PAGE_SIZE);
            at(number, "MEM.PAGE.ADD", td.add_page(&cpu, gpa, self.small(number)?, SOURCE))?;
            at(number, "MR.EXTEND", td.measure_page(&cpu, gpa))?;
        }
        let td = at(number, "MR.FINALIZE", td.finalize(&cpu))?;
        story.push(format!("built with {ADDED} measured pages"));
        Ok((td, vcpu.tdvpr))
    }

    /// Pages come, move, are split and joined, and go.
    fn run(
        &self,
        number: u32,
        td: Td<'h, Runnable>,
        vcpu: Page,
        story: &mut Vec<String>,
    ) -> Result<Td<'h, Runnable>, TdsError> {
        let cpu = self.cpu();
        for index in ADDED..ADDED + AUGMENTED {
            let gpa = guest(index * tdx_abi::PAGE_SIZE);
            at(number, "MEM.PAGE.AUG", td.augment(&cpu, gpa, self.small(number)?))?;
        }
        for index in 1..=LARGE {
            let page = self.page(number, PageSize::Size2M)?;
            at(number, "MEM.PAGE.AUG of 2 MiB", td.augment(&cpu, guest(index * 2 * MIB), page))?;
        }
        story.push(format!("{AUGMENTED} pages of 4 KiB and {LARGE} of 2 MiB added while it ran"));
        self.enter(number, vcpu, story)?;

        let (moved, gone, split) = (guest(0), guest(tdx_abi::PAGE_SIZE), guest(2 * MIB));
        for (gpa, size) in [(moved, PageSize::Size4K), (gone, PageSize::Size4K), (split, PageSize::Size2M)] {
            at(number, "MEM.RANGE.BLOCK", td.block(&cpu, gpa, size))?;
        }
        at(number, "MEM.TRACK", td.track(&cpu))?;
        self.free(at(number, "MEM.PAGE.RELOCATE", td.relocate_page(&cpu, moved, self.small(number)?))?);
        self.free(at(number, "MEM.PAGE.REMOVE", td.remove_page(&cpu, gone, PageSize::Size4K))?);
        let page = self.interrupted_demote(number, &td, split)?;
        at(number, "MEM.PAGE.DEMOTE", td.demote(&cpu, split, PageSize::Size2M, page))?;
        at(number, "MEM.RANGE.BLOCK", td.block(&cpu, split, PageSize::Size2M))?;
        at(number, "MEM.TRACK", td.track(&cpu))?;
        self.free(at(number, "MEM.PAGE.PROMOTE", td.promote(&cpu, split, PageSize::Size2M))?);
        story.push(
            "one page relocated, one removed, one of 2 MiB split (interrupted for good first) and joined again"
                .to_owned(),
        );
        Ok(td)
    }

    /// The guest accepts all pages but the last of each size, and stores to each.
    fn enter(&self, number: u32, vcpu: Page, story: &mut Vec<String>) -> Result<(), TdsError> {
        let small = (ADDED..ADDED + AUGMENTED - 1).map(|index| (index * tdx_abi::PAGE_SIZE, PageSize::Size4K));
        let large = (1..LARGE).map(|index| (index * 2 * MIB, PageSize::Size2M));
        let accepted = small.chain(large).flat_map(|(gpa, size)| [GuestAct::Accept(gpa, size), GuestAct::Store(gpa)]);
        let touched = (0..ADDED).map(|index| GuestAct::Store(index * tdx_abi::PAGE_SIZE));
        self.lab.let_guest(accepted.chain(touched).collect::<Vec<_>>());
        let input = Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start());
        at(number, "VP.ENTER", call(&self.cpu(), input))?;
        story.push("its guest accepted all but one of each size, and stored to them".to_owned());
        Ok(())
    }

    /// A DEMOTE that an interrupt stops for good: it has filled its page, and the page comes back
    /// clean.
    fn interrupted_demote(
        &self,
        number: u32,
        td: &Td<'h, Runnable>,
        split: GuestPage,
    ) -> Result<SharedPage<'h>, TdsError> {
        let page = self.small(number)?;
        self.lab.act(|machine| machine.inject(Fault::InterruptPending, When::Always));
        let result = td.demote(&self.cpu(), split, PageSize::Size2M, page);
        self.lab.act(|machine| machine.clear(Fault::InterruptPending));
        match result {
            Err(PageError { page: Some(page), .. }) => Ok(page),
            Err(error) => at(number, "interrupted MEM.PAGE.DEMOTE", Err(error)),
            Ok(()) => at(number, "interrupted MEM.PAGE.DEMOTE", Err("it succeeded")),
        }
    }

    fn tear_down(
        &self,
        number: u32,
        td: Td<'h, Runnable>,
        vcpu: Page,
        fate: Fate,
        story: &mut Vec<String>,
    ) -> Result<Held<'h>, TdsError> {
        let pages = td.pages();
        let dying = td.tear_down();
        at(number, "VP.FLUSH", dying.flush_vcpus(self.kernel, &[vcpu]))?;
        let dead = at(number, "MNG.KEY.FREEID", dying.free_key(self.kernel))?;
        if fate == Fate::HalfTornDown {
            // The VCPU's root page comes back, the rest waits.
            self.free(at(number, "PHYMEM.PAGE.RECLAIM", dead.reclaim(&self.cpu(), vcpu))?);
            story.push(format!("its KeyID is free, 1 of its {} is back", words::count(pages, "page")));
            return Ok(Held::Dead(dead));
        }
        let mut failed = None;
        dead.reclaim_all(&self.cpu(), |page| match page {
            Ok(page) => self.free(page),
            Err(error) => failed = Some(error),
        });
        if let Some(error) = failed {
            return at(number, "PHYMEM.PAGE.RECLAIM", Err(error));
        }
        self.free(at(number, "PHYMEM.PAGE.RECLAIM of the TDR", dead.finish(&self.cpu()))?);
        story.push(format!("torn down: {} and its TDR came back", words::count(pages, "page")));
        Ok(Held::Nothing)
    }

    /// A page leaves the running TD, and the kernel is stopped before it has rewritten it.
    ///
    /// # Errors
    /// [`TdsError`] if that did not come about.
    pub fn leave_returned(&self, td: &mut LabTd<'h>) -> Result<Page, TdsError> {
        let Held::Runnable(runnable) = &td.held else {
            return at(td.number, "a page on its way back", Err("this TD does not run"));
        };
        let cpu = self.cpu();
        let gpa = guest(2 * tdx_abi::PAGE_SIZE);
        at(td.number, "MEM.RANGE.BLOCK", runnable.block(&cpu, gpa, PageSize::Size4K))?;
        at(td.number, "MEM.TRACK", runnable.track(&cpu))?;
        let stopped = self.lab.until(crate::platform::Instant::BeforeReset(1), || {
            let _ = runnable.remove_page(&cpu, gpa, PageSize::Size4K);
        });
        let returned = self.ledger().unknown_to_module().next();
        match (stopped, returned) {
            (None, Some(range)) => {
                td.story.push(format!("the module has returned page {}, and it is not rewritten yet", range.start()));
                Ok(range.start())
            }
            _ => at(td.number, "a page on its way back", Err("the kernel was not stopped before the reset")),
        }
    }
}

fn guest(address: u64) -> GuestPage {
    GuestPage::containing(address)
}

/// TD_PARAMS that the emulated module accepts: x87, SSE and AVX, write-back EPT of four levels, 1
/// VCPU, 1 GHz.
pub fn td_params() -> [u8; 1024] {
    let mut bytes = [0; 1024];
    for (offset, value) in [(8, 7), (16, 1), (24, 0x1e), (40, 40)] {
        bytes[offset] = value;
    }
    bytes
}
