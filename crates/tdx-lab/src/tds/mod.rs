//! The TDs of a first kernel: built, used and torn down by the product's own code, and left at the
//! points of their life where a handover finds them. It refuses to touch private memory itself.

mod life;
mod memory;
mod world;

use tdx_abi::{KeyId, Page, PhysAddr};
use tdx_host::td::{Dead, Keyed, Runnable, Td};

pub use life::{Hypervisor, td_params};
pub use memory::TdMemory;
pub use world::{Build, Custody, GUEST_PAGES, Move, Slot, World};

use crate::report::TdReport;
use tdx_operator::report::Address;

/// How far a TD comes before the handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It runs: 4 KiB and 2 MiB pages, one relocated, one split and joined, one removed.
    Running,
    /// Its build has stopped after some TDCS pages.
    HalfBuilt,
    /// Its KeyID is free and some of its pages are back.
    HalfTornDown,
    /// It has lived and is gone.
    Gone,
}

impl Fate {
    /// The fate of the n-th TD, from 0: each kind in turn.
    pub const fn of(number: u32) -> Self {
        match number % 4 {
            0 => Self::Running,
            1 => Self::HalfBuilt,
            2 => Self::HalfTornDown,
            _ => Self::Gone,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::HalfBuilt => "half-built",
            Self::HalfTornDown => "half-torn-down",
            Self::Gone => "gone",
        }
    }
}

/// What the kernel holds of a TD.
#[derive(Debug)]
enum Held<'h> {
    Runnable(Td<'h, Runnable>),
    #[expect(dead_code, reason = "kept, not used: dropping a TD loses its KeyID")]
    Keyed(Td<'h, Keyed>),
    #[expect(dead_code, reason = "as above")]
    Dead(Dead<'h>),
    Nothing,
}

/// A TD and what happened to it.
#[derive(Debug)]
pub struct LabTd<'h> {
    number: u32,
    fate: Fate,
    key: Option<KeyId>,
    tdr: Option<Page>,
    held: Held<'h>,
    story: Vec<String>,
}

impl LabTd<'_> {
    /// For the report.
    pub fn report(&self) -> TdReport {
        TdReport {
            td: self.number,
            key_id: self.key.map(KeyId::get),
            tdr: self.tdr.map(|page| Address(page.start())),
            state: self.fate.name(),
            story: self.story.clone(),
        }
    }
}

/// The module or the ledger said no where the scenario needs a yes.
#[derive(Debug, thiserror::Error)]
#[error("TD {number}: {step}: {cause}")]
pub struct TdsError {
    /// The TD.
    number: u32,
    /// What was tried.
    step: &'static str,
    /// Why it failed.
    cause: String,
}

/// Where the kernel keeps TD_PARAMS while a TD is initialised: in its own image, which is shared
/// memory.
const PARAMS: PhysAddr = PhysAddr::new(16 << 20);
/// What is copied into measured guest pages.
const SOURCE: PhysAddr = PhysAddr::new(17 << 20);
