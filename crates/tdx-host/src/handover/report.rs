//! The host's account of a handover: what became of private memory, and what is left that the next
//! kernel must not touch.

use tdx_abi::{Covered, MAX_PHYS_BITS, Page, PageRange, PhysAddr, subtract, walk};

use super::memory::HostMemory;
use super::module::ModuleAnswer;
use super::policy::{KexecKind, LeftPrivate, NothingToDo, Policy};
use super::suspects::Suspects;
use crate::gate::{Closing, GateId};
use crate::reset::ResetCount;
use crate::seamcall::SeamcallError;

/// What became of private memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All that the policy names was reset.
    Reset(ResetCount),
    /// There was nothing that could do harm.
    NothingToDo(NothingToDo),
    /// The host reset nothing, and why.
    LeftPrivate(LeftPrivate),
    /// [`Policy::Keep`]: what no TD needs was reset, all else is as TDX left it.
    Kept(ResetCount),
}

/// Every physical address.
const ALL_MEMORY: PageRange = PageRange::new(Page::new(0), PhysAddr::new(1 << MAX_PHYS_BITS).page());

/// How the machine was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandoverKind {
    /// Kexec.
    Kexec,
    /// Kexec jump (`preserve_context`).
    Jump,
    /// The crash kernel took over after a panic.
    Crash,
}

impl From<KexecKind> for HandoverKind {
    fn from(kind: KexecKind) -> Self {
        match kind {
            KexecKind::Normal => Self::Kexec,
            KexecKind::Jump => Self::Jump,
        }
    }
}

/// The host's account of a handover. What follows is the jump.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "says whether the next kernel finds private memory"]
pub struct HandoverReport {
    /// The policy that was asked for.
    pub policy: Policy,
    /// Kexec or crash.
    pub kind: HandoverKind,
    /// The answer of the module, if it was asked. Anything but [`ModuleAnswer::Disabled`] under
    /// [`Policy::Module`]: the host fell back to [`Policy::Tracked`].
    pub module: Option<ModuleAnswer>,
    /// The first VP.FLUSH of [`Policy::Keep`] that failed: the next kernel adopts no TD with a VCPU
    /// that was not flushed. `None` does not prove that all were: a VCPU that was not named, or one
    /// that a CPU holds on which the task did not run, is not known here.
    pub not_flushed: Option<SeamcallError>,
    /// What became of private memory.
    pub outcome: Outcome,
    /// CPUs that spoil the proof, as they were when the reset began.
    pub suspects: Suspects,
    /// The gate of the memory that was handed over; `None` if the CPUs passed another one. The
    /// report says nothing of the memory of any other host.
    pub(super) gate: Option<GateId>,
    /// What [`HandoverReport::came_back`] may do. Nothing but a handover makes one.
    pub(super) return_right: ReturnRight,
}

/// What a kernel that goes on after its handover may do with the gate and the record: decided when
/// the handover ended, by what it did, and good for the gate that it closed, until that is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReturnRight {
    /// Nothing: a SEAMCALL would make private again what was reset.
    None,
    /// Open the gate: nothing was reset.
    GoOn(Closing),
    /// Forget the PAMTs and open the gate: all is clean, and the module is as after loading.
    BringUpAgain(Closing),
}

impl ReturnRight {
    pub(super) fn of(report: &HandoverReport, memory: &HostMemory<'_>, closing: Closing) -> Self {
        match report.kind {
            HandoverKind::Jump => Self::GoOn(closing),
            HandoverKind::Kexec if report.next_kernel_can_use_tdx() && report.is_clean(memory) => {
                Self::BringUpAgain(closing)
            }
            HandoverKind::Kexec | HandoverKind::Crash => Self::None,
        }
    }
}

/// What a kernel can do with TDX after a handover from which it has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "says whether TDX can still be used"]
pub enum CameBack {
    /// All as before the kexec jump; SEAMCALLs are allowed again.
    TdxGoesOn,
    /// The module is as after loading and memory is clean: the record is empty, and SEAMCALLs are
    /// allowed again. The caller frees the PAMTs, drops the ledger, and may bring TDX up anew.
    CanBringUpAgain,
    /// The module stays up without its PAMTs, or something is left. The gate stays closed for good.
    TdxIsGone,
}

/// What a leftover is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftoverKind {
    /// PAMT.
    Pamt,
    /// A page of a TD, or one on its way to or from the module.
    Page,
}

/// Why something is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeftoverReason {
    /// The policy was not to reset it, or the host that was handed over is not that of the memory.
    NotReset,
    /// A CPU may still hold private lines of it in its caches.
    CachesNotWrittenBack,
    /// It lies in reserved memory, which is never written.
    Reserved,
    /// Some of it is in no mapping of the kernel, and could not be written.
    NotMapped,
}

