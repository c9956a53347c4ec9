//! A kernel hands over by policy `keep`, or panics; the next one adopts its TDs and runs them, or
//! tears them down, and believes of the takeover table what the module says as well.

use std::sync::atomic::AtomicU64;

use first_kernel::{AnyPolicy, TdPhase, write_takeover};
use tdx_abi::{KeyId, Leaf, Page, PageRange, PageSize, Registers, StatusCode};
use tdx_host::handover::{KexecKind, Outcome, Policy, Suspects};
use tdx_host::platform::Cpu as _;
use tdx_host::takeover::{Entry, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy};
use tdx_host::td::{AdoptError, Runnable, Td, TdHost, VcpuHost};
use tdx_lab::kexec::{self, Hole, KexecOptions, Next, keep};
use tdx_lab::platform::{Lab, LabKernel, promise};
use tdx_lab::report::{KexecReport, Verdict};
use tdx_lab::tds::{Hypervisor, LabTd, pool, track};
use tdx_machine::{CpuId, Machine, ModuleProfile};
use tdx_operator::host::{Host, HostOptions};

const SMALL: &str = include_str!("../../../fixtures/made-up/spr-small.toml");

const TINY: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n\
                    [tdx]\nkey_ids = \"[32, 64)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";

fn host(text: &str) -> Host {
    Host::from_reader("host", text.as_bytes(), &HostOptions::default()).unwrap()
}

fn run(options: KexecOptions) -> KexecReport {
    let options = KexecOptions { policy: AnyPolicy::Product(Policy::Keep), tds: 5, ..options };
    kexec::run(&host(SMALL), options, &()).unwrap()
}

/// TDs 0 and 4 run, 1 is half built, 2 half torn down, 3 gone.
#[test]
fn tds_run_on_in_the_next_kernel() {
    for hole in [None, Some(Hole::Returned), Some(Hole::OldModule)] {
        let report = run(KexecOptions { hole, ..KexecOptions::default() });
        assert_eq!((report.verdict, report.handover.outcome), (Verdict::Clean, "kept"), "{report:#?}");
        // The page that was returned, and no other.
        assert_eq!(report.handover.lines, if hole == Some(Hole::Returned) { 64 } else { 0 });
        let kept = report.kept.unwrap();
        let of = |runs| kept.tds.iter().filter(|td| td.runs == runs).map(|td| td.td).collect::<Vec<_>>();
        assert_eq!((of(true), of(false)), (vec![0, 4], vec![1, 2]), "{kept:#?}");
        assert_eq!((kept.record.written_by, kept.record.tds, kept.vacuum.tds), ("kexec", 4, 2));
        let pamt = report.private_before.pamt_4k + report.private_before.pamt_2m + report.private_before.pamt_1g;
        assert!(kept.private_lines > pamt && kept.private_lines == kept.private_lines_computed);
        // The table still names what was reset: the next kernel gets it back from the vacuum.
        let left: u64 = report.uncleaned.iter().map(|left| left.range.unwrap().size).sum();
        assert_eq!(left + 64 * report.handover.lines, kept.reserved_bytes);
    }
}

#[test]
fn the_next_kernel_tears_all_of_them_down() {
    for crash in [false, true] {
        let report = run(KexecOptions { crash, next: Some(Next::Vacuum), ..KexecOptions::default() });
        assert_eq!(report.verdict, Verdict::Clean, "{report:#?}");
        let kept = report.kept.unwrap();
        let pamt = report.private_before.pamt_4k + report.private_before.pamt_2m + report.private_before.pamt_1g;
        assert_eq!((kept.vacuum.tds, kept.vacuum.pages_kept, kept.private_lines), (4, 0, pamt), "{kept:#?}");
        assert_eq!(kept.record.written_by, if crash { "crash" } else { "kexec" });
    }
}

/// What the CPUs held of the VCPUs is lost.
#[test]
fn after_a_crash_no_td_is_run() {
    let report = run(KexecOptions { crash: true, next: Some(Next::Run), ..KexecOptions::default() });
    let kept = report.kept.unwrap();
    assert!(kept.tds.iter().all(|td| !td.adopted), "{kept:#?}");
    let not_flushed = AdoptError::NotFlushed { vcpus: 1 }.to_string();
    assert_eq!(kept.tds[0].why.as_ref(), Some(&not_flushed), "{kept:#?}");
    assert_eq!((report.verdict, kept.vacuum.tds), (Verdict::Clean, 4));
}

