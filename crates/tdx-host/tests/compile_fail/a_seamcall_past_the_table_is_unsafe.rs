#![forbid(unsafe_code)]

use tdx_abi::{Leaf, Registers};
use tdx_host::platform::Cpu;
use tdx_host::seamcall::call_unchecked;

/// Makes a page private that the ledger calls shared.
fn without_the_table<C: Cpu>(cpu: &C) {
    let _ = call_unchecked(cpu, Registers::call(Leaf::MNG_CREATE).rcx(0x1000).rdx(33));
}

/// Past the gate, too.
fn without_the_gate<C: Cpu>(cpu: &C) {
    cpu.seamcall(Registers::call(Leaf::SYS_INFO).rcx(0x1000).rdx(1024));
}

fn main() {}
