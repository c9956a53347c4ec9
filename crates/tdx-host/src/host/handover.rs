//! Kexec, crash and machine checks, with the host's memory in place.

use tdx_abi::{PageRange, PhysAddr};

use super::{Host, HostError};
use crate::handover::{
    CameBack, Explanation, HandoverReport, Kexec, KexecKind, Loaded, NmiStop, Policy, Refused, check_image_load,
    explain, hand_over_crash, stop_this_cpu,
};
use crate::layout::FrameSource;
use crate::platform::Cpu;

impl Host<'_> {
    /// May this image be loaded? As [`check_image_load`].
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check_image_load(&self, policy: Policy, kind: KexecKind, segments: &[PageRange]) -> Result<(), Refused> {
        check_image_load(policy, kind, &self.memory(), segments)
    }

    /// Begins a kexec. As [`Kexec::begin`].
    ///
    /// # Errors
    /// [`Refused`].
    pub fn kexec(&self, policy: Policy, kind: KexecKind) -> Result<Kexec<'_, Loaded>, Refused> {
        Kexec::begin(policy, kind, self.memory())
    }

    /// Hands the machine to the crash kernel. As [`hand_over_crash`].
    pub fn crash<C: Cpu>(&self, policy: Policy, cpu: &C, others: &impl NmiStop) -> HandoverReport {
        hand_over_crash(policy, cpu, others, &self.memory())
    }

    /// What a CPU does when it is told to stop for a kexec. As [`stop_this_cpu`].
    pub fn stop_this_cpu<C: Cpu>(&self, cpu: C) {
        stop_this_cpu(cpu, self.platform());
    }

    /// Explains an address. As [`explain`], with the layout once TDX is up.
    pub fn explain(&self, address: PhysAddr) -> Explanation {
        explain(&self.memory(), self.layout(), address)
    }

    /// This kernel goes on after a handover. As [`HandoverReport::came_back`]; after
    /// [`CameBack::CanBringUpAgain`] comes [`Host::start_over`].
    pub fn came_back(&self, report: &HandoverReport) -> CameBack {
        report.came_back(&self.memory())
    }

    /// Takes the ledger out of use; another one can be published. False if there is none.
    ///
    /// # Safety
    /// No page of the ledger is marked, or memory was handed over clean. No CPU uses the ledger or
    /// anything that was made from it (TD, page token,
    /// [`HostMemory`](crate::handover::HostMemory)), and no CPU calls the host during this call.
    pub unsafe fn withdraw_ledger(&self) -> bool {
        // SAFETY: by the contract of this function.
        let Some(mut ledger) = (unsafe { self.ledger.take_back() }) else { return false };
        *ledger = None;
        ledger.give_back();
        true
    }

    /// Empties the host after [`CameBack::CanBringUpAgain`]: ledger, KeyIDs, module and layout are
    /// gone, and the PAMTs are `frames`' again. Then TDX can be brought up anew.
    ///
    /// # Errors
    /// [`HostError::MayHavePrivateMemory`], [`HostError::NotUp`]; nothing has changed.
    ///
    /// # Safety
    /// No CPU uses anything that this host gave out: no TD, page token, ledger, KeyID, layout or
    /// [`HostMemory`](crate::handover::HostMemory); and no CPU calls the host during this call.
    pub unsafe fn start_over<F: FrameSource + ?Sized>(&self, frames: &mut F) -> Result<(), HostError> {
        if self.layout().is_none() {
            return Err(HostError::NotUp);
        }
        if self.record.may_have_private_memory() || self.gate().is_closed() || !self.record.claim() {
            return Err(HostError::MayHavePrivateMemory);
        }
        // SAFETY: by the contract of this function nothing that the host gave out is in use.
        let (_, key_ids) = unsafe { (self.withdraw_ledger(), self.key_ids.take_back()) };
        if let Some(mut key_ids) = key_ids {
            *key_ids = None;
            key_ids.give_back();
        }
        // SAFETY: as above.
        unsafe {
            self.up.take_back(|layout| {
                // The record is empty: the PAMTs were reset and fenced.
                layout.set_private(false);
                let _ = layout.release_frames(frames);
            });
        }
        self.record.release_claim();
        Ok(())
    }
}
