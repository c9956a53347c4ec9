//! A program that links only if no path of bring-up, layout, unwinding, TDs, reset, kexec, crash,
//! takeover, the tables for a next kernel, the ledger, dynamic PAMT, and the observer of a kernel's
//! SEAMCALLs with its sweep can panic.
//!
//! Its panic handler calls a function that does not exist. If the optimizer cannot prove every
//! panic away, the linker names the function that may panic. It is never run: its platform answers
//! with whatever the optimizer must not know.

#![no_std]
#![no_main]
// UNSAFETY: an entry point and an undefined symbol; nothing here is ever executed.
#![allow(unsafe_code)]

use core::fmt::Write as _;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64};
use tdx_abi::{KeyId, LineRange, Page, PageRange, PageSize, PhysAddr, Registers};
use tdx_host::Host;
use tdx_host::dump::{DumpPlace, DumpTable, PAGE_WORDS, write_index_page};
use tdx_host::dynamic_pamt::{DynamicPamt, Pair};
use tdx_host::follow::{self, Moves, PageRefs};
use tdx_host::gate::{CpuGate, CpuSlot};
use tdx_host::handover::{
    KexecKind, LeftoverTable, NmiStop, OldMemory, Policy, StopCpus, check_crash_image, stop_this_cpu_at_crash,
};
use tdx_host::key_ids::KeyIds;
use tdx_host::layout::{FrameRequest, FrameSource, MapFrames, Places};
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::page::SharedPage;
use tdx_host::platform::{
    Cpu, CpuId, CpuTask, CpuidOutput, Cpus, LineReset, LocalProcessor, Msr, NodeRange, OwnedPages, PackageId,
    Processor, SharedMemory, Step,
};
use tdx_host::seamcall::Seamcall;
use tdx_host::sweep;
use tdx_host::takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, WrittenBy};
use tdx_host::td::{GuestPage, SeptLevel, TdHost, VcpuHost};

unsafe extern "C" {
    fn this_product_can_panic() -> !;
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never executed; a link that succeeds has thrown this function away.
    unsafe { this_product_can_panic() }
}

/// A platform of which the optimizer knows nothing.
struct Opaque;

impl Processor for Opaque {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
        black_box(CpuidOutput { eax: leaf, ..CpuidOutput::default() })
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        black_box(Some(u64::from(msr.0)))
    }
}

// SAFETY: never executed.
unsafe impl LocalProcessor for Opaque {}

// SAFETY: never executed.
unsafe impl Seamcall for Opaque {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        black_box(registers)
    }
}

// SAFETY: never executed.
unsafe impl LineReset for Opaque {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        black_box(lines).len()
    }

    fn fence(&self) {
        black_box(());
    }
}

// SAFETY: never executed.
unsafe impl Cpu for Opaque {
    fn id(&self) -> CpuId {
        black_box(CpuId(0))
    }

    fn package(&self) -> PackageId {
        black_box(PackageId(0))
    }

    fn write_back_caches(&self) {
        black_box(());
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        black_box(lines);
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: never executed.
        unsafe { TDX.gate().cpu_gate(black_box(CpuId(0))) }
    }
}

fn drive<T: CpuTask<Opaque>>(task: &T) {
    let mut local = T::Local::default();
    while task.step(&Opaque, &mut local) == Step::Again {}
}

// SAFETY: never executed.
unsafe impl Cpus for Opaque {
    type Cpu = Self;

    fn run_on_all<T: CpuTask<Self>>(&self, task: &T) {
        drive(task);
    }

    fn run_on_each_package<T: CpuTask<Self>>(&self, task: &T) {
        drive(task);
    }

    fn run_here<R>(&self, function: impl FnOnce(&Self) -> R) -> R {
        function(self)
    }
}

// SAFETY: never executed.
unsafe impl FrameSource for Opaque {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        black_box(Some(owned(request.within)))
    }

    fn free(&mut self, pages: OwnedPages) {
        let _ = black_box(pages);
    }
}

// SAFETY: never executed.
unsafe impl SharedMemory for Opaque {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        black_box((address, bytes));
    }
}

// SAFETY: never executed.
unsafe impl StopCpus for Opaque {
    type Cpu = Self;

    fn this_cpu(&self) -> Self {
        Self
    }

    fn stop_other_cpus(&self) -> u32 {
        TDX.stop_this_cpu(Self);
        black_box(1)
    }

    fn resume_other_cpus(&self) {
        black_box(());
    }

