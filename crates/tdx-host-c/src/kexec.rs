//! Kexec: is the image allowed, stop the others, clean up. One call makes all steps, so that their
//! order cannot be got wrong.

use tdx_abi::PageRange;
use tdx_host::handover::{
    Kexec, KexecKind, Policy, Refused, check_crash_image, check_image_load, offline_this_cpu, stop_this_cpu,
};

use crate::c_enum::c_enum;
use crate::cpu::PinnedCpu;
use crate::cpus::KernelOf;
use crate::error::{Details, TdxhError};
use crate::host::{Host, TdxhHost};
use crate::range::{Ranges, TdxhRange};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhReport, content};

c_enum! {
    /// What the handover does with private memory.
    pub enum TdxhPolicy as "tdxh_policy" {
        /// Resets all that may be private.
        Tracked = 0, "TDXH_POLICY_TRACKED";
        /// Asks the module, resets what it cannot know.
        Module = 1, "TDXH_POLICY_MODULE";
        /// Resets all memory that is named.
        Everything = 4, "TDXH_POLICY_EVERYTHING";
        /// Refuses.
        Refuse = 6, "TDXH_POLICY_REFUSE";
    }
}

c_enum! {
    /// Whether the old kernel comes back.
    pub enum TdxhKexecKind as "tdxh_kexec_kind" {
        /// No.
        Normal = 0, "TDXH_KEXEC_NORMAL";
        /// Yes.
        Jump = 1, "TDXH_KEXEC_JUMP";
    }
}

impl TdxhPolicy {
    pub(crate) const fn policy(self) -> Policy {
        match self {
            Self::Tracked => Policy::Tracked,
            Self::Module => Policy::Module,
            Self::Everything => Policy::Everything,
            Self::Refuse => Policy::Refuse,
        }
    }

    fn read(number: u32) -> Outcome<Policy> {
        Ok(Self::from_number(number).ok_or(TdxhResult::BadValue)?.policy())
    }
}

/// Number of a policy that C can ask for. The header has none for [`Policy::Keep`].
pub(crate) const fn number(policy: Policy) -> u32 {
    match policy {
        Policy::Tracked => TdxhPolicy::Tracked as u32,
        Policy::Module => TdxhPolicy::Module as u32,
        Policy::Everything => TdxhPolicy::Everything as u32,
        Policy::Refuse => TdxhPolicy::Refuse as u32,
        Policy::Keep => u32::MAX,
    }
}

impl TdxhKexecKind {
    fn read(number: u32) -> Outcome<KexecKind> {
        match Self::from_number(number).ok_or(TdxhResult::BadValue)? {
            Self::Normal => Ok(KexecKind::Normal),
            Self::Jump => Ok(KexecKind::Jump),
        }
    }
}

/// Asks for each segment apart: a list of any length needs no memory.
fn check_each(segments: Ranges<'_>, check: impl Fn(&[PageRange]) -> Result<(), Refused>) -> Result<(), Refused> {
    segments.iter().try_for_each(|segment| check(&[segment]))
}

/// May this image be loaded? See the header.
///
/// # Safety
/// `host` was initialized; `segments` is valid for reads of its count; `error` is null or valid for
/// a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_check_image(
    host: *mut TdxhHost,
    policy: u32,
    kind: u32,
    segments: *const TdxhRange,
    segment_count: usize,
    error: *mut TdxhError,
) -> TdxhResult {
    let check = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, arrays are as long as their counts say and the place for
        // details is null or can be written.
        let (host, segments, details) =
            unsafe { (Host::of(host)?, Ranges::new(segments, segment_count)?, Details::new(error)) };
        let (policy, kind, memory) = (TdxhPolicy::read(policy)?, TdxhKexecKind::read(kind)?, host.memory());
        check_image_load(policy, kind, &memory, &[])
            .and_then(|()| check_each(segments, |segment| check_image_load(policy, kind, &memory, segment)))
            .map_err(|refused| details.fill((&refused).into(), &refused))
    };
    flat(check())
}

/// May this crash image be loaded? See the header.
///
/// # Safety
/// As [`tdxh_check_image`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_check_crash_image(
    host: *mut TdxhHost,
    segments: *const TdxhRange,
    segment_count: usize,
    error: *mut TdxhError,
) -> TdxhResult {
    let check = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, arrays are as long as their counts say and the place for
        // details is null or can be written.
        let (host, segments, details) =
            unsafe { (Host::of(host)?, Ranges::new(segments, segment_count)?, Details::new(error)) };
        let memory = host.memory();
        check_each(segments, |segment| check_crash_image(&memory, segment))
            .map_err(|refused| details.fill((&refused).into(), &refused))
    };
    flat(check())
}

/// Hands the machine to the next kernel. See the header.
///
/// # Safety
/// `host` was initialized; `all_memory` is valid for reads of its count, and holds nothing anyone
/// needs if the policy is to reset it; `report` is storage as [`crate::Opaque`] wants it; `error`
/// is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_kexec(
    host: *mut TdxhHost,
    policy: u32,
    kind: u32,
    all_memory: *const TdxhRange,
    all_memory_count: usize,
    report: *mut TdxhReport,
    error: *mut TdxhError,
) -> TdxhResult {
    let kexec = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, opaque objects are storage that was zeroed or that this
        // library has filled, arrays are as long as their counts say and the place for details is
        // null or can be written.
        let (host, all_memory, report, details) = unsafe {
            let all_memory = Ranges::new(all_memory, all_memory_count)?;
            (Host::of(host)?, all_memory, content(report)?.reserve()?, Details::new(error))
        };
        let (policy, kind) = (TdxhPolicy::read(policy)?, TdxhKexecKind::read(kind)?);
        if policy == Policy::Everything && all_memory.is_empty() {
            return Err(TdxhResult::BadValue);
        }
        let kernel = KernelOf(host);
        let loaded =
            Kexec::begin(policy, kind, host.memory()).map_err(|refused| details.fill((&refused).into(), &refused))?;
        let stopped = loaded.stop_other_cpus(&kernel).map_err(|error| details.fill((&error.cause).into(), &error))?;
        let ready = stopped.ask_module(|_| ()).write_back_caches();
        // SAFETY: as the caller has promised, nobody needs what the memory holds.
        report.fill(unsafe { ready.reset_everything(all_memory.iter()) });
        Ok(())
    };
    flat(kexec())
}

/// What a CPU does when it is told to stop for a kexec. See the header.
///
/// # Safety
/// `host` was initialized.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_stop_this_cpu(host: *mut TdxhHost) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.map(|host| stop_this_cpu(PinnedCpu::new(host), host.tdx.platform())))
}

/// What a CPU does on its way offline. See the header.
///
/// # Safety
/// `host` was initialized.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_offline_this_cpu(host: *mut TdxhHost) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    flat(unsafe { Host::of(host) }.map(|host| offline_this_cpu(PinnedCpu::new(host), host.tdx.platform())))
}
