//! A thin hypervisor on AMD SVM that makes a virtual machine look like a TDX host with the
//! partial-write erratum, to a kernel that is not told. It owns a slice of memory, runs one guest
//! on all CPUs, answers SEAMCALL with the software machine's module, and judges every access to
//! private memory.
//!
//! It refuses to be a hypervisor for anything else: devices, interrupts and time are the guest's,
//! untouched.

#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod control_registers;
mod cpuid;
mod guest_memory;
mod instruction;
mod invalid_opcode;
mod io;
mod kick;
mod load;
mod msr;
mod nested;
mod page_fault;
mod ranges;
mod string_store;
mod summary;
mod tdx;
mod vcpu;
mod vmcb;
mod world_switch;

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use metal::boot::{self, Boot, MapEntry};
use metal::console::{self, Console};
use metal::interrupts::{self, Frame};
use metal::{clock, heap, lapic, println, smp};
use tdx_abi::{PageRange, PhysAddr};
use tdx_machine::{CpuModel, MachineConfig, ModuleProfile};

use vcpu::Vcpu;

/// The slice of memory that is this program's: its image at the start, its heap behind it.
const SLICE: Range<u64> = (2 << 20)..(16 << 20);

static CPUS: AtomicUsize = AtomicUsize::new(1);
static GUEST_READY: AtomicBool = AtomicBool::new(false);

/// CPUs of this machine.
pub fn cpu_count() -> usize {
    CPUS.load(Ordering::Relaxed)
}

/// Is this page this program's?
pub fn is_hidden(page: u64) -> bool {
    SLICE.contains(&(page << 12)) || page == lapic::BASE >> 12 || page >= nested::PAGES
}

fn exception(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::NMI => kick::nmi(frame),
        lapic::SPURIOUS_VECTOR => {}
        // The boot CPU says that the guest is ready.
        interrupts::WAKE => lapic::end_of_interrupt(),
        _ => interrupts::unexpected(frame),
    }
}

#[unsafe(no_mangle)]
fn kernel_ap_main(cpu: usize) -> ! {
    while !GUEST_READY.load(Ordering::Acquire) {
        metal::registers::wait_for_interrupt();
    }
    Vcpu::new(cpu).run(false)
}

#[unsafe(no_mangle)]
fn kernel_main(boot: &Boot) -> ! {
    console::choose(Console::Debug);
    interrupts::handle_with(exception);
    let (_, image_end) = boot::image();
    assert!(image_end < SLICE.end, "the image does not fit the slice");
    // SAFETY: memory behind the image and inside the slice, which is nobody else's.
    unsafe {
        let start = core::ptr::with_exposed_provenance_mut(image_end as usize);
        heap::init(start, (SLICE.end - image_end) as usize);
    }
    assert!(has_svm(), "this CPU has no SVM with nested paging: give QEMU `-cpu EPYC` or `-cpu max`");
    // SAFETY: the trampoline's page is below 1 MiB, where this program puts nothing else; the guest
    // does not run yet.
    CPUS.store(unsafe { smp::start_all() }, Ordering::Relaxed);

    let map = guest_map(boot.map());
    let usable = || map.iter().filter(|entry| entry.kind == boot::USABLE);
    guest_memory::is_at(usable().map(|entry| entry.address..entry.address + entry.size).collect());
    let model = match boot.option("cpu").unwrap_or("spr") {
        "spr" => CpuModel::SAPPHIRE_RAPIDS,
        "emr" => CpuModel::EMERALD_RAPIDS,
        "gnr" => CpuModel::GRANITE_RAPIDS,
        other => panic!("no CPU is called {other:?}: spr, emr or gnr"),
    };
    let cmrs = usable()
        .map(|entry| {
            let start = PhysAddr::new(entry.address.max(1 << 20));
            PageRange::inside(start, PhysAddr::new((entry.address + entry.size).max(1 << 20)))
        })
        .filter(|cmr| !cmr.is_empty());
    let mut config = MachineConfig::new(model, cpu_count() as u32, 1, cmrs);
    match boot.option("seam") {
        None | Some("on") => {}
        Some("off") => config.seam_enabled = false,
        Some("no-module") => config.module = None,
        Some(other) => panic!("`seam` is on, off or no-module, not {other:?}"),
    }
    match boot.option("module") {
        None | Some("1.5.01") => {}
        // As it was promised to Linux; nobody has seen one.
        Some("sys-disable") => config.module = config.module.and(Some(ModuleProfile::SysDisable)),
        Some(other) => panic!("`module` is 1.5.01 or sys-disable, not {other:?}"),
    }
    match boot.option("td-configuration") {
        None => {}
        // Linux from 6.16 on brings TDX up only if it can read these fields.
        Some("assumed") => config.assume_td_configuration = true,
        Some(other) => panic!("`td-configuration` is assumed, or not said, and not {other:?}"),
    }
    cpuid::is(model);
    // INIT, SIPI and NMI of the guest must not reach a real CPU, so the APIC's page is hidden, too.
    let hidden = [SLICE.start >> 12..SLICE.end >> 12, lapic::BASE >> 12..(lapic::BASE >> 12) + 1];
    if let Err(error) = tdx::switch_on(config, &hidden) {
        panic!("no such machine: {error}");
    }
    if let Some(death) = boot.option("dies") {
        let (leaf, count) = death.split_once('.').unwrap_or((death, "1"));
        match (leaf.parse(), count.parse()) {
            (Ok(leaf), Ok(count)) => tdx::lock().die(tdx_abi::Leaf(leaf), count),
            _ => panic!("`dies` is LEAF.COUNT: the module dies in that call of that leaf; not {death:?}"),
        }
    }
    println!("seamvisor: {} CPUs, {model:?}", cpu_count());
    for entry in &map {
        println!("seamvisor: guest memory [{:#x}, {:#x}) {}", entry.address, entry.address + entry.size, entry.kind);
    }

    let guest = load::guest(boot, &map);
    let mut vcpu = Vcpu::new(0);
    vcpu.start_in_long_mode(guest.entry, guest.argument, guest.page_tables);
    summary::STARTED.store(clock::micros(), Ordering::Relaxed);
    GUEST_READY.store(true, Ordering::Release);
    for cpu in 1..cpu_count() {
        lapic::send(cpu as u32, lapic::Ipi::Fixed(interrupts::WAKE));
    }
    vcpu.run(true)
}

/// SVM (CPUID 0x80000001 ECX bit 2) with nested paging (0x8000000A EDX bit 0).
fn has_svm() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_000a
        && __cpuid(0x8000_0001).ecx >> 2 & 1 == 1
        && __cpuid(0x8000_000a).edx & 1 == 1
}

/// The guest's memory map: ours, without the slice.
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
