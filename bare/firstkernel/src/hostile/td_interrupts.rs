//! Interrupts of a TD: of its own virtual APIC, posted by the host, and NMIs.

use core::ptr::with_exposed_provenance_mut;
use metal::lapic::{self, Ipi};
use tdx_abi::{Leaf, Registers};

use super::memory::SLICE;
use super::td::{Pages, TDCALL, TRIPLE_FAULT, build, store, succeed};
use super::td_code::INTERRUPTS;

const KEY: u64 = 59;
/// Metadata fields: class and code.
const NOTIFICATION_VECTOR: u64 = 0x02;
const DESCRIPTOR: u64 = 0x2016;
const PIN_BASED: u64 = 0x4000;
const PEND_NMI: u64 = 0x20 << 56 | 0x0b;
const VCPU_STATE_DETAILS: u64 = 0x11 << 56 | 0x100;
/// Process posted interrupts.
const POSTED_INTERRUPTS: u64 = 1 << 7;

const NOTIFICATION: u8 = 0xf2;
/// Vectors 0x41 and 0x42, in the second word of requests; outstanding notification.
const REQUESTS: u64 = 0b110;
const OUTSTANDING: u64 = 1;
/// In-service register of the APIC with the notification's vector.
const IN_SERVICE: u64 = 0x170;

/// What the TD reports, R12 and R13, beside its NMI handler.
const REPORTS: [(u64, u64); 9] =
    [(1, 0), (2, 0x41), (3, 0x40), (4, 0x41), (5, 0), (6, 0x4241), (8, 0), (9, 0), (10, 0x5030)];
/// Number of a report of the NMI handler: R13 is 2, more if handlers nest.
const IN_NMI: (u64, u64) = (7, 2);

/// Runs a TD that takes interrupts.
pub fn run(pages: &mut Pages) {
    let td = build(pages, KEY, INTERRUPTS);
    let write = |field: u64, value: u64, mask: u64| {
        succeed(Registers::call(Leaf::VP_WR).rcx(td.tdvpr).rdx(field).r8(value).r9(mask));
    };
    let descriptor = pages.take();
    write(NOTIFICATION_VECTOR, NOTIFICATION.into(), 0xffff);
    write(DESCRIPTOR, descriptor, u64::MAX);
    write(PIN_BASED, POSTED_INTERRUPTS, POSTED_INTERRUPTS);
    let (mut nmis, mut expected) = (0, REPORTS.iter());
    while expected.len() != 0 {
        let registers = td.enter();
        let [status, .., number, value] = registers;
        assert!(status == TDCALL, "TD with interrupts: VP.ENTER returns {registers:x?}");
        let pending = succeed(Registers::call(Leaf::VP_RD).rcx(td.tdvpr).rdx(VCPU_STATE_DETAILS)).r8;
        // Only the first report has an interrupt behind it that the TD has not taken; the third one
        // has one that its priority holds back.
        assert!(pending == u64::from(number == 1), "TD at report {number}: interrupt pending: {pending:#x}");
        if number == IN_NMI.0 {
            assert!((number, value) == IN_NMI, "an NMI handler of a TD nests: {value:#x}");
            nmis += 1;
            if nmis == 1 {
                write(PEND_NMI, 1, 0xff);
            }
            continue;
        }
        assert!(expected.next() == Some(&(number, value)), "TD reports {number}: {value:#x}");
        match number {
            // Forgets the translations of the TD: an instruction in the shadow of STI exits; the
            // deliveries of two INT n exit.
            1 | 9 => write(NOTIFICATION_VECTOR, NOTIFICATION.into(), 0xffff),
            5 => {
                store(descriptor + 8, &REQUESTS.to_le_bytes());
                store(descriptor + 32, &OUTSTANDING.to_le_bytes());
                // Interrupts are disabled here: it waits for VP.ENTER.
                lapic::send(lapic::id(), Ipi::Fixed(NOTIFICATION));
            }
            6 => write(PEND_NMI, 1, 0xff),
            _ => {}
        }
    }
    // A descriptor in the hypervisor's memory: the virtual CPU is stopped.
    write(DESCRIPTOR, SLICE.start, u64::MAX);
    lapic::send(lapic::id(), Ipi::Fixed(NOTIFICATION));
    let registers = td.enter();
    assert!(registers[0] == TRIPLE_FAULT, "posted interrupts of the hypervisor: VP.ENTER returns {registers:x?}");
    assert!(nmis == 2, "{nmis} NMIs of 2 came to the TD");
    for offset in [8, 32] {
        // SAFETY: the descriptor's page, which the TD's processor alone uses.
        let left = unsafe { with_exposed_provenance_mut::<u64>((descriptor + offset) as usize).read_volatile() };
        assert!(left == 0, "posted-interrupt descriptor: {left:#x} is left at {offset}");
    }
    assert!(lapic::read(IN_SERVICE) == 0, "the notification is still in service");
}
