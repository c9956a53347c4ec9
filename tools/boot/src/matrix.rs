//! The task `kernels`: `cleanslate.ko` is built for each kernel of Debian's that can be had, and
//! each is booted with it. Results are kept in a file, and what is there is not run again.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::args::{BootArgs, Kernel};
use crate::expect::Expect;
use crate::messages::{self, Messages};
use crate::{machine, module, place, provide, qemu, root};

/// Builds cleanslate.ko for each kernel that Debian offers, and boots each with it. Resumes where
/// it left off.
#[derive(Args, Clone, Debug)]
pub struct KernelsArgs {
    /// Starts nothing after this many minutes. Without it: runs to the end, which takes hours.
    #[arg(long)]
    minutes: Option<u64>,
    /// Only this kernel, for example `stock-7.3` or `tdx-6.18`.
    #[arg(long)]
    only: Option<String>,
    /// Where results are kept, one JSON object on a line.
    #[arg(long, value_name = "FILE", default_value = "target/kernels.jsonl")]
    results: PathBuf,
    /// Writes the results there as a Markdown table.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Runs cells again whose outcome was wrong.
    #[arg(long)]
    again: bool,
    /// Only kernels that `cargo xtask linux` has provided.
    #[arg(long)]
    no_fetch: bool,
}

/// Columns of the table, in the order in which they are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Builds,
    HostKexec,
    HostCrash,
    WatchKexec,
    WatchCrash,
    LiftKexec,
    LiftCrash,
}

impl Column {
    const ALL: [Self; 7] = [
        Self::Builds,
        Self::HostKexec,
        Self::HostCrash,
        Self::WatchKexec,
        Self::WatchCrash,
        Self::LiftKexec,
        Self::LiftCrash,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Builds => "builds",
            Self::HostKexec => "host, kexec",
            Self::HostCrash => "host, crash",
            Self::WatchKexec => "watch, kexec",
            Self::WatchCrash => "watch, crash",
            Self::LiftKexec => "lift, kexec",
            Self::LiftCrash => "lift, crash",
        }
    }

    const fn is_crash(self) -> bool {
        matches!(self, Self::HostCrash | Self::WatchCrash | Self::LiftCrash)
    }
}

/// A kernel: a row of the table.
struct Row {
    kernel: Kernel,
    /// Where it comes from.
    from: &'static str,
    role: Role,
}

/// What the kernel itself knows of TDX.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing: the module is the host.
    None,
    /// It initializes TDX, and KVM of it cannot build TDs.
    Pamt,
    /// It builds TDs, and accepts images.
    Host,
    /// It builds TDs, and refuses every image on a CPU with the erratum.
    Refuses,
}

const ROWS: [Row; 12] = [
    Row { kernel: Kernel::Stock612, from: "bookworm-security, cloud, gcc 12", role: Role::None },
    Row { kernel: Kernel::Stock612Trixie, from: "trixie, cloud, gcc 14", role: Role::None },
    Row { kernel: Kernel::Stock612Rt, from: "trixie, PREEMPT_RT, gcc 14", role: Role::None },
    Row { kernel: Kernel::Stock72, from: "trixie-backports, cloud, gcc 14", role: Role::None },
    Row { kernel: Kernel::Stock73, from: "trixie-backports, cloud, gcc 14", role: Role::None },
    Row { kernel: Kernel::Stock73Rt, from: "trixie-backports, PREEMPT_RT, gcc 14", role: Role::None },
    Row { kernel: Kernel::Stock72Sid, from: "sid, cloud, gcc 16", role: Role::None },
    Row {
        kernel: Kernel::Tdx,
        from: "linux-source-6.12, its Kconfig excludes kexec: one line removed",
        role: Role::Pamt,
    },
    Row { kernel: Kernel::Tdx618, from: "upstream source in trixie-backports", role: Role::Refuses },
    Row { kernel: Kernel::Tdx71, from: "upstream source in trixie-backports", role: Role::Refuses },
    Row { kernel: Kernel::Tdx72, from: "linux-source-7.2 of trixie-backports", role: Role::Host },
    Row { kernel: Kernel::Tdx73, from: "linux-source-7.3 of trixie-backports", role: Role::Host },
];

