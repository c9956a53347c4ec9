//! What tests of texts share: a text, the rules that it must give, and words of its answer.

use tdx_operator::{
    explain::from_reader,
    report::{LogReport, Subject},
};

/// The answer to a text, which is a log.
pub fn explained(text: &str) -> LogReport {
    let report = from_reader("x", text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let Subject::Log(log) = report.subject else { panic!("{text}") };
    log
}

/// Each text has these rules, these words in its causes and remedies, and no unknown line.
pub fn all(cases: &[(&str, &[&str], &[&str])]) {
    for (text, rules, words) in cases {
        let log = explained(text);
        let found: Vec<_> = log.findings.iter().map(|found| found.rule).collect();
        assert_eq!(found, *rules, "{text}: {:#?}", log.findings);
        assert_eq!(log.unknown_lines, 0, "{text}: {:?}", log.unknown);
        let said: Vec<_> = log.findings.iter().map(|found| format!("{} {}", found.cause, found.remedy)).collect();
        for word in *words {
            assert!(said.iter().any(|text| text.contains(word)), "{text}: {word}: {said:#?}");
        }
    }
}
