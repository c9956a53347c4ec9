//! Memory that the module uses, by PAMT: for SYS.DISABLE, and for reports that name the type of a
//! private page.

use alloc::vec::Vec;
use core::ops::ControlFlow;
use tdx_abi::{KeyId, Page, PageRange, PageSize};

use super::Module;
use super::pamt::PageType;

/// What a page is assigned as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AssignedKind {
    /// Root of a TD, under the global KeyID.
    Tdr,
    /// TDCS or TDVPS, but for the VCPU's root.
    Tdcx,
    /// Root of a VCPU.
    Tdvpr,
    /// Secure-EPT.
    Sept,
    /// Guest memory.
    Guest,
    /// One of a pair that holds the PAMT entries of a 2 MiB page (dynamic PAMT), under the global
    /// KeyID.
    PamtPair,
}

impl AssignedKind {
    /// As people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tdr => "TDR",
            Self::Tdcx => "TDCX",
            Self::Tdvpr => "TDVPR",
            Self::Sept => "SEPT",
            Self::Guest => "guest page",
            Self::PamtPair => "PAMT page pair",
        }
    }
}

/// Adjacent pages that the module holds for one purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AssignedRun {
    /// The pages.
    pub pages: PageRange,
    /// The purpose.
    pub kind: AssignedKind,
    /// TDR page of the TD; the page itself for a TDR. `None`: no TD's.
    pub tdr: Option<Page>,
    /// The KeyID they are written under.
    pub key: KeyId,
}

impl Module {
    /// Every page that PAMT says is assigned, by kind of table, ascending in each.
    pub(crate) fn assigned(&self) -> Vec<AssignedRun> {
        let mut runs: Vec<AssignedRun> = Vec::new();
        let mut push = |run: AssignedRun| match runs.last_mut() {
            Some(last)
                if last.pages.end() == run.pages.start() && AssignedRun { pages: last.pages, ..run } == *last =>
            {
                last.pages = PageRange::new(last.pages.start(), run.pages.end());
            }
            _ => runs.push(run),
        };
        for level in PageSize::ALL {
            let _ = self.pamt.runs(level, |pages, entry| {
                let (kind, key, tdr) = match entry.page_type {
                    PageType::Nda | PageType::Rsvd | PageType::Pamt => return ControlFlow::<()>::Continue(()),
                    PageType::Tdr => (AssignedKind::Tdr, self.global_key(), pages.start()),
                    PageType::Tdcx => (AssignedKind::Tdcx, self.key_of(entry.owner), entry.owner),
                    PageType::Tdvpr => (AssignedKind::Tdvpr, self.key_of(entry.owner), entry.owner),
                    PageType::Ept => (AssignedKind::Sept, self.key_of(entry.owner), entry.owner),
                    PageType::Reg => (AssignedKind::Guest, self.key_of(entry.owner), entry.owner),
                };
                push(AssignedRun { pages, kind, tdr: Some(tdr), key });
                ControlFlow::Continue(())
            });
        }
        for page in self.dynamic_pamt.iter().flat_map(super::dynamic_pamt::DynamicPamt::pages) {
            let pages = PageRange::new(page, Page::new(page.index() + 1));
            push(AssignedRun { pages, kind: AssignedKind::PamtPair, tdr: None, key: self.global_key() });
        }
        runs
    }

    fn key_of(&self, tdr: Page) -> KeyId {
        self.tds.get(&tdr).map_or(KeyId::HOST, |td| td.key)
    }
}
