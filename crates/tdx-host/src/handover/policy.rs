//! What to do with private memory at kexec, and why nothing was done or was left.

use crate::platform::TdxPlatform;
use crate::private_memory::PrivateMemory;

/// What the handover does with private memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Resets the PAMTs: all private memory there is as long as no TD was built.
    #[default]
    Pamt,
    /// Resets all memory the caller names. Slow; needs no knowledge of what is private.
    Everything,
    /// Resets nothing and jumps. What Linux 7.2 does when the module lacks SYS.DISABLE; for comparison.
    None,
    /// Refuses to kexec while there may be private memory. What Linux 6.18 to 7.1 do.
    Refuse,
}

/// Whether the old kernel comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KexecKind {
    /// The next kernel replaces this one.
    #[default]
    Normal,
    /// Kexec jump (`preserve_context`): this kernel returns, and its module and TDs with it.
    Jump,
}

/// There was no private memory that could harm the next kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NothingToDo {
    /// This machine has no TDX.
    NoTdx,
    /// No bring-up has handed memory to the module.
    NoPrivateMemory,
    /// The CPU lacks the erratum: with KeyID 0 the next kernel may read and write leftovers freely.
    NoErratum,
}

/// Private memory was left as it is, on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LeftPrivate {
    /// [`Policy::None`].
    PolicyNone,
    /// [`KexecKind::Jump`]: this kernel goes on using TDX when it returns, so its PAMT must survive. The kernel in between
    /// must not touch memory that is not its own.
    KexecJump,
}

/// The kexec must not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// [`Policy::Refuse`] and private memory on a CPU with the erratum.
    #[error(
        "kexec refused: this CPU ({model}) has the partial-write erratum and TDX has been brought up; \
         choose a policy that resets private memory, or reboot through the firmware"
    )]
    PrivateMemory {
        /// The CPU.
        model: crate::platform::CpuModel,
    },
}

/// Decides at image load, where a refusal still helps: an answer at the time of the jump comes too late for the user.
///
/// # Errors
/// [`Refused`] if the policy forbids a kexec in the state that the machine is in now. It is asked again before the CPUs stop.
pub fn check_image_load<const N: usize>(
    policy: Policy,
    platform: Option<&TdxPlatform>,
    record: &PrivateMemory<N>,
) -> Result<(), Refused> {
    match platform {
        Some(platform)
            if policy == Policy::Refuse && platform.has_partial_write_erratum() && record.may_have_private_memory() =>
        {
            Err(Refused::PrivateMemory { model: platform.model() })
        }
        _ => Ok(()),
    }
}
