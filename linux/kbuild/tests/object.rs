//! The Rust object of cleanslate.ko in a program: its files as they are, with a page allocator that
//! writes down what it is given, and no TDX. And what its sources and the C files must not do.

// UNSAFETY: the object's own; and functions that the C files call.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tdx_abi::{Page, PageRange};
use tdx_host::handover::StopCpus as _;
use tdx_host::layout::{FrameRequest, FrameSource, MapFrames};
use tdx_host::platform::{Cpu as _, CpuTask, NodeId, NodeRange, OwnedPages, Step};
use tdx_host::{CpuSlot, Host};

#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/captured.rs"]
mod captured;
#[allow(dead_code)]
#[path = "../../object/src/cpu.rs"]
mod cpu;
#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/handover.rs"]
mod handover;
#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/keep.rs"]
mod keep;
#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/kernel.rs"]
mod kernel;
#[allow(dead_code)]
#[path = "../../object/src/line.rs"]
mod line;
#[allow(dead_code)]
#[path = "../../object/src/nodes.rs"]
mod nodes;
#[allow(dead_code)]
#[path = "../../object/src/pool.rs"]
mod pool;
#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/roster.rs"]
mod roster;
#[allow(dead_code)]
#[path = "../../object/src/shares.rs"]
mod shares;
#[allow(dead_code, unused_imports)]
#[path = "../../object/src/shim.rs"]
mod shim;

#[allow(dead_code, missing_debug_implementations)]
#[path = "../../object/src/take_over.rs"]
mod take_over;

use captured::{Captured, cleanslate_captured, cleanslate_release_captured};
use cpu::ThisCpu;
use handover::{CLEANSLATE_KEXEC, CLEANSLATE_POLICY_TRACKED, CLEANSLATE_REST, Handover, cleanslate_hand_over};
use kernel::Linux;

const EPERM: i32 = 1;
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const CPUS: usize = 4;
static SLOTS: [CpuSlot; CPUS] = [const { CpuSlot::new() }; CPUS];
static HOST: Host<'static> = Host::new(&SLOTS);

/// For tests that count lines: the counts are the object's.
static COUNTS: Mutex<()> = Mutex::new(());

fn log(text: std::fmt::Arguments<'_>) {
    println!("{text}");
}

/// What went back to the page allocator: first byte and pages.
static FREED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

