//! SYS.TDMR.INIT writes exactly the PAMT lines that the ABI notes say, and no other.

mod support;

use support::{CPU, GIB, PAMT, TDMR, call, configure, lines, machine, pamt, tdmr_init};
use tdx_abi::{KeyId, Leaf, LineRange, PageSize, PhysAddr, Registers, StatusCode};
use tdx_machine::{CpuId, CpuModel, Machine, OwnerRun};

fn private(machine: &Machine) -> Vec<LineRange> {
    let runs = machine.all_owner_runs();
    assert!(runs.iter().all(|run: &OwnerRun| run.key == KeyId::new(support::GLOBAL)));
    runs.into_iter().map(|run| run.lines).collect()
}

fn written_back(mut machine: Machine) -> Vec<LineRange> {
    for cpu in 0..machine.cpus() {
        machine.wbinvd(CpuId(cpu)).unwrap();
    }
    private(&machine)
}

#[test]
fn nothing_is_private_before_the_first_call() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 2);
    assert_eq!(machine.private_lines(), 0);
    assert_eq!(machine.dirty_private_lines(), 0);
}

#[test]
fn one_call_writes_four_pages_of_pamt_4k_and_half_a_line_of_pamt_2m() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 2);
    for calls in 1..=3 {
        tdmr_init(&mut machine, CPU, 1);
        let pamt_4k = lines(PAMT, calls * 4 * 4096);
        let pamt_2m = lines(pamt(2, PageSize::Size2M), calls * 32);
        assert_eq!(written_back(machine.clone()), [pamt_4k, pamt_2m], "after {calls} calls");
        // PAMT_4K goes past the cache; the last stores to PAMT_2M are still in it.
        assert_eq!(private(&machine)[0], pamt_4k);
        assert_eq!(machine.dirty_private_lines(), pamt_2m.len());
    }
}

#[test]
fn pamt_1g_comes_with_the_last_call_of_each_gib() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 5);
    let pamt_1g = pamt(5, PageSize::Size1G);
    let has = |machine: &Machine, bytes| machine.private_lines_in(lines(pamt_1g, bytes));
    tdmr_init(&mut machine, CPU, 255);
    assert_eq!(has(&machine, 4096), 0);
    let next = machine.seamcall(CPU, Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR)).unwrap();
    assert_eq!(next.rdx, TDMR + GIB);
    assert_eq!(has(&machine, 4096), 1);
    tdmr_init(&mut machine, CPU, 3 * 256);
    assert_eq!(has(&machine, 4096), 1, "four entries fill a line");
    tdmr_init(&mut machine, CPU, 256);
    assert_eq!(has(&machine, 4096), 2, "the fifth begins another");
    assert_eq!(
        written_back(machine),
        [lines(PAMT, 5 * ((4 << 20) + (8 << 10)) + 128)],
        "all of PAMT_4K and PAMT_2M, two lines of PAMT_1G, nothing behind them"
    );
}

#[test]
fn a_page_is_usable_once_its_gib_is_complete() {
    let mut machine = machine(CpuModel::SAPPHIRE_RAPIDS);
    configure(&mut machine, 2);
    let read = |machine: &mut Machine, page| call(machine, CPU, Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(page));
    tdmr_init(&mut machine, CPU, 255);
    assert_eq!(read(&mut machine, TDMR).code(), StatusCode::OPERAND_ADDR_RANGE_ERROR);
    tdmr_init(&mut machine, CPU, 1);
    assert_eq!(read(&mut machine, TDMR).code(), StatusCode::SUCCESS);
    assert_eq!(read(&mut machine, TDMR + GIB).code(), StatusCode::OPERAND_ADDR_RANGE_ERROR);
    tdmr_init(&mut machine, CPU, 256);
    let again = call(&mut machine, CPU, Registers::call(Leaf::SYS_TDMR_INIT).rcx(TDMR));
    assert_eq!(again.code(), StatusCode::TDMR_ALREADY_INITIALIZED);
}

/// Even a read of metadata stores to PAMT: the walk locks the entries it passes.
#[test]
fn any_walk_makes_pamt_dirty_again() {
    let mut machine = support::ready(CpuModel::SAPPHIRE_RAPIDS, 1);
    machine.wbinvd(CPU).unwrap();
    assert_eq!(machine.dirty_private_lines(), 0);
    let page = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(PhysAddr::new(TDMR));
    assert_eq!(call(&mut machine, CpuId(3), page).code(), StatusCode::SUCCESS);
    let dirty: Vec<_> = machine.dirty_private_runs().into_iter().map(|run| (run.lines, run.cpu)).collect();
    let line = |level| lines(pamt(1, level), 64);
    assert_eq!(dirty, [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G].map(|level| (line(level), CpuId(3))));
}
