//! Getting another CPU out of its guest: a translation that was taken away is used on by CPUs that have it in their TLB, until
//! they leave. An NMI takes them out. Every NMI of this machine is such a kick: the guest's own are requests that this program
//! injects.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use metal::lapic::{self, Ipi};
use metal::{MAX_CPUS, clock, interrupts};
use spin::Mutex;

/// What other CPUs know and want of a CPU.
pub struct Mailbox {
    /// It is in its guest, or about to enter.
    in_guest: AtomicBool,
    /// How often it has left.
    exits: AtomicU64,
    /// The guest has sent it an NMI.
    pub nmi: AtomicBool,
    /// The guest has sent it INIT.
    pub init: AtomicBool,
    /// The guest has sent it SIPI: the page, and 0x100.
    pub startup: AtomicU64,
    /// It sleeps, or is about to, until it is sent an interrupt.
    asleep: Mutex<bool>,
}

static MAILBOXES: [Mailbox; MAX_CPUS] = [const {
    Mailbox {
        in_guest: AtomicBool::new(false),
        exits: AtomicU64::new(0),
        nmi: AtomicBool::new(false),
        init: AtomicBool::new(false),
        startup: AtomicU64::new(0),
        asleep: Mutex::new(false),
    }
}; MAX_CPUS];

/// Kicks so far, and those that nobody answered in time.
pub static KICKS: AtomicU64 = AtomicU64::new(0);
/// Kicks that were not answered within [`PATIENCE`].
pub static UNANSWERED: AtomicU64 = AtomicU64::new(0);

/// How long to wait for a CPU to leave its guest, in microseconds.
const PATIENCE: u64 = 2_000_000;

/// A CPU's mailbox.
pub fn mailbox(cpu: usize) -> &'static Mailbox {
    &MAILBOXES[cpu]
}

/// This CPU enters its guest: its TLB is empty, and what the tables say now is what it uses.
pub fn enters(cpu: usize) {
    MAILBOXES[cpu].in_guest.store(true, Ordering::SeqCst);
}

/// This CPU has left its guest.
pub fn has_left(cpu: usize) {
    MAILBOXES[cpu].in_guest.store(false, Ordering::SeqCst);
    MAILBOXES[cpu].exits.fetch_add(1, Ordering::SeqCst);
}

/// Takes a CPU out of its guest, if it is there, and does not wait.
pub fn kick(cpu: usize) {
    if MAILBOXES[cpu].in_guest.load(Ordering::SeqCst) {
        KICKS.fetch_add(1, Ordering::Relaxed);
        lapic::send(cpu as u32, Ipi::Nmi);
    }
}

/// Sleeps until [`wake`], unless the guest has sent SIPI already. A CPU that spun would take the time of those that work: QEMU's CPUs
/// are threads.
pub fn sleep(cpu: usize) {
    let mailbox = &MAILBOXES[cpu];
    *mailbox.asleep.lock() = true;
    if mailbox.startup.load(Ordering::SeqCst) == 0 {
        // SAFETY: handlers run on stacks of their own and do nothing but end the interrupt. STI lets none in before HLT, so a
        // wake-up that came since the look above ends the sleep at once.
        unsafe { asm!("stgi", "sti", "hlt", "cli", "clgi", options(nostack)) }
    }
    // Whoever has seen this CPU asleep has sent its interrupt by now; it must not be left for the guest.
    *mailbox.asleep.lock() = false;
    // SAFETY: as above.
    unsafe { asm!("stgi", "sti", "nop", "nop", "cli", "clgi", options(nostack)) }
}

/// Ends the sleep of a CPU, if it sleeps.
pub fn wake(cpu: usize) {
    let asleep = MAILBOXES[cpu].asleep.lock();
    if *asleep {
        lapic::send(cpu as u32, Ipi::Fixed(interrupts::WAKE));
    }
}

/// Returns when every other CPU has left its guest once since the call, or is not in it: none has an old translation then.
pub fn flush_others(this: usize) {
    for (cpu, mailbox) in MAILBOXES.iter().enumerate().filter(|(cpu, _)| *cpu != this) {
        if !mailbox.in_guest.load(Ordering::SeqCst) {
            continue;
        }
        let before = mailbox.exits.load(Ordering::SeqCst);
        kick(cpu);
        let out = || mailbox.exits.load(Ordering::SeqCst) != before || !mailbox.in_guest.load(Ordering::SeqCst);
        if !clock::wait_for(PATIENCE, out) {
            UNANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