    fn run_on_stopped<T: CpuTask<Self>>(&self, task: &T) {
        drive(task);
    }
}

static SLOTS: [CpuSlot; 2] = [const { CpuSlot::new() }; 2];
static TDX: Host = Host::new(&SLOTS);

fn words(count: usize) -> &'static mut [AtomicU64] {
    static mut WORDS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
    // SAFETY: never executed.
    unsafe { &mut *(&raw mut WORDS) }.get_mut(..black_box(count)).unwrap_or_default()
}

/// The ledger from start to the walk that a crash would take.
fn ledger(ranges: &[PageRange]) -> Option<Ledger<'static>> {
    let reserved = PageRange::new(black_box(Page::new(1)), black_box(Page::new(2)));
    let ledger = Ledger::new(ranges.iter().copied(), words(64)).ok()?.with_reserved(reserved).ok()?;
    let page = PageRange::new(black_box(Page::new(1)), black_box(Page::new(2)));
    // SAFETY: never executed.
    let _ = black_box(unsafe { (ledger.give(page), ledger.commit(page), ledger.reclaim(page), ledger.unmark(page)) });
    black_box(ledger.state(page.start()));
    for range in ledger.marked() {
        black_box(range);
    }
    Some(ledger)
}

// SAFETY: never executed.
unsafe impl NmiStop for Opaque {
    fn stop_other_cpus(&self) {
        stop_this_cpu_at_crash(self);
    }

    fn is_online(&self, cpu: CpuId) -> bool {
        black_box(cpu.0 == 0)
    }
}

/// Where a crash prints.
struct Console;

impl core::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        black_box(text);
        Ok(())
    }
}

/// Every policy, from image load to the leftovers.
fn hand_over() {
    let memory = TDX.memory();
    let policy = match black_box(0) {
        0 => Policy::Tracked,
        1 => Policy::Module,
        2 => Policy::Everything,
        3 => Policy::Keep,
        _ => Policy::Refuse,
    };
    let kind = if black_box(true) { KexecKind::Normal } else { KexecKind::Jump };
    let all = PageRange::new(black_box(Page::new(0)), black_box(Page::new(1)));
    black_box(TDX.check_image_load(policy, kind, &[all]).is_ok());
    black_box(check_crash_image(&memory, &[all]).is_ok());
    if let Ok(kexec) = TDX.kexec(policy, kind)
        && let Ok(kexec) = kexec.stop_other_cpus(&Opaque)
        && let Ok(kexec) = kexec.check_segments(&[all])
    {
        let kexec = match policy {
            Policy::Keep => kexec.flush_vcpus(&[black_box(Page::new(0))]),
            _ => kexec.ask_module(|calls| _ = black_box(calls)),
        };
        let kexec = kexec.write_back_caches();
        // SAFETY: never executed.
        let report = unsafe { kexec.reset_everything([all]) };
        for leftover in report.leftovers(&memory) {
            black_box(leftover);
        }
        let _ = black_box(TDX.came_back(&report));
        // SAFETY: never executed.
        black_box(unsafe { (TDX.start_over(&mut Opaque).is_ok(), TDX.withdraw_ledger()) });
    }
    let report = TDX.crash(policy, &Opaque, &Opaque);
    black_box(report.is_clean(&memory));
    let mut table = black_box([0; 128]);
    let table = table.get_mut(..black_box(99)).unwrap_or_default();
    black_box(LeftoverTable::all_private(table).is_ok());
    black_box(LeftoverTable::write(table, &report, &memory).is_ok());
    if let Ok(read) = LeftoverTable::read(table)
        && let OldMemory::Listed(leftovers) = read.old_memory
    {
        leftovers.for_each(|leftover| _ = black_box(leftover));
    }
    let explanation = TDX.explain(PhysAddr::new(black_box(1)));
    black_box(write!(Console, "{explanation} {}", report.suspects).is_ok());
}

fn owned(range: PageRange) -> OwnedPages {
    // SAFETY: never executed.
    unsafe { OwnedPages::new(range) }
}

/// A page as any allocator would hand it out.
fn page<'l>(ledger: &'l Ledger<'l>) -> Option<SharedPage<'l>> {
    SharedPage::take(ledger, owned(black_box(PageRange::default()))).ok()
}

