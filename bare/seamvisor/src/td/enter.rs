//! TDH.VP.ENTER: runs a TD's virtual CPU until an exit that goes to the host, and passes registers.

use core::arch::asm;
use core::sync::atomic::Ordering;
use tdx_abi::{Registers, Status};
use tdx_machine::{CpuId, TdExit};

use super::outcome::{self, Next, reason};
use super::vcpu::{LastExit, TdVcpu};
use super::{delivery, exits, interrupts, posted, read_memory, registers, vcpus};
use crate::handlers::{cpuid, vmx};
use crate::tdx::{self, Tdx};
use crate::vcpu::Vcpu;
use crate::vmcb::{self, Vmcb, exit};
use crate::{counters, guest_memory, kick, software_interrupt, translations, world_switch};

/// Interruption information: valid.
const VALID: u64 = 1 << 31;
/// An NMI.
const NMI: u64 = VALID | 2 << 8 | 2;
/// IA32_FMASK after VP.ENTER, as Linux expects it.
const FMASK_LEFT: u64 = 0x2_0200;
/// Bits of GPAs that four levels of nested page tables have.
const GPA_BITS: u32 = 48;

/// Runs the virtual CPU for which the module has just granted VP.ENTER on this CPU. `length` is
/// that of the SEAMCALL.
pub fn run(vcpu: &mut Vcpu, host: &mut Vmcb, length: u64) {
    let (answer, vmcall, td) = match take(vcpu.number) {
        Ok((tdvpr, mut td)) => {
            let (answer, vmcall) = run_until_exit(vcpu, host, &mut td);
            (answer, vmcall, Some((tdvpr, td)))
        }
        Err(answer) => (answer, None, None),
    };
    // Nothing of the TD stays in registers but what it passes.
    registers::clear(&mut vcpu.registers);
    if let (Some(mask), Some((_, td))) = (vmcall, &td) {
        registers::pass(&td.registers, &mut vcpu.registers, mask);
    }
    if let Some((tdvpr, mut td)) = td {
        td.last_exit = vmcall.map_or(LastExit::Asynchronous, LastExit::Vmcall);
        vcpus::put(tdvpr, td);
    }
    let it = &mut vcpu.registers;
    (it.rcx, it.rdx, it.r8, it.r9) = (answer.rcx, answer.rdx, answer.r8, answer.r9);
    (it.r10, it.r11, it.r12, it.r13) = (answer.r10, answer.r11, answer.r12, answer.r13);
    let left = &mut vcpu.vmcb;
    (left.star, left.lstar, left.fmask, left.kernel_gs_base) = (0, 0, FMASK_LEFT, 0);
    (left.dr6, left.dr7) = (0xffff_0ff0, 0x400);
    if Status::new(answer.rax) == Status::VMFAIL_INVALID {
        vmx::fail_invalid(vcpu, length);
    } else {
        vcpu.vmcb.rax = answer.rax;
        vmx::succeed(vcpu, length);
    }
}

/// Takes the virtual CPU that is on this CPU. Otherwise what VP.ENTER returns.
fn take(cpu: usize) -> Result<(u64, alloc::boxed::Box<TdVcpu>), Registers> {
    let mut tdx = tdx::lock();
    let refuse = |tdx: &mut Tdx, why: &str| match outcome::stop(tdx, cpu, 0, &why) {
        Next::Host { answer, .. } => Err(answer),
        Next::Resume => Err(Registers { rax: Status::VMFAIL_INVALID.raw(), ..Registers::default() }),
    };
    let Some(on) = tdx.machine.vcpu_on(CpuId(cpu as u32)) else { return refuse(&mut tdx, "no virtual CPU is here") };
    if on.shared_bit >> GPA_BITS != 0 {
        return refuse(&mut tdx, "five levels of EPT are not modeled");
    }
    match vcpus::take(&tdx, &on, cpuid::signature()) {
        Some(mut td) => {
            td.nmi_requested = on.nmi_pending;
            Ok((on.tdvpr.index(), td))
        }
        None => refuse(&mut tdx, "no room for another virtual CPU, or no XSAVE"),
    }
}

fn run_until_exit(vcpu: &mut Vcpu, host: &mut Vmcb, td: &mut TdVcpu) -> (Registers, Option<u64>) {
    if let LastExit::Vmcall(mask) = td.last_exit {
        registers::pass(&vcpu.registers, &mut td.registers, mask);
        // TDG.VP.VMCALL succeeded.
        td.vmcb.rax = 0;
    }
    td.extended.load();
    let end = loop {
        if let Next::Host { answer, vmcall } = run_once(vcpu, host, td) {
            break (answer, vmcall);
        }
    };
    td.extended.save();
    end
}

