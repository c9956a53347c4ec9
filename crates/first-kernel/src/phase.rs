//! `TdPhase`: how far the life of a TD has come when the handover finds it, and the moves that lead
//! there.

use tdx_abi::PageSize;
use tdx_host::td::{TDCS_PAGES, TDVPS_PAGES};

use crate::hypervisor::{GuestMap, Move};

/// How far the life of a TD has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TdPhase {
    /// It runs: pages of 4 KiB and 2 MiB were added, one was relocated, one removed, one split and
    /// joined.
    Running,
    /// Its build has stopped after half of its TDCS pages.
    HalfBuilt,
    /// It has lived, its KeyID is free, and one of its pages is back.
    HalfTornDown,
    /// It has lived, and all its pages are back.
    Gone,
}

impl TdPhase {
    /// Every phase, in the order of [`TdPhase::of`].
    pub const ALL: [Self; 4] = [Self::Running, Self::HalfBuilt, Self::HalfTornDown, Self::Gone];

    /// The phase of the n-th TD, from 0: each in turn.
    pub const fn of(number: u32) -> Self {
        match number % 4 {
            0 => Self::Running,
            1 => Self::HalfBuilt,
            2 => Self::HalfTornDown,
            _ => Self::Gone,
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::HalfBuilt => "half-built",
            Self::HalfTornDown => "half-torn-down",
            Self::Gone => "gone",
        }
    }

    /// The moves from nothing to this phase, for a TD with this guest memory. Pages 0 and 1, and
    /// the first large one, are changed where the TD has them.
    pub fn moves(self, map: &GuestMap) -> impl Iterator<Item = Move> + Clone + use<> {
        let half_built = self == Self::HalfBuilt;
        let builds = if half_built { CREATE_AND_KEYS + TDCS_PAGES / 2 } else { build_steps(map) };
        let small = map.augmented.clone().map(|page| Move::Augment(page, PageSize::Size4K));
        let large = (0..map.large).map(|page| Move::Augment(page, PageSize::Size2M));
        let changes =
            [Move::Enter, Move::Relocate(0), Move::Remove(1, PageSize::Size4K), Move::Demote(0), Move::Promote(0)];
        let (pages, has_large) = (map.measured.clone(), map.large > 0);
        let is_there = move |what: &Move| match what {
            Move::Relocate(page) | Move::Remove(page, PageSize::Size4K) => pages.contains(page),
            Move::Demote(_) | Move::Promote(_) => has_large,
            _ => true,
        };
        let changes = changes.into_iter().filter(is_there);
        let run = small.chain(large).chain(changes).filter(move |_| !half_built);
        let end: &[Move] = match self {
            Self::Running | Self::HalfBuilt => &[],
            Self::HalfTornDown => &[Move::TearDown, Move::TearDown, Move::ReclaimOne],
            Self::Gone => &[Move::TearDown, Move::TearDown, Move::TearDown],
        };
        core::iter::repeat_n(Move::Build, builds).chain(run).chain(end.iter().copied())
    }
}

/// Steps of a build before the first TDCS page.
const CREATE_AND_KEYS: usize = 2;

/// Steps from nothing to a TD that can run: with TDCS pages, MNG.INIT, a VCPU of
/// [`TDVPS_PAGES`] and VP.INIT, three Secure-EPT pages, each measured page twice, MR.FINALIZE.
fn build_steps(map: &GuestMap) -> usize {
    let measured = usize::try_from(map.measured.end.saturating_sub(map.measured.start)).unwrap_or(0);
    CREATE_AND_KEYS + TDCS_PAGES + 1 + TDVPS_PAGES + 1 + 3 + 2 * measured + 1
}