/// A TD from MNG.CREATE to the reset of its TDR, every operation on the way.
fn td(host: TdHost<'_>) -> Option<()> {
    let ledger = host.ledger();
    let (cpu, gpa) = (&Opaque, GuestPage::containing(black_box(0x1000)));
    let size = if black_box(true) { PageSize::Size2M } else { PageSize::Size1G };
    let td = host.create(cpu, page(ledger)?).ok()?;
    let mut td = td.configure_keys(cpu).ok()?;
    black_box(td.add_control_page(cpu, page(ledger)?).is_ok());
    let td = td.init(cpu, PhysAddr::new(black_box(0))).ok()?;
    let vcpu = td.create_vcpu(cpu, page(ledger)?).ok()?;
    black_box(td.add_vcpu_page(cpu, &vcpu, page(ledger)?).is_ok());
    let vcpu = td.init_vcpu(cpu, vcpu, black_box(0)).ok()?;
    black_box(td.add_sept_page(cpu, gpa, SeptLevel::Maps2M, page(ledger)?).is_ok());
    black_box(td.add_page(cpu, gpa, page(ledger)?, PhysAddr::new(black_box(0))).is_ok());
    black_box(td.measure_page(cpu, gpa).is_ok());
    let td = td.finalize(cpu).ok()?;
    black_box(td.augment(cpu, gpa, page(ledger)?).is_ok());
    black_box((td.block(cpu, gpa, size).is_ok(), td.track(cpu).is_ok(), td.unblock(cpu, gpa, size).is_ok()));
    black_box(td.remove_page(cpu, gpa, size).is_ok());
    black_box(td.remove_sept_page(cpu, gpa, SeptLevel::Maps1G).is_ok());
    black_box(td.relocate_page(cpu, gpa, page(ledger)?).is_ok());
    black_box(td.demote(cpu, gpa, size, page(ledger)?).is_ok());
    black_box(td.promote(cpu, gpa, size).is_ok());
    black_box((td.pages(), td.key_id()));
    let dying = td.tear_down();
    black_box(dying.flush_vcpus(cpu, &[vcpu.tdvpr()]).is_ok());
    let dead = dying.free_key(cpu).ok()?;
    dead.reclaim_all(cpu, |page| _ = black_box(page.is_ok()));
    black_box(dead.finish(cpu).is_ok());
    Some(())
}

/// Dynamic PAMT: a page comes and goes.
fn dynamic_pamt(host: TdHost<'_>, words: &mut [AtomicU32]) {
    let Ok(pamt) = DynamicPamt::new(host, words) else { return };
    let mut spare = Pair::new();
    for page in [page(host.ledger()), page(host.ledger())].into_iter().flatten() {
        let _ = spare.try_push(page);
    }
    let page = black_box(Page::new(3));
    black_box(pamt.get(&Opaque, page, &mut spare).is_ok());
    black_box(pamt.put(&Opaque, page).is_ok());
    black_box((pamt.counted(page), pamt.pairs()));
}

fn with_tds(host: TdHost<'_>) {
    black_box(td(host));
    let mut counts = [const { AtomicU32::new(0) }; 8];
    dynamic_pamt(host, counts.get_mut(..black_box(8)).unwrap_or_default());
}

// SAFETY: never executed.
unsafe impl PageRefs for Opaque {
    fn hold(&self, page: Page) -> bool {
        black_box(page) == Page::new(1)
    }

    unsafe fn release(&self, page: Page) {
        black_box(page);
    }
}

/// A kernel with TDX code of its own: its SEAMCALLs, and a sweep.
fn observe(range: PageRange) {
    if let Ok(ledger) = TDX.follow([range], words(64)) {
        if let Ok(moves) = Moves::of(&black_box(Registers::default()), black_box(false)) {
            // SAFETY: never executed.
            black_box(unsafe { moves.before(ledger, &Opaque) }.is_ok());
            // SAFETY: as above.
            black_box(unsafe { moves.after(ledger, &black_box(Registers::default())) }.is_ok());
        }
        if let Some(page) = sweep::next_page(ledger, black_box(Page::new(1)))
            && let Ok(answer) = sweep::look(&Opaque, ledger, page)
        {
            black_box(sweep::compare(black_box(PageState::Shared), answer.says));
            // SAFETY: as above.
            black_box(unsafe { follow::learn(ledger, answer.pages, black_box(true), &Opaque) }.0);
        }
        // SAFETY: as above.
        black_box(unsafe { follow::reset(ledger, range, &Opaque) }.is_ok());
    }
    // SAFETY: never executed.
    black_box(unsafe { TDX.observe_pamts([range].into_iter()) }.is_ok());
}

