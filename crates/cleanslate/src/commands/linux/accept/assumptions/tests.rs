//! Verdicts: each is reached by facts that are there, and by none that is missing; texts and
//! figures are those of the documentation and of the module.

use super::*;

/// A host on which everything was seen, and everything is as assumed.
const GOOD: Facts = Facts {
    machine: Machine::Hardware,
    tdx_on: Some(true),
    erratum: Some(true),
    erratum_noted: Some(true),
    movdir64b: Some(true),
    pamt_kb_of_linux: Some(4_202_516),
    pamt_kb_of_module: Some(4_202_516),
    dynamic_pamt: Some(false),
    mode: Some(Mode::Watching),
    tds: Some(4),
    learned_kb: Some(0),
    audit: Some(AUDIT),
    audit_refused: false,
    bandwidth: Some(RATES),
    idle: Some(true),
    cpus: Some(448),
    packages: Some(8),
    wbinvd: Some(Times { count: 448, min_ns: 30_000, mean_ns: 100_000, max_ns: 9_000_000 }),
};
const AUDIT: Audit = Audit {
    complete: true,
    not_seen: 0,
    missing: 0,
    owned: 7_000_000,
    pages: 536_870_912,
    calls: 536_870_912,
    milliseconds: 2_200_000,
    repeated: 99,
    rate: Some(250_000),
};
const RATES: Bandwidth =
    Bandwidth { by_movdir64b: true, reliable: true, cores: 448, one_core: 11e9, all_cores: 1.2e12 };

/// Nothing was seen.
const NONE: Facts = Facts {
    machine: Machine::Unknown,
    tdx_on: None,
    erratum: None,
    erratum_noted: None,
    movdir64b: None,
    pamt_kb_of_linux: None,
    pamt_kb_of_module: None,
    dynamic_pamt: None,
    mode: None,
    tds: None,
    learned_kb: None,
    audit: None,
    audit_refused: false,
    bandwidth: None,
    idle: None,
    cpus: None,
    packages: None,
    wbinvd: None,
};

fn verdict(facts: &Facts, id: &str) -> Verdict {
    decide(facts).into_iter().find(|assumption| assumption.id == id).unwrap().verdict
}

