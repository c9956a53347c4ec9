//! The explorer on itself: the bundled set is whole and clean, bugs are found and can be shown
//! again, the same seed gives the same bytes. (All scenarios, all bugs: `cargo xtask explore`,
//! which runs optimized.)

use std::collections::BTreeSet;

use tdx_explorer::report::{ExploreReport, FindingReport};
use tdx_explorer::{
    Bug, Effort, Options, Scenario, Schedule, What, bugs, bundled, explore, explore_sequence, find, find_bugs, names,
    parse,
};

fn scenario(name: &str) -> Scenario {
    find(name).unwrap().unwrap()
}

fn bug(name: &str) -> &'static Bug {
    bugs().find(|bug| bug.name == name).unwrap()
}

fn little() -> Options {
    Options { effort: Effort { preemptions: 1, systematic: 60, random: 10, seed: 7 }, ..Options::default() }
}

fn run(names: &[&str]) -> ExploreReport {
    let scenarios: Vec<Scenario> = names.iter().map(|name| scenario(name)).collect();
    explore(&scenarios, None, &little(), &()).unwrap()
}

fn assert_clean(report: &ExploreReport) {
    for run in &report.scenarios {
        assert_eq!((run.violations, &run.unmet), (0, &vec![]), "{}: {:#?}", run.name, run.findings.first());
    }
    assert_eq!(report.violations, 0);
}

#[test]
fn bundled_scenarios_are_named_after_their_files_and_use_every_step() {
    let all = bundled().unwrap();
    let found: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(found, names().collect::<Vec<_>>());
    let used: BTreeSet<String> = all
        .iter()
        .flat_map(|scenario| scenario.steps.iter().chain(scenario.concurrent.iter().flatten()))
        .map(|step| format!("{:?}", std::mem::discriminant(&step.what)))
        .collect();
    // Every kind of step.
    assert_eq!(used.len(), 21, "{used:?}");
    assert!(all.iter().all(|scenario| scenario.steps.iter().any(|step| step.what == What::BringUp)));
}

#[test]
fn the_bring_up_is_clean_at_every_instant_whether_it_fails_or_not() {
    let report = run(&["bring-up", "key-config-fails", "bring-up-fails", "bring-up-again", "module-dies-in-bring-up"]);
    assert_clean(&report);
    assert!(report.crash_points > 4_000, "{}", report.crash_points);
}

#[test]
fn a_life_is_clean_at_every_instant() {
    assert_clean(&run(&["td-life", "create-fails", "cpu-offline", "half-torn-down", "kexec-jump"]));
}

#[test]
fn a_life_is_clean_with_every_module_and_policy() {
    assert_clean(&run(&[
        "dynamic-pamt",
        "dynamic-pamt-large",
        "td-fatal",
        "l2-tables",
        "guest-memory-freed",
        "module-update",
        "shutdown-refused",
        "module-policy",
        "module-interrupted",
        "everything",
        "no-erratum",
        "stray-writes",
    ]));
}

/// Handed over with its TDs at every third instant of their life, of the next kernel's takeover and
/// of the one after that: before an operation and after one in turns.
#[test]
fn tds_are_kept_or_torn_down_at_every_third_instant() {
    let all = ["keep-life", "keep-relay", "keep-panic"].map(scenario);
    let report = explore(&all, None, &Options { every: 3, ..little() }, &()).unwrap();
    assert_clean(&report);
    assert!(report.crash_points > 3_500, "{}", report.crash_points);
}

#[test]
fn bugs_of_a_takeover_are_found() {
    let relay: Vec<&'static Bug> = bugs().filter(|bug| bug.scenarios[0].starts_with("keep-")).collect();
    assert!(relay.len() > 12);
    let report = find_bugs(&relay, &little(), &()).unwrap();
    let missed: Vec<_> = report.catalogue.iter().filter(|run| !run.found).map(|run| run.name).collect();
    assert_eq!(missed, [""; 0]);
    for run in &report.catalogue {
        let found = run.finding.as_ref().unwrap();
        println!("{}: {} ({} crash points)", run.name, found.what, run.crash_points);
    }
}

