//! SEAMCALLs that overlap: two CPUs in the module at once.

mod support;

use support::td::{TDR, TDVPR, Td};
use support::{CPU, call, lines};
use tdx_abi::{Leaf, Operand, Registers, Status, StatusCode};
use tdx_machine::{AfterExit, Begun, CpuId, Fault, Refusal, TdExit, When};

const OTHER: CpuId = CpuId(1);
/// Guest addresses without a page.
const GPA: u64 = 0x1000;

fn aug(gpa: u64, page: u64) -> Registers {
    Registers::call(Leaf::MEM_PAGE_AUG).rcx(gpa).rdx(TDR).r8(page)
}

fn begin(td: &mut Td, cpu: CpuId, registers: Registers) {
    assert_eq!(td.machine.begin_seamcall(cpu, registers), Ok(Begun::Inside));
}

/// The other CPU's call finds the entry busy, and the same call goes through afterwards. Two
/// entries of one table do not get into each other's way.
#[test]
fn two_pages_for_one_entry() {
    let mut td = Td::new(0, 0);
    let (first, second) = (td.page(), td.page());
    begin(&mut td, CPU, aug(GPA, first));
    assert_eq!(call(&mut td.machine, OTHER, aug(GPA, second)), StatusCode::OPERAND_BUSY.operand(Operand::RCX));
    assert_eq!(call(&mut td.machine, OTHER, aug(GPA + 0x1000, second)), Status::SUCCESS);
    assert_eq!(td.machine.finish_seamcall(CPU).unwrap().status(), Status::SUCCESS);
    let third = td.page();
    let again = call(&mut td.machine, OTHER, aug(GPA, third));
    assert_eq!(again.code(), StatusCode::EPT_ENTRY_STATE_INCORRECT, "it is there now");
}

/// Both want the page itself: its PAMT entry is locked.
#[test]
fn one_page_for_two_entries() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    begin(&mut td, CPU, aug(GPA, page));
    assert_eq!(call(&mut td.machine, OTHER, aug(GPA + 0x1000, page)), StatusCode::OPERAND_BUSY.operand(Operand::R8));
    let reclaim = Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(page);
    assert_eq!(call(&mut td.machine, OTHER, reclaim), StatusCode::OPERAND_BUSY.operand(Operand::RCX));
    td.machine.finish_seamcall(CPU).unwrap();
    assert_eq!(call(&mut td.machine, OTHER, reclaim).code(), StatusCode::LIFECYCLE_STATE_INCORRECT);
}

/// A TD's own leaves exclude those that need the TD to themselves.
#[test]
fn a_td_that_is_in_use() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    begin(&mut td, CPU, aug(GPA, page));
    let flush_done = Registers::call(Leaf::MNG_VPFLUSHDONE).rcx(TDR);
    assert_eq!(call(&mut td.machine, OTHER, flush_done), StatusCode::OPERAND_BUSY.operand(Operand::RCX));
    let block = Registers::call(Leaf::MEM_RANGE_BLOCK).rcx(0).rdx(TDR);
    assert_eq!(call(&mut td.machine, OTHER, block), StatusCode::OPERAND_BUSY.operand(Operand::SEPT_TREE));
    td.machine.finish_seamcall(CPU).unwrap();
    assert_eq!(call(&mut td.machine, OTHER, block), Status::SUCCESS);
}

/// SYS.SHUTDOWN does not succeed while another CPU is in the module, and calls that begin while it
/// looks find the module shut down, although it is not.
#[test]
fn shutdown_with_a_cpu_inside() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    let shutdown = Registers::call(Leaf::SYS_SHUTDOWN).rcx(1);
    begin(&mut td, CPU, aug(GPA, page));
    assert_eq!(call(&mut td.machine, OTHER, shutdown).code(), StatusCode::SYS_BUSY);
    begin(&mut td, OTHER, shutdown);
    let rdmd = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(page);
    assert_eq!(call(&mut td.machine, CpuId(2), rdmd).code(), StatusCode::SYS_SHUTDOWN);
    assert_eq!(td.machine.finish_seamcall(OTHER).unwrap().status().code(), StatusCode::SYS_BUSY);
    td.machine.finish_seamcall(CPU).unwrap();
    assert_eq!(call(&mut td.machine, CpuId(2), rdmd), Status::SUCCESS);
    assert_eq!(call(&mut td.machine, OTHER, shutdown), Status::SUCCESS);
}

