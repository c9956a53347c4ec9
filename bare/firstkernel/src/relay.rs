//! Keeping TDs across a kexec: TDs that count are built, a takeover table is written, and the next
//! kernel, which reads it before it has an allocator, takes TDX over with them and lets them count
//! on. TDX is never initialized again.

use arrayvec::{ArrayString, ArrayVec};
use core::fmt::{Display, Write as _};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU32, Ordering};
use first_kernel::{
    COUNTING, Copied, GuestMap, Handed, Hypervisor, KeptTd, Plain, RangePages, Slot, TdPhase, counting_page,
};
use metal::boot::Boot;
use metal::println;
use spin::{Mutex, MutexGuard};
use tdx_abi::{Page, PageRange, PageSize, PhysAddr, union};
use tdx_host::{
    layout::Layout,
    platform::{Cpu as _, CpuId, CpuTask, Cpus as _, Msr, OwnedPages, Processor as _, Step},
    takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy},
    td::{Runnable, Td, TdHost, VcpuHost},
};

use crate::counting_td::{self, Resume};
use crate::cpu::{HardwareCpu, TDX, ThisProcessor};
use crate::cpus::AllCpus;
use crate::memory::{Kernel, Ranges};
use crate::{Failure, failure};

/// Room for a takeover table.
const TABLE: usize = 64 << 10;
pub const TABLE_BYTES: u64 = TABLE as u64;

/// TDs of this kernel at most.
const MAX_TDS: usize = 16;

/// Reports of a TD that runs, in each kernel.
const TIMES: u32 = 3;

const TSC_ADJUST: Msr = Msr(0x3b);

/// Notification vector of an adopted VCPU.
const NOTIFICATION: u8 = 0xf2;

/// The TDs of this kernel, and which kernel of the chain it is, from 0.
#[derive(Default)]
pub struct Chain {
    kernel: u32,
    kexecs: u32,
    /// The next kernel adopts no TD, and tears all down.
    vacuum: bool,
    /// This kernel does not flush its VCPUs: a fault.
    no_flush: bool,
    tds: ArrayVec<Slot<'static>, MAX_TDS>,
}