/// What an old kernel leaves.
struct Left {
    machine: Machine,
    table: Vec<u8>,
    /// The pool of its TDs, and PAMT.
    taken: Vec<PageRange>,
}

const FACTS: TakeoverFacts = TakeoverFacts {
    written_by: WrittenBy::Kexec,
    tsc_adjust: 0,
    tsc: 0,
    global_key_id: KeyId::new(32),
    not_stopped: 0,
    may_hold_private_lines: 0,
};

/// Two TDs that run, left by the product's own kexec.
fn leave(host: &Host, module: ModuleProfile) -> Left {
    leave_with(host, module, |_| ())
}

/// The same; `before` comes between the handover and the takeover table.
fn leave_with(host: &Host, module: ModuleProfile, before: impl FnOnce(TdHost<'_>)) -> Left {
    let lab = Lab::with_module(host, module, &()).unwrap();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    tdx.bring_up(&mut kernel, host.memory()).unwrap();
    let mut words = Vec::new();
    let tds = track(&tdx, &mut words).unwrap();
    let pool = pool(tds.ledger(), &mut kernel, 2).unwrap();
    let taken = kernel.taken().to_vec();
    let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool).of_debug_tds();
    // By their numbers in the table.
    let live: Vec<LabTd<'_>> = (1..3).map(|number| hypervisor.live(number, TdPhase::Running).unwrap()).collect();
    keep::write_words(&kernel.this_cpu(), &live).unwrap();
    let kept = live.iter().filter_map(LabTd::kept);
    let vcpus: Vec<Page> = kept.clone().filter_map(|td| td.vcpu).collect();
    let stopped = tdx.kexec(Policy::Keep, KexecKind::Normal).unwrap().stop_other_cpus(&kernel).unwrap();
    let report = stopped.flush_vcpus(&vcpus).write_back_caches().reset();
    assert!(matches!(report.outcome, Outcome::Kept(_)) && report.not_flushed.is_none(), "{report:?}");
    assert_eq!(report.suspects, Suspects::default());
    before(tds);
    let mut table = vec![0; 1 << 16];
    let used = write_takeover(&mut table, &tdx, &FACTS, 0..2, kept).unwrap();
    table.truncate(used);
    lab.act(Machine::kexec_boundary);
    lab.check().unwrap();
    let machine = lab.ask(Clone::clone);
    assert_eq!(machine.dirty_private_lines(), 0);
    drop(live);
    Left { machine, table, taken }
}

/// The same table with other entries.
fn rewrite(table: &[u8], change: impl Fn(Entry) -> Option<Entry>) -> Vec<u8> {
    let old = TakeoverTable::read(table).unwrap();
    let mut new = vec![0; table.len() + 1024];
    let mut writer = TakeoverWriter::new(&mut new).unwrap();
    old.entries().filter_map(change).for_each(|entry| writer.entry(entry).unwrap());
    let used = writer.finish(&old.facts);
    new.truncate(used);
    new
}

/// The next kernel takes over by `table`, and adopts by `by`.
fn adopt(
    host: &Host,
    left: &Left,
    table: &[u8],
    by: &[u8],
    then: impl FnOnce(&Lab<'_>, &mut LabKernel<'_>, TdHost<'_>, Vec<(u32, Result<Td<'_, Runnable>, AdoptError>)>),
) {
    let lab = Lab::on(left.machine.clone(), &()).unwrap();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let (table, by) = (TakeoverTable::read(table).unwrap(), TakeoverTable::read(by).unwrap());
    let mut words: Vec<_> = (0..table.claim_words()).map(|_| AtomicU64::new(u64::MAX)).collect();
    let tds = promise::take_over(&tdx, &table, &mut words).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    for range in &left.taken {
        let _ = kernel.reserve(*range);
    }
    let mut all = Vec::new();
    tds.adopt(kernel.cpus(), &by, |td, result| all.push((td, result)));
    all.sort_by_key(|(td, _)| *td);
    then(&lab, &mut kernel, tds, all);
    lab.check().unwrap();
}

fn errors(host: &Host, left: &Left, table: &[u8], by: &[u8]) -> [Option<AdoptError>; 2] {
    let mut errors = [None; 2];
    adopt(host, left, table, by, |_, _, _, all| {
        assert_eq!(all.len(), 2);
        for (place, (_, result)) in errors.iter_mut().zip(all) {
            *place = result.err();
        }
    });
    errors
}

