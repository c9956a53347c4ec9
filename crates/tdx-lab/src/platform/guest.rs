//! What a guest does the next time one of its VCPUs is entered: VP.ENTER returns to the host when
//! all of it is done and an interrupt has taken the VCPU out. A guest runs no code here.

use std::sync::atomic::Ordering;

use tdx_abi::{PageSize, Status};
use tdx_machine::{CpuId, GuestOutcome};

use super::{Lab, lock};

/// An act of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestAct {
    /// Accepts the page of this size at this guest address.
    Accept(u64, PageSize),
    /// Stores to the line at this guest address.
    Store(u64),
    /// Loads the line at this guest address.
    Load(u64),
}

impl Lab<'_> {
    /// What the next guest that is entered does.
    pub fn let_guest(&self, acts: impl IntoIterator<Item = GuestAct>) {
        *lock(&self.guest) = acts.into_iter().collect();
    }

    /// What the next guest that is entered would do.
    pub fn guest_acts(&self) -> Vec<GuestAct> {
        lock(&self.guest).clone()
    }

    /// Acts that the guest which was entered last has done: fewer than it was to do if it faulted.
    pub fn guest_did(&self) -> usize {
        self.guest_did.load(Ordering::Relaxed)
    }

    /// The VCPU on this CPU acts until it is done or faults, and leaves. Gives RAX of VP.ENTER.
    pub fn run_guest(&self, cpu: CpuId) -> Status {
        let acts = std::mem::take(&mut *lock(&self.guest));
        self.guest_did.store(0, Ordering::Relaxed);
        for act in acts {
            let outcome = self.try_act(|machine| {
                let outcome = match act {
                    GuestAct::Accept(gpa, size) => machine.guest_accept(cpu, gpa, size),
                    GuestAct::Store(gpa) => machine.guest_store(cpu, gpa),
                    GuestAct::Load(gpa) => machine.guest_load(cpu, gpa),
                };
                outcome.map(Some)
            });
            if !matches!(outcome, Some(GuestOutcome::Done | GuestOutcome::AlreadyAccepted)) {
                break;
            }
            self.guest_did.fetch_add(1, Ordering::Relaxed);
        }
        self.try_act(|machine| machine.leave_vcpu(cpu))
    }
}
