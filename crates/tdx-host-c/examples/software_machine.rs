//! The software machine (`tdx-machine`) as a shared library with a C interface,
//! `tests/c/software_machine.h`: hardware for programs in C. It is no part of the product; the C
//! tests of this crate run on it.
//!
//! A request that the machine refuses to model is remembered, never answered by a guess:
//! `machine_refused`.

// UNSAFETY: functions that C calls with a pointer from `machine_new`.
#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use tdx_abi::{KeyId, Line, LineRange, Page, PageRange, PhysAddr, Registers, Status};
use tdx_machine::{
    CpuId, CpuModel, CpuidOutput, Machine, MachineConfig, ModuleProfile, MsrRead, PackageId, PartialStore, Refusal,
};

/// A machine, whoever of its CPUs comes.
pub struct Shared {
    machine: Mutex<State>,
}

struct State {
    machine: Machine,
    refusal: Option<Refusal>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation; a refusal is kept and the default goes back.
    fn act<R: Default>(&self, action: impl FnOnce(&mut Machine) -> Result<R, Refusal>) -> R {
        let mut state = self.lock();
        action(&mut state.machine).unwrap_or_else(|refusal| {
            eprintln!("the software machine does not model this: {refusal}");
            state.refusal.get_or_insert(refusal);
            R::default()
        })
    }
}

/// # Safety
/// `machine` came from [`machine_new`] and was not given to [`machine_free`].
unsafe fn of<'m>(machine: *const Shared) -> &'m Shared {
    // SAFETY: by the contract of this function it points to a live box.
    unsafe { &*machine }
}

fn lines_from(first: u64, lines: u64) -> LineRange {
    let first = PhysAddr::new(first).line();
    LineRange::new(first, Line::new(first.index() + lines))
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start / 4096), Page::new(end / 4096))
}

/// A host with 2 packages after power-on: Sapphire Rapids, or Granite Rapids without the erratum;
/// module 1.5.01, with or without TDH.SYS.DISABLE. All CPUs are in VMX operation. CMRs: `[1M, 2G)`
/// and `[4G, 6G)`.
#[unsafe(no_mangle)]
pub extern "C" fn machine_new(cpus: u32, has_erratum: u32, has_disable: u32) -> *mut Shared {
    let model = if has_erratum == 0 { CpuModel::GRANITE_RAPIDS } else { CpuModel::SAPPHIRE_RAPIDS };
    let cmrs = [pages(1 << 20, 2 << 30), pages(4 << 30, 6 << 30)];
    let mut config = MachineConfig::new(model, cpus, 2, cmrs);
    config.module =
        Some(if has_disable == 0 { ModuleProfile::V1_5_01 } else { ModuleProfile::V1_5_01.with_sys_disable() });
    let Ok(mut machine) = Machine::new(config) else { return std::ptr::null_mut() };
    for cpu in 0..cpus {
        if machine.vmxon(CpuId(cpu)).is_err() {
            return std::ptr::null_mut();
        }
    }
    Box::into_raw(Box::new(Shared { machine: Mutex::new(State { machine, refusal: None }) }))
}

/// Switches it off.
///
/// # Safety
/// `machine` came from [`machine_new`] and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn machine_free(machine: *mut Shared) {
    // SAFETY: it came from `Box::into_raw`, and by contract this is the last use.
    drop(unsafe { Box::from_raw(machine) });
}

/// Defines a function on a machine: `of(machine)` in the body.
macro_rules! on_machine {
    ($($(#[$doc:meta])* fn $name:ident($machine:ident $(, $arg:ident: $type:ty)*) $(-> $return:ty)? $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `machine` came from [`machine_new`]; other pointers are valid for what the name says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(machine: *const Shared $(, $arg: $type)*) $(-> $return)? {
            // SAFETY: by contract.
            let $machine = unsafe { of(machine) };
            $body
        }
    )*};
}

