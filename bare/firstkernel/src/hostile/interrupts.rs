//! Interrupts that could stop the hypervisor: INIT and NMI storms, stores across APIC registers.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use metal::interrupts::{self, Frame};
use metal::lapic::{self, Ipi};
use metal::{clock, println};

use super::key_ids;
use crate::cpus::AllCpus;
use crate::vmx;

/// NMIs and INITs to each other CPU.
const STORM: u64 = 2_000;
/// Time to come from an NMI to a HLT, or from a HLT behind it, in microseconds.
const HLT_TIME: u64 = 50_000;

static NMIS: AtomicU64 = AtomicU64::new(0);
/// An NMI stops a CPU for good.
static STOPS: AtomicBool = AtomicBool::new(false);
/// CPUs that have gone on behind the HLT that stopped them.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Handler for exceptions and interrupts: counts NMIs, and keeps page faults of the test of KeyIDs.
pub fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::NMI => {
            NMIS.fetch_add(1, Ordering::SeqCst);
            if STOPS.load(Ordering::SeqCst) {
                // SAFETY: interrupts are disabled in a handler, which nothing waits for.
                unsafe { asm!("hlt", options(nomem, nostack)) };
                WOKEN.fetch_add(1, Ordering::SeqCst);
            }
        }
        interrupts::WAKE => lapic::end_of_interrupt(),
        lapic::SPURIOUS_VECTOR => {}
        interrupts::PAGE_FAULT => key_ids::handle_page_fault(frame),
        _ => interrupts::unexpected(frame),
    }
}

/// A store that begins before the APIC's command register and ends in it. If it reached the real
/// APIC, it would be INIT for every other CPU, and [`storms`] would hang.
pub fn store_across_apic_command() {
    const INIT_ALL_OTHERS: u64 = 0xc_4500;
    let stack = lapic::BASE + 0x304;
    // SAFETY: interrupts are disabled, so nothing else uses the stack; RSP is restored. The eight
    // bytes are in the APIC's page.
    unsafe {
        asm!(
            "mov {save}, rsp", "mov rsp, {stack}", "push {value}", "mov rsp, {save}",
            save = out(reg) _, stack = in(reg) stack, value = in(reg) INIT_ALL_OTHERS << 32,
        );
    }
}

/// Stops the other CPUs in HLT with interrupts disabled. Returns how many have stopped.
pub fn stop_others() -> u64 {
    let (others, before) = (u64::from(AllCpus::count()) - 1, NMIS.load(Ordering::SeqCst));
    STOPS.store(true, Ordering::SeqCst);
    for cpu in 1..AllCpus::count() {
        lapic::send(cpu, Ipi::Nmi);
    }
    let all = clock::wait_for(1_000_000, || NMIS.load(Ordering::SeqCst) == before + others);
    assert!(all, "an NMI did not arrive");
    clock::wait_for(HLT_TIME, || false);
    others
}

/// CPUs of [`stop_others`] that have gone on, which nothing but an NMI or INIT may make them do.
pub fn woken() -> u64 {
    clock::wait_for(HLT_TIME, || false);
    WOKEN.load(Ordering::SeqCst)
}

/// Sends NMIs to all CPUs, then INITs and NMIs to the others. Returns the number of NMIs taken.
pub fn storms() -> u64 {
    let others = 1..AllCpus::count();
    for _ in 0..STORM {
        for cpu in others.clone() {
            lapic::send(cpu, Ipi::Nmi);
        }
        lapic::send(0, Ipi::Nmi);
    }
    clock::wait_for(100_000, || false);
    let taken = NMIS.load(Ordering::Relaxed);
    println!("hostile: {} NMIs sent, {taken} taken", STORM * u64::from(AllCpus::count()));
    assert!(taken > 0, "no NMI arrived");
    assert!(taken <= STORM * u64::from(AllCpus::count()), "more NMIs taken than sent");
    vmx::leave();
    for _ in 0..STORM {
        for cpu in others.clone() {
            lapic::send(cpu, Ipi::Init);
            lapic::send(cpu, Ipi::Nmi);
        }
    }
    NMIS.load(Ordering::Relaxed)
}
