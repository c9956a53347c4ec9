//! A hypervisor with TDs in slots, driven one small move at a time: what scenarios, short sequences
//! and random traffic are made of. Every page it takes from its pool is in its custody until it
//! comes back, and is checked to be clean then. It never touches private memory itself.

use std::cell::Cell;
use std::collections::BTreeMap;

use first_kernel::{Backend, GuestMap, Hypervisor, Move, Slot, StepError, guest_page};
use tdx_abi::{Leaf, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::{
    dynamic_pamt::{DynamicPamt, Pair},
    ledger::Ledger,
    page::SharedPage,
    platform::CpuId,
    td::{Runnable, Td, TdHost},
};

use super::Custody;
use crate::platform::{GuestAct, Lab, LabCpus, Operation, promise};

/// Guest pages of each size that moves are about.
pub const GUEST_PAGES: u64 = 6;

/// The last small guest page is there from the start, measured. All others come by moves.
const MAP: GuestMap = GuestMap { measured: GUEST_PAGES - 1..GUEST_PAGES, augmented: 0..0, large: 0 };

/// The hypervisor on one CPU at a time.
pub struct World<'w, 'h> {
    kernel: WorldKernel<'w, 'h>,
    tds: TdHost<'h>,
    /// The TDs.
    pub slots: Vec<Slot<'h>>,
    /// Where 2 MiB pages lie in physical memory, by slot and guest page: with dynamic PAMT a split
    /// needs to know.
    large: BTreeMap<(usize, u64), Page>,
}

impl<'w, 'h> World<'w, 'h> {
    /// No TDs yet, in so many slots. `params` are two pages of the kernel's.
    pub fn new(
        lab: &'w Lab<'w>,
        cpus: LabCpus<'w>,
        tds: TdHost<'h>,
        pamt: Option<&'h DynamicPamt<'h>>,
        custody: &'w Custody,
        params: PhysAddr,
        slots: usize,
    ) -> Self {
        let last_large = Cell::new(None);
        let (ledger, debug) = (tds.ledger(), false);
        Self::in_kernel(WorldKernel { lab, cpus, ledger, pamt, custody, params, debug, last_large }, tds, slots)
    }

    /// Of debug TDs, whose memory the host can write and read.
    #[must_use]
    pub fn of_debug_tds(mut self) -> Self {
        self.kernel.debug = true;
        self
    }

    fn in_kernel(kernel: WorldKernel<'w, 'h>, tds: TdHost<'h>, slots: usize) -> Self {
        Self { kernel, tds, slots: (0..slots).map(|_| Slot::Empty).collect(), large: BTreeMap::new() }
    }

    /// A hypervisor for another CPU, which takes over the TDs in these slots.
    #[must_use]
    pub fn share(&mut self, cpu: CpuId, slots: impl IntoIterator<Item = usize>) -> Self {
        let mut kernel = self.kernel.clone();
        kernel.cpus.move_to(cpu);
        let mut other = Self::in_kernel(kernel, self.tds, self.slots.len());
        other.large.clone_from(&self.large);
        for slot in slots {
            if let (Some(mine), Some(theirs)) = (self.slots.get_mut(slot), other.slots.get_mut(slot))
                && matches!(theirs, Slot::Empty)
            {
                std::mem::swap(mine, theirs);
            }
        }
        other
    }

    /// Takes over the TDs of another.
    pub fn take_back(&mut self, other: Self) {
        for (mine, theirs) in self.slots.iter_mut().zip(other.slots) {
            if matches!(mine, Slot::Empty) {
                *mine = theirs;
            }
        }
    }

    /// Its CPUs.
    pub fn cpus(&self) -> &LabCpus<'w> {
        &self.kernel.cpus
    }

    /// Goes on on another CPU.
    pub fn move_to(&mut self, cpu: CpuId) {
        self.kernel.cpus.move_to(cpu);
    }

    /// What all its TDs share.
    pub fn tds(&self) -> TdHost<'h> {
        self.tds
    }

    /// A page of the pool, as a token, covered by dynamic PAMT if there is.
    pub fn page(&self, size: PageSize) -> Option<SharedPage<'h>> {
        self.kernel.page(size).ok()
    }

    /// A clean page is free again, and with it the pair that only it needed.
    pub fn free(&self, page: SharedPage<'h>) {
        self.kernel.free(page);
    }

    /// Pages are free as they are, whoever may still have them: what an allocator does whose own
    /// count says so.
    pub fn free_as_it_is(&self, pages: PageRange) {
        let size = PageSize::ALL.into_iter().find(|size| size.pages() == pages.pages()).unwrap_or(PageSize::Size4K);
        let cpu = self.kernel.cpus.this_cpu();
        cpu.operate(Operation::Free(pages), |_| self.kernel.custody.put(pages, size));
    }

    /// Makes a move for the TD in a slot. A move that its TD is not ready for, or that fails,
    /// changes nothing but what the product says it changes.
    pub fn make(&mut self, slot: usize, what: Move) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        if let (Some(pamt), Slot::Runnable(td, _)) = (self.kernel.pamt, &*place)
            && let Move::Demote(page) | Move::Promote(page) = what
        {
            if let Some(large) = self.large.get(&(slot, page)) {
                self.kernel.split_or_join(td, what, page, *large, pamt);
            }
            return;
        }
        self.kernel.last_large.set(None);
        let made = Hypervisor::new(&self.kernel, self.tds, &MAP).make(std::mem::take(place), what);
        if let (Ok(_), Move::Augment(page, PageSize::Size2M), Some(large)) = (&made, what, self.kernel.last_large.get())
        {
            self.large.insert((slot, page), large);
        }
        *place = made.unwrap_or_else(|stuck| stuck.td);
    }
}

