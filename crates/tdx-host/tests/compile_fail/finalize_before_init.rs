use tdx_host::platform::Cpu;
use tdx_host::td::{Keyed, Td};

/// A TD whose TDCS is not complete.
fn finalize_before_init<C: Cpu>(cpu: &C, td: Td<'_, Keyed>) {
    let _ = td.finalize(cpu);
}

fn main() {}
