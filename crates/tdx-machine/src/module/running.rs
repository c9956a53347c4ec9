//! The VCPU that runs on a CPU: from VP.ENTER to the exit.

use tdx_abi::Page;

/// A VCPU on the CPU it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Running {
    pub(super) tdr: Page,
    pub(super) tdvpr: Page,
    /// The TD's epoch when it entered.
    pub(super) epoch: u64,
}
