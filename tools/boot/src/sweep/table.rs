//! The results as a Markdown table.

use std::fmt::Write as _;

use super::Outcome;
use super::row::{CALLS, ENDINGS, FAILURES};

/// A row of the table for each call and failure, a column for each ending.
pub(super) fn table(results: &[&Outcome], rows: usize) -> String {
    let wrong = results.iter().filter(|outcome| !outcome.right).count();
    let discarded: usize = results.iter().map(|outcome| outcome.discarded).sum();
    let whole = results.iter().filter(|outcome| outcome.whole).count();
    let mut text = format!(
        "# Failing SEAMCALLs of a TD under KVM\n\n\
         Written by `cargo xtask kvm-sweep --table docs/KVM_SWEEP.md`; what is run and what is right:\n\
         [KVM](kvm.md). {} of {rows} rows run, {wrong} wrong; {discarded} runs of QEMU discarded. From\n\
         power-on: {whole} rows, the others from a snapshot. An empty cell has not been run. `held`: pages\n\
         that stay out of the page allocator until the kexec, in the first ending that was run.\n\n\
         | SEAMCALL | call | failure | the VMM sees | held |",
        results.len()
    );
    for (end, jump) in ENDINGS {
        // Writing to a string never fails.
        let _ = write!(text, " {end}, {jump} |");
    }
    text.push_str("\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (leaf, calls) in CALLS {
        let leaf = leaf.name().unwrap_or_default();
        for call in calls {
            for failure in FAILURES {
                let of = |outcome: &&&Outcome| {
                    outcome.row.leaf == leaf && outcome.row.call == *call && outcome.row.failure == failure
                };
                let Some(first) = results.iter().find(of) else { continue };
                let vmm = if first.vmm.is_empty() { "no error" } else { &first.vmm };
                let held = first.held.map(|held| held.to_string()).unwrap_or_default();
                let _ = write!(text, "| {leaf} | {call} | {failure} | {vmm} | {held} |");
                for (end, jump) in ENDINGS {
                    let cell =
                        results.iter().filter(of).find(|outcome| outcome.row.end == end && outcome.row.jump == jump);
                    let cell = cell.map_or(String::new(), |outcome| {
                        if outcome.right {
                            outcome.verdict.clone()
                        } else {
                            format!("**{}**: {}", outcome.verdict, outcome.why)
                        }
                    });
                    let _ = write!(text, " {} |", cell.replace('|', "/"));
                }
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::judge::RULES;
    use super::super::row::Row;
    use super::*;

    #[test]
    fn a_wrong_row_is_seen_in_the_table() {
        let row = Row::all().swap_remove(0);
        let outcome = Outcome {
            row,
            verdict: "overwritten".to_owned(),
            right: false,
            why: "first at 0x1000".to_owned(),
            vmm: String::new(),
            held: Some(3),
            seconds: 1.0,
            discarded: 0,
            whole: false,
            rules: RULES,
        };
        let text = table(&[&outcome], 5);
        assert!(text.contains("1 of 5 rows run, 1 wrong"), "{text}");
        let line = "| MNG.CREATE | 1 | dies | no error | 3 | **overwritten**: first at 0x1000 |  |  |  |";
        assert!(text.contains(line), "{text}");
    }
}
