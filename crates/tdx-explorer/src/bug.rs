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
    /// What is done wrongly where TDX is handed over with its TDs.
    pub(super) relay: Option<Wrong>,
}

/// What a kernel that hands TDX over with its TDs, or takes it over, does wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Wrong {
    /// None.
    #[default]
    Nothing,
    /// VCPUs are not flushed.
    NoFlush,
    /// VCPUs of TDs that were not adopted are flushed, too.
    FlushesLost,
    /// During its vacuum a kernel's table lists TDs in the state of the table that it inherited.
    VacuumsUntold,
    /// A panic leaves the table that this kernel inherited.
    TableNotWiped,
    /// Caches are not written back before the jump.
    NoWriteBack,
    /// A guest page is reset.
    ResetsKept,
    /// All pages in flight are reset.
    ResetsInFlight,
    /// A page of Secure EPT is not in the table.
    SeptForgotten,
    /// One entry of the table is half of an older one.
    RecordTorn,
    /// The table ends in the middle of its list, with a checksum of what is there.
    RecordShort,
    /// KeyIDs of TDs that do not run are not in the table.
    KeyIdForgotten,
    /// A new TD gets the global KeyID.
    GlobalKeyIdReused,
    /// IA32_TSC_ADJUST is changed.
    TscAdjustRepaired,
    /// A CPU is used that had no SYS.LP.INIT.
    NoLpInit,
    /// The table is read after memory was used.
    ReservesLate,
    /// TDs that were adopted are torn down with the others.
    VacuumsAdopted,
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
        relay: None,
    };
}

impl core::fmt::Debug for Bug {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}
