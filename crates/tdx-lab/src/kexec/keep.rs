//! Policy `keep`: the takeover table of the first kernel, and the next kernel that reads it, keeps
//! off what it names, adopts the TDs and runs them, or tears them down. TDX is never initialized
//! again.

use std::sync::atomic::AtomicU64;

use first_kernel::{KeptTd, TdPhase, guest_page, write_takeover};
use tdx_abi::{Leaf, Page, PageRange, PageSize, PhysAddr, Registers, union};
use tdx_host::{
    handover::Suspects,
    platform::{Cpu as _, CpuId},
    takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy},
    td::{AdoptError, Runnable, Td, TdHost, VcpuHost},
};
use tdx_machine::{Machine, MsrRead};

use super::scenario::Next;
use crate::{
    platform::{GuestAct, Lab, LabCpu, LabError, LabKernel, promise},
    report::{KeptReport, KeptTdReport, NEW_TD, RecordReport, VacuumReport, WRITTEN_BY_KEXEC},
    tds::{Hypervisor, LabTd, pool},
};
use tdx_operator::{host::Host, images, report::Address};

/// Memory that the first kernel reserves for the takeover table.
const TABLE_BYTES: usize = 1 << 20;

/// IA32_TSC_ADJUST, which is 0 on the machine until somebody writes it.
const TSC_ADJUST: u32 = 0x3b;

/// Where the next kernel has the posted-interrupt descriptors of adopted TDs, and further on the
/// root of an empty EPT for their shared memory: in its own image, which is shared memory.
const SHARED: PhysAddr = PhysAddr::new(18 << 20);

/// The measured guest page with a word that must still be there in the next kernel.
const WORD_PAGE: u64 = 3;

/// The word of a TD.
const fn word(td: u32) -> u64 {
    0x6b65_6570_0000_0000 | td as u64
}

fn on_word(leaf: Leaf, tdr: Page) -> Registers {
    Registers::call(leaf).rcx(guest_page(WORD_PAGE, PageSize::Size4K).address()).rdx(tdr.start().get())
}

/// A word in the memory of each TD that runs: MEM.WR, for which the TDs are debug TDs.
///
/// # Errors
/// [`LabError::Scenario`]: the module refuses.
pub fn write_words(cpu: &LabCpu<'_>, tds: &[LabTd<'_>]) -> Result<(), LabError> {
    for td in tds.iter().filter(|td| td.runs()) {
        let Some(kept) = td.kept() else { continue };
        let write = on_word(Leaf::MEM_WR, kept.tdr).r8(word(td.number()));
        promise::call_any(cpu, write).map_err(LabError::scenario)?;
    }
    Ok(())
}

/// The takeover table of a kernel, as it is now.
///
/// # Errors
/// [`LabError::Scenario`]: there is no TDX, or no room.
pub fn record(
    lab: &Lab<'_>,
    tdx: &tdx_host::Host<'_>,
    written_by: WrittenBy,
    suspects: &Suspects,
    tds: impl Iterator<Item = KeptTd> + Clone,
) -> Result<Vec<u8>, LabError> {
    let platform = tdx.platform().ok_or_else(|| LabError::scenario("no platform"))?;
    let facts = TakeoverFacts {
        written_by,
        tsc_adjust: match lab.ask(|machine| machine.rdmsr(tdx_machine::CpuId(0), TSC_ADJUST)) {
            Ok(MsrRead::Value(value)) => value,
            _ => 0,
        },
        tsc: 0,
        global_key_id: platform.global_key_id(),
        not_stopped: 0,
        may_hold_private_lines: 0,
    };
    let mut table = vec![0; TABLE_BYTES];
    let cpus = 0..lab.ask(Machine::cpus);
    let facts = facts.with_suspects(suspects);
    let used = write_takeover(&mut table, tdx, &facts, cpus, tds).map_err(LabError::scenario)?;
    table.truncate(used);
    Ok(table)
}

