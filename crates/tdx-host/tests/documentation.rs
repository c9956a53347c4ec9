//! Every public function that makes a SEAMCALL says so under `# SEAMCALL`, and none does that makes none. Reads the sources as text:
//! clippy sees to `# Errors` and `# Safety`, nobody to this.
#![cfg(not(loom))]

use std::fs;
use std::path::{Path, PathBuf};

/// What stands in the body of a function that makes a SEAMCALL, directly or through a private one of its module.
const MAKES_ONE: [&str; 8] = [
    "Leaf::",
    "cpu.seamcall(",
    "reclaim(self",
    "self.reclaim(",
    "disable(",
    "module_info::read_all",
    "InitTdmrs {",
    "FlushVcpus {",
];

/// Makes none, and names leaves all the same: how often each may be called again.
const NAMES_LEAVES_ONLY: &str = "for_leaf";

struct Function {
    name: String,
    documented: bool,
    makes_seamcalls: bool,
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The public functions of a file that is formatted as `cargo fmt` does: a body ends at the indent at which it began.
fn public_functions(source: &str) -> Vec<Function> {
    let lines: Vec<&str> = source.lines().take_while(|line| !line.contains("#[cfg(test)]")).collect();
    let mut functions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let start = line.trim_start();
        let indent = &line[..line.len() - start.len()];
        let Some(rest) =
            ["pub fn ", "pub const fn ", "pub unsafe fn "].iter().find_map(|head| start.strip_prefix(head))
        else {
            continue;
        };
        let name = rest.split(['<', '(']).next().unwrap().to_owned();
        let above = lines[..at].iter().rev().take_while(|line| {
            let line = line.trim_start();
            line.starts_with("///") || line.starts_with("#[")
        });
        let documented = above.into_iter().any(|line| line.trim() == "/// # SEAMCALL");
        let end = format!("{indent}}}");
        let one_line = line.ends_with('}');
        let body = lines[at..].iter().take_while(|line| !one_line && **line != end);
        let makes_seamcalls = body.into_iter().any(|line| MAKES_ONE.iter().any(|mark| line.contains(mark)));
        functions.push(Function { name, documented, makes_seamcalls });
    }
    functions
}

#[test]
fn seamcalls_are_documented() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files.sort();
    let mut checked = 0;
    let mut wrong = Vec::new();
    // The instructions are documented in words of their own.
    for file in files.iter().filter(|file| !file.components().any(|part| part.as_os_str() == "arch")) {
        for function in public_functions(&fs::read_to_string(file).unwrap()) {
            if function.name == NAMES_LEAVES_ONLY {
                continue;
            }
            checked += u32::from(function.documented);
            if function.documented != function.makes_seamcalls {
                wrong.push(format!("{}: {}", file.display(), function.name));
            }
        }
    }
    // `bringup::run` has the section and makes its SEAMCALLs through the steps.
    wrong.retain(|place| !place.ends_with("bringup/mod.rs: run"));
    assert!(wrong.is_empty(), "`# SEAMCALL` is missing, or there is none to document: {wrong:#?}");
    assert!(checked > 30, "{checked} functions only: are the sources read as they are written?");
}

#[test]
fn a_missing_section_is_found() {
    let source = "
    /// Calls.
    pub fn silent<C: Cpu>(cpu: &C) {
        call(cpu, Registers::call(Leaf::SYS_INIT));
    }

    /// Calls.
    ///
    /// # SEAMCALL
    /// SYS.INIT.
    #[must_use]
    pub fn spoken<C: Cpu>(cpu: &C) {
        call(cpu, Registers::call(Leaf::SYS_INIT));
    }
";
    let functions = public_functions(source);
    let found: Vec<_> = functions.iter().map(|f| (f.name.as_str(), f.documented, f.makes_seamcalls)).collect();
    assert_eq!(found, [("silent", false, true), ("spoken", true, true)]);
}
