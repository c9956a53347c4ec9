#![forbid(unsafe_code)]

use tdx_abi::Leaf;
use tdx_host::gate::{CpuGate, GateHandle};
use tdx_host::platform::CpuId;

/// The slot of another CPU: a store of this one would undo what that one says.
fn of_another_cpu(gate: GateHandle<'_>) {
    let _ = gate.cpu_gate(CpuId(2)).enter(Leaf::SYS_RD);
}

/// Taken to another CPU.
fn sent(gate: CpuGate<'static>) {
    std::thread::spawn(move || drop(gate.enter(Leaf::SYS_RD)));
}

fn main() {}
