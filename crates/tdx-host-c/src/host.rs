//! The one object of a machine: the kernel's functions and a [`tdx_host::Host`]. Shared by all
//! CPUs, never locked.

use arrayvec::ArrayVec;
use core::mem::MaybeUninit;
use tdx_abi::PageRange;
use tdx_host::gate::CpuSlot;
use tdx_host::handover::HostMemory;
use tdx_host::ledger::{Ledger, MAX_RESERVED};

use crate::detect::platform_of;
use crate::kernel::{Kernel, TdxhKernel};
use crate::range::{Ranges, TdxhRange};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{InitOnce, TdxhCpuSlot, TdxhPlatform, content, input, is_usable, opaque};

/// A machine: the kernel's functions, and what the library knows of TDX.
#[derive(Debug)]
pub struct Host {
    pub(crate) kernel: Kernel,
    pub(crate) tdx: tdx_host::Host<'static>,
}

opaque! {
    /// `struct tdxh_host`.
    TdxhHost: 40960 bytes, align 64, InitOnce<Host>;
}

impl Host {
    /// The host behind a pointer of C.
    ///
    /// # Safety
    /// As [`content`]; the object lives as long as the machine.
    pub(crate) unsafe fn of<'h>(host: *mut TdxhHost) -> Outcome<&'h Self> {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        unsafe { content(host) }?.get()
    }

    /// The ledger in use, if there is one.
    pub(crate) fn ledger(&self) -> Option<&Ledger<'static>> {
        self.tdx.ledger()
    }

    /// What a handover needs to know.
    pub(crate) fn memory(&self) -> HostMemory<'_> {
        self.tdx.memory()
    }
}

/// Makes the host. See the header.
///
/// # Safety
/// `host` is storage as [`crate::Opaque`] wants it and lives as long as the machine; so do the
/// `slot_count` slots, which nobody else writes. `kernel` is valid and its functions do what the
/// header says, on any CPU, as long as the machine runs. `platform` is null or was given to
/// `tdxh_detect`. `reserved` points to `reserved_count` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_host_init(
    host: *mut TdxhHost,
    kernel: *const TdxhKernel,
    platform: *mut TdxhPlatform,
    slots: *mut TdxhCpuSlot,
    slot_count: usize,
    reserved: *const TdxhRange,
    reserved_count: usize,
) -> TdxhResult {
    // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that this
    // library has filled.
    let object = unsafe { content(host) };
    flat(object.and_then(|object| {
        object.init(|place| {
            // SAFETY: as the caller has promised, the platform is storage that was zeroed or that
            // `tdxh_detect` has filled, arrays are as long as their counts say, inputs can be read,
            // the functions do what the header asks for and the slots are as many as their count
            // says and nobody else's.
            let (kernel, platform, reserved, slots) = unsafe {
                let kernel = Kernel::new(input(kernel)?)?;
                let platform = if platform.is_null() { None } else { Some(platform_of(platform)?) };
                (kernel, platform, Ranges::new(reserved, reserved_count)?, new_slots(slots, slot_count)?)
            };
            let mut list = ArrayVec::<PageRange, MAX_RESERVED>::new();
            for range in reserved.iter() {
                list.try_push(range).map_err(|_| TdxhResult::BadValue)?;
            }
            let tdx = &write_host(place, kernel, slots).tdx;
            // Both are the first, of a host that no other CPU can see.
            // SAFETY: `tdxh_detect` has made it of this machine's answers.
            let platform = platform.map_or(Ok(()), |platform| unsafe { tdx.set_platform(platform) });
            platform.and_then(|()| tdx.reserve(&list)).map_err(|_| TdxhResult::Other)
        })
    }))
}

/// Field by field, and copied from a constant: the whole would need 40 KiB of a kernel's stack.
fn write_host<'p>(place: &'p mut MaybeUninit<Host>, kernel: Kernel, slots: &'static [CpuSlot]) -> &'p Host {
    static FRESH: tdx_host::Host<'static> = tdx_host::Host::new(&[]);
    let host = place.as_mut_ptr();
    // SAFETY: `host` points to uninitialized memory of this caller; every field is written once.
    // `FRESH` is a whole value that is never used itself, never changed and needs no drop, so its
    // bytes may be copied out. After that `place` is initialized.
    let host = unsafe {
        (&raw mut (*host).kernel).write(kernel);
        core::ptr::copy_nonoverlapping(&raw const FRESH, &raw mut (*host).tdx, 1);
        place.assume_init_mut()
    };
    // SAFETY: no CPU has passed the gate of a host that was made above.
    unsafe { host.tdx.set_slots(slots) };
    host
}

/// Slots of CPUs that have made no SEAMCALL.
///
/// # Safety
/// The memory lives as long as the machine, and nobody else uses it.
unsafe fn new_slots(slots: *mut TdxhCpuSlot, count: usize) -> Outcome<&'static [CpuSlot]> {
    let slots = slots.cast::<CpuSlot>();
    if slots.is_null() {
        return Err(TdxhResult::Null);
    }
    if !is_usable(slots) {
        return Err(TdxhResult::Misaligned);
    }
    if count == 0 || u32::try_from(count).is_err() {
        return Err(TdxhResult::BadValue);
    }
    for index in 0..count {
        // SAFETY: inside the memory that the contract speaks of; a slot has the size and alignment
        // of `TdxhCpuSlot`.
        unsafe { slots.add(index).write(CpuSlot::new()) };
    }
    // SAFETY: just written, aligned, and nobody else's by contract.
    Ok(unsafe { core::slice::from_raw_parts(slots, count) })
}
