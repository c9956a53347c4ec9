//! The life of a TD: build, run-time page operations, teardown. Every page goes through a token and
//! thereby through the ledger. It keeps no list of pages and loses none: what a failed call may
//! have written to is written back, reset and handed back, or stays marked and is counted.
//!
//! ```text
//! Td<Created> -configure_keys-> Td<Keyed> -init-> Td<Building> -finalize-> Td<Runnable>
//!      \______________________ \________________ \_____________________ \_____ tear_down
//!                                                                                  |
//!                                       Td<Dying> -flush_vcpus, free_key-> Dead -reclaim_all, finish-> gone
//! ```
//!
//! A TD can be torn down from every step, also when the module calls it fatal. Dropping one leaks
//! its KeyID and its pages on purpose: they stay marked, and the next handover resets them.
//!
//! # What every SEAMCALL here does with caches
//!
//! * **Takes a page**: the host's own lines of it are flushed (CLFLUSHOPT, MFENCE) and the page is
//!   marked before the call. If the call fails, PHYMEM.PAGE.WBINVD of each 4 KiB under the TD's
//!   KeyID, MOVDIR64B, fence, and the page is in the error, shared. If that fails too, or the
//!   module is dead, the page is leaked: it stays marked.
//! * **Returns a page**: the ledger says so before anything else happens to the page; then
//!   PHYMEM.PAGE.WBINVD of each 4 KiB under the TD's KeyID, MOVDIR64B, fence, unmark.
//!
//! What "the TD's KeyID" is at a TDR and at a pair of dynamic PAMT is the global KeyID; the
//! functions say so.
//!
//! # What the caller does
//!
//! It builds TD_PARAMS, enters VCPUs (VP.ENTER, in its own code, through [`crate::gate`]), kicks
//! them out when [`TdCause::is_busy`] says that one was in the way, and holds its own locks: two
//! calls about one TD at the same time are safe and may find each other busy.
//!
//! # Example
//!
//! `examples/hypervisor.rs` has a whole life. The beginning, and the end of a TD that was never
//! finished:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! let tds = tdx.track(kernel::words(tdx.tracking_words())).unwrap();
//! let (cpu, ledger) = (kernel.cpu(), tds.ledger());
//! let td = tds.create(&cpu, kernel.take_page(ledger)).unwrap();
//! let mut td = td.configure_keys(&kernel).unwrap();
//! td.add_control_page(&cpu, kernel.take_page(ledger)).unwrap();
//! assert_eq!((td.pages(), ledger.marked_pages()), (1, 2));
//!
//! // From any step: flush, free the KeyID, take every page back.
//! let dying = td.tear_down();
//! dying.flush_vcpus(&kernel, &[]).unwrap();
//! let dead = dying.free_key(&kernel).unwrap();
//! dead.reclaim_all(&cpu, |page| kernel.put_page(page.unwrap()));
//! kernel.put_page(dead.finish(&cpu).unwrap());
//! assert_eq!((ledger.marked_pages(), ledger.leaked_pages()), (0, 0));
//! ```

mod adopt;
mod build;
mod dynamic;
mod error;
mod guest;
mod guest_page;
mod pages;
mod teardown;
mod vacuum;
mod vcpu;

use core::marker::PhantomData;
use tdx_abi::{KeyId, Page, PageSize, Registers};

use crate::key_ids::KeyLease;
use crate::sync::{AtomicU64, Ordering};

pub use crate::td_host::TdHost;
pub use adopt::{AdoptError, VcpuHost};
pub use build::{Building, Created, Keyed, Runnable, TDCS_PAGES};
pub use dynamic::Promoted;
pub use error::{Failed, PageError, TdCause};
pub use guest::{Built, SeptLevel};
pub use guest_page::GuestPage;
pub use teardown::{Dead, Dying, NotFinished, PageHeld, page_held};
pub use vacuum::Vacuumed;
pub use vcpu::{TDVPS_PAGES, Vcpu};

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
