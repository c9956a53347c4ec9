//! What is at an address: each kind, with KeyID bits and without, with a layout and without.

use crate::promise;
use crate::promise::Mark as _;
use crate::world::{SAPPHIRE_RAPIDS, World, pages};
use std::sync::atomic::AtomicU64;
use tdx_abi::{KeyId, Page, PageRange, PageSize, PhysAddr};
use tdx_host::handover::{AddressKind, explain};
use tdx_host::layout::{self, Layout, Limits, MapFrames, Tdmr};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::platform::{NodeId, NodeRange};

const GIB: u64 = 1 << 18;

/// TDX is up on [1 GiB, 3 GiB) with a hole at [0x80000000, 0x81000000). The last page below 3 GiB
/// was given; of the two before it one is on its way and one came back; the crash kernel has the
/// page at 0x90000000. Without `up` the PAMTs are not the module's.
fn host(up: bool) -> (World, Box<Layout>) {
    let node = NodeId(0);
    let memory =
        [NodeRange { range: pages(GIB, 2 * GIB), node }, NodeRange { range: pages(2 * GIB + 0x1000, 3 * GIB), node }];
    let cmrs = memory.map(|part| part.range);
    let mut layout = Box::new(Layout::new());
    let mut frames = MapFrames::new(&memory);
    layout::build(&memory, &cmrs, &Limits::MODULE_1_5, &mut frames, &mut layout).unwrap();

    let mut world = World::without_pamts(Some(&SAPPHIRE_RAPIDS), 1).reserving(&[pages(0x90000, 0x90001)]);
    if up {
        promise::observe_pamts(&world.host, layout.pamt_ranges()).unwrap();
    }
    let tdmrs: Vec<PageRange> = layout.tdmrs().iter().map(Tdmr::range).collect();
    let words: Vec<_> = (0..Ledger::words_needed(tdmrs.iter().copied())).map(|_| AtomicU64::new(0)).collect();
    let ledger = Ledger::new(tdmrs, words.leak()).unwrap();
    ledger.mark_in_flight(pages(3 * GIB - 3, 3 * GIB)).unwrap();
    ledger.mark_private(pages(3 * GIB - 2, 3 * GIB)).unwrap();
    ledger.mark_returned(pages(3 * GIB - 2, 3 * GIB - 1)).unwrap();
    world.ledger = Some(ledger);
    (world, layout)
}

fn kind(world: &World, layout: Option<&Layout>, address: u64) -> AddressKind {
    explain(&world.memory(), layout, PhysAddr::new(address)).kind
}

#[test]
fn every_kind_of_page() {
    let (world, layout) = host(true);
    let top = 3 << 30;
    for (address, expected) in [
        (top - 1, AddressKind::Page(PageState::Private)),
        (top - 0x1001, AddressKind::Page(PageState::Returned)),
        (top - 0x3000, AddressKind::Page(PageState::InFlight)),
        (top - 0x3001, AddressKind::Shared),
        (0x9000_0040, AddressKind::Reserved),
        (0x9000_1000, AddressKind::Shared),
        (0x8000_0000, AddressKind::ReservedArea),
        (0x80ff_ffff, AddressKind::ReservedArea),
        (0x8100_0000, AddressKind::Shared),
        (0x3fff_ffff, AddressKind::Outside),
        (top, AddressKind::Outside),
        (u64::MAX, AddressKind::Outside),
    ] {
        assert_eq!(kind(&world, Some(&layout), address), expected, "{address:#x}");
    }
    for (index, tdmr) in layout.tdmrs().iter().enumerate() {
        for level in PageSize::ALL {
            let pamt = tdmr.pamt(level);
            for page in [pamt.start(), Page::new(pamt.end().index() - 1)] {
                let found = explain(&world.memory(), Some(&layout), page.start());
                assert_eq!(found.kind, AddressKind::Pamt(Some(level)));
                assert_eq!(found.tdmr, Some((index, tdmr.range())));
            }
        }
    }
}

#[test]
fn without_a_layout_record_and_ledger_decide() {
    let (world, layout) = host(true);
    let pamt = layout.tdmrs()[0].pamt(PageSize::Size2M).base().get();
    assert_eq!(kind(&world, None, pamt), AddressKind::Pamt(None));
    assert_eq!(kind(&world, None, (3 << 30) - 1), AddressKind::Page(PageState::Private));
    assert_eq!(kind(&world, None, 0x8100_0000), AddressKind::Shared);
    assert_eq!(kind(&world, None, 0), AddressKind::Outside);
}

#[test]
fn pamt_that_the_module_does_not_have_is_a_reserved_area() {
    let (world, layout) = host(false);
    let pamt = layout.tdmrs()[0].pamt(PageSize::Size4K).base().get();
    assert_eq!(kind(&world, Some(&layout), pamt), AddressKind::ReservedArea);
}

#[test]
fn key_id_bits_are_separated_from_the_address() {
    let (world, layout) = host(true);
    let field = world.platform().unwrap().key_id_field();
    let tagged = field.tag(PhysAddr::new((3 << 30) - 64), KeyId::new(35));
    let found = explain(&world.memory(), Some(&layout), tagged);
    assert_eq!((found.address, found.key_id), (PhysAddr::new((3 << 30) - 64), KeyId::new(35)));
    assert_eq!(found.kind, AddressKind::Page(PageState::Private));
}

#[test]
fn the_text_of_an_explanation() {
    let (world, layout) = host(true);
    let words = |address| explain(&world.memory(), Some(&layout), PhysAddr::new(address)).to_string();
    assert_eq!(
        words(((3 << 30) - 64) | (35 << 46)),
        "virt/tdx: 0xbfffffc0 (KeyID 35): page of a TD in TDMR 0 [0x40000000, 0xc0000000), private: possible kernel bug"
    );
    assert_eq!(words(0x1000), "virt/tdx: 0x1000: memory outside every TDMR, not private");
    let pamt = layout.tdmrs()[0].pamt(PageSize::Size1G).base().get();
    let text = format!("virt/tdx: {pamt:#x}: PAMT_1G of TDMR 0 [0x40000000, 0xc0000000), private: possible kernel bug");
    assert_eq!(words(pamt), text);
}