/// Series that have no row, and why.
const ABSENT: [(&str, &str); 5] = [
    ("6.1", "bookworm's own, which has no TDX host code; not tried"),
    ("6.13 to 6.15", "no package in the lists of trixie, trixie-backports and sid"),
    ("6.16, 6.17", "backports has images, and headers no longer; TDX host support excludes kexec"),
    ("6.19", "backports has images, and headers no longer; its source is there and was not built"),
    ("7.0", "backports has images, and neither headers nor source any longer"),
];

/// What a cell is.
enum Cell {
    /// The module is built.
    Build,
    /// These words of `cargo xtask boot`, and what must come of them.
    Boot(Vec<String>, Box<Expect>),
    /// It cannot be, and why.
    Never(&'static str),
}

/// What every such boot must come to.
const EXPECT: &str = r#"
verdict = "clean"
no_messages = ["reset-incomplete", "reset-suspects", "linux-bug"]
"#;

impl Row {
    fn cell(&self, column: Column) -> Result<Cell> {
        use Column as C;
        let never = match (self.role, column) {
            (_, C::Builds) => return Ok(Cell::Build),
            (Role::None, C::HostKexec | C::HostCrash)
            | (Role::Pamt | Role::Host, C::WatchKexec | C::WatchCrash)
            | (Role::Refuses, C::LiftKexec | C::LiftCrash) => {
                let (words, expect) = self.boot(column)?;
                return Ok(Cell::Boot(words, Box::new(expect)));
            }
            (Role::None, C::WatchKexec | C::WatchCrash) => "no TDX host code",
            (Role::Refuses, C::WatchKexec | C::WatchCrash) => "refused: see lift",
            (_, C::HostKexec | C::HostCrash) => "Linux is the host",
            (_, C::LiftKexec | C::LiftCrash) => "refuses nothing",
        };
        Ok(Cell::Never(never))
    }

    fn boot(&self, column: Column) -> Result<(Vec<String>, Expect)> {
        let crash = column.is_crash();
        let mut words = vec!["linux".to_owned(), format!("--kernel={}", self.kernel.name())];
        words.extend(["--module", "--cpus=2", "--tds=4", "--timeout=600"].map(str::to_owned));
        words.push(format!("--memory={}", if crash { 768 } else { 1024 }));
        if crash {
            words.push("--crash".to_owned());
        }
        let mut text = EXPECT.to_owned();
        text.push_str(if crash { "memory = \"reset-poisoned\"\n" } else { "memory = \"reset\"\n" });
        let mut messages = vec![];
        if self.role == Role::Refuses {
            words.push("--append=cleanslate.cleanslate=lift_refusal=Y".to_owned());
            messages.push("refusal-lifted");
        }
        if !crash {
            messages.push("reset");
        }
        writeln!(text, "messages = {messages:?}")?;
        let mut events = vec![];
        if !crash {
            events.push(r#"{ event = "loaded", module = "/modules/cleanslate_use.ko" }"#);
        }
        events.push(match self.role {
            Role::Pamt => r#"{ event = "loaded", module = "/modules/cleanslate_enable.ko" }"#,
            _ => r#"{ event = "td", number = 3, phase = "half-gone" }"#,
        });
        writeln!(text, "events = [{}]", events.join(", "))?;
        Ok((words, toml::from_str(&text)?))
    }
}

/// The outcome of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    kernel: String,
    column: String,
    /// The kernel's own word for its version.
    release: String,
    right: bool,
    /// What it is: `clean`, or what is wrong.
    what: String,
    seconds: f64,
}

/// The version in the header of a bzImage (Linux Documentation/arch/x86/boot.rst: kernel_version).
fn release_of(image: &Path) -> Result<String> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let of = |bytes: &[u8]| {
        let at = usize::from(u16::from_le_bytes(bytes.get(0x20e..0x210)?.try_into().ok()?)) + 0x200;
        let text = bytes.get(at..)?.split(|byte| *byte == 0 || *byte == b' ').next()?;
        String::from_utf8(text.to_vec()).ok()
    };
    of(&bytes).with_context(|| format!("{} has no version", image.display()))
}

