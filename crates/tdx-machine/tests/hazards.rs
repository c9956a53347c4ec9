//! What can go wrong at the border between two kernels, each hazard by itself.

mod support;

use support::{CPU, GIB, PAMT, TDMR, call, lines, pamt, ready};
use tdx_abi::{KeyId, Leaf, PageRange, PageSize, PhysAddr, Registers, Status};
use tdx_machine::{
    AccessError, Agent, CpuId, CpuModel, DeviceId, Event, EvictionPolicy, Machine, MachineCheckReason, MachineConfig,
    PartialStore,
};

fn pages(base: u64, bytes: u64) -> PageRange {
    PageRange::from_base_size(PhysAddr::new(base), bytes).unwrap()
}

/// All of PAMT for a TDMR of 1 GiB.
fn all_pamt() -> PageRange {
    pages(PAMT, (4 << 20) + (8 << 10) + 4096)
}

fn wbinvd_all(machine: &mut Machine) {
    for cpu in 0..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
}

#[test]
fn without_a_reset_the_next_kernel_dies() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    wbinvd_all(&mut machine);
    machine.kexec_boundary();
    let step = machine.step();
    let used = machine.use_memory(CpuId(2), pages(0, 8 * GIB), PartialStore::NonTemporal).unwrap();
    let private = ((4 << 20) + (8 << 10)) / 64 + 1;
    assert_eq!((used.lines_poisoned, used.lines_fatal), (private, private));
    let check = used.first.unwrap();
    assert_eq!(check.address, PhysAddr::new(PAMT));
    assert_eq!((check.status, check.misc, check.mcg_status, check.bank), (0xbd80_0000_0010_0134, 0x86, 0xf, 1));
    let MachineCheckReason::Poison(cause) = check.reason else { panic!("{check:?}") };
    assert_eq!((cause.by, cause.store), (Agent::Cpu(CpuId(2)), PartialStore::NonTemporal));
    assert!(cause.step > step);
    assert_eq!(
        check.to_string(),
        "CPU 2: Machine Check Exception: f Bank 1: bd80000000100134 ADDR 80000000 MISC 86",
        "as in fixtures/mce/02"
    );
}

#[test]
fn without_the_erratum_it_lives() {
    let mut machine = ready(CpuModel::GRANITE_RAPIDS, 1);
    wbinvd_all(&mut machine);
    machine.kexec_boundary();
    let used = machine.use_memory(CPU, pages(0, 8 * GIB), PartialStore::NonTemporal).unwrap();
    assert_eq!((used.lines_poisoned, used.lines_fatal, used.first), (0, 0, None));
    assert_eq!(machine.private_lines(), 0);
}

#[test]
fn a_reset_with_direct_stores_and_a_fence_is_enough() {
    let mut machine = ready(CpuModel::EMERALD_RAPIDS, 1);
    wbinvd_all(&mut machine);
    machine.direct_store(CPU, all_pamt().lines()).unwrap();
    machine.fence(CPU).unwrap();
    machine.kexec_boundary();
    assert_eq!(machine.private_lines(), 0);
    let used = machine.use_memory(CpuId(1), pages(0, 8 * GIB), PartialStore::NonTemporal).unwrap();
    assert_eq!(used.first, None);
}

/// The reset also clears poison, and does not consume it.
#[test]
fn direct_stores_clear_poison_and_other_stores_do_not() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    wbinvd_all(&mut machine);
    let line = lines(PAMT, 64);
    assert_eq!(machine.partial_write(CPU, line, KeyId::HOST, PartialStore::Uncached).unwrap(), 1);
    assert_eq!(machine.owner(line.start()), Some(KeyId::new(32)), "still TD-owned");

    let mut cached = machine.clone();
    cached.store(CPU, line, KeyId::HOST).unwrap();
    assert!(matches!(cached.load(CpuId(1), line, KeyId::HOST), Err(AccessError::MachineCheck(_))));
    cached.wbinvd(CPU).unwrap();
    assert_eq!(cached.owner(line.start()), None, "a full line from the cache ends the ownership");
    assert!(cached.poison(line.start()).is_some(), "but brings the poison back");

    let mut partial = machine.clone();
    assert_eq!(partial.partial_write(CPU, line, KeyId::HOST, PartialStore::NonTemporal).unwrap(), 0);
    assert_eq!(partial.poison(line.start()).map(|cause| cause.store), Some(PartialStore::Uncached), "the first cause");

    machine.direct_store(CPU, line).unwrap();
    machine.fence(CPU).unwrap();
    assert_eq!((machine.owner(line.start()), machine.poison(line.start())), (None, None));
    machine.load(CPU, line, KeyId::HOST).unwrap();
}

