//! What is asked for: policy, TDs, a hole, a panic. Which module the emulator loads follows from
//! it.

use first_kernel::AnyPolicy;
use tdx_host::handover::Policy;
use tdx_machine::ModuleProfile;
use tdx_operator::layout::LayoutName;

/// The four situations in which asking the module is not enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hole {
    /// The module has no TDH.SYS.DISABLE.
    OldModule,
    /// The bring-up is stopped in the middle of SYS.TDMR.INIT: the module is not ready, PAMT is
    /// private.
    BringUp,
    /// The module has returned pages; the host has not rewritten them yet.
    Returned,
    /// The module has died: no SEAMCALL is possible.
    DeadModule,
}

impl Hole {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OldModule => "old-module",
            Self::BringUp => "bring-up",
            Self::Returned => "returned",
            Self::DeadModule => "dead-module",
        }
    }

    /// What it is, for people.
    pub const fn story(self) -> &'static str {
        match self {
            Self::OldModule => "the module has no TDH.SYS.DISABLE",
            Self::BringUp => {
                "the bring-up stopped half-way through SYS.TDMR.INIT: PAMT is private, the module is not ready"
            }
            Self::Returned => {
                "the module has returned pages that the host has not rewritten yet, and knows nothing of them"
            }
            Self::DeadModule => "the module has died: no SEAMCALL is possible",
        }
    }
}

/// What the next kernel does with the TDs that policy `keep` leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Next {
    /// Adopts those that can run, and runs them; tears the others down.
    #[default]
    Run,
    /// Tears all of them down.
    Vacuum,
}

impl Next {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Vacuum => "vacuum",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KexecOptions {
    /// What the handover does with private memory.
    pub policy: AnyPolicy,
    /// How TDMRs are laid out.
    pub layout: LayoutName,
    /// How many TDs the first kernel runs.
    pub tds: u32,
    /// The situation the handover begins in.
    pub hole: Option<Hole>,
    /// The first kernel panics, and a crash kernel takes over.
    pub crash: bool,
    /// What the next kernel does with the TDs that policy `keep` leaves it. `None`: a crash kernel
    /// tears them down, any other runs them.
    pub next: Option<Next>,
}

impl KexecOptions {
    /// TDs that a scenario has by default: the holes are about TDs, but for a bring-up
    /// that never ends.
    pub const fn default_tds(hole: Option<Hole>) -> u32 {
        match hole {
            None | Some(Hole::BringUp) => 0,
            Some(_) => 3,
        }
    }

    /// The policy leaves TDX and its TDs to the next kernel.
    pub(super) fn keeps(self) -> bool {
        self.policy == AnyPolicy::Product(Policy::Keep)
    }

    /// What the next kernel does with them.
    pub(super) fn next(self) -> Next {
        self.next.unwrap_or(if self.crash { Next::Vacuum } else { Next::Run })
    }

    /// The module that the emulator loads: one that has TDH.SYS.DISABLE wherever that is what the
    /// scenario is about, and 1.5.01, the observed one, everywhere else.
    pub(super) fn module(self) -> ModuleProfile {
        let asks = self.policy.asks_module();
        match self.hole {
            Some(Hole::OldModule) => ModuleProfile::V1_5_01,
            Some(_) => ModuleProfile::V1_5_01.with_sys_disable(),
            None if asks => ModuleProfile::V1_5_01.with_sys_disable(),
            None => ModuleProfile::V1_5_01,
        }
    }

    /// Its name in reports.
    pub(super) fn module_name(self) -> &'static str {
        match self.module() {
            module if module.has_sys_disable() => "1.5.01 with TDH.SYS.DISABLE",
            _ => "1.5.01",
        }
    }
}
