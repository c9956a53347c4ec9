//! A TD on its way out, from any step of its life: VCPUs flushed, caches written back, KeyID freed,
//! pages reclaimed and reset.

use core::fmt;
use tdx_abi::{Leaf, Page, PageSize, PamtPageType, PhysAddr, Registers, StatusCode};

use super::error::{Failed, PageError, TdCause};
use super::pages::{call_back, clean, clean_written};
use super::{Td, TdHost};
use crate::bringup::FirstError;
use crate::ledger::PageState;
use crate::page::{ReturnedPage, SharedPage};
use crate::platform::{Cpu, CpuTask, Cpus, Step};
use crate::seamcall::{SeamcallError, call_unchecked};

/// How often an interrupted PHYMEM.CACHE.WB is resumed on a package, as in Linux.
const CACHE_WB_RESUMES: u32 = 10_000;

/// A TD that will not run again; its KeyID is still in use.
#[derive(Debug)]
pub enum Dying {}

/// The KeyID is free, and no cache holds a line of it. What is left are pages.
#[derive(Debug)]
pub struct Dead<'h> {
    host: TdHost<'h>,
    tdr: Page,
}

/// Why a TDR was not returned.
#[derive(Debug)]
pub enum NotFinished<'h> {
    /// The module keeps it, because the TD still has pages or for another reason. Reclaim and try
    /// again.
    Kept {
        /// The TD.
        td: Dead<'h>,
        /// Why.
        cause: TdCause,
    },
    /// The module has returned it, and it could not be cleaned.
    Lost(PageError),
}

impl fmt::Display for NotFinished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept { td, cause } => write!(f, "the TD with TDR {} is not gone: {cause}", td.tdr),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

impl NotFinished<'_> {
    /// Why, without the TD: for `?` where what is left of it is given up.
    pub fn into_cause(self) -> TdCause {
        match self {
            Self::Kept { cause, .. } => cause,
            Self::Lost(error) => error.cause,
        }
    }
}

impl core::error::Error for NotFinished<'_> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Kept { cause, .. } => Some(cause),
            Self::Lost(error) => Some(error),
        }
    }
}

impl<'h, S> Td<'h, S> {
    /// Begins the teardown. The caller has kicked all VCPUs out and enters none any more.
    pub fn tear_down(self) -> Td<'h, Dying> {
        self.into_state()
    }
}

/// VP.FLUSH of every VCPU on the CPU that runs this, which is associated with some of them or with
/// none.
pub(super) struct FlushVcpus<'v> {
    pub(super) vcpus: &'v [Page],
    pub(super) error: &'v FirstError,
}

impl<C: Cpu> CpuTask<C> for FlushVcpus<'_> {
    type Local = usize;

    fn step(&self, cpu: &C, next: &mut usize) -> Step {
        let Some(vcpu) = self.vcpus.get(*next) else { return Step::Done };
        *next += 1;
        // SAFETY: VP.FLUSH moves and writes no memory of the host.
        match unsafe { call_unchecked(cpu, Registers::call(Leaf::VP_FLUSH).rcx_address(vcpu.start())) } {
            Ok(_) => Step::Again,
            Err(error) => match error.status().code() {
                // Not of this CPU, or never made whole, or of a TD whose key was never configured:
                // there is no VMCS.
                StatusCode::VCPU_NOT_ASSOCIATED
                | StatusCode::TDCX_NUM_INCORRECT
                | StatusCode::TD_KEYS_NOT_CONFIGURED => Step::Again,
                _ => {
                    self.error.set(&error);
                    Step::Done
                }
            },
        }
    }
}

/// PHYMEM.CACHE.WB to its end.
pub(super) struct WriteBackKeys<'e> {
    pub(super) error: &'e FirstError,
}

impl<C: Cpu> CpuTask<C> for WriteBackKeys<'_> {
    /// Calls made so far.
    type Local = u32;

    fn step(&self, cpu: &C, calls: &mut u32) -> Step {
        let resume = u64::from(*calls > 0);
        // SAFETY: PHYMEM.CACHE.WB moves no page and writes none but by lines that were its own.
        match unsafe { call_unchecked(cpu, Registers::call(Leaf::PHYMEM_CACHE_WB).rcx(resume)) } {
            Ok(_) => Step::Done,
            Err(error) if error.status().code() == StatusCode::INTERRUPTED_RESUMABLE && *calls < CACHE_WB_RESUMES => {
                *calls += 1;
                Step::Again
            }
            Err(error) => {
                self.error.set(&error);
                Step::Done
            }
        }
    }
}