/// The kernel that the hypervisor is part of.
#[derive(Clone)]
struct WorldKernel<'w, 'h> {
    lab: &'w Lab<'w>,
    cpus: LabCpus<'w>,
    ledger: &'h Ledger<'h>,
    pamt: Option<&'h DynamicPamt<'h>>,
    custody: &'w Custody,
    /// Where TD_PARAMS stand while a TD is initialized; the page behind is copied into measured
    /// pages.
    params: PhysAddr,
    debug: bool,
    /// The 2 MiB page that was handed out last.
    last_large: Cell<Option<Page>>,
}

impl<'h> WorldKernel<'_, 'h> {
    /// MEM.PAGE.DEMOTE or PROMOTE on a host with dynamic PAMT.
    fn split_or_join(&self, td: &Td<'h, Runnable>, what: Move, page: u64, large: Page, pamt: &'h DynamicPamt<'h>) {
        let (cpu, gpa) = (self.cpus.this_cpu(), guest_page(page, PageSize::Size2M));
        // Blocked already: the move is made again after it failed.
        let _ = td.block(&cpu, gpa, PageSize::Size2M).and_then(|()| td.track(&cpu));
        if matches!(what, Move::Promote(_)) {
            if let Ok(promoted) = td.promote_with_pair(&cpu, gpa, large, pamt) {
                promoted.pair.pages.into_iter().for_each(|page| self.put(page));
                if let Ok(sept) = promoted.sept_page {
                    self.free(sept);
                }
            }
            return;
        }
        let Ok(sept) = self.page(PageSize::Size4K) else { return };
        let mut spare = self.pair();
        let split = td.demote_with_pair(&cpu, gpa, large, sept, pamt, &mut spare);
        spare.into_iter().for_each(|page| self.put(page));
        if let Err(failed) = split
            && let Some(page) = failed.page.and_then(|page| SharedPage::take(self.ledger, page).ok())
        {
            self.free(page);
        }
    }

    fn cover(&self, page: &SharedPage<'h>) -> bool {
        let Some(pamt) = self.pamt.filter(|_| page.size() == PageSize::Size4K) else { return true };
        let mut spare = self.pair();
        let covered = pamt.get(&self.cpus.this_cpu(), page.page(), &mut spare);
        spare.into_iter().for_each(|page| self.put(page));
        covered.is_ok()
    }

    /// Two pages for a 2 MiB page's PAMT entries.
    fn pair(&self) -> Pair<'h> {
        (0..2).filter_map(|_| self.token(PageSize::Size4K)).collect()
    }

    fn token(&self, size: PageSize) -> Option<SharedPage<'h>> {
        let mut page = None;
        self.cpus.this_cpu().operate(Operation::Allocate(size.pages()), |_| page = self.custody.take(size));
        let page = page?;
        let range = PageRange::new(page, Page::new(page.index() + size.pages()));
        SharedPage::take(self.ledger, promise::owned(range)).ok()
    }

    /// A page that comes back is clean: nothing of it is private, and nothing dirty will make it
    /// so.
    fn put(&self, page: SharedPage<'h>) {
        let (range, size) = (page.range(), page.size());
        let found = self.lab.ask(|machine| {
            let private = machine.private_lines_in(range.lines());
            let late = || {
                machine.dirty_private_runs().into_iter().any(|run| !run.lines.intersection(range.lines()).is_empty())
            };
            if private > 0 {
                Some(format!("{range} came back with {private} private lines"))
            } else if late() {
                Some(format!("{range} came back, and a cache still holds private lines of it"))
            } else {
                None
            }
        });
        if let Some(found) = found {
            self.custody.complain(found);
        }
        let pages = page.release().into_range();
        self.cpus.this_cpu().operate(Operation::Free(pages), |_| self.custody.put(pages, size));
    }
}

