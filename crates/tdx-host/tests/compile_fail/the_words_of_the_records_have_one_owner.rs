#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tdx_abi::{KeyIdPartition, PageRange};
use tdx_host::dynamic_pamt::DynamicPamt;
use tdx_host::key_ids::KeyIds;
use tdx_host::ledger::Ledger;
use tdx_host::td::TdHost;

/// Marks could be cleared by a store.
fn ledger(tdmr: PageRange, words: &mut [AtomicU64]) {
    let ledger = Ledger::new([tdmr], words).unwrap();
    words[0].store(0, Ordering::Relaxed);
    assert_eq!(ledger.marked_pages(), 0);
}

/// One KeyID for two TDs.
fn key_ids(partition: KeyIdPartition, words: &mut [AtomicU64]) {
    let key_ids = KeyIds::new(partition, words).unwrap();
    let first = key_ids.lease();
    let again = KeyIds::new(partition, words).unwrap();
    let _both = (first, again.lease());
}

/// A count that says that a pair is not there.
fn counts(host: TdHost<'static>, words: &'static mut [AtomicU32]) {
    let _counts = DynamicPamt::new(host, words).unwrap();
    words[0].store(0, Ordering::Relaxed);
}

fn main() {}
