//! A hypervisor with TDs in slots, driven one small move at a time: what scenarios, short sequences
//! and random traffic are made of. Every page it takes from its pool is in its custody until it
//! comes back; it says so when one comes back unclean. It never touches private memory itself.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tdx_abi::{Leaf, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::{
    dynamic_pamt::{DynamicPamt, Pair},
    page::SharedPage,
    platform::CpuId,
    seamcall::call,
    td::{
        Building, Created, Dead, Dying, GuestPage, Keyed, NotFinished, PageError, Runnable, SeptLevel, TDCS_PAGES,
        TDVPS_PAGES, Td, TdHost, Vcpu,
    },
};

use super::td_params;
use crate::platform::{GuestAct, Lab, LabCpus, Operation, Pool};

/// Guest pages of each size that moves are about.
pub const GUEST_PAGES: u64 = 6;

/// One step of the hypervisor for the TD in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The next step of the TD's build, or its finalisation.
    Build,
    /// Memory comes: 4 KiB, or 2 MiB, at a guest page.
    Augment(u64, PageSize),
    /// The guest runs: accepts and stores.
    Enter,
    /// Blocks and tracks a guest page, and removes it.
    Remove(u64, PageSize),
    /// Moves a 4 KiB guest page to another page of the host.
    Relocate(u64),
    /// Splits a 2 MiB guest page.
    Demote(u64),
    /// Joins a 2 MiB guest page.
    Promote(u64),
    /// The next step of the teardown; its last reclaims all pages.
    TearDown,
    /// Reclaims one page of a TD whose KeyID is free: its VCPU.
    ReclaimOne,
}

