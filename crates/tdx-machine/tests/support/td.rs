//! A finalized TD on module 1.5.25, built as Linux's KVM builds it.

use tdx_abi::{Leaf, LeafCall, PhysAddr, Registers, Status};
use tdx_machine::{AfterExit, CpuId, CpuModel, Machine, ModuleProfile, TdCpu, TdExit};

use super::{CPU, GLOBAL, TDMR, config, configure, tdmr_init};

pub const TDR: u64 = TDMR;
pub const KEY: u64 = GLOBAL as u64 + 1;
pub const TDVPR: u64 = TDMR + 0x10_0000;
pub const PARAMS: u64 = 0x10_0000;
/// Where a page that PAGE.ADD copies stands.
pub const SOURCE: u64 = 0x20_0000;

pub struct Td {
    pub machine: Machine,
    /// The page that was given last.
    pub pages: u64,
}

impl Td {
    /// A finalized TD with one VCPU, built in KVM's order and by its versions of the leaves.
    pub fn new(attributes: u8, config_flags: u8) -> Self {
        Self::with_l2_vms(attributes, config_flags, 0)
    }

    /// As [`Self::new`], with L2 VMs.
    pub fn with_l2_vms(attributes: u8, config_flags: u8, l2_vms: u8) -> Self {
        let mut machine_config = config(CpuModel::SAPPHIRE_RAPIDS);
        machine_config.module = Some(ModuleProfile::V1_5_25);
        machine_config.td_cpu = TdCpu::SapphireRapids;
        let mut machine = Machine::with_initialized_module(machine_config).unwrap();
        configure(&mut machine, 1);
        tdmr_init(&mut machine, CPU, 256);
        let mut td = Self { machine, pages: TDMR };
        td.ok(Registers::call(Leaf::MNG_CREATE).rcx(TDR).rdx(KEY));
        for cpu in [CPU, CpuId(1)] {
            let status = super::call(&mut td.machine, cpu, Registers::call(Leaf::MNG_KEY_CONFIG).rcx(TDR));
            assert_eq!(status, Status::SUCCESS);
        }
        for _ in 0..6 + l2_vms {
            let page = td.page();
            td.ok(Registers::call(Leaf::MNG_ADDCX).rcx(page).rdx(TDR));
        }
        let mut params = [0; 1024];
        for (offset, value) in
            [(0, attributes), (8, 7), (16, 1), (18, l2_vms), (24, 0x1e), (32, config_flags), (40, 40), (80, 0x5a)]
        {
            params[offset] = value;
        }
        td.machine.write_shared(CPU, PhysAddr::new(PARAMS), &params).unwrap();
        td.ok(Registers::call(Leaf::MNG_INIT).rcx(TDR).rdx(PARAMS));
        td.ok(Registers::call(Leaf::VP_CREATE).rcx(TDVPR).rdx(TDR));
        for _ in 0..5 + 3 * l2_vms {
            let page = td.page();
            td.ok(Registers::call(Leaf::VP_ADDCX).rcx(page).rdx(TDVPR));
        }
        td.ok(Registers::call(LeafCall::with_version(Leaf::VP_INIT, 1)).rcx(TDVPR).rdx(0x1234).r8(0));
        for level in [3, 2, 1] {
            let page = td.page();
            td.ok(Registers::call(Leaf::MEM_SEPT_ADD).rcx(level).rdx(TDR).r8(page));
        }
        let page = td.page();
        td.machine.write_shared(CPU, PhysAddr::new(SOURCE), &0x1122_3344_u64.to_le_bytes()).unwrap();
        td.ok(Registers::call(Leaf::MEM_PAGE_ADD).rdx(TDR).r8(page).r9(SOURCE));
        td.ok(Registers::call(Leaf::MR_FINALIZE).rcx(TDR));
        td
    }

    pub fn page(&mut self) -> u64 {
        self.pages += 0x1000;
        self.pages
    }

    pub fn call(&mut self, registers: Registers) -> Registers {
        self.machine.seamcall(CPU, registers).unwrap()
    }

    pub fn ok(&mut self, registers: Registers) -> Registers {
        let out = self.call(registers);
        assert_eq!(out.status(), Status::SUCCESS, "{registers:?}");
        out
    }

    pub fn read(&mut self, leaf: Leaf, target: u64, field: u64) -> u64 {
        self.ok(Registers::call(leaf).rcx(target).rdx(field)).r8
    }

    pub fn write(&mut self, field: u64, value: u64, mask: u64) -> Registers {
        self.call(Registers::call(Leaf::VP_WR).rcx(TDVPR).rdx(field).r8(value).r9(mask))
    }

    /// The guest executes TDCALL, and the module goes back into it.
    pub fn tdcall(&mut self, leaf: u64, guest: Registers) -> Registers {
        const TDCALL: u64 = 77;
        let exit = TdExit { reason: TDCALL, guest: Registers { rax: leaf, ..guest }, ..TdExit::default() };
        match self.machine.td_exit(CPU, exit).unwrap() {
            AfterExit::Guest { registers, .. } => registers,
            AfterExit::Host(out) => panic!("exit to the host: {out:?}"),
        }
    }

    pub fn mng_wr(&mut self, field: u64, value: u64, mask: u64) -> Registers {
        self.call(Registers::call(Leaf::MNG_WR).rcx(TDR).rdx(field).r8(value).r9(mask))
    }
}
