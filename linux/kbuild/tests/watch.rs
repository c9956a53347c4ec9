//! What cleanslate.ko makes of the SEAMCALLs and TDMRs of a kernel with Dynamic PAMT: the Rust
//! object's file in a program, which says what the kernel would.

// UNSAFETY: the object's own; and functions that the C files call.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::atomic::AtomicU64;

use tdx_abi::{Leaf, Page, PageSize, Registers, SYS_CONFIG_DYNAMIC_PAMT, StatusCode, TdmrInfo};
use tdx_host::ledger::PageState;
use tdx_host::{CpuSlot, Host, PageRange};

#[allow(dead_code)]
#[path = "../../object/src/cpu.rs"]
mod cpu;
#[allow(dead_code)]
#[path = "../../object/src/nodes.rs"]
mod nodes;
#[allow(dead_code)]
#[path = "../../object/src/pages.rs"]
mod pages;
#[allow(dead_code)]
#[path = "../../object/src/pool.rs"]
mod pool;
#[allow(dead_code)]
#[path = "../../object/src/shares.rs"]
mod shares;
#[allow(dead_code, unused_imports)]
#[path = "../../object/src/shim.rs"]
mod shim;
#[allow(dead_code)]
#[path = "../../object/src/watch.rs"]
mod watch;

/// Notes that a SEAMCALL was made since the CPUs came together: none do here.
mod handover {
    pub(crate) fn seamcall_is_made() {}
}

use pages::{CLEANSLATE_PAGES_PAMT_PAIR, CLEANSLATE_PAGES_SEPT, Pages};
use watch::{
    cleanslate_dynamic_pamt, cleanslate_follow, cleanslate_follow_words, cleanslate_learn, cleanslate_observe_return,
    cleanslate_observe_seamcall, cleanslate_observed_pages,
};

const EINVAL: i32 = 22;
const GIB: u64 = 1 << 30;
const CPUS: usize = 1;
static SLOTS: [CpuSlot; CPUS] = [const { CpuSlot::new() }; CPUS];
static HOST: Host<'static> = Host::new(&SLOTS);

fn log(text: std::fmt::Arguments<'_>) {
    println!("{text}");
}

fn pamt_kb() -> u64 {
    HOST.pamt_ranges().map(PageRange::bytes).sum::<u64>() / 1024
}

fn cleanslate_is_private() -> bool {
    HOST.pamt_ranges().next().is_some()
}

/// The functions of the C files that are called here.
mod c {
    use super::{CStr, c_void};

    /// Addresses of this program stand for physical ones.
    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_map(address: u64) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(address as usize)
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn cleanslate_lost(why: *const std::ffi::c_char) {
        // SAFETY: a string of the object's.
        panic!("lost track: {:?}", unsafe { CStr::from_ptr(why) });
    }

    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_stay_loaded() {}

    #[unsafe(no_mangle)]
    extern "C" fn cleanslate_hold(_page: u64) -> bool {
        true
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
        cleanslate_map_page(u32, u64) -> *mut c_void;
        cleanslate_unmap_page(u32);
        cleanslate_on_all(*const c_void, *mut c_void);
        cleanslate_on_each_package(*const c_void, *mut c_void);
        cleanslate_pin() -> u32;
        cleanslate_unpin();
        cleanslate_this_cpu() -> u32;
        cleanslate_package(u32) -> u32;
        cleanslate_node(u32) -> u32;
        cleanslate_cond_resched();
        cleanslate_progress();
        cleanslate_allocate(u64, u32, u64, u64) -> u64;
        cleanslate_free(u64, u64);
        cleanslate_release(u64);
        cleanslate_only_held(u64) -> bool;
        cleanslate_has_page(u64) -> bool;
        cleanslate_old_word(u64, *mut u64) -> bool;
        cleanslate_tsc() -> u64;
    }
}

/// A TDMR of 1 GiB, whose PAMTs lie side by side as Linux has them. PAMT_4K is the bitmap of
/// Dynamic PAMT or an array of entries, or has this many bytes.
fn tdmr(number: u64, pamt_4k_size: u64) -> TdmrInfo {
    let pamt_4k_base = 4 * GIB + number * (8 << 20);
    let pamt_2m_base = pamt_4k_base + pamt_4k_size;
    TdmrInfo {
        base: number * GIB,
        size: GIB,
        pamt_1g_base: pamt_2m_base + 0x2000,
        pamt_1g_size: 0x1000,
        pamt_2m_base,
        pamt_2m_size: 0x2000,
        pamt_4k_base,
        pamt_4k_size,
        ..TdmrInfo::default()
    }
}

const ENTRIES: u64 = 4 << 20;
const BITMAP: u64 = 32 << 10;

/// Why the kernel's list of TDMRs is not accepted, or `None`.
fn learn(tdmrs: &[TdmrInfo]) -> Option<&'static CStr> {
    let stride = size_of::<TdmrInfo>() as u32;
    // SAFETY: a list of so many, at such a distance; a string of the object's, if any.
    unsafe {
        let why = cleanslate_learn(tdmrs.as_ptr().cast(), tdmrs.len() as u32, stride);
        (!why.is_null()).then(|| CStr::from_ptr(why))
    }
}

