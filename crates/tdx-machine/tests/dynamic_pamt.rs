//! Dynamic PAMT: what each leaf checks, in which order, and exactly which lines it writes.

mod support;

use support::{CPU, GIB, GLOBAL, PAMT, TDMR, call, config, configure_keys, lines, pamt, tdmr_init, write_table};
use tdx_abi::{
    FieldId, KeyId, KeyIdField, KeyIdPartition, Leaf, LineRange, PAMT_REMOVAL_HINT, PageSize, PamtPageType, PhysAddr,
    Registers, SYS_CONFIG_DYNAMIC_PAMT, Status, StatusCode, TdxFeatures0,
};
use tdx_machine::{CpuId, CpuModel, Fault, Lock, LockMode, Machine, MachineConfig, ModuleProfile, OwnerRun, When};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The 2 MiB page that most tests are about, its level in the address.
const LARGE: u64 = TDMR + 16 * MIB;
const LARGE_AND_LEVEL: u64 = LARGE | 1;
/// Free pages of the TDMR, in a 2 MiB page of their own that has no pair.
const PAGES: u64 = TDMR + 64 * MIB;

fn page(number: u64) -> u64 {
    PAGES + number * 4 * KIB
}

fn with_profile(profile: ModuleProfile) -> Machine {
    let config = MachineConfig { module: Some(profile), ..config(CpuModel::SAPPHIRE_RAPIDS) };
    Machine::with_initialized_module(config).unwrap()
}

fn dynamic_config(machine: &mut Machine, gibs: u64, pamt_4k_bytes: u16) -> Status {
    let table = write_table(machine, gibs, pamt_4k_bytes);
    let r8 = table.r8 | SYS_CONFIG_DYNAMIC_PAMT;
    call(machine, CPU, table.r8(r8))
}

/// Configured with dynamic PAMT, a byte of PAMT_4K for each page: more than enough.
fn configured(gibs: u64) -> Machine {
    let mut machine = with_profile(ModuleProfile::V1_5_25);
    assert_eq!(dynamic_config(&mut machine, gibs, 1), Status::SUCCESS);
    configure_keys(&mut machine);
    machine
}

fn ready() -> Machine {
    let mut machine = configured(1);
    tdmr_init(&mut machine, CPU, 64);
    machine
}

fn add(large: u64, first: u64, second: u64) -> Registers {
    Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(large).rdx(first).r8(second)
}

fn remove(large: u64) -> Registers {
    Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(large)
}

fn rdmd(machine: &mut Machine, page: u64) -> (PamtPageType, u64) {
    let out = machine.seamcall(CPU, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(page)).unwrap();
    assert_eq!(out.status(), Status::SUCCESS);
    (PamtPageType(out.rcx as u8), out.r8)
}

fn private(machine: &Machine, range: LineRange) -> u64 {
    let runs = machine.owner_runs(range);
    assert!(runs.iter().all(|run: &OwnerRun| run.key == KeyId::new(GLOBAL)));
    runs.iter().map(|run| run.lines.len()).sum()
}

#[track_caller]
fn refused(machine: &mut Machine, registers: Registers, status: &str) {
    let before = (machine.all_owner_runs(), rdmd(machine, LARGE));
    assert_eq!(call(machine, CPU, registers).to_string(), status, "{registers:x?}");
    assert_eq!((machine.all_owner_runs(), rdmd(machine, LARGE)), before, "a refused call changes nothing");
}

