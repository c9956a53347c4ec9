//! The one object of a machine: the kernel's functions, the platform, the record of private memory,
//! the gate, and which ledger is in use. Shared by all CPUs, never locked.

use arrayvec::ArrayVec;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
use tdx_abi::{Leaf, PageRange, Registers, TdxFeatures0};
use tdx_host::gate::{CpuSlot, Gate};
use tdx_host::handover::{HostMemory, HostParts, LedgerRef, LiveLedger};
use tdx_host::ledger::{Ledger, MAX_RESERVED};
use tdx_host::platform::{Cpu, TdxPlatform};
use tdx_host::private_memory::PrivateMemory;
use tdx_host::seamcall::call_unchecked;

use crate::detect::platform_of;
use crate::error::{Details, TdxhError};
use crate::kernel::{Kernel, PinnedCpu, TdxhKernel};
use crate::range::{Ranges, TdxhRange};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{InitOnce, TdxhCpuSlot, TdxhHost, TdxhPlatform, content, input, is_usable};

/// What the library knows of a machine.
#[derive(Debug)]
pub struct Host {
    pub(crate) kernel: Kernel,
    pub(crate) platform: Option<TdxPlatform>,
    pub(crate) record: PrivateMemory,
    pub(crate) gate: Gate<&'static [CpuSlot]>,
    pub(crate) reserved: ArrayVec<PageRange, MAX_RESERVED>,
    ledger: AtomicPtr<InitOnce<Ledger<'static>>>,
    features: AtomicU64,
    features_known: AtomicBool,
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

    /// TDX_FEATURES0, once the module has said it.
    fn features(&self) -> Option<TdxFeatures0> {
        let known = self.features_known.load(Ordering::Acquire);
        known.then(|| TdxFeatures0::new(self.features.load(Ordering::Relaxed)))
    }

    /// For a handover, from the moment on that the module has said it.
    pub(crate) fn set_features(&self, features: TdxFeatures0) {
        self.features.store(features.bits(), Ordering::Relaxed);
        self.features_known.store(true, Ordering::Release);
    }

    /// The ledger in use, if there is one.
    pub(crate) fn ledger(&self) -> Option<&Ledger<'static>> {
        // A CPU that has closed the gate and then looks must see the ledger of every CPU that came
        // through before.
        fence(Ordering::SeqCst);
        let ledger = self.ledger.load(Ordering::Acquire);
        // SAFETY: the pointer is null or was published from a reference that its owner keeps valid
        // until it is withdrawn (contract of `tdxh_ledger_init`); the release of `publish` makes
        // its content visible.
        unsafe { ledger.as_ref() }.and_then(|ledger| ledger.get().ok())
    }

    /// Makes a ledger the one in use. False if there is one.
    pub(crate) fn publish(&self, ledger: &InitOnce<Ledger<'static>>) -> bool {
        let new = core::ptr::from_ref(ledger).cast_mut();
        let first =
            self.ledger.compare_exchange(core::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        fence(Ordering::SeqCst);
        first
    }

    /// No ledger is in use any more.
    pub(crate) fn withdraw_ledger(&self) {
        self.ledger.store(core::ptr::null_mut(), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// What a handover needs to know.
    pub(crate) fn memory(&self) -> HostMemory<'_> {
        let parts = HostParts {
            platform: self.platform.as_ref(),
            features: self.features(),
            record: &self.record,
            ledger: LedgerRef::Live(self),
            gate: self.gate.handle(),
            reserved: &self.reserved,
        };
        // SAFETY: the contract of `tdxh_host_init`: one host for each machine, whose record, gate and
        // ledger are used by every function of this library.
        unsafe { HostMemory::new(parts) }
    }
}

impl LiveLedger for Host {
    fn ledger(&self) -> Option<&Ledger<'_>> {
        Host::ledger(self)
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
            let mut list = ArrayVec::new();
            for range in reserved.iter() {
                list.try_push(range).map_err(|_| TdxhResult::BadValue)?;
            }
            write_host(place, kernel, platform, slots, list);
            Ok(())
        })
    }))
}

/// Field by field: the whole would need 4 KiB of a kernel's stack.
fn write_host(
    place: &mut MaybeUninit<Host>,
    kernel: Kernel,
    platform: Option<TdxPlatform>,
    slots: &'static [CpuSlot],
    reserved: ArrayVec<PageRange, MAX_RESERVED>,
) {
    static FRESH: PrivateMemory = PrivateMemory::new();
    let host = place.as_mut_ptr();
    // SAFETY: `host` points to uninitialised memory of this caller; every field is written once.
    // `FRESH` is a whole value that is never used itself, never changed and needs no drop, so its
    // bytes may be copied out.
    unsafe {
        (&raw mut (*host).kernel).write(kernel);
        (&raw mut (*host).platform).write(platform);
        core::ptr::copy_nonoverlapping(&raw const FRESH, &raw mut (*host).record, 1);
        (&raw mut (*host).gate).write(Gate::new(slots));
        (&raw mut (*host).reserved).write(reserved);
        (&raw mut (*host).ledger).write(AtomicPtr::new(core::ptr::null_mut()));
        (&raw mut (*host).features).write(AtomicU64::new(0));
        (&raw mut (*host).features_known).write(AtomicBool::new(false));
    }
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

/// A SEAMCALL of the kernel's own. See the header.
///
/// # Safety
/// `host` was initialised; `registers` is valid for reads and writes; `error` is null or valid for
/// a write. What the leaf does with its operands is the caller's to do, as
/// [`tdx_host::seamcall::call_unchecked`] says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_seamcall(
    host: *mut TdxhHost,
    registers: *mut Registers,
    error: *mut TdxhError,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled, inputs can be read and the place for details is null or can be
    // written.
    let (host, input, details) = unsafe { (Host::of(host), input(registers).copied(), Details::new(error)) };
    let called = || -> Outcome {
        let (host, input) = (host?, input?);
        // SAFETY: the caller's promise.
        let (answer, result) = match unsafe { call_unchecked(&PinnedCpu::new(host), input) } {
            Ok(answer) => (answer, Ok(())),
            Err(error) => (error.registers, Err(details.seamcall(&error))),
        };
        // SAFETY: `input` has found the pointer usable; valid for writes by contract.
        unsafe { registers.write(answer) };
        result
    };
    flat(called())
}

/// Calls a function of the kernel that executes SEAMCALL itself. See the header.
///
/// # Safety
/// `host` was initialised; `function` may be called with `context` on this CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_call_admitted(
    host: *mut TdxhHost,
    leaf: u16,
    function: Option<unsafe extern "C" fn(context: *mut c_void)>,
    context: *mut c_void,
) -> TdxhResult {
    // SAFETY: as the caller has promised, the host is storage that was zeroed or that
    // `tdxh_host_init` has filled.
    let host = unsafe { Host::of(host) };
    let called = || -> Outcome {
        let (host, function) = (host?, function.ok_or(TdxhResult::Null)?);
        let cpu = PinnedCpu::new(host);
        let guard = cpu.cpu_gate().enter(Leaf(leaf)).map_err(|_| TdxhResult::GateClosed)?;
        // SAFETY: by the contract of this function.
        unsafe { function(context) };
        drop(guard);
        Ok(())
    };
    flat(called())
}
