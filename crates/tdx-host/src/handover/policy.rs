//! What to do with private memory at a handover, why nothing was done or was left, and what is
//! refused at image load.

use tdx_abi::{PageRange, intersect};

use super::memory::HostMemory;
use crate::platform::CpuModel;

/// What the handover does with private memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Resets all that may be private: PAMTs, and every page that is marked in the ledger. Needs no
    /// module.
    #[default]
    Tracked,
    /// Asks the module (TDH.SYS.DISABLE) and then resets what the module may not know; without the
    /// module's help, as [`Policy::Tracked`]. After it the next kernel can bring TDX up again. At a
    /// crash: as [`Policy::Tracked`].
    Module,
    /// When the tracking itself is not trusted: resets all memory that the caller names
    /// ([`super::Kexec::reset_everything`]) but what is reserved, and what is private besides.
    /// Slow. At a crash, where memory is to be dumped: as [`Policy::Tracked`].
    Everything,
    /// Refuses to kexec while there may be private memory. What Linux 6.18 to 7.1 do.
    Refuse,
    /// Leaves TDX up, with its TDs, to a next kernel that reads the takeover table
    /// ([`crate::takeover`]) and touches nothing that it names. Resets what no TD needs: pages that
    /// the module has returned or never took. Never asks for SYS.DISABLE. At a crash: resets
    /// nothing.
    Keep,
}

/// Whether the old kernel is returned to.
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
    /// [`KexecKind::Jump`]: this kernel goes on using TDX when it returns, so its private memory
    /// must survive. The kernel in between must not touch memory that is not its own.
    KexecJump,
    /// The crash was handed over with the memory of another host than that whose gate the CPU
    /// passes: what of this machine's memory is private is not known, and nothing was touched.
    OtherGate,
}

/// The kexec must not happen, or the image must not be loaded there.
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
        model: CpuModel,
    },
    /// The image would be copied over memory of TDX that has to survive a kexec jump.
    #[error("kexec jump refused: segment {segment} lies on {private}, which TDX uses; load the image elsewhere")]
    JumpSegment {
        /// Where a part of the image is to go.
        segment: PageRange,
        /// The first pages of it that may be private.
        private: PageRange,
    },
    /// [`Policy::Keep`], and the image would be copied over memory of a TD or of the module.
    #[error("kexec refused: segment {segment} lies on {private}, which TDX keeps; load the image elsewhere")]
    KeptSegment {
        /// Where a part of the image is to go.
        segment: PageRange,
        /// The first pages of it that may be private.
        private: PageRange,
    },
    /// The image of a crash kernel is written now, and TDX owns the memory now.
    #[error("crash image refused: segment {segment} lies on {private}, which TDX uses; reserve other memory")]
    CrashSegment {
        /// Where a part of the image is to go.
        segment: PageRange,
        /// The first pages of it that may be private.
        private: PageRange,
    },
    /// The crash handover keeps its hands off the reserved memory only, and could overwrite this.
    #[error("crash image refused: segment {segment} lies outside the memory that is reserved for the crash kernel")]
    CrashSegmentOutside {
        /// Where a part of the image is to go.
        segment: PageRange,
    },
}

/// Decides at image load, where a refusal still helps: an answer at the time of the jump comes too
/// late for the user. `segments` is where the parts of the image go at the jump.
///
/// A segment may lie on private memory if this kernel is not returned to: it is copied there after
/// the reset. Under [`Policy::Keep`] it may not, and pages that TDs get later may lie there: the
/// kernel asks again once the CPUs have stopped ([`super::Kexec::check_segments`]), or keeps such
/// memory from TDs ([`crate::Host::reserve`]).
///
/// # Errors
/// [`Refused`] if the kexec cannot be done in the state that the machine is in now. The policy is
/// asked again before the CPUs stop.
pub fn check_image_load(
    policy: Policy,
    kind: KexecKind,
    memory: &HostMemory<'_>,
    segments: &[PageRange],
) -> Result<(), Refused> {
    let comes_back = kind == KexecKind::Jump;
    if (comes_back || policy == Policy::Keep)
        && let Some((segment, private)) = first_on_private(memory, segments)
    {
        return Err(if comes_back {
            Refused::JumpSegment { segment, private }
        } else {
            Refused::KeptSegment { segment, private }
        });
    }
    match memory.platform() {
        Some(platform)
            if policy == Policy::Refuse && platform.has_partial_write_erratum() && memory.may_have_private_memory() =>
        {
            Err(Refused::PrivateMemory { model: platform.model() })
        }
        _ => Ok(()),
    }
}

/// As [`check_image_load`] for the image of a crash kernel, which is copied to its place at load.
///
/// No policy refuses it: a crash kernel lives in memory that was never private, and without it
/// there is no dump.
///
/// # Errors
/// [`Refused`]: a segment is private memory, or memory that the reset at the crash might overwrite.
pub fn check_crash_image(memory: &HostMemory<'_>, segments: &[PageRange]) -> Result<(), Refused> {
    if let Some(segment) = segments.iter().copied().find(|segment| !memory.is_reserved(*segment)) {
        return Err(Refused::CrashSegmentOutside { segment });
    }
    match first_on_private(memory, segments) {
        Some((segment, private)) => Err(Refused::CrashSegment { segment, private }),
        None => Ok(()),
    }
}

fn first_on_private(memory: &HostMemory<'_>, segments: &[PageRange]) -> Option<(PageRange, PageRange)> {
    segments.iter().find_map(|segment| Some((*segment, intersect([*segment], memory.private_ranges()).next()?)))
}