/// Runs the guest until its next VM exit, and handles that.
fn run_once(vcpu: &mut Vcpu, host: &mut Vmcb, td: &mut TdVcpu) -> Next {
    let cpu = vcpu.number;
    if let Some(exit) = event_of_host(vcpu) {
        return outcome::report(&mut tdx::lock(), cpu, td, exit);
    }
    delivery::prepare(cpu, td);
    kick::enter_guest(cpu);
    if has_event(vcpu) {
        // Its sender saw this CPU outside, and sent no kick.
        kick::leave_guest(cpu);
        return Next::Resume;
    }
    td.tables.refresh(translations::generation());
    // SAFETY: GIF is 0, so that no handler runs here. IF is 1 for VMRUN alone, where V_INTR_MASKING
    // makes it the flag that lets an interrupt of the host end the guest's turn.
    unsafe { asm!("sti", options(nostack)) };
    // SAFETY: SVM is enabled, VM_HSAVE_PA set and GIF 0 since `Vcpu::new` of this CPU, to which
    // `vcpu` is pinned. Registers and VMCBs are borrowed mutably. `TdVcpu::new` has set the
    // intercepts, which are those of the host and more: all ports, and all MSRs but those that
    // VMLOAD and VMSAVE switch, and TSC_AUX. The nested page tables are filled by `page_faults`
    // alone: with frames of private pages, to which no reference exists, and with RAM of the host,
    // which holds nothing of this program. A frame that was freed is in none of them: BLOCK has
    // called `translations::invalidate`, `refresh` has emptied the tables at the next entry, and
    // the module gives a page up only when every virtual CPU has left since, or the TD is gone.
    unsafe { world_switch::run(&raw mut *td.registers, &raw mut *td.vmcb, host) };
    // SAFETY: IF is 0 in this program, but for the lines above.
    unsafe { asm!("cli", options(nostack)) };
    kick::leave_guest(cpu);
    counters::count_td_exit();
    delivery::follow_cr8(td);
    inject_again(cpu, td);
    match td.vmcb.exit_code {
        exit::INTR => match interrupts::acknowledge() {
            Some(vector) => {
                let mut tdx = tdx::lock();
                let posted = tdx.machine.vcpu_on(CpuId(cpu as u32)).and_then(|on| on.posted_interrupts);
                if let Some((descriptor, notification)) = posted
                    && notification == vector
                {
                    return posted::handle(&mut tdx, cpu, td, descriptor.get());
                }
                let interruption = VALID | u64::from(vector);
                let exit = TdExit { reason: reason::EXTERNAL_INTERRUPT, interruption, ..TdExit::default() };
                outcome::report(&mut tdx, cpu, td, exit)
            }
            None => Next::Resume,
        },
        exit::NMI => {
            kick::drain();
            Next::Resume
        }
        _ => {
            let mut tdx = tdx::lock();
            match tdx.machine.vcpu_on(CpuId(cpu as u32)) {
                Some(on) => exits::handle(&mut tdx, cpu, td, &on),
                None => outcome::stop(&mut tdx, cpu, td.vmcb.rip, &"the module has lost it"),
            }
        }
    }
}

/// Injects an interrupted event again, unless a handler injects another one.
fn inject_again(cpu: usize, td: &mut TdVcpu) {
    const INT_N: u8 = 0xcd;
    let event = td.vmcb.exit_interrupt;
    td.vmcb.inject = if vmcb::is_event(event) { event } else { 0 };
    if !vmcb::is_software(event) {
        return;
    }
    let mut tdx = tdx::lock();
    let mut read = |linear, byte: &mut [u8; 1]| read_memory::read(&mut tdx, cpu, &td.vmcb, linear, byte);
    let repeated = software_interrupt::repeat(&td.vmcb, event as u8, &mut read);
    let mut opcode = [0];
    let is_read = read(guest_memory::linear_rip(&td.vmcb), &mut opcode);
    td.vmcb.inject = repeated.event;
    if repeated.is_behind {
        td.skip(if is_read && opcode == [INT_N] { 2 } else { 1 });
    }
}

/// An NMI or INIT that other CPUs have sent to the host takes the TD out.
fn has_event(vcpu: &Vcpu) -> bool {
    let mailbox = kick::mailbox(vcpu.number);
    mailbox.init.load(Ordering::SeqCst) || mailbox.nmi.load(Ordering::SeqCst) && !vcpu.is_nmi_blocked()
}

fn event_of_host(vcpu: &mut Vcpu) -> Option<TdExit> {
    if !has_event(vcpu) {
        return None;
    }
    let mailbox = kick::mailbox(vcpu.number);
    if mailbox.init.load(Ordering::SeqCst) {
        // It stays pending: VMX operation blocks it until VMXOFF.
        return Some(TdExit { reason: reason::INIT, ..TdExit::default() });
    }
    mailbox.nmi.store(false, Ordering::SeqCst);
    vcpu.block_nmi_by_exit();
    Some(TdExit { reason: reason::EXCEPTION_OR_NMI, interruption: NMI, ..TdExit::default() })
}
