//! A bug: one small change of what a kernel does, outside the product. The product's code runs as
//! it is; what it asks of the platform is done wrongly, or what it has marked is not there for the
//! handover to see.

use tdx_abi::{KeyId, KeyIdField, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_machine::CpuId;

use super::history::{History, Phase};
use tdx_lab::platform::{Act, Deed};

/// A named bug.
pub struct Bug {
    /// Its name on the command line.
    pub name: &'static str,
    /// What the kernel does wrongly.
    pub what: &'static str,
    /// Where it comes from: a bug that was, a mail, or the rule of the design that it breaks.
    pub origin: &'static str,
    /// The bundled scenarios that can show it.
    pub scenarios: &'static [&'static str],
    /// What is done instead of an operation.
    pub(super) deed: fn(&Moment<'_>) -> Deed,
    /// What the kernel takes an answer for.
    pub(super) answer: fn(&Moment<'_>, &mut Registers),
    /// Pages that the product has marked and this kernel has not.
    pub(super) forgets: Option<fn(&Past<'_>, Page) -> bool>,
    /// Pages that this kernel resets besides.
    pub(super) also_resets: fn(&Past<'_>) -> Vec<PageRange>,
    /// What no other field can say.
    pub(super) special: Option<Special>,
}

/// What a bug does besides operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Special {
    /// A kexec jump resets as if this kernel did not come back.
    JumpResets,
    /// A CPU's slot says nothing before its SEAMCALL has come back.
    SlotAfterCall,
    /// A CPU writes back its caches after it has acknowledged its stop, when the reset is over.
    WritesBackLate,
    /// A SEAMCALL is made after the reset.
    CallsAfterReset,
    /// Marked pages have no reference: whoever frees one frees it.
    TakesNoReference,
    /// CPUs go on after their stop, and the gate is open.
    DoesNotStop,
}

/// What is known when a kernel does something.
pub(super) struct Past<'a> {
    pub(super) history: &'a History,
    pub(super) pamts: &'a [(PageSize, PageRange)],
    pub(super) field: KeyIdField,
    /// Pages that the module holds, as it says itself.
    pub(super) assigned: &'a dyn Fn(Page) -> bool,
}

impl Past<'_> {
    /// An address as a call names it, under this KeyID.
    pub(super) fn tag(&self, address: PhysAddr, key: KeyId) -> PhysAddr {
        self.field.tag(address, key)
    }

    /// The address in an operand, without its KeyID.
    pub(super) fn without_key(&self, operand: u64) -> PhysAddr {
        self.field.strip(PhysAddr::new(operand))
    }

    /// The table that this page of PAMT lies in.
    pub(super) fn table(&self, page: Page) -> Option<PageSize> {
        self.pamts.iter().find(|(_, range)| range.contains(page)).map(|(size, _)| *size)
    }
}

/// An operation, and the past before it.
pub(super) struct Moment<'a> {
    pub(super) past: Past<'a>,
    pub(super) act: &'a Act,
}

impl Moment<'_> {
    pub(super) fn history(&self) -> &History {
        self.past.history
    }

    /// The kernel hands over.
    pub(super) fn hands_over(&self) -> bool {
        self.history().phase != Phase::Life
    }

    /// The CPU that hands over, if this one does.
    pub(super) fn is_handing_over(&self) -> bool {
        matches!(self.history().phase, Phase::Kexec(cpu) | Phase::Crash(cpu) if cpu == self.act.cpu)
    }

    pub(super) fn in_kexec(&self) -> Option<CpuId> {
        match self.history().phase {
            Phase::Kexec(cpu) => Some(cpu),
            _ => None,
        }
    }

    pub(super) fn in_crash(&self) -> Option<CpuId> {
        match self.history().phase {
            Phase::Crash(cpu) => Some(cpu),
            _ => None,
        }
    }
}

impl Bug {
    /// A bug that changes nothing: to be completed.
    pub(super) const NONE: Self = Self {
        name: "",
        what: "",
        origin: "",
        scenarios: &[],
        deed: |_| Deed::AsIs,
        answer: |_, _| (),
        forgets: None,
        also_resets: |_| Vec::new(),
        special: None,
    };
}

impl core::fmt::Debug for Bug {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}