impl Chain {
    /// From the command line: `kernel`, and how many more kexecs keep the TDs, `kexecs`; `vacuum`
    /// and `no-flush`.
    pub fn new(boot: &Boot) -> Result<Self, Failure> {
        let number = |name: &'static str, default| {
            boot.option(name).map_or(Ok(default), str::parse).map_err(|error| failure("options")(&error))
        };
        Ok(Self {
            kernel: number("kernel", 0)?,
            kexecs: number("kexecs", 1)?,
            vacuum: boot.option("vacuum").is_some(),
            no_flush: boot.option("no-flush").is_some(),
            ..Self::default()
        })
    }

    /// The command line of the next kernel, if this one keeps TDX.
    pub fn next_command_line(&self) -> ArrayString<128> {
        let (kernel, kexecs) = (self.kernel + 1, self.kexecs.saturating_sub(1));
        let policy = if kexecs > 0 { "keep" } else { "tracked" };
        let mut line = ArrayString::new();
        // It fits.
        let _ = write!(line, "role=relay policy={policy} kernel={kernel} kexecs={kexecs}");
        if self.vacuum {
            line.push_str(" vacuum");
        }
        line
    }

    /// Builds TDs, each up to its phase, and lets those count that can run.
    pub fn build(
        &mut self,
        kernel: &mut Kernel<'_>,
        host: TdHost<'static>,
        layout: &Layout,
        tds: u32,
    ) -> Result<(), Failure> {
        if tds as usize > MAX_TDS {
            return Err(failure("options")(&format_args!("policy keep builds at most {MAX_TDS} TDs")));
        }
        let no_memory = || failure("TDs")(&"no memory");
        let shared = kernel.pages(tdx_abi::PAGE_SIZE).ok_or_else(no_memory)?;
        for number in 0..tds {
            let pages = first_kernel::allocate(kernel, layout, 1).ok_or_else(no_memory)?;
            let range = pages.range();
            let phase = TdPhase::of(number);
            let backend = Plain {
                cpus: &AllCpus,
                ledger: host.ledger(),
                pages: &RangePages::new(pages),
                shared: shared.base(),
                // SAFETY: a page that this kernel has taken for this alone.
                write: |what| unsafe { write(shared.base(), what) },
            };
            let hypervisor = Hypervisor::new(&backend, host, &COUNTING);
            let mut moves = phase.moves(&COUNTING);
            let td = moves.try_fold(Slot::Empty, |td, what| hypervisor.make(td, what));
            let td = td.map_err(|stuck| failure("TD")(&stuck.error))?;
            println!("first kernel: TD {number} in {range}: {}", phase.name());
            self.tds.try_push(td).map_err(|_| failure("TDs")(&"too many"))?;
        }
        let vcpus: ArrayVec<Page, MAX_TDS> = self.runnable().collect();
        // On this CPU, which holds their VMCS since VP.INIT.
        let here = AllCpus.run_here(HardwareCpu::id);
        for (td, vcpu) in (0..).zip(vcpus) {
            self.run_and_check(td, here, vcpu, None)?;
        }
        Ok(())
    }

    /// The VCPUs of the TDs that can run.
    fn runnable(&self) -> impl Iterator<Item = Page> {
        self.tds.iter().filter_map(|td| match td {
            Slot::Runnable(_, vcpu) => Some(*vcpu),
            _ => None,
        })
    }

    /// Takes TDX over: adopts the TDs that can run, tears down the others, lets the adopted ones
    /// count on, on another CPU if there is one, and builds a TD of its own.
    pub fn take_over(
        &mut self,
        kernel: &mut Kernel<'_>,
        ranges: &Ranges,
        table: &TakeoverTable<'static>,
    ) -> Result<(), Failure> {
        if table.tdmrs().next().is_none() {
            println!("first kernel: TDX was not up in the previous kernel");
            return Ok(());
        }
        check(ranges, table)?;
        let words = kernel.words(table.claim_words()).ok_or_else(no_memory)?;
        // SAFETY: the table is that of the kernel that has jumped here, by kexec, after writing
        // back all caches: `check` has looked, and that memory has the TDMRs. `reserve_private`
        // has reserved what the table names before anything was allocated.
        let host = unsafe { TDX.take_over(table, words) }.map_err(|error| failure("takeover")(&error))?;
        println!("first kernel: TDX taken over, {} TDs in the table", table.tds());
        let adopted = if self.vacuum { ArrayVec::new() } else { adopt(host, table)? };
        let keys = table.entries().filter_map(|entry| match entry {
            Entry::Td { tdr, key_id: Some(key), .. } => Some((tdr, key)),
            _ => None,
        });
        let tdrs: ArrayVec<Page, MAX_TDS> = adopted.iter().map(|(_, td)| td.tdr()).collect();
        // SAFETY: right after `take_over` and `adopt`, before the first new TD; the keys are the
        // table's.
        let vacuumed = unsafe { host.vacuum(&AllCpus, &keys, &tdrs, |_| ()) };
        if let Some(error) = vacuumed.error {
            return Err(failure("vacuum")(&error));
        }
        println!(
            "@ {{\"event\":\"taken-over\",\"kernel\":{},\"adopted\":{},\"torn_down\":{},\"marked_pages\":{}}}",
            self.kernel,
            adopted.len(),
            vacuumed.tds,
            vacuumed.left
        );
        // Every TD moves, if there is another CPU.
        let on = CpuId(self.kernel % AllCpus::count());
        for (td, (number, live)) in (0..).zip(adopted) {
            let vcpu = table.vcpus(number).next().map(|(_, vcpu)| vcpu);
            let vcpu = vcpu.ok_or_else(|| failure("takeover")(&"the table lists no VCPU"))?;
            let descriptor = kernel.pages(tdx_abi::PAGE_SIZE).ok_or_else(no_memory)?.base();
            let root = kernel.pages(tdx_abi::PAGE_SIZE).ok_or_else(no_memory)?.base();
            let with = VcpuHost { posted_interrupts: Some((NOTIFICATION, descriptor)), shared_ept: Some(root) };
            let entered = self.run_and_check(td, on, vcpu, Some((&live, with)))?;
            if td == 0 {
                let micros = metal::clock::micros_of(entered.saturating_sub(table.facts.tsc));
                println!("@ {{\"event\":\"first-entry\",\"kernel\":{},\"after_microseconds\":{micros}}}", self.kernel);
            }
            self.tds.push(Slot::Runnable(live, vcpu));
        }
        build_new_td(kernel, host, table)
    }

    /// A TD reports a few times more, and nothing of it was lost. `td` counts those that run.
    fn run_and_check(&self, td: u32, on: CpuId, vcpu: Page, resume: Resume<'_>) -> Result<u64, Failure> {
        // SAFETY: a TD that counts, which a kernel of this chain has built; the pages that are in
        // `resume` were allocated for it and are never freed.
        let result = unsafe { counting_td::run(on, vcpu, TIMES, resume) };
        let (count, first) = result.map_err(|error| failure("TD that counts")(&error))?;
        println!(
            "@ {{\"event\":\"td-counts\",\"kernel\":{},\"td\":{td},\"cpu\":{},\"counter\":{},\"register\":{},\"starts\":{}}}",
            self.kernel, on.0, count.memory, count.register, count.starts
        );
        let expected = u64::from(TIMES) * u64::from(self.kernel + 1);
        if (count.memory, count.register, count.starts) == (expected, expected, 1) {
            return Ok(first);
        }
        Err(failure("TD that counts")(&format_args!("expected count {expected}, got {count:?}")))
    }

    fn kept(&self) -> impl Iterator<Item = KeptTd> + Clone {
        self.tds.iter().filter_map(Slot::kept)
    }

    /// The VCPUs of all TDs, to be flushed.
    pub fn vcpus(&self) -> ArrayVec<Page, MAX_TDS> {
        // A TD without a KeyID has none to flush.
        let alive = self.kept().filter(|td| td.key_id.is_some() && !self.no_flush);
        alive.filter_map(|td| td.vcpu).collect()
    }

    /// Writes the takeover table for the next kernel. `began` is the time-stamp counter at the
    /// start of the handover.
    ///
    /// # Safety
    /// Nothing uses `place`.
    pub unsafe fn write_table(&self, place: PageRange, handed: &Handed<'_>, began: u64) -> Result<(), Failure> {
        let platform = TDX.platform().ok_or_else(|| failure("takeover table")(&"no TDX"))?;
        if let Some(error) = handed.not_flushed() {
            println!("first kernel: {error}");
        }
        let tsc = metal::registers::tsc();
        let facts = TakeoverFacts {
            written_by: WrittenBy::Kexec,
            tsc_adjust: tsc_adjust()?,
            tsc,
            global_key_id: platform.global_key_id(),
            not_stopped: 0,
            may_hold_private_lines: 0,
        };
        let facts = facts.with_suspects(handed.suspects());
        let first = with_exposed_provenance_mut::<u8>(place.base().get() as usize);
        // SAFETY: the caller's promise.
        let table = unsafe { core::slice::from_raw_parts_mut(first, place.bytes() as usize) };
        let written = first_kernel::write_takeover(table, &TDX, &facts, 0..AllCpus::count(), self.kept());
        let bytes = written.map_err(|error| failure("takeover table")(&error))?;
        println!(
            "@ {{\"event\":\"kept\",\"kernel\":{},\"tds\":{},\"vcpus\":{},\"not_flushed\":{},\"table_bytes\":{bytes},\"microseconds\":{}}}",
            self.kernel,
            self.kept().count(),
            self.vcpus().len(),
            handed.not_flushed().is_some(),
            metal::clock::micros_of(tsc.saturating_sub(began))
        );
        Ok(())
    }
}