/// The VCPUs of all TDs, to be flushed.
pub(super) fn vcpus(tds: &[LabTd<'_>]) -> Vec<Page> {
    tds.iter().filter_map(LabTd::kept).filter_map(|kept: KeptTd| kept.vcpu).collect()
}

/// What the next kernel keeps off before it has an allocator: PAMTs and marked pages.
///
/// # Errors
/// [`LabError::Scenario`]: the table does not read.
pub fn reserved(record: &[u8]) -> Result<Vec<PageRange>, LabError> {
    let table = TakeoverTable::read(record).map_err(LabError::scenario)?;
    Ok(union(table.pamts(), table.marked()).collect())
}

/// The allocator of the next kernel does not have what the table names, nor what lies around it in
/// the same 2 MiB: its list is short.
///
/// # Errors
/// [`LabError::Scenario`]: the table does not read, or the list is full.
pub fn keep_off(kernel: &mut LabKernel<'_>, host: &Host, record: &[u8]) -> Result<(), LabError> {
    let kept = reserved(record)?;
    let around = kept.iter().map(|range| range.align_outward(PageSize::Size2M.bytes()).unwrap_or(*range));
    let around = around.fold(Vec::new(), |all: Vec<PageRange>, range| union(all, [range]).collect());
    // This kernel's own image is in no allocator.
    if tdx_abi::subtract(around, [images::pages(host)]).all(|part| kernel.reserve(part)) {
        return Ok(());
    }
    Err(LabError::Scenario("the next kernel cannot reserve what the first one has left".to_owned()))
}

/// Private lines of PAMT and of the pages of these TDs, in memory or on their way there.
pub fn lines_of(machine: &Machine, pamts: &[PageRange], tdrs: &[Page]) -> u64 {
    let mut settled = machine.clone();
    settled.write_back_all();
    let of_tds = settled.assigned_pages().into_iter().filter(|run| run.tdr.is_some_and(|tdr| tdrs.contains(&tdr)));
    let of_tds = of_tds.map(|run| run.pages).collect::<Vec<_>>();
    pamts.iter().chain(&of_tds).map(|range| settled.private_lines_in(range.lines())).sum()
}

/// The next kernel, from its record to TDs that run or are gone. `old` are the TDs of the first
/// one. The record is wiped: it is out of date for a third kernel.
///
/// # Errors
/// [`LabError`]: the record does not read, or there is no room. What a TD does not do is no error.
pub fn take_over(
    machine: &Machine,
    host: &Host,
    record: &mut [u8],
    next: Next,
    old: &[LabTd<'_>],
) -> Result<KeptReport, LabError> {
    let lab = Lab::on(machine.clone(), &())?;
    let tdx = Box::new(tdx_host::Host::new(lab.slots()));
    tdx.detect(&lab).map_err(LabError::NoTdx)?;
    let own = record.to_vec();
    let table = TakeoverTable::read(&own).map_err(LabError::scenario)?;
    let mut words: Vec<AtomicU64> = (0..table.claim_words()).map(|_| AtomicU64::new(0)).collect();
    let tds = promise::take_over(&tdx, &table, &mut words).map_err(LabError::scenario)?;
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    let kept = reserved(&own)?;
    keep_off(&mut kernel, host, &own)?;
    // From here on TDs change. A crash would write a table of its own.
    drop(TakeoverWriter::new(record).map_err(LabError::scenario)?);
    let pamts: Vec<PageRange> = table.pamts().collect();

    let mut reports: Vec<KeptTdReport> = Vec::new();
    let mut adopted: Vec<(u32, Td<'_, Runnable>)> = Vec::new();
    if next == Next::Run {
        let mut refused: Vec<(u32, AdoptError)> = Vec::new();
        tds.adopt(kernel.cpus(), &table, |td, result| match result {
            Ok(live) => adopted.push((td, live)),
            Err(why) => refused.push((td, why)),
        });
        reports.extend(refused.into_iter().map(|(td, why)| {
            let listed = Listed::of(&table, old, td);
            KeptTdReport::not_adopted(listed.number, listed.runnable, &why)
        }));
    }
    let tdrs: Vec<Page> = adopted.iter().map(|(_, td)| td.tdr()).collect();
    let expected = lines_of(machine, &pamts, &tdrs);

    let keys = table.entries().filter_map(|entry| match entry {
        Entry::Td { tdr, key_id: Some(key), .. } => Some((tdr, key)),
        _ => None,
    });
    let vacuumed = promise::vacuum(tds, kernel.cpus(), &keys, &tdrs, |_| ());
    for (index, (td, live)) in adopted.iter().enumerate() {
        let listed = Listed::of(&table, old, *td);
        // Each on a CPU of its own, if there are so many: mostly not the one that it ran on before.
        let cpu = CpuId((index as u32 + 1) % lab.ask(Machine::cpus));
        reports.push(run(&lab, &mut kernel, &table, *td, listed, live, cpu));
    }
    reports.sort_by_key(|report| report.td);
    let tdx_again = build_another(&lab, &mut kernel, tds);
    lab.check()?;
    drop(adopted);
    lab.act(Machine::write_back_all);
    Ok(KeptReport {
        record: RecordReport {
            written_by: match table.facts.written_by {
                WrittenBy::Kexec => WRITTEN_BY_KEXEC,
                WrittenBy::Crash => "crash",
            },
            bytes: own.len(),
            entries: table.entries().count(),
            tds: table.tds(),
        },
        reserved_bytes: kept.iter().map(|range| range.bytes()).sum(),
        next: next.name(),
        tds: reports,
        vacuum: VacuumReport {
            tds: vacuumed.tds,
            pages: vacuumed.pages,
            pages_kept: vacuumed.left,
            error: vacuumed.error.map(|error| error.to_string()),
        },
        new_td: tdx_again,
        private_lines: lab.ask(Machine::private_lines),
        private_lines_computed: expected,
    })
}

/// What the table and the first kernel's report say of a TD.
#[derive(Clone, Copy)]
struct Listed {
    /// In the report.
    number: u32,
    runnable: bool,
}

impl Listed {
    fn of(table: &TakeoverTable<'_>, old: &[LabTd<'_>], of: u32) -> Self {
        let entry = table.entries().find_map(|entry| match entry {
            Entry::Td { td, tdr, state, .. } if td == of => Some((tdr, state)),
            _ => None,
        });
        let known = old.iter().find(|td| td.kept().map(|kept| kept.tdr) == entry.map(|(tdr, _)| tdr));
        Self {
            number: known.map_or(of, LabTd::number),
            runnable: entry.is_some_and(|(_, state)| state == TdState::Runnable),
        }
    }
}

/// The VCPU of an adopted TD is entered on another CPU than before, and its guest finds its memory.
fn run(
    lab: &Lab<'_>,
    kernel: &mut LabKernel<'_>,
    table: &TakeoverTable<'_>,
    of: u32,
    Listed { number: td, runnable }: Listed,
    live: &Td<'_, Runnable>,
    on: CpuId,
) -> KeptTdReport {
    let before = kernel.this_cpu().id();
    kernel.move_to(on);
    let cpu = kernel.this_cpu();
    let adopted = || KeptTdReport {
        td,
        key_id: Some(live.key_id().get()),
        tdr: Some(Address(live.tdr().start())),
        runnable,
        adopted: true,
        runs: false,
        cpu: None,
        why: None,
    };
    let failed =
        |what: &str, why: &dyn std::fmt::Display| KeptTdReport { why: Some(format!("{what}: {why}")), ..adopted() };
    let report = (|| {
        let Some((_, vcpu)) = table.vcpus(of).next() else { return failed("VP.ENTER", &"the table lists no VCPU") };
        let descriptor = PhysAddr::new(SHARED.get() + 64 * u64::from(of));
        let root = PhysAddr::new(SHARED.get() + (1 << 20));
        let host = VcpuHost { posted_interrupts: Some((0xf2, descriptor)), shared_ept: Some(root) };
        if let Err(error) = promise::resume_vcpu(live, &cpu, vcpu, &host) {
            return failed("VP.WR", &error);
        }
        let address = |page| guest_page(page, PageSize::Size4K).address();
        let acts = [GuestAct::Load(address(WORD_PAGE)), GuestAct::Store(address(WORD_PAGE) + 64)];
        lab.let_guest(acts);
        if let Err(error) = promise::call_any(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())) {
            return failed("VP.ENTER", &error);
        }
        if lab.guest_did() != acts.len() {
            return failed("the guest", &"it does not find its memory");
        }
        match promise::call_any(&cpu, on_word(Leaf::MEM_RD, live.tdr())) {
            Err(error) => failed("MEM.RD", &error),
            Ok(answer) if answer.r8 != word(td) => {
                failed("the guest", &format_args!("its word is {:#x}, it was {:#x}", answer.r8, word(td)))
            }
            Ok(_) => KeptTdReport { runs: true, cpu: Some(on.0), ..adopted() },
        }
    })();
    kernel.move_to(before);
    report
}

/// TDX is up: a TD of the next kernel's own lives from MNG.CREATE to the reset of its TDR.
fn build_another(lab: &Lab<'_>, kernel: &mut LabKernel<'_>, tds: TdHost<'_>) -> String {
    let Some(pool) = pool(tds.ledger(), kernel, 1) else { return "no TDMR has room for another TD".to_owned() };
    match Hypervisor::new(lab, kernel, tds, pool).live(0, TdPhase::Gone) {
        Ok(_) => NEW_TD.to_owned(),
        Err(error) => error.to_string(),
    }
}
