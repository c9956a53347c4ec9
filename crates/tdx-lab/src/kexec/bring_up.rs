//! The first kernel's bring-up, with what Linux prints on the way, and its report.

use std::cell::Cell;

use tdx_abi::TdxFeatures0;
use tdx_host::{
    bringup::{BringupError, ModuleInfo},
    layout::Layout,
    platform::TdxPlatform,
    private_memory::PrivateMemory,
};

use super::kernel_log;
use crate::{
    platform::{Lab, LabKernel, promise},
    report::{BringupReport, SeamcallCount, UnwoundReport},
};
use tdx_operator::{host::Host, layout::LayoutName, plan::tdmrs};

/// All steps of a bring-up, with what the kernel prints on the way.
#[expect(clippy::too_many_arguments, reason = "each is a part that a kernel owns apart from the others")]
pub(super) fn bring_up<'k>(
    lab: &Lab<'_>,
    kernel: &'k mut LabKernel<'_>,
    platform: TdxPlatform,
    record: &'k PrivateMemory,
    layout: &'k mut Layout,
    host: &Host,
    layout_name: LayoutName,
    log: &mut Vec<String>,
    features: &Cell<Option<TdxFeatures0>>,
) -> Result<ModuleInfo, BringupError> {
    let known = promise::start(kernel, platform, record, layout)?.sys_init()?.init_cpus()?.read_module_info()?;
    log.extend(kernel_log::module(known.module()));
    features.set(Some(known.module().features));
    let planned = known.plan_with(&layout_name, host.memory())?;
    let gib = planned.layout().tdmrs().iter().map(|tdmr| tdmr.range().bytes() >> 30).sum::<u64>();
    // Module 1.5.01 takes 256 calls for each GiB; the rest of a bring-up is lost in that.
    lab.expect_seamcalls(256 * gib);
    let ready = planned.configure()?.configure_keys()?.init_tdmrs()?;
    Ok(ready.module)
}

pub(super) fn bringup_report(
    host: &Host,
    lab: &Lab<'_>,
    layout: &Layout,
    result: Option<&Result<ModuleInfo, BringupError>>,
    mut log: Vec<String>,
) -> BringupReport {
    let calls = lab.ask(|machine| machine.counters().seamcalls.clone());
    let mut report = BringupReport {
        result: "ok".to_owned(),
        error: None,
        log: Vec::new(),
        module: None,
        tdmrs: layout.tdmr_count(),
        pamt_kb: layout.pamt_kb(),
        equals_log: None,
        tdmr_table: tdmrs(layout),
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
            log.extend(kernel_log::up(layout));
            report.module = Some(module.version.to_string());
            report.equals_log = host.logged().pamt_kb.map(|kb| kb == layout.pamt_kb());
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
