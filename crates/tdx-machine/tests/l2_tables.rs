//! Secure-EPT tables of L2 VMs: pages that MEM.SEPT.ADD version 1 and DEMOTE take, and
//! MEM.SEPT.REMOVE and PROMOTE give back.

mod support;

use support::td::{KEY, TDR, Td};
use support::{CPU, lines};
use tdx_abi::{Leaf, LeafCall, Registers, Status, StatusCode};
use tdx_machine::{CpuId, Fault, When};

/// A guest address range of 1 GiB, and one of 2 MiB, that nothing else is in.
const RANGE: u64 = 1 << 30;
const NONE: u64 = u64::MAX;
/// RDX bit 0 of SEPT.ADD: a table that is there will do. Of DEMOTE: tables only where a page is
/// mapped.
const FLAG: u64 = 1;
const NOT_USED: u64 = 1 << 63;

fn version_1(leaf: Leaf, level: u64) -> Registers {
    Registers::call(LeafCall::with_version(leaf, 1)).rcx(RANGE | level).rdx(TDR)
}

fn add(level: u64, pages: [u64; 4]) -> Registers {
    let mut call = version_1(Leaf::MEM_SEPT_ADD, level).r8(pages[0]).r9(pages[1]);
    (call.r10, call.r11) = (pages[2], pages[3]);
    call
}

/// A TD with one L2 VM and its tables down to level `lowest` of the range.
fn td_with_tables(lowest: u64) -> Td {
    let mut td = Td::with_l2_vms(0, 0, 1);
    // The tables of the TD itself stand at levels 3 and 2 for the first 512 GiB and 1 GiB.
    let root = td.page();
    td.ok(add(3, [NONE, root, NONE, NONE]).rcx(3));
    for level in (lowest..3).rev() {
        let (own, l2) = (td.page(), td.page());
        td.ok(add(level, [own, l2, NONE, NONE]));
    }
    td
}

fn owned(td: &Td, page: u64) -> u64 {
    td.machine.private_lines_in(lines(page, 4096))
}

#[test]
fn add_takes_a_page_for_each_vm() {
    let mut td = td_with_tables(1);
    let (own, l2) = (td.page(), td.page());
    // Both are there.
    let shown = td.call(add(1, [NONE, l2, NONE, NONE]));
    assert_eq!(shown.status(), StatusCode::L2_SEPT_ENTRY_NOT_FREE.with(1 | 1 << 16));
    assert_eq!((shown.rcx, shown.rdx), (0x407, 1 | 0xc4 << 8 | 1 << 16));
    let unused = td.ok(add(1, [own, l2, NONE, NONE]).rdx(TDR | FLAG));
    assert_eq!((unused.r8, unused.r9), (own | NOT_USED, l2 | NOT_USED));
    assert_eq!((owned(&td, own), owned(&td, l2)), (0, 0));
    // There is no second VM.
    let out = td.call(add(1, [NONE, NONE, l2, NONE]));
    assert_eq!(out.status().code(), StatusCode::OPERAND_INVALID);
}

/// An interrupt between two pages: the first is private and its register says so; the call is made
/// again for the second.
#[test]
fn add_is_interrupted_between_pages() {
    let mut td = td_with_tables(2);
    let (own, l2) = (td.page(), td.page());
    let call = add(1, [own, l2, NONE, NONE]);
    td.machine.inject(Fault::InterruptPending, When::Call(1));
    let out = td.call(call);
    assert_eq!(out.status().code(), StatusCode::INTERRUPTED_RESUMABLE);
    assert_eq!((out.rcx, out.rdx, out.r8, out.r9), (call.rcx, call.rdx, NONE, l2));
    assert_eq!((owned(&td, own), owned(&td, l2)), (64, 0));
    let rest = td.ok(Registers { rax: call.rax, ..out });
    assert_eq!((rest.r8, rest.r9), (NONE, NONE));
    assert_eq!(owned(&td, l2), 64);
}

/// The pages come back by name in version 1, unnamed in version 0, and stay the TD's in memory.
#[test]
fn remove_gives_back_every_table() {
    for version in [0, 1] {
        let mut td = td_with_tables(1);
        let (own, l2) = (td.pages - 0x1000, td.pages);
        td.ok(Registers::call(Leaf::MEM_RANGE_BLOCK).rcx(RANGE | 1).rdx(TDR));
        td.ok(Registers::call(Leaf::MEM_TRACK).rcx(TDR));
        let leaf = LeafCall::with_version(Leaf::MEM_SEPT_REMOVE, version);
        let out = td.ok(Registers::call(leaf).rcx(RANGE | 1).rdx(TDR).r9(7));
        assert_eq!((out.rcx, out.r9), (own, if version == 1 { l2 } else { 7 }));
        let metadata = td.ok(Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx(l2));
        assert_eq!(metadata.rcx, 0, "free");
        assert_eq!((owned(&td, own), owned(&td, l2)), (64, 64));
    }
}

/// DEMOTE takes a page for the VM, PROMOTE gives it back.
#[test]
fn demote_and_promote_with_a_vm() {
    let mut td = td_with_tables(2);
    let (large, own, l2) = (support::TDMR + (64 << 20), td.page(), td.page());
    td.ok(Registers::call(Leaf::MEM_PAGE_AUG).rcx(RANGE | 1).rdx(TDR).r8(large));
    let block_and_track = |td: &mut Td| {
        td.ok(Registers::call(Leaf::MEM_RANGE_BLOCK).rcx(RANGE | 1).rdx(TDR));
        td.ok(Registers::call(Leaf::MEM_TRACK).rcx(TDR));
    };
    block_and_track(&mut td);
    let mut demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(RANGE | 1).rdx(TDR).r8(own).r9(l2);
    (demote.r10, demote.r11) = (NONE, NONE);
    // An interrupt after the first fill: the page is free, and private.
    td.machine.inject(Fault::InterruptPending, When::Call(1));
    assert_eq!(td.call(demote).status().code(), StatusCode::INTERRUPTED_RESTARTABLE);
    assert_eq!((owned(&td, own), owned(&td, l2)), (64, 0));
    let sparse = td.machine.clone().seamcall(CPU, demote.rdx(TDR | FLAG)).unwrap();
    assert_eq!((sparse.status(), sparse.r9), (Status::SUCCESS, l2 | NOT_USED));
    td.ok(demote);
    assert_eq!(owned(&td, l2), 64);
    block_and_track(&mut td);
    let out = td.ok(version_1(Leaf::MEM_PAGE_PROMOTE, 1));
    assert_eq!((out.rcx, out.r9, out.r10), (own, l2, NONE));
}

/// At the end of the TD its tables are reclaimed like any other page.
#[test]
fn tables_are_reclaimed() {
    let mut td = td_with_tables(1);
    let l2 = td.pages;
    td.ok(Registers::call(Leaf::VP_FLUSH).rcx(support::td::TDVPR));
    td.ok(Registers::call(Leaf::MNG_VPFLUSHDONE).rcx(TDR));
    for cpu in [CPU, CpuId(1)] {
        assert_eq!(support::call(&mut td.machine, cpu, Registers::call(Leaf::PHYMEM_CACHE_WB)), Status::SUCCESS);
    }
    td.ok(Registers::call(Leaf::MNG_KEY_FREEID).rcx(TDR));
    td.ok(Registers::call(Leaf::PHYMEM_PAGE_RECLAIM).rcx(l2));
    let runs = td.machine.all_owner_runs();
    assert!(runs.iter().any(|run| u64::from(run.key.get()) == KEY), "the content stays private");
}
