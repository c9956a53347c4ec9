//! Virtual CPUs of TDs that are not inside, by TDVPR page. A virtual CPU whose TDVPR the module has
//! taken back stays here until there is no room for another one, or its page is one's again.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use spin::Mutex;
use tdx_machine::VcpuOnCpu;

use super::vcpu::TdVcpu;
use crate::tdx::Tdx;

/// Virtual CPUs that are kept, besides those that are inside, so that the heap lasts for everything
/// else.
const MAX_VCPUS: usize = 24;

static VCPUS: Mutex<BTreeMap<u64, Box<TdVcpu>>> = Mutex::new(BTreeMap::new());

/// Takes the state of the virtual CPU that enters: a new one if it has not been inside since its
/// VP.INIT. `None` if there are too many, there is no memory, or this CPU cannot switch its state.
pub fn take(tdx: &Tdx, on: &VcpuOnCpu, signature: u32) -> Option<Box<TdVcpu>> {
    let page = on.tdvpr.index();
    let birth = tdx.vcpu_birth(page)?;
    let mut vcpus = VCPUS.lock();
    if let Some(vcpu) = vcpus.remove(&page)
        && vcpu.birth == birth
    {
        return Some(vcpu);
    }
    if vcpus.len() >= MAX_VCPUS {
        vcpus.retain(|page, vcpu| tdx.vcpu_birth(*page) == Some(vcpu.birth));
    }
    if vcpus.len() < MAX_VCPUS { TdVcpu::new(on, birth, signature) } else { None }
}

/// Keeps the state of a virtual CPU that has left, for its next VP.ENTER.
pub fn put(tdvpr: u64, vcpu: Box<TdVcpu>) {
    VCPUS.lock().insert(tdvpr, vcpu);
}
