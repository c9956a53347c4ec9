//! VCPUs that enter and leave, what guests do to memory, TLB epochs, and fatal TDs.

mod support;

use support::{CPU, GLOBAL, TDMR, call, lines, ready};
use tdx_abi::{KeyId, Leaf, Page, PageSize, PhysAddr, Registers, Status, StatusCode};
use tdx_machine::{CpuId, CpuModel, GuestOutcome, Machine, PartialStore, Refusal};

const OTHER: CpuId = CpuId(1);
const TDR: u64 = TDMR;
const KEY: u16 = GLOBAL + 1;
const TDVPR: u64 = TDMR + 0x10_0000;
/// Pages for the guest.
const ADDED: u64 = TDMR + 0x20_0000;
const SMALL: u64 = TDMR + 0x20_1000;
const LARGE: u64 = TDMR + 0x40_0000;
/// Guest addresses of the three.
const GPA_ADDED: u64 = 0;
const GPA_SMALL: u64 = 0x1000;
const GPA_LARGE: u64 = 0x20_0000;

fn ok(machine: &mut Machine, registers: Registers) {
    let status = call(machine, CPU, registers);
    assert_eq!(status, Status::SUCCESS, "{registers:?}");
}

fn on_td(leaf: Leaf, rcx: u64) -> Registers {
    Registers::call(leaf).rcx(rcx).rdx(TDR)
}

/// A runnable TD with one VCPU on CPU 0, one measured page, and a 4 KiB and a 2 MiB page that wait
/// for ACCEPT.
fn td() -> Machine {
    td_on(ready(CpuModel::SAPPHIRE_RAPIDS, 1))
}

fn td_on(mut machine: Machine) -> Machine {
    ok(&mut machine, Registers::call(Leaf::MNG_CREATE).rcx(TDR).rdx(KEY.into()));
    for cpu in [CPU, OTHER] {
        assert_eq!(call(&mut machine, cpu, Registers::call(Leaf::MNG_KEY_CONFIG).rcx(TDR)), Status::SUCCESS);
    }
    let mut next = TDMR + 0x1000;
    let mut page = || {
        next += 0x1000;
        next
    };
    for _ in 0..6 {
        ok(&mut machine, on_td(Leaf::MNG_ADDCX, page()));
    }
    let mut params = [0; 1024];
    for (offset, value) in [(8, 7), (16, 1), (24, 0x1e), (40, 40)] {
        params[offset] = value;
    }
    machine.write_shared(CPU, PhysAddr::new(0x10_0000), &params).unwrap();
    ok(&mut machine, Registers::call(Leaf::MNG_INIT).rcx(TDR).rdx(0x10_0000));
    ok(&mut machine, on_td(Leaf::VP_CREATE, TDVPR));
    for _ in 0..5 {
        ok(&mut machine, Registers::call(Leaf::VP_ADDCX).rcx(page()).rdx(TDVPR));
    }
    ok(&mut machine, Registers::call(Leaf::VP_INIT).rcx(TDVPR));
    for level in [3, 2, 1] {
        ok(&mut machine, on_td(Leaf::MEM_SEPT_ADD, level).r8(page()));
    }
    ok(&mut machine, on_td(Leaf::MEM_PAGE_ADD, GPA_ADDED).r8(ADDED).r9(0x20_0000));
    ok(&mut machine, Registers::call(Leaf::MR_FINALIZE).rcx(TDR));
    ok(&mut machine, on_td(Leaf::MEM_PAGE_AUG, GPA_SMALL).r8(SMALL));
    ok(&mut machine, on_td(Leaf::MEM_PAGE_AUG, GPA_LARGE | 1).r8(LARGE));
    machine
}

fn enter(machine: &mut Machine, cpu: CpuId) -> Status {
    call(machine, cpu, Registers::call(Leaf::VP_ENTER).rcx(TDVPR))
}

#[test]
fn accept_is_where_an_augmented_page_turns_private() {
    let mut machine = td();
    let owned = |machine: &Machine, base, bytes| machine.private_lines_in(lines(base, bytes));
    assert_eq!((owned(&machine, SMALL, 4096), owned(&machine, LARGE, 2 << 20)), (0, 0));
    assert_eq!(enter(&mut machine, CPU), Status::SUCCESS);
    assert_eq!(machine.guest_store(CPU, GPA_SMALL), Ok(GuestOutcome::Violation), "not accepted yet");
    assert_eq!(machine.guest_accept(CPU, GPA_SMALL, PageSize::Size4K), Ok(GuestOutcome::Done));
    assert_eq!(machine.guest_accept(CPU, GPA_SMALL, PageSize::Size4K), Ok(GuestOutcome::AlreadyAccepted));
    assert_eq!(
        machine.guest_accept(CPU, GPA_LARGE, PageSize::Size4K),
        Ok(GuestOutcome::Violation),
        "it is a large page"
    );
    assert_eq!(machine.guest_accept(CPU, GPA_LARGE, PageSize::Size2M), Ok(GuestOutcome::Done));
    assert_eq!((owned(&machine, SMALL, 4096), owned(&machine, LARGE, 2 << 20)), (64, 32768));
    assert_eq!(machine.owner(PhysAddr::new(LARGE).line()), Some(KeyId::new(KEY)));
    assert_eq!(machine.guest_store(CPU, GPA_LARGE + 0x1234), Ok(GuestOutcome::Done));
    let dirty = |machine: &Machine| {
        machine.dirty_private_runs().iter().any(|run| run.lines.contains(PhysAddr::new(LARGE + 0x1200).line()))
    };
    assert!(dirty(&machine));
    machine.leave_vcpu(CPU).unwrap();
    assert!(dirty(&machine), "leaving writes nothing back");
}

