//! Getting another CPU out of its guest: a translation that was taken away is used on by CPUs that
//! have it in their TLB, until they leave. An NMI takes them out. Every NMI of this machine is such
//! a kick: the guest's own are requests that this program injects.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use metal::interrupts::Frame;
use metal::lapic::{self, Ipi};
use metal::{MAX_CPUS, clock};

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
    /// It sleeps, or is about to, until it is sent an NMI.
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

/// Sleeps until [`wake`], unless the guest has sent SIPI already. A CPU that spun would take the
/// time of those that work: QEMU's CPUs are threads. Woken by NMI: the guest may have switched this
/// CPU's APIC off, and then no other interrupt gets through.
pub fn sleep(cpu: usize) {
    let mailbox = &MAILBOXES[cpu];
    mailbox.asleep.store(true, Ordering::SeqCst);
    if mailbox.startup.load(Ordering::SeqCst) == 0 {
        // SAFETY: GIF is 0 here and again afterwards, interrupts are off, and an NMI is taken on a
        // stack of its own.
        unsafe { halt_until_nmi() };
    }
    // A wake-up that comes later than this ends one VMRUN at once, as any kick does.
    mailbox.asleep.store(false, Ordering::SeqCst);
}

/// Ends the sleep of a CPU, if it sleeps. Called after what it is woken for was put into its
/// mailbox.
pub fn wake(cpu: usize) {
    if MAILBOXES[cpu].asleep.load(Ordering::SeqCst) {
        lapic::send(cpu as u32, Ipi::Nmi);
    }
}

/// HLT with GIF 1. An NMI that was pending comes between the two instructions, and the sleep would
/// miss it: [`nmi`] skips the HLT then.
///
/// # Safety
/// GIF is 0, IF is 0, and the handler of NMIs calls [`nmi`].
#[unsafe(naked)]
unsafe extern "sysv64" fn halt_until_nmi() {
    naked_asm!("stgi", ".globl seamvisor_halt", "seamvisor_halt:", "hlt", "clgi", "ret");
}

/// The host's handler of NMIs: the CPU is out of its guest or awake, which is all that was wanted.
pub fn nmi(frame: &mut Frame) {
    unsafe extern "C" {
        static seamvisor_halt: u8;
    }
    const HLT_BYTES: u64 = 1;
    if frame.rip == (&raw const seamvisor_halt).addr() as u64 {
        frame.rip += HLT_BYTES;
    }
}

/// Returns when every other CPU has left its guest once since the call, or is not in it: none has
/// an old translation then.
pub fn flush_others(this: usize) {
    // The tables were changed before; a CPU that enters after its look at `in_guest` here walks the
    // new ones.
    fence(Ordering::SeqCst);
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
