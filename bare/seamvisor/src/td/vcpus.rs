//! Virtual CPUs of TDs that do not run, by TDVPR page. One that is gone is freed when there is no
//! room for another.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use spin::Mutex;
use tdx_machine::VcpuOnCpu;

use super::vcpu::TdVcpu;
use crate::tdx::Tdx;

/// Virtual CPUs that are kept at the same time, so that the heap lasts for everything else.
const MAX_VCPUS: usize = 24;

static VCPUS: Mutex<BTreeMap<u64, Box<TdVcpu>>> = Mutex::new(BTreeMap::new());

/// Takes the virtual CPU that has just entered: a new one if it has never run. `None` if there are
/// too many.
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

/// Puts a virtual CPU back that has left.
pub fn put(tdvpr: u64, vcpu: Box<TdVcpu>) {
    VCPUS.lock().insert(tdvpr, vcpu);
}