/// A TD that is torn down leaves its TDR to the next one, of which nothing is known yet.
#[test]
fn a_tdr_of_another_td_is_another_td() {
    let build = "{ do = \"build\", td = 0 }";
    let left = format!(
        "{{ do = \"keep-panic\", cpu = 1 }}, {{ do = \"adopt\", cpu = 1 }}, {{ do = \"vacuum\", cpu = 1 }}, \
         {{ do = \"build\", td = 0, cpu = 1 }}, {{ do = \"keep\" }}, {{ do = \"adopt\" }}, {{ do = \"vacuum\" }}, \
         {{ do = \"tear-down\", td = 0 }}, {build}"
    );
    for steps in [format!("{build}, {{ do = \"tear-down\", td = 0 }}, {build}"), format!("{build}, {left}")] {
        let text = format!(
            "schema = \"cleanslate-scenario\"\nversion = 1\nname = \"again\"\nabout = \"TDs one after another.\"\n\
             policy = \"keep\"\nsteps = [{{ do = \"bring-up\" }}, {steps}]\n\
             [host]\nmodel = \"spr\"\npackages = 2\ncpus = 2\nmemory = [\"[1G, 2G)\"]\n"
        );
        let again = parse("again", &text).unwrap();
        let report = explore(&[again], None, &little(), &()).unwrap();
        assert_clean(&report);
    }
}

#[test]
fn a_panic_in_a_kexec_is_clean() {
    let report = run(&["kexec-then-panic"]);
    assert_clean(&report);
    // The kexec itself is crashed at: at its resets, for example.
    let all = explore(&[scenario("kexec-then-panic")], None, &Options { timeline: true, ..little() }, &()).unwrap();
    let resets = all.scenarios[0].timeline.iter().filter(|point| point.operation.contains("MOVDIR64B"));
    assert!(resets.filter(|point| point.crash_points > 0).count() > 10);
}

#[test]
fn cpus_beside_each_other_are_clean_in_every_order_of_few_turns() {
    let report = run(&["two-cpus", "build-beside-teardown", "kexec-beside", "panic-beside"]);
    assert_clean(&report);
    assert!(report.schedules > 100, "{}", report.schedules);
}

#[test]
fn overlapping_calls_are_clean() {
    let report = run(&["overlapping-builds", "overlapping-shutdown", "shutdown-beside-guest"]);
    assert_clean(&report);
    assert!(report.schedules > 60, "{}", report.schedules);
}

/// The same scenario in which each call ends before another begins does not show them.
#[test]
fn only_overlapping_calls_show_bugs_about_busy() {
    for name in ["busy-drops-other-mark", "busy-of-another-cpu", "shutdown-busy-believed"] {
        for overlapping in bug(name).scenarios.iter().map(|name| scenario(name)) {
            let apart = Scenario { overlapping: false, ..overlapping.clone() };
            let violations = |scenario: &Scenario| {
                explore(std::slice::from_ref(scenario), Some(bug(name)), &little(), &()).unwrap().violations
            };
            assert!(violations(&overlapping) > 0, "{name} in {}", overlapping.name);
            assert_eq!(violations(&apart), 0, "{name} in {}", overlapping.name);
        }
    }
}

#[test]
fn short_sequences_are_clean() {
    let options = Options { lengths: [3, 2], ..little() };
    let report = explore(&[], None, &options, &()).unwrap();
    assert_eq!(report.violations, 0);
    assert_eq!(report.short_sequences.iter().map(|run| run.sequences).collect::<Vec<_>>(), [8, 40, 176, 16, 224]);
}

#[test]
fn every_bug_has_a_name_of_its_own_an_origin_and_scenarios_that_exist() {
    let names: BTreeSet<&str> = bugs().map(|bug| bug.name).collect();
    assert_eq!(names.len(), bugs().count());
    assert!(names.len() >= 50);
    for bug in bugs() {
        assert!(!bug.what.is_empty() && !bug.origin.is_empty() && !bug.scenarios.is_empty(), "{bug:?}");
        assert!(bug.scenarios.iter().all(|name| find(name).unwrap().is_some()), "{bug:?}");
    }
}

