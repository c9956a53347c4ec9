//! A hypervisor with one TD at a time in its hands: builds, runs and tears it down in small moves.
//!
//! A move that fails leaves the TD as the product left it: the caller may make it again, or
//! another.

use core::fmt;
use core::ops::Range;

use tdx_abi::{Page, PageSize, PhysAddr};
use tdx_host::{
    page::SharedPage,
    platform::Cpus,
    td::{
        Building, Created, Dead, Dying, GuestPage, Keyed, NotFinished, PageError, Runnable, SeptLevel, TDCS_PAGES,
        TDVPS_PAGES, Td, TdHost, Vcpu,
    },
};

use crate::error::StepError;

/// What the hypervisor needs of the kernel it is part of.
pub trait Backend<'h> {
    /// The CPUs; the hypervisor runs on one of them.
    type Cpus: Cpus;

    /// The CPUs.
    fn cpus(&self) -> &Self::Cpus;

    /// A page of this size out of the allocator.
    ///
    /// # Errors
    /// [`StepError`]: there is none, or the ledger refuses it.
    fn page(&self, size: PageSize) -> Result<SharedPage<'h>, StepError>;

    /// A clean page goes back to the allocator.
    fn free(&self, page: SharedPage<'h>);

    /// Where [`td_params`] stand while a TD is initialized.
    fn params(&self) -> PhysAddr;

    /// Called before MNG.INIT: [`td_params`] must stand at [`Backend::params`].
    fn write_params(&self);

    /// The page that measured guest pages are copied from.
    fn source(&self) -> PhysAddr;

    /// Called before MEM.PAGE.ADD of 4 KiB guest page `page`: what it is to hold must stand at
    /// [`Backend::source`]. Nothing where it does not matter.
    fn write_source(&self, page: u64) {
        let _ = page;
    }

    /// Lets the guest run on this VCPU and touch its memory. Nothing where no guest can run.
    ///
    /// # Errors
    /// [`StepError`]: VP.ENTER failed.
    fn enter(&self, vcpu: Page, map: &GuestMap) -> Result<(), StepError> {
        let _ = (vcpu, map);
        Ok(())
    }

    /// False where 2 MiB guest pages cannot be split and joined by [`Move::Demote`] and
    /// [`Move::Promote`]: dynamic PAMT needs a pair of pages with it.
    fn can_split(&self) -> bool {
        true
    }
}

/// The guest memory of a TD, as numbers of guest pages: 4 KiB pages from guest address 0 on, all in
/// the same 2 MiB, and 2 MiB pages from 2 MiB on, all in the first 1 GiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestMap {
    /// 4 KiB pages added and measured before the TD runs.
    pub measured: Range<u64>,
    /// 4 KiB pages added while it runs.
    pub augmented: Range<u64>,
    /// 2 MiB pages added while it runs.
    pub large: u64,
}

impl GuestMap {
    /// A small TD: all its pages fit into [`crate::PAGES_PER_TD`].
    pub const SMALL: Self = Self { measured: 0..4, augmented: 4..8, large: 1 };
}

/// Guest page number `page` of this size.
pub const fn guest_page(page: u64, size: PageSize) -> GuestPage {
    GuestPage::containing(match size {
        PageSize::Size4K => page * tdx_abi::PAGE_SIZE,
        _ => (page + 1) << 21,
    })
}

/// One step of the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The next step of the TD's build, or its finalization.
    Build,
    /// Adds memory at a guest page: 4 KiB or 2 MiB.
    Augment(u64, PageSize),
    /// Lets the guest run.
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
    /// Reclaims one page of a TD whose KeyID is free: that of its VCPU.
    ReclaimOne,
}

