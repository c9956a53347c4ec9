//! Interrupts that could stop the hypervisor: INIT and NMI storms, stores across APIC registers.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use metal::interrupts::{self, Frame};
use metal::lapic::{self, Ipi};
use metal::{clock, println};

use super::key_ids;
use crate::cpus::AllCpus;
use crate::vmx;

/// NMIs and INITs to each other CPU.
const STORM: u64 = 2_000;

static NMIS: AtomicU64 = AtomicU64::new(0);

/// Handler for exceptions and interrupts: counts NMIs, and keeps page faults
/// of the test of KeyIDs.
pub fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::NMI => drop(NMIS.fetch_add(1, Ordering::Relaxed)),
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
