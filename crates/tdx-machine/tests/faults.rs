//! Injected conditions, the three ways in which SEAMCALL itself fails, and what the machine
//! refuses.

mod support;

use support::{CPU, TDMR, call, config, configure, machine, ready, tdmr_init};
use tdx_abi::{KeyId, KeyIdPartition, Leaf, PageRange, PhysAddr, Registers, Status, StatusCode};
use tdx_machine::{
    AccessError, ConfigError, CpuId, CpuModel, Fault, LIMITS, Lock, LockMode, Machine, MachineConfig, MsrRead,
    PackageId, Refusal, SysState, When,
};

fn init(machine: &mut Machine) -> Status {
    call(machine, CPU, Registers::call(Leaf::SYS_INIT))
}

#[test]
fn seamcall_fails_before_the_module_in_three_ways() {
    let fresh = |config: MachineConfig| Machine::new(config).unwrap();
    let mut machine = fresh(config(CpuModel::SAPPHIRE_RAPIDS));
    assert_eq!(init(&mut machine), Status::UNDEFINED_OPCODE, "not in VMX operation");
    machine.vmxon(CPU).unwrap();
    assert_eq!(init(&mut machine), Status::SUCCESS);
    assert_eq!(call(&mut machine, CpuId(1), Registers::call(Leaf::SYS_LP_INIT)), Status::UNDEFINED_OPCODE);
    machine.vmxoff(CPU).unwrap();
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_LP_INIT)), Status::UNDEFINED_OPCODE);

    let mut no_seam = fresh(MachineConfig { seam_enabled: false, ..config(CpuModel::SAPPHIRE_RAPIDS) });
    no_seam.vmxon(CPU).unwrap();
    assert_eq!(init(&mut no_seam), Status::GENERAL_PROTECTION);

    let mut no_module = fresh(MachineConfig { module: None, ..config(CpuModel::SAPPHIRE_RAPIDS) });
    no_module.vmxon(CPU).unwrap();
    let registers = Registers::call(Leaf::SYS_INIT).rcx(5);
    let out = no_module.seamcall(CPU, registers).unwrap();
    assert_eq!(out, Registers { rax: Status::VMFAIL_INVALID.raw(), ..registers }, "other registers as on entry");
    assert_eq!(no_module.module_state(), None);
}

/// From power-on, through every state.
#[test]
fn bring_up_from_power_on() {
    let mut machine = Machine::new(config(CpuModel::SAPPHIRE_RAPIDS)).unwrap();
    for cpu in 0..machine.cpus() {
        machine.vmxon(CpuId(cpu)).unwrap();
    }
    let lp_init = Registers::call(Leaf::SYS_LP_INIT);
    assert_eq!(call(&mut machine, CPU, lp_init).code(), StatusCode::SYS_LP_INIT_NOT_PENDING);
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf::SYS_RD)).code(), StatusCode::SYS_LP_INIT_NOT_DONE);
    assert_eq!(init(&mut machine), Status::SUCCESS);
    assert_eq!(init(&mut machine).code(), StatusCode::SYS_INIT_NOT_PENDING);
    let config = Registers::call(Leaf::SYS_CONFIG);
    for cpu in 0..machine.cpus() {
        assert_eq!(call(&mut machine, CPU, config).code(), StatusCode::SYS_CONFIG_NOT_PENDING, "an LP is missing");
        assert_eq!(call(&mut machine, CpuId(cpu), lp_init), Status::SUCCESS);
        assert_eq!(call(&mut machine, CpuId(cpu), lp_init).code(), StatusCode::SYS_LP_INIT_DONE);
    }
    assert_eq!(call(&mut machine, CPU, config).code(), StatusCode::OPERAND_INVALID, "now it looks at its operands");
    assert_eq!(machine.module_state(), Some(SysState::InitDone));
    configure(&mut machine, 1);
    assert_eq!(machine.module_state(), Some(SysState::Ready));
    let seamcalls = &machine.counters().seamcalls;
    assert_eq!(seamcalls[&(Leaf::SYS_LP_INIT, StatusCode::SUCCESS)], 4);
    assert_eq!(seamcalls[&(Leaf::SYS_CONFIG, StatusCode::SYS_CONFIG_NOT_PENDING)], 4);
}

#[test]
fn a_cmr_list_that_the_module_refuses() {
    let gib = |number: u64| PageRange::from_base_size(PhysAddr::new(number << 30), 1 << 30).unwrap();
    for cmrs in [vec![gib(2), gib(1)], vec![gib(1), gib(1)]] {
        let mut machine = Machine::new(MachineConfig::new(CpuModel::SAPPHIRE_RAPIDS, 1, 1, cmrs)).unwrap();
        machine.vmxon(CPU).unwrap();
        assert_eq!(init(&mut machine).code(), StatusCode::CMR_LIST_INVALID);
    }
}

