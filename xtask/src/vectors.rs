//! The task `vectors`: replays conformance vectors of the real module on the emulated one.

use crate::step::Counts;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Replays the given files, or all of the repository. True if nothing differs.
pub(crate) fn replay(paths: &[PathBuf]) -> Result<bool> {
    let counts = if paths.is_empty() { replay_files(&files()?) } else { replay_files(paths) };
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(counts.failed == 0)
}

/// Replays all of the repository, as part of the tests.
pub(crate) fn all() -> Result<Counts> {
    eprintln!("\n== conformance vectors of TDX modules 1.5.01 and 1.5.25");
    Ok(replay_files(&files()?))
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

fn replay_files(paths: &[impl AsRef<Path>]) -> Counts {
    let mut counts = Counts::default();
    let mut rows = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let row = match tdx_lab::vectors::replay(path, &mut |finding| println!("{finding}")) {
            Ok(summary) => {
                counts.add(Counts {
                    passed: summary.passed as u64,
                    failed: summary.failed as u64,
                    skipped: summary.skipped as u64,
                    ..Counts::default()
                });
                format!("{:>6} {:>6} {:>7}", summary.passed, summary.failed, summary.skipped)
            }
            // A file that cannot be replayed is one failure; the others are replayed.
            Err(error) => {
                println!("{error}");
                counts.add(Counts { failed: 1, ..Counts::default() });
                format!("{:>6} {:>6} {:>7}", "-", "error", "-")
            }
        };
        rows.push(format!("{row}  {}", path.display()));
    }
    println!("passed failed skipped  file");
    for row in rows {
        println!("{row}");
    }
    counts
}