#[test]
fn fields_and_features_follow_the_profile() {
    let read = |machine: &mut Machine, field: FieldId| {
        let out = machine.seamcall(CPU, Registers::call(Leaf::SYS_RD).rdx(field.0)).unwrap();
        (out.status(), out.r8, out.rdx)
    };
    let bits = FieldId::PAMT_PAGE_BITMAP_ENTRY_BITS;
    let mut old = with_profile(ModuleProfile::V1_5_01);
    assert_eq!(read(&mut old, bits).0.code(), StatusCode::METADATA_FIELD_ID_INCORRECT);
    assert!(!TdxFeatures0::new(read(&mut old, FieldId::TDX_FEATURES0).1).dynamic_pamt());
    assert_eq!(read(&mut old, FieldId::PAMT_1G_ENTRY_SIZE).2, FieldId::TDR_BASE_SIZE.0);
    let mut new = with_profile(ModuleProfile::V1_5_25);
    assert_eq!(read(&mut new, bits), (Status::SUCCESS, 1, 0x9100_0000_0000_0014));
    assert!(TdxFeatures0::new(read(&mut new, FieldId::TDX_FEATURES0).1).dynamic_pamt());
    assert_eq!(read(&mut new, FieldId::PAMT_1G_ENTRY_SIZE).2, 0x9100_0000_0000_0013, "one byte, unlike Linux's id");
}

#[test]
fn sys_config_takes_the_bit_only_if_the_module_and_the_platform_can() {
    let mut old = with_profile(ModuleProfile::V1_5_01);
    assert_eq!(dynamic_config(&mut old, 1, 16).to_string(), "TDX_OPERAND_INVALID (R8)");
    // 3 KeyID bits leave 49 bits of address.
    let wide = MachineConfig {
        module: Some(ModuleProfile::V1_5_25),
        key_id_field: KeyIdField::from_tme_activate(3 << 32),
        key_ids: Some(KeyIdPartition::new(3, 4)),
        ..config(CpuModel::SAPPHIRE_RAPIDS)
    };
    let mut wide = Machine::with_initialized_module(wide).unwrap();
    let table = write_table(&mut wide, 1, 1).r8(4 | SYS_CONFIG_DYNAMIC_PAMT);
    assert_eq!(call(&mut wide, CPU, table).to_string(), "TDX_OPERAND_INVALID (R8)");

    let mut machine = with_profile(ModuleProfile::V1_5_25);
    let reserved = write_table(&mut machine, 1, 1).r8(u64::from(GLOBAL) | 1 << 17);
    assert_eq!(call(&mut machine, CPU, reserved).to_string(), "TDX_OPERAND_INVALID (R8)");
    // The bit decides how large PAMT_4K must be.
    let table = write_table(&mut machine, 1, 1);
    assert_eq!(call(&mut machine, CPU, table), StatusCode::INVALID_PAMT.with(0));
    support::configure(&mut machine, 1);
    tdmr_init(&mut machine, CPU, 64);
    assert_eq!(
        call(&mut machine, CPU, add(LARGE_AND_LEVEL, page(0), page(1))).to_string(),
        "TDX_OPERAND_INVALID (RAX)"
    );
    assert_eq!(call(&mut machine, CPU, remove(LARGE_AND_LEVEL)).to_string(), "TDX_OPERAND_INVALID (RAX)");
}

#[test]
fn the_bitmap_has_a_bit_for_each_page() {
    let mut machine = with_profile(ModuleProfile::V1_5_25);
    // PAMT_4K one page short of the 64 KiB that 2 GiB need.
    write_table(&mut machine, 2, 1);
    let size = |bytes: u64| bytes.to_le_bytes();
    let pamt_4k_size = PhysAddr::new(support::TABLE + 512 + 56);
    machine.write_shared(CPU, pamt_4k_size, &size(60 * KIB)).unwrap();
    let table = Registers::call(Leaf::SYS_CONFIG).rcx(support::TABLE).rdx(1);
    let table = table.r8(u64::from(GLOBAL) | SYS_CONFIG_DYNAMIC_PAMT);
    assert_eq!(call(&mut machine, CPU, table), StatusCode::INVALID_PAMT.with(0));
    machine.write_shared(CPU, pamt_4k_size, &size(64 * KIB)).unwrap();
    assert_eq!(call(&mut machine, CPU, table), Status::SUCCESS);
}

