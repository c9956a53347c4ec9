//! A part of a host that is refused is not published, nor is any other by the way.

use super::*;
use tdx_host::HostError;

/// TDs would be built by a ledger that does not know their pages.
#[test]
fn tracking_over_the_ledger_of_other_code_publishes_nothing() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let elsewhere = PageRange::new(Page::new(0), Page::new(512));
    victim.tdx.follow([elsewhere], words(Ledger::words_needed([elsewhere])).leak()).unwrap();
    let error = victim.tdx.track(words(victim.tdx.tracking_words() as u64).leak()).unwrap_err();
    assert_eq!(error, HostError::AlreadySet);
    assert!(victim.tdx.key_ids().is_none() && victim.tdx.tds().is_none());
    victim.assert_kexec_is_clean();
}

/// A ledger that cannot be made leaves everything open: memory can be reserved and TDs tracked.
#[test]
fn a_ledger_that_is_refused_publishes_nothing() {
    let (host, lab) = (host(), Lab::new(&host(), &()).unwrap());
    let victim = Victim::new(&lab, &host);
    let error = victim.tdx.follow(victim.tdmrs.iter().copied(), &mut []).unwrap_err();
    assert!(matches!(error, HostError::Ledger(_)), "{error}");
    let end = victim.tdmrs[0].end();
    let reserved = PageRange::new(Page::new(end.index() - 512), end);
    victim.tdx.reserve(&[reserved]).unwrap();
    let tds = victim.tds();
    assert!(tds.ledger().reserved().contains(&reserved));
    assert_eq!(victim.tdx.reserve(&[reserved]), Err(HostError::AlreadySet));
    victim.assert_kexec_is_clean();
}