#[test]
fn without_the_fence_another_cpu_still_finds_private_lines() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    wbinvd_all(&mut machine);
    machine.direct_store(CPU, all_pamt().lines()).unwrap();
    assert_eq!(machine.pending_lines(CPU), all_pamt().lines().len());
    machine.kexec_boundary();
    let used = machine.use_memory(CpuId(1), all_pamt(), PartialStore::NonTemporal).unwrap();
    assert!(used.first.is_some());
    // When the stores arrive after all, they overwrite what is there by then.
    machine.drain(CPU).unwrap();
    assert_eq!((machine.pending_lines(CPU), machine.private_lines()), (0, 0));
    assert!(machine.all_poisoned_runs().is_empty());
}

/// A dirty line of the global KeyID that is written back after the reset: the owner comes back over
/// the next kernel's data.
#[test]
fn a_late_write_back_overwrites_the_page() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let dirty = machine.dirty_private_lines();
    assert_eq!(dirty, (8 << 10) / 64 + 1, "PAMT_2M and PAMT_1G");
    machine.direct_store(CPU, all_pamt().lines()).unwrap();
    machine.fence(CPU).unwrap();
    assert_eq!(machine.private_lines(), 0);
    assert_eq!(machine.dirty_private_lines(), dirty, "MOVDIR64B leaves copies under other keys alone");
    machine.kexec_boundary();

    let canary = PhysAddr::new(pamt(1, PageSize::Size2M));
    machine.write_shared(CpuId(1), canary, &[7; 64]).unwrap();
    machine.wbinvd(CpuId(1)).unwrap();
    assert_eq!(machine.counters().lines_late_private, 0);
    assert_eq!(machine.evict(lines(canary.get(), 64), KeyId::new(32)), 1);
    assert_eq!(machine.counters().lines_late_private, 1);
    assert!(matches!(machine.events().last(), Some((_, Event::PrivateWriteBackOverShared { cpu: CPU, .. }))));
    let mut bytes = [1; 64];
    machine.read_shared(CpuId(1), canary, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 64], "the next kernel's data is gone");
    assert_eq!(machine.partial_write(CPU, lines(canary.get(), 64), KeyId::HOST, PartialStore::NonTemporal).unwrap(), 1);
}

#[test]
fn wbinvd_is_for_one_cpu_alone() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let dirty = machine.dirty_private_lines();
    for other in 1..machine.cpus() {
        machine.wbinvd(CpuId(other)).unwrap();
    }
    assert_eq!(machine.dirty_private_lines(), dirty);
    machine.wbinvd(CPU).unwrap();
    assert_eq!(machine.dirty_private_lines(), 0);
}

/// The host's own dirty lines, not flushed before PAMT is given away, come back over it, and the
/// module dies of them.
#[test]
fn a_dirty_host_line_over_pamt_kills_the_module() {
    let mut machine = support::machine(CpuModel::SAPPHIRE_RAPIDS);
    support::configure(&mut machine, 1);
    machine.store(CpuId(3), lines(PAMT, 4096), KeyId::HOST).unwrap();
    support::tdmr_init(&mut machine, CPU, 256);
    let read = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(TDMR);
    assert_eq!(call(&mut machine.clone(), CPU, read), Status::SUCCESS, "as long as nothing is evicted");
    machine.wbinvd(CpuId(3)).unwrap();
    assert_eq!(machine.counters().lines_late_shared, 64);
    assert_eq!(machine.owner(lines(PAMT, 64).start()), None);
    assert_eq!(call(&mut machine, CPU, read), Status::VMFAIL_INVALID);
    assert_eq!(call(&mut machine, CpuId(1), Registers::call(Leaf::SYS_RD)), Status::VMFAIL_INVALID, "for good");
    assert_eq!(machine.module_state(), None);
    let Some((_, Event::ModuleDied { check: Some(check), .. })) = machine.events().last() else { panic!("no event") };
    assert_eq!(check.reason, MachineCheckReason::Integrity);
}

/// PHYMEM.PAGE.WBINVD and CLFLUSH act on one KeyID of a line and leave the other alone.
#[test]
fn two_key_ids_of_a_line_are_two_cache_lines() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let line = lines(pamt(1, PageSize::Size1G), 64);
    machine.store(CpuId(2), line, KeyId::HOST).unwrap();
    let keys = |machine: &Machine| {
        let runs = machine.dirty_runs().into_iter().filter(|run| run.lines.contains(line.start()));
        runs.map(|run| (run.key.get(), run.cpu.0)).collect::<Vec<_>>()
    };
    assert_eq!(keys(&machine), [(0, 2), (32, 0)]);
    // The last to be written back decides who owns the line.
    let (mut host_last, mut module_last) = (machine.clone(), machine);
    host_last.wbinvd(CPU).unwrap();
    host_last.flush_lines(CPU, line, KeyId::HOST).unwrap();
    assert_eq!(host_last.owner(line.start()), None);
    module_last.flush_lines(CPU, line, KeyId::HOST).unwrap();
    assert_eq!(keys(&module_last), [(32, 0)]);
    module_last.wbinvd(CPU).unwrap();
    assert_eq!(module_last.owner(line.start()), Some(KeyId::new(32)));
}