#[test]
fn tdmr_init_writes_eight_lines_of_the_bitmap_for_each_16_mib() {
    let mut machine = configured(2);
    for calls in [1, 2, 63, 64, 128] {
        let done = machine.counters().seamcalls.get(&(Leaf::SYS_TDMR_INIT, StatusCode::SUCCESS)).copied();
        tdmr_init(&mut machine, CPU, calls - done.unwrap_or(0));
        let mut written = machine.clone();
        written.wbinvd(CPU).unwrap();
        let expected = [lines(PAMT, calls * 512), lines(pamt(2, PageSize::Size2M), calls * 128)];
        let pamt_1g = lines(pamt(2, PageSize::Size1G), calls / 64 * 16);
        let total: u64 = expected.iter().map(|range| private(&written, *range)).sum();
        assert_eq!(expected.map(LineRange::len), [calls * 8, calls * 2]);
        assert_eq!(total, calls * 10);
        assert_eq!(written.private_lines(), total + private(&written, pamt_1g), "nothing else");
    }
}

#[test]
fn add_writes_its_pair_and_remove_leaves_it_as_it_is() {
    let mut machine = ready();
    assert_eq!(rdmd(&mut machine, LARGE), (PamtPageType::NDA, 1), "the walk ends at 2 MiB");
    // The pages need not be neighbors, nor in any order.
    assert_eq!(call(&mut machine, CPU, add(LARGE_AND_LEVEL, page(7), page(2))), Status::SUCCESS);
    assert_eq!(rdmd(&mut machine, LARGE + 4 * KIB), (PamtPageType::NDA, 0), "the walk goes to 4 KiB");
    assert_eq!(rdmd(&mut machine, page(7)), (PamtPageType::PAMT, 0));
    let pair = [lines(page(7), 4 * KIB), lines(page(2), 4 * KIB)];
    assert_eq!(pair.map(|range| private(&machine, range)), [64, 64]);
    assert_eq!(private(&machine, lines(PAGES, 2 * MIB)), 128, "no other page");

    // A walk stores to the entry's line in the pair: page 256 is the first of the second page.
    machine.wbinvd(CPU).unwrap();
    rdmd(&mut machine, LARGE + 256 * 4 * KIB);
    let dirty = |machine: &Machine| machine.dirty_private_runs().into_iter().map(|run| run.lines).collect::<Vec<_>>();
    assert!(dirty(&machine).contains(&lines(page(2), 64)), "{:?}", dirty(&machine));

    let out = machine.seamcall(CPU, remove(LARGE_AND_LEVEL)).unwrap();
    assert_eq!((out.status(), out.rdx, out.r8), (Status::SUCCESS, page(7), page(2)));
    assert_eq!(pair.map(|range| private(&machine, range)), [64, 64], "nothing was written");
    assert!(dirty(&machine).contains(&lines(page(2), 64)), "nothing was flushed either");
    assert_eq!(rdmd(&mut machine, page(7)), (PamtPageType::NDA, 1));
    assert_eq!(rdmd(&mut machine, LARGE), (PamtPageType::NDA, 1));

    // The host flushes the pair under the global key; only now can it be reset for good.
    let tagged = machine.config().key_id_field.tag(PhysAddr::new(page(2)), KeyId::new(GLOBAL));
    let flush = Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(tagged);
    assert_eq!(call(&mut machine, CPU, flush), Status::SUCCESS);
    assert!(!dirty(&machine).contains(&lines(page(2), 64)));
}

