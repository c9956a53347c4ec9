//! #VE: why it is injected, what TDG.VP.VEINFO.GET says; CPUID in a guest; exits after the module
//! has died.

mod support;

use support::CPU;
use support::td::{TDR, TDVPR, Td};
use tdx_abi::{Leaf, Registers, Status};
use tdx_machine::{AfterExit, CpuId, CpuidOutput, Fault, GuestEvent, TdExit, When};

const HLT: u64 = 12;
const EPT_VIOLATION: u64 = 48;
const VEINFO_GET: u64 = 3;
const NO_VALID_VE_INFO: u64 = 0xc000_0704_0000_0000;

fn inside() -> Td {
    let mut td = Td::new(0, 0);
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    td
}

fn event(after: AfterExit) -> Option<GuestEvent> {
    match after {
        AfterExit::Guest { event, .. } => event,
        AfterExit::Host(out) => panic!("exit to the host: {out:?}"),
    }
}

fn exit(td: &mut Td, exit: TdExit) -> AfterExit {
    td.machine.td_exit(CPU, exit).unwrap()
}

#[test]
fn the_guest_learns_the_cause_once() {
    let mut td = inside();
    let hlt = TdExit { reason: HLT, instruction_length: 1, ..TdExit::default() };
    assert_eq!(event(exit(&mut td, hlt)), Some(GuestEvent::VirtualizationException));
    let info = td.tdcall(VEINFO_GET, Registers::default());
    assert_eq!((info.rax, info.rcx, info.rdx, info.r10), (0, HLT, 0, 1));
    assert_eq!(td.tdcall(VEINFO_GET, Registers::default()).rax, NO_VALID_VE_INFO);
}

#[test]
fn a_second_exception_before_that_is_a_double_fault() {
    let mut td = inside();
    let hlt = TdExit { reason: HLT, ..TdExit::default() };
    exit(&mut td, hlt);
    assert_eq!(event(exit(&mut td, hlt)), Some(GuestEvent::DoubleFault));
    assert_eq!(td.tdcall(VEINFO_GET, Registers::default()).rcx, HLT);
}

#[test]
fn a_shared_address_is_an_exception_or_an_exit() {
    let mut td = inside();
    let shared = 1 << 47 | 0x1000;
    let access = TdExit { guest_physical: shared, qualification: 2, ..TdExit::default() };
    let first = td.machine.convertible_ept_violation(CPU, access).unwrap();
    assert_eq!(event(first), Some(GuestEvent::VirtualizationException));
    // Its cause has not been read, so that the CPU cannot store another one.
    let second = td.machine.convertible_ept_violation(CPU, access).unwrap();
    let AfterExit::Host(out) = second else { panic!("{second:?}") };
    assert_eq!((out.rax, out.rcx, out.r8), (EPT_VIOLATION, 2, shared));
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    let info = td.tdcall(VEINFO_GET, Registers::default());
    assert_eq!((info.rcx, info.r9), (EPT_VIOLATION, shared));
}

#[test]
fn an_instruction_of_vmx_is_undefined() {
    const VMREAD: u64 = 23;
    let mut td = inside();
    let after = exit(&mut td, TdExit { reason: VMREAD, ..TdExit::default() });
    assert_eq!(event(after), Some(GuestEvent::InvalidOpcode));
}

#[test]
fn cpuid_has_the_values_of_the_td() {
    let td = inside();
    let (vendor, tdx) = (td.machine.guest_cpuid(CPU, 0, 0), td.machine.guest_cpuid(CPU, 0x21, 0));
    let text = |it: CpuidOutput| [it.ebx, it.edx, it.ecx].map(u32::to_le_bytes).concat();
    assert_eq!(text(vendor.unwrap()), b"GenuineIntel");
    assert_eq!(text(tdx.unwrap()), b"IntelTDX    ");
    assert_eq!(td.machine.guest_cpuid(CPU, 0x4000_0000, 0), None, "a leaf of the hypervisor is #VE");
    assert_eq!(td.machine.guest_cpuid(CPU, 0x9, 0), Some(CpuidOutput::default()));
}

#[test]
fn a_pending_page_is_an_exception() {
    let pending = 0x1000;
    let mut td = Td::new(0, 0);
    let page = td.page();
    td.ok(Registers::call(Leaf::MEM_PAGE_AUG).rcx(pending).rdx(TDR).r8(page));
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    let access = TdExit { reason: EPT_VIOLATION, guest_physical: pending, ..TdExit::default() };
    assert_eq!(event(exit(&mut td, access)), Some(GuestEvent::VirtualizationException));
    let info = td.tdcall(VEINFO_GET, Registers::default());
    assert_eq!((info.rcx, info.r9), (EPT_VIOLATION, pending));
}

#[test]
fn a_module_that_died_meanwhile_handles_no_exit() {
    let mut td = inside();
    td.machine.inject(Fault::Crash, When::Call(1));
    let other = support::call(&mut td.machine, CpuId(1), Registers::call(Leaf::SYS_RD));
    assert_eq!(other, Status::VMFAIL_INVALID);
    let after = exit(&mut td, TdExit { reason: HLT, ..TdExit::default() });
    let AfterExit::Host(out) = after else { panic!("{after:?}") };
    assert_eq!(out.status(), Status::VMFAIL_INVALID);
    assert_eq!(td.machine.vcpu_on(CPU), None);
}
