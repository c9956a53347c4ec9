//! Run loop of a virtual CPU: VM entry, VM exit, dispatch to the exit handlers.

use core::sync::atomic::Ordering;
use metal::interrupts::{DEBUG, INVALID_OPCODE, PAGE_FAULT};
use metal::lapic::{self, Ipi};
use metal::println;

use crate::handlers::{control_registers, cpuid, instruction, invalid_opcode, io, msr, page_fault};
use crate::hidden::is_hidden;
use crate::vcpu::{Tables, Vcpu};
use crate::vmcb::{self, Vmcb, exit};
use crate::{counters, guest_memory, kick, software_interrupt, summary, td, tdx, world_switch};

/// Creates the virtual CPU of this CPU.
pub fn new_vcpu(number: usize) -> Vcpu {
    td::enable_extended_state();
    let nested_root = tdx::lock().map().root();
    Vcpu::new(number, Tables { nested_root, io_permissions: io::permissions(), msr_permissions: msr::permissions() })
}

/// Runs the guest on this CPU.
pub fn run(mut vcpu: Vcpu) -> ! {
    let mut host = Vmcb::zeroed();
    loop {
        deliver_pending(&mut vcpu);
        if enter(&mut vcpu, &mut host) {
            handle_exit(&mut vcpu);
        }
        if let Some(length) = vcpu.enters_td.take() {
            td::run(&mut vcpu, &mut host, length);
        }
    }
}

/// Waits for INIT-SIPI of the guest, then runs it on this CPU.
pub fn run_after_startup(mut vcpu: Vcpu) -> ! {
    wait_for_startup(&mut vcpu);
    run(vcpu)
}

/// Enters the guest and returns at the next VM exit. False if an event arrived after
/// [`deliver_pending`]: its sender saw this CPU outside the guest and sent no kick.
fn enter(vcpu: &mut Vcpu, host: &mut Vmcb) -> bool {
    kick::enter_guest(vcpu.number);
    match pending(vcpu) {
        Pending::Now => {
            kick::leave_guest(vcpu.number);
            return false;
        }
        // The injected event is delivered first; then this NMI ends VMRUN.
        Pending::AfterInjection => lapic::send(vcpu.number as u32, Ipi::Nmi),
        Pending::None => {}
    }
    // SAFETY: `Vcpu::new` has enabled SVM, set VM_HSAVE_PA and cleared GIF on this CPU, to which
    // `vcpu` is pinned, and has set the intercepts, which stay. Registers and VMCBs are borrowed
    // mutably. `nested_cr3` is the root of `Nested`, which maps no hidden page and with that
    // nothing of this program, or of `StepTables`, which adds trapped pages of the guest's RAM and
    // `absent_frame`, to which no reference exists.
    unsafe { world_switch::run(&raw mut *vcpu.registers, &raw mut *vcpu.vmcb, host) };
    kick::leave_guest(vcpu.number);
    true
}

/// Events from other CPUs of the guest, as seen before a VM entry.
enum Pending {
    /// None that can be delivered.
    None,
    /// Deliverable at once.
    Now,
    /// Deliverable once the event in EVENTINJ has been delivered.
    AfterInjection,
}

/// INIT is blocked while the CPU is in VMX operation, as on hardware.
fn takes_init(vcpu: &Vcpu) -> bool {
    kick::mailbox(vcpu.number).init.load(Ordering::SeqCst) && !vcpu.in_vmx
}

/// What [`deliver_pending`] would deliver now.
fn pending(vcpu: &Vcpu) -> Pending {
    if takes_init(vcpu) {
        return Pending::Now;
    }
    if vcpu.is_nmi_blocked() || !kick::mailbox(vcpu.number).nmi.load(Ordering::SeqCst) {
        return Pending::None;
    }
    if vcpu.vmcb.inject == 0 { Pending::Now } else { Pending::AfterInjection }
}

/// Delivers INIT, SIPI and NMI that other CPUs of the guest have sent.
fn deliver_pending(vcpu: &mut Vcpu) {
    if takes_init(vcpu) {
        wait_for_startup(vcpu);
    }
    let mailbox = kick::mailbox(vcpu.number);
    if vcpu.vmcb.inject != 0 || vcpu.is_nmi_blocked() || !mailbox.nmi.load(Ordering::SeqCst) {
        return;
    }
    if vcpu.inject_nmi() {
        mailbox.nmi.store(false, Ordering::SeqCst);
    }
}

/// The wait-for-SIPI state after INIT.
fn wait_for_startup(vcpu: &mut Vcpu) {
    let mailbox = kick::mailbox(vcpu.number);
    mailbox.init.store(false, Ordering::SeqCst);
    vcpu.finish_step();
    let page = loop {
        match mailbox.startup.swap(0, Ordering::SeqCst) {
            0 => kick::sleep(vcpu.number, || mailbox.startup.load(Ordering::SeqCst) != 0),
            page => break page & 0xff,
        }
    };
    mailbox.init.store(false, Ordering::SeqCst);
    vcpu.reset(page);
}