/// The first line of an error that says something of its own.
fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().find(|line| line.contains("error")).or_else(|| text.lines().next()).unwrap_or_default().to_owned()
}

fn run(row: &Row, column: Column, messages: &Messages) -> Result<Option<Outcome>> {
    let cell = row.cell(column)?;
    let start = Instant::now();
    let (right, what) = match cell {
        Cell::Never(_) => return Ok(None),
        Cell::Build => match module::build_for(row.kernel) {
            Ok(_) => (true, "yes".to_owned()),
            Err(error) => (false, one_line(&error)),
        },
        Cell::Boot(words, expect) => {
            let args = BootArgs::from_words(words.iter().map(String::as_str))?;
            let report = qemu::run(&args, messages)?;
            match expect.problem(&report, messages) {
                None => (true, report.verdict().name().to_owned()),
                Some(problem) => {
                    println!("{}\n{}", report.human(), BootArgs::shell(&words));
                    (false, problem)
                }
            }
        }
    };
    Ok(Some(Outcome {
        kernel: row.kernel.name().to_owned(),
        column: column.name().to_owned(),
        release: release_of(&place::find(row.kernel)?.image)?,
        right,
        what,
        seconds: start.elapsed().as_secs_f64(),
    }))
}

/// The task `kernels`; true if no outcome is wrong.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn kernels(args: &KernelsArgs) -> Result<bool> {
    let messages = messages::load()?;
    machine::build()?;
    let path = root().join(&args.results);
    let mut done = load(&path)?;
    let start = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let is_late = || limit.is_some_and(|limit| start.elapsed() >= limit);
    for row in &ROWS {
        let name = row.kernel.name();
        if args.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        for column in Column::ALL {
            let is_done = find(&done, row, column).is_some_and(|outcome| outcome.right || !args.again);
            if is_late() || is_done || matches!(row.cell(column)?, Cell::Never(_)) {
                continue;
            }
            if !place::is_there(row.kernel) {
                if args.no_fetch {
                    continue;
                }
                provide::provide_kernel(row.kernel).with_context(|| format!("{name} cannot be provided"))?;
            }
            let Some(outcome) = run(row, column, &messages)? else { continue };
            println!("{name}, {}: {} ({:.0} s)", outcome.column, outcome.what, outcome.seconds);
            let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
            writeln!(file, "{}", serde_json::to_string(&outcome)?)?;
            let builds = outcome.right || column != Column::Builds;
            done.push(outcome);
            if !builds {
                break;
            }
        }
    }
    let wrong = ROWS.iter().flat_map(|row| Column::ALL.map(|column| find(&done, row, column)));
    let wrong = wrong.flatten().filter(|outcome| !outcome.right).count();
    println!("{wrong} wrong");
    if let Some(file) = &args.table {
        let file = root().join(file);
        fs::write(&file, table(&done)?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(wrong == 0)
}

/// The last outcome of a cell.
fn find<'o>(done: &'o [Outcome], row: &Row, column: Column) -> Option<&'o Outcome> {
    done.iter().rfind(|outcome| outcome.kernel == row.kernel.name() && outcome.column == column.name())
}

/// Outcomes of earlier runs.
fn load(path: &Path) -> Result<Vec<Outcome>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let outcome = |(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: no result of this task", path.display(), number + 1))
    };
    text.lines().enumerate().map(outcome).collect()
}

