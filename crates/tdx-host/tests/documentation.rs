//! Every public function that makes a SEAMCALL says so under `# SEAMCALL`, and none does that makes
//! none; the table of names in `docs/NAMES.md` names what exists, and every leaf; each model of
//! loom has a twin that loom must reject. Reads the sources as text: clippy checks `# Errors` and
//! `# Safety`, no tool checks this.
#![cfg(not(loom))]

use std::fs;
use std::path::{Path, PathBuf};

/// What stands in the body of a function that makes a SEAMCALL, directly or through a private one
/// of its module.
const MAKES_ONE: [&str; 12] = [
    "Leaf::",
    "cpu.seamcall(",
    "{ call_unchecked(cpu",
    "{ call_behind(cpu",
    "reclaim(self.host",
    "self.reclaim(cpu",
    "disable(",
    "module_info::read_all",
    "InitTdmrs {",
    "FlushVcpus {",
    "leave_in_order(",
    "self.claim_td(cpu",
];

/// Makes none, but names leaves: how often each may be called again.
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

/// The public functions of a file that is formatted as `cargo fmt` does: a body ends at the indent
/// at which it began.
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

/// The sources of a crate beside this one, or of this one.
fn files_of(name: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src"), &mut files);
    files.sort();
    files
}

#[test]
fn seamcalls_are_documented() {
    let files = files_of("tdx-host");
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
    // They have the section and make their SEAMCALLs through their steps.
    wrong.retain(|place| !place.ends_with("host/mod.rs: bring_up") && !place.ends_with("vacuum.rs: vacuum"));
    // `ModuleEvent::of` reads the SEAMCALLs of others.
    wrong.retain(|place| !place.ends_with("module_event.rs: of"));
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

fn is_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

#[test]
fn the_table_of_names_names_what_exists() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/NAMES.md")).unwrap();
    let mut checked = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let ours = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        for name in ours.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
            let parts: Vec<&str> = name.split("::").collect();
            let (krate, parts) = match parts[0] {
                "tdx_abi" => ("tdx-abi", &parts[1..]),
                "tdx_operator" => ("tdx-operator", &parts[1..]),
                "first_kernel" => ("first-kernel", &parts[1..]),
                _ => ("tdx-host", &parts[..]),
            };
            let files = files_of(krate);
            // A public module of this crate is a file or a folder of its name.
            let inside: Vec<String> = files
                .iter()
                .filter(|file| {
                    krate != "tdx-host"
                        || file
                            .components()
                            .any(|part| Path::new(part.as_os_str()).file_stem() == Some(parts[0].as_ref()))
                })
                .map(|file| fs::read_to_string(file).unwrap())
                .collect();
            for part in parts.iter().skip(usize::from(krate == "tdx-host")) {
                assert!(inside.iter().any(|text| is_word(text, part)), "{name}: there is no {part}");
            }
            checked += 1;
        }
    }
    assert!(checked > 90, "{checked} names only");
}

#[test]
fn the_table_of_names_has_every_leaf() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/NAMES.md")).unwrap();
    let leaves = table.split("## SEAMCALL leaves").nth(1).unwrap();
    let mut seen = 0;
    // The table of page operands has leaves of which this crate makes no call.
    for file in files_of("tdx-host").into_iter().filter(|file| !file.ends_with("effect/table.rs")) {
        for (number, call) in fs::read_to_string(&file).unwrap().split("(Leaf::").enumerate().skip(1) {
            let name = call.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().replace('_', ".");
            assert!(leaves.contains(&name), "{}: leaf {number}, {name}, has no row", file.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} leaves only");
}

/// A model that accepts everything would pass as well.
#[test]
fn every_loom_model_rejects_a_twin() {
    let mut models = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("loom_")) {
            let text = fs::read_to_string(&path).unwrap();
            let twins = text.matches("\nfn loom_rejects_").count();
            assert!(twins > 0 && text.matches("#[should_panic(expected").count() == twins, "{}", path.display());
            models += 1;
        }
    }
    assert!(models >= 10, "{models} models only");
}