/// A TD, or the place for one.
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
    /// Finalized, with its VCPU.
    Runnable(Td<'h, Runnable>, Page),
    /// On its way down, with its VCPU.
    Dying(Td<'h, Dying>, Option<Page>),
    /// Without a KeyID.
    Dead(Dead<'h>, Option<Page>),
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
    /// Pages added.
    added: u64,
    /// Pages measured.
    measured: u64,
}

impl Build {
    /// Page of the VCPU, if there is one.
    pub(crate) fn vcpu(&self) -> Option<Page> {
        self.vcpu.as_ref().map(Vcpu::tdvpr)
    }
}

/// A move failed; the TD as it is now.
#[derive(Debug)]
pub struct Stuck<'h> {
    /// The TD.
    pub td: Slot<'h>,
    /// Why.
    pub error: StepError,
}

/// The hypervisor.
pub struct Hypervisor<'b, 'h, B> {
    backend: &'b B,
    tds: TdHost<'h>,
    map: &'b GuestMap,
}

impl<'b, 'h, B: Backend<'h>> Hypervisor<'b, 'h, B> {
    /// Of TDs with this guest memory.
    pub const fn new(backend: &'b B, tds: TdHost<'h>, map: &'b GuestMap) -> Self {
        Self { backend, tds, map }
    }

    /// Makes a move. One that the TD is not ready for changes nothing.
    ///
    /// # Errors
    /// [`Stuck`] with the TD: there was no page, or the module or the ledger refused.
    ///
    /// # SEAMCALL
    /// Those of the move, on this CPU; MNG.KEY.CONFIG, PHYMEM.CACHE.WB on one CPU of each package.
    pub fn make(&self, td: Slot<'h>, what: Move) -> Result<Slot<'h>, Stuck<'h>> {
        match (what, td) {
            (Move::Build, td) => self.build(td),
            (Move::TearDown, td) => self.tear_down(td),
            (Move::ReclaimOne, Slot::Dead(dead, Some(vcpu))) => {
                let result = self.backend.cpus().run_here(|cpu| dead.reclaim(cpu, vcpu));
                let done = self.keep("PHYMEM.PAGE.RECLAIM", result).map(|page| self.backend.free(page));
                settle(Slot::Dead(dead, None), done)
            }
            (what, Slot::Runnable(td, vcpu)) => {
                let done = self.run(&td, vcpu, what);
                settle(Slot::Runnable(td, vcpu), done)
            }
            (_, td) => Ok(td),
        }
    }

    /// The result of a call that was given a page; a page that it gives back is freed.
    fn keep<T>(&self, step: &'static str, result: Result<T, PageError>) -> Result<T, StepError> {
        result.map_err(|failed| {
            let error = StepError::new(step, &failed);
            // A page that was in a token fits into one again.
            if let Some(page) = failed.page.and_then(|page| SharedPage::take(self.tds.ledger(), page).ok()) {
                self.backend.free(page);
            }
            error
        })
    }

    fn small(&self) -> Result<SharedPage<'h>, StepError> {
        self.backend.page(PageSize::Size4K)
    }

    /// A move of a TD that runs.
    fn run(&self, td: &Td<'h, Runnable>, vcpu: Page, what: Move) -> Result<(), StepError> {
        let cpus = self.backend.cpus();
        // Blocked already: the move is made again after it failed.
        let block = |page, size| {
            let _ = cpus.run_here(|cpu| td.block(cpu, guest_page(page, size), size).and_then(|()| td.track(cpu)));
        };
        match what {
            Move::Augment(page, size) => {
                let new = self.backend.page(size)?;
                let added = cpus.run_here(|cpu| td.augment(cpu, guest_page(page, size), new));
                self.keep("MEM.PAGE.AUG", added)
            }
            Move::Enter => self.backend.enter(vcpu, self.map),
            Move::Remove(page, size) => {
                block(page, size);
                let removed = cpus.run_here(|cpu| td.remove_page(cpu, guest_page(page, size), size));
                self.keep("MEM.PAGE.REMOVE", removed).map(|page| self.backend.free(page))
            }
            Move::Relocate(page) => {
                block(page, PageSize::Size4K);
                let new = self.small()?;
                let old = cpus.run_here(|cpu| td.relocate_page(cpu, guest_page(page, PageSize::Size4K), new));
                self.keep("MEM.PAGE.RELOCATE", old).map(|page| self.backend.free(page))
            }
            Move::Demote(page) if self.backend.can_split() => {
                block(page, PageSize::Size2M);
                let (sept, gpa) = (self.small()?, guest_page(page, PageSize::Size2M));
                let split = cpus.run_here(|cpu| td.demote(cpu, gpa, PageSize::Size2M, sept));
                self.keep("MEM.PAGE.DEMOTE", split)
            }
            Move::Promote(page) if self.backend.can_split() => {
                block(page, PageSize::Size2M);
                let gpa = guest_page(page, PageSize::Size2M);
                let joined = cpus.run_here(|cpu| td.promote(cpu, gpa, PageSize::Size2M));
                self.keep("MEM.PAGE.PROMOTE", joined).map(|page| self.backend.free(page))
            }
            _ => Ok(()),
        }
    }

    fn build(&self, td: Slot<'h>) -> Result<Slot<'h>, Stuck<'h>> {
        let cpus = self.backend.cpus();
        match td {
            Slot::Empty => {
                let created = self.small().and_then(|page| {
                    let created = cpus.run_here(|cpu| self.tds.create(cpu, page));
                    self.keep("MNG.CREATE", created)
                });
                created.map(Slot::Created).map_err(|error| Stuck { td: Slot::Empty, error })
            }
            Slot::Created(td) => match td.configure_keys(cpus) {
                Ok(td) => Ok(Slot::Keyed(td, 0)),
                Err(failed) => Err(stuck("MNG.KEY.CONFIG", Slot::Created(failed.td), failed.cause)),
            },
            Slot::Keyed(mut td, pages) if pages < TDCS_PAGES => {
                let done = self.small().and_then(|page| {
                    let added = cpus.run_here(|cpu| td.add_control_page(cpu, page));
                    self.keep("MNG.ADDCX", added)
                });
                let pages = pages + usize::from(done.is_ok());
                settle(Slot::Keyed(td, pages), done)
            }
            Slot::Keyed(td, pages) => {
                self.backend.write_params();
                match cpus.run_here(|cpu| td.init(cpu, self.backend.params())) {
                    Ok(td) => Ok(Slot::Building(td, Build::default())),
                    Err(failed) => Err(stuck("MNG.INIT", Slot::Keyed(failed.td, pages), failed.cause)),
                }
            }
            Slot::Building(td, build) => self.go_on(td, build),
            other => Ok(other),
        }
    }

    /// The build after MNG.INIT.
    fn go_on(&self, td: Td<'h, Building>, mut build: Build) -> Result<Slot<'h>, Stuck<'h>> {
        let cpus = self.backend.cpus();
        let levels = [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M];
        let first = self.map.measured.start;
        let count = self.map.measured.end.saturating_sub(first);
        let done = match &build.vcpu {
            None => self.small().and_then(|page| {
                let created = cpus.run_here(|cpu| td.create_vcpu(cpu, page));
                self.keep("VP.CREATE", created).map(|vcpu| build.vcpu = Some(vcpu))
            }),
            Some(vcpu) if build.vcpu_pages + 1 < TDVPS_PAGES => self.small().and_then(|page| {
                let added = cpus.run_here(|cpu| td.add_vcpu_page(cpu, vcpu, page));
                self.keep("VP.ADDCX", added).map(|()| build.vcpu_pages += 1)
            }),
            Some(_) if !build.ready => {
                build.vcpu.take().map_or(Ok(()), |vcpu| match cpus.run_here(|cpu| td.init_vcpu(cpu, vcpu, 0)) {
                    Ok(vcpu) => {
                        (build.vcpu, build.ready) = (Some(vcpu), true);
                        Ok(())
                    }
                    Err(failed) => {
                        build.vcpu = Some(failed.td);
                        Err(StepError::new("VP.INIT", failed.cause))
                    }
                })
            }
            Some(_) if build.sept < levels.len() => self.small().and_then(|page| {
                let level = levels.get(build.sept).copied().unwrap_or(SeptLevel::Maps2M);
                // The first address that it maps.
                let covered = 1 << (12 + 9 * level as u8);
                let start = guest_page(first, PageSize::Size4K).address() / covered * covered;
                let gpa = GuestPage::containing(start);
                let added = cpus.run_here(|cpu| td.add_sept_page(cpu, gpa, level, page));
                self.keep("MEM.SEPT.ADD", added).map(|()| build.sept += 1)
            }),
            Some(_) if build.measured < build.added => {
                let gpa = guest_page(first + build.measured, PageSize::Size4K);
                let measured = cpus.run_here(|cpu| td.measure_page(cpu, gpa));
                measured.map(|()| build.measured += 1).map_err(|error| StepError::new("MR.EXTEND", error))
            }
            Some(_) if build.added < count => self.small().and_then(|page| {
                let gpa = guest_page(first + build.added, PageSize::Size4K);
                self.backend.write_source(first + build.added);
                let added = cpus.run_here(|cpu| td.add_page(cpu, gpa, page, self.backend.source()));
                self.keep("MEM.PAGE.ADD", added).map(|()| build.added += 1)
            }),
            Some(vcpu) => {
                let vcpu = vcpu.tdvpr();
                return match cpus.run_here(|cpu| td.finalize(cpu)) {
                    Ok(td) => Ok(Slot::Runnable(td, vcpu)),
                    Err(failed) => Err(stuck("MR.FINALIZE", Slot::Building(failed.td, build), failed.cause)),
                };
            }
        };
        settle(Slot::Building(td, build), done)
    }

    fn tear_down(&self, td: Slot<'h>) -> Result<Slot<'h>, Stuck<'h>> {
        let cpus = self.backend.cpus();
        match td {
            Slot::Empty => Ok(Slot::Empty),
            Slot::Created(td) => Ok(Slot::Dying(td.tear_down(), None)),
            Slot::Keyed(td, _) => Ok(Slot::Dying(td.tear_down(), None)),
            Slot::Building(td, build) => Ok(Slot::Dying(td.tear_down(), build.vcpu.map(|vcpu| vcpu.tdvpr()))),
            Slot::Runnable(td, vcpu) => Ok(Slot::Dying(td.tear_down(), Some(vcpu))),
            Slot::Dying(td, vcpu) => {
                if let Err(error) = td.flush_vcpus(cpus, vcpu.as_slice()) {
                    return Err(stuck("VP.FLUSH", Slot::Dying(td, vcpu), error));
                }
                match td.free_key(cpus) {
                    Ok(dead) => Ok(Slot::Dead(dead, vcpu)),
                    Err(failed) => Err(stuck("MNG.KEY.FREEID", Slot::Dying(failed.td, vcpu), failed.cause)),
                }
            }
            Slot::Dead(dead, vcpu) => self.reclaim(dead, vcpu),
        }
    }

    fn reclaim(&self, dead: Dead<'h>, vcpu: Option<Page>) -> Result<Slot<'h>, Stuck<'h>> {
        let cpus = self.backend.cpus();
        let mut back = Ok(());
        cpus.run_here(|cpu| {
            dead.reclaim_all(cpu, |page| match self.keep("PHYMEM.PAGE.RECLAIM", page) {
                Ok(page) => self.backend.free(page),
                Err(error) => back = Err(error),
            });
        });
        const ROOT: &str = "PHYMEM.PAGE.RECLAIM of the TDR";
        match cpus.run_here(|cpu| dead.finish(cpu)) {
            Ok(page) => {
                self.backend.free(page);
                settle(Slot::Empty, back)
            }
            Err(NotFinished::Kept { td, cause }) => Err(Stuck {
                td: Slot::Dead(td, vcpu),
                error: back.err().unwrap_or_else(|| StepError::new(ROOT, cause)),
            }),
            Err(lost @ NotFinished::Lost(_)) => Err(stuck(ROOT, Slot::Empty, lost)),
        }
    }
}

fn stuck<'h>(step: &'static str, td: Slot<'h>, why: impl fmt::Display) -> Stuck<'h> {
    Stuck { td, error: StepError::new(step, why) }
}

fn settle(td: Slot<'_>, done: Result<(), StepError>) -> Result<Slot<'_>, Stuck<'_>> {
    match done {
        Ok(()) => Ok(td),
        Err(error) => Err(Stuck { td, error }),
    }
}

/// TD_PARAMS: x87, SSE and AVX, write-back EPT of four levels, 1 VCPU, 1 GHz.
pub const fn td_params() -> [u8; 1024] {
    let mut bytes = [0; 1024];
    bytes[8] = 7;
    bytes[16] = 1;
    bytes[24] = 0x1e;
    bytes[40] = 40;
    bytes
}
