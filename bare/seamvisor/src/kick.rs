//! Kicks: NMIs that force another CPU out of the guest, and the events that CPUs of the guest send
//! each other.
//!
//! After a nested page table entry was changed, CPUs may use the old translation from their TLB
//! until their next VM exit. Every physical NMI of this machine is a kick: NMIs of the guest are
//! requests in a [`Mailbox`], which the run loop injects.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use metal::interrupts::Frame;
use metal::lapic::{self, Ipi};
use metal::{MAX_CPUS, clock};

/// Pending events of a CPU, and whether it is in the guest.
pub struct Mailbox {
    /// The CPU is in the guest, or about to enter it.
    in_guest: AtomicBool,
    /// Number of VM exits.
    exits: AtomicU64,
    /// NMI pending.
    pub nmi: AtomicBool,
    /// INIT pending.
    pub init: AtomicBool,
    /// SIPI pending: its vector with bit 8 set, or 0.
    pub startup: AtomicU64,
    /// The CPU is in HLT, or about to be, until an NMI.
    asleep: AtomicBool,
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        in_guest: AtomicBool::new(false),
        exits: AtomicU64::new(0),
        nmi: AtomicBool::new(false),
        init: AtomicBool::new(false),
        startup: AtomicU64::new(0),
        asleep: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// Kicks sent.
pub static KICKS: AtomicU64 = AtomicU64::new(0);
/// Kicks after which the CPU did not leave the guest within [`TIMEOUT`].
pub static UNANSWERED: AtomicU64 = AtomicU64::new(0);

/// Time for a CPU to leave the guest after a kick, in microseconds.
const TIMEOUT: u64 = 2_000_000;

/// The mailbox of a CPU.
pub fn mailbox(cpu: usize) -> &'static Mailbox {
    &MAILBOXES[cpu]
}

/// Marks this CPU as about to enter the guest. VMRUN then walks the tables as they are now: it
/// flushes the TLB ([`crate::vmcb::FLUSH_TLB`]).
pub fn enter_guest(cpu: usize) {
    MAILBOXES[cpu].in_guest.store(true, Ordering::SeqCst);
}

/// Marks this CPU as outside the guest.
pub fn leave_guest(cpu: usize) {
    MAILBOXES[cpu].in_guest.store(false, Ordering::SeqCst);
    MAILBOXES[cpu].exits.fetch_add(1, Ordering::SeqCst);
}

/// Forces a CPU out of the guest, if it is there. Does not wait.
pub fn kick(cpu: usize) {
    if MAILBOXES[cpu].in_guest.load(Ordering::SeqCst) {
        KICKS.fetch_add(1, Ordering::Relaxed);
        lapic::send(cpu as u32, Ipi::Nmi);
    }
}

/// Sleeps in HLT until [`wake`], unless `is_ready` finds what this CPU waits for in its mailbox. A
/// spinning CPU would take host time from the others, because QEMU's CPUs are threads. Woken by
/// NMI, because the guest may have disabled this CPU's APIC, which blocks all other interrupts.
pub fn sleep(cpu: usize, is_ready: impl Fn() -> bool) {
    let mailbox = &MAILBOXES[cpu];
    mailbox.asleep.store(true, Ordering::SeqCst);
    if !is_ready() {
        // SAFETY: GIF and IF are 0 here, and GIF is again afterwards; an NMI is taken on its own
        // IST stack by `handle_nmi`.
        unsafe { halt_until_nmi() };
    }
    // An NMI that arrives after this ends one VMRUN at once, as any kick does.
    mailbox.asleep.store(false, Ordering::SeqCst);
}

/// Wakes a CPU from [`sleep`], if it sleeps. Call after the event was stored in its mailbox.
pub fn wake(cpu: usize) {
    if MAILBOXES[cpu].asleep.load(Ordering::SeqCst) {
        lapic::send(cpu as u32, Ipi::Nmi);
    }
}

/// HLT with GIF 1. A pending NMI is taken between STGI and HLT; [`handle_nmi`] then skips the HLT,
/// so that the wake-up is not lost.
///
/// # Safety
/// GIF is 0, IF is 0, and the NMI handler calls [`handle_nmi`].
#[unsafe(naked)]
unsafe extern "sysv64" fn halt_until_nmi() {
    naked_asm!("stgi", ".globl seamvisor_halt", "seamvisor_halt:", "hlt", "clgi", "ret");
}

/// NMI handler of the hypervisor. The NMI has already done its work: the CPU is outside the guest
/// and awake.
pub fn handle_nmi(frame: &mut Frame) {
    unsafe extern "C" {
        static seamvisor_halt: u8;
    }
    const HLT_BYTES: u64 = 1;
    if frame.rip == (&raw const seamvisor_halt).addr() as u64 {
        frame.rip += HLT_BYTES;
    }
}

/// Drains a pending kick NMI, which would otherwise end the next VMRUN at once.
pub fn drain() {
    // SAFETY: with GIF 1 a pending NMI is taken, on its IST stack, by a handler that returns here;
    // interrupts stay masked by IF.
    unsafe { asm!("stgi", "nop", "clgi", options(nostack)) }
}

/// Flushes the TLBs of all other CPUs: returns when each has left the guest once since the call, or
/// is outside it.
pub fn flush_others(this: usize) {
    // The tables were written before. A CPU that enters after `in_guest` was read as false walks
    // the new ones.
    fence(Ordering::SeqCst);
    for (cpu, mailbox) in MAILBOXES.iter().enumerate().filter(|(cpu, _)| *cpu != this) {
        if !mailbox.in_guest.load(Ordering::SeqCst) {
            continue;
        }
        let before = mailbox.exits.load(Ordering::SeqCst);
        kick(cpu);
        let has_left = || mailbox.exits.load(Ordering::SeqCst) != before || !mailbox.in_guest.load(Ordering::SeqCst);
        if !clock::wait_for(TIMEOUT, has_left) {
            UNANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