/// An assumption, facts that contradict it, and facts without one that it needs.
type Case = (&'static str, Vec<Facts>, Vec<Facts>);

fn cases() -> [Case; 10] {
    let audit = |change: fn(&mut Audit)| {
        let mut audit = AUDIT;
        change(&mut audit);
        Facts { audit: Some(audit), ..GOOD }
    };
    let rates = |change: fn(&mut Bandwidth)| {
        let mut rates = RATES;
        change(&mut rates);
        Facts { bandwidth: Some(rates), tds: Some(0), ..GOOD }
    };
    let wbinvd = |count, max_ns| {
        let times = Times { count, min_ns: 1, mean_ns: 2, max_ns };
        Facts { wbinvd: Some(times), ..GOOD }
    };
    let mode = |mode| Facts { mode: Some(mode), ..GOOD };
    let no_audit = Facts { audit: None, ..GOOD };
    let short = audit(|audit| audit.complete = false);
    let unseen = audit(|audit| audit.not_seen = 1);
    let idle = audit(|audit| audit.owned = 0);
    let no_rates = Facts { bandwidth: None, ..GOOD };
    let slow = rates(|rates| (rates.one_core, rates.all_cores) = (2.2e9, 1e11));
    let (ordinary, busy) = (rates(|rates| rates.by_movdir64b = false), rates(|rates| rates.reliable = false));
    [
        (
            "erratum-by-model",
            vec![
                Facts { erratum_noted: Some(false), ..GOOD },
                Facts { erratum: Some(false), erratum_noted: Some(true), ..GOOD },
            ],
            vec![Facts { erratum: None, ..GOOD }, Facts { erratum_noted: None, ..GOOD }],
        ),
        (
            "movdir64b-with-tdx",
            vec![Facts { movdir64b: Some(false), ..ordinary }],
            vec![
                Facts { movdir64b: None, ..GOOD },
                Facts { movdir64b: Some(false), ..GOOD },
                Facts { movdir64b: Some(false), bandwidth: None, ..GOOD },
                Facts { tdx_on: None, ..GOOD },
                Facts { tdx_on: Some(false), movdir64b: Some(false), ..GOOD },
            ],
        ),
        (
            "pamt-complete",
            vec![Facts { pamt_kb_of_module: Some(4_202_512), ..GOOD }, Facts { pamt_kb_of_module: Some(0), ..GOOD }],
            vec![
                Facts { pamt_kb_of_module: None, ..GOOD },
                Facts { pamt_kb_of_linux: None, ..GOOD },
                Facts { pamt_kb_of_linux: Some(0), ..GOOD },
                Facts { dynamic_pamt: Some(true), ..GOOD },
                Facts { dynamic_pamt: None, ..GOOD },
                Facts { dynamic_pamt: Some(true), pamt_kb_of_module: Some(4), ..GOOD },
                Facts { mode: None, ..GOOD },
                mode(Mode::Host),
                mode(Mode::Failed),
            ],
        ),
        (
            "operands-known",
            vec![
                mode(Mode::Unknown(Lost::Operands)),
                mode(Mode::Unknown(Lost::Missed)),
                mode(Mode::Unknown(Lost::Ledger)),
            ],
            vec![
                Facts { mode: None, ..GOOD },
                Facts { tds: None, ..GOOD },
                Facts { tds: Some(0), ..GOOD },
                Facts { learned_kb: None, ..GOOD },
                Facts { learned_kb: Some(4), ..GOOD },
                mode(Mode::Unknown(Lost::Other)),
                mode(Mode::Learning),
                mode(Mode::Host),
                mode(Mode::Failed),
            ],
        ),
        (
            "ledger-complete",
            vec![
                audit(|audit| audit.missing = 1),
                audit(|audit| (audit.missing, audit.complete) = (1, false)),
                audit(|audit| (audit.missing, audit.not_seen, audit.owned) = (1, 1, 0)),
            ],
            vec![
                no_audit,
                short,
                unseen,
                idle,
                audit(|audit| audit.pages = 0),
                Facts { learned_kb: None, ..GOOD },
                Facts { learned_kb: Some(4), ..GOOD },
                Facts { mode: None, ..GOOD },
                mode(Mode::Host),
                Facts { tdx_on: None, ..GOOD },
                Facts { tdx_on: Some(false), ..GOOD },
            ],
        ),
        (
            "rdmd-answers",
            vec![Facts { audit_refused: true, audit: None, ..GOOD }],
            vec![
                no_audit,
                short,
                unseen,
                idle,
                audit(|audit| audit.calls = 0),
                Facts { tdx_on: None, ..GOOD },
                Facts { tdx_on: Some(false), ..GOOD },
            ],
        ),
        (
            "audit-rate",
            vec![audit(|audit| audit.milliseconds *= 2)],
            vec![
                no_audit,
                short,
                audit(|audit| audit.rate = None),
                audit(|audit| audit.rate = Some(50_000)),
                audit(|audit| (audit.calls, audit.milliseconds) = (1, 999)),
                audit(|audit| audit.calls = 0),
                audit(|audit| (audit.milliseconds, audit.repeated) = (5_000_000, 99_000_000)),
            ],
        ),
        (
            "reset-rate-one-core",
            vec![rates(|rates| rates.one_core = 2.2e9)],
            vec![no_rates, ordinary, busy, Facts { tds: Some(4), ..slow }, Facts { idle: Some(false), ..slow }],
        ),
        (
            "reset-rate-all-cores",
            vec![rates(|rates| rates.all_cores = 1.0e12)],
            vec![
                no_rates,
                ordinary,
                busy,
                Facts { cpus: None, ..GOOD },
                Facts { packages: None, ..GOOD },
                Facts { tds: None, ..slow },
                Facts { idle: None, ..slow },
                rates(|rates| (rates.cores, rates.all_cores) = (2, 1e9)),
            ],
        ),
        (
            "wbinvd-below-a-second",
            vec![wbinvd(448, 1_000_000_000), wbinvd(2, 5_000_000_000)],
            vec![Facts { wbinvd: None, ..GOOD }, Facts { cpus: None, ..GOOD }, wbinvd(447, 9), wbinvd(0, 0)],
        ),
    ]
}

#[test]
fn every_verdict_is_reached_by_facts_and_by_no_other() {
    assert_eq!(cases().map(|(id, ..)| id), TABLE.map(|row| row.id));
    for (id, contradicting, undecided) in cases() {
        assert_eq!(verdict(&GOOD, id), Verdict::Confirmed, "{id}");
        for facts in contradicting {
            assert_eq!(verdict(&facts, id), Verdict::Contradicted, "{id}: {facts:?}");
        }
        for facts in undecided {
            assert_eq!(verdict(&facts, id), Verdict::NotTested, "{id}: {facts:?}");
        }
        assert_eq!(verdict(&NONE, id), Verdict::NotTested, "{id}");
    }
}

/// Each fact by itself, taken from facts that decide.
#[test]
fn without_a_fact_nothing_is_decided_that_was_open_with_it() {
    let without: [fn(&mut Facts); 17] = [
        |facts| facts.dynamic_pamt = None,
        |facts| facts.learned_kb = None,
        |facts| facts.idle = None,
        |facts| facts.machine = Machine::Unknown,
        |facts| facts.tdx_on = None,
        |facts| facts.erratum = None,
        |facts| facts.erratum_noted = None,
        |facts| facts.movdir64b = None,
        |facts| facts.pamt_kb_of_linux = None,
        |facts| facts.pamt_kb_of_module = None,
        |facts| facts.mode = None,
        |facts| facts.tds = None,
        |facts| facts.audit = None,
        |facts| facts.bandwidth = None,
        |facts| facts.cpus = None,
        |facts| facts.packages = None,
        |facts| facts.wbinvd = None,
    ];
    let mut all = vec![GOOD];
    all.extend(cases().into_iter().flat_map(|(_, bad, open)| bad.into_iter().chain(open)));
    for facts in all {
        // One or two that are missing, or all.
        let sets = (0_u32..1 << without.len()).filter(|set| set.count_ones() <= 2 || set.count_ones() == 17);
        for missing in sets {
            let mut less = facts;
            for (index, take) in without.iter().enumerate() {
                if missing >> index & 1 == 1 {
                    take(&mut less);
                }
            }
            for (row, found) in TABLE.iter().zip(decide(&less)) {
                let before = on_this_machine(facts.machine, row.of, (row.decide)(&facts)).0;
                assert!(
                    found.verdict == Verdict::NotTested || found.verdict == before,
                    "{}: {before:?}, {:?} of {less:?}",
                    row.id,
                    found.verdict
                );
            }
        }
    }
}

#[test]
fn no_hardware_confirms_nothing_and_a_fault_of_ours_is_one_everywhere() {
    for machine in [Machine::Virtual, Machine::Unknown] {
        for (id, contradicting, _) in cases() {
            assert_eq!(verdict(&Facts { machine, ..GOOD }, id), Verdict::NotTested, "{id}");
            let code = ["pamt-complete", "operands-known", "ledger-complete"].contains(&id);
            let expected = if code { Verdict::Contradicted } else { Verdict::NotTested };
            for facts in contradicting {
                assert_eq!(verdict(&Facts { machine, ..facts }, id), expected, "{id}");
            }
        }
    }
    let virtual_machine = decide(&Facts { machine: Machine::Virtual, ..GOOD });
    assert!(virtual_machine.iter().all(|assumption| assumption.ground.starts_with("no hardware, but a virtual")));
}

#[test]
fn limits_of_the_documentation_are_these() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
        .map(|line| {
            let (id, rest) = line.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
            (id, rest.split(" | ").next().unwrap_or_default())
        })
        .collect();
    assert_eq!(rows, TABLE.map(|row| (row.id, row.text)));
}

#[test]
fn figures_of_the_texts_are_those_of_their_origin() {
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| std::fs::read_to_string(repository.join(name)).unwrap();
    assert!(read("linux/sweep.c").contains(&format!("static uint sweep_rate = {AUDIT_RATE};")));
    assert!(read("linux/handover.c").contains(&format!("WRITE_BACK_MS\t{}\n", WRITE_BACK_NS / 1_000_000)));
    let rates = [Rates::assumed_of(1, 1).one_core, Rates::assumed_of(u32::MAX, 1).all_cores].map(giga);
    assert_eq!(rates, ["2.3 GB/s", "200.0 GB/s"]);
    // A TiB has 2^28 pages.
    assert_eq!((1_u64 << 28).div_ceil(AUDIT_RATE * 60), 18);
}
