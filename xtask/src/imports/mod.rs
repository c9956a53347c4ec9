//! Import circles: fails if modules of one crate import each other in a circle.
//!
//! The children of each module, each with all that is below it, must be without a circle. A module
//! and its own children may import each other: they are one unit, whose private items the children
//! see.
//!
//! Reads source text, not types. An import goes from the file that names an item to the file that
//! defines it: re-exports are followed. A method call has no path and is not seen. Test code is not
//! read.

mod graph;
mod resolve;
mod source;
mod token;

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

use resolve::Crate;

/// Folders with a `Cargo.toml`, one level below these, are checked.
const FOLDERS: [&str; 5] = ["crates", "bare", "linux", "tools", "."];

/// The root file of each crate: `src/lib.rs` or `src/main.rs`.
fn roots(repository: &Path) -> Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for folder in FOLDERS {
        let folder = repository.join(folder);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let source = entry?.path().join("src");
            roots.extend(["lib.rs", "main.rs"].map(|name| source.join(name)).into_iter().filter(|file| file.is_file()));
        }
    }
    roots.sort();
    Ok(roots)
}

/// Checks every crate of the repository, and prints each circle with its imports. True if there is
/// none.
pub(crate) fn check(repository: &Path) -> Result<bool> {
    let (mut files, mut found) = (0, 0);
    let roots = roots(repository)?;
    for root in &roots {
        let package = Crate::read(root)?;
        files += package.files();
        let folder = root.parent().unwrap_or(root);
        let folder = folder.strip_prefix(repository).unwrap_or(folder);
        for circle in graph::circles(&package.edges()) {
            let names: Vec<String> =
                circle.modules.iter().map(|module| format!("{}: {}", folder.display(), module.join("::"))).collect();
            found += 1;
            println!("circle: {}", names.join(", "));
            for edge in &circle.edges {
                let file = edge.file.strip_prefix(repository).unwrap_or(&edge.file);
                println!("  {} imports {}", file.display(), edge.path.join("::"));
            }
        }
    }
    println!("import circles: {found} in {files} files of {} crates", roots.len());
    Ok(found == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Circles of a crate of these files, each as its modules in ascending order.
    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("cleanslate-imports-{}-{number}", std::process::id()));
        for (name, text) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let package = Crate::read(&folder.join("lib.rs")).unwrap();
        let circles = graph::circles(&package.edges());
        let names = circles.iter().map(|circle| circle.modules.iter().map(|module| module.join("::")).collect());
        let found = names.collect();
        fs::remove_dir_all(&folder).unwrap();
        found
    }

    #[test]
    fn two_files_that_import_each_other_are_a_circle() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "pub struct B(pub super::a::A);"),
            ("c.rs", "use crate::{a::A, b::B};"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn a_circle_through_children_is_one_of_their_parents() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod inner; use crate::b::B; pub struct A(B);"),
            ("a/inner.rs", "pub struct I;"),
            ("b.rs", "pub struct B(crate::a::inner::I);"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }

    #[test]
    fn a_module_and_its_children_are_one_unit() {
        let found = circles(&[
            ("lib.rs", "mod a; pub fn count() -> u32 { a::f() }"),
            ("a/mod.rs", "mod b; pub struct A(b::B); pub fn f() -> u32 { crate::count() }"),
            ("a/b.rs", "use super::A; pub struct B(A);"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_reexport_is_no_import() {
        let found = circles(&[
            ("lib.rs", "pub mod a; pub use a::b::B; use a::A;"),
            ("a/mod.rs", "mod b; mod c; pub use b::*; pub struct A;"),
            ("a/b.rs", "use super::A; pub struct B(A);"),
            ("a/c.rs", "use crate::B; pub struct C(B);"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn tests_comments_and_strings_import_nothing() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }\n// crate::b::B\n/* crate::b::B */"),
            ("b.rs", r##"use crate::a::A; pub struct B; const T: &str = r#"crate::b::"B"#;"##),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn inline_modules_are_part_of_their_file() {
        let found = circles(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; pub mod inner { use super::A; use super::super::b::B; pub struct I; }"),
            ("b.rs", "use crate::a::inner::I; pub struct B(I);"),
        ]);
        assert_eq!(found, [["a", "b"]]);
    }
}