#[test]
fn dma_poisons_with_the_part_of_a_line_and_cleans_with_the_whole() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    wbinvd_all(&mut machine);
    let device = DeviceId(9);
    // Half a line, two lines, a quarter of a line.
    let poisoned = machine.dma_write(device, PhysAddr::new(PAMT + 32), &[1; 32 + 128 + 16]).unwrap();
    assert_eq!(poisoned, 2);
    let state = |index: u64| {
        let line = lines(PAMT + 64 * index, 64).start();
        (machine.owner(line).is_some(), machine.poison(line).map(|cause| cause.by))
    };
    let by = Some(Agent::Device(device));
    assert_eq!([0, 1, 2, 3, 4].map(state), [(true, by), (false, None), (false, None), (true, by), (true, None)]);
    let used = machine.use_memory_by_device(device, CPU, pages(PAMT, 4096)).unwrap();
    assert_eq!((used.lines_poisoned, used.lines_fatal), (60, 62));
}

/// A fast warm reset cleans nothing, and starts the module from the beginning.
#[test]
fn warm_reset_keeps_private_memory() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    machine.wbinvd(CPU).unwrap();
    machine.partial_write(CPU, lines(PAMT, 64), KeyId::HOST, PartialStore::WriteCombining).unwrap();
    let before = (machine.private_lines(), machine.all_poisoned_runs());
    machine.warm_reset();
    assert_eq!((machine.private_lines(), machine.all_poisoned_runs()), before);
    assert_eq!(machine.dirty_private_lines(), 0);
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_INIT)), Status::UNDEFINED_OPCODE);
    machine.vmxon(CPU).unwrap();
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_INIT)), Status::SUCCESS);
}

/// The same seed evicts the same lines; another seed others. Whatever is evicted, WBINVD ends at
/// the same place.
#[test]
fn seeded_eviction_is_deterministic() {
    let run = |seed| {
        let eviction = EvictionPolicy::Seeded { one_in: 2 };
        let config = MachineConfig { seed, eviction, ..support::config(CpuModel::SAPPHIRE_RAPIDS) };
        let mut machine = Machine::with_initialized_module(config).unwrap();
        support::configure(&mut machine, 1);
        support::tdmr_init(&mut machine, CPU, 256);
        machine.store(CpuId(1), lines(8 * GIB, 1 << 20), KeyId::HOST).unwrap();
        for _ in 0..5 {
            machine.evict_something();
        }
        let dirty = machine.dirty_runs();
        wbinvd_all(&mut machine);
        (dirty, machine.all_owner_runs())
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_eq!(first.1, other.1);
}

/// Clones share everything, and nothing one does is seen by the other.
#[test]
fn a_clone_is_a_snapshot() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let snapshot = machine.clone();
    let (runs, dirty) = (snapshot.all_owner_runs(), snapshot.dirty_runs());
    wbinvd_all(&mut machine);
    machine.direct_store(CPU, all_pamt().lines()).unwrap();
    machine.fence(CPU).unwrap();
    machine.kexec_boundary();
    assert_eq!((snapshot.all_owner_runs(), snapshot.dirty_runs()), (runs, dirty));
    assert_eq!(machine.private_lines(), 0);
}

/// A host that forgets the fence is not saved by what it happens to run next.
#[test]
fn only_mfence_and_wbinvd_make_direct_stores_visible() {
    let lines = all_pamt().lines();
    let reset = || {
        let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
        wbinvd_all(&mut machine);
        machine.direct_store(CPU, lines).unwrap();
        (machine.private_lines(), machine)
    };
    type Operation = fn(&mut Machine);
    let no_fence: [Operation; 4] = [
        |machine| machine.flush_lines(CPU, pages(0x10_0000, 4096).lines(), KeyId::HOST).unwrap(),
        |machine| machine.vmxon(CPU).unwrap(),
        |machine| machine.vmxoff(CPU).unwrap(),
        |machine| {
            machine.seamcall(CPU, Registers::call(Leaf::SYS_LP_SHUTDOWN)).unwrap();
        },
    ];
    for operation in no_fence {
        let (private, mut machine) = reset();
        operation(&mut machine);
        assert_eq!((machine.private_lines(), machine.counters().lines_direct_stored), (private, 0));
    }
    let fences: [Operation; 2] = [|machine| machine.fence(CPU).unwrap(), |machine| machine.wbinvd(CPU).unwrap()];
    for operation in fences {
        let (_, mut machine) = reset();
        operation(&mut machine);
        assert_eq!((machine.private_lines(), machine.counters().lines_direct_stored), (0, lines.len()));
    }
}
