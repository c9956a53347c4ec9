//! A thin hypervisor on AMD SVM that presents a virtual machine to an unmodified kernel as a TDX
//! host with the partial-write erratum. It runs one guest on all CPUs, executes SEAMCALL with the
//! emulated TDX module of `tdx-machine`, and checks every access to private memory.
//!
//! Devices, interrupts and time are passed through to the guest.

#![no_std]
#![no_main]

extern crate alloc;

mod counters;
mod guest_bytes;
mod guest_memory;
mod handlers;
mod hidden;
mod kick;
mod load;
mod nested;
mod options;
mod owned_page;
mod ranges;
mod run;
mod software_interrupt;
mod summary;
mod td;
mod tdx;
mod translations;
mod vcpu;
mod vmcb;
mod words;
mod world_switch;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use metal::boot::{self, Boot, MapEntry};
use metal::console::{self, Console};
use metal::interrupts::{self, Frame};
use metal::{clock, heap, lapic, println, smp};

use handlers::cpuid;
use hidden::SLICE;

static GUEST_READY: AtomicBool = AtomicBool::new(false);

fn handle_exception(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::NMI => kick::handle_nmi(frame),
        lapic::SPURIOUS_VECTOR => {}
        // From the boot CPU: the guest is ready.
        interrupts::WAKE => lapic::end_of_interrupt(),
        _ => interrupts::unexpected(frame),
    }
}

#[unsafe(no_mangle)]
fn kernel_ap_main(cpu: usize) -> ! {
    while !GUEST_READY.load(Ordering::Acquire) {
        metal::registers::wait_for_interrupt();
    }
    run::run_after_startup(run::new_vcpu(cpu))
}

#[unsafe(no_mangle)]
fn kernel_main(boot: &Boot) -> ! {
    console::choose(Console::Debug);
    interrupts::handle_with(handle_exception);
    let (_, image_end) = boot::image();
    assert!(image_end < SLICE.end, "the image does not fit the slice");
    // SAFETY: the rest of the slice, behind the image. The slice is reserved for this program.
    unsafe {
        let start = core::ptr::with_exposed_provenance_mut(image_end as usize);
        heap::init(start, (SLICE.end - image_end) as usize);
    }
    assert!(has_svm(), "this CPU has no SVM with nested paging: give QEMU `-cpu EPYC` or `-cpu max`");
    // SAFETY: the trampoline's page is below 1 MiB, where this program puts nothing else, and the
    // guest does not run yet.
    let cpus = unsafe { smp::start_all() };

    let map = guest_map(boot.map());
    guest_memory::set_ram(options::usable(&map).map(|entry| entry.address..entry.address + entry.size).collect());
    let config = options::machine(boot, &map, cpus);
    let assumes_dynamic_pamt = options::assumes_dynamic_pamt(boot, &config);
    let model = config.cpu_model;
    cpuid::set_model(model);
    if let Err(error) = tdx::init(config, &hidden::ranges()) {
        panic!("invalid machine configuration: {error}");
    }
    tdx::lock().assumes_dynamic_pamt = assumes_dynamic_pamt;
    for injection in options::all_injections(boot) {
        injection.inject(&mut tdx::lock().machine);
    }
    println!("seamvisor: {cpus} CPUs, {model:?}");
    for entry in &map {
        println!("seamvisor: guest memory [{:#x}, {:#x}) {}", entry.address, entry.address + entry.size, entry.kind);
    }

    let guest = load::guest(boot, &map);
    let mut vcpu = run::new_vcpu(0);
    vcpu.start_in_long_mode(guest.entry, guest.argument, guest.page_tables);
    counters::STARTED.store(clock::micros(), Ordering::Relaxed);
    GUEST_READY.store(true, Ordering::Release);
    for cpu in 1..cpus {
        lapic::send(cpu as u32, lapic::Ipi::Fixed(interrupts::WAKE));
    }
    run::run(vcpu)
}

/// SVM (CPUID 0x80000001 ECX bit 2) with nested paging (0x8000000A EDX bit 0).
fn has_svm() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_000a
        && __cpuid(0x8000_0001).ecx >> 2 & 1 == 1
        && __cpuid(0x8000_000a).edx & 1 == 1
}

/// The guest's memory map: the machine's, with the slice reserved.
fn guest_map(map: &[MapEntry]) -> Vec<MapEntry> {
    let mut guest = Vec::new();
    for entry in map {
        let end = entry.address.saturating_add(entry.size);
        let piece = |from: u64, to: u64, kind: u32| MapEntry {
            address: from,
            size: to.saturating_sub(from),
            kind,
            reserved: 0,
        };
        let inside = (entry.address.max(SLICE.start), end.min(SLICE.end));
        if entry.kind == boot::USABLE && inside.0 < inside.1 {
            guest.push(piece(entry.address, inside.0, boot::USABLE));
            guest.push(piece(inside.0, inside.1, boot::RESERVED));
            guest.push(piece(inside.1, end, boot::USABLE));
        } else {
            guest.push(*entry);
        }
    }
    guest.retain(|entry| entry.size > 0);
    guest
}