/// One bug of each kind: of an operation left out, of a page forgotten, of an adversary, of turns,
/// of an answer.
const SOME: [&str; 14] = [
    "mark-after-give",
    "no-wbinvd-at-nmi",
    "no-flush-before-give",
    "page-freed-before-reset",
    "lost-mark",
    "list-withdrawn-late",
    "kexec-jump-resets",
    "sys-disable-once",
    "slot-after-call",
    "demote-pair-forgotten",
    "leaf-version-ignored",
    "demote-l2-page-forgotten",
    "update-forgets-ledger",
    "shutdown-believed",
];

#[test]
fn bugs_are_found_and_their_replay_shows_them_again() {
    let some: Vec<&'static Bug> = SOME.iter().map(|name| bug(name)).collect();
    let report = find_bugs(&some, &little(), &()).unwrap();
    assert_eq!((report.bugs, report.bugs_found), (Some(SOME.len()), Some(SOME.len())));
    for run in &report.catalogue {
        let finding = run.finding.as_ref().unwrap();
        let again = replay(&finding.replay);
        assert!(again.violations > 0, "{}", finding.replay);
        let same =
            again.scenarios[0].findings.iter().any(|other| (other.rule, &other.what) == (finding.rule, &finding.what));
        assert!(same, "{} shows {:#?}", finding.replay, again.scenarios[0].findings.first());
        assert!(run.replay_steps.unwrap() <= 12 && !finding.story.is_empty());
    }
}

/// Does what the command line does with a replay command.
fn replay(command: &str) -> ExploreReport {
    let words: Vec<&str> = command.split(' ').collect();
    let value = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    let options = Options {
        instant: value("--instant").map(|number| number.parse().unwrap()),
        schedule: value("--schedule").map(|text| text.parse::<Schedule>().unwrap()),
        ..little()
    };
    let bug = value("--bug").map(bug);
    if let Some(sequence) = value("--sequence") {
        return explore_sequence(sequence, bug, &options).unwrap();
    }
    let mut played = scenario(value("--scenario").unwrap());
    if let Some(keep) = value("--keep") {
        played = played.keeping(&keep.split(',').map(|step| step.parse().unwrap()).collect::<Vec<_>>());
    }
    explore(&[played], bug, &options, &()).unwrap()
}

#[test]
fn turns_are_shortened_to_what_the_bug_needs() {
    let report = find_bugs(&[bug("lost-mark"), bug("other-cpus-go-on")], &little(), &()).unwrap();
    for run in &report.catalogue {
        assert_eq!(run.found_by, Some("schedules"));
        let schedule: Schedule = run.finding.as_ref().unwrap().schedule.as_ref().unwrap().parse().unwrap();
        assert!(schedule.0.len() <= 2, "{schedule}");
    }
}

#[test]
fn bugs_are_found_in_short_sequences_too() {
    let options = Options { lengths: [0, 1], ..little() };
    let report = explore(&[], Some(bug("aug-page-forgotten")), &options, &()).unwrap();
    assert_eq!(report.violations, 0, "an augmented page is not private before the guest accepts it");
    let options = Options { lengths: [1, 0], ..little() };
    let report = explore(&[], Some(bug("mark-after-give")), &options, &()).unwrap();
    let finding: &FindingReport = report.short_sequences.iter().flat_map(|run| &run.findings).next().unwrap();
    let again = replay(&finding.replay);
    assert!(again.violations > 0, "{}", finding.replay);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let report = || {
        let scenarios = [scenario("two-cpus"), scenario("panic-beside"), scenario("bring-up-fails")];
        let options = Options { timeline: true, lengths: [2, 1], ..little() };
        serde_json::to_string(&explore(&scenarios, None, &options, &()).unwrap()).unwrap()
    };
    assert_eq!(report(), report());
    let bugs = || serde_json::to_string(&find_bugs(&[bug("lost-mark")], &little(), &()).unwrap()).unwrap();
    assert_eq!(bugs(), bugs());
}

