use tdx_host::handover::{Kexec, Loaded};

/// Other CPUs still run.
fn reset_without_stop(kexec: Kexec<'_, Loaded>) {
    let _ = kexec.reset();
}

fn main() {}
