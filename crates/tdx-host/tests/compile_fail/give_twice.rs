use tdx_host::page::SharedPage;
use tdx_host::platform::Cpu;

/// One page for two TDs.
fn give_twice<C: Cpu>(cpu: &C, page: SharedPage<'_>) {
    let _first = page.give(cpu);
    let _second = page.give(cpu);
}

fn main() {}