#[test]
fn a_cpu_inside_belongs_to_the_guest() {
    let mut machine = td();
    enter(&mut machine, CPU);
    let refused = Err(Refusal::CpuInGuest { cpu: CPU });
    assert_eq!(machine.fence(CPU), refused);
    assert_eq!(machine.wbinvd(CPU), refused);
    assert_eq!(machine.guest_load(OTHER, GPA_ADDED), Err(Refusal::NoGuestOnCpu { cpu: OTHER }));
    assert_eq!(enter(&mut machine, OTHER).code(), StatusCode::VCPU_STATE_INCORRECT, "it is active");
    assert_eq!(machine.guest_load(CPU, GPA_ADDED), Ok(GuestOutcome::Done));
    assert_eq!(machine.leave_vcpu(CPU), Ok(Status::new(1)));
    assert_eq!(machine.leave_vcpu(CPU), Err(Refusal::NoGuestOnCpu { cpu: CPU }));
    machine.wbinvd(CPU).unwrap();
}

/// `tdx_abi.md` section 10.
#[test]
fn a_page_is_tracked_once_the_vcpus_of_its_epoch_have_left() {
    let mut machine = td();
    let block = on_td(Leaf::MEM_RANGE_BLOCK, GPA_ADDED);
    let remove = on_td(Leaf::MEM_PAGE_REMOVE, GPA_ADDED);
    let track = Registers::call(Leaf::MEM_TRACK).rcx(TDR);
    enter(&mut machine, CPU);
    assert_eq!(call(&mut machine, OTHER, block), Status::SUCCESS);
    assert_eq!(machine.guest_store(CPU, GPA_ADDED), Ok(GuestOutcome::Done), "by a translation it still has");
    assert_eq!(call(&mut machine, OTHER, remove).code(), StatusCode::TLB_TRACKING_NOT_DONE);
    assert_eq!(call(&mut machine, OTHER, track), Status::SUCCESS);
    assert_eq!(call(&mut machine, OTHER, remove).code(), StatusCode::TLB_TRACKING_NOT_DONE, "it is still inside");
    assert_eq!(call(&mut machine, OTHER, track).code(), StatusCode::PREVIOUS_TLB_EPOCH_BUSY);
    machine.leave_vcpu(CPU).unwrap();
    enter(&mut machine, CPU);
    assert_eq!(machine.guest_store(CPU, GPA_ADDED), Ok(GuestOutcome::Violation), "the translation is gone");
    assert_eq!(call(&mut machine, OTHER, remove), Status::SUCCESS);
    assert_eq!(machine.private_lines_in(lines(ADDED, 4096)), 64, "nothing on the release path writes the page");
}

#[test]
fn poison_kills_the_guest_that_reads_it() {
    let mut machine = td();
    machine.partial_write(CPU, lines(ADDED, 64), KeyId::HOST, PartialStore::NonTemporal).unwrap();
    enter(&mut machine, CPU);
    let before = machine.counters().machine_checks;
    assert!(matches!(machine.guest_load(CPU, GPA_ADDED), Ok(GuestOutcome::MachineCheck(_))));
    assert_eq!(machine.counters().machine_checks, before + 1);
    assert_eq!(machine.guest_load(CPU, GPA_ADDED + 64), Ok(GuestOutcome::Done));
}

#[test]
fn sys_disable_waits_for_the_vcpus() {
    let module = Some(tdx_machine::ModuleProfile::V1_5_01.with_sys_disable());
    let config = tdx_machine::MachineConfig { module, ..support::config(CpuModel::SAPPHIRE_RAPIDS) };
    let mut machine = Machine::with_initialized_module(config).unwrap();
    support::configure(&mut machine, 1);
    support::tdmr_init(&mut machine, CPU, 256);
    let mut machine = td_on(machine);
    enter(&mut machine, CPU);
    machine.guest_accept(CPU, GPA_LARGE, PageSize::Size2M).unwrap();
    let disable = Registers::call(Leaf::SYS_DISABLE);
    assert_eq!(call(&mut machine, OTHER, disable).code(), StatusCode::SYS_BUSY);
    machine.leave_vcpu(CPU).unwrap();
    assert_eq!(call(&mut machine, OTHER, disable), Status::SUCCESS);
    for cpu in 0..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
    assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
}