#[test]
fn a_page_of_a_pair_has_no_other_owner() {
    let mut machine = ready();
    assert_eq!(call(&mut machine, CPU, add(LARGE_AND_LEVEL, page(0), page(1))), Status::SUCCESS);
    let other = LARGE_AND_LEVEL + 2 * MIB;
    refused(&mut machine, add(other, page(0), page(2)), "TDX_PAGE_NOT_FREE (RDX)");
    refused(&mut machine, add(other, page(2), page(1)), "TDX_PAGE_NOT_FREE (R8)");
    refused(&mut machine, add(other, page(2), page(2)), "TDX_PAGE_NOT_FREE (R8)");
    let tagged = machine.config().key_id_field.tag(PhysAddr::new(page(0)), KeyId::new(GLOBAL));
    let flush = Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(tagged);
    refused(&mut machine, flush, "TDX_PAGE_METADATA_INCORRECT (RCX)");
    // None of the refused calls has kept page 2.
    assert_eq!(call(&mut machine, CPU, add(other, page(2), page(3))), Status::SUCCESS);
    // The pair may lie in the very 2 MiB page that it is for.
    assert_eq!(call(&mut machine, CPU, add(PAGES | 1, page(4), page(5))), Status::SUCCESS);
    assert_eq!(rdmd(&mut machine, page(4)), (PamtPageType::PAMT, 0));
    let create = Registers::call(Leaf::MNG_CREATE).rdx(40);
    refused(&mut machine, create.rcx(page(4)), "TDX_PAGE_METADATA_INCORRECT (RCX)");
    assert_eq!(call(&mut machine, CPU, create.rcx(page(6))), Status::SUCCESS);
}

#[test]
fn each_check_of_add_and_remove() {
    let mut machine = ready();
    let (a, b) = (page(0), page(1));
    for rcx in
        [LARGE, LARGE | 2, LARGE_AND_LEVEL + 4 * KIB, LARGE_AND_LEVEL | 8, LARGE_AND_LEVEL | 1 << 46, 1 << 52 | 1]
    {
        refused(&mut machine, add(rcx, a, b), "TDX_OPERAND_INVALID (RCX)");
        refused(&mut machine, remove(rcx), "TDX_OPERAND_INVALID (RCX)");
    }
    refused(&mut machine, add(LARGE_AND_LEVEL, a + 64, b), "TDX_OPERAND_INVALID (RDX)");
    refused(&mut machine, add(LARGE_AND_LEVEL, a, b | 1 << 46), "TDX_OPERAND_INVALID (R8)");
    refused(&mut machine, add(LARGE_AND_LEVEL, GIB, b), "TDX_OPERAND_ADDR_RANGE_ERROR (RDX)");
    refused(&mut machine, add(LARGE_AND_LEVEL, a, TDMR + GIB), "TDX_OPERAND_ADDR_RANGE_ERROR (R8)");
    refused(&mut machine, add(GIB | 1, a, b), "TDX_OPERAND_ADDR_RANGE_ERROR (RCX)");
    refused(&mut machine, remove(GIB | 1), "TDX_OPERAND_ADDR_RANGE_ERROR (RCX)");
    // The operands of the pair are looked at before those of the large page.
    refused(&mut machine, add(GIB | 1, a + 64, b), "TDX_OPERAND_INVALID (RDX)");
    refused(&mut machine, remove(LARGE_AND_LEVEL), "TDX_NO_PAMT_PAGE_PAIR (RCX)");

    let lock = |address: u64, level| Lock::Pamt { address: PhysAddr::new(address), level };
    for (held, calls, name) in [
        (lock(LARGE, PageSize::Size2M), &[add(LARGE_AND_LEVEL, a, b), remove(LARGE_AND_LEVEL)][..], "RCX"),
        (lock(a, PageSize::Size2M), &[add(LARGE_AND_LEVEL, a, b)][..], "RDX"),
    ] {
        machine.hold(held, LockMode::Exclusive);
        for registers in calls {
            assert_eq!(call(&mut machine, CPU, *registers).to_string(), format!("TDX_OPERAND_BUSY ({name})"));
        }
        machine.release(held, LockMode::Exclusive);
    }

    assert_eq!(call(&mut machine, CPU, add(LARGE_AND_LEVEL, a, b)), Status::SUCCESS);
    refused(&mut machine, add(LARGE_AND_LEVEL, page(2), page(3)), "TDX_HPA_RANGE_NOT_FREE (RCX)");
    let create = Registers::call(Leaf::MNG_CREATE).rdx(40);
    assert_eq!(call(&mut machine, CPU, create.rcx(LARGE + 300 * 4 * KIB)), Status::SUCCESS);
    assert_eq!(call(&mut machine, CPU, remove(LARGE_AND_LEVEL)), StatusCode::PAMT_PAGE_NOT_EMPTY.with(1));
}