/// Handles a VM exit.
fn handle_exit(vcpu: &mut Vcpu) {
    // Seen in QEMU 7.2 with several CPUs under load (bare/README.md): nested paging is on again
    // after a VM exit, the first fetch is another one, and the guest area of the VMCB holds the
    // hypervisor's own state. The guest cannot continue. QEMU also stores that state where VMRUN
    // refuses the guest's.
    if is_hidden(vcpu.vmcb.rip >> 12) && is_hidden(vcpu.vmcb.cr3 >> 12) {
        let (code, [one, two]) = (vcpu.vmcb.exit_code, [vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2]);
        let (inject, state) = (vcpu.vmcb.inject, vcpu.state());
        println!("cpu={} lost its guest: exit {code:#x} {one:#x} {two:#x} inject {inject:#x} {state:#x?}", vcpu.number);
        summary::report_and_exit(summary::EMULATOR_FAULT, metal::exit::PANIC);
    }
    let code = vcpu.vmcb.exit_code;
    counters::count_exit(code);
    vcpu.finish_halt(code == exit::INTR);
    inject_again(vcpu);
    if !vcpu.is_stepping() {
        vcpu.clear_last_step();
    } else if code == exit::NMI && !vcpu.is_delivering() {
        kick::drain();
        return;
    } else {
        let guest_traps = vcpu.finish_step();
        if (exit::EXCEPTION..=exit::EXCEPTION_LAST).contains(&code) {
            handle_exception_in_step(vcpu, (code - exit::EXCEPTION) as u8, guest_traps);
            return;
        }
    }
    const UNDEFINED: u64 = exit::EXCEPTION + INVALID_OPCODE as u64;
    match code {
        exit::NMI => kick::drain(),
        // The guest takes it behind its HLT.
        exit::INTR => {}
        exit::HLT if vcpu.halt() => {}
        exit::HLT => {
            while matches!(pending(vcpu), Pending::None) {
                kick::sleep(vcpu.number, || !matches!(pending(vcpu), Pending::None));
            }
        }
        exit::CPUID => cpuid::handle_exit(vcpu),
        exit::MSR => msr::handle_exit(vcpu),
        exit::CR4_READ | exit::CR4_WRITE => control_registers::handle_exit(vcpu),
        exit::IOIO => io::handle_exit(vcpu),
        exit::WBINVD | exit::INVD => {
            tdx::lock().write_back(vcpu.number);
            vcpu.skip(2);
        }
        exit::NESTED_PAGE_FAULT => page_fault::handle_exit(vcpu),
        UNDEFINED => invalid_opcode::handle_exit(vcpu),
        // The guest's CPUID has no SVM.
        exit::VMRUN..=exit::SKINIT | exit::INVLPGA => vcpu.inject_exception(INVALID_OPCODE),
        exit::IRET => vcpu.unblock_nmi_at_iret(),
        exit::SHUTDOWN => summary::shut_down(vcpu),
        exit::INVALID | exit::INVALID_OF_QEMU => {
            println!("VMRUN refused the guest state");
            summary::shut_down(vcpu)
        }
        other => panic!("unexpected VM exit {other:#x}: {:#x?}", vcpu.state()),
    }
}

/// Injects an interrupted event again, unless a handler injects another one.
fn inject_again(vcpu: &mut Vcpu) {
    let event = vcpu.vmcb.exit_interrupt;
    vcpu.vmcb.inject = if vmcb::is_event(event) { event } else { 0 };
    if vmcb::is_software(event) {
        let repeated = software_interrupt::repeat(&vcpu.vmcb, event as u8, |linear, byte| {
            guest_memory::translate(&vcpu.vmcb, linear).is_some_and(|it| guest_memory::read(it.address, byte))
        });
        vcpu.vmcb.inject = repeated.event;
        if repeated.is_behind {
            vcpu.skip(instruction::decode(vcpu).map_or(1, |it| it.len() as u64));
        }
    }
}

/// An exception during a single step. #DB ends the step; every other one belongs to the guest.
fn handle_exception_in_step(vcpu: &mut Vcpu, vector: u8, guest_traps: bool) {
    /// Vectors with an error code.
    const WITH_CODE: u32 = 1 << 8 | 0b1_1111 << 10 | 1 << 17 | 1 << 21;
    match vector {
        DEBUG if !guest_traps => {}
        INVALID_OPCODE => invalid_opcode::handle_exit(vcpu),
        _ => {
            if vector == PAGE_FAULT {
                vcpu.vmcb.cr2 = vcpu.vmcb.exit_info_2;
            }
            vcpu.vmcb.inject = if WITH_CODE >> vector & 1 == 1 {
                vmcb::exception_with_code(vector, vcpu.vmcb.exit_info_1 as u32)
            } else {
                vmcb::exception(vector)
            };
        }
    }
}