#[test]
fn conditions_are_seen_by_the_leaves_that_look() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let create = Registers::call(Leaf::MNG_CREATE).rcx(TDMR).rdx(33);
    machine.inject(Fault::NoEntropy, When::Always);
    assert_eq!(call(&mut machine, CPU, create).code(), StatusCode::RND_NO_ENTROPY);
    let page = PageRange::from_base_size(PhysAddr::new(TDMR), 4096).unwrap();
    assert_eq!(machine.private_lines_in(page.lines()), 64, "the page of the failed call is private");
    machine.clear(Fault::NoEntropy);
    assert_eq!(call(&mut machine, CPU, create), Status::SUCCESS);
    let key_config = Registers::call(Leaf::MNG_KEY_CONFIG).rcx(TDMR);
    machine.inject(Fault::KeyEngineBusy, When::Call(1));
    machine.inject(Fault::KeyEngineNoEntropy, When::CallOf(Leaf::MNG_KEY_CONFIG, 2));
    assert_eq!(call(&mut machine, CPU, key_config).to_string(), "TDX_OPERAND_BUSY (KET)");
    assert_eq!(call(&mut machine, CPU, key_config).code(), StatusCode::KEY_GENERATION_FAILED);
    assert_eq!(call(&mut machine, CPU, key_config), Status::SUCCESS);
}

#[test]
fn the_nth_call_can_fail_or_crash() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 1);
    let answer = StatusCode::SYS_BUSY.with(0);
    machine.inject(Fault::Answer(answer), When::Call(3));
    machine.inject(Fault::Crash, When::CallOf(Leaf::SYS_TDMR_INIT, 5));
    tdmr_init(&mut machine, CPU, 2);
    let one_more = Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR);
    assert_eq!(call(&mut machine, CPU, one_more), answer);
    tdmr_init(&mut machine, CPU, 1);
    let private = machine.private_lines();
    assert_eq!(call(&mut machine, CPU, one_more), Status::VMFAIL_INVALID);
    assert_eq!(call(&mut machine, CPU, one_more), Status::VMFAIL_INVALID);
    assert_eq!(machine.private_lines(), private, "what was private stays so");
    assert_eq!(machine.module_state(), None);
}

#[test]
fn held_locks_are_busy_until_they_are_released() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 1);
    let lock = Lock::Tdmr { base: PhysAddr::new(TDMR) };
    machine.hold(lock, LockMode::Exclusive);
    let registers = Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR);
    assert_eq!(call(&mut machine, CPU, registers).to_string(), "TDX_OPERAND_BUSY (RCX)");
    machine.release(lock, LockMode::Exclusive);
    machine.release(lock, LockMode::Exclusive);
    tdmr_init(&mut machine, CPU, 1);
    // No such TDMR: nothing to hold.
    machine.hold(Lock::Tdmr { base: PhysAddr::new(0) }, LockMode::Exclusive);
    tdmr_init(&mut machine, CPU, 1);
}

#[test]
fn identity_of_the_cpus() {
    for (model, signature, erratum) in [
        (CpuModel::SAPPHIRE_RAPIDS, 0x0008_06f8, true),
        (CpuModel::EMERALD_RAPIDS, 0x000c_06f2, true),
        (CpuModel::GRANITE_RAPIDS, 0x000a_06d1, false),
        (CpuModel::SIERRA_FOREST, 0x000a_06f3, false),
    ] {
        let machine = Machine::new(config(model)).unwrap();
        assert_eq!(machine.cpuid(CPU, 1, 0).unwrap().eax, signature, "{model}");
        assert_eq!(machine.cpuid(CPU, 7, 0).unwrap().ecx >> 28 & 1, 1);
        assert_eq!(model.has_partial_write_erratum(), erratum);
    }
    let machine = Machine::new(config(CpuModel::SAPPHIRE_RAPIDS)).unwrap();
    assert_eq!(machine.rdmsr(CPU, 0x87), Ok(MsrRead::Value(0x20_0000_001f)));
    assert_eq!(machine.rdmsr(CPU, 0x982), Ok(MsrRead::Value(6 << 32 | 3)));
    assert_eq!(machine.rdmsr(CPU, 0x1400), Ok(MsrRead::GeneralProtection));
    assert_eq!(machine.rdmsr(CPU, 0x10), Err(Refusal::MsrNotModeled { msr: 0x10 }));
    assert_eq!(machine.cpuid(CPU, 0x21, 0), Err(Refusal::CpuidNotModeled { leaf: 0x21 }));

    let no_tdx = MachineConfig { key_ids: None, ..config(CpuModel::SAPPHIRE_RAPIDS) };
    assert_eq!(Machine::new(no_tdx).unwrap().rdmsr(CPU, 0x87), Ok(MsrRead::GeneralProtection));
    let bios_off = MachineConfig { key_ids: Some(KeyIdPartition::new(63, 0)), ..config(CpuModel::SAPPHIRE_RAPIDS) };
    assert_eq!(Machine::new(bios_off).unwrap().rdmsr(CPU, 0x87), Ok(MsrRead::Value(63)));
}

