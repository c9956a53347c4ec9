//! TDs that count: built in the pool, kept by the kexec, adopted and entered in the next kernel.

use arrayvec::ArrayVec;
use cleanslate_linux::cpu::ThisCpu;
use cleanslate_linux::kernel::Linux;
use cleanslate_linux::roster::{self, MAX_TDS};
use cleanslate_linux::{EBUSY, EIO, ENODEV, ENOMEM, HOST, log, pool, shim, take_over};
use core::ffi::c_void;
use core::mem::forget;
use first_kernel::{
    COUNTING, Copied, Count, Exit, Hypervisor, KeptTd, Plain, Slot, TdPhase, counting_exit, counting_page,
    enter_counting, td_params,
};
use tdx_abi::{Leaf, PAGE_SIZE, Page, PageSize, PhysAddr};
use tdx_host::arch::{self, SavedRegisters};
use tdx_host::layout::FrameSource;
use tdx_host::platform::{Cpu, OwnedPages};
use tdx_host::takeover::{Entry, TdState};
use tdx_host::td::{Runnable, Td, TdHost, VcpuHost};

unsafe extern "C" {
    /// Runs a function with interrupts off, and keeps what VP.ENTER changes of this CPU.
    fn cleanslate_quietly(run: shim::Work, argument: *mut c_void);
    /// Interrupts are off, and the one of this vector is in service: it comes again.
    safe fn cleanslate_interrupt(vector: u8);
}

/// Reports of a TD that runs, in each kernel.
const TIMES: u32 = 3;

/// Adopted TDs, which lie on the stack: a kernel has 16 KiB of it.
const ADOPTED: usize = 8;

/// Notification vector of an adopted VCPU, which no TD of this kind gets.
const NOTIFICATION: u8 = 0xf2;

/// Pages for TDs, from the pool.
struct PoolPages;

impl first_kernel::Pages for PoolPages {
    fn take(&self, size: PageSize) -> Option<OwnedPages> {
        pool::take(size.pages())
    }

    /// Each page is used once.
    fn give_back(&self, _page: OwnedPages) {}
}