#[test]
fn what_was_expected_and_is_not_so_is_said() {
    let mut scenario = scenario("bring-up");
    scenario.expect.bring_up = Some(false);
    scenario.expect.running = Some(3);
    let report = explore(&[scenario], None, &little(), &()).unwrap();
    assert_eq!(report.violations, 2);
    let unmet = report.scenarios[0].unmet.join("; ");
    assert_eq!(unmet, "the bring-up succeeds, it was expected that it fails; 0 TDs run, 3 were expected");
}

const GOOD: &str = "schema = \"cleanslate-scenario\"\nversion = 1\nname = \"mine\"\nabout = \"x\"\n\
                    steps = [\n  { do = \"bring-up\" },\n]\n[host]\ncpus = 2\nmemory = [\"[1G, 2G)\"]\n";

/// Each bad scenario, the line and column that are to blame, and a word of the rule.
#[test]
fn bad_scenarios_are_refused_with_line_column_and_rule() {
    assert!(parse("mine.toml", GOOD).is_ok());
    let step = |step: &str| GOOD.replace("{ do = \"bring-up\" }", step);
    let cases = [
        (GOOD.replace("cleanslate-scenario", "cleanslate-host"), 1, 10, "the schema is"),
        (GOOD.replace("version = 1", "version = 2"), 2, 11, "the version is 1"),
        (GOOD.replace("\"mine\"", "\"My Own\""), 3, 8, "lower-case"),
        (GOOD.replace("about", "abuot"), 4, 1, "unknown field"),
        (GOOD.replace("[1G, 2G)", "[2G, 1G)"), 8, 1, "the host"),
        (GOOD.replace("cpus = 2", "cpus = 0"), 8, 1, "the host"),
        (
            GOOD.replace("steps = [", "module = \"2.0\"\nsteps = ["),
            5,
            10,
            "one of 1.5.01, 1.5.25, sys-disable, dynamic-pamt",
        ),
        (GOOD.replace("steps = [", "policy = \"none\"\nsteps = ["), 5, 10, "one of tracked"),
        (GOOD.replace("steps = [", "ends = [\"reboot\"]\nsteps = ["), 5, 8, "kexec and panic"),
        (GOOD.replace("steps = [", "policy = \"keep\"\nmodule = \"dynamic-pamt\"\nsteps = ["), 6, 10, "PAMT is static"),
        (
            GOOD.replace("steps = [", "policy = \"keep\"\nsteps = [\n { do = \"evict\" },"),
            7,
            2,
            "no step of policy keep",
        ),
        (step("{ do = \"adopt\" }"), 6, 3, "a step of policy keep alone"),
        (
            GOOD.replace("steps = [", "policy = \"keep\"\nsteps = [")
                + "[[concurrent]]\ncpu = 0\nsteps = [{ do = \"build\" }]\n",
            12,
            1,
            "CPUs do not work beside each other",
        ),
        (step("{ do = \"fly\" }"), 6, 3, "`fly` is not a step"),
        (step("{ do = \"bring-up\", td = 1 }"), 6, 3, "`bring-up` has no `td`"),
        (step("{ do = \"build\", cpu = 2 }"), 6, 3, "there is no CPU 2"),
        (step("{ do = \"build\", td = 8 }"), 6, 3, "TDs are numbered"),
        (step("{ do = \"augment\", page = 6 }"), 6, 3, "guest pages are numbered"),
        (step("{ do = \"augment\", size = \"1G\" }"), 6, 3, "4K or 2M"),
        (step("{ do = \"fault-refused\", leaf = \"NO.SUCH\" }"), 6, 3, "is no leaf"),
        (step("{ do = \"fault-refused\", nth = 0 }"), 6, 3, "counted from 1"),
        (GOOD.to_owned() + "[expect]\nbring-up = \"maybe\"\n", 12, 12, "one of ok, fails"),
        (GOOD.to_owned() + "[[concurrent]]\ncpu = 5\nsteps = [{ do = \"build\" }]\n", 13, 10, "there is no CPU 5"),
        (
            GOOD.to_owned() + "[[concurrent]]\ncpu = 0\nsteps = [{ do = \"bring-up\" }]\n",
            11,
            1,
            "cannot be done beside",
        ),
        (GOOD.to_owned() + "[[concurrent]]\ncpu = 0\nsteps = [{ do = \"enter\" }]\n", 11, 1, "cannot be done beside"),
        (GOOD.to_owned() + &"[[concurrent]]\ncpu = 1\nsteps = [{ do = \"build\" }]\n".repeat(2), 14, 1, "two lists"),
        (GOOD.to_owned() + "[[concurrent]]\ncpu = 1\nsteps = []\n", 11, 1, "is empty"),
        (
            GOOD.to_owned()
                + "[[concurrent]]\ncpu = 0\nsteps = [{ do = \"build\" }]\n[[concurrent]]\ncpu = 1\nsteps = [{ do = \"build\" }]\n",
            14,
            1,
            "TD 0 is in two lists",
        ),
        (step("{ do = \"kexec\" },\n  { do = \"build\" }"), 6, 3, "nothing comes after this"),
        ("steps = [".to_owned(), 1, 10, ""),
        (String::new(), 1, 1, "missing field"),
        ("\u{0}".to_owned(), 1, 2, ""),
    ];
    for (text, line, column, rule) in cases {
        let error = parse("mine.toml", &text).unwrap_err();
        let said = error.to_string();
        assert_eq!(error.line, Some(line), "{said}\n{text}");
        assert!(said.contains(&format!("column {column}: ")) && said.contains(rule), "{said}\n{text}");
    }
}

