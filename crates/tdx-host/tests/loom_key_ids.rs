//! loom: two CPUs lease a KeyID at the same time. Run by `cargo xtask test`, or
//! `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_key_ids`.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;
use tdx_abi::KeyIdPartition;
use tdx_host::key_ids::{KeyIds, KeyIdsError};

fn key_ids(private: u32) -> KeyIds<'static> {
    // loom's atomics live for one run; the word of each run is leaked.
    KeyIds::new(KeyIdPartition::new(31, private), vec![AtomicU64::new(0), AtomicU64::new(0)].leak()).unwrap()
}

#[test]
fn two_cpus_never_get_the_same_key_id() {
    loom::model(|| {
        let keys = Arc::new(key_ids(3));
        let other = {
            let keys = Arc::clone(&keys);
            thread::spawn(move || keys.lease().unwrap().key().get())
        };
        let mine = keys.lease().unwrap().key().get();
        let mut both = [mine, other.join().unwrap()];
        both.sort_unstable();
        assert_eq!(both, [33, 34]);
        assert_eq!(keys.lost(), 2, "both leases were dropped");
    });
}

#[test]
fn the_last_key_id_goes_to_one() {
    loom::model(|| {
        let keys = Arc::new(key_ids(2));
        let other = {
            let keys = Arc::clone(&keys);
            thread::spawn(move || keys.lease().is_ok())
        };
        let mine = keys.lease();
        let refused = matches!(mine, Err(KeyIdsError::Exhausted { count: 1, .. }));
        assert!(refused == other.join().unwrap(), "one got it, the other was refused");
    });
}

/// A twin that looks and then writes, in two steps.
#[test]
#[should_panic(expected = "twice")]
fn loom_rejects_a_lease_in_two_steps() {
    loom::model(|| {
        let word = Arc::new(AtomicU64::new(0));
        let lease = |word: &AtomicU64| {
            let seen = word.load(Relaxed);
            let free = seen.trailing_ones();
            word.store(seen | 1 << free, Relaxed);
            free
        };
        let other = {
            let word = Arc::clone(&word);
            thread::spawn(move || lease(&word))
        };
        let mine = lease(&word);
        assert_ne!(mine, other.join().unwrap(), "leased twice");
    });
}
