//! The first kernel's bring-up, with what Linux prints on the way, and its report.

use tdx_host::{
    bringup::{BringupError, ModuleInfo},
    layout::{Layout, Tdmr},
};

use super::kernel_log;
use crate::{
    platform::{Lab, LabKernel},
    report::{BringupReport, SeamcallCount, UnwoundReport},
};
use tdx_operator::{host::Host, layout::LayoutName, plan::tdmrs, report::TdmrReport};

/// TDMRs and PAMTs, from the step that plans them: also those of a bring-up that was stopped and
/// has not published them.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) tdmrs: Vec<Tdmr>,
    table: Vec<TdmrReport>,
    pamt_kb: u64,
}

impl Plan {
    fn of(layout: &Layout) -> Self {
        Self { tdmrs: layout.tdmrs().to_vec(), table: tdmrs(layout), pamt_kb: layout.pamt_kb() }
    }
}

/// All steps of a bring-up, with what the kernel prints on the way.
pub(super) fn bring_up(
    lab: &Lab<'_>,
    tdx: &tdx_host::Host<'_>,
    kernel: &mut LabKernel<'_>,
    host: &Host,
    layout_name: LayoutName,
    log: &mut Vec<String>,
    plan: &mut Plan,
) -> Result<ModuleInfo, BringupError> {
    let known = tdx.start_bring_up(kernel)?.sys_init()?.init_cpus()?.read_module_info()?;
    log.extend(kernel_log::module(known.module()));
    let planned = known.plan_with(&layout_name, host.memory())?;
    *plan = Plan::of(planned.layout());
    let gib = plan.tdmrs.iter().map(|tdmr| tdmr.range().bytes() >> 30).sum::<u64>();
    // Module 1.5.01 takes 256 calls for each GiB; the other calls are few.
    lab.expect_seamcalls(256 * gib);
    let ready = planned.configure().and_then(|configured| configured.configure_keys()?.init_tdmrs());
    // The way back has freed the PAMTs.
    ready.map(|ready| ready.module).inspect_err(|_| *plan = Plan::default())
}

pub(super) fn bringup_report(
    host: &Host,
    lab: &Lab<'_>,
    plan: Plan,
    result: Option<&Result<ModuleInfo, BringupError>>,
    mut log: Vec<String>,
) -> BringupReport {
    let calls = lab.ask(|machine| machine.counters().seamcalls.clone());
    let mut report = BringupReport {
        result: "ok".to_owned(),
        error: None,
        log: Vec::new(),
        module: None,
        tdmrs: plan.tdmrs.len(),
        pamt_kb: plan.pamt_kb,
        equals_log: None,
        tdmr_table: plan.table,
        seamcalls: calls
            .into_iter()
            .map(|((leaf, status), count)| SeamcallCount {
                leaf: leaf.to_string(),
                status: status.with(0).to_string(),
                count,
            })
            .collect(),
        unwound: None,
    };
    match result {
        Some(Ok(module)) => {
            log.extend(kernel_log::up(plan.pamt_kb));
            report.module = Some(module.version.to_string());
            report.equals_log = host.logged().pamt_kb.map(|kb| kb == plan.pamt_kb);
        }
        // The kernel that would have printed more has stopped.
        None => "stopped".clone_into(&mut report.result),
        Some(Err(error)) => {
            log.extend(kernel_log::failed(error));
            report.result = error.errno().to_string();
            report.error = Some(error.to_string());
            let unwound = error.unwound;
            report.unwound = Some(UnwoundReport { reset_lines: unwound.reset_lines, freed_bytes: unwound.freed_bytes });
        }
    }
    report.log = log;
    report
}
