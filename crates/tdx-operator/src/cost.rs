//! Cost estimate of TDX on a host: PAMT memory, seconds at boot, seconds at kexec. Arithmetic on a
//! layout and on rates with their origin; measures nothing.

use tdx_abi::{PageRange, intersect};
use tdx_host::layout::{Layout, Tdmr};

use crate::{
    host::{Assumption, Host},
    report::{BootCost, CostReport, KexecCost, OutageCost, PamtCost, RateReport, Share},
};

/// How fast lines are rewritten, in bytes a second.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// By one core.
    pub one_core: f64,
    /// By all of them.
    pub all_cores: f64,
    /// Where the figures come from.
    pub origin: &'static str,
    /// CPUs that the rate of all cores follows from, if that number is assumed.
    pub assumed_cpus: Option<u32>,
}

/// The slowest published figure: Linux clears 4 KiB pages on real TDX hosts at 1.8 us each, a fence
/// after each (`reliability_performance.md` 3.2, derived from 467 s for 400 GB).
const FLOOR: f64 = 2.3e9;
/// What a socket of eight DDR5-4800 channels can take, less than its peak of 307 GB/s.
const PACKAGE: f64 = 200.0e9;

impl Rates {
    /// Defaults, used if no bandwidth is given.
    pub fn assumed(host: &Host) -> Self {
        let assumed = host.assumptions().iter().any(|assumption| matches!(assumption, Assumption::Cpus(_)));
        Self { assumed_cpus: assumed.then_some(host.cpus()), ..Self::assumed_of(host.cpus(), host.packages()) }
    }

    /// The same of a machine with so many CPUs and packages.
    pub fn assumed_of(cpus: u32, packages: u32) -> Self {
        let (cpus, packages) = (f64::from(cpus.max(1)), f64::from(packages.max(1)));
        Self {
            one_core: FLOOR,
            all_cores: (FLOOR * cpus).min(PACKAGE * packages),
            origin: "assumed: 2.3 GB/s a core, the floor that published teardown times of Linux give, \
                 and at most 200 GB/s a package; \
                     nobody has published a rate of MOVDIR64B",
            assumed_cpus: None,
        }
    }
}

/// Seconds that Linux takes from the module's version line to "PAMT allocated", for a TiB: the
/// range of published boot logs (`linux.md` 4.7).
const BOOT_SECONDS_A_TIB: (f64, f64) = (1.9, 4.5);

/// Bytes of two pages that hold the PAMT_4K entries of 2 MiB (Dynamic PAMT).
const PAIR_BYTES: u64 = 8192;

/// The cost of a layout. `dynamic` is the same one with a bitmap in place of PAMT_4K.
pub fn cost(host: &Host, layout: &Layout, dynamic: Option<&Layout>, rates: Rates) -> CostReport {
    let memory = || host.memory().iter().map(|part| part.range);
    let usable: u64 = intersect(memory(), layout.tdmrs().iter().map(Tdmr::range)).map(PageRange::bytes).sum();
    let pamt = layout.pamt_bytes();
    let for_tds = usable.saturating_sub(pamt);
    let tib = layout.tdmrs().iter().map(|tdmr| tdmr.range().bytes()).sum::<u64>() as f64 / (1u64 << 40) as f64;
    let in_tds = [(Share::None, 0), (Share::Half, for_tds / 2), (Share::All, for_tds)];
    let outage = in_tds.map(|(memory_in_tds, private)| {
        let bytes = (pamt + private) as f64;
        let (one, all) = (bytes / rates.one_core, bytes / rates.all_cores);
        OutageCost { memory_in_tds, kexec_one_cpu: one, kexec_all_cpus: all, dump_reset: one, dump_exclude: 0.0 }
    });
    let everything: u64 = memory().map(PageRange::bytes).sum();
    let mut kexec = Vec::new();
    for (share, private) in in_tds {
        for (policy, bytes) in [("pamt", pamt), ("tracked", pamt + private), ("everything", everything)] {
            kexec.push(KexecCost {
                policy,
                memory_in_tds: share,
                bytes,
                seconds_one_core: bytes as f64 / rates.one_core,
                seconds_all_cores: bytes as f64 / rates.all_cores,
            });
        }
    }
    CostReport {
        memory_for_tds: for_tds,
        pamt: PamtCost {
            static_bytes: pamt,
            dynamic_bytes: dynamic.map(Layout::pamt_bytes),
            dynamic_bytes_all_in_tds: dynamic.map(|dynamic| dynamic.pamt_bytes() + (for_tds >> 21) * PAIR_BYTES),
        },
        boot: BootCost { seconds: [BOOT_SECONDS_A_TIB.0 * tib, BOOT_SECONDS_A_TIB.1 * tib] },
        rates: RateReport {
            one_core: rates.one_core,
            all_cores: rates.all_cores,
            origin: rates.origin,
            assumed_cpus: rates.assumed_cpus,
        },
        kexec,
        outage: outage.into(),
    }
}
