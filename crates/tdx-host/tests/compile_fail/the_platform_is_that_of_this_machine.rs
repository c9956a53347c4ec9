#![forbid(unsafe_code)]

use tdx_host::platform::{CpuidOutput, LocalProcessor, Msr, Processor, TdxPlatform};
use tdx_host::{CpuSlot, Host};

/// A processor without the erratum, whose handovers reset nothing.
struct Liar;

impl Processor for Liar {
    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> CpuidOutput {
        CpuidOutput::default()
    }

    fn rdmsr(&self, _msr: Msr) -> Option<u64> {
        None
    }
}

impl LocalProcessor for Liar {}

fn made_up(tdx: &Host<'_>, of_another_machine: TdxPlatform) {
    let _ = tdx.set_platform(of_another_machine);
}

/// Opens the gate, and forgets whose caches are dirty.
fn fresh_gate<'m>(tdx: &mut Host<'m>, slots: &'m [CpuSlot]) {
    tdx.set_slots(slots);
}

fn main() {}