fn no_memory() -> Failure {
    failure("takeover")(&"no memory")
}

/// Adopts every TD that the table calls runnable, by its number there.
fn adopt(
    host: TdHost<'static>,
    table: &TakeoverTable<'static>,
) -> Result<ArrayVec<(u32, Td<'static, Runnable>), MAX_TDS>, Failure> {
    let (mut adopted, mut lost) = (ArrayVec::<_, MAX_TDS>::new(), 0u32);
    host.adopt(&AllCpus, table, |td, result| match result {
        Ok(live) => lost += u32::from(adopted.try_push((td, live)).is_err()),
        Err(why) => {
            lost += u32::from(state_of(table, td) == Some(TdState::Runnable));
            println!("first kernel: TD {td} of the table: {why}");
        }
    });
    match lost {
        0 => Ok(adopted),
        lost => Err(failure("adopt")(&format_args!("{lost} runnable TDs not adopted"))),
    }
}

/// What `Host::take_over` is promised: the previous kernel came here by kexec with clean caches,
/// and this one has its memory, every CPU that had SYS.LP.INIT and no other, with the same
/// IA32_TSC_ADJUST.
fn check(ranges: &Ranges, table: &TakeoverTable<'_>) -> Result<(), Failure> {
    let facts = &table.facts;
    let refused = |why: &dyn Display| Err(failure("takeover")(why));
    if facts.written_by != WrittenBy::Kexec || facts.not_stopped > 0 || facts.may_hold_private_lines > 0 {
        return refused(&"the caches of the previous kernel may hold private lines");
    }
    let cpus = table.entries().filter_map(|entry| match entry {
        Entry::Cpu(cpu) => Some(cpu),
        _ => None,
    });
    if !cpus.eq(0..AllCpus::count()) {
        return refused(&"CPUs differ from the takeover table");
    }
    if let Some(outside) = tdx_abi::subtract(table.marked(), ranges.iter().map(|part| part.range)).next() {
        return refused(&format_args!("private memory {outside} is not in the memory map"));
    }
    if tsc_adjust()? == facts.tsc_adjust { Ok(()) } else { refused(&"IA32_TSC_ADJUST has changed") }
}