impl<'h> Td<'h, Dying> {
    /// VP.FLUSH on every CPU for the VCPUs (by their TDVPR pages) that it may hold.
    ///
    /// # Errors
    /// [`TdCause`].
    ///
    /// # SEAMCALL
    /// VP.FLUSH of each VCPU on every CPU; the module says which CPU it belongs to.
    pub fn flush_vcpus<K: Cpus>(&self, cpus: &K, vcpus: &[Page]) -> Result<(), TdCause> {
        let error = FirstError::default();
        cpus.run_on_all(&FlushVcpus { vcpus, error: &error });
        error.get().map_or(Ok(()), |error| Err(error.into()))
    }

    /// MNG.VPFLUSHDONE, PHYMEM.CACHE.WB on every package, MNG.KEY.FREEID. May be called again after
    /// a failure.
    ///
    /// # Errors
    /// [`Failed`] with the TD.
    ///
    /// # SEAMCALL
    /// MNG.VPFLUSHDONE on this CPU, PHYMEM.CACHE.WB on one CPU of each package (resumed up to
    /// 10,000 times), MNG.KEY.FREEID on this CPU. After it no cache holds a line of
    /// the TD, its TDR apart.
    pub fn free_key<K: Cpus>(self, cpus: &K) -> Result<Dead<'h>, Failed<Self>> {
        // SAFETY: the TD is on its way out; the module refuses while a VCPU is not flushed.
        let done = cpus.run_here(|cpu| unsafe { call_unchecked(cpu, self.call(Leaf::MNG_VPFLUSHDONE)) });
        if let Err(error) = done
            // Done in an earlier attempt: the lifecycle is past it.
            && error.status().code() != StatusCode::LIFECYCLE_STATE_INCORRECT
        {
            return Err(Failed { td: self, cause: error.into() });
        }
        let error = FirstError::default();
        cpus.run_on_each_package(&WriteBackKeys { error: &error });
        if let Some(error) = error.get() {
            return Err(Failed { td: self, cause: error.into() });
        }
        // SAFETY: the caches of every package are written back.
        match cpus.run_here(|cpu| unsafe { call_unchecked(cpu, self.call(Leaf::MNG_KEY_FREEID)) }) {
            Ok(_) => {
                let common = self.common;
                common.key.free();
                Ok(Dead { host: common.host, tdr: common.tdr })
            }
            Err(error) => Err(Failed { td: self, cause: error.into() }),
        }
    }
}

