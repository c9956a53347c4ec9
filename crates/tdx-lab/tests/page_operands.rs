//! The table of page operands (`tdx_host::effect`) against the real module: all conformance vectors
//! are replayed, and an observer who knows nothing but the table follows every call. No page
//! becomes private that the table does not name for that call, none is marked as the module's that
//! it has not, and every page in an owner map that was observed on the real module is marked.

#[path = "followed/mod.rs"]
mod followed;
#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;

use std::cmp::Reverse;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use followed::{Followed, Seen};
use tdx_abi::{LineRange, Page, PageRange, Registers, StatusCode};
use tdx_host::effect::{self, Written};
use tdx_lab::vectors::{Observer, replay_observed};
use tdx_machine::{Machine, OwnerRun};

/// Addresses above this are named in the vectors, and never touched.
const MEMORY: PageRange = PageRange::new(Page::new(0), Page::new(64 << 18));

struct Replay {
    followed: Followed,
    case: String,
    problems: Vec<String>,
    owner_maps: u64,
}

impl Replay {
    fn new() -> Self {
        Self { followed: Followed::new(MEMORY), case: String::new(), problems: Vec::new(), owner_maps: 0 }
    }

    fn take_problems(&mut self) {
        let case = &self.case;
        self.problems.extend(self.followed.problems.drain(..).map(|problem| format!("{case}: {problem}")));
    }
}

impl Observer for Replay {
    fn begin(&mut self, case: &str, machine: &mut Machine) {
        self.take_problems();
        case.clone_into(&mut self.case);
        self.followed.start(machine);
    }

    fn before(&mut self, machine: &mut Machine, call: &Registers) {
        self.followed.before(machine, call);
    }

    fn after(&mut self, machine: &mut Machine, call: &Registers, answer: Option<&Registers>) {
        if let Some(answer) = answer {
            self.followed.after(machine, call, answer);
        }
    }

    fn guest_left(&mut self, machine: &mut Machine) {
        self.followed.guest_left(machine);
    }

    fn reset(&mut self, lines: LineRange) {
        self.followed.reset(lines);
    }

    fn owners(&mut self, runs: &[OwnerRun]) {
        self.owner_maps += 1;
        self.followed.owners(runs);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().contains(".jsonl")).collect();
    // The largest first, so that no core is left alone with it.
    files.sort_by_key(|file| (Reverse(file.metadata().unwrap().len()), file.clone()));
    files
}

/// Those of the repository, and of the folders that this variable names, separated by colons.
const MORE: &str = "CLEANSLATE_VECTORS";

/// Replays these files, as many at once as the machine has cores.
fn replay(files: &[PathBuf]) -> (Seen, u64) {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut replay, mut cases) = (Replay::new(), 0);
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            cases += replay_observed(file, &mut replay, &mut |_| {}).unwrap().passed;
        }
        replay.take_problems();
        (replay, cases)
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let replays: Vec<(Replay, usize)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let problems: Vec<&String> = replays.iter().flat_map(|(replay, _)| &replay.problems).collect();
    for problem in problems.iter().take(20) {
        eprintln!("{problem}");
    }
    let cases: usize = replays.iter().map(|(_, cases)| cases).sum();
    assert_eq!(problems.len(), 0, "differences from the table in {cases} cases");
    let compared: u64 = replays.iter().map(|(replay, _)| replay.followed.compared).sum();
    let owner_maps = replays.iter().map(|(replay, _)| replay.owner_maps).sum();
    println!("{cases} cases, {owner_maps} owner maps, {compared} pages that became private");
    (replays.into_iter().flat_map(|(replay, _)| replay.followed.seen).collect(), owner_maps)
}

#[test]
fn no_page_becomes_private_that_the_table_does_not_name() {
    let mut all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vectors"));
    assert!(all.len() >= 15);
    for folder in std::env::var(MORE).iter().flat_map(|folders| folders.split(':')) {
        let more = files(Path::new(folder));
        assert!(!more.is_empty(), "{folder}: no vectors");
        all.extend(more);
    }
    let (seen, owner_maps) = replay(&all);
    assert!(owner_maps > 3000, "{owner_maps}");
    // Every page operand was seen to become private, and every failure that writes a page, but for
    // those that no vector has.
    let unseen: Vec<String> = effect::TABLE.iter().flat_map(|row| unseen(row, &seen)).collect();
    assert_eq!(unseen, UNSEEN);
}

/// What the table says and no vector shows: pages of L2 VMs. From the module's source alone.
const UNSEEN: [&str; 7] = [
    "TDH.MEM.SEPT.ADD 1 R9",
    "TDH.MEM.SEPT.ADD 1 R10",
    "TDH.MEM.SEPT.ADD 1 R11",
    "TDH.MEM.SEPT.ADD 1 TDX_INTERRUPTED_RESUMABLE",
    "TDH.MEM.PAGE.DEMOTE 0 R9",
    "TDH.MEM.PAGE.DEMOTE 0 R10",
    "TDH.MEM.PAGE.DEMOTE 0 R11",
];

fn unseen(row: &effect::Row, seen: &Seen) -> Vec<String> {
    let mut missing = Vec::new();
    let seen = |version: u8, register: Option<&str>, status: Option<StatusCode>| {
        seen.iter().any(|(leaf, seen_version, seen_register, failure)| {
            (*leaf, *seen_version) == (row.leaf.0, version)
                && register.is_none_or(|register| register == *seen_register)
                && *failure == status.map(|status| status.0)
        })
    };
    let mut failures: Vec<StatusCode> = Vec::new();
    for version in row.versions {
        for take in row.takes.iter().filter(|take| take.written != Written::OnAccept) {
            let name = take.register.name();
            if !seen(*version, Some(name), None) {
                missing.push(format!("{} {version} {name}", row.leaf));
            }
            if let Written::AlsoOn(statuses) = take.written {
                failures.extend(statuses);
            }
        }
        failures.sort_unstable();
        failures.dedup();
        for status in failures.drain(..).filter(|status| !seen(*version, None, Some(*status))) {
            missing.push(format!("{} {version} {}", row.leaf, status.name().unwrap()));
        }
    }
    missing
}
