//! The task `vectors`: replays conformance vectors of the real module on the emulated one.

use crate::step::Counts;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Replays the given files, or all of the repository. True if nothing differs.
pub(crate) fn replay(paths: &[PathBuf]) -> Result<bool> {
    let counts = if paths.is_empty() { replay_files(&files()?)? } else { replay_files(paths)? };
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(counts.failed == 0)
}

/// Replays all of the repository, as part of the tests.
pub(crate) fn all() -> Result<Counts> {
    eprintln!("\n== conformance vectors of TDX module 1.5.01");
    replay_files(&files()?)
}

fn files() -> Result<Vec<PathBuf>> {
    let folder = crate::root().join("fixtures/vectors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".jsonl.gz"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("{}: no vectors", folder.display());
    }
    Ok(files)
}

fn replay_files(paths: &[impl AsRef<Path>]) -> Result<Counts> {
    let mut counts = Counts::default();
    for path in paths {
        let path = path.as_ref();
        let summary = tdx_lab::vectors::replay(path, &mut |difference| println!("{difference}"))?;
        println!(
            "{}: {} passed, {} failed, {} skipped",
            path.display(),
            summary.passed,
            summary.failed,
            summary.skipped
        );
        if summary.passed_with_earlier_key > 0 {
            println!(
                "  {} of the passed ones name an earlier KeyID of a page as owner of some lines (vectors/owners.rs says why)",
                summary.passed_with_earlier_key
            );
        }
        counts.add(Counts {
            passed: summary.passed as u64,
            failed: summary.failed as u64,
            skipped: summary.skipped as u64,
            ..Counts::default()
        });
    }
    Ok(counts)
}
