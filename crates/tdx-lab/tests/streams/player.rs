//! Plays a stream on the emulated module, with an observer beside it.

use tdx_abi::{LineRange, PageRange, PageSize, PhysAddr, Registers};
use tdx_machine::{CpuId, CpuModel, Fault, Machine, MachineConfig, ModuleProfile, When};

use super::text::{Condition, Event};
use crate::followed::Followed;

/// All memory of a stream.
pub const MEMORY: PageRange = PageRange::new(tdx_abi::Page::new(0), tdx_abi::Page::new(40 << 18));

pub fn profile(version: &str) -> ModuleProfile {
    match version {
        "1.5.01" => ModuleProfile::V1_5_01,
        "1.5.25" => ModuleProfile::V1_5_25,
        other => panic!("no module {other}"),
    }
}

/// The machine of a stream, and who observes its SEAMCALLs.
pub struct Player {
    pub machine: Machine,
    pub followed: Followed,
}

impl Player {
    pub fn new(version: &str, cpus: u32, packages: u32) -> Self {
        let config = MachineConfig {
            module: Some(profile(version)),
            ..MachineConfig::new(
                CpuModel::SAPPHIRE_RAPIDS,
                cpus,
                packages,
                [PageRange::inside(PhysAddr::new(0x100_0000), PhysAddr::new(0xa_0000_0000))],
            )
        };
        let machine = Machine::with_initialized_module(config).unwrap();
        let mut followed = Followed::new(MEMORY);
        followed.start(&machine);
        Self { machine, followed }
    }

    /// What a SEAMCALL answers; `None` if its CPU is in a guest then.
    pub fn seamcall(&mut self, cpu: u32, call: Registers) -> Option<Registers> {
        self.followed.before(&mut self.machine, &call);
        let answer = self.machine.seamcall(CpuId(cpu), call).unwrap();
        self.machine.write_back_all();
        self.followed.after(&self.machine, &call, &answer);
        self.machine.vm_on(CpuId(cpu)).is_none().then_some(answer)
    }

    /// Anything but a call.
    pub fn other(&mut self, event: &Event) {
        let machine = &mut self.machine;
        match event {
            Event::Machine { .. } => panic!("a second machine"),
            Event::Call { .. } => panic!("a call has an answer"),
            Event::Store(at, words) => {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                machine.write_shared(CpuId(0), *at, &bytes).unwrap();
                machine.write_back_all();
            }
            Event::Accept { cpu, gpa, level } => {
                machine.guest_accept(CpuId(*cpu), *gpa, PageSize::from_level(*level).unwrap()).unwrap();
                machine.write_back_all();
                self.followed.guest_left(machine);
            }
            Event::Leave(cpu) => {
                machine.leave_vcpu(CpuId(*cpu)).unwrap();
                machine.write_back_all();
                self.followed.guest_left(machine);
            }
            Event::Reset(at, bytes) => {
                let lines = LineRange::touching(*at, *bytes);
                machine.direct_store(CpuId(0), lines).unwrap();
                machine.fence(CpuId(0)).unwrap();
                self.followed.reset(lines);
            }
            Event::Condition(what, on) => {
                let fault = match what {
                    Condition::Interrupt => Fault::InterruptPending,
                    Condition::NoEntropy => Fault::NoEntropy,
                };
                machine.clear(fault);
                if *on {
                    machine.inject(fault, When::Always);
                }
            }
            Event::Dead => machine.inject(Fault::Crash, When::Call(1)),
            Event::Load(version) => machine.load_module(profile(version)),
        }
    }
}