/// The old kernel may have called all pages unknown to the module, those of the TDs' TDRs too.
#[test]
fn an_adopted_td_lives_like_any_other() {
    let host = host(TINY);
    let unsure = leave_with(&host, ModuleProfile::V1_5_01, |tds| drop(tds.ledger().returning()));
    let table = TakeoverTable::read(&unsure.table).unwrap();
    assert!(table.unknown_to_module().eq(table.marked()));
    for left in [leave(&host, ModuleProfile::V1_5_01), leave(&host, ModuleProfile::V1_5_25), unsure] {
        adopt(&host, &left, &left.table, &left.table, |lab, kernel, tds, all| {
            let table = TakeoverTable::read(&left.table).unwrap();
            let (cpu, mut back) = (kernel.this_cpu(), 0);
            for (number, td) in all {
                let td = td.unwrap();
                let vcpu = table.vcpus(number).next().unwrap().1;
                assert_eq!(promise::resume_vcpu(&td, &cpu, vcpu, &VcpuHost::default()).unwrap(), 0);
                promise::call_any(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())).unwrap();
                // A page leaves it at run time, and the whole TD after it.
                let gpa = first_kernel::guest_page(3, PageSize::Size4K);
                let before = td.pages();
                td.block(&cpu, gpa, PageSize::Size4K).unwrap();
                td.track(&cpu).unwrap();
                drop(td.remove_page(&cpu, gpa, PageSize::Size4K).unwrap().release());
                assert_eq!(td.pages(), before - 1);
                let dying = td.tear_down();
                dying.flush_vcpus(kernel.cpus(), &[vcpu]).unwrap();
                let dead = dying.free_key(kernel.cpus()).unwrap();
                dead.reclaim_all(&cpu, |page| back += page.unwrap().release().pages());
                drop(dead.finish(&cpu).unwrap().release());
            }
            assert!(back > 2 * 2048, "{back} pages came back");
            assert_eq!((tds.ledger().marked_pages(), tds.ledger().leaked_pages()), (0, 0));
            let pamts: u64 =
                table.pamts().map(|range| lab.ask(|machine| machine.private_lines_in(range.lines()))).sum();
            assert_eq!(lab.ask(Machine::private_lines), pamts);
        });
    }
}

#[test]
fn a_td_is_adopted_once() {
    let host = host(TINY);
    let left = leave(&host, ModuleProfile::V1_5_01);
    adopt(&host, &left, &left.table, &left.table, |lab, kernel, tds, first| {
        assert!(first.iter().all(|(_, td)| td.is_ok()));
        let table = TakeoverTable::read(&left.table).unwrap();
        let mut again = Vec::new();
        tds.adopt(kernel.cpus(), &table, |_, td| again.push(td.unwrap_err()));
        let refused = |errors: &[AdoptError]| {
            errors.len() == 2 && errors.iter().all(|error| matches!(error, AdoptError::NotInherited { .. }))
        };
        assert!(refused(&again), "{again:?}");
        // Nor is a TD of this kernel's own, whatever a table says: its KeyID was never inherited.
        let pool = pool(tds.ledger(), kernel, 1).unwrap();
        let own = Hypervisor::new(lab, kernel, tds, pool).live(3, TdPhase::Running).unwrap();
        let own = own.kept().unwrap();
        let forged = rewrite(&left.table, |entry| match entry {
            Entry::Td { td: 1, state, .. } => Some(Entry::Td { td: 1, state, tdr: own.tdr, key_id: own.key_id }),
            Entry::Vcpu { td: 1, vcpu, .. } => Some(Entry::Vcpu { td: 1, vcpu, page: own.vcpu? }),
            other => Some(other),
        });
        let mut errors = Vec::new();
        tds.adopt(kernel.cpus(), &TakeoverTable::read(&forged).unwrap(), |_, td| errors.push(td.unwrap_err()));
        assert!(refused(&errors), "{errors:?}");
        assert!(errors.iter().any(|error| Some(*error) == own.key_id.map(|key| AdoptError::NotInherited { key })));
    });
}

