//! No answer without ground: logs with lines dropped, doubled, cut, reordered and with noise. The
//! evidence of a finding is in the input, two findings of a boot do not contradict each other, what
//! is unknown stays unknown, and nothing panics.

use std::path::Path;

use proptest::prelude::*;
use tdx_operator::{
    explain::from_reader,
    report::{Judgement, LogFinding, LogReport, Subject, Topic},
};

fn logs() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let names = ["mce", "hosts", "field", "pasted", "linux-7.3"];
    let files = names.iter().flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap());
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// What happens to a log on its way to us.
#[derive(Clone, Debug)]
enum Change {
    Drop(prop::sample::Index),
    Double(prop::sample::Index),
    Cut(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Noise(prop::sample::Index, prop::sample::Index, u8),
    /// Lines of another log.
    Mix(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = || any::<prop::sample::Index>();
    prop_oneof![
        index().prop_map(Change::Drop),
        index().prop_map(Change::Double),
        (index(), index()).prop_map(|(line, at)| Change::Cut(line, at)),
        (index(), index()).prop_map(|(one, other)| Change::Swap(one, other)),
        (index(), index(), 1u8..).prop_map(|(line, at, byte)| Change::Noise(line, at, byte)),
        (index(), index()).prop_map(|(log, line)| Change::Mix(log, line)),
    ]
}

fn apply(lines: &mut Vec<Vec<u8>>, change: &Change, all: &[Vec<u8>]) {
    if lines.is_empty() {
        return;
    }
    let count = lines.len();
    match change {
        Change::Drop(line) => drop(lines.remove(line.index(count))),
        Change::Double(line) => lines.insert(line.index(count), lines[line.index(count)].clone()),
        Change::Cut(line, at) => {
            let line = &mut lines[line.index(count)];
            line.truncate(at.index(line.len() + 1));
        }
        Change::Swap(one, other) => lines.swap(one.index(count), other.index(count)),
        Change::Noise(line, at, byte) => {
            let line = &mut lines[line.index(count)];
            // An equal sign in a mail is decoded with what follows it.
            if !line.is_empty() && !matches!(*byte, b'\n' | b'=') {
                let at = at.index(line.len());
                line[at] = *byte;
            }
        }
        Change::Mix(log, line) => {
            let other: Vec<_> = log.get(all).split(|byte| *byte == b'\n').collect();
            lines.insert(line.index(count), line.get(&other).to_vec());
        }
    }
}

/// Text as evidence shows it: without escapes and ends of cut lines.
fn plain(text: &str) -> String {
    text.trim_end_matches("...").to_owned()
}

/// Quoted-printable, `=3D` is an equal sign.
fn decoded(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        let digits = line.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| *byte == b'=' && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    out
}

/// The lines of the input from a number on, as evidence may show them: joined, decoded, escaped.
fn shown(lines: &[Vec<u8>], number: u64) -> Vec<String> {
    let from = usize::try_from(number).unwrap() - 1;
    let escaped = |text: &str| {
        let mut out = String::new();
        for c in text.chars() {
            if c.is_control() || tdx_operator::input::is_steering(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        out
    };
    let text = |line: &Vec<u8>| escaped(String::from_utf8_lossy(line).trim());
    let mut forms = vec![lines.get(from).map(text).unwrap_or_default()];
    // Broken lines are joined, at most eight.
    let pieces = lines.iter().skip(from).take(8).map(text);
    let words: Vec<_> =
        pieces.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    forms.push(words.join(" "));
    // A line of a mail that ends with an equal sign goes on in the next one, in the middle of a
    // character too.
    let mut whole = Vec::new();
    for line in lines.iter().skip(from).take(8).map(|line| line.trim_ascii()) {
        match line.strip_suffix(b"=") {
            Some(part) => whole.extend_from_slice(part),
            None => whole.extend(line.iter().chain(b" ")),
        }
    }
    let whole = text(&decoded(&whole));
    forms.push(whole.split_whitespace().collect::<Vec<_>>().join(" "));
    forms
}

fn evidence_is_of_the_input(found: &LogFinding, lines: &[Vec<u8>]) -> Result<(), String> {
    if found.evidence.is_empty() {
        return Err(format!("no evidence: {found:?}"));
    }
    for line in &found.evidence {
        let forms = shown(lines, line.line);
        let wanted = plain(&line.text);
        let words = wanted.split_whitespace().collect::<Vec<_>>().join(" ");
        // Color is taken out, and `=3D` decoded: then the words are there one by one.
        let by_word = || {
            let rare = |word: &&str| word.len() > 3 && !word.contains('\\');
            wanted
                .split_whitespace()
                .filter(rare)
                .all(|word| forms[1].contains(word) || forms[2].contains(word) || forms[1].contains('\\'))
        };
        let there = forms[0].contains(&wanted)
            || forms[1..].iter().any(|form| form.contains(words.trim_end_matches('=')))
            || by_word();
        if !there {
            return Err(format!("line {} is not `{wanted}` but `{}`", line.line, forms[0]));
        }
    }
    Ok(())
}

/// A text that is nothing but a value has that value in it, by number or by name.
fn value_is_of_the_input(subject: &Subject, text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_ascii_uppercase();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let named = |name: Option<&str>| name.is_some_and(|name| text.contains(&name.to_ascii_uppercase()));
    let hex = |raw: &str| digits.contains(&raw.trim_start_matches("0x").to_ascii_uppercase());
    match subject {
        Subject::Status(status) => {
            hex(&status.raw) || named(status.name.as_deref().and_then(|name| name.split(' ').next()))
        }
        Subject::Errno(errno) => text.contains(&errno.number.unsigned_abs().to_string()) || named(errno.name),
        Subject::Msr(msr) => hex(&msr.value),
        Subject::Log(_) => false,
    }
}

/// Two findings that cannot both be true of one boot.
fn contradiction(log: &LogReport) -> Option<String> {
    for one in &log.findings {
        for other in log.findings.iter().filter(|other| other.boot == one.boot) {
            let bring_up = one.topic == Topic::BringUp && other.topic == Topic::BringUp;
            let up = one.judgement == Judgement::Up;
            let not_up = other.judgement == Judgement::Failed
                || other.judgement == Judgement::Undecidable && other.rule != "line-does-not-hold";
            let two_answers = bring_up && up && not_up;
            let silent = one.rule == "silent-about-tdx" && other.topic == Topic::BringUp && other.rule != one.rule;
            let kexec = one.topic == Topic::Kexec && other.topic == Topic::Kexec && one.rule != other.rule;
            if two_answers || silent || kexec {
                return Some(format!("{one:#?}\n{other:#?}"));
            }
        }
    }
    None
}

/// How many logs are tried, `CLEANSLATE_LOGS`.
fn cases() -> u32 {
    std::env::var("CLEANSLATE_LOGS").map_or(1500, |count| count.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_has_its_ground(which in any::<prop::sample::Index>(), changes in proptest::collection::vec(change(), 0..12)) {
        let all = logs();
        let mut lines: Vec<Vec<u8>> = which.get(&all).split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        for change in &changes {
            apply(&mut lines, change, &all);
        }
        let text = lines.join(&b'\n');
        let Ok(report) = from_reader("x", &text[..]) else { return Ok(()) };
        let again = from_reader("x", &text[..]);
        prop_assert_eq!(Ok(&report), again.as_ref(), "the same answer to the same input");
        let Subject::Log(log) = report.subject else {
            prop_assert!(value_is_of_the_input(&report.subject, &text), "{}: {:#?}", text.escape_ascii(), report.subject);
            return Ok(());
        };
        for found in &log.findings {
            let held = evidence_is_of_the_input(found, &lines);
            prop_assert!(held.is_ok(), "{:?}: {:#?}", held, found);
            prop_assert!(!found.cause.is_empty() && !found.remedy.is_empty(), "{:?}", found);
            prop_assert!((1..=log.boots).contains(&found.boot));
        }
        let contradiction = contradiction(&log);
        prop_assert!(contradiction.is_none(), "{}", contradiction.unwrap_or_default());
    }

    /// A line that is known, with one byte of its words changed, is never known as another one.
    #[test]
    fn unknown_stays_unknown(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), letter in b'a'..=b'z') {
        let known = [
            "virt/tdx: module initialized",
            "virt/tdx: module not loaded",
            "virt/tdx: initialization failed: TDMRs exhausted.",
            "virt/tdx: Self-snoop is required for TDX",
            "kexec: Not allowed on platform with tdx_pw_mce",
            "mce: [Hardware Error]: Machine check: TDX private memory error",
            "tdx: Guest detected",
        ];
        let line = which.get(&known);
        let place = line.find(": ").unwrap() + 2;
        let place = place + at.index(line.len() - place);
        let mut bytes = line.as_bytes().to_vec();
        if !bytes[place].is_ascii_alphabetic() || bytes[place].eq_ignore_ascii_case(&letter) {
            return Ok(());
        }
        bytes[place] = letter;
        let rules = |text: &[u8]| match from_reader("x", text) {
            Ok(report) => {
                let Subject::Log(log) = report.subject else { panic!() };
                log.findings.iter().map(|found| (found.rule, found.judgement)).collect::<Vec<_>>()
            }
            Err(_) => Vec::new(),
        };
        let sure = rules(&bytes).into_iter().filter(|(_, judgement)| {
            matches!(judgement, Judgement::Up | Judgement::Failed | Judgement::TdxPoison | Judgement::Info)
        });
        prop_assert_eq!(sure.collect::<Vec<_>>(), [], "{}", String::from_utf8_lossy(&bytes));
    }
}