impl<'w, 'h> Backend<'h> for WorldKernel<'w, 'h> {
    type Cpus = LabCpus<'w>;

    fn cpus(&self) -> &LabCpus<'w> {
        &self.cpus
    }

    fn page(&self, size: PageSize) -> Result<SharedPage<'h>, StepError> {
        let page = self.token(size).ok_or_else(|| StepError::new("a page of the pool", "the pool is empty"))?;
        if self.cover(&page) {
            if size == PageSize::Size2M {
                self.last_large.set(Some(page.page()));
            }
            return Ok(page);
        }
        self.put(page);
        Err(StepError::new("a page of the pool", "dynamic PAMT cannot cover it"))
    }

    fn free(&self, page: SharedPage<'h>) {
        if let Some(pamt) = self.pamt.filter(|_| page.size() == PageSize::Size4K)
            && let Ok(recovered) = pamt.put(&self.cpus.this_cpu(), page.page())
        {
            recovered.pages.into_iter().for_each(|page| self.put(page));
        }
        self.put(page);
    }

    fn params(&self) -> PhysAddr {
        self.params
    }

    fn write_params(&self) {
        self.lab.write_shared(self.params, &super::params(self.debug));
    }

    fn source(&self) -> PhysAddr {
        PhysAddr::new(self.params.get() + tdx_abi::PAGE_SIZE)
    }

    /// The guest accepts and stores to what it has. What it does not have is an exit.
    fn enter(&self, vcpu: Page, _map: &GuestMap) -> Result<(), StepError> {
        let cpu = self.cpus.this_cpu();
        let of = |size| (0..GUEST_PAGES).map(move |page| (guest_page(page, size).address(), size));
        for (gpa, size) in of(PageSize::Size4K).chain(of(PageSize::Size2M)) {
            self.lab.let_guest([GuestAct::Accept(gpa, size), GuestAct::Store(gpa + 64)]);
            let _ = promise::call_any(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start()));
        }
        self.lab.let_guest([]);
        Ok(())
    }

    /// Where PAMT is dynamic, the world splits and joins by itself.
    fn can_split(&self) -> bool {
        self.pamt.is_none()
    }
}