/// Writes what the module copies for a TD that counts.
///
/// # Safety
/// The page at `shared` is this module's own, and nothing else refers to it.
unsafe fn write(shared: PhysAddr, what: Copied) {
    // SAFETY: a page of the page allocator.
    let to = unsafe { shim::map(shared) };
    let put = |at: usize, bytes: &[u8]| {
        // SAFETY: the caller's; the bytes are inside a page.
        unsafe { to.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    };
    match what {
        Copied::Params => put(0, &td_params()),
        Copied::GuestPage(number) => {
            // SAFETY: the caller's.
            unsafe { to.write_bytes(0, PAGE_SIZE as usize) };
            for (at, bytes) in counting_page(number) {
                put(*at, bytes);
            }
        }
    }
}

/// Builds a TD that counts up to a phase, and lets it report if it can run. On this CPU, which then
/// holds its VCPU until the handover.
pub fn build(phase: TdPhase, host: TdHost<'static>) -> i32 {
    if roster::has_tds_left() {
        log(format_args!("no TD is built before those of the earlier kernel are adopted or torn down"));
        return -EBUSY;
    }
    shim::pinned(|cpu| build_here(phase, host, cpu))
}

fn build_here(phase: TdPhase, host: TdHost<'static>, cpu: u32) -> i32 {
    let mut linux = Linux::without_pool();
    let Some(shared) = linux.allocate_any(1) else { return -ENOMEM };
    let at = shared.base();
    let backend = Plain {
        cpus: &linux,
        ledger: host.ledger(),
        pages: &PoolPages,
        shared: at,
        // SAFETY: the page of above, which this function alone has.
        write: |what| unsafe { write(at, what) },
    };
    let hypervisor = Hypervisor::new(&backend, host, &COUNTING);
    let built = phase.moves(&COUNTING).try_fold(Slot::Empty, |td, what| hypervisor.make(td, what));
    linux.free(shared);
    let (td, failed) = match built {
        Ok(td) => (td, false),
        Err(stuck) => {
            log(format_args!("TD: {}", stuck.error));
            (stuck.td, true)
        }
    };
    let kept = td.kept();
    // It stays as it is until the kexec.
    forget(td);
    let Some(kept) = kept else { return if failed { -EIO } else { 0 } };
    if !roster::add(kept) {
        log(format_args!("more than {MAX_TDS} TDs: the next kernel will not know this one"));
    }
    match kept.vcpu.filter(|_| kept.state == TdState::Runnable && !failed) {
        // SAFETY: this code stays on its CPU.
        Some(vcpu) => report(unsafe { ThisCpu::pinned_to(cpu) }, vcpu),
        None => {
            if failed {
                -EIO
            } else {
                0
            }
        }
    }
}

/// Adopts the TDs of the earlier kernel that can run, and lets them count on, on this CPU.
pub fn adopt() -> i32 {
    let (Some(table), Some(host), true) = (take_over::table(), HOST.tds(), roster::has_tds_left()) else {
        return -ENODEV;
    };
    let mut adopted = ArrayVec::<(Page, Td<'static, Runnable>), ADOPTED>::new();
    let mut lost = 0u32;
    host.adopt(&Linux::without_pool(), &table, |number, result| {
        let listed = table.entries().find_map(|entry| match entry {
            Entry::Td { td, state, key_id, .. } if td == number => Some((state, key_id)),
            _ => None,
        });
        match result {
            Ok(td) => {
                let vcpu = table.vcpus(number).next().map(|(_, page)| page);
                let kept = KeptTd { state: TdState::Runnable, tdr: td.tdr(), key_id: Some(td.key_id()), vcpu };
                let is_listed = roster::add(kept);
                let place = vcpu.filter(|_| is_listed);
                lost += u32::from(place.is_none_or(|vcpu| adopted.try_push((vcpu, td)).is_err()));
            }
            Err(why) => {
                lost += u32::from(listed.is_some_and(|(state, _)| state == TdState::Runnable));
                log(format_args!("TD {number} of the earlier kernel: {why}"));
            }
        }
    });
    let count = adopted.len();
    let mut since = Some(table.facts.tsc);
    for (vcpu, td) in adopted.drain(..) {
        let done = resume_here(&td, vcpu, since.take());
        // It stays until the kexec.
        forget(td);
        if done != 0 {
            return done;
        }
    }
    log(format_args!("{count} TDs of the earlier kernel adopted, {lost} that could run were not"));
    if lost == 0 { 0 } else { -EIO }
}

/// A page of zeros that is never freed.
fn zeros() -> Option<PhysAddr> {
    let page = Linux::without_pool().allocate_any(1)?;
    let base = page.base();
    // SAFETY: a page of the page allocator, which nobody else has.
    unsafe { shim::map(base).write_bytes(0, PAGE_SIZE as usize) };
    Some(base)
}

/// Not part of its caller's stack.
#[inline(never)]
fn resume_here(td: &Td<'static, Runnable>, vcpu: Page, since: Option<u64>) -> i32 {
    shim::pinned(|cpu| {
        // SAFETY: this code stays on its CPU.
        resume(unsafe { ThisCpu::pinned_to(cpu) }, td, vcpu, since)
    })
}

/// Makes the VCPU this CPU's, and lets it report. With the time of the handover, prints how long
/// ago that was.
fn resume(cpu: ThisCpu, td: &Td<'static, Runnable>, vcpu: Page, since: Option<u64>) -> i32 {
    let (Some(descriptor), Some(root)) = (zeros(), zeros()) else { return -ENOMEM };
    let with = VcpuHost { posted_interrupts: Some((NOTIFICATION, descriptor)), shared_ept: Some(root) };
    // SAFETY: two pages of zeros that nothing else uses.
    if let Err(error) = unsafe { td.resume_vcpu(&cpu, vcpu, &with) } {
        log(format_args!("TD not resumed: {error}"));
        return -EIO;
    }
    if let Some(then) = since {
        crate::entered(shim::tsc().saturating_sub(then));
    }
    report(cpu, vcpu)
}

/// VP.ENTER, with interrupts off.
struct Entering {
    cpu: ThisCpu,
    registers: SavedRegisters,
    entered: bool,
}

/// # Safety
/// `argument` points to an [`Entering`] that nobody else uses, of this CPU.
unsafe extern "C" fn enter_now(argument: *mut c_void) {
    // SAFETY: the caller's.
    let entering = unsafe { &mut *argument.cast::<Entering>() };
    let Ok(inside) = entering.cpu.cpu_gate().enter(Leaf::VP_ENTER) else { return };
    // SAFETY: the kernel's exception table has the fix-ups. The TD has no shared memory: the root
    // of its shared EPT is a page of zeros, or the module's own.
    unsafe { arch::seamcall_saved(&mut entering.registers) };
    drop(inside);
    if let Exit::Interrupt(vector) = counting_exit(&entering.registers.base) {
        cleanslate_interrupt(vector);
    }
    entering.entered = true;
}

/// Lets a TD report a few times, and prints the last report.
fn report(cpu: ThisCpu, vcpu: Page) -> i32 {
    let mut last = Count { memory: 0, register: 0, starts: 0 };
    let mut left = TIMES;
    while left > 0 {
        let registers = SavedRegisters { base: enter_counting(vcpu), ..SavedRegisters::default() };
        let mut entering = Entering { cpu, registers, entered: false };
        // SAFETY: `enter_now` takes this value, which lives until it returns.
        unsafe { cleanslate_quietly(enter_now, (&raw mut entering).cast()) };
        if !entering.entered {
            return -EBUSY;
        }
        match counting_exit(&entering.registers.base) {
            Exit::Reported(count) => {
                last = count;
                left -= 1;
            }
            // It was taken when interrupts were on again.
            Exit::Interrupt(_) => {}
            Exit::Other(status) => {
                log(format_args!("VP.ENTER: RAX {:#x}, {status}", status.raw()));
                return -EIO;
            }
        }
    }
    crate::counted(cpu.id().0, last);
    0
}
