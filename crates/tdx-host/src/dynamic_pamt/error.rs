//! Why a pair was not added or not removed, and what became of its pages.

use tdx_abi::{Page, Status};

use super::count::CountError;
use crate::ledger::MarkError;
use crate::page::TokenError;
use crate::seamcall::SeamcallError;

/// The caller's memory is too small for the counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the counts of dynamic PAMT need {needed} words of 4 bytes, {given} were given")]
pub struct TooSmall {
    /// 32-bit words needed.
    pub needed: u64,
    /// 32-bit words given.
    pub given: u64,
}

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PamtCause {
    /// The page lies outside every TDMR.
    #[error("page {page} lies outside every TDMR")]
    Outside {
        /// The page.
        page: Page,
    },
    /// The count did not change.
    #[error("{0}")]
    Count(#[from] CountError),
    /// A spare page belongs to another ledger.
    #[error("page {page} belongs to another ledger")]
    Foreign {
        /// The page.
        page: Page,
    },
    /// The pair must be added, and there are no two spare pages of 4 KiB for it.
    #[error("the first page of a 2 MiB page needs two spare pages of 4 KiB")]
    NoSpare,
    /// A SEAMCALL failed.
    #[error("{0}")]
    Seamcall(#[from] SeamcallError),
    /// The ledger refused a page.
    #[error("{0}")]
    Mark(#[from] MarkError),
    /// The module named a page that the ledger does not have.
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl PamtCause {
    /// The completion status, if a call was made.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Seamcall(error) => Some(error.status()),
            _ => None,
        }
    }

    /// Another CPU is adding or removing the pair: nothing has changed, try again.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Count(CountError::Busy))
    }
}

/// The count is as it was, and the module has no pair that it did not have before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{cause}")]
pub struct PamtError {
    /// Why.
    pub cause: PamtCause,
    /// Spare pages that could not be cleaned: they stay marked until the next handover, and are
    /// counted as leaked.
    pub lost_pages: u32,
}

impl<T: Into<PamtCause>> From<T> for PamtError {
    fn from(cause: T) -> Self {
        Self { cause: cause.into(), lost_pages: 0 }
    }
}
