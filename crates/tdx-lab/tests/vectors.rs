//! Every conformance vector of the repository passes, and the replayer notices a module that
//! answers differently and a file that is not a file of vectors.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tdx_lab::vectors::{Finding, Summary, VectorError, replay};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors").join(name)
}

/// Every case of a file of the repository passes.
fn all_pass(name: &str, cases: usize) {
    let mut shown = 0;
    let summary = replay(&fixture(name), &mut |finding| {
        shown += 1;
        if shown <= 20 {
            eprintln!("{finding}");
        }
    });
    assert_eq!(summary.unwrap(), Summary { passed: cases, ..Summary::default() });
}

#[test]
fn sys_config() {
    all_pass("sys_config.jsonl.gz", 2332);
}

#[test]
fn td_lifecycle() {
    all_pass("td_lifecycle.jsonl.gz", 467);
}

#[test]
fn random_walk() {
    all_pass("random_walk.jsonl.gz", 250);
}

#[test]
fn dynamic_pamt() {
    all_pass("dynamic_pamt.jsonl.gz", 190);
}

#[test]
fn dynamic_pamt_walk() {
    all_pass("dynamic_pamt_walk.jsonl.gz", 116);
}

#[test]
fn l2_five_levels() {
    all_pass("l2_five_levels.jsonl.gz", 26);
}

#[test]
fn metadata() {
    all_pass("metadata.jsonl.gz", 86);
}

#[test]
fn module_info() {
    all_pass("module_info.jsonl.gz", 80);
}

#[test]
fn module_update() {
    all_pass("module_update.jsonl.gz", 17);
}

#[test]
fn neighbors() {
    all_pass("neighbors.jsonl.gz", 701);
}

#[test]
fn old_steps_random_walk() {
    all_pass("old_steps_random_walk.jsonl.gz", 250);
}

#[test]
fn old_steps_sys_config() {
    all_pass("old_steps_sys_config.jsonl.gz", 52);
}

#[test]
fn old_steps_td_lifecycle() {
    all_pass("old_steps_td_lifecycle.jsonl.gz", 466);
}

#[test]
fn static_pamt_walk() {
    all_pass("static_pamt_walk.jsonl.gz", 45);
}

#[test]
fn sys_states() {
    all_pass("sys_states.jsonl.gz", 65);
}

#[test]
fn td_config() {
    all_pass("td_config.jsonl.gz", 284);
}

#[test]
fn vp_enter() {
    all_pass("vp_enter.jsonl.gz", 178);
}

const PLATFORM: &str = r#""platform":{"module":"1.5.01","lps":1,"packages":1,"package_of_lp":[0],"keyid_bits":6,"keyids":{"shared":31,"private":32},"cache_sub_blocks":4,"cmrs":[["0x100000","0x3ff00000"]]}"#;

/// Writes a file of cases with these steps, one case a line.
fn file(name: &str, steps: &[&str]) -> PathBuf {
    let lines =
        steps.iter().map(|steps| format!("{{\"id\":\"t\",\"about\":\"test\",{PLATFORM},\"steps\":[{steps}]}}\n"));
    raw_file(name, &lines.collect::<String>())
}

fn raw_file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

fn replay_file(path: &Path) -> (Result<Summary, VectorError>, Vec<Finding>) {
    let mut findings = Vec::new();
    let result = replay(path, &mut |finding| findings.push(finding));
    (result, findings)
}

#[test]
fn a_difference_names_step_register_expected_and_got() {
    let path = file(
        "differences.jsonl",
        &[
            r#"{"seamcall":{"lp":0,"rax":"0x22","rdx":"0x9100000100000008"},"expect":{"rax":"0x0","rdx":"0x9100000100000009","r8":"0x40"}}"#,
            r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expect":{"rax":"0x0"}},{"seamcall":{"lp":0,"rax":"0x22","rdx":"0x9100000100000008"},"expect":{"rax":"0xc000010000000001","r8":"0x41"}}"#,
            r#"{"expect_owner":[["0x1000","0x40",33]]}"#,
            r#"{"expect_page":{"pa":"0x100000","type":0,"owner":"0x0","level":0}}"#,
        ],
    );
    let (summary, differences) = replay_file(&path);
    assert_eq!(summary.unwrap(), Summary { passed: 1, failed: 3, ..Summary::default() });
    let text: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let expected = [
        ":2: t: step 1: TDH.SYS.RD: rax: expected 0xc000010000000001 TDX_OPERAND_INVALID (RCX), got 0x0 TDX_SUCCESS",
        ":2: t: step 1: TDH.SYS.RD: r8: expected 0x41, got 0x40",
        ":3: t: step 0: owner run 0: expected [0x1000, 0x1040) of KeyID 33, got no further run",
        ":4: t: step 0: page 0x100000: status: expected 0x0, got 0xc000050500000000",
    ];
    assert_eq!(text[..4], expected.map(|text| format!("{}{text}", path.display())));
}

