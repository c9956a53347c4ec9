//! Every message of Linux's TDX code: `fixtures/messages/linux.tsv` has the format strings of
//! Linux 6.12 to 7.3, each with an example and what `explain` says of it. The list is
//! compared with the source of 7.3 (`cargo xtask linux tdx-7.3` fetches it) and with those of 6.18
//! and 7.2 where they are.

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

#[test]
fn the_list_is_that_of_the_sources() {
    let given = std::env::var_os("CLEANSLATE_LINUX_SOURCE").map(PathBuf::from);
    let source = given.unwrap_or_else(|| workspace().join("target/linux/tdx-7.3/linux-source-7.3"));
    if !source.join("Makefile").exists() && !source.join("arch").exists() {
        let source = source.display().to_string();
        return skip::test("messages of Linux's TDX code", &source, "cargo xtask linux tdx-7.3");
    }
    compare("7.3", &source);
    // No package of Debian 12 has them: fetched by hand, beside the kernels of `cargo xtask linux`.
    for (version, folder) in [("6.18", "tdx-6.18/linux-6.18.15"), ("7.2", "tdx-7.2/linux-7.2.8")] {
        let source = workspace().join("target/linux").join(folder);
        if source.exists() {
            compare(version, &source);
        }
    }
}

/// Messages of this version in the list are those of its source.
fn compare(version: &str, source: &Path) {
    let of = |row: &&Row| row.versions.split(' ').any(|word| word == version);
    let rows = rows();
    let files: BTreeSet<_> = rows.iter().filter(of).map(|row| row.file).collect();
    assert!(files.len() > 4, "{files:?}");
    for file in files.iter().filter(|file| file.contains("tdx")) {
        let text = std::fs::read_to_string(source.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let listed = rows.iter().filter(of).filter(|row| row.file == *file);
        let listed: BTreeSet<_> = listed.map(|row| row.format.to_owned()).collect();
        assert_eq!(formats(&text), listed, "{file} of {version}");
    }
}

#[test]
fn format_strings_are_found() {
    let source = "#define MSG \\\n\t\"a message \"  \"of two\\n\"\n * pr_err(\"no\")\n\tpr_err(\"%d of \"\n\t\t\"%s\\n\", 1, x);\n\
        pr_warn_ratelimited(MSG);\nif (TDX_BUG_ON_2(err, TDH_MEM_SEPT_ADD, a, b, kvm))\nWARN_ONCE(1, \"what\");\n";
    let found: Vec<_> = formats(source).into_iter().collect();
    assert_eq!(found, ["%d of %s", "SEAMCALL TDH_MEM_SEPT_ADD failed: 0x%llx", "a message of two", "what"]);
}