/// A TD in a slot.
#[derive(Debug, Default)]
pub enum Slot<'h> {
    /// None.
    #[default]
    Empty,
    /// After MNG.CREATE.
    Created(Td<'h, Created>),
    /// After MNG.KEY.CONFIG, with so many TDCS pages.
    Keyed(Td<'h, Keyed>, usize),
    /// After MNG.INIT.
    Building(Td<'h, Building>, Build),
    /// Finalised, with its VCPU.
    Runnable(Td<'h, Runnable>, Page),
    /// On its way down, with its VCPUs.
    Dying(Td<'h, Dying>, Vec<Page>),
    /// Without a KeyID.
    Dead(Dead<'h>, Vec<Page>),
}

impl Slot<'_> {
    /// The TDR, if there is a TD that is not dying.
    pub fn tdr(&self) -> Option<Page> {
        match self {
            Self::Created(td) => Some(td.tdr()),
            Self::Keyed(td, _) => Some(td.tdr()),
            Self::Building(td, _) => Some(td.tdr()),
            Self::Runnable(td, _) => Some(td.tdr()),
            _ => None,
        }
    }
}

/// How far a TD's build is after MNG.INIT.
#[derive(Debug, Default)]
pub struct Build {
    vcpu: Option<Vcpu>,
    vcpu_pages: usize,
    ready: bool,
    sept: usize,
    added: bool,
    measured: bool,
}

/// The guest page that a TD has from its build on.
const MEASURED: GuestPage = GuestPage::containing((GUEST_PAGES - 1) * tdx_abi::PAGE_SIZE);

/// Where small guest pages of a TD begin.
fn small_gpa(page: u64) -> GuestPage {
    GuestPage::containing(page * tdx_abi::PAGE_SIZE)
}

/// Where large ones do.
fn large_gpa(page: u64) -> GuestPage {
    GuestPage::containing((page + 1) << 21)
}

fn gpa(page: u64, size: PageSize) -> GuestPage {
    if size == PageSize::Size4K { small_gpa(page) } else { large_gpa(page) }
}

/// The pages of a pool, and which of them the hypervisor has: nobody else may use those, and all
/// others somebody uses.
#[derive(Debug)]
pub struct Custody {
    pool: Mutex<Pool>,
    range: PageRange,
    /// A bit for each page of the pool.
    held: Vec<AtomicU64>,
    complaints: Mutex<Vec<String>>,
}

impl Custody {
    /// Nothing of the pool is in custody.
    pub fn new(pool: Pool) -> Self {
        let range = pool.range();
        let held = (0..range.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { pool: Mutex::new(pool), range, held, complaints: Mutex::default() }
    }

    /// All pages of the pool.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// True if the hypervisor has this page.
    pub fn holds(&self, page: Page) -> bool {
        let index = page.index().wrapping_sub(self.range.start().index());
        self.range.contains(page)
            && self
                .held
                .get((index / 64) as usize)
                .is_some_and(|word| word.load(Ordering::Relaxed) >> (index % 64) & 1 == 1)
    }

    /// What was found wrong with pages that came back.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }

    fn mark(&self, pages: PageRange, held: bool) {
        for page in pages.start().index()..pages.end().index() {
            let index = page - self.range.start().index();
            if let Some(word) = self.held.get((index / 64) as usize) {
                let bit = 1 << (index % 64);
                if held {
                    word.fetch_or(bit, Ordering::Relaxed)
                } else {
                    word.fetch_and(!bit, Ordering::Relaxed)
                };
            }
        }
    }

    fn take(&self, size: PageSize) -> Option<Page> {
        let page = lock(&self.pool).take(size)?;
        self.mark(PageRange::new(page, Page::new(page.index() + size.pages())), true);
        Some(page)
    }

    fn put(&self, pages: PageRange, size: PageSize) {
        self.mark(pages, false);
        lock(&self.pool).put(pages.start(), size);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hypervisor on one CPU at a time.
pub struct World<'w, 'h> {
    lab: &'w Lab<'w>,
    cpus: LabCpus<'w>,
    tds: TdHost<'h>,
    pamt: Option<&'h DynamicPamt<'h>>,
    custody: &'w Custody,
    /// Where TD_PARAMS stand while a TD is initialised, and what is copied into measured pages.
    params: PhysAddr,
    /// The TDs.
    pub slots: Vec<Slot<'h>>,
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
        let slots = (0..slots).map(|_| Slot::Empty).collect();
        Self { lab, cpus, tds, pamt, custody, params, slots }
    }

    /// A hypervisor for another CPU, which takes over the TDs in these slots.
    #[must_use]
    pub fn share(&mut self, cpu: CpuId, slots: impl IntoIterator<Item = usize>) -> Self {
        let mut cpus = self.cpus.clone();
        cpus.move_to(cpu);
        let (lab, tds, pamt, custody, params) = (self.lab, self.tds, self.pamt, self.custody, self.params);
        let mut other = Self::new(lab, cpus, tds, pamt, custody, params, self.slots.len());
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
        &self.cpus
    }

    /// Goes on on another CPU.
    pub fn move_to(&mut self, cpu: CpuId) {
        self.cpus.move_to(cpu);
    }

    /// What all its TDs share.
    pub fn tds(&self) -> TdHost<'h> {
        self.tds
    }

    /// A page of the pool, as a token, covered by dynamic PAMT if there is.
    pub fn page(&self, size: PageSize) -> Option<SharedPage<'h>> {
        let page = self.token(size)?;
        if self.cover(&page) {
            return Some(page);
        }
        self.put(page);
        None
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
        SharedPage::take(self.tds.ledger(), page?, size).ok()
    }

    /// A clean page is free again, and with it the pair that only it needed.
    pub fn free(&self, page: SharedPage<'h>) {
        if let Some(pamt) = self.pamt.filter(|_| page.size() == PageSize::Size4K)
            && let Ok(recovered) = pamt.put(&self.cpus.this_cpu(), page.page())
        {
            recovered.pages.into_iter().for_each(|page| self.put(page));
        }
        self.put(page);
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
            lock(&self.custody.complaints).push(found);
        }
        let pages = page.release();
        self.cpus.this_cpu().operate(Operation::Free(pages), |_| self.custody.put(pages, size));
    }

    fn keep<T>(&self, result: Result<T, PageError<'h>>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if let Some(page) = error.page {
                    self.free(page);
                }
                None
            }
        }
    }

    /// Makes a move for the TD in a slot. A move that its TD is not ready for, or that fails,
    /// changes nothing but what the product says it changes.
    pub fn make(&mut self, slot: usize, what: Move) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        let current = std::mem::take(place);
        let next = match (what, current) {
            (Move::Build, td) => self.build(td),
            (Move::TearDown, td) => self.tear_down(td),
            (Move::ReclaimOne, Slot::Dead(dead, mut vcpus)) => {
                if let Some(vcpu) = vcpus.pop()
                    && let Some(page) = self.keep(dead.reclaim(&self.cpus.this_cpu(), vcpu))
                {
                    self.free(page);
                }
                Slot::Dead(dead, vcpus)
            }
            (what, Slot::Runnable(td, vcpu)) => {
                self.run(&td, vcpu, what);
                Slot::Runnable(td, vcpu)
            }
            (_, td) => td,
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = next;
        }
    }

    /// A move of a TD that runs.
    fn run(&self, td: &Td<'h, Runnable>, vcpu: Page, what: Move) {
        let cpu = self.cpus.this_cpu();
        let block = |page, size| {
            let _ = td.block(&cpu, gpa(page, size), size).and_then(|()| td.track(&cpu));
        };
        match what {
            Move::Augment(page, size) => {
                if let Some(new) = self.page(size) {
                    self.keep(td.augment(&cpu, gpa(page, size), new));
                }
            }
            Move::Enter => self.enter(vcpu),
            Move::Remove(page, size) => {
                block(page, size);
                if let Some(page) = self.keep(td.remove_page(&cpu, gpa(page, size), size)) {
                    self.free(page);
                }
            }
            Move::Relocate(page) => {
                block(page, PageSize::Size4K);
                if let Some(new) = self.page(PageSize::Size4K)
                    && let Some(old) = self.keep(td.relocate_page(&cpu, small_gpa(page), new))
                {
                    self.free(old);
                }
            }
            // Splitting and joining need the place of the page in physical memory where PAMT is
            // dynamic; see tests/dynamic_pamt.rs.
            Move::Demote(page) if self.pamt.is_none() => {
                block(page, PageSize::Size2M);
                if let Some(sept) = self.page(PageSize::Size4K) {
                    self.keep(td.demote(&cpu, large_gpa(page), PageSize::Size2M, sept));
                }
            }
            Move::Promote(page) if self.pamt.is_none() => {
                block(page, PageSize::Size2M);
                if let Some(sept) = self.keep(td.promote(&cpu, large_gpa(page), PageSize::Size2M)) {
                    self.free(sept);
                }
            }
            _ => {}
        }
    }

    /// The guest accepts and stores to what it has.
    fn enter(&self, vcpu: Page) {
        let cpu = self.cpus.this_cpu();
        let of = |size| (0..GUEST_PAGES).map(move |page| (gpa(page, size).address(), size));
        for (gpa, size) in of(PageSize::Size4K).chain(of(PageSize::Size2M)) {
            self.lab.let_guest([GuestAct::Accept(gpa, size), GuestAct::Store(gpa + 64)]);
            let _ = call(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start()));
        }
        self.lab.let_guest([]);
    }

    fn build(&self, td: Slot<'h>) -> Slot<'h> {
        let cpu = self.cpus.this_cpu();
        match td {
            Slot::Empty => match self.page(PageSize::Size4K) {
                Some(page) => self.keep(self.tds.create(&cpu, page)).map_or(Slot::Empty, Slot::Created),
                None => Slot::Empty,
            },
            Slot::Created(td) => match td.configure_keys(&self.cpus) {
                Ok(td) => Slot::Keyed(td, 0),
                Err(failed) => Slot::Created(failed.td),
            },
            Slot::Keyed(mut td, pages) if pages < TDCS_PAGES => {
                let done = self.page(PageSize::Size4K).and_then(|page| self.keep(td.add_control_page(&cpu, page)));
                Slot::Keyed(td, pages + usize::from(done.is_some()))
            }
            Slot::Keyed(td, pages) => {
                self.lab.write_shared(self.params, &td_params());
                match td.init(&cpu, self.params) {
                    Ok(td) => Slot::Building(td, Build::default()),
                    Err(failed) => Slot::Keyed(failed.td, pages),
                }
            }
            Slot::Building(td, build) => self.go_on(td, build),
            other => other,
        }
    }

    /// The build after MNG.INIT.
    fn go_on(&self, td: Td<'h, Building>, mut build: Build) -> Slot<'h> {
        let cpu = self.cpus.this_cpu();
        let levels = [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M];
        let small = || self.page(PageSize::Size4K);
        match build.vcpu {
            None => build.vcpu = small().and_then(|page| self.keep(td.create_vcpu(&cpu, page))),
            Some(vcpu) if build.vcpu_pages + 1 < TDVPS_PAGES => {
                let done = small().and_then(|page| self.keep(td.add_vcpu_page(&cpu, &vcpu, page)));
                build.vcpu_pages += usize::from(done.is_some());
            }
            Some(vcpu) if !build.ready => {
                if let Ok(vcpu) = td.init_vcpu(&cpu, vcpu, 0) {
                    (build.vcpu, build.ready) = (Some(vcpu), true);
                }
            }
            Some(_) if build.sept < levels.len() => {
                let level = levels[build.sept];
                let done = small().and_then(|page| self.keep(td.add_sept_page(&cpu, small_gpa(0), level, page)));
                build.sept += usize::from(done.is_some());
            }
            // The last small guest page is there from the start, measured.
            Some(_) if !build.added => {
                let source = PhysAddr::new(self.params.get() + tdx_abi::PAGE_SIZE);
                let added = small().and_then(|page| self.keep(td.add_page(&cpu, MEASURED, page, source)));
                build.added = added.is_some();
            }
            Some(_) if !build.measured => build.measured = td.measure_page(&cpu, MEASURED).is_ok(),
            Some(vcpu) => {
                return match td.finalize(&cpu) {
                    Ok(td) => Slot::Runnable(td, vcpu.tdvpr),
                    Err(failed) => Slot::Building(failed.td, build),
                };
            }
        }
        Slot::Building(td, build)
    }

    fn tear_down(&self, td: Slot<'h>) -> Slot<'h> {
        let cpu = self.cpus.this_cpu();
        match td {
            Slot::Empty => Slot::Empty,
            Slot::Created(td) => Slot::Dying(td.tear_down(), Vec::new()),
            Slot::Keyed(td, _) => Slot::Dying(td.tear_down(), Vec::new()),
            Slot::Building(td, build) => {
                Slot::Dying(td.tear_down(), build.vcpu.iter().map(|vcpu| vcpu.tdvpr).collect())
            }
            Slot::Runnable(td, vcpu) => Slot::Dying(td.tear_down(), vec![vcpu]),
            Slot::Dying(td, vcpus) => {
                if td.flush_vcpus(&self.cpus, &vcpus).is_err() {
                    return Slot::Dying(td, vcpus);
                }
                match td.free_key(&self.cpus) {
                    Ok(dead) => Slot::Dead(dead, vcpus),
                    Err(failed) => Slot::Dying(failed.td, vcpus),
                }
            }
            Slot::Dead(dead, vcpus) => {
                dead.reclaim_all(&cpu, |page| {
                    if let Some(page) = self.keep(page) {
                        self.free(page);
                    }
                });
                match dead.finish(&cpu) {
                    Ok(page) => {
                        self.free(page);
                        Slot::Empty
                    }
                    Err(NotFinished::Kept { td, .. }) => Slot::Dead(td, vcpus),
                    Err(NotFinished::Lost(_)) => Slot::Empty,
                }
            }
        }
    }
}
