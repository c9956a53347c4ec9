//! What went wrong in a TD's life, and what became of the page or the TD that was handed in.

use core::fmt;
use tdx_abi::{Page, PageRange, PageSize, Status, StatusCode};

use crate::dynamic_pamt::PamtCause;
use crate::key_ids::KeyIdsError;
use crate::ledger::MarkError;
use crate::page::{SharedPage, TokenError};
use crate::platform::OwnedPages;
use crate::seamcall::SeamcallError;

/// Why an operation on a TD failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TdCause {
    /// A SEAMCALL failed.
    #[error("{0}")]
    Seamcall(#[from] SeamcallError),
    /// The ledger refused the page.
    #[error("{0}")]
    Mark(#[from] MarkError),
    /// The module named a page that the ledger does not have.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// The counts of dynamic PAMT, or the pair.
    #[error("{0}")]
    Pamt(#[from] PamtCause),
    /// No KeyID.
    #[error("{0}")]
    KeyIds(#[from] KeyIdsError),
    /// The page or the VCPU belongs to another host or TD.
    #[error("page {page} belongs to {what}")]
    Foreign {
        /// The page, or that of the VCPU.
        page: Page,
        /// Whose it is.
        what: &'static str,
    },
    /// The operation takes a page of another size.
    #[error("a page of {} bytes is needed, this one has {}", .expected.bytes(), .given.bytes())]
    Size {
        /// What the operation takes.
        expected: PageSize,
        /// What was handed in.
        given: PageSize,
    },
}

impl TdCause {
    /// The completion status, if a call was made.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Seamcall(error) => Some(error.status()),
            _ => None,
        }
    }

    /// TD_FATAL: only teardown is possible.
    pub fn is_fatal(&self) -> bool {
        self.status().is_some_and(|status| status.code() == StatusCode::TD_FATAL)
    }

    /// A guest was in the way or another CPU held a lock: kick the VCPUs and try again.
    pub fn is_busy(&self) -> bool {
        self.status().is_some_and(|status| {
            matches!(status.code(), StatusCode::OPERAND_BUSY | StatusCode::PREVIOUS_TLB_EPOCH_BUSY)
        })
    }
}

/// An operation with a page failed.
#[derive(Debug)]
pub struct PageError {
    /// Why.
    pub cause: TdCause,
    /// The page that was handed in, clean again.
    pub page: Option<OwnedPages>,
    /// A page that could not be cleaned: it stays marked until the next handover, and is counted.
    pub leaked: Option<PageRange>,
}

impl PageError {
    /// No page was involved yet.
    pub(super) fn without_page(cause: impl Into<TdCause>) -> Self {
        Self { cause: cause.into(), page: None, leaked: None }
    }

    /// The page was not touched.
    pub(super) fn unchanged(page: SharedPage<'_>, cause: impl Into<TdCause>) -> Self {
        Self { cause: cause.into(), page: Some(page.release()), leaked: None }
    }

    /// The page is lost until the next handover.
    pub(super) fn leaked(range: PageRange, cause: impl Into<TdCause>) -> Self {
        Self { cause: cause.into(), page: None, leaked: Some(range) }
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        match self.leaked {
            Some(range) => write!(f, "; {range} could not be cleaned and stays marked until the next handover"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for PageError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// A step of a TD failed; the TD is as it was.
#[derive(Debug)]
pub struct Failed<T> {
    /// The TD.
    pub td: T,
    /// Why.
    pub cause: TdCause,
}

impl<T> Failed<T> {
    /// Why, without the TD: for `?` where the TD is given up and leaked.
    pub fn into_cause(self) -> TdCause {
        self.cause
    }
}

impl<T> fmt::Display for Failed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl<T: fmt::Debug> core::error::Error for Failed<T> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}