/// Memory that may still be private, or turn private again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// The pages.
    pub range: PageRange,
    /// What they are.
    pub kind: LeftoverKind,
    /// Why they are left.
    pub reason: LeftoverReason,
}

impl HandoverReport {
    /// To be called once if this kernel goes on after all: the kernel in between has jumped back,
    /// or the jump was not made. A second call, or one after a later handover, says
    /// [`CameBack::TdxIsGone`] and changes nothing; so does a call with the memory of another host
    /// than that which was handed over.
    pub fn came_back(&self, memory: &HostMemory<'_>) -> CameBack {
        match self.return_right {
            _ if !self.is_of(memory) => CameBack::TdxIsGone,
            ReturnRight::GoOn(closing) if memory.gate().reopen(closing) => CameBack::TdxGoesOn,
            ReturnRight::BringUpAgain(closing) if memory.gate().reopen(closing) => {
                // SAFETY: the handover that closed the gate has found everything clean, and the
                // module has no PAMT any more.
                unsafe { memory.withdraw_pamts() };
                CameBack::CanBringUpAgain
            }
            _ => CameBack::TdxIsGone,
        }
    }

    /// The module gave everything back, so that the next kernel can bring TDX up from the start.
    pub fn next_kernel_can_use_tdx(&self) -> bool {
        matches!(self.module, Some(ModuleAnswer::Disabled { .. }))
    }

    /// What the next kernel must not touch: all that is private or may turn private, PAMTs and
    /// pages of TDs apart. `memory` is what was handed over. Walks the record and the ledger, whose
    /// marks a handover leaves as they are.
    ///
    /// Of the memory of another host, and if the CPUs did not pass its gate, nothing is known: one
    /// leftover then covers every physical address.
    pub fn leftovers<'h>(&self, memory: &HostMemory<'h>) -> impl Iterator<Item = Leftover> + use<'h> {
        let unknown = (!self.is_of(memory)).then_some(Leftover {
            range: ALL_MEMORY,
            kind: LeftoverKind::Page,
            reason: LeftoverReason::NotReset,
        });
        unknown.into_iter().chain(self.known_leftovers(memory))
    }

    /// The same, of what the records of `memory` say.
    fn known_leftovers<'h>(&self, memory: &HostMemory<'h>) -> impl Iterator<Item = Leftover> + use<'h> {
        let left = self.left();
        // What a kexec that keeps TDX has reset is clean.
        let was_reset = matches!(self.outcome, Outcome::Kept(count) if count.left == 0)
            && self.kind != HandoverKind::Crash
            && left == Some(LeftoverReason::NotReset);
        let marked = subtract(memory.marked(), memory.not_of_module().filter(move |_| was_reset));
        let pieces = walk(memory.pamts(), marked).filter_map(move |piece| Some((piece, left?)));
        let memory = *memory;
        let touched = pieces.flat_map(move |((range, covered), reason)| {
            memory.without_reserved(core::iter::once(range)).map(move |range| Leftover {
                range,
                kind: covered.into(),
                reason,
            })
        });
        let harmless = matches!(self.outcome, Outcome::NothingToDo(_)) && left.is_none();
        let reserved =
            walk(memory.pamts(), memory.marked()).filter(move |_| !harmless).flat_map(move |(range, covered)| {
                memory.reserved_of(core::iter::once(range)).map(move |range| Leftover {
                    range,
                    kind: covered.into(),
                    reason: LeftoverReason::Reserved,
                })
            });
        touched.chain(reserved)
    }

    /// Nothing is left that can do harm, as far as the host can know.
    pub fn is_clean(&self, memory: &HostMemory<'_>) -> bool {
        self.leftovers(memory).next().is_none()
    }

    /// `memory` is what was handed over, and the CPUs passed its gate.
    pub(super) fn is_of(&self, memory: &HostMemory<'_>) -> bool {
        self.gate == Some(memory.gate().id())
    }

    /// Why private memory was left, if it was.
    fn left(&self) -> Option<LeftoverReason> {
        match self.outcome {
            _ if self.suspects.may_hold_private_lines > 0 => Some(LeftoverReason::CachesNotWrittenBack),
            Outcome::LeftPrivate(_) | Outcome::Kept(_) => Some(LeftoverReason::NotReset),
            // Which of the ranges is not recorded.
            Outcome::Reset(count) if count.left > 0 => Some(LeftoverReason::NotMapped),
            Outcome::Reset(_) | Outcome::NothingToDo(_) => None,
        }
    }
}

impl From<Covered> for LeftoverKind {
    fn from(covered: Covered) -> Self {
        match covered {
            Covered::Left | Covered::Both => Self::Pamt,
            Covered::Right => Self::Page,
        }
    }
}
