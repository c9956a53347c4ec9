//! The life of a TD: build, run-time page operations, teardown. Every page goes through a token and thereby through the
//! ledger. It keeps no list of pages and refuses to lose one: what a failed call may have written to is written back, reset and
//! handed back, or stays marked and is counted.
//!
//! ```text
//! Td<Created> -configure_keys-> Td<Keyed> -init-> Td<Building> -finalize-> Td<Runnable>
//!      \______________________ \________________ \_____________________ \_____ tear_down
//!                                                                                  |
//!                                       Td<Dying> -flush_vcpus, free_key-> Dead -reclaim_all, finish-> gone
//! ```
//!
//! A TD can be torn down from every step, also when the module calls it fatal. Dropping one leaks its KeyID and its pages on
//! purpose: they stay marked, and the next handover resets them.

mod build;
mod dynamic;
mod error;
mod guest;
mod pages;
mod teardown;
mod vcpu;

use core::marker::PhantomData;
use tdx_abi::{KeyId, Page, PageSize, PhysAddr, Registers};

use crate::key_ids::{KeyIds, KeyLease};
use crate::ledger::Ledger;
use crate::platform::TdxPlatform;
use crate::sync::{AtomicU64, Ordering};

pub use build::{Building, Created, Keyed, Runnable, TDCS_PAGES};
pub use dynamic::Promoted;
pub use error::{Failed, PageError, TdCause};
pub use guest::{Built, GuestPage, SeptLevel};
pub use teardown::{CACHE_WB_RESUMES, Dead, Dying, NotFinished};
pub use vcpu::{TDVPS_PAGES, Vcpu};

/// What all TDs of a host share.
#[derive(Clone, Copy, Debug)]
pub struct TdHost<'h> {
    platform: &'h TdxPlatform,
    ledger: &'h Ledger<'h>,
    key_ids: &'h KeyIds<'h>,
}

impl<'h> TdHost<'h> {
    /// A host whose module is [`crate::bringup::Ready`], with a ledger over its TDMRs.
    pub fn new(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> Self {
        Self { platform, ledger, key_ids }
    }

    /// The ledger.
    pub fn ledger(self) -> &'h Ledger<'h> {
        self.ledger
    }

    fn tag(self, page: Page, key: KeyId) -> PhysAddr {
        self.platform.key_id_field().tag(page.start(), key)
    }
}

/// A TD. `S` is how far it has come.
#[derive(Debug)]
#[must_use = "dropping a TD leaks its KeyID and its pages"]
pub struct Td<'h, S> {
    common: Common<'h>,
    state: PhantomData<S>,
}

/// What every step of a TD has.
#[derive(Debug)]
struct Common<'h> {
    host: TdHost<'h>,
    tdr: Page,
    key: KeyLease<'h>,
    /// 4 KiB pages that the TD has, its TDR not counted.
    pages: AtomicU64,
}

impl Common<'_> {
    fn took(&self, size: PageSize) {
        self.pages.fetch_add(size.pages(), Ordering::Relaxed);
    }

    fn let_go(&self, size: PageSize) {
        self.pages.fetch_sub(size.pages(), Ordering::Relaxed);
    }
}

impl<'h, S> Td<'h, S> {
    /// Page of its TDR: what the module calls it by.
    pub fn tdr(&self) -> Page {
        self.common.tdr
    }

    /// Its KeyID.
    pub fn key_id(&self) -> KeyId {
        self.common.key.key()
    }

    /// 4 KiB pages that it has, the TDR not counted.
    pub fn pages(&self) -> u64 {
        self.common.pages.load(Ordering::Relaxed)
    }

    fn call(&self, leaf: tdx_abi::Leaf) -> Registers {
        Registers::call(leaf).rcx_address(self.common.tdr.start())
    }

    fn into_state<T>(self) -> Td<'h, T> {
        Td { common: self.common, state: PhantomData }
    }
}
