//! The TDs of a first kernel on the software machine: `first-kernel`'s hypervisor with the pages
//! and the guests of the laboratory. It never touches private memory itself.

mod custody;
mod life;
mod memory;
mod world;

use first_kernel::{KeptTd, Slot, StepError, TdPhase};
use tdx_abi::{KeyId, Page, PhysAddr};

pub use custody::Custody;
pub use life::Hypervisor;
pub use memory::{pool, track};
pub use world::{GUEST_PAGES, World};

use crate::report::TdReport;
use tdx_operator::report::Address;

/// A TD and what happened to it.
#[derive(Debug)]
pub struct LabTd<'h> {
    number: u32,
    phase: TdPhase,
    key: Option<KeyId>,
    tdr: Option<Page>,
    /// Pages that it had when it ran.
    pages: u64,
    /// What the kernel holds of it. Dropping a TD loses its KeyID.
    held: Slot<'h>,
    story: Vec<String>,
}

impl LabTd<'_> {
    /// Its number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// It was finalized and is not being torn down.
    pub fn runs(&self) -> bool {
        matches!(self.held, Slot::Runnable(..))
    }

    /// For the takeover table.
    pub fn kept(&self) -> Option<KeptTd> {
        self.held.kept()
    }

    /// For the report.
    pub fn report(&self) -> TdReport {
        TdReport {
            td: self.number,
            key_id: self.key.map(KeyId::get),
            tdr: self.tdr.map(|page| Address(page.start())),
            state: self.phase.name(),
            story: self.story.clone(),
        }
    }
}

/// The module or the ledger refused where the scenario needs a success.
#[derive(Debug, thiserror::Error)]
#[error("TD {number}: {error}")]
pub struct TdsError {
    /// The TD.
    number: u32,
    /// What was tried, and why it failed.
    error: StepError,
}

/// Where the kernel keeps TD_PARAMS while a TD is initialized: in its own image, which is shared
/// memory.
const PARAMS: PhysAddr = PhysAddr::new(16 << 20);
/// What is copied into measured guest pages.
const SOURCE: PhysAddr = PhysAddr::new(17 << 20);

/// TD_PARAMS. The memory of a debug TD can be written and read by its host.
fn params(debug: bool) -> [u8; 1024] {
    const ATTRIBUTES: usize = 0;
    const DEBUG: u8 = 1;
    let mut params = first_kernel::td_params();
    if debug {
        params[ATTRIBUTES] = DEBUG;
    }
    params
}