impl<'h> Dead<'h> {
    /// PHYMEM.PAGE.RECLAIM of a page by any of its addresses' first 4 KiB page. Gives it back,
    /// clean. The module says how large it is.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # SEAMCALL
    /// PHYMEM.PAGE.RECLAIM on this CPU. Returns a page; none but a TDR needs PHYMEM.PAGE.WBINVD.
    pub fn reclaim<C: Cpu>(&self, cpu: &C, page: Page) -> Result<SharedPage<'h>, PageError> {
        let (page, kind) = reclaim(self.host, cpu, page)?;
        // PHYMEM.CACHE.WB of this TD's KeyID did not cover a TDR: its lines are dirty under the
        // global one.
        match kind {
            PamtPageType::TDR => clean(self.host, cpu, page, self.host.platform.global_key_id()),
            // SAFETY: the module returns no page of a TD whose KeyID was not written back on every
            // package and freed.
            _ => unsafe { clean_written(cpu, page) },
        }
    }

    /// Reclaims every page that the module has for this TD but the TDR. Walks the ledger and asks
    /// PHYMEM.PAGE.RDMD whose each given page is, so no page is forgotten, whatever list the kernel
    /// kept. `back` gets each page, or the error of a page that stays.
    ///
    /// # SEAMCALL
    /// PHYMEM.PAGE.RDMD for each given page of the host, PHYMEM.PAGE.RECLAIM for each of this TD.
    pub fn reclaim_all<C: Cpu>(&self, cpu: &C, mut back: impl FnMut(Result<SharedPage<'h>, PageError>)) {
        for range in self.host.ledger.marked() {
            let mut at = range.start();
            while at < range.end() {
                // The module answers for the whole page, no matter which TD has it.
                let size = match self.host.ledger.state(at) {
                    Some(PageState::Private) if at != self.tdr => match self.owner(cpu, at) {
                        Ok((Owner::This, size)) => {
                            back(self.reclaim(cpu, at));
                            size
                        }
                        Ok((Owner::Other, size)) => size,
                        Err(error) => {
                            back(Err(PageError::without_page(error)));
                            PageSize::Size4K
                        }
                    },
                    _ => PageSize::Size4K,
                };
                at = Page::new(at.index() / size.pages() * size.pages() + size.pages());
            }
        }
    }

    /// PHYMEM.PAGE.RECLAIM of the TDR, once nothing else is left, and its write-back under the
    /// global KeyID. Gives it back, clean.
    ///
    /// # Errors
    /// [`NotFinished`].
    ///
    /// # SEAMCALL
    /// PHYMEM.PAGE.RECLAIM on this CPU. Returns a page, under the global KeyID.
    pub fn finish<C: Cpu>(self, cpu: &C) -> Result<SharedPage<'h>, NotFinished<'h>> {
        match reclaim(self.host, cpu, self.tdr) {
            Ok((page, _)) => clean(self.host, cpu, page, self.host.platform.global_key_id()).map_err(NotFinished::Lost),
            Err(error) if error.leaked.is_some() => Err(NotFinished::Lost(error)),
            Err(error) => Err(NotFinished::Kept { td: self, cause: error.cause }),
        }
    }

    /// Page of its TDR.
    pub fn tdr(&self) -> Page {
        self.tdr
    }

    /// Whose page it is, and how large.
    fn owner<C: Cpu>(&self, cpu: &C, page: Page) -> Result<(Owner, PageSize), SeamcallError> {
        let held = page_held(cpu, page)?;
        let mine = held.tdr == Some(self.tdr);
        Ok((if mine { Owner::This } else { Owner::Other }, held.size))
    }
}

/// What the module has a page for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeld {
    /// [`PamtPageType::NDA`] if it does not have it.
    pub page_type: PamtPageType,
    /// TDR of the TD it belongs to; `None` if it belongs to none.
    pub tdr: Option<Page>,
    /// How large it is, from the page that was asked for on if that begins it; 4 KiB if the module
    /// does not have it.
    pub size: PageSize,
}

/// Asks the module what it has a page for.
///
/// # Errors
/// [`SeamcallError`]: the page is in no TDMR, is busy, or the gate is closed.
///
/// # SEAMCALL
/// PHYMEM.PAGE.RDMD on this CPU.
pub fn page_held<C: Cpu>(cpu: &C, page: Page) -> Result<PageHeld, SeamcallError> {
    // SAFETY: PHYMEM.PAGE.RDMD answers in registers.
    let registers = unsafe { call_unchecked(cpu, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(page.start()))? };
    let page_type = PamtPageType(registers.rcx as u8);
    if page_type == PamtPageType::NDA {
        // The owner of a page that is not assigned is stale.
        return Ok(PageHeld { page_type, tdr: None, size: PageSize::Size4K });
    }
    let size = PageSize::from_level(registers.r8).unwrap_or(PageSize::Size4K);
    Ok(PageHeld { page_type, tdr: Some(PhysAddr::new(registers.rdx).page()), size })
}

/// Whose a page is.
enum Owner {
    This,
    /// Another TD's, or of none.
    Other,
}

/// PHYMEM.PAGE.RECLAIM. Gives the size and the type that the module names, too.
pub(super) fn reclaim<'h, C: Cpu>(
    host: TdHost<'h>,
    cpu: &C,
    page: Page,
) -> Result<(ReturnedPage<'h>, PamtPageType), PageError> {
    let input = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx_address(page.start());
    let mut kind = PamtPageType::NDA;
    // SAFETY: the leaf returns this page; R8 of its answer says how large it is.
    let returned = unsafe {
        call_back(host, cpu, input, |registers| {
            kind = PamtPageType(registers.rcx as u8);
            (page, PageSize::from_level(registers.r8).unwrap_or(PageSize::Size4K))
        })?
    };
    Ok((returned, kind))
}