/// Copies the takeover table of the previous kernel out of memory that is about to be free,
/// and wipes it: when this kernel changes a TD, the table is out of date.
pub fn read_table(boot: &Boot) -> Result<TakeoverTable<'static>, Failure> {
    // In place: it is larger than a stack.
    static COPY: Mutex<[u8; TABLE]> = Mutex::new([0; TABLE]);
    let Some(module) = boot.module else { return Err(failure("takeover")(&"no table was handed over")) };
    let length = TABLE.min(module.size as usize);
    let Some(copy) = COPY.try_lock() else { return Err(failure("takeover")(&"the table was read already")) };
    let copy = MutexGuard::leak(copy);
    let from = with_exposed_provenance::<u8>(module.address as usize);
    // SAFETY: the previous kernel has written the table there, and nothing is allocated yet that
    // could lie there.
    copy[..length].copy_from_slice(unsafe { core::slice::from_raw_parts(from, length) });
    let to = with_exposed_provenance_mut::<u8>(module.address as usize);
    // SAFETY: as above; nothing else refers to it.
    drop(TakeoverWriter::new(unsafe { core::slice::from_raw_parts_mut(to, length) }));
    TakeoverTable::read(copy).map_err(|error| failure("takeover")(&error))
}

/// Keeps PAMTs and marked pages out of the allocator, with what lies around them in the same 2 MiB:
/// its list is short.
pub fn reserve_private(kernel: &mut Kernel<'_>, table: &TakeoverTable<'_>) -> Result<(), Failure> {
    let around = |range: PageRange| range.align_outward(PageSize::Size2M.bytes()).unwrap_or(range);
    let mut last = PageRange::default();
    let mut is_kept = true;
    for range in union(table.pamts(), table.marked()).map(around) {
        if range.start() <= last.end() && !last.is_empty() {
            last = PageRange::new(last.start(), last.end().max(range.end()));
        } else {
            is_kept &= kernel.reserve(last);
            last = range;
        }
    }
    if is_kept && kernel.reserve(last) {
        return Ok(());
    }
    Err(failure("takeover")(&"failed to reserve private memory of the previous kernel"))
}

/// IA32_TSC_ADJUST, the same on every CPU.
fn tsc_adjust() -> Result<u64, Failure> {
    let here = ThisProcessor.rdmsr(TSC_ADJUST).ok_or_else(|| failure("takeover")(&"no IA32_TSC_ADJUST"))?;
    let differ = AtomicU32::new(0);
    AllCpus.run_on_all(&Compare { here, differ: &differ });
    if differ.into_inner() == 0 { Ok(here) } else { Err(failure("takeover")(&"CPUs differ in IA32_TSC_ADJUST")) }
}

/// Counts CPUs with another IA32_TSC_ADJUST.
struct Compare<'d> {
    here: u64,
    differ: &'d AtomicU32,
}

impl CpuTask<HardwareCpu> for Compare<'_> {
    type Local = ();

    fn step(&self, _cpu: &HardwareCpu, (): &mut ()) -> Step {
        let is_same = ThisProcessor.rdmsr(TSC_ADJUST) == Some(self.here);
        self.differ.fetch_add(u32::from(!is_same), Ordering::Relaxed);
        Step::Done
    }
}

fn state_of(table: &TakeoverTable<'_>, of: u32) -> Option<TdState> {
    table.entries().find_map(|entry| match entry {
        Entry::Td { td, state, .. } if td == of => Some(state),
        _ => None,
    })
}

/// TDX is up: a TD of this kernel's own lives its whole life.
fn build_new_td(kernel: &mut Kernel<'_>, host: TdHost<'static>, table: &TakeoverTable<'_>) -> Result<(), Failure> {
    let pages = first_kernel::allocate_in(kernel, table.tdmrs(), 1).ok_or_else(no_memory)?;
    let shared = kernel.pages(tdx_abi::PAGE_SIZE).ok_or_else(no_memory)?;
    // SAFETY: a page that this kernel has taken for this alone.
    let mut shared = unsafe { OwnedPages::new(shared) };
    first_kernel::live(kernel, host, &RangePages::new(pages), &mut shared, &GuestMap::SMALL, TdPhase::Gone)
        .map_err(|error| failure("new TD")(&error))?;
    println!("@ {{\"event\":\"new-td\"}}");
    Ok(())
}

/// Writes what the module copies for a TD that counts.
///
/// # Safety
/// The page at `shared` is this kernel's own, and nothing else refers to it.
unsafe fn write(shared: PhysAddr, what: Copied) {
    let to = with_exposed_provenance_mut::<u8>(shared.get() as usize);
    let put = |at: usize, bytes: &[u8]| {
        // SAFETY: the caller's promise; the bytes are inside a page.
        unsafe { to.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    };
    match what {
        Copied::Params => put(0, &first_kernel::td_params()),
        Copied::GuestPage(number) => {
            // SAFETY: the caller's promise.
            unsafe { to.write_bytes(0, tdx_abi::PAGE_SIZE as usize) };
            for (at, bytes) in counting_page(number) {
                put(*at, bytes);
            }
        }
    }
}
