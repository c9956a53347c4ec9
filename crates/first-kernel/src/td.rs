//! The TDs of a first kernel: each is built and left at some point of its life, where the handover
//! finds it.

use core::fmt;
use tdx_abi::{Page, PageRange, PageSize, PhysAddr};
use tdx_host::{
    bringup::Kernel,
    page::SharedPage,
    platform::Cpu,
    td::{GuestPage, SeptLevel, TDCS_PAGES, TDVPS_PAGES, TdHost},
};

/// 4 KiB pages that one TD takes at most.
pub const PAGES_PER_TD: u64 = 3 * 512;

/// Measured pages, from guest address 0 on.
const ADDED: u64 = 4;
/// Pages added while it runs, behind them.
const AUGMENTED: u64 = 4;
const MIB: u64 = 1 << 20;

/// How far a TD comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It could run; a page was removed and one moved.
    Runnable,
    /// Half of its control pages are there.
    HalfBuilt,
    /// It has lived and is gone.
    Gone,
    /// It has lived, its KeyID is free, and some of its pages are back.
    HalfGone,
}

impl Fate {
    /// The fate of the n-th TD, from 0: each in turn.
    pub const fn of(number: u32) -> Self {
        match number % 4 {
            0 => Self::Runnable,
            1 => Self::HalfBuilt,
            2 => Self::Gone,
            _ => Self::HalfGone,
        }
    }
}

/// A step that failed, and how.
pub struct StoryError {
    /// The step.
    pub step: &'static str,
    why: [u8; 160],
    length: usize,
}

impl fmt::Display for StoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, core::str::from_utf8(&self.why[..self.length]).unwrap_or("?"))
    }
}

impl fmt::Debug for StoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Write for StoryError {
    /// Cuts what is too long.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.why[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

fn at<T, E: fmt::Display>(step: &'static str, result: Result<T, E>) -> Result<T, StoryError> {
    result.map_err(|error| {
        let mut failed = StoryError { step, why: [0; 160], length: 0 };
        // Writing to it never fails.
        let _ = fmt::write(&mut failed, format_args!("{error}"));
        failed
    })
}

/// Where the pages of a TD come from and go back to.
pub trait Pages {
    /// A page that is the caller's until it comes back. `None` if there is none.
    fn take(&mut self, size: PageSize) -> Option<Page>;

    /// Ordinary memory again.
    fn give_back(&mut self, range: PageRange);
}

/// The pages of a range, large ones first from the front, small ones from the back, each once.
struct RangePages {
    front: u64,
    back: u64,
}

impl Pages for RangePages {
    fn take(&mut self, size: PageSize) -> Option<Page> {
        if self.front + size.pages() > self.back {
            return None;
        }
        if size == PageSize::Size4K {
            self.back -= 1;
            return Some(Page::new(self.back));
        }
        self.front += size.pages();
        Some(Page::new(self.front - size.pages()))
    }

    fn give_back(&mut self, _range: PageRange) {}
}

/// Pages that the ledger calls shared.
struct Pool<'h, 'p, P> {
    host: TdHost<'h>,
    pages: &'p mut P,
}

impl<'h, P: Pages> Pool<'h, '_, P> {
    fn take(&mut self, size: PageSize) -> Result<SharedPage<'h>, StoryError> {
        let page = at("a page", self.pages.take(size).ok_or("there is none"))?;
        at("a page", SharedPage::take(self.host.ledger(), page, size)).inspect_err(|_| {
            self.pages.give_back(PageRange::new(page, Page::new(page.index() + size.pages())));
        })
    }

    fn small(&mut self) -> Result<SharedPage<'h>, StoryError> {
        self.take(PageSize::Size4K)
    }

    /// A page that came back is ordinary memory: the kernel's next user would flush it like any
    /// other.
    fn use_again<C: Cpu>(&mut self, cpu: &C, range: PageRange) {
        cpu.flush_lines(range.lines());
        cpu.fence();
        self.pages.give_back(range);
    }
}

/// TD_PARAMS: x87, SSE and AVX, write-back EPT of four levels, 1 VCPU, 1 GHz.
fn td_params() -> [u8; 1024] {
    let mut bytes = [0; 1024];
    for (offset, value) in [(8, 7), (16, 1), (24, 0x1e), (40, 40)] {
        bytes[offset] = value;
    }
    bytes
}

/// [`live_in`] in the pages of `range`, of which there are [`PAGES_PER_TD`] at least.
///
/// # Errors
/// As [`live_in`].
pub fn live<K: Kernel>(
    kernel: &mut K,
    host: TdHost<'_>,
    range: PageRange,
    shared: PhysAddr,
    fate: Fate,
) -> Result<(), StoryError> {
    let mut pages = RangePages { front: range.start().index().next_multiple_of(512), back: range.end().index() };
    live_in(kernel, host, &mut pages, shared, fate)
}

