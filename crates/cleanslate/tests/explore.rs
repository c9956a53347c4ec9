//! `cleanslate explore` as people and programs see it: JSON, TAP, exit codes, replays, and input
//! that cannot be used.

mod common;

use common::{fixture, run};

#[test]
fn json_has_the_figures_and_is_the_same_every_time() {
    let args =
        ["explore", "--scenario", "two-cpus", "--schedules", "20", "--random", "5", "--seed", "3", "--format", "json"];
    let (one, two) = (run(&args), run(&args));
    assert_eq!((one.code, &one.stdout), (0, &two.stdout), "{}", one.stderr);
    let json = one.json();
    assert_eq!(json["schema"], "cleanslate/explore");
    assert!(json["instants"].as_u64().unwrap() > 500 && json["crash_points"].as_u64().unwrap() > 1_000);
    assert_eq!((json["violations"].as_u64(), json["schedules"].as_u64()), (Some(0), Some(26)));
    assert!(json["bugs"].is_null());
    let other = run(&[
        "explore",
        "--scenario",
        "two-cpus",
        "--schedules",
        "20",
        "--random",
        "5",
        "--seed",
        "4",
        "--format",
        "json",
    ]);
    assert_ne!(other.stdout, one.stdout, "another seed, other schedules");
}

#[test]
fn a_bug_is_found_with_its_story_and_its_replay_shows_it() {
    let out = run(&["explore", "--bug", "mark-after-give", "--format", "json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let json = out.json();
    assert_eq!((json["bugs"].as_u64(), json["bugs_found"].as_u64()), (Some(1), Some(1)));
    let replay = json["catalogue"][0]["finding"]["replay"].as_str().unwrap().to_owned();
    let args: Vec<&str> = replay.split(' ').skip(1).collect();
    let again = run(&args);
    assert_eq!(again.code, 1, "{replay}: {}", again.stdout);
    assert!(again.stdout.contains("story") && again.stdout.contains("inside TDH.MNG.CREATE"), "{}", again.stdout);
    let people = run(&["explore", "--bug", "mark-after-give"]);
    assert!(people.stdout.contains("1 of 1 bug found") && people.stdout.contains(&replay), "{}", people.stdout);
}

#[test]
fn tap_for_a_test_harness() {
    let out = run(&["explore", "--scenario", "bring-up-fails", "--format", "tap"]);
    assert_eq!(out.code, 0);
    assert!(out.stdout.starts_with("TAP version 13\n1..1\nok 1 - scenario bring-up-fails: "), "{}", out.stdout);
    let bug = ["--bug", "no-reset-in-unwind"];
    let out = run(&["explore", "--scenario", "bring-up-fails", bug[0], bug[1], "--format", "tap"]);
    assert_eq!(out.code, 1);
    assert!(
        out.stdout.contains("\nnot ok 1 - ") && out.stdout.contains("\n# cleanslate explore --scenario"),
        "{}",
        out.stdout
    );
}

#[test]
fn a_scenario_of_ones_own_on_a_host_of_ones_own() {
    let path = std::env::temp_dir().join(format!("cleanslate-{}-own.toml", std::process::id()));
    let text = "schema = \"cleanslate-scenario\"\nversion = 1\nname = \"own\"\nabout = \"mine\"\nends = [\"panic\"]\n\
                steps = [\n  { do = \"bring-up\" },\n  { do = \"build\" },\n]\n[host]\ncpus = 2\nmemory = [\"[1G, 2G)\"]\n\
                [expect]\nrunning = 1\n";
    std::fs::write(&path, text).unwrap();
    let file = path.display().to_string();
    let own = run(&["explore", "--scenario", &file, "--format", "json"]);
    assert_eq!(own.code, 0, "{}", own.stderr);
    let host = fixture("made-up/spr-small.toml");
    let other = run(&["explore", "--scenario", "key-config-fails", "--host", &host, "--format", "json"]);
    assert_eq!(other.code, 0, "{}", other.stderr);
    // A real host, and some of the million instants of a TD's life on it.
    let log = fixture("hosts/01-canonical-385-2tib.log");
    let large = run(&["explore", "--host", &log, "--every", "50021", "--format", "json"]);
    assert_eq!(large.code, 0, "{}", large.stderr);
    assert!(large.json()["instants"].as_u64().unwrap() > 15, "{}", large.stdout);
    std::fs::write(&path, text.replace("\"build\"", "\"bild\"")).unwrap();
    let wrong = run(&["explore", "--scenario", &file]);
    assert_eq!(wrong.code, 3);
    assert!(
        wrong.stderr.contains(&format!("{file}:8: ")) && wrong.stderr.contains("column 3: `bild` is not a step"),
        "{}",
        wrong.stderr
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_report_that_cannot_be_written_fails_before_the_work() {
    let start = std::time::Instant::now();
    let out = run(&["explore", "--report", "/no/such/folder/page.html"]);
    assert_eq!((out.code, out.stdout.as_str()), (70, ""), "{}", out.stderr);
    assert!(out.stderr.contains("cannot write the report") && !out.stderr.contains("crash points"), "{}", out.stderr);
    // The bundled set takes minutes; this is no measure of speed.
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn a_page_for_people() {
    let path = std::env::temp_dir().join(format!("cleanslate-{}-page.html", std::process::id()));
    let out = run(&["explore", "--scenario", "key-config-fails", "--report", &path.display().to_string()]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stderr.contains(&format!("the page is in {}\n", path.display())), "{}", out.stderr);
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("No rule was broken"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn names_that_do_not_exist_are_said_with_those_that_do() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&["explore", "--bug", "typo"], 2, "unknown bug `typo`; known: flag-after-key-config"),
        (&["explore", "--scenario", "typo"], 2, "unknown scenario `typo`; known: bring-up"),
        (&["explore", "--scenario", "typo.toml"], 3, "typo.toml: cannot be read"),
        (&["explore", "--scenario", "td-life", "--keep", "99"], 2, "has 13 steps"),
        (&["explore", "--sequence", "9:1"], 3, "is no sequence"),
        (&["explore", "--schedule", "x", "--scenario", "td-life"], 2, "a schedule is written"),
    ];
    for (args, code, said) in cases {
        let out = run(args);
        assert_eq!(out.code, code, "{args:?}: {}", out.stderr);
        assert!(out.stderr.contains(said) && out.stdout.is_empty(), "{args:?}: {}", out.stderr);
    }
    // No text for a program that has asked for JSON.
    for format in ["json", "tap"] {
        let list = run(&["explore", "--list", "--format", format]);
        assert_eq!((list.code, list.stdout.as_str()), (2, ""), "{}", list.stderr);
    }
    let list = run(&["explore", "--list"]);
    assert!(list.stdout.contains("td-life") && list.stdout.contains("tdr-flushed-with-td-keyid"));
}

/// Whoever waits no longer hears how far it came.
#[test]
#[cfg(unix)]
fn an_interrupt_prints_the_progress() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_cleanslate"))
        .args(["explore", "--random", "1000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let (mut said, mut printed) = (String::new(), String::new());
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut printed).unwrap();
    let (points, rest) = said.strip_prefix("cleanslate: interrupted, ").and_then(|rest| rest.split_once(' ')).unwrap();
    assert_eq!(rest, "crash points, 0 violations so far\n", "{said}");
    assert!(points.replace(',', "").parse::<u64>().unwrap() > 1, "{said}");
    assert!(printed.is_empty(), "{printed}");
}
