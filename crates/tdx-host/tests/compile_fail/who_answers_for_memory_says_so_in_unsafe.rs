#![forbid(unsafe_code)]

use tdx_abi::{LineRange, PhysAddr, Registers};
use tdx_host::handover::NmiStop;
use tdx_host::platform::{CpuId, LineReset, OwnedPages, SharedMemory};
use tdx_host::layout::{FrameRequest, FrameSource};
use tdx_host::seamcall::Seamcall;

struct Liar;

impl Seamcall for Liar {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        registers
    }
}

impl LineReset for Liar {
    unsafe fn reset_lines(&self, _lines: LineRange) -> u64 {
        0
    }

    fn fence(&self) {}
}

impl SharedMemory for Liar {
    unsafe fn write(&mut self, _address: PhysAddr, _bytes: &[u8]) {}
}

impl FrameSource for Liar {
    fn allocate(&mut self, _request: FrameRequest) -> Option<OwnedPages> {
        None
    }

    fn free(&mut self, _pages: OwnedPages) {}
}

impl NmiStop for Liar {
    fn stop_other_cpus(&self) {}

    fn is_online(&self, _cpu: CpuId) -> bool {
        false
    }
}

fn main() {}
