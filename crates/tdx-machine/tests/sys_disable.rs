//! TDH.SYS.DISABLE: what it gives back, what it cannot know, and when it says no.

mod support;

use support::{CPU, GIB, GLOBAL, TDMR, call, config, configure, lines, ready, tdmr_init};
use tdx_abi::{Leaf, Operand, PhysAddr, Registers, Status, StatusCode};
use tdx_machine::{
    AssignedKind, CpuId, CpuModel, Fault, Lock, LockMode, Machine, MachineConfig, ModuleProfile, PartialStore,
    SysState, When,
};

const DISABLE: Leaf = Leaf::SYS_DISABLE;
const TDR: u64 = TDMR;
const LOST: u64 = TDMR + 0x1000;

fn with_leaf() -> MachineConfig {
    MachineConfig { module: Some(ModuleProfile::V1_5_01.with_sys_disable()), ..config(CpuModel::SAPPHIRE_RAPIDS) }
}

fn disable(machine: &mut Machine) -> Status {
    call(machine, CPU, Registers::call(DISABLE))
}

/// One TDMR, one TD of one page, and one page that a MNG.CREATE without entropy has filled and not
/// taken.
fn used() -> Machine {
    let mut machine = Machine::with_initialized_module(with_leaf()).unwrap();
    configure(&mut machine, 1);
    tdmr_init(&mut machine, CPU, 256);
    let create = |page: u64| Registers::call(Leaf::MNG_CREATE).rcx(page).rdx(u64::from(GLOBAL) + 1);
    machine.inject(Fault::NoEntropy, When::Call(1));
    assert_eq!(call(&mut machine, CPU, create(LOST)).code(), StatusCode::RND_NO_ENTROPY);
    assert_eq!(call(&mut machine, CPU, create(TDR)), Status::SUCCESS);
    machine
}

fn wbinvd_all(machine: &mut Machine) {
    for cpu in 0..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
}

#[test]
fn it_returns_every_page_in_pamt_and_no_other() {
    let mut machine = used();
    let assigned = machine.assigned_pages();
    assert_eq!(assigned.len(), 1);
    assert_eq!((assigned[0].kind, assigned[0].pages.base()), (AssignedKind::Tdr, PhysAddr::new(TDR)));
    // Poison goes as well.
    machine.partial_write(CPU, lines(TDR, 64), tdx_abi::KeyId::HOST, PartialStore::NonTemporal).unwrap();
    assert!(!machine.all_poisoned_runs().is_empty());
    assert_eq!(disable(&mut machine), Status::SUCCESS);
    wbinvd_all(&mut machine);
    assert!(machine.all_poisoned_runs().is_empty());
    let left = machine.all_owner_runs();
    assert_eq!(left.iter().map(|run| run.lines).collect::<Vec<_>>(), [lines(LOST, 4096)], "the module never took it");
    assert_eq!(machine.module_state(), Some(SysState::InitPending));
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_INIT)), Status::SUCCESS, "TDX can come up again");
}

#[test]
fn interrupted_it_goes_on_where_it_was_and_locks_others_out() {
    let mut machine = used();
    machine.inject(Fault::InterruptPending, When::Always);
    let mut calls = 1;
    while disable(&mut machine).code() == StatusCode::INTERRUPTED_RESUMABLE {
        let other = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(TDR);
        assert_eq!(call(&mut machine, CpuId(1), other).code(), StatusCode::SYS_BUSY);
        calls += 1;
        assert!(calls < 100, "no progress");
    }
    // One TDR and three tables.
    assert_eq!(calls, 4);
    assert_eq!(machine.module_state(), Some(SysState::InitPending));
}

#[test]
fn it_fails_when_not_known_not_ready_busy_or_shut_down() {
    let mut old = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    assert_eq!(disable(&mut old), StatusCode::OPERAND_INVALID.operand(Operand::RAX));

    let mut machine = Machine::with_initialized_module(with_leaf()).unwrap();
    assert_eq!(disable(&mut machine).code(), StatusCode::SYS_NOT_READY);
    configure(&mut machine, 2);
    tdmr_init(&mut machine, CPU, 300);
    let private = machine.private_lines();
    assert_eq!(
        disable(&mut machine).code(),
        StatusCode::SYS_NOT_READY,
        "PAMT is private, and the module can do nothing"
    );
    assert_eq!(machine.private_lines(), private);
    tdmr_init(&mut machine, CPU, 512 - 300);
    machine.hold(Lock::Sys, LockMode::Shared);
    assert_eq!(disable(&mut machine).code(), StatusCode::SYS_BUSY);
    machine.release(Lock::Sys, LockMode::Shared);
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_SHUTDOWN)), Status::SUCCESS);
    assert_eq!(disable(&mut machine).code(), StatusCode::SYS_SHUTDOWN);
    assert!(machine.private_lines() > GIB / 64 / 1024, "PAMT stays private");
}
