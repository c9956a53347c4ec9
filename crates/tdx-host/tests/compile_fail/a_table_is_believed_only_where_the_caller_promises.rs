#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;

use tdx_host::takeover::{Claims, TakeoverTable};
use tdx_host::td::TdHost;
use tdx_host::{Cpus, Host, KeyId, Ledger, Page, PageRange, SharedPage};

/// Marks the kernel's own image by a table of the attacker's: the next handover overwrites it.
fn forged<'t, 'm>(host: &'t Host<'m>, table: &TakeoverTable<'_>, words: &'m mut [AtomicU64]) -> TdHost<'t> {
    host.take_over(table, words).unwrap()
}

/// PAMTs of the attacker's.
fn pamts(host: &Host<'_>, image: PageRange) {
    host.observe_pamts([image].into_iter()).unwrap();
}

/// Tears down the TDs of this kernel, whose owners have their tokens.
fn live<K: Cpus>(tds: TdHost<'_>, cpus: &K) {
    let keys = core::iter::empty::<(Page, KeyId)>();
    tds.vacuum(cpus, &keys, &[], |page: SharedPage<'_>| drop(page));
}

/// The ledger of the claims, to find tokens in it.
fn claimed<'c>(claims: &'c Claims<'c>) -> &'c Ledger<'c> {
    &claims.ledger
}

fn main() {}