/// SYS.RDALL from a field on lists what is behind it in the list of all fields.
#[test]
fn rdall_from_the_middle() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let mut list = |from: u64| {
        let rdall = Registers::call(Leaf::SYS_RDALL).rdx(1 << 20).r8(from);
        assert_eq!(call(&mut machine, CPU, rdall), Status::SUCCESS);
        let mut bytes = [0; 4096];
        machine.read_shared(CPU, PhysAddr::new(1 << 20), &mut bytes).unwrap();
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        words[..(words[0] & 0xffff) as usize / 8].to_vec()
    };
    let (all, tail) = (list(u64::MAX), list(tdx_abi::FieldId::TDX_FEATURES0.0));
    assert_eq!(tail[1] & !(0x1ff << 38), tdx_abi::FieldId::TDX_FEATURES0.0);
    assert!(tail.len() < all.len() && all.ends_with(&tail[2..]));
}

#[test]
fn requests_outside_the_model_are_refused() {
    let mut machine = ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    let (private, lines) = (KeyId::new(32), support::lines(0, 64));
    assert_eq!(machine.store(CPU, lines, private), Err(Refusal::PrivateKeyOutsideSeam { key: private }));
    assert_eq!(machine.store(CPU, lines, KeyId::new(64)), Err(Refusal::NoSuchKeyId { key: KeyId::new(64) }));
    assert_eq!(machine.wbinvd(CpuId(4)), Err(Refusal::NoSuchCpu { cpu: CpuId(4) }));
    let beyond = support::lines(1 << 46, 64);
    assert!(matches!(machine.direct_store(CPU, beyond), Err(Refusal::BeyondPhysicalMemory { .. })));
    let mut byte = [0];
    let wraps = machine.read_shared(CPU, PhysAddr::new(u64::MAX), &mut byte);
    assert!(matches!(wraps, Err(AccessError::Refused(Refusal::BeyondPhysicalMemory { .. }))));
    // Leaves on migration end at the check of the TDR.
    assert_eq!(call(&mut machine, CPU, Registers::call(Leaf(64)).rcx(1)).to_string(), "TDX_OPERAND_INVALID (RCX)");
    // A leaf that 1.5.01 does not have is the module's business.
    for leaf in [Leaf::SYS_DISABLE, Leaf::PHYMEM_PAMT_ADD, Leaf(200)] {
        let status = call(&mut machine, CPU, Registers::call(leaf));
        assert_eq!(status.to_string(), "TDX_OPERAND_INVALID (RAX)", "{leaf}");
    }
    assert!(LIMITS.iter().all(|limit| limit.ends_with('.')));
}

#[test]
fn machines_that_cannot_be() {
    let base = || config(CpuModel::SAPPHIRE_RAPIDS);
    let error = |config: MachineConfig| Machine::new(config).unwrap_err();
    assert_eq!(error(MachineConfig { package_of_cpu: vec![], ..base() }), ConfigError::NoCpu);
    let gap = MachineConfig { package_of_cpu: vec![PackageId(1)], ..base() };
    assert_eq!(error(gap), ConfigError::PackageWithoutCpu { package: PackageId(0) });
    let keys = MachineConfig { key_ids: Some(KeyIdPartition::new(32, 32)), ..base() };
    assert_eq!(error(keys), ConfigError::KeyIdsDoNotFit { end: 65, bits: 6 });
    let cmrs = MachineConfig { cmrs: vec![tdx_abi::CmrInfo::default(); 33], ..base() };
    assert_eq!(error(cmrs), ConfigError::TooManyCmrs { cmrs: 33 });
    assert_eq!(error(MachineConfig { cache_sub_blocks: 0, ..base() }), ConfigError::NoCacheSubBlock);
}
