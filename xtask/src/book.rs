//! The task `book`: link check of every chapter, then `mdbook build`. Chapters stay where they are
//! in the repository; a copy with links that work in the book is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step::{Counts, missing, run, verdict};

const SUMMARY: &str = "docs/SUMMARY.md";
const INSTALL: &str = "cargo install mdbook --locked --version 0.5.4";

/// Checks all links, and builds the book into `target/book` if mdbook is there.
pub(crate) fn build() -> Result<Counts> {
    let root = crate::root().canonicalize()?;
    let summary = fs::read_to_string(root.join(SUMMARY)).with_context(|| format!("cannot read {SUMMARY}"))?;
    let mut chapters = BTreeMap::new();
    for link in links(&summary) {
        let Some(path) = resolve(Path::new(SUMMARY), &link.target) else { continue };
        let text = fs::read_to_string(root.join(&path))
            .with_context(|| format!("{SUMMARY}:{}: chapter {} is missing", link.line, path.display()))?;
        chapters.insert(path, text);
    }
    let problems = check(&root, &chapters);
    for problem in &problems {
        println!("{problem}");
    }
    let mut counts = verdict("links of the book", problems.is_empty());
    if counts.failed > 0 {
        return Ok(counts);
    }
    if !Command::new("mdbook").arg("--version").output().is_ok_and(|output| output.status.success()) {
        counts.add(missing("the book", "mdbook", INSTALL));
        return Ok(counts);
    }
    let source = root.join("target/book-src");
    copy(&root, &source, &summary, &chapters)?;
    let output = root.join("target/book");
    let built = run("mdbook build", Command::new("mdbook").arg("build").arg(&source).arg("--dest-dir").arg(&output))?;
    counts.add(verdict("the book", built));
    println!("{}", output.join("index.html").display());
    Ok(counts)
}

struct Link {
    line: usize,
    target: String,
}

/// Targets of inline links and pictures outside code, with their lines.
fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (line, row) in (1..).zip(text.lines()) {
        if row.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between backticks is code; `](` outside of it starts a target, also
        // where the text of the link is code.
        for prose in row.split('`').step_by(2) {
            let mut rest = prose;
            while let Some((_, after)) = rest.split_once("](") {
                let Some((target, after)) = after.split_once(')') else { break };
                found.push(Link { line, target: target.to_owned() });
                rest = after;
            }
        }
    }
    found
}

/// The file that a link of a chapter names, from the root of the repository; `None` for the web and
/// for an anchor of the same chapter.
fn resolve(chapter: &Path, target: &str) -> Option<PathBuf> {
    let file = target.split('#').next().unwrap_or_default();
    if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut path = PathBuf::new();
    for part in chapter.parent().unwrap_or(Path::new("")).join(file).components() {
        match part {
            // Above the root of the repository there is nothing.
            Component::ParentDir if !path.pop() => return Some(PathBuf::from(target)),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

/// The anchor that mdbook and GitHub make of a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        })
        .collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for row in text.lines() {
        fenced ^= row.trim_start().starts_with("```");
        if !fenced && row.starts_with('#') {
            found.insert(anchor(row.trim_start_matches('#')));
        }
    }
    found
}

/// One line for each link that leads nowhere.
fn check(root: &Path, chapters: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (chapter, text) in chapters {
        for link in links(text) {
            let path = resolve(chapter, &link.target);
            let at = format!("{}:{}: link `{}`", chapter.display(), link.line, link.target);
            if let Some(path) = &path
                && !root.join(path).exists()
            {
                problems.push(format!("{at}: {} does not exist", path.display()));
                continue;
            }
            let wanted = link.target.split_once('#').map(|(_, anchor)| anchor);
            let target = path.as_ref().unwrap_or(chapter);
            if let (Some(wanted), Some(text)) = (wanted, chapters.get(target))
                && !link.target.contains("://")
                && !anchors(text).contains(wanted)
            {
                problems.push(format!("{at}: {} has no heading `#{wanted}`", target.display()));
            }
        }
    }
    problems
}

/// The source of the book: chapters, and the files that they link to, at their paths in the
/// repository. Links to folders, which a book cannot show, become plain text.
fn copy(root: &Path, to: &Path, summary: &str, chapters: &BTreeMap<PathBuf, String>) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let put = |path: &Path, bytes: &[u8]| -> Result<()> {
        let path = to.join(path);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        Ok(fs::write(path, bytes)?)
    };
    for (chapter, text) in chapters {
        let mut text = text.clone();
        for link in links(&text.clone()) {
            let Some(path) = resolve(chapter, &link.target) else { continue };
            let file = root.join(&path);
            if file.is_dir() {
                text = without_link(&text, &link.target);
            } else if !chapters.contains_key(&path) {
                put(&path, &fs::read(&file)?)?;
            }
        }
        put(chapter, text.as_bytes())?;
    }
    let mut contents = summary.to_owned();
    for link in links(summary) {
        let Some(path) = resolve(Path::new(SUMMARY), &link.target) else {
            bail!("{SUMMARY}:{}: `{}` is not a chapter", link.line, link.target);
        };
        contents = contents.replace(&format!("]({})", link.target), &format!("]({})", path.display()));
    }
    put(Path::new("SUMMARY.md"), contents.as_bytes())?;
    put(Path::new("book.toml"), &fs::read(root.join("docs/book.toml"))?)
}

/// `[text](target)` becomes `text`.
fn without_link(text: &str, target: &str) -> String {
    let end = format!("]({target})");
    let mut text = text.to_owned();
    while let Some(at) = text.find(&end) {
        text.replace_range(at..at + end.len(), "");
        if let Some(open) = text[..at].rfind('[') {
            text.remove(open);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_outside_of_code_are_found() {
        let text = "[a](x.md) `[b](no.md)` ![p](p.svg)\n```\n[c](no.md)\n```\n[`d`](../y.rs#z)";
        let targets: Vec<_> = links(text).into_iter().map(|link| (link.line, link.target)).collect();
        assert_eq!(targets, [(1, "x.md".into()), (1, "p.svg".into()), (5, "../y.rs#z".into())]);
    }

    #[test]
    fn a_link_is_relative_to_its_chapter() {
        let of = |target| resolve(Path::new("docs/a.md"), target);
        assert_eq!(of("../README.md#x"), Some(PathBuf::from("README.md")));
        assert_eq!(of("reference/linux.md"), Some(PathBuf::from("docs/reference/linux.md")));
        assert_eq!(of("../../outside.md"), Some(PathBuf::from("../../outside.md")), "does not exist");
        assert_eq!((of("#here"), of("https://x/y")), (None, None));
    }

    #[test]
    fn dead_links_and_dead_anchors_are_named() {
        let chapters: BTreeMap<_, _> = [
            (PathBuf::from("README.md"), "# One `two`: three\n[x](gone.md) [y](#one-two-three)".to_owned()),
            (PathBuf::from("docs/a.md"), "[x](../README.md#nothing)".to_owned()),
        ]
        .into();
        let problems = check(&crate::root().canonicalize().unwrap(), &chapters);
        assert_eq!(
            problems,
            [
                "README.md:2: link `gone.md`: gone.md does not exist",
                "docs/a.md:1: link `../README.md#nothing`: README.md has no heading `#nothing`"
            ]
        );
    }

    #[test]
    fn a_folder_is_not_linked() {
        assert_eq!(without_link("see [`tests/c/`](../tests/c) there", "../tests/c"), "see `tests/c/` there");
    }
}
