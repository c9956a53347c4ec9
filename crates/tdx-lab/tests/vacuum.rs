//! A kernel leaves TDX as it was, with TDs in every phase; the next one takes the module over from
//! the takeover table, tears the TDs down, and builds its own. Nothing private is left but PAMT.

use std::sync::atomic::AtomicU64;

use first_kernel::TdPhase;
use tdx_abi::{KeyId, Leaf, PageRange, Status};
use tdx_host::HostError;
use tdx_host::handover::{KexecKind, Outcome, Policy};
use tdx_host::takeover::{Entry, TakeoverError, TakeoverFacts, TakeoverTable, TakeoverWriter, TdState, WrittenBy};
use tdx_host::td::Vacuumed;
use tdx_lab::platform::{Lab, LabKernel, promise};
use tdx_lab::tds::{Hypervisor, LabTd, pool, track};
use tdx_machine::{Fault, Machine, ModuleProfile, PartialStore, When};
use tdx_operator::host::{Host, HostOptions};

const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n\
                    [tdx]\nkey_ids = \"[32, 64)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";

fn host() -> Host {
    Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap()
}

/// What the old kernel leaves: its machine, and the table.
struct Left {
    machine: Machine,
    table: Vec<u8>,
    pamt_lines: u64,
    taken: Vec<PageRange>,
}

/// A kernel with a TD in each phase, which leaves all of it as it is. `listed`: it names its TDs.
fn leave(host: &Host, module: ModuleProfile, listed: bool) -> Left {
    let lab = Lab::with_module(host, module, &()).unwrap();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    tdx.bring_up(&mut kernel, host.memory()).unwrap();
    let pamt_lines = lab.ask(Machine::private_lines);
    let mut words = Vec::new();
    let tds = track(&tdx, &mut words).unwrap();
    let pool = pool(tds.ledger(), &mut kernel, 8).unwrap();
    let taken = kernel.taken().to_vec();
    let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
    let live: Vec<LabTd<'_>> = (0..8).map(|number| hypervisor.live(number, TdPhase::of(number)).unwrap()).collect();

    let mut table = vec![0; 1 << 20];
    let mut writer = TakeoverWriter::new(&mut table).unwrap();
    tdx.write_takeover(&mut writer).unwrap();
    // A KeyID that was freed is another TD's by now.
    let here = live.iter().map(LabTd::report).filter(|report| listed && report.state != "gone");
    let of_td =
        here.filter_map(|report| Some((report.tdr?, report.key_id.filter(|_| report.state != "half-torn-down"))));
    for (td, (tdr, key)) in (1..).zip(of_td) {
        let key_id = key.map(KeyId::new);
        writer.entry(Entry::Td { td, state: TdState::Unknown, tdr: tdr.0.page(), key_id }).unwrap();
    }
    let facts = TakeoverFacts {
        written_by: WrittenBy::Kexec,
        tsc_adjust: 0,
        tsc: 0,
        global_key_id: tdx.platform().unwrap().global_key_id(),
        not_stopped: 0,
        may_hold_private_lines: 0,
    };
    let used = writer.finish(&facts);
    table.truncate(used);
    tdx.gate().close();
    lab.act(|machine| {
        for cpu in 0..machine.cpus() {
            machine.wbinvd(tdx_machine::CpuId(cpu)).unwrap();
        }
        machine.kexec_boundary();
    });
    lab.check().unwrap();
    drop(live);
    Left { machine: lab.ask(Clone::clone), table, pamt_lines, taken }
}

/// The next kernel vacuums, if `fault` lets it, then builds a TD and hands a clean machine over.
fn vacuum(host: &Host, left: &Left, fault: Option<(Fault, When)>) -> (Vacuumed, u64) {
    let lab = Lab::on(left.machine.clone(), &()).unwrap();
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).unwrap();
    let table = TakeoverTable::read(&left.table).unwrap();
    let mut words: Vec<_> = (0..table.claim_words()).map(|_| AtomicU64::new(u64::MAX)).collect();
    let tds = promise::take_over(&tdx, &table, &mut words).unwrap();
    assert!(tds.ledger().marked().eq(table.marked()));
    assert!(tdx.pamt_ranges().eq(table.pamts()));
    let mut kernel = LabKernel::new(&lab, &tdx, host);
    for range in &left.taken {
        let _ = kernel.reserve(*range);
    }
    if let Some((fault, when)) = fault {
        lab.act(|machine| machine.inject(fault, when));
    }
    let keys = table.entries().filter_map(|entry| match entry {
        Entry::Td { tdr, key_id: Some(key), .. } => Some((tdr, key)),
        _ => None,
    });
    let mut pages = 0;
    let done = promise::vacuum(tds, kernel.cpus(), &keys, &[], |page| pages += page.size().pages());
    assert_eq!((done.pages, done.left), (pages, tds.ledger().marked_pages()));
    let private = lab.ask(Machine::private_lines);

    // TDX is up: a TD of this kernel's own, and a kexec that resets everything.
    if fault.is_none() {
        let pool = pool(tds.ledger(), &mut kernel, 1).unwrap();
        let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
        drop(hypervisor.live(0, TdPhase::Running).unwrap());
    }
    let report = tdx.kexec(Policy::Tracked, KexecKind::Normal).unwrap().stop_other_cpus(&kernel).unwrap();
    let report = report.ask_module(|_| ()).write_back_caches().reset();
    assert!(matches!(report.outcome, Outcome::Reset(_)) && report.is_clean(&tdx.memory()), "{report:?}");
    lab.act(|machine| {
        machine.kexec_boundary();
        assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
        for part in host.memory() {
            let used = machine.use_memory(tdx_machine::CpuId(0), part.range, PartialStore::NonTemporal).unwrap();
            assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0));
        }
    });
    lab.check().unwrap();
    (done, private)
}

