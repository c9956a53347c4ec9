//! The life of a TD on the software machine, by the product's own code: nothing private is left in
//! the end, and nothing that is private is ever unmarked.

#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;

use first_kernel::td_params;
use std::path::Path;
use tdx_abi::{Page, PageSize, PhysAddr};
use tdx_host::layout::{FrameRequest, FrameSource};
use tdx_host::ledger::Ledger;
use tdx_host::platform::Cpus;
use tdx_host::td::{GuestPage, SeptLevel, TDCS_PAGES, TDVPS_PAGES};
use tdx_lab::platform::{Lab, LabKernel};
use tdx_lab::tds::track;
use tdx_machine::Machine;
use tdx_operator::host::{Host, HostOptions};

fn small_host() -> Host {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/made-up/spr-small.toml");
    Host::from_path(&path, &HostOptions::default()).unwrap()
}

/// Every private line outside PAMT lies in a marked page.
fn assert_superset(lab: &Lab<'_>, tdx: &tdx_host::Host<'_>, ledger: &Ledger<'_>) {
    lab.ask(|machine| {
        let owned = machine.all_owner_runs().into_iter().map(|run| run.lines);
        let dirty = machine.dirty_private_runs().into_iter().map(|run| run.lines);
        for lines in owned.chain(dirty) {
            for page in lines.pages().start().index()..lines.pages().end().index() {
                let page = Page::new(page);
                let in_pamt = tdx.pamt_ranges().any(|range| range.contains(page));
                let marked = ledger.state(page).is_some_and(|state| state != tdx_host::ledger::PageState::Shared);
                assert!(in_pamt || marked, "page {page} is private and not marked");
            }
        }
    });
}

#[test]
fn a_td_is_built_used_and_torn_down() {
    let host = small_host();
    let lab = Lab::new(&host, &()).unwrap();
    let mut words = Vec::new();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, &host);
    tdx.bring_up(&mut kernel, host.memory()).unwrap();
    let pamt_lines = lab.ask(Machine::private_lines);

    let tds = track(&tdx, &mut words).unwrap();
    let ledger = tds.ledger();

    let request = FrameRequest::anywhere(8 * 512, None);
    let pool = kernel.allocate(request).unwrap();
    let mut next = pool.range().start().index().next_multiple_of(512);
    let mut page = |size: PageSize| {
        let at = next.next_multiple_of(size.pages());
        next = at + size.pages();
        promise::take(ledger, Page::new(at), size).unwrap()
    };
    let params = PhysAddr::new(16 << 20);
    lab.write_shared(params, &td_params());

    let cpu = kernel.this_cpu();
    let td = tds.create(&cpu, page(PageSize::Size4K)).unwrap();
    let mut td = td.configure_keys(&kernel).unwrap();
    for _ in 0..TDCS_PAGES {
        td.add_control_page(&cpu, page(PageSize::Size4K)).unwrap();
    }
    let td = td.init(&cpu, params).unwrap();
    let mut vcpu = td.create_vcpu(&cpu, page(PageSize::Size4K)).unwrap();
    for _ in 1..TDVPS_PAGES {
        td.add_vcpu_page(&cpu, &vcpu, page(PageSize::Size4K)).unwrap();
    }
    vcpu = td.init_vcpu(&cpu, vcpu, 0).unwrap();
    let gpa = |address| GuestPage::containing(address);
    for level in [SeptLevel::Maps512G, SeptLevel::Maps1G, SeptLevel::Maps2M] {
        td.add_sept_page(&cpu, gpa(0), level, page(PageSize::Size4K)).unwrap();
    }
    td.add_page(&cpu, gpa(0), page(PageSize::Size4K), PhysAddr::new(17 << 20)).unwrap();
    td.measure_page(&cpu, gpa(0)).unwrap();
    let td = td.finalize(&cpu).unwrap();
    td.augment(&cpu, gpa(0x1000), page(PageSize::Size4K)).unwrap();
    td.augment(&cpu, gpa(2 << 20), page(PageSize::Size2M)).unwrap();
    assert_superset(&lab, &tdx, ledger);
    assert_eq!(ledger.marked_pages(), td.pages() + 1);

    // The guest page moves, a large one is split, one goes.
    for (address, size) in [(0, PageSize::Size4K), (2 << 20, PageSize::Size2M), (0x1000, PageSize::Size4K)] {
        td.block(&cpu, gpa(address), size).unwrap();
    }
    td.track(&cpu).unwrap();
    let old = td.relocate_page(&cpu, gpa(0), page(PageSize::Size4K)).unwrap();
    assert_eq!(lab.ask(|machine| machine.private_lines_in(old.range().lines())), 0);
    td.demote(&cpu, gpa(2 << 20), PageSize::Size2M, old).unwrap();
    let gone = td.remove_page(&cpu, gpa(0x1000), PageSize::Size4K).unwrap();
    assert_superset(&lab, &tdx, ledger);
    assert_eq!(ledger.marked_pages(), td.pages() + 1);
    let _ = gone.release();

    let dying = td.tear_down();
    dying.flush_vcpus(&kernel, &[vcpu.tdvpr()]).unwrap();
    let dead = dying.free_key(&kernel).unwrap();
    dead.reclaim_all(&cpu, |page| {
        let _ = page.unwrap().release();
    });
    let _ = dead.finish(&cpu).unwrap().release();
    assert_eq!((ledger.marked_pages(), ledger.leaked_pages(), tdx.key_ids().unwrap().lost()), (0, 0, 0));
    kernel.run_on_all(&Settle);
    assert_eq!(lab.ask(Machine::private_lines), pamt_lines, "only PAMT is private");
    lab.check().unwrap();
}

/// WBINVD on every CPU: what is still dirty comes out.
struct Settle;

impl<C: tdx_host::platform::Cpu> tdx_host::platform::CpuTask<C> for Settle {
    type Local = ();

    fn step(&self, cpu: &C, (): &mut ()) -> tdx_host::platform::Step {
        cpu.write_back_caches();
        tdx_host::platform::Step::Done
    }
}