/// A row of the table for each kernel, and why others have none.
fn table(done: &[Outcome]) -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\n\
         Written by `cargo xtask kernels --table docs/KERNELS.md`. `stock-*` are Debian's own kernels, which\n\
         have no TDX host code: there cleanslate.ko is the host. `tdx-*` are built from source with TDX host\n\
         support, unchanged but for `tdx`: there it watches. A boot has two CPUs and four TDs (`tdx`: PAMTs\n\
         alone) under seamvisor; kexec into the same kernel, which uses its memory, or a crash after a wild\n\
         pointer, whose dump is read to its end. Lift: with `lift_refusal=Y`. None of it is hardware. A cell\n\
         is what this command has run: `cargo xtask boots` runs some of these kernels, too.\n\n\
         | kernel | version | from |",
    );
    for column in Column::ALL {
        write!(text, " {} |", column.name())?;
    }
    text.push_str("\n| --- | --- | --- |");
    text.push_str(&" --- |".repeat(Column::ALL.len()));
    text.push('\n');
    for row in &ROWS {
        let any = Column::ALL.iter().rev().find_map(|column| find(done, row, *column));
        let release = any.map_or("-", |outcome| &outcome.release);
        write!(text, "| {} | {release} | {} |", row.kernel.name(), row.from)?;
        for column in Column::ALL {
            let cell = match (row.cell(column)?, find(done, row, column)) {
                (Cell::Never(why), _) => why.to_owned(),
                (_, None) => "not run".to_owned(),
                (_, Some(outcome)) if outcome.right => outcome.what.clone(),
                (_, Some(outcome)) => format!("**{}**", outcome.what),
            };
            write!(text, " {} |", cell.replace('|', "/").replace('\n', " "))?;
        }
        text.push('\n');
    }
    text.push_str("\nWithout a row:\n\n");
    for (series, why) in ABSENT {
        writeln!(text, "- {series}: {why}.")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_a_boot_or_has_a_reason() {
        for row in &ROWS {
            let mut boots = 0;
            for column in Column::ALL {
                match row.cell(column).unwrap() {
                    Cell::Boot(words, expect) => {
                        let args = BootArgs::from_words(words.iter().map(String::as_str)).unwrap();
                        assert_eq!((args.kernel(), args.crash), (row.kernel, column.is_crash()));
                        assert!(expect.verdict.is_some());
                        boots += 1;
                    }
                    Cell::Never(why) => assert!(!why.is_empty()),
                    Cell::Build => assert_eq!(column, Column::Builds),
                }
            }
            assert_eq!(boots, 2, "{}: a kexec and a crash", row.kernel.name());
        }
    }

    #[test]
    fn messages_of_the_cells_are_known() {
        let messages = messages::load().unwrap();
        for row in &ROWS {
            for column in Column::ALL {
                let Cell::Boot(_, expect) = row.cell(column).unwrap() else { continue };
                for name in expect.messages.iter().chain(&expect.no_messages) {
                    assert!(messages.get(name).is_some(), "{name}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_no_empty_cell_and_shows_what_is_wrong() {
        let outcome = |column: Column, right, what: &str| Outcome {
            kernel: "stock-7.3".to_owned(),
            column: column.name().to_owned(),
            release: "7.3.4".to_owned(),
            right,
            what: what.to_owned(),
            seconds: 1.0,
        };
        let done = [
            outcome(Column::Builds, true, "yes"),
            outcome(Column::HostKexec, false, "first"),
            outcome(Column::HostKexec, false, "lines left: a|b"),
        ];
        let text = table(&done).unwrap();
        let line = "| stock-7.3 | 7.3.4 | trixie-backports, cloud, gcc 14 | yes | **lines left: a/b** | not run | \
            no TDX host code | no TDX host code | refuses nothing | refuses nothing |";
        assert!(text.contains(line), "{text}");
        let rows = text.lines().filter(|line| line.starts_with("| stock") || line.starts_with("| tdx"));
        assert!(rows.clone().count() == ROWS.len() && rows.clone().all(|row| !row.contains("|  |")), "{text}");
    }

    #[test]
    fn the_version_is_in_the_header() {
        let mut image = vec![0; 0x400];
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x313].copy_from_slice(b"6.18.15 (user@host)");
        let path = std::env::temp_dir().join(format!("cleanslate-image-{}", std::process::id()));
        fs::write(&path, image).unwrap();
        assert_eq!(release_of(&path).unwrap(), "6.18.15");
        fs::write(&path, [0; 16]).unwrap();
        assert!(release_of(&path).is_err());
        fs::remove_file(path).unwrap();
    }
}
