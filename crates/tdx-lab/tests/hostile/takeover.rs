//! Tables of an attacker's, and a host that takes over twice, too late, or goes on after it.

use super::*;
use tdx_host::HostError;
use tdx_host::bringup::BringupCause;
use tdx_host::takeover::{Entry, TakeoverError, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy};
use tdx_lab::platform::promise;

const GIB: u64 = 1 << 18;

/// A table that reads, whatever it says.
fn forge(global_key_id: KeyId, entries: &[Entry]) -> Vec<u8> {
    let mut table = vec![0; 64 + 32 * entries.len()];
    let mut writer = TakeoverWriter::new(&mut table).unwrap();
    entries.iter().try_for_each(|entry| writer.entry(*entry)).unwrap();
    writer.finish(&TakeoverFacts {
        written_by: WrittenBy::Kexec,
        tsc_adjust: 0,
        tsc: 0,
        global_key_id,
        not_stopped: 0,
        may_hold_private_lines: 0,
    });
    table
}

fn words_of(table: &TakeoverTable<'_>) -> &'static mut [AtomicU64] {
    words(table.claim_words()).leak()
}

fn single(page: Page) -> PageRange {
    PageRange::new(page, Page::new(page.index() + 1))
}

/// The machine's memory as one TDMR, and a TD that has a page of it.
fn one_td(tdr: Page) -> [Entry; 3] {
    let tdmr = PageRange::new(Page::new(GIB), Page::new(2 * GIB));
    let td = Entry::Td { td: 1, state: TdState::Unknown, tdr, key_id: None };
    [Entry::Tdmr(tdmr), Entry::Marked(single(tdr)), td]
}

/// Safe code claims the kernel's image for a TD: the claims are a list of its own, at which no
/// handover looks.
#[test]
fn claims_over_the_kernel_mark_nothing() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let mut victim = Victim::new(&lab, &host);
    let image = victim.image();
    let tds = victim.tds();
    let entries = [
        Entry::Tdmr(PageRange::new(Page::new(GIB), Page::new(2 * GIB))),
        Entry::Marked(image),
        Entry::Td { td: 1, state: TdState::Runnable, tdr: image.start(), key_id: Some(KeyId::new(40)) },
    ];
    let table = forge(victim.tdx.platform().unwrap().global_key_id(), &entries);
    let table = TakeoverTable::read(&table).unwrap();
    let claims = table.claim(words_of(&table)).unwrap();
    assert!(claims.claimed().eq([single(image.start())]));
    assert_eq!(tds.ledger().marked_pages(), 0);
    // The KeyID is free as ever.
    assert!((0..victim.tdx.key_ids().unwrap().count()).all(|_| victim.tdx.key_ids().unwrap().lease().is_ok()));
    victim.assert_reset_is_clean(Policy::Tracked);
    assert_image_is_whole(&lab, image);
    victim.assert_next_kernel_lives();
}

/// A host that has brought TDX up itself, with or without TDs: nothing is published, it goes on.
#[test]
fn a_host_that_is_up_takes_nothing_over() {
    for is_tracking in [false, true] {
        let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
        let mut victim = Victim::new(&lab, &host);
        let tds = is_tracking.then(|| victim.tds());
        let td = tds.map(|tds| victim.td(tds));
        let pamts: Vec<_> = victim.tdx.pamt_ranges().collect();
        let table = forge(victim.tdx.platform().unwrap().global_key_id(), &one_td(Page::new(2 * GIB - 1)));
        let table = TakeoverTable::read(&table).unwrap();
        let refused = promise::take_over(victim.tdx, &table, words_of(&table)).unwrap_err();
        assert_eq!(refused, HostError::AlreadySet);
        assert!(victim.tdx.pamt_ranges().eq(pamts), "the record is the bring-up's");
        assert_eq!(victim.tdx.tds().is_some(), is_tracking);
        let td = td.unwrap_or_else(|| victim.td(victim.tds()));
        victim.assert_superset();
        drop(td);
        victim.assert_kexec_is_clean();
    }
}

/// The first one counts; nothing else of a host can be made after it.
#[test]
fn a_module_is_taken_over_once() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let tdx = new_tdx(&lab);
    let mut kernel = LabKernel::new(&lab, tdx, &host);
    let key = tdx.platform().unwrap().global_key_id();
    let (first, second) = (Page::new(2 * GIB - 1), Page::new(2 * GIB - 2));
    let table = forge(key, &one_td(first));
    let table = TakeoverTable::read(&table).unwrap();
    promise::take_over(tdx, &table, words_of(&table)).unwrap();

    let other = forge(key, &one_td(second));
    let other = TakeoverTable::read(&other).unwrap();
    assert_eq!(promise::take_over(tdx, &other, words_of(&other)).unwrap_err(), HostError::AlreadySet);
    assert_eq!(tdx.bring_up(&mut kernel, host.memory()).unwrap_err().cause, BringupCause::Claimed);
    assert_eq!(tdx.track(words(1 << 16).leak()).unwrap_err(), HostError::NotUp);
    let tdmr = PageRange::new(Page::new(GIB), Page::new(2 * GIB));
    assert_eq!(tdx.follow([tdmr], words_of(&other)).unwrap_err(), HostError::AlreadySet);
    assert_eq!(tdx.reserve(&[single(first)]), Err(HostError::AlreadySet));
    assert!(tdx.ledger().unwrap().marked().eq([single(first)]));
    // What a table has marked is no page of the allocator's, whatever it says.
    let page = kernel.allocate(FrameRequest { within: single(first), ..FrameRequest::anywhere(1, None) }).unwrap();
    let refused = SharedPage::take(tdx.ledger().unwrap(), page).map(drop).unwrap_err();
    assert!(matches!(refused.cause, TokenError::Ledger(_)), "{:?}", refused.cause);
}

/// Facts that safe code has changed do not make the table that of this machine: the KeyIDs of its
/// TDs are compared with the machine's.
#[test]
fn the_global_key_id_is_no_td_s_whatever_the_facts_say() {
    let lab = Lab::new(&host(), &()).unwrap();
    let tdx = new_tdx(&lab);
    let global = tdx.platform().unwrap().global_key_id();
    let mut entries = one_td(Page::new(2 * GIB - 1));
    if let Entry::Td { key_id, .. } = &mut entries[2] {
        *key_id = Some(global);
    }
    let table = forge(KeyId::new(global.get() + 1), &entries);
    let mut table = TakeoverTable::read(&table).unwrap();
    let refused = promise::take_over(tdx, &table, words_of(&table)).unwrap_err();
    assert!(matches!(refused, HostError::Takeover(TakeoverError::OtherMachine { .. })), "{refused}");
    table.facts.global_key_id = global;
    let refused = promise::take_over(tdx, &table, words_of(&table)).unwrap_err();
    assert_eq!(refused, HostError::Takeover(TakeoverError::KeyId { index: 2, key: global }));
    assert!(tdx.tds().is_none() && tdx.pamt_ranges().next().is_none());
}
