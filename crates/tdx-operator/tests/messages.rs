//! Every message of Linux's TDX code: `fixtures/messages/linux.tsv` has the format strings of
//! Linux 6.12 to 7.3, each with an example and what `explain` says of it. The list is compared with
//! the sources of 6.12 and 7.3 (`cargo xtask linux tdx` and `tdx-7.3` fetch them), and with any
//! other that `CLEANSLATE_LINUX_SOURCES` names: `6.17=DIR:6.19=DIR`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tdx_operator::{explain::from_reader, input::Rule, report::Subject};

const LIST: &str = include_str!("../../../fixtures/messages/linux.tsv");

struct Row {
    file: &'static str,
    versions: &'static str,
    format: &'static str,
    example: &'static str,
    answer: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = LIST.lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| match line.split('\t').collect::<Vec<_>>()[..] {
        [file, versions, format, example, answer] => Row { file, versions, format, example, answer },
        _ => panic!("{line}"),
    };
    lines.map(row).collect()
}

/// The rules of the findings, `unknown` for a line in an unknown form, `nothing` for a line without
/// meaning here.
fn answer(example: &str) -> String {
    match from_reader("x", format!("[   10.000000] {example}\n").as_bytes()) {
        Err(error) if error.rule == Rule::NothingToExplain => "nothing".to_owned(),
        Err(error) => panic!("{example}: {error}"),
        Ok(report) => {
            let Subject::Log(log) = report.subject else { panic!() };
            let unknown = (log.unknown_lines > 0).then_some("unknown");
            let rules: Vec<_> = log.findings.iter().map(|found| found.rule).chain(unknown).collect();
            rules.join(",")
        }
    }
}