fn freed() -> Vec<(u64, u64)> {
    std::mem::take(&mut FREED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The functions of the C files that a program can stand in for.
mod c {
    use super::{FREED, PoisonError, c_void};

    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_free(address: u64, pages: u64) {
        FREED.lock().unwrap_or_else(PoisonError::into_inner).push((address, pages));
    }

    /// At 1 GiB, whatever is asked for.
    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_allocate(_pages: u64, _node: u32, _first: u64, _end: u64) -> u64 {
        1 << 30
    }

    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_progress() {
        std::thread::yield_now();
    }

    /// Two CPUs to a node, and one of no node.
    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_node(cpu: u32) -> u32 {
        if cpu == 3 { u32::MAX } else { cpu / 2 }
    }

    macro_rules! never {
        ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {$(
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: $argument),*) $(-> $result)? {
                panic!(concat!(stringify!($name), " is not for a program"))
            }
        )*};
    }
    never! {
        cleanslate_rdmsr(u32, *mut u64) -> bool;
        cleanslate_panic();
        cleanslate_log(*const u8, usize);
        cleanslate_lost(*const u8);
        cleanslate_stay_loaded();
        cleanslate_map(u64) -> *mut c_void;
        cleanslate_map_page(u32, u64) -> *mut c_void;
        cleanslate_unmap_page(u32);
        cleanslate_on_all(*const c_void, *mut c_void);
        cleanslate_on_each_package(*const c_void, *mut c_void);
        cleanslate_pin() -> u32;
        cleanslate_unpin();
        cleanslate_this_cpu() -> u32;
        cleanslate_package(u32) -> u32;
        cleanslate_cond_resched();
        cleanslate_hold(u64) -> bool;
        cleanslate_release(u64);
        cleanslate_only_held(u64) -> bool;
        cleanslate_has_page(u64) -> bool;
        cleanslate_old_word(u64, *mut u64) -> bool;
        cleanslate_tsc() -> u64;
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

fn owned(range: PageRange) -> OwnedPages {
    // SAFETY: no memory of this program: nothing reads or writes these pages.
    unsafe { OwnedPages::new(range) }
}

/// One test, because the pool is one for the whole object.
#[test]
fn pages_of_the_pool_never_reach_the_page_allocator() {
    const POOL: (u64, u64) = (0x1000, 0x2000);
    pool::set(pages(POOL.0, POOL.1));

    // Nobody has the pool at hand: leaked.
    shim::free(owned(pages(0x1800, 0x1801)));
    Linux::without_pool().free(owned(pages(0x1000, 0x1010)));
    // A part of it is enough.
    shim::free(owned(pages(0xff0, 0x1001)));
    assert_eq!(freed(), []);

    let map = [NodeRange { range: pages(POOL.0, POOL.1), node: NodeId(0) }];
    let mut frames = MapFrames::new(&map);
    // SAFETY: the range of `pool::set`, and the only frames of it.
    let mut linux = unsafe { Linux::with_pool(Some(&mut frames)) };
    let whole = linux.allocate(FrameRequest::anywhere(0x1000, None)).unwrap();
    assert!(linux.allocate(FrameRequest::anywhere(1, None)).is_none(), "the pool is used up");
    linux.free(whole);
    assert!(linux.allocate(FrameRequest::anywhere(1, None)).is_some(), "it has its pages back");
    assert_eq!(freed(), []);

    // Pages of the page allocator go back there, also past a kernel that has a pool.
    linux.free(owned(pages(0x3000, 0x3004)));
    let mut other = Linux::without_pool();
    let allocated = other.allocate(FrameRequest::anywhere(4, None)).unwrap();
    other.free(allocated);
    assert_eq!(freed(), [(0x3000 << 12, 4), (1 << 30, 4)]);
}

#[test]
fn no_page_and_more_pages_than_addresses_are_refused_before_c_sees_them() {
    for count in [0, (1 << 40) + 1, u64::MAX] {
        assert!(shim::allocate(count, None, FrameRequest::ANYWHERE).is_none(), "{count} pages");
    }
}

fn text(handover: &Handover) -> Option<&str> {
    // SAFETY: null, or a string constant.
    (!handover.forced.is_null()).then(|| unsafe { CStr::from_ptr(handover.forced) }.to_str().unwrap())
}

/// The count is that of the others, and each cause has its words. In this order, because a crash
/// closes the gate of the object's one host.
#[test]
fn a_forced_reset_says_how_many_others_run_or_why() {
    let _counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: no memory is private, so that nothing is written and no instruction is executed that
    // a program may not.
    let hand_over = |online| unsafe { cleanslate_hand_over(CLEANSLATE_POLICY_TRACKED, 0, online, 4, CLEANSLATE_KEXEC) };
    let done = hand_over(3);
    assert_eq!((done.running, text(&done), done.clean), (2, Some("other CPUs are still running"), false));
    let done = hand_over(1);
    assert_eq!((done.running, text(&done), done.clean), (0, Some("another handover was under way"), false));
    // Nothing was reset by all CPUs together: the rest is everything.
    // SAFETY: as above.
    let done = unsafe { cleanslate_hand_over(CLEANSLATE_POLICY_TRACKED, 0, 1, 4, CLEANSLATE_REST) };
    assert_eq!((text(&done), done.clean), (Some("not all were reset by all CPUs together"), false));
}

/// A task of so many steps in all.
struct Steps {
    left: AtomicU32,
    by: [AtomicU32; CPUS],
}

impl CpuTask<ThisCpu> for Steps {
    type Local = ();

    fn step(&self, cpu: &ThisCpu, (): &mut ()) -> Step {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if taken.is_err() {
            return Step::Done;
        }
        self.by[cpu.id().0 as usize].fetch_add(1, Ordering::SeqCst);
        Step::Again
    }
}

/// Each captured CPU does each job once, to its end, and goes when it is released.
#[test]
fn captured_cpus_share_every_task_until_they_are_released() {
    std::thread::scope(|scope| {
        for cpu in 1..CPUS as u32 {
            // SAFETY: this thread is that CPU; no slot says that its caches are dirty, so that
            // nothing is executed that a program may not.
            scope.spawn(move || unsafe { cleanslate_captured(cpu, false) });
        }
        // SAFETY: this thread is CPU 0, and the others are those above.
        let captured = unsafe { Captured::new(ThisCpu::pinned_to(0), CPUS as u32) };
        assert_eq!(captured.stop_other_cpus(), 1);
        let stopped = |at: usize| HOST.gate().activity().nth(at).unwrap().stopped;
        assert_eq!((stopped(1), stopped(2), stopped(3)), (true, true, true));
        for count in [0, 1, 1000] {
            let task = Steps { left: AtomicU32::new(count), by: [const { AtomicU32::new(0) }; CPUS] };
            captured.run_on_stopped(&task);
            let by = task.by.each_ref().map(|steps| steps.load(Ordering::SeqCst));
            assert_eq!((by.iter().sum::<u32>(), task.left.into_inner()), (count, 0), "{by:?}");
        }
        cleanslate_release_captured();
    });
}

#[test]
fn lines_of_another_node_are_counted_in_a_handover() {
    let _counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = |base, bytes, node| nodes::Memory { base, bytes, node };
    let all = [memory(0, 100 << 12, 0), memory(100 << 12, 100 << 12, 1)];
    nodes::note(all.iter().map(nodes::node_range));
    // What comes later changes nothing: a CPU may be reading it.
    nodes::note([nodes::node_range(&memory(0, 1 << 30, 7))].into_iter());
    assert_eq!(nodes::all().iter().map(|range| range.node.0).collect::<Vec<_>>(), [0, 1]);
    // SAFETY: a test on no CPU of a machine.
    let cpu = |number| unsafe { ThisCpu::pinned_to(number) };
    shares::start_count();
    for (number, from, to, left, far) in [
        (0, 0, 10, 0, 0),
        (2, 10, 20, 0, 640),
        (2, 100, 110, 0, 640),
        (0, 190, 200, 40, 1240),
        // Memory of no node, a CPU of none.
        (0, 300, 310, 0, 1240),
        (3, 0, 10, 0, 1240),
    ] {
        shares::count_lines(cpu(number).id(), cpu(number).node(), pages(from, to).lines(), left);
        assert_eq!(shares::cleanslate_lines_far(), far, "CPU {number}, page {from}");
    }
    let (mut least, mut most) = (0, 0);
    // SAFETY: they are there.
    let cpus = unsafe { shares::cleanslate_shares(&raw mut least, &raw mut most) };
    assert_eq!((cpus, least, most), (3, 640, 1880));
}

fn sources(folder: &str, extension: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|other| other == extension))
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// Which CPU runs the code is a promise: a slot of the gate is written by its own CPU alone.
#[test]
fn what_takes_a_cpu_by_number_is_unsafe() {
    let mut seen = 0;
    for (path, source) in sources("object/src", "rs") {
        for (at, _) in source.match_indices("fn ") {
            let arguments = source[at..].split(')').next().unwrap_or_default();
            if !arguments.contains("cpu: u32") {
                continue;
            }
            let head = source[..at].rsplit('\n').next().unwrap_or_default();
            // A declaration of a C function is unsafe unless it says that it is not.
            let declared = arguments.starts_with("fn cleanslate_")
                && source[at..].split(['{', ';']).next() == source[at..].split(';').next();
            let is_unsafe = if declared { !head.contains("safe fn") } else { head.contains("unsafe ") };
            assert!(is_unsafe, "{path}: {head}{arguments})");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} functions only");
}

/// The C side of it. A CPU's hotplug callbacks run on that CPU.
#[test]
fn the_c_files_act_on_a_cpu_from_that_cpu_alone() {
    const CALLS: [&str; 3] =
        ["cleanslate_cpu_may_hold(", "cleanslate_stop_this_cpu(", "cleanslate_stop_this_cpu_at_crash("];
    let mut seen = 0;
    for (path, source) in sources(".", "c") {
        for (at, call) in CALLS.iter().flat_map(|call| source.match_indices(call)) {
            let argument = source[at + call.len()..].split_once(");").map_or("", |(argument, _)| argument);
            let body = source[..at].rfind("\n{\n").unwrap_or_default();
            let signature = source[..body].rsplit("\n\n").next().unwrap_or_default();
            let before = &source[body..at];
            match argument {
                "smp_processor_id()" | "raw_smp_processor_id()" => {}
                "cpu" => {
                    let is_callback = ["cleanslate_cpu_online(", "cleanslate_cpu_offline("]
                        .iter()
                        .any(|name| signature.contains(&format!("{name}unsigned int cpu)")));
                    assert!(is_callback, "{path}: {call}{argument}) in {signature}");
                }
                _ => panic!("{path}: {call}{argument})"),
            }
            assert!(!before.contains("for_each"), "{path}: {call}{argument}) in a loop over CPUs");
            let goes_offline = signature.contains("cleanslate_cpu_offline(");
            let irqs_off = before.contains("local_irq_save(") && !before.contains("local_irq_restore(");
            assert!(!goes_offline || irqs_off, "{path}: a SEAMCALL after the write-back would be forgotten");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} calls only");
}