#[test]
fn a_case_for_another_module_is_skipped_and_a_file_of_them_is_an_error() {
    let step = r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expect":{"rax":"0x0"}}"#;
    let case = |platform: &str| format!("{{\"id\":\"t\",\"about\":\"\",{platform},\"steps\":[{step}]}}\n");
    let other = case(&PLATFORM.replace("1.5.01", "2.0.08"));
    let (summary, _) = replay_file(&raw_file("all-skipped.jsonl", &other));
    assert!(matches!(summary, Err(VectorError::AllSkipped { skipped: 1, .. })));
    let path = raw_file("skipped.jsonl", &format!("{other}{}", case(PLATFORM)));
    let (summary, findings) = replay_file(&path);
    assert_eq!(summary.unwrap(), Summary { passed: 1, skipped: 1, ..Summary::default() });
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(told, [format!("{}:1: t: skipped, module `2.0.08` is not emulated", path.display())]);
}

/// A line that is too long is one bad line, whatever its length, and the lines behind it keep their
/// numbers; a case that checks nothing, and JSON that is none, are shown with what stands there.
#[test]
fn lines_that_are_no_cases() {
    let step = r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expect":{"rax":"0x0"}}"#;
    let good = fs::read_to_string(file("one-case.jsonl", &[step])).unwrap();
    let bad = [
        (format!("{}\n", "x".repeat(40 << 20)), "`xxxxxxxxxx"),
        (format!("{{\"id\":\"t\",\"about\":\"\",{PLATFORM},\"steps\":[]}}\r\n"), "t: a case has at least one step"),
        ("{\"id\": broken\n".to_owned(), "column 8, `{\"id\": broken`: expected value"),
    ];
    for (text, rule) in bad {
        let path = raw_file("no-case.jsonl", &format!("{good}{text}{}", good.replace("0x2c", "0x2d")));
        let (summary, findings) = replay_file(&path);
        assert_eq!(summary.unwrap().bad_lines, 1, "{rule}");
        let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(told[0].contains(&format!("{}:2: ", path.display())) && told[0].contains(rule), "{told:?}");
        assert!(told[1].contains(":3: t: step 0: "), "{told:?}");
    }
}

/// Each bad line is reported with the rule it breaks, counts as failed, and the rest goes on.
#[test]
fn a_bad_line_is_reported_and_the_rest_is_played() {
    let step = r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expect":{"rax":"0x0"}}"#;
    let cases = [
        ("unknown-key.jsonl", r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expekt":{"rax":"0x0"}}"#, "unknown field `expekt`"),
        ("no-expect.jsonl", r#"{"seamcall":{"lp":0,"rax":"0x2c"}}"#, "no `expect`"),
        ("no-ending.jsonl", r#"{"seamcall":{"lp":0,"rax":"0x2c"},"expect":{"rcx":"0x0"}}"#, "one of rax, enters"),
        ("two-kinds.jsonl", r#"{"inject":"interrupt","on":true,"host_reset":["0x0","0x40"]}"#, "a step is one of"),
        ("not-hex.jsonl", r#"{"host_reset":["4096","0x40"]}"#, "does not start with 0x"),
        ("no-content.jsonl", r#"{"write":"0x1000"}"#, "a write step has one of"),
        ("odd-bytes.jsonl", r#"{"write":"0x1000","bytes":"abc"}"#, "pairs of hex digits"),
        ("no-lp.jsonl", r#"{"seamcall":{"lp":7,"rax":"0x2c"},"expect":{"rax":"0x0"}}"#, "LP 7 of 1"),
        ("lock-of-what.jsonl", r#"{"hold":{"lock":"pamt","mode":"shared","pa":"0x1000"}}"#, "`level`"),
        ("beyond.jsonl", r#"{"host_reset":["0xfffffffffffff000","0x1000"]}"#, "beyond the physical address space"),
    ];
    for (name, bad, rule) in cases {
        let (result, findings) = replay_file(&file(name, &[step, bad, step]));
        assert_eq!(result.unwrap(), Summary { passed: 2, failed: 1, bad_lines: 1, skipped: 0 }, "{name}");
        match findings.as_slice() {
            [Finding::BadLine { line: 2, rule: text, .. }] => assert!(text.contains(rule), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn files_without_cases() {
    assert!(matches!(replay_file(&raw_file("empty.jsonl", "\n\n")).0, Err(VectorError::Empty { .. })));
    let (noise, findings) = replay_file(&raw_file("noise.jsonl", "\u{1}\u{2}"));
    assert_eq!(noise.unwrap(), Summary { failed: 1, bad_lines: 1, ..Summary::default() });
    assert_eq!(findings.len(), 1);
    assert!(matches!(replay_file(&raw_file("not.gz", "not gzip")).0, Err(VectorError::Read { .. })));
    assert!(matches!(replay_file(Path::new("/nowhere.jsonl")).0, Err(VectorError::Read { .. })));
    assert!(matches!(replay_file(Path::new("/")).0, Err(VectorError::Read { .. })));
}