#[test]
fn every_message_is_classed_as_the_list_says() {
    let rows = rows();
    assert!(rows.len() > 80, "{}", rows.len());
    let bless = std::env::var_os("CLEANSLATE_BLESS").is_some();
    let mut text: String = LIST.lines().filter(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    for row in rows {
        let is = answer(row.example);
        text.extend([row.file, "\t", row.versions, "\t", row.format, "\t", row.example, "\t", &is, "\n"]);
        assert!(bless || is == row.answer, "{}: `{}` is not `{}`", row.example, is, row.answer);
    }
    if bless {
        std::fs::write(workspace().join("fixtures/messages/linux.tsv"), text).unwrap();
    }
}

/// What is not known is so on purpose: these messages need their source.
#[test]
fn few_messages_are_unknown() {
    let unknown: Vec<_> =
        rows().iter().filter(|row| row.answer.split(',').any(|word| word == "unknown")).map(|row| row.format).collect();
    assert_eq!(unknown, [""; 0]);
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Calls that print, and those of KVM that print a SEAMCALL by name.
const PRINT: [&str; 9] =
    ["pr_emerg", "pr_alert", "pr_crit", "pr_err", "pr_warn", "pr_notice", "pr_info", "kvm_pr_unimpl", "panic"];

/// The string literals at the start of `text`, one after another.
fn literals(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text.trim_start_matches(['\\', '\n', '\t', ' ']);
    while let Some(inside) = rest.strip_prefix('"') {
        let end = inside.char_indices().find(|&(at, c)| c == '"' && !inside[..at].ends_with('\\')).map(|(at, _)| at);
        let Some(end) = end else { break };
        out.push_str(&inside[..end]);
        rest = inside[end + 1..].trim_start_matches(['\\', '\n', '\t', ' ']);
    }
    out
}

/// The format strings of a source file, without their line ends.
fn formats(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let macros: Vec<(&str, String)> = source
        .split("#define ")
        .skip(1)
        .filter_map(|text| text.split_once([' ', '\t']))
        .map(|(name, text)| (name, literals(text)))
        .collect();
    for (at, _) in source.match_indices('(') {
        let before = &source[..at];
        let name = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        if line.contains("#define") || line.trim_start().starts_with(['*', '/']) {
            continue;
        }
        let plain = name.trim_end_matches("_once").trim_end_matches("_ratelimited");
        let arguments = &source[at + 1..];
        let text = if PRINT.contains(&plain) {
            let word = arguments.split([')', ',']).next().unwrap_or_default().trim();
            let named = macros.iter().find(|(name, _)| *name == word).map(|(_, text)| text.clone());
            named.unwrap_or_else(|| literals(arguments))
        } else if name == "WARN_ONCE" {
            literals(arguments.split_once(',').map_or("", |(_, rest)| rest))
        } else if name.starts_with("TDX_BUG_ON") {
            let leaf = arguments.split(',').nth(1).unwrap_or_default().trim();
            if leaf.starts_with("TDH_") { format!("SEAMCALL {leaf} failed: 0x%llx") } else { String::new() }
        } else if name.starts_with("pr_tdx_error") {
            let leaf = arguments.split([',', ')']).next().unwrap_or_default().trim();
            format!("SEAMCALL {leaf} failed: 0x%llx")
        } else {
            continue;
        };
        let text = text.replace("\\n", "").trim_end().to_owned();
        // A message that is put together of a variable, and the head of a macro.
        let head = ["", "%s", "SEAMCALL", "SEAMCALL %s failed: 0x%llx"].contains(&text.as_str());
        if !head {
            found.insert(text);
        }
    }
    found
}

/// Versions of the list whose sources `cargo xtask linux KERNEL` fetches, and where.
const FETCHED: [(&str, &str, &str); 2] = [("6.12", "tdx", "linux-source-6.12"), ("7.3", "tdx-7.3", "linux-source-7.3")];

#[test]
fn the_list_is_that_of_the_sources() {
    for (version, kernel, folder) in FETCHED {
        let source = workspace().join("target/linux").join(kernel).join(folder);
        if source.exists() {
            compare(version, &source);
        } else {
            let what = format!("messages of Linux {version}'s TDX code");
            skip::test_with_kernel(&what, kernel, &source.display().to_string());
        }
    }
    let given = std::env::var("CLEANSLATE_LINUX_SOURCES").unwrap_or_default();
    for entry in given.split(':').filter(|entry| !entry.is_empty()) {
        let (version, source) = entry.split_once('=').unwrap_or_else(|| panic!("{entry}: VERSION=DIR"));
        assert!(Path::new(source).is_dir(), "{source}");
        compare(version, Path::new(source));
    }
}

/// Messages of this version in the list are those of its source: of a file of TDX code all of them,
/// of any other file those that the list has.
fn compare(version: &str, source: &Path) {
    let of = |row: &&Row| row.versions.split(' ').any(|word| word == version);
    let rows = rows();
    let files: BTreeSet<_> = rows.iter().filter(of).map(|row| row.file).collect();
    assert!(files.len() > 4, "{version}: {files:?}");
    let mut compared = 0;
    for file in files {
        let path = source.join(file);
        // Who fetches a source by hand may have its TDX code only.
        if !path.exists() && !file.contains("tdx") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let listed = rows.iter().filter(of).filter(|row| row.file == file);
        let listed: BTreeSet<_> = listed.map(|row| row.format.to_owned()).collect();
        compared += listed.len();
        if file.contains("tdx") {
            assert_eq!(formats(&text), listed, "{file} of {version}");
        } else {
            let there = |format: &&String| text.contains(&format.replace('"', "\\\""));
            let missing: Vec<_> = listed.iter().filter(|format| !there(format)).collect();
            assert!(missing.is_empty(), "{file} of {version}: {missing:?}");
        }
    }
    println!("# {version}: {compared} messages compared with {}", source.display());
}

#[test]
fn format_strings_are_found() {
    let source = "#define MSG \\\n\t\"a message \"  \"of two\\n\"\n * pr_err(\"no\")\n\tpr_err(\"%d of \"\n\t\t\"%s\\n\", 1, x);\n\
        pr_warn_ratelimited(MSG);\nif (TDX_BUG_ON_2(err, TDH_MEM_SEPT_ADD, a, b, kvm))\nWARN_ONCE(1, \"what\");\n";
    let found: Vec<_> = formats(source).into_iter().collect();
    assert_eq!(found, ["%d of %s", "SEAMCALL TDH_MEM_SEPT_ADD failed: 0x%llx", "a message of two", "what"]);
}
