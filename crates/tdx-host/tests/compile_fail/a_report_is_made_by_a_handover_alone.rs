#![forbid(unsafe_code)]

use tdx_host::handover::{CameBack, HandoverKind, HandoverReport, HostMemory, Outcome, Policy};
use tdx_host::reset::ResetCount;

/// Opens the gate after a reset, or makes the record forget the PAMTs.
fn forged(memory: &HostMemory<'_>) -> CameBack {
    let report = HandoverReport {
        policy: Policy::Tracked,
        kind: HandoverKind::Jump,
        module: None,
        outcome: Outcome::Reset(ResetCount::default()),
        suspects: Default::default(),
    };
    report.came_back(memory)
}

fn main() {}
