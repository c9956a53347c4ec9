use tdx_host::page::SharedPage;
use tdx_host::platform::Cpu;

/// A page that was given to the module is freed by the host.
fn use_after_give<C: Cpu>(cpu: &C, page: SharedPage<'_>) {
    let _giving = page.give(cpu);
    let _ = page.release();
}

fn main() {}