#[test]
fn a_scenario_that_cannot_be_played_is_an_error() {
    let no_bring_up = GOOD.replace("bring-up", "build");
    let twice = GOOD.replace("{ do = \"bring-up\" },", "{ do = \"bring-up\" },\n  { do = \"bring-up\" },");
    let keep = |text: &str| text.replace("steps = [", "policy = \"keep\"\nsteps = [");
    let lines = "{ do = \"bring-up\" },\n  { do = \"vacuum\" },";
    let nothing_left = keep(&GOOD.replace("{ do = \"bring-up\" },", lines));
    for (text, said) in [
        (keep(&no_bring_up), "the first step of policy keep is `bring-up`"),
        (keep(&twice), "line 8: TDX is up already"),
        (nothing_left, "line 8: this kernel inherited no TDX"),
        (no_bring_up, "line 6: TDX is not up"),
        (twice, "line 7: TDX is up already"),
    ] {
        let scenario = parse("mine.toml", &text).unwrap();
        let error = explore(&[scenario], None, &little(), &()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(explore_sequence("2:0", None, &little()).is_err() && explore_sequence("0:99", None, &little()).is_err());
}

#[test]
fn schedules_are_read_as_they_are_written() {
    for text in ["-", "3:1", "3:1,17:0"] {
        assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
    }
    for text in ["", "3", "3:x", "5:1,4:0", "4:1,4:0"] {
        assert!(text.parse::<Schedule>().is_err(), "{text}");
    }
}

/// The guide for authors names every step, and its example can be read.
#[test]
fn the_guide_is_true() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SCENARIOS.md")).unwrap();
    let error = parse("x.toml", &GOOD.replace("bring-up", "fly")).unwrap_err().to_string();
    let steps: Vec<&str> = error.split("steps are ").nth(1).unwrap().trim_end().split(", ").collect();
    assert_eq!(steps.len(), 39);
    for step in steps {
        assert!(guide.contains(&format!("`{step}`")), "{step}");
    }
    let example = guide.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let scenario = parse("docs/SCENARIOS.md", example).unwrap();
    assert_clean(&explore(&[scenario], None, &little(), &()).unwrap());
}
