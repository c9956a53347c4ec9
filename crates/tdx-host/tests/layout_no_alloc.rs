//! A layout is built, explained and released without one allocation: the crate has no allocator to
//! call, but a closure or an iterator of the caller's side could hide one.

// UNSAFETY: a global allocator that counts and passes on; a test binary of its own.
#![allow(unsafe_code)]

#[path = "layout/hosts.rs"]
#[allow(dead_code, reason = "the other tests use more of it")]
mod hosts;

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use tdx_host::layout::{Layout, Limits, MapFrames, build};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system allocator unchanged; counting touches a thread local
// without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn building_explaining_and_releasing_allocates_nothing() {
    let hosts = [
        hosts::from_cmrs(hosts::LOGGED[0].1),
        hosts::emr_fail28(),
        hosts::superdome_12tib(),
        hosts::many_units(100),
        hosts::fragmented(),
    ];
    let mut layout = Box::new(Layout::new());
    for host in &hosts {
        let mut frames = MapFrames::new(&host.memory);
        let before = ALLOCATIONS.get();
        let result = build(&host.memory, &host.cmrs, &Limits::MODULE_1_5, &mut frames, &mut layout);
        let notes = layout.notes(&host.memory, &host.cmrs).count();
        for tdmr in layout.tdmrs() {
            std::hint::black_box(tdmr.to_tdmr_info());
        }
        layout.release(&mut frames).unwrap();
        assert_eq!(ALLOCATIONS.get(), before, "{result:?}, {notes} notes");
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the counter counts");
}
