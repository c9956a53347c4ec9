//! Compares a [`Ledger`] with what the module says of each page (PHYMEM.PAGE.RDMD), page by page:
//! for a proof on a running host, and to learn the pages of TDs that were there before the
//! observer. One [`look`] is one SEAMCALL about one page; it moves no page.
//!
//! ```text
//!   next_page(ledger, from) -> look(cpu, ledger, page) -> Answer: pages, Says, PageStates
//!                                                          \-> follow::learn, if the ledger misses them
//! ```
//!
//! # What the caller does
//!
//! RDMD locks the page's entry in the PAMT shared, and a SEAMCALL that needs it exclusively fails
//! then, which a hypervisor does not expect of every call. So the caller excludes all other
//! SEAMCALLs but VP.ENTER for the time of one look; then it also compares one instant. If the state
//! of the page in the ledger has changed nevertheless, that is [`LookError::Changed`].

use tdx_abi::{Leaf, Page, PageRange, PageSize, PamtPageType, Registers, Status, StatusCode, TDMR_GRANULARITY};

use crate::ledger::{Ledger, PageState};
use crate::platform::Cpu;

/// What the module says of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Says {
    /// It has them, for this.
    Owned(PamtPageType),
    /// It could take them.
    Free,
    /// PAMT, or a hole in the memory of a TDMR.
    Reserved,
    /// In no TDMR.
    Outside,
}

/// Answer to one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The pages that it is about: the one that was asked for, and those behind it of which the
    /// same is true.
    pub pages: PageRange,
    /// What the module says.
    pub says: Says,
}

/// Why a look has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// Another SEAMCALL has the page. To be tried again.
    #[error("page {0} is in use by another SEAMCALL")]
    Busy(Page),
    /// The ledger has changed meanwhile. To be tried again.
    #[error("the state of page {0} has changed meanwhile")]
    Changed(Page),
    /// The gate is closed, the CPU is not in VMX operation, or the module has failed.
    #[error("PHYMEM.PAGE.RDMD failed: {0}")]
    Failed(Status),
}

/// Answers about pages of 1 GiB are cut to this many, so that a look stays short.
const AT_ONCE: u64 = PageSize::Size2M.pages();

/// The first page at or after this one that the ledger covers.
pub fn next_page(ledger: &Ledger<'_>, from: Page) -> Option<Page> {
    ledger.ranges().find(|range| range.end() > from).map(|range| range.start().max(from))
}

/// 4 KiB pages that the ledger covers.
pub fn pages(ledger: &Ledger<'_>) -> u64 {
    ledger.ranges().map(PageRange::pages).sum()
}

/// The pages from this one on, up to the end of the aligned block of `size` pages around it.
fn block(page: Page, size: u64) -> PageRange {
    PageRange::new(page, Page::new((page.index() / size + 1) * size))
}

/// Asks the module for a page, once, and looks whether the ledger stays as it is meanwhile.
///
/// # Errors
/// [`LookError`].
///
/// # SEAMCALL
/// PHYMEM.PAGE.RDMD on this CPU, which counts as one whose caches may hold private lines from then
/// on.
pub fn look<C: Cpu>(cpu: &C, ledger: &Ledger<'_>, page: Page) -> Result<Answer, LookError> {
    let before = ledger.state(page);
    let input = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(page.start());
    let registers = match cpu.cpu_gate().enter(Leaf::PHYMEM_PAGE_RDMD) {
        // SAFETY: RDMD answers in registers; the gate has admitted the call.
        Ok(_guard) => unsafe { cpu.seamcall(input) },
        Err(_) => return Err(LookError::Failed(Status::GATE_CLOSED)),
    };
    let status = registers.status();
    if !status.is_error() {
        if ledger.state(page) != before {
            return Err(LookError::Changed(page));
        }
        return Ok(answer(page, &registers));
    }
    match status.code() {
        StatusCode::OPERAND_BUSY | StatusCode::SYS_BUSY => Err(LookError::Busy(page)),
        // TDMRs are whole GiBs.
        StatusCode::OPERAND_ADDR_RANGE_ERROR => {
            Ok(Answer { pages: block(page, TDMR_GRANULARITY / tdx_abi::PAGE_SIZE), says: Says::Outside })
        }
        _ => Err(LookError::Failed(status)),
    }
}

fn answer(page: Page, registers: &Registers) -> Answer {
    let says = match PamtPageType(registers.rcx as u8) {
        PamtPageType::NDA => Says::Free,
        PamtPageType::RSVD => Says::Reserved,
        other => Says::Owned(other),
    };
    let size = PageSize::from_level(registers.r8).unwrap_or(PageSize::Size4K).pages().min(AT_ONCE);
    Answer { pages: block(page, size), says }
}

/// What the comparison of one page comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Both say that the module has it, or that it does not.
    Agree,
    /// The module has it, and the ledger has no mark: it would not be reset.
    Missing,
    /// The ledger has a mark, and the module does not have it. Harmless: a page that was returned
    /// or refused and not reset.
    Surplus(PageState),
}

/// Compares the ledger's state of a page with what the module says of it.
pub const fn compare(state: PageState, says: Says) -> Finding {
    match (state, says) {
        (PageState::Shared, Says::Owned(_)) => Finding::Missing,
        (PageState::Shared, _) | (_, Says::Owned(_)) => Finding::Agree,
        (marked, _) => Finding::Surplus(marked),
    }
}