#[test]
fn tds_of_the_old_kernel_are_torn_down_and_tdx_goes_on() {
    let host = host();
    for module in [ModuleProfile::V1_5_01, ModuleProfile::V1_5_25] {
        for listed in [true, false] {
            let left = leave(&host, module, listed);
            assert!(left.machine.private_lines() > left.pamt_lines);
            let (done, private) = vacuum(&host, &left, None);
            assert!(done.error.is_none(), "{done:?}");
            // Two of the eight were gone before.
            assert_eq!((done.tds, done.left, private), (6, 0, left.pamt_lines), "{done:?}");
        }
    }
}

/// Each SEAMCALL of a vacuum fails once: what is left is marked, and the next kexec resets it.
#[test]
fn a_vacuum_that_fails_leaves_its_pages_marked() {
    let host = host();
    let left = leave(&host, ModuleProfile::V1_5_01, true);
    let refuse = Fault::Answer(Status::new(0xc000_0100_0000_0000));
    for leaf in [
        Leaf::PHYMEM_PAGE_RDMD,
        Leaf::VP_FLUSH,
        Leaf::MNG_VPFLUSHDONE,
        Leaf::PHYMEM_CACHE_WB,
        Leaf::MNG_KEY_FREEID,
        Leaf::PHYMEM_PAGE_RECLAIM,
        Leaf::PHYMEM_PAGE_WBINVD,
    ] {
        let (done, private) = vacuum(&host, &left, Some((refuse, When::CallOf(leaf, 1))));
        assert!(done.error.is_some(), "{leaf}: {done:?}");
        assert!(private <= left.pamt_lines + done.left * 64, "{leaf}: {private} private lines, {done:?}");
    }
}

/// The same at SEAMCALLs all over a vacuum: every eleventh.
#[test]
fn a_vacuum_that_fails_at_any_call_leaves_its_pages_marked() {
    let host = host();
    let left = leave(&host, ModuleProfile::V1_5_25, true);
    let refuse = Fault::Answer(Status::new(0xc000_0100_0000_0000));
    let mut failed = 0;
    for number in (1..).step_by(11) {
        let (done, private) = vacuum(&host, &left, Some((refuse, When::Call(number))));
        assert!(private <= left.pamt_lines + done.left * 64, "call {number}: {private} private lines, {done:?}");
        if done.error.is_none() {
            break;
        }
        failed += 1;
    }
    assert!(failed > 20, "{failed}");
}

/// A table is refused before anything is published.
#[test]
fn a_table_of_another_machine_is_refused() {
    let host = host();
    let left = leave(&host, ModuleProfile::V1_5_01, true);
    let lab = Lab::on(left.machine, &()).unwrap();
    let tdx = tdx_host::Host::new(lab.slots());
    let mut table = TakeoverTable::read(&left.table).unwrap();
    let mut words: Vec<_> = (0..table.claim_words()).map(|_| AtomicU64::new(0)).collect();
    assert_eq!(promise::take_over(&tdx, &table, &mut words).unwrap_err(), HostError::NotUp);
    tdx.detect(&lab).unwrap();
    table.facts.global_key_id = KeyId::new(40);
    let words: Vec<_> = (0..table.claim_words()).map(|_| AtomicU64::new(0)).collect();
    let error = promise::take_over(&tdx, &table, words.leak()).unwrap_err();
    let is = TakeoverError::OtherMachine { given: KeyId::new(40), has: KeyId::new(32) };
    assert_eq!(error, HostError::Takeover(is));
    assert!(tdx.ledger().is_none() && !tdx.memory().may_have_private_memory());
}
