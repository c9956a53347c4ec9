//! The whole bring-up in one call, and what the module said about itself.

use tdx_host::bringup::ModuleInfo;

use crate::cpus::KernelOf;
use crate::error::{Details, TdxhError};
use crate::host::{Host, TdxhHost};
use crate::layout::{LayoutObject, TDXH_MAX_CMRS, TdxhAlgorithm, TdxhLayout, TdxhLimits, layout_to_fill};
use crate::range::{TdxhRange, memory_map};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhNodeRange, output};

/// `struct tdxh_module`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhModule {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Update.
    pub update: u16,
    /// Build number.
    pub build_num: u16,
    /// Build date, yyyymmdd as a decimal number.
    pub build_date: u32,
    /// Valid entries of `cmrs`.
    pub cmr_count: u32,
    /// TDX_FEATURES0.
    pub features: u64,
    /// What the module allows.
    pub limits: TdxhLimits,
    /// 0.
    pub reserved: [u16; 3],
    /// Convertible memory ranges, ascending.
    pub cmrs: [TdxhRange; TDXH_MAX_CMRS],
}

impl From<&ModuleInfo> for TdxhModule {
    fn from(info: &ModuleInfo) -> Self {
        let mut cmrs = [TdxhRange::default(); TDXH_MAX_CMRS];
        for (place, cmr) in cmrs.iter_mut().zip(&info.cmrs) {
            *place = (*cmr).into();
        }
        Self {
            major: info.version.major,
            minor: info.version.minor,
            update: info.version.update,
            build_num: info.version.build_num,
            build_date: info.version.build_date,
            cmr_count: info.cmrs.len() as u32,
            features: info.features.bits(),
            limits: info.limits.into(),
            reserved: [0; 3],
            cmrs,
        }
    }
}

/// Brings the module up. See the header.
///
/// # Safety
/// `host` was initialized; `layout` is storage as [`crate::Opaque`] wants it, and lives until the
/// PAMTs are given back; after `TDXH_CAN_BRING_UP_AGAIN` no CPU uses anything that the host gave
/// out, and none calls a function with it meanwhile; `memory` is valid for reads of its count;
/// `module` and `error` are each null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_bring_up(
    host: *mut TdxhHost,
    layout: *mut TdxhLayout,
    algorithm: u32,
    memory: *const TdxhNodeRange,
    memory_count: usize,
    module: *mut TdxhModule,
    error: *mut TdxhError,
) -> TdxhResult {
    let bring_up = || -> Outcome {
        // SAFETY: as the caller has promised, the host is storage that was zeroed or that
        // `tdxh_host_init` has filled, the layout is storage that was zeroed or that this library
        // has filled, the memory map is as long as its count says and the place for details is null
        // or can be written.
        let (host, layout, memory, details) = unsafe {
            (Host::of(host)?, layout_to_fill(layout)?, memory_map(memory, memory_count)?, Details::new(error))
        };
        TdxhAlgorithm::read(algorithm)?;
        host.tdx.platform().ok_or(TdxhResult::NoTdx)?;
        let mut layout = layout.take()?;
        layout.check_empty()?;
        let mut kernel = KernelOf(host);
        if host.tdx.layout().is_some() {
            // SAFETY: by the contract of this function, if this kernel came back from a handover.
            // If it did not, there is private memory and nothing happens.
            let _ = unsafe { host.tdx.start_over(&mut kernel) };
        }
        let ready = host.tdx.bring_up(&mut kernel, memory).map_err(|error| details.bring_up(&error))?;
        *layout = LayoutObject::OfHost(&host.tdx);
        let info = ready.module;
        if module.is_null() {
            return Ok(());
        }
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(module, (&info).into()) }
    };
    flat(bring_up())
}