#[test]
fn a_late_failure_has_written_the_pair() {
    let mut machine = ready();
    machine.inject(Fault::LateFailure, When::CallOf(Leaf::PHYMEM_PAMT_ADD, 1));
    let add = add(LARGE_AND_LEVEL, page(0), page(1));
    assert_eq!(call(&mut machine, CPU, add).to_string(), "TDX_OPERAND_BUSY (RCX)");
    assert_eq!(private(&machine, lines(page(0), 8 * KIB)), 128);
    assert_eq!(rdmd(&mut machine, page(0)), (PamtPageType::NDA, 1));
    assert_eq!(call(&mut machine, CPU, add), Status::SUCCESS, "the pages are still free");
}

/// A TD up to its Secure EPT of three levels, its control pages in `[LARGE, LARGE + 2 MiB)`; the
/// TDR is the first.
fn build_td(machine: &mut Machine) {
    let control = |number: u64| LARGE + number * 4 * KIB;
    let tdr = control(0);
    let ok = |machine: &mut Machine, cpu, registers| {
        assert_eq!(call(machine, CpuId(cpu), registers), Status::SUCCESS, "{registers:x?}");
    };
    ok(machine, 0, Registers::call(Leaf::MNG_CREATE).rcx(tdr).rdx(40));
    for cpu in [0, 1] {
        ok(machine, cpu, Registers::call(Leaf::MNG_KEY_CONFIG).rcx(tdr));
    }
    for number in 1..=6 {
        ok(machine, 0, Registers::call(Leaf::MNG_ADDCX).rcx(control(number)).rdx(tdr));
    }
    let mut params = [0u8; 1024];
    params[8] = 3; // XFAM
    params[16] = 1; // VCPUs
    params[24] = 0x1e; // EPTP
    params[40] = 100; // TSC
    machine.write_shared(CPU, PhysAddr::new(support::TABLE), &params).unwrap();
    ok(machine, 0, Registers::call(Leaf::MNG_INIT).rcx(tdr).rdx(support::TABLE));
    for level in [3, 2] {
        ok(machine, 0, Registers::call(Leaf::MEM_SEPT_ADD).rcx(level).rdx(tdr).r8(control(10 - level)));
    }
}