/// Each false entry of a table gives its error; the other TD is still adopted.
#[test]
fn the_module_decides_not_the_table() {
    let host = host(TINY);
    let left = leave(&host, ModuleProfile::V1_5_25);
    let table = TakeoverTable::read(&left.table).unwrap();
    let of_td = |wanted: u32| {
        table.entries().find_map(|entry| match entry {
            Entry::Td { td, tdr, key_id: Some(key), .. } if td == wanted => Some((tdr, key)),
            _ => None,
        })
    };
    let (first, key) = of_td(1).unwrap();
    let vcpu = table.vcpus(1).next().unwrap().1;
    let with =
        |change: &dyn Fn(Entry) -> Option<Entry>| errors(&host, &left, &left.table, &rewrite(&left.table, change));
    let td = |change: fn(Page, KeyId) -> (Page, Option<KeyId>)| {
        with(&|entry| match entry {
            Entry::Td { td: 1, state, tdr, key_id: Some(key) } => {
                let (tdr, key_id) = change(tdr, key);
                Some(Entry::Td { td: 1, state, tdr, key_id })
            }
            entry => Some(entry),
        })
    };
    assert_eq!(errors(&host, &left, &left.table, &left.table), [None, None]);
    assert_eq!(td(|tdr, _| (tdr, None)), [Some(AdoptError::NoKeyId), None]);
    let page = Page::new(first.index() + 1);
    assert_eq!(td(|tdr, key| (Page::new(tdr.index() + 1), Some(key))), [Some(AdoptError::NotATd { tdr: page }), None]);
    let outside = td(|_, key| (Page::new(0), Some(key)));
    assert_eq!(outside, [Some(AdoptError::NotATd { tdr: Page::new(0) }), None]);
    let lies = td(|tdr, key| (tdr, Some(KeyId::new(key.get() + 7))));
    let has = u64::from(key.get());
    assert_eq!(lies, [Some(AdoptError::OtherKeyId { listed: KeyId::new(key.get() + 7), has }), None]);
    // The same TD twice: the second time its KeyID has an owner.
    let twice = with(&|entry| match entry {
        Entry::Td { td: 2, state, .. } => Some(Entry::Td { td: 2, state, tdr: first, key_id: Some(key) }),
        entry => Some(entry),
    });
    assert_eq!(twice, [None, Some(AdoptError::NotInherited { key })]);
    // A VCPU that is missing, and one of the other TD.
    let missing = with(&|entry| Some(entry).filter(|entry| !matches!(entry, Entry::Vcpu { td: 1, .. })));
    assert_eq!(missing, [Some(AdoptError::Vcpus { has: 1, listed: 0 }), None]);
    let foreign = with(&|entry| match entry {
        Entry::Vcpu { td: 2, vcpu: number, .. } => Some(Entry::Vcpu { td: 2, vcpu: number, page: vcpu }),
        entry => Some(entry),
    });
    assert_eq!(foreign, [None, Some(AdoptError::NotAVcpu { page: vcpu })]);
    // A VCPU that is listed twice stands for one that is not listed.
    let twice = with(&|entry| match entry {
        Entry::Vcpu { td: 1, page, .. } => Some(Entry::Vcpu { td: 1, vcpu: 0, page }),
        Entry::Vcpu { td: 2, .. } => Some(Entry::Vcpu { td: 1, vcpu: 1, page: vcpu }),
        entry => Some(entry),
    });
    assert_eq!(twice, [Some(AdoptError::VcpuTwice { page: vcpu }), Some(AdoptError::Vcpus { has: 1, listed: 0 })]);
}

/// A kernel that was interrupted in its vacuum may have flushed a VCPU whose state was lost: of
/// that the module knows nothing.
#[test]
fn a_td_that_the_table_calls_dying_is_not_adopted() {
    let host = host(TINY);
    let left = leave(&host, ModuleProfile::V1_5_01);
    let in_state = |state: TdState| {
        let table = rewrite(&left.table, |entry| match entry {
            Entry::Td { td: 1, tdr, key_id, .. } => Some(Entry::Td { td: 1, state, tdr, key_id }),
            entry => Some(entry),
        });
        errors(&host, &left, &table, &table)
    };
    assert_eq!(in_state(TdState::Dying), [Some(AdoptError::Dying), None]);
    // A crash may come before a kernel has entered that it has finalized the TD.
    assert_eq!(in_state(TdState::Building), [None, None]);
}

