//! Tells the program from which commit it was built. Without git, or from a package, it is
//! "unknown"; `CLEANSLATE_COMMIT` overrides.

use std::path::Path;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-env-changed=CLEANSLATE_COMMIT");
    // Only the repository that this file is in counts, not one around an unpacked package.
    let ours = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix == "crates/cleanslate/");
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| ours && Path::new(path).exists());
        if let Some(path) = path {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("CLEANSLATE_COMMIT").ok();
    let commit = given.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| ours));
    println!("cargo::rustc-env=CLEANSLATE_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}