#[test]
fn only_pages_of_4_kib_need_a_pair() {
    let mut machine = ready();
    let create = Registers::call(Leaf::MNG_CREATE).rcx(LARGE).rdx(40);
    refused(&mut machine, create, "TDX_MISSING_PAMT_PAGE_PAIR (RCX)");
    assert_eq!(call(&mut machine, CPU, add(LARGE_AND_LEVEL, page(0), page(1))), Status::SUCCESS);
    build_td(&mut machine);

    let guest = TDMR + 128 * MIB;
    let aug = |level: u64, hpa: u64| Registers::call(Leaf::MEM_PAGE_AUG).rcx(level).rdx(LARGE).r8(hpa);
    // A 2 MiB page with a pair, or with a page of one in it, is not free as a whole.
    let paired = TDMR + 192 * MIB;
    assert_eq!(call(&mut machine, CPU, add(paired | 1, page(6), page(7))), Status::SUCCESS);
    refused(&mut machine, aug(1, paired), "TDX_PAGE_METADATA_INCORRECT (R8)");
    refused(&mut machine, aug(1, PAGES), "TDX_PAGE_METADATA_INCORRECT (R8)");
    assert_eq!(call(&mut machine, CPU, aug(1, guest)), Status::SUCCESS);
    refused(&mut machine, add(guest | 1, page(2), page(3)), "TDX_HPA_RANGE_NOT_FREE (RCX)");
    assert_eq!(private(&machine, lines(guest, 2 * MIB)), 0);

    // DEMOTE takes a pair for the 512 small pages; PROMOTE gives it back.
    let sept_page = LARGE + 9 * 4 * KIB;
    let demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(1).rdx(LARGE).r8(sept_page);
    assert_eq!(call(&mut machine, CPU, demote.r12(page(0)).r13(page(3))).to_string(), "TDX_PAGE_NOT_FREE (R12)");
    assert_eq!(call(&mut machine, CPU, demote.r12(page(2)).r13(1)).to_string(), "TDX_OPERAND_INVALID (R13)");
    assert_eq!(rdmd(&mut machine, guest), (PamtPageType::REG, 1));
    assert_eq!(machine.private_lines_in(lines(sept_page, 4 * KIB)), 64, "the new page was filled before it failed");
    assert_eq!(private(&machine, lines(page(2), 8 * KIB)), 0);
    assert_eq!(call(&mut machine, CPU, demote.r12(page(2)).r13(page(3))), Status::SUCCESS);
    assert_eq!(private(&machine, lines(page(2), 8 * KIB)), 128);
    assert_eq!(rdmd(&mut machine, guest + 4 * KIB), (PamtPageType::REG, 0));
    assert_eq!(call(&mut machine, CPU, remove(guest | 1)), StatusCode::PAMT_PAGE_NOT_EMPTY.with(0));

    let promote = machine.seamcall(CPU, Registers::call(Leaf::MEM_PAGE_PROMOTE).rcx(1).rdx(LARGE)).unwrap();
    assert_eq!((promote.status(), promote.rcx), (Status::SUCCESS, sept_page));
    assert_eq!((promote.r12, promote.r13), (page(2), page(3)));
    assert_eq!(rdmd(&mut machine, guest), (PamtPageType::REG, 1));
    assert_eq!(rdmd(&mut machine, page(2)), (PamtPageType::NDA, 1));

    // The last small page that goes gives the hint; a large one never does.
    let take = |machine: &mut Machine| {
        machine.seamcall(CPU, Registers::call(Leaf::MEM_PAGE_REMOVE).rcx(1).rdx(LARGE)).unwrap().rcx
    };
    assert_eq!(take(&mut machine), guest);
    let small = TDMR + 256 * MIB;
    let sept = Registers::call(Leaf::MEM_SEPT_ADD).rcx(1).rdx(LARGE).r8(sept_page);
    assert_eq!(call(&mut machine, CPU, sept), Status::SUCCESS);
    refused(&mut machine, aug(0, small), "TDX_MISSING_PAMT_PAGE_PAIR (R8)");
    assert_eq!(call(&mut machine, CPU, add(small | 1, page(4), page(5))), Status::SUCCESS);
    for number in 0..2 {
        assert_eq!(call(&mut machine, CPU, aug(0, small + number * 4 * KIB).rcx(number << 12)), Status::SUCCESS);
    }
    let take = |machine: &mut Machine, guest: u64| {
        machine.seamcall(CPU, Registers::call(Leaf::MEM_PAGE_REMOVE).rcx(guest).rdx(LARGE)).unwrap().rcx
    };
    assert_eq!(take(&mut machine, 0), small);
    assert_eq!(take(&mut machine, 1 << 12), (small + 4 * KIB) | PAMT_REMOVAL_HINT);
    assert_eq!(call(&mut machine, CPU, remove(small | 1)), Status::SUCCESS);
}
