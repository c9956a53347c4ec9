//! What all TDs of a host share: platform, ledger, KeyIDs.

use tdx_abi::{KeyId, Page, PhysAddr};

use crate::key_ids::KeyIds;
use crate::ledger::Ledger;
use crate::platform::TdxPlatform;

/// What all TDs of a host share. [`Host::track`](crate::Host::track) and
/// [`Host::take_over`](crate::Host::take_over) alone make one.
#[derive(Clone, Copy, Debug)]
pub struct TdHost<'h> {
    pub(crate) platform: &'h TdxPlatform,
    pub(crate) ledger: &'h Ledger<'h>,
    pub(crate) key_ids: &'h KeyIds<'h>,
}

impl<'h> TdHost<'h> {
    /// A host whose module is [`crate::bringup::Ready`], with a ledger over its TDMRs.
    ///
    /// # Safety
    /// `ledger` is the one that every handover of this kernel looks at
    /// ([`crate::Host::memory`]), from before this call on. `key_ids` is the machine's
    /// one list of KeyIDs, and `platform` is the machine's.
    pub(crate) unsafe fn new(platform: &'h TdxPlatform, ledger: &'h Ledger<'h>, key_ids: &'h KeyIds<'h>) -> Self {
        Self { platform, ledger, key_ids }
    }

    pub(crate) fn platform(self) -> &'h TdxPlatform {
        self.platform
    }

    /// The ledger.
    pub fn ledger(self) -> &'h Ledger<'h> {
        self.ledger
    }

    /// Address of a page with a KeyID.
    pub(crate) fn tag(self, page: Page, key: KeyId) -> PhysAddr {
        self.platform.key_id_field().tag(page.start(), key)
    }
}
