//! The crash path: from a panic to the jump into the crash kernel. It believes nothing but the
//! pointer to the host: whatever else is wrong, private memory is reset.

use tdx_host::handover::{Policy, hand_over_crash, stop_this_cpu_at_crash};

use crate::cpu::PinnedCpu;
use crate::cpus::KernelOf;
use crate::host::{Host, TdxhHost};
use crate::kexec::TdxhPolicy;
use crate::result::{TdxhResult, flat};
use crate::storage::{TdxhReport, content};

/// Hands the machine to the crash kernel. See the header.
///
/// # Safety
/// `host` was initialized; `report` is null or storage as [`crate::Opaque`] wants it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_crash(host: *mut TdxhHost, policy: u32, report: *mut TdxhReport) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.and_then(|host| {
        let policy = TdxhPolicy::from_number(policy).map_or(Policy::Tracked, TdxhPolicy::policy);
        let cpu = PinnedCpu::new(host);
        let done = hand_over_crash(policy, &cpu, &KernelOf(host), &host.memory());
        if report.is_null() {
            return Ok(());
        }
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        unsafe { content(report) }?.put(done)
    }))
}

/// What the NMI handler does on a CPU that a crash stops. See the header.
///
/// # Safety
/// `host` was initialized.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_stop_this_cpu_at_crash(host: *mut TdxhHost) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.map(|host| stop_this_cpu_at_crash(&PinnedCpu::new(host))))
}