/// SYS.CONFIG of these TDMRs.
fn configure(tdmrs: &[TdmrInfo], r8: u64) {
    let pointers: Vec<u64> = tdmrs.iter().map(|tdmr| std::ptr::from_ref(tdmr).expose_provenance() as u64).collect();
    let call = Registers::call(Leaf::SYS_CONFIG)
        .rcx(pointers.as_ptr().expose_provenance() as u64)
        .rdx(pointers.len() as u64)
        .r8(r8);
    // SAFETY: the operands are this program's.
    unsafe { cleanslate_observe_seamcall(0, &raw const call) };
}

fn observe(call: Registers, answer: Registers) {
    // SAFETY: no memory of this program: nothing reads or writes these pages.
    unsafe {
        cleanslate_observe_seamcall(0, &raw const call);
        cleanslate_observe_return(0, &raw const call, &raw const answer);
    }
}

fn states(pages: [u64; 2]) -> [Option<PageState>; 2] {
    pages.map(|address| HOST.ledger().unwrap().state(Page::new(address >> 12)))
}

/// Pages that hold PAMT entries, and pages of Secure EPT.
fn counted() -> (u64, u64) {
    let mut counted = Pages::default();
    // SAFETY: this function's own.
    unsafe { cleanslate_observed_pages(&raw mut counted) };
    (counted.count[CLEANSLATE_PAGES_PAMT_PAIR], counted.count[CLEANSLATE_PAGES_SEPT])
}

/// One test: the state is one for the whole object.
#[test]
fn pairs_of_dynamic_pamt_are_followed_from_the_first_call_on() {
    let memory = [nodes::Memory { base: 0, bytes: 2 * GIB, node: 0 }];
    // SAFETY: one range; the words are leaked.
    unsafe {
        let words = cleanslate_follow_words(memory.as_ptr(), 1);
        let words: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(cleanslate_follow(words.leak().as_mut_ptr().cast(), memory.as_ptr(), 1), 0);
    }

    // SYS.CONFIG says which it is.
    let bitmaps = [tdmr(0, BITMAP), tdmr(1, BITMAP)];
    configure(&bitmaps, SYS_CONFIG_DYNAMIC_PAMT | 0x20);
    assert!(cleanslate_dynamic_pamt());
    configure(&bitmaps, 0x20);
    assert!(!cleanslate_dynamic_pamt());

    // Of a kernel that was configured before, the sizes say it.
    let unexpected = Some(c"TDX already initialized, unexpected TDMR");
    assert_eq!(learn(&[tdmr(0, ENTRIES), tdmr(1, BITMAP)]), unexpected, "one of each");
    for size in [BITMAP - 0x1000, BITMAP + 0x1000, 2 * BITMAP, 0, ENTRIES - 0x1000] {
        assert_eq!(learn(&[tdmr(0, size), tdmr(1, size)]), unexpected, "{size:#x}");
    }
    assert!(!cleanslate_dynamic_pamt());

    // A module that has it off refuses a PAMT.ADD. R12 and R13 of a DEMOTE are no operands then:
    // the pages that they name may be in use.
    let large = PageSize::Size2M as u64;
    let refused = Registers { rax: StatusCode::OPERAND_INVALID.with(0).raw(), ..Registers::default() };
    observe(Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(large).rdx(0x50_0000).r8(0x50_1000), refused);
    assert!(!cleanslate_dynamic_pamt());

    assert_eq!(learn(&bitmaps), None);
    assert!(cleanslate_dynamic_pamt());
    assert_eq!(pamt_kb(), 2 * (32 + 8 + 4));

    // A DEMOTE before any PAMT.ADD was seen: its pair is in R12 and R13.
    let done = Registers::default();
    let (sept, pair) = (0x10_1000, [0x10_2000, 0x10_3000]);
    let demote = Registers::call(Leaf::MEM_PAGE_DEMOTE).rcx(0x4000_0000 | large).rdx(0x10_0000).r8(sept);
    observe(Registers { r9: 0, r12: pair[0], r13: pair[1], ..demote }, done);
    assert_eq!(states(pair), [Some(PageState::Private); 2]);
    assert_eq!(counted(), (2, 1));

    // A pair that is added, and removed.
    let pair = [0x20_2000, 0x20_3000];
    let add = Registers::call(Leaf::PHYMEM_PAMT_ADD).rcx(0x4000_0000 | large).rdx(pair[0]).r8(pair[1]);
    observe(add, done);
    assert_eq!((states(pair), counted()), ([Some(PageState::Private); 2], (4, 1)));
    let remove = Registers::call(Leaf::PHYMEM_PAMT_REMOVE).rcx(0x4000_0000 | large);
    // The module refuses; then it returns the pair, the second page first.
    let refused = Registers { rax: StatusCode::OPERAND_BUSY.with(1).raw(), ..Registers::default() };
    observe(remove, refused);
    assert_eq!((states(pair), counted()), ([Some(PageState::Private); 2], (4, 1)));
    observe(remove, Registers::default().rdx(pair[1]).r8(pair[0]));
    assert_eq!((states(pair), counted()), ([Some(PageState::Returned); 2], (2, 1)));

    // The module may have written one that it refuses: it keeps its marks.
    let refused_pair = [0x30_2000, 0x30_3000];
    observe(add.rdx(refused_pair[0]).r8(refused_pair[1]), refused);
    assert_eq!((states(refused_pair), counted()), ([Some(PageState::Returned); 2], (2, 1)));
}
