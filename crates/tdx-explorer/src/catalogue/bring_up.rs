//! Bugs of the bring-up and of its way back.

use super::super::bug::Bug;
use super::{is_fence, is_write_back, reset, skip_if};
use tdx_abi::Leaf;

const FAILED: &[&str] = &["bring-up-fails", "key-config-fails"];

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "flag-after-key-config",
        what: "the flag \"there may be private memory\" is raised after SYS.KEY.CONFIG",
        origin: "design.md, invariant 5; the order that the 2023 series argued about (v15 to v17 of the TDX host series)",
        scenarios: &["bring-up"],
        forgets: Some(|past, page| past.table(page).is_some() && past.history.tdmr_inits == 0),
        ..Bug::NONE
    },
    Bug {
        name: "flag-after-tdmr-init",
        what: "the flag is raised when the bring-up has succeeded",
        origin: "design.md, invariant 5; a crash during the bring-up (kexec --hole bring-up)",
        scenarios: &["bring-up"],
        forgets: Some(|past, page| {
            let last = past.history.last.map(|(leaf, _)| leaf);
            past.table(page).is_some() && matches!(last, Some(Leaf::SYS_KEY_CONFIG | Leaf::SYS_TDMR_INIT))
        }),
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-before-key-config",
        what: "no CPU writes back the host's dirty lines of PAMT before the module gets it",
        origin: "Linux init_tdmrs(): wbinvd_on_all_cpus() before config_global_keyid()",
        scenarios: &["bring-up"],
        deed: |moment| skip_if(is_write_back(moment) && !moment.hands_over() && moment.history().key_configs == 0),
        ..Bug::NONE
    },
    Bug {
        name: "wbinvd-on-one-cpu-before-key-config",
        what: "only the CPU that runs the bring-up writes back its caches before the module gets PAMT",
        origin: "plausible: wbinvd() where wbinvd_on_all_cpus() was meant",
        scenarios: &["bring-up"],
        deed: |moment| {
            let before = !moment.hands_over() && moment.history().key_configs == 0;
            skip_if(is_write_back(moment) && before && moment.act.cpu.0 != 0)
        },
        ..Bug::NONE
    },
    Bug {
        name: "no-wbinvd-in-unwind",
        what: "a failed bring-up resets PAMT without writing back private lines first",
        origin: "Linux init_tdmrs(): wbinvd_on_all_cpus() on the error path",
        scenarios: &["bring-up-fails"],
        deed: |moment| skip_if(is_write_back(moment) && !moment.hands_over() && moment.history().unwinding),
        ..Bug::NONE
    },
    Bug {
        name: "no-reset-in-unwind",
        what: "a failed bring-up frees PAMT as it is",
        origin: "Linux before tdx_quirk_reset_paddr() was added to the error path",
        scenarios: &["bring-up-fails"],
        deed: |moment| skip_if(reset(moment).is_some() && !moment.hands_over() && moment.history().unwinding),
        ..Bug::NONE
    },
    Bug {
        name: "no-fence-in-unwind",
        what: "a failed bring-up frees PAMT before the direct stores of its reset are done",
        origin: "MOVDIR64B is weakly ordered; Linux: mb() in tdx_quirk_reset_paddr()",
        scenarios: &["bring-up-fails"],
        deed: |moment| skip_if(is_fence(moment) && !moment.hands_over() && moment.history().unwinding),
        ..Bug::NONE
    },
    Bug {
        name: "flag-cleared-before-reset",
        what: "a failed bring-up lowers the flag before it resets PAMT",
        origin: "design.md, invariant 5: cleared only after the last reset has fenced",
        scenarios: FAILED,
        forgets: Some(|past, page| past.table(page).is_some() && past.history.unwinding),
        ..Bug::NONE
    },
    Bug {
        name: "list-withdrawn-late",
        what: "a failed bring-up frees PAMT and leaves its ranges in the list that a handover resets",
        origin: "design.md, invariant 2: no harm; the order flag, list, memory in the way back",
        scenarios: FAILED,
        also_resets: |past| if past.history.unwinding { past.history.given_up.clone() } else { Vec::new() },
        ..Bug::NONE
    },
];
