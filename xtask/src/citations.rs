//! Lint: no tracked text names a Markdown document that is not in the repository.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Documents of other projects.
const ELSEWHERE: [&str; 1] = ["BUILD.md"];

/// Prints each citation of a document that does not exist; true if there is none.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let listing = Command::new("git").arg("ls-files").current_dir(root).output().context("cannot run git")?;
    let files: Vec<String> = String::from_utf8_lossy(&listing.stdout).lines().map(str::to_owned).collect();
    let documents: BTreeSet<&str> = files.iter().map(String::as_str).filter(|file| is_document(file)).collect();
    let mut clean = true;
    for file in files.iter().filter(|file| is_text(file)) {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            for cited in citations(line) {
                if !exists(&documents, cited) {
                    println!("{file}:{number}: `{cited}` is not in the repository");
                    clean = false;
                }
            }
        }
    }
    Ok(clean)
}

fn is_text(file: &str) -> bool {
    // Logs quote what others wrote; the tests of the two link checkers make names up.
    !["fixtures/hosts", "fixtures/mce", "xtask/src/citations.rs", "xtask/src/book.rs"]
        .iter()
        .any(|start| file.starts_with(start))
        && [".rs", ".md", ".toml", ".c", ".h", ".S", ".sh", "run", ".4", ".json"].iter().any(|end| file.ends_with(end))
}

fn is_document(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "md")
}

/// Words of a line that end in `.md`, without what surrounds them.
fn citations(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':')))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| word.len() > 3 && is_document(word) && !word.contains(':'))
}

fn exists(documents: &BTreeSet<&str>, cited: &str) -> bool {
    let name = cited.trim_start_matches(['.', '/']);
    ELSEWHERE.contains(&name)
        || name.starts_with("usr/")
        || documents.iter().any(|document| *document == name || document.ends_with(&format!("/{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_cited_in_code_and_prose() {
        let line = "/// See `a_b.md` section 2, docs/X.md, and (../Y.md#z). https://h/i.md .md";
        assert_eq!(citations(line).collect::<Vec<_>>(), ["a_b.md", "docs/X.md", "../Y.md"]);
        let documents: BTreeSet<&str> = ["docs/X.md", "docs/reference/a_b.md"].into();
        assert!(exists(&documents, "a_b.md") && exists(&documents, "../docs/X.md"));
        assert!(!exists(&documents, "b.md") && !exists(&documents, "other/X.md"));
    }
}
