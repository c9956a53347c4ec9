//! A host of a machine that is resumed from a snapshot in which TDX is up. Makes no SEAMCALL.

use super::{Host, HostError};

impl Host<'_> {
    /// Takes over what another host has brought up: platform, module, layout and PAMTs. Its ledger,
    /// KeyIDs and reserved memory are not taken over; [`Host::reserve`] and [`Host::track`] come
    /// next.
    ///
    /// For a kernel that runs on from a snapshot of its machine, where no bring-up can be repeated:
    /// the module is initialized already. The slots are this host's own: those of a CPU that had
    /// made SEAMCALLs when the snapshot was taken say so
    /// ([`CpuSlot::from`](crate::CpuSlot#impl-From<CpuActivity>-for-CpuSlot)).
    ///
    /// # Errors
    /// [`HostError::NotUp`] if `earlier` is not up, [`HostError::AlreadySet`] if this host has a
    /// platform, or runs or has run a bring-up; [`HostError::Pamts`]. Nothing was published but the
    /// platform.
    ///
    /// # Safety
    /// This host's machine is a copy of the one that `earlier` has brought TDX up on: the same
    /// module state, the PAMTs of `earlier` in the same places, and no page of a TD is private.
    /// `earlier` is no longer the host of this machine.
    pub unsafe fn resume(&self, earlier: &Host<'_>) -> Result<(), HostError> {
        let (Some(platform), Some(module), Some(layout)) = (earlier.platform(), earlier.module(), earlier.layout())
        else {
            return Err(HostError::NotUp);
        };
        // SAFETY: the same machine's.
        unsafe { self.set_platform(*platform) }?;
        if !self.record.claim() {
            return Err(HostError::AlreadySet);
        }
        // SAFETY: PAMTs of this machine's module, by the contract of this function.
        if let Err(error) = unsafe { self.record.publish(earlier.record.pamt_ranges()) } {
            self.record.release_claim();
            return Err(error.into());
        }
        // The CPU that claims the record is the one that owns the layout.
        if self.up.take_over(module, layout) { Ok(()) } else { Err(HostError::AlreadySet) }
    }
}