/// A TD lives up to its fate. `shared` is a page of shared memory that is the kernel's own.
/// Whatever the TD holds at the end it holds for good.
///
/// # Errors
/// [`StoryError`]: the module or the ledger refused what they should not, or there are no pages.
pub fn live_in<K: Kernel, P: Pages>(
    kernel: &mut K,
    host: TdHost<'_>,
    pages: &mut P,
    shared: PhysAddr,
    fate: Fate,
) -> Result<(), StoryError> {
    kernel.write(shared, &td_params());
    let kernel = &*kernel;
    let mut pool = Pool { host, pages };
    let root = pool.small()?;
    let td = at("MNG.CREATE", kernel.run_here(|cpu| host.create(cpu, root)))?;
    let mut td = at("MNG.KEY.CONFIG", td.configure_keys(kernel))?;
    let control_pages = if fate == Fate::HalfBuilt { TDCS_PAGES / 2 } else { TDCS_PAGES };
    for _ in 0..control_pages {
        let page = pool.small()?;
        at("MNG.ADDCX", kernel.run_here(|cpu| td.add_control_page(cpu, page)))?;
    }
    if fate == Fate::HalfBuilt {
        return Ok(());
    }
    let td = at("MNG.INIT", kernel.run_here(|cpu| td.init(cpu, shared)))?;
    let page = pool.small()?;
    let vcpu = at("VP.CREATE", kernel.run_here(|cpu| td.create_vcpu(cpu, page)))?;
    for _ in 1..TDVPS_PAGES {
        let page = pool.small()?;
        at("VP.ADDCX", kernel.run_here(|cpu| td.add_vcpu_page(cpu, &vcpu, page)))?;
    }
    let vcpu = at("VP.INIT", kernel.run_here(|cpu| td.init_vcpu(cpu, vcpu, 0)))?;
    for level in [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M] {
        let page = pool.small()?;
        at("MEM.SEPT.ADD", kernel.run_here(|cpu| td.add_sept_page(cpu, guest(0), level, page)))?;
    }
    for index in 0..ADDED {
        let (gpa, page) = (guest(index << 12), pool.small()?);
        at("MEM.PAGE.ADD", kernel.run_here(|cpu| td.add_page(cpu, gpa, page, shared)))?;
        at("MR.EXTEND", kernel.run_here(|cpu| td.measure_page(cpu, gpa)))?;
    }
    let td = at("MR.FINALIZE", kernel.run_here(|cpu| td.finalize(cpu)))?;
    for index in ADDED..ADDED + AUGMENTED {
        let page = pool.small()?;
        at("MEM.PAGE.AUG", kernel.run_here(|cpu| td.augment(cpu, guest(index << 12), page)))?;
    }
    let large = pool.take(PageSize::Size2M)?;
    at("MEM.PAGE.AUG of 2 MiB", kernel.run_here(|cpu| td.augment(cpu, guest(2 * MIB), large)))?;
    let (moved, gone, target) = (guest(0), guest(1 << 12), pool.small()?);
    kernel.run_here(|cpu| -> Result<(), StoryError> {
        for gpa in [moved, gone] {
            at("MEM.RANGE.BLOCK", td.block(cpu, gpa, PageSize::Size4K))?;
        }
        at("MEM.TRACK", td.track(cpu))?;
        pool.use_again(cpu, at("MEM.PAGE.RELOCATE", td.relocate_page(cpu, moved, target))?.release());
        pool.use_again(cpu, at("MEM.PAGE.REMOVE", td.remove_page(cpu, gone, PageSize::Size4K))?.release());
        Ok(())
    })?;
    if fate == Fate::Runnable {
        return Ok(());
    }
    let dying = td.tear_down();
    at("VP.FLUSH", dying.flush_vcpus(kernel, &[vcpu.tdvpr]))?;
    let dead = at("MNG.KEY.FREEID", dying.free_key(kernel))?;
    if fate == Fate::HalfGone {
        let back = at("PHYMEM.PAGE.RECLAIM", kernel.run_here(|cpu| dead.reclaim(cpu, vcpu.tdvpr)))?;
        pool.pages.give_back(back.release());
        return Ok(());
    }
    let mut failed = Ok(());
    kernel.run_here(|cpu| {
        dead.reclaim_all(cpu, |page| match page {
            Ok(page) => pool.pages.give_back(page.release()),
            Err(error) => failed = Err(error),
        });
    });
    at("PHYMEM.PAGE.RECLAIM", failed)?;
    pool.pages.give_back(at("PHYMEM.PAGE.RECLAIM of the TDR", kernel.run_here(|cpu| dead.finish(cpu)))?.release());
    Ok(())
}

fn guest(address: u64) -> GuestPage {
    GuestPage::containing(address)
}
