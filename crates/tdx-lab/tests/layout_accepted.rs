//! Any memory map and CMR list: what `fit` lays out, the emulated SYS.CONFIG accepts. The
//! generators are those of the layout's own tests; the judge here is the module that passes the
//! conformance vectors.

#[path = "../../tdx-host/tests/layout/generate.rs"]
#[allow(dead_code)] // limits are the layout tests' own business
mod generate;

/// What the generators need of the layout's test suite.
mod hosts {
    use tdx_abi::PageRange;
    use tdx_host::platform::NodeRange;

    #[derive(Clone, Debug)]
    pub struct Host {
        pub memory: Vec<NodeRange>,
        pub cmrs: Vec<PageRange>,
    }
}

mod support {
    use tdx_abi::{Page, PageRange};

    pub fn pages(start: u64, end: u64) -> PageRange {
        PageRange::new(Page::new(start), Page::new(end))
    }
}

use hosts::Host;
use proptest::prelude::*;
use std::num::NonZero;
use tdx_abi::{KeyIdPartition, Leaf, MAX_CMRS, PhysAddr, Registers, STRUCTURE_ALIGN, SYS_CONFIG_DYNAMIC_PAMT, Status};
use tdx_host::layout::{self, Layout, Limits, MapFrames, Pamt4k};
use tdx_machine::{CpuId, CpuModel, Machine, MachineConfig, ModuleProfile};
use zerocopy::IntoBytes;

/// The host that a BIOS could report: its first 32 CMRs below the 6 KeyID bits of an address.
fn possible(mut host: Host) -> Host {
    host.cmrs.retain(|cmr| !cmr.is_empty() && cmr.limit().get() <= 1 << 46);
    host.cmrs.truncate(MAX_CMRS);
    host
}

/// Where the table for SYS.CONFIG stands: the module does not care whether anything else is there.
const TABLE: u64 = 0x10_0000;

fn sys_config(host: &Host, layout: &Layout, dynamic_pamt: bool) -> Status {
    let module = if dynamic_pamt { ModuleProfile::V1_5_25 } else { ModuleProfile::V1_5_01 };
    let config = MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, 1, 1, host.cmrs.iter().copied());
    let config = MachineConfig { module: Some(module), ..config };
    let global = config.key_ids.and_then(KeyIdPartition::first_private).unwrap();
    let mut machine = Machine::with_initialized_module(config).unwrap();
    let cpu = CpuId(0);
    for (index, tdmr) in (0u64..).zip(layout.tdmrs()) {
        let entry = TABLE + (index + 1) * STRUCTURE_ALIGN;
        machine.write_shared(cpu, PhysAddr::new(entry), tdmr.to_tdmr_info().as_bytes()).unwrap();
        machine.write_shared(cpu, PhysAddr::new(TABLE + index * 8), &entry.to_le_bytes()).unwrap();
    }
    let r8 = u64::from(global.get()) | if dynamic_pamt { SYS_CONFIG_DYNAMIC_PAMT } else { 0 };
    let call = Registers::call(Leaf::SYS_CONFIG).rcx(TABLE).rdx(layout.tdmr_count() as u64).r8(r8);
    machine.seamcall(cpu, call).unwrap().status()
}

fn check(host: Host) -> Result<(), TestCaseError> {
    let host = possible(host);
    for dynamic_pamt in [false, true] {
        let one_bit = Pamt4k::Bitmap { bits: NonZero::<u16>::MIN };
        let pamt_4k = if dynamic_pamt { one_bit } else { Pamt4k::Entries };
        let limits = Limits { pamt_4k, ..Limits::MODULE_1_5 };
        let mut layout = Box::new(Layout::new());
        let mut frames = MapFrames::new(&host.memory);
        let built = layout::build(&host.memory, &host.cmrs, &limits, &mut frames, &mut layout);
        if built.is_ok() {
            prop_assert_eq!(sys_config(&host, &layout, dynamic_pamt), Status::SUCCESS);
        } else {
            prop_assert!(frames.taken().is_empty(), "a failed layout keeps memory");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_host(host in generate::host()) {
        check(host)?;
    }

    #[test]
    fn many_units(host in generate::many_units()) {
        check(host)?;
    }

    #[test]
    fn many_holes(host in generate::many_holes()) {
        check(host)?;
    }
}