on_machine! {
    /// 1 if something was asked of the machine that it does not model.
    fn machine_refused(machine) -> u32 {
        machine.lock().refusal.is_some().into()
    }

    /// VMXOFF on a CPU.
    fn machine_vmxoff(machine, cpu: u32) {
        machine.act(|machine| machine.vmxoff(CpuId(cpu)));
    }

    /// Package of a CPU.
    fn machine_package_of(machine, cpu: u32) -> u32 {
        machine.act(|machine| machine.package_of(CpuId(cpu)).map(Some)).map_or(0, |PackageId(package)| package)
    }

    /// CPUID: EAX, EBX, ECX, EDX.
    fn machine_cpuid(machine, leaf: u32, subleaf: u32, output: *mut [u32; 4]) {
        let CpuidOutput { eax, ebx, ecx, edx } = machine.act(|machine| machine.cpuid(CpuId(0), leaf, subleaf));
        // SAFETY: valid for a write by contract.
        unsafe { output.write([eax, ebx, ecx, edx]) };
    }

    /// RDMSR; 0 if the register does not exist.
    fn machine_rdmsr(machine, msr: u32, value: *mut u64) -> u32 {
        let Some(MsrRead::Value(found)) = machine.act(|machine| machine.rdmsr(CpuId(0), msr).map(Some)) else {
            return 0;
        };
        // SAFETY: valid for a write by contract.
        unsafe { value.write(found) };
        1
    }

    /// SEAMCALL; RAX, RCX, RDX, R8 to R13.
    fn machine_seamcall(machine, cpu: u32, registers: *mut Registers) {
        // SAFETY: valid for reads and writes by contract; `Registers` are nine numbers in C order.
        let registers = unsafe { &mut *registers };
        let dead = Registers { rax: Status::VMFAIL_INVALID.raw(), ..*registers };
        let answer = machine.act(|machine| machine.seamcall(CpuId(cpu), *registers).map(Some));
        *registers = answer.unwrap_or(dead);
    }

    /// MOVDIR64B of zeros to each line.
    fn machine_reset_lines(machine, cpu: u32, first: u64, lines: u64) {
        machine.act(|machine| machine.direct_store(CpuId(cpu), lines_from(first, lines)));
    }

    /// MFENCE.
    fn machine_fence(machine, cpu: u32) {
        machine.act(|machine| machine.fence(CpuId(cpu)));
    }

    /// WBINVD.
    fn machine_wbinvd(machine, cpu: u32) {
        machine.act(|machine| machine.wbinvd(CpuId(cpu)));
    }

    /// CLFLUSHOPT of each line, KeyID 0.
    fn machine_flush_lines(machine, cpu: u32, first: u64, lines: u64) {
        machine.act(|machine| machine.flush_lines(CpuId(cpu), lines_from(first, lines), KeyId::HOST));
    }

    /// Ordinary stores of bytes.
    fn machine_write(machine, cpu: u32, address: u64, bytes: *const u8, count: usize) {
        // SAFETY: valid for reads of `count` bytes by contract.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, count) };
        machine.act(|machine| machine.write_shared(CpuId(cpu), PhysAddr::new(address), bytes));
    }

    /// Lines that a private KeyID owns.
    fn machine_private_lines(machine) -> u64 {
        machine.lock().machine.private_lines()
    }

    /// Lines of `[start, end)` that a private KeyID owns.
    fn machine_private_lines_in(machine, start: u64, end: u64) -> u64 {
        machine.lock().machine.private_lines_in(pages(start, end).lines())
    }

    /// Every cache writes back what it holds: at any time it could.
    fn machine_evict_all(machine) {
        machine.act(|machine| {
            for run in machine.dirty_runs() {
                machine.evict(run.lines, run.key);
            }
            Ok(())
        });
    }

    /// One kernel jumps into the next: VMX is off everywhere.
    fn machine_kexec(machine) {
        machine.lock().machine.kexec_boundary();
    }

    /// What a kernel does that knows nothing of TDX: whatever waits in a cache is evicted, a part
    /// of each line of `[start, end)` is written with MOVNTI, and all is read back. Returns the
    /// number of lines that raise a machine check.
    fn machine_use_memory(machine, start: u64, end: u64) -> u64 {
        machine.act(|machine| {
            for run in machine.dirty_private_runs() {
                machine.evict(run.lines, run.key);
            }
            Ok(machine.use_memory(CpuId(0), pages(start, end), PartialStore::NonTemporal)?.lines_fatal)
        })
    }
}