/// The takeover table of this kernel, as the next one reads it and cleans up.
fn take_over(bytes: &mut [u8]) -> Option<()> {
    let facts = black_box(TakeoverFacts {
        written_by: WrittenBy::Crash,
        tsc_adjust: 0,
        tsc: 0,
        global_key_id: KeyId::HOST,
        not_stopped: 0,
        may_hold_private_lines: 0,
    });
    let mut writer = TakeoverWriter::new(bytes).ok()?;
    black_box(TDX.write_takeover(&mut writer).is_ok());
    black_box(writer.entry(black_box(Entry::Cpu(0))).is_ok());
    let used = writer.finish(&facts);
    let table = TakeoverTable::read(bytes.get(..used)?).ok()?;
    black_box((table.tds(), table.claim_words(), table.entries().next()));
    let claims = table.claim(words(64)).ok()?;
    for range in claims.without_owner(&table).chain(table.unknown_to_module()) {
        black_box(range);
    }
    // SAFETY: never executed.
    let tds = unsafe { TDX.take_over(&table, words(64)) }.ok()?;
    let keys = core::iter::once(black_box((Page::new(0), KeyId::HOST)));
    // SAFETY: never executed.
    black_box(unsafe { tds.vacuum(&Opaque, &keys, &[], |page| _ = black_box(page)) }.left);
    tds.adopt(&Opaque, &table, |number, td| {
        let Ok(td) = td else { return };
        let host = black_box(VcpuHost::default());
        // SAFETY: never executed.
        black_box(unsafe { td.resume_vcpu(&Opaque, black_box(Page::new(0)), &host) }.is_ok());
        let _ = black_box((number, td.tear_down()));
    });
    for key in TDX.key_ids().into_iter().flat_map(KeyIds::in_use) {
        black_box(key);
    }
    Some(())
}

/// The table of this kernel for a crash kernel, as that reads it.
fn dump(root: &mut [u64], ledger: &[AtomicU64]) -> Option<()> {
    let entries = black_box([0; 8]);
    let index = entries.get(..black_box(8))?;
    let (address, nonce) = black_box((PhysAddr::new(0), 0));
    let place = DumpPlace { root: address, nonce, ledger, index };
    black_box(place.write_reset(root).is_ok());
    black_box(place.write(root, &TDX.memory()).is_ok());
    let mut page = black_box([0; PAGE_WORDS]);
    black_box(write_index_page(&mut page, black_box(0), nonce, index).is_ok());
    let table = DumpTable::read(root, address, nonce).ok()?;
    for (number, at) in (0..).zip(table.index()) {
        black_box((at, table.index_page(number, &page).is_ok()));
    }
    for range in table.pamts().chain(table.segments()) {
        black_box(range);
    }
    let again = DumpTable::again(root).ok()?;
    black_box(again.may_be_private(black_box(Page::new(0)), index, |address| black_box(Some(address.get()))));
    Some(())
}

/// The linker's entry point.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    let mut kernel = Opaque;
    let memory: [NodeRange; 8] = black_box([NodeRange::default(); 8]);
    let memory: &[NodeRange] = memory.get(..black_box(8)).unwrap_or_default();
    let cmrs = [PageRange::new(black_box(Page::new(0)), black_box(Page::new(9)))];
    black_box((TDX.reserve(&cmrs).is_ok(), TDX.detect(&Opaque).is_ok()));
    black_box(TDX.bring_up(&mut kernel, memory).is_ok());
    let mut table = black_box([0; 256]);
    black_box(take_over(table.get_mut(..black_box(200)).unwrap_or_default()).is_some());
    let mut root = black_box([0; 64]);
    black_box(dump(root.get_mut(..black_box(64)).unwrap_or_default(), words(64)).is_some());
    if let Some(layout) = TDX.layout() {
        for note in layout.notes(memory, &cmrs) {
            black_box(note);
        }
        black_box(layout.given_up_bytes(memory, &cmrs));
    }
    let mut frames = MapFrames::new(memory);
    black_box(frames.reserve(cmrs[0]));
    black_box(frames.allocate(FrameRequest::anywhere(black_box(3), None)));
    black_box(ledger(&cmrs));
    if let Ok(tds) = TDX.track(words(TDX.tracking_words())) {
        with_tds(tds);
    }
    observe(cmrs[0]);
    hand_over();
    loop {
        core::hint::spin_loop();
    }
}
