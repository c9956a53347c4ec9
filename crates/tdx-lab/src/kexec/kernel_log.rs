//! What a Linux kernel prints during a bring-up, word for word, so that it can be compared with a
//! machine's log.

use tdx_host::{
    bringup::{BringupCause, BringupError, ModuleInfo},
    layout::LayoutError,
    platform::TdxPlatform,
};

pub(super) fn key_ids(platform: &TdxPlatform) -> String {
    let split = platform.key_ids();
    format!("virt/tdx: BIOS enabled: private KeyID range [{}, {})", split.shared() + 1, split.private_end())
}

/// The module's version and CMRs.
pub(super) fn module(module: &ModuleInfo) -> Vec<String> {
    let version = &module.version;
    let first = format!(
        "virt/tdx: TDX module {version}, build number {}, build date {:08x}",
        version.build_num, version.build_date
    );
    let cmrs = module.cmrs.iter().map(|cmr| format!("virt/tdx: CMR: {cmr}"));
    std::iter::once(first).chain(cmrs).collect()
}

pub(super) fn up(pamt_kb: u64) -> [String; 2] {
    [format!("virt/tdx: {pamt_kb} KB allocated for PAMT"), "virt/tdx: module initialized".to_owned()]
}

pub(super) fn failed(error: &BringupError) -> Vec<String> {
    let mut log = Vec::new();
    if let Some(call) = error.seamcall() {
        log.push(format!("virt/tdx: SEAMCALL ({:#018x}) failed: {:#018x}", call.call.rax(), call.status().raw()));
    }
    match error.cause {
        BringupCause::Layout(LayoutError::ReservedAreasExhausted { tdmr, .. }) => {
            log.push(format!("virt/tdx: initialization failed: TDMR {tdmr}: reserved areas exhausted."));
        }
        BringupCause::Layout(LayoutError::TdmrsExhausted { .. }) => {
            log.push("virt/tdx: initialization failed: TDMRs exhausted.".to_owned());
        }
        _ => {}
    }
    log.push(format!("virt/tdx: module initialization failed ({})", error.errno()));
    log
}