/// A page of a TD without a mark may be in use by this kernel: the TD is not adopted.
#[test]
fn a_td_with_a_page_that_is_not_marked_is_not_adopted() {
    let host = host(TINY);
    let left = leave(&host, ModuleProfile::V1_5_01);
    // The last guest page that TD 2 has.
    let runs = left.machine.assigned_pages();
    let table = TakeoverTable::read(&left.table).unwrap();
    let tdr = table.entries().find_map(|entry| if let Entry::Td { td: 2, tdr, .. } = entry { Some(tdr) } else { None });
    let gone = runs.iter().rfind(|run| run.tdr == tdr && run.kind == tdx_machine::AssignedKind::Guest).unwrap().pages;
    let gone = PageRange::new(Page::new(gone.end().index() - 1), gone.end());
    let without = {
        let marked: Vec<PageRange> = tdx_abi::subtract(table.marked(), [gone]).collect();
        let mut new = vec![0; left.table.len() + 1024];
        let mut writer = TakeoverWriter::new(&mut new).unwrap();
        let entries: Vec<Entry> = table.entries().collect();
        let at = entries.iter().position(|entry| matches!(entry, Entry::Marked(_))).unwrap();
        for entry in &entries[..at] {
            writer.entry(*entry).unwrap();
        }
        for range in marked {
            writer.entry(Entry::Marked(range)).unwrap();
        }
        entries[at..]
            .iter()
            .filter(|entry| !matches!(entry, Entry::Marked(_)))
            .for_each(|entry| writer.entry(*entry).unwrap());
        let used = writer.finish(&table.facts);
        new.truncate(used);
        new
    };
    let [first, second] = errors(&host, &left, &without, &without);
    assert_eq!(first, None);
    assert!(matches!(second, Some(AdoptError::Unmarked { has, marked }) if has > marked), "{second:?}");
}

/// The TDR of a TD of the table.
fn tdr_of(table: &[u8], wanted: u32) -> Page {
    let table = TakeoverTable::read(table).unwrap();
    let mut entries = table.entries();
    entries
        .find_map(|entry| if let Entry::Td { td, tdr, .. } = entry { (td == wanted).then_some(tdr) } else { None })
        .unwrap()
}

#[test]
fn a_td_that_is_fatal_is_not_adopted() {
    let host = host(TINY);
    for module in [ModuleProfile::V1_5_01, ModuleProfile::V1_5_25] {
        let mut left = leave(&host, module);
        assert!(left.machine.make_td_fatal(tdr_of(&left.table, 2)));
        assert_eq!(errors(&host, &left, &left.table, &left.table), [None, Some(AdoptError::Fatal)]);
    }
}

/// A TD that could run is not adopted: it is torn down, and all else is well. The verdict says so.
#[test]
fn a_td_that_could_run_and_does_not_is_lost() {
    let host = host(TINY);
    let mut left = leave(&host, ModuleProfile::V1_5_01);
    let take_over = |machine: &Machine| {
        let mut table = left.table.clone();
        let kept = keep::take_over(machine, &host, &mut table, Next::Run, &[]).unwrap();
        assert!(TakeoverTable::read(&table).is_err(), "a third kernel would believe it");
        kept
    };
    let kept = take_over(&left.machine);
    assert_eq!((Verdict::Clean.with_kept(Some(&kept)), kept.vacuum.tds), (Verdict::Clean, 0), "{kept:#?}");
    assert!(left.machine.make_td_fatal(tdr_of(&left.table, 2)));
    let kept = take_over(&left.machine);
    assert_eq!(kept.tds[1].why, Some(AdoptError::Fatal.to_string()));
    assert_eq!((kept.vacuum.tds, kept.vacuum.error.as_ref(), kept.new_td.as_str()), (1, None, "built, ran, torn down"));
    assert_eq!(kept.private_lines, kept.private_lines_computed);
    assert_eq!(Verdict::Clean.with_kept(Some(&kept)), Verdict::TdxLost);
}

/// A kernel that "repairs" IA32_TSC_ADJUST cannot enter inherited TDs.
#[test]
fn another_tsc_adjust_is_told_by_the_module() {
    const TSC_ADJUST: u32 = 0x3b;
    let host = host(TINY);
    let left = leave(&host, ModuleProfile::V1_5_01);
    adopt(&host, &left, &left.table, &left.table, |lab, kernel, _, mut all| {
        let table = TakeoverTable::read(&left.table).unwrap();
        let td = all.remove(0).1.unwrap();
        let vcpu = table.vcpus(1).next().unwrap().1;
        let cpu = kernel.this_cpu();
        lab.act(|machine| machine.set_msr(CpuId(cpu.id().0), TSC_ADJUST, 1 << 40)).unwrap();
        promise::resume_vcpu(&td, &cpu, vcpu, &VcpuHost::default()).unwrap();
        let error = promise::call_any(&cpu, Registers::call(Leaf::VP_ENTER).rcx_address(vcpu.start())).unwrap_err();
        assert_eq!(error.status().code(), StatusCode::INCONSISTENT_MSR);
    });
}