/// The exit stores the VCPU's state: poison there is the end of the module, and is not passed over.
#[test]
fn poison_in_tdvps_kills_the_module_at_the_exit() {
    let mut machine = td();
    enter(&mut machine, CPU);
    for cpu in 1..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
    // What is dirty in the VCPU's cache would hide the poison, so it goes first.
    machine.evict(lines(TDVPR, 4096), KeyId::new(KEY));
    machine.partial_write(OTHER, lines(TDVPR, 64), KeyId::HOST, PartialStore::NonTemporal).unwrap();
    assert_eq!(machine.leave_vcpu(CPU), Ok(Status::VMFAIL_INVALID));
    assert_eq!(machine.module_state(), None);
    machine.wbinvd(CPU).unwrap();
}

#[test]
fn no_vcpu_runs_in_a_fatal_td_or_without_its_module() {
    let mut machine = td();
    enter(&mut machine, CPU);
    assert_eq!(machine.guest_store(CPU, GPA_ADDED), Ok(GuestOutcome::Done));
    let mut dead = machine.clone();
    assert!(machine.make_td_fatal(Page::new(TDR / 4096)));
    assert_eq!(machine.guest_store(CPU, GPA_ADDED), Ok(GuestOutcome::Violation));
    dead.inject(tdx_machine::Fault::Crash, tdx_machine::When::Call(1));
    call(&mut dead, OTHER, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(TDR));
    assert_eq!(dead.guest_store(CPU, GPA_ADDED), Ok(GuestOutcome::Violation));
    assert_eq!(dead.leave_vcpu(CPU), Ok(Status::VMFAIL_INVALID));
}

#[test]
fn a_fatal_td_can_only_be_torn_down() {
    let mut machine = td();
    assert!(machine.make_td_fatal(Page::new(TDR / 4096)));
    assert!(!machine.make_td_fatal(Page::new(LARGE / 4096)));
    for registers in [
        on_td(Leaf::MEM_RANGE_BLOCK, GPA_ADDED),
        Registers::call(Leaf::MEM_TRACK).rcx(TDR),
        Registers::call(Leaf::VP_ENTER).rcx(TDVPR),
        on_td(Leaf::MNG_ADDCX, TDMR + 0x50_0000),
        Registers::call(Leaf::MNG_KEY_CONFIG).rcx(TDR),
    ] {
        assert_eq!(call(&mut machine, CPU, registers).code(), StatusCode::TD_FATAL, "{registers:?}");
    }
    ok(&mut machine, Registers::call(Leaf::VP_FLUSH).rcx(TDVPR));
    ok(&mut machine, Registers::call(Leaf::MNG_VPFLUSHDONE).rcx(TDR));
    for cpu in [CPU, OTHER] {
        assert_eq!(call(&mut machine, cpu, Registers::call(Leaf::PHYMEM_CACHE_WB)), Status::SUCCESS);
    }
    ok(&mut machine, Registers::call(Leaf::MNG_KEY_FREEID).rcx(TDR));
    ok(&mut machine, Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(ADDED));
}

#[test]
fn the_seam_loader_is_not_answered() {
    let mut machine = td();
    let step = machine.step();
    let registers = Registers { rax: 1 << 63, ..Registers::default() };
    assert_eq!(machine.seamcall(CPU, registers), Err(Refusal::SeamldrNotModeled));
    assert_eq!(machine.step(), step, "a refusal is no operation");
}

#[test]
fn a_refused_call_uses_up_no_fault() {
    let mut machine = td();
    machine.inject(tdx_machine::Fault::NoEntropy, tdx_machine::When::Call(1));
    // CPUID leaf 7.2 of 1.5.01, whose value is not known.
    assert!(machine.seamcall(CPU, Registers::call(Leaf::MNG_RD).rcx(TDR).rdx(0x9410_0003_0000_0e04)).is_err());
    let create = Registers::call(Leaf::MNG_CREATE).rcx(TDMR + 0x60_0000).rdx(u64::from(KEY) + 1);
    assert_eq!(call(&mut machine, CPU, create).code(), StatusCode::RND_NO_ENTROPY);
}

#[test]
fn a_device_that_poisons_is_counted_like_a_cpu() {
    let mut machine = td();
    let pages = tdx_abi::PageRange::from_base_size(PhysAddr::new(ADDED), 4096).unwrap();
    let before = machine.counters().machine_checks;
    let used = machine.use_memory_by_device(tdx_machine::DeviceId(3), OTHER, pages).unwrap();
    assert_eq!((used.lines_poisoned, used.lines_fatal), (64, 64));
    assert!(used.first.is_some());
    assert_eq!(machine.counters().machine_checks, before + 1);
}
