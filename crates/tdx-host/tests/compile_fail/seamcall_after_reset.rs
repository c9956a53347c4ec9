use tdx_abi::{Leaf, Registers};
use tdx_host::handover::{Kexec, StopCpus, WrittenBack};
use tdx_host::seamcall::Seamcall;

/// The caches are written back: a SEAMCALL would make PAMT dirty again, and the kexec offers none.
fn seamcall_after_reset<P: StopCpus>(kexec: &Kexec<'_, WrittenBack<'_, P>>) {
    let _ = unsafe { kexec.seamcall(Registers::call(Leaf::SYS_RD)) };
}

fn main() {}
