//! Boots beside each other: as many as the machine has cores for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A lock; a thread that panicked under it has told its panic, and the scope ends with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What waits and how many cores are free.
struct State<T> {
    waiting: VecDeque<T>,
    free: u32,
}

/// Cores that an item has taken: free again when it ends, also by a panic.
struct Taken<'a, T> {
    state: &'a Mutex<State<T>>,
    freed: &'a Condvar,
    cores: u32,
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        lock(self.state).free += self.cores;
        self.freed.notify_all();
    }
}

/// Does the work of every item on `cores` cores, in the order of the list where there is room: the
/// first waiting item that the free cores suffice for starts next, so that a small one may pass a
/// large one. `needs` is how many cores an item takes; more than there are means all of them.
/// Returns when all are done. An item that panics takes one thread with it: the others go on, and
/// then this function panics.
pub(crate) fn run<T: Send>(
    items: impl IntoIterator<Item = T>,
    cores: u32,
    needs: impl Fn(&T) -> u32 + Sync,
    work: impl Fn(T) + Sync,
) {
    let cores = cores.max(1);
    let needs = |item: &T| needs(item).clamp(1, cores);
    let state = Mutex::new(State { waiting: items.into_iter().collect(), free: cores });
    let freed = Condvar::new();
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut guard = lock(&state);
                while !guard.waiting.is_empty() {
                    let free = guard.free;
                    let next = guard.waiting.iter().position(|item| needs(item) <= free);
                    let Some(item) = next.and_then(|index| guard.waiting.remove(index)) else {
                        guard = freed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                        continue;
                    };
                    let taken = Taken { state: &state, freed: &freed, cores: needs(&item) };
                    guard.free -= taken.cores;
                    drop(guard);
                    work(item);
                    drop(taken);
                    guard = lock(&state);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_item_is_done_once_and_the_cores_suffice() {
        let (used, most) = (AtomicU32::new(0), AtomicU32::new(0));
        let done = Mutex::new(Vec::new());
        run(
            0..100,
            4,
            |item| item % 6,
            |item: u32| {
                let needs = (item % 6).clamp(1, 4);
                let now = used.fetch_add(needs, Ordering::SeqCst) + needs;
                most.fetch_max(now, Ordering::SeqCst);
                thread::yield_now();
                used.fetch_sub(needs, Ordering::SeqCst);
                lock(&done).push(item);
            },
        );
        let mut done = lock(&done).clone();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert!(most.into_inner() <= 4);
    }

    #[test]
    fn small_items_run_beside_each_other() {
        // Ends only if both are inside at once.
        let both = Barrier::new(2);
        let ended = AtomicU32::new(0);
        run(
            [1, 1],
            2,
            |needs| *needs,
            |_| {
                both.wait();
                ended.fetch_add(1, Ordering::SeqCst);
            },
        );
        assert_eq!(ended.into_inner(), 2);
    }

    #[test]
    fn an_item_that_panics_gives_its_cores_back() {
        let done = AtomicU32::new(0);
        let items = std::panic::AssertUnwindSafe(|| {
            run(
                [0, 1, 2],
                2,
                |_| 2,
                |item| {
                    assert_ne!(item, 0, "the first one fails on purpose");
                    done.fetch_add(1, Ordering::SeqCst);
                },
            );
        });
        std::panic::catch_unwind(items).expect_err("the panic is passed on");
        assert_eq!(done.into_inner(), 2);
    }

    #[test]
    fn on_one_core_items_run_in_order() {
        let order = Mutex::new(Vec::new());
        run([3, 1, 2], 1, |needs| *needs, |item| lock(&order).push(item));
        assert_eq!(*lock(&order), [3, 1, 2]);
    }
}