/// A guest that accepts a page on which the host works is told to try again.
#[test]
fn accept_of_a_busy_entry() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    td.ok(aug(GPA, page));
    assert_eq!(
        call(&mut td.machine, OTHER, Registers::call(Leaf::VP_FLUSH).rcx(TDVPR)).code(),
        StatusCode::VCPU_NOT_ASSOCIATED
    );
    td.ok(Registers::call(Leaf::VP_ENTER).rcx(TDVPR));
    begin(&mut td, OTHER, Registers::call(Leaf::MEM_SEPT_RD).rcx(GPA).rdx(TDR));
    let accept =
        TdExit { reason: 77, guest: Registers { rax: 6, ..Registers::default() }.rcx(GPA), ..TdExit::default() };
    let status = |after: AfterExit| match after {
        AfterExit::Guest { registers, .. } => registers.status(),
        AfterExit::Host(out) => panic!("{out:?}"),
    };
    let busy = td.machine.td_exit(CPU, accept).unwrap();
    assert_eq!(status(busy), StatusCode::OPERAND_BUSY.operand(Operand::RCX));
    assert_eq!(td.machine.private_lines_in(lines(page, 4096)), 0);
    td.machine.finish_seamcall(OTHER).unwrap();
    let done = td.machine.td_exit(CPU, accept).unwrap();
    assert_eq!(status(done), Status::SUCCESS);
}

/// The page is private before the call returns, and the CPU does nothing else meanwhile.
#[test]
fn effects_before_the_return() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    let create = Registers::call(Leaf::MNG_CREATE).rcx(page).rdx(40);
    begin(&mut td, CPU, create);
    assert_eq!(td.machine.private_lines_in(lines(page, 4096)), 64);
    assert_eq!(td.machine.fence(CPU), Err(Refusal::CpuInModule { cpu: CPU }));
    assert_eq!(td.machine.seamcall(CPU, create), Err(Refusal::CpuInModule { cpu: CPU }));
    assert_eq!(td.machine.finish_seamcall(OTHER), Err(Refusal::NoCallInFlight { cpu: OTHER }));
    // Another TD with the same KeyID: the table of KeyIDs is locked.
    let other = td.page();
    let second = Registers::call(Leaf::MNG_CREATE).rcx(other).rdx(41);
    assert_eq!(call(&mut td.machine, OTHER, second), StatusCode::OPERAND_BUSY.operand(Operand::KOT));
    assert_eq!(td.machine.finish_seamcall(CPU).unwrap().status(), Status::SUCCESS);
    assert_eq!(td.machine.finish_seamcall(CPU), Err(Refusal::NoCallInFlight { cpu: CPU }));
}

/// A call that the module refuses keeps what it took, too; one that fails before the module runs
/// keeps nothing.
#[test]
fn calls_that_fail() {
    let mut td = Td::new(0, 0);
    let page = td.page();
    begin(&mut td, CPU, aug(0, page));
    assert_eq!(call(&mut td.machine, OTHER, aug(0, page)), StatusCode::OPERAND_BUSY.operand(Operand::RCX));
    assert_eq!(td.machine.finish_seamcall(CPU).unwrap().status().code(), StatusCode::EPT_ENTRY_STATE_INCORRECT);
    td.machine.vmxoff(CPU).unwrap();
    let begun = td.machine.begin_seamcall(CPU, aug(GPA, page)).unwrap();
    assert!(matches!(begun, Begun::Returned(out) if out.status() == Status::UNDEFINED_OPCODE));
    td.machine.fence(CPU).unwrap();
    let enter = Registers::call(Leaf::VP_ENTER).rcx(TDVPR);
    assert!(matches!(td.machine.begin_seamcall(OTHER, enter), Err(Refusal::LeafNotModeled { .. })));
}

/// The module dies under another CPU's call; a kexec does not wait for calls in flight.
#[test]
fn the_end_of_calls_in_flight() {
    let mut td = Td::new(0, 0);
    let (first, second) = (td.page(), td.page());
    begin(&mut td, CPU, aug(GPA, first));
    let mut kexec = td.machine.clone();
    kexec.kexec_boundary();
    kexec.fence(CPU).unwrap();
    kexec.vmxon(OTHER).unwrap();
    assert_eq!(call(&mut kexec, OTHER, aug(GPA + 0x1000, second)), Status::SUCCESS, "no lock is left");
    td.machine.inject(Fault::Crash, When::Call(1));
    assert_eq!(call(&mut td.machine, OTHER, aug(GPA + 0x1000, second)), Status::VMFAIL_INVALID);
    assert_eq!(td.machine.finish_seamcall(CPU).unwrap().status(), Status::VMFAIL_INVALID);
    td.machine.fence(CPU).unwrap();
}
