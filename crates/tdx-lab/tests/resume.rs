//! `Host::resume`: a kernel that runs on from a snapshot of its machine knows what was brought up
//! there, builds TDs on it, and hands a clean machine over.

use first_kernel::TdPhase;
use tdx_host::handover::{KexecKind, Outcome, Policy};
use tdx_host::{CpuSlot, HostError};
use tdx_lab::platform::{Lab, LabKernel, promise};
use tdx_lab::tds::{Hypervisor, pool, track};
use tdx_machine::{Machine, ModuleProfile, PartialStore};
use tdx_operator::host::{Host, HostOptions};

const HOST: &str = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n\
                    [tdx]\nkey_ids = \"[32, 64)\"\n[[memory]]\nrange = \"[1G, 2G)\"\n";

fn host() -> Host {
    Host::from_reader("tiny", HOST.as_bytes(), &HostOptions::default()).unwrap()
}

#[test]
fn tds_are_built_and_handed_over_after_a_resume() {
    let host = host();
    let lab = Lab::with_module(&host, ModuleProfile::V1_5_01.with_sys_disable(), &()).unwrap();
    let earlier = tdx_host::Host::new(lab.slots());
    earlier.detect(&lab).unwrap();
    let mut kernel = LabKernel::new(&lab, &earlier, &host);
    earlier.bring_up(&mut kernel, host.memory()).unwrap();
    let taken = kernel.taken().to_vec();

    let slots = earlier.gate().activity().map(CpuSlot::from).collect();
    let copy = Lab::taken_over(lab.ask(Clone::clone), slots, &(), &());
    let mut words = Vec::new();
    let tdx = tdx_host::Host::new(copy.slots());
    promise::resume(&tdx, &earlier).unwrap();
    assert_eq!((tdx.platform(), tdx.module()), (earlier.platform(), earlier.module()));
    assert_eq!(tdx.memory().features(), earlier.memory().features());
    assert!(tdx.pamt_ranges().eq(earlier.pamt_ranges()));
    assert_eq!(tdx.layout().unwrap().tdmrs(), earlier.layout().unwrap().tdmrs());
    // The gate is its own, and its slots say which caches are dirty.
    assert!(tdx.gate().activity().eq(earlier.gate().activity()));

    let mut kernel = LabKernel::new(&copy, &tdx, &host);
    for range in taken {
        let _ = kernel.reserve(range);
    }
    let tds = track(&tdx, &mut words).unwrap();
    let pool = pool(tds.ledger(), &mut kernel, 1).unwrap();
    let hypervisor = Hypervisor::new(&copy, &kernel, tds, pool);
    let td = hypervisor.live(0, TdPhase::Running).unwrap();
    let report = tdx.kexec(Policy::Tracked, KexecKind::Normal).unwrap().stop_other_cpus(&kernel).unwrap();
    let report = report.ask_module(|_| ()).write_back_caches().reset();
    assert!(matches!(report.outcome, Outcome::Reset(_)) && report.is_clean(&tdx.memory()), "{report:?}");
    copy.act(|machine| {
        machine.kexec_boundary();
        assert_eq!((machine.private_lines(), machine.dirty_private_lines()), (0, 0));
        for part in host.memory() {
            let used = machine.use_memory(tdx_machine::CpuId(0), part.range, PartialStore::NonTemporal).unwrap();
            assert_eq!((used.lines_poisoned, used.lines_fatal), (0, 0));
        }
    });
    drop(td);
    assert!(lab.ask(Machine::private_lines) > 0, "the original is as it was");
    assert!(!earlier.gate().is_closed());
}

#[test]
fn only_a_host_that_is_up_is_taken_over_and_once() {
    let host = host();
    let lab = Lab::new(&host, &()).unwrap();
    let (earlier, tdx) = (tdx_host::Host::new(lab.slots()), tdx_host::Host::new(lab.slots()));
    assert_eq!(promise::resume(&tdx, &earlier), Err(HostError::NotUp));
    earlier.detect(&lab).unwrap();
    assert_eq!(promise::resume(&tdx, &earlier), Err(HostError::NotUp));
    assert!(tdx.platform().is_none());
    let mut kernel = LabKernel::new(&lab, &earlier, &host);
    earlier.bring_up(&mut kernel, host.memory()).unwrap();
    promise::resume(&tdx, &earlier).unwrap();
    assert_eq!(promise::resume(&tdx, &earlier), Err(HostError::AlreadySet));
    // One that has brought TDX up itself takes over nothing.
    assert_eq!(promise::resume(&earlier, &tdx), Err(HostError::AlreadySet));
}
