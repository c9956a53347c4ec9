//! A small host with one TDMR, brought up step by step through SEAMCALLs.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod td;

use tdx_abi::{Leaf, LineRange, PageRange, PageSize, PhysAddr, Registers, Status, TdmrInfo};
use tdx_machine::{CpuId, CpuModel, Machine, MachineConfig};

pub const CPU: CpuId = CpuId(0);
pub const GIB: u64 = 1 << 30;
/// First private KeyID: the global one.
pub const GLOBAL: u16 = 32;
/// The TDMR: `[4 GiB, 5 GiB)` and so on.
pub const TDMR: u64 = 4 * GIB;
/// PAMT_4K, PAMT_2M, PAMT_1G, one after another.
pub const PAMT: u64 = 2 * GIB;
/// Where TDMR_INFO and the array of pointers stand.
pub const TABLE: u64 = GIB;

pub fn config(model: CpuModel) -> MachineConfig {
    let cmr = PageRange::from_base_size(PhysAddr::new(1 << 20), 16 * GIB).unwrap();
    MachineConfig::new(model, 4, 2, [cmr])
}

/// After SYS.INIT and SYS.LP.INIT.
pub fn machine(model: CpuModel) -> Machine {
    Machine::with_initialized_module(config(model)).unwrap()
}

pub fn call(machine: &mut Machine, cpu: CpuId, registers: Registers) -> Status {
    machine.seamcall(cpu, registers).unwrap().status()
}

/// Base of the PAMT of one level for a TDMR of so many GiB.
pub fn pamt(gibs: u64, level: PageSize) -> u64 {
    match level {
        PageSize::Size4K => PAMT,
        PageSize::Size2M => PAMT + gibs * (4 << 20),
        PageSize::Size1G => PAMT + gibs * ((4 << 20) + (8 << 10)),
    }
}

/// SYS.CONFIG with one TDMR, WBINVD, SYS.KEY.CONFIG on both packages.
pub fn configure(machine: &mut Machine, gibs: u64) {
    let table = write_table(machine, gibs, 16);
    assert_eq!(call(machine, CPU, table), Status::SUCCESS);
    configure_keys(machine);
}

/// Writes the table of one TDMR, its PAMT_4K of so many bytes a page; gives the SYS.CONFIG for it.
pub fn write_table(machine: &mut Machine, gibs: u64, pamt_4k_entry: u16) -> Registers {
    let mut info = TdmrInfo { base: TDMR, size: gibs * GIB, ..TdmrInfo::default() };
    for level in PageSize::ALL {
        let entry = if level == PageSize::Size4K { pamt_4k_entry } else { 16 };
        let size = tdx_abi::pamt_bytes(gibs * GIB, level, entry).unwrap();
        info.set_pamt(level, PhysAddr::new(pamt(gibs, level)), size);
    }
    let mut words = vec![info.base, info.size];
    for level in [PageSize::Size1G, PageSize::Size2M, PageSize::Size4K] {
        let (base, size) = info.pamt(level);
        words.extend([base, size]);
    }
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    machine.write_shared(CPU, PhysAddr::new(TABLE + 512), &bytes).unwrap();
    machine.write_shared(CPU, PhysAddr::new(TABLE), &(TABLE + 512).to_le_bytes()).unwrap();
    Registers::call(Leaf::SYS_CONFIG).rcx(TABLE).rdx(1).r8(GLOBAL.into())
}

/// WBINVD, then SYS.KEY.CONFIG on both packages.
pub fn configure_keys(machine: &mut Machine) {
    for cpu in 0..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
    for cpu in [CpuId(0), CpuId(1)] {
        assert_eq!(call(machine, cpu, Registers::call(Leaf::SYS_KEY_CONFIG)), Status::SUCCESS);
    }
}

pub fn tdmr_init(machine: &mut Machine, cpu: CpuId, times: u64) {
    for _ in 0..times {
        assert_eq!(call(machine, cpu, Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR)), Status::SUCCESS);
    }
}

/// A machine with a TDMR of so many GiB, all of it initialized by CPU 0.
pub fn ready(model: CpuModel, gibs: u64) -> Machine {
    let mut machine = machine(model);
    configure(&mut machine, gibs);
    tdmr_init(&mut machine, CPU, 256 * gibs);
    machine
}

pub fn lines(base: u64, bytes: u64) -> LineRange {
    LineRange::touching(PhysAddr::new(base), bytes)
}
