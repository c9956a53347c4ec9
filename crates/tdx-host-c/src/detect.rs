//! Is there TDX? CPUID and two MSRs, read by the caller's functions.

use core::ffi::c_void;
use tdx_host::platform::{CpuidOutput, Msr, Processor, TdxPlatform, detect};

use crate::error::{Details, TdxhError};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhPlatform, content, input, output};

/// `struct tdxh_cpuid`: the four registers of CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TdxhCpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// `struct tdxh_processor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TdxhProcessor {
    /// Handed to both functions.
    pub context: *mut c_void,
    /// CPUID.
    pub cpuid: Option<unsafe extern "C" fn(context: *mut c_void, leaf: u32, subleaf: u32, output: *mut TdxhCpuid)>,
    /// RDMSR; 0 if the register does not exist.
    pub rdmsr: Option<unsafe extern "C" fn(context: *mut c_void, msr: u32, value: *mut u64) -> u32>,
}

/// `struct tdxh_platform_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TdxhPlatformInfo {
    /// Family of the CPU.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// 1: a partial write to private memory poisons it.
    pub has_erratum: u32,
    /// First private KeyID.
    pub first_private_key_id: u32,
    /// End of the private KeyIDs, exclusive.
    pub private_key_id_end: u32,
    /// The KeyID of PAMT and TDRs.
    pub global_key_id: u32,
    /// KeyID bits of an address.
    pub key_id_bits: u32,
}

/// The caller's CPU.
struct ProcessorOf<'c>(&'c TdxhProcessor);

impl Processor for ProcessorOf<'_> {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        let mut registers = TdxhCpuid::default();
        if let Some(cpuid) = self.0.cpuid {
            // SAFETY: the caller of `tdxh_detect` promises what this function does; the pointer is
            // to a local.
            unsafe { cpuid(self.0.context, leaf, subleaf, &raw mut registers) };
        }
        let TdxhCpuid { eax, ebx, ecx, edx } = registers;
        CpuidOutput { eax, ebx, ecx, edx }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: as in `cpuid`.
        let there = unsafe { (self.0.rdmsr?)(self.0.context, msr.0, &raw mut value) };
        (there != 0).then_some(value)
    }
}

/// Looks for TDX. See the header.
///
/// # Safety
/// `processor` is valid and its functions do what the header says; `platform` is storage as
/// [`crate::Opaque`] wants it; `error` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_detect(
    processor: *const TdxhProcessor,
    platform: *mut TdxhPlatform,
    error: *mut TdxhError,
) -> TdxhResult {
    // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that this
    // library has filled, inputs can be read and the place for details is null or can be written.
    let (processor, platform, details) = unsafe { (input(processor), content(platform), Details::new(error)) };
    let detected = || -> Outcome {
        let (processor, platform) = (processor?, platform?);
        if processor.cpuid.is_none() || processor.rdmsr.is_none() {
            return Err(TdxhResult::BadKernel);
        }
        match detect(&ProcessorOf(processor)) {
            Ok(found) => platform.put(found),
            Err(why) => Err(details.fill((&why).into(), &why)),
        }
    };
    flat(detected())
}

/// What was found. See the header.
///
/// # Safety
/// `platform` as in [`tdxh_detect`]; `info` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_platform_get(platform: *mut TdxhPlatform, info: *mut TdxhPlatformInfo) -> TdxhResult {
    // SAFETY: as the caller has promised, the platform is storage that was zeroed or that
    // `tdxh_detect` has filled.
    let found = unsafe { platform_of(platform) };
    // SAFETY: as the caller has promised, the place for the result is null or can be written.
    flat(found.and_then(|platform| unsafe { output(info, describe(&platform)) }))
}

/// # Safety
/// As [`content`].
pub(crate) unsafe fn platform_of(platform: *mut TdxhPlatform) -> Outcome<TdxPlatform> {
    // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that this
    // library has filled.
    let platform = unsafe { content(platform) }?.take()?;
    Ok(*platform)
}

fn describe(platform: &TdxPlatform) -> TdxhPlatformInfo {
    let model = platform.model();
    TdxhPlatformInfo {
        family: model.family,
        model: model.model,
        stepping: model.stepping,
        has_erratum: platform.has_partial_write_erratum().into(),
        first_private_key_id: platform.key_ids().first_private().map_or(0, |key| key.get().into()),
        // `detect` has seen that it fits the KeyID field.
        private_key_id_end: platform.key_ids().private_end() as u32,
        global_key_id: platform.global_key_id().get().into(),
        key_id_bits: platform.key_id_field().bits(),
    }
}
