//! Tasks of the repository. `cargo xtask help` lists them. Installs nothing: what a task lacks is
//! named and reported as skipped; in CI it is a failure.

mod book;
mod citations;
mod commits;
mod crates;
mod deb;
mod deny;
mod imports;
mod operands;
mod prose;
mod step;
mod tests;
mod vectors;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tasks of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// All tests: every crate, loom, the conformance vectors. Ends with
    /// `N passed, N failed, N skipped`.
    Test,
    /// Formatting, clippy and rustdoc with warnings as errors; import circles, citations, width of
    /// prose, commit messages; cargo deny where it is installed.
    Lint {
        /// Only what takes seconds and compiles nothing. `.githooks/pre-commit` runs it.
        #[arg(long)]
        quick: bool,
    },
    /// Modules of a crate that import each other in a circle. Part of `lint`.
    Imports,
    /// Replays conformance vectors of the real module. Ends with `N passed, M failed`; exit 1 if
    /// any failed.
    Vectors {
        /// Files of cases, `.jsonl` or `.jsonl.gz`. Without one: all that are in the repository.
        paths: Vec<PathBuf>,
    },
    /// Writes the page of the book about page operands from the table of `tdx-host`. `lint` says
    /// if it is out of date.
    Operands,
    /// The explorer: every bundled scenario clean, every bug found. Part of `test`.
    Explore,
    /// Boots a kernel under QEMU as on a TDX host (tools/boot).
    #[command(disable_help_flag = true)]
    Boot(Forwarded),
    /// Runs all boots that are tests. Part of `test`.
    #[command(disable_help_flag = true)]
    Boots(Forwarded),
    /// Fails every SEAMCALL of a TD's life under KVM once in each way, ends the VMM and jumps.
    /// Hours; resumes where it left off.
    #[command(disable_help_flag = true)]
    KvmSweep(Forwarded),
    /// Builds cleanslate.ko for each kernel that Debian offers, and boots each with it. Hours;
    /// resumes where it left off.
    #[command(disable_help_flag = true)]
    Kernels(Forwarded),
    /// Crashes a Linux with most of its memory in TDs, and compares how long the dump waits with
    /// `dump=exclude` and `dump=reset`.
    #[command(disable_help_flag = true)]
    DumpWait(Forwarded),
    /// Fetches or builds a Linux for `boot`.
    #[command(disable_help_flag = true)]
    Linux(Forwarded),
    /// Builds the Linux module for the kernels of `linux`, or for a kernel whose headers are
    /// installed.
    #[command(disable_help_flag = true)]
    LinuxModule(Forwarded),
    /// The crates as users get them: without std, with the oldest dependencies, from their
    /// packages. Part of `test`.
    Crates,
    /// Debian packages: the program, and the Linux module for DKMS. Into `target/deb`.
    Deb {
        /// Installs them into folders of their own and tries them. Part of `test`.
        #[arg(long)]
        check: bool,
    },
    /// The book: checks its links and builds it with mdbook into `target/book`. Part of `test`.
    Book,
    /// Benchmarks; figures as JSON under `target/bench/`.
    Bench,
}

/// Arguments of a tool of its own, which explains them itself.
#[derive(clap::Args)]
struct Forwarded {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test => tests::test(),
        Task::Lint { quick: false } => tests::lint(),
        Task::Lint { quick: true } => tests::lint_quick(),
        Task::Imports => imports::check(&root()),
        Task::Vectors { paths } => vectors::replay(&paths),
        Task::Operands => operands::write(),
        Task::Explore => tests::explore().map(|counts| counts.failed == 0),
        Task::Boot(args) => return tests::boot("boot", &args.arguments),
        Task::Boots(args) => return tests::boot("boots", &args.arguments),
        Task::KvmSweep(args) => return tests::boot("kvm-sweep", &args.arguments),
        Task::Kernels(args) => return tests::boot("kernels", &args.arguments),
        Task::DumpWait(args) => return tests::boot("dump-wait", &args.arguments),
        Task::Linux(args) => return tests::boot("linux", &args.arguments),
        Task::LinuxModule(args) => return tests::boot("linux-module", &args.arguments),
        Task::Crates => crates::check().map(|counts| counts.failed == 0),
        Task::Deb { check: true } => tests::packages().map(|counts| counts.failed == 0),
        Task::Deb { check: false } => deb::build(),
        Task::Book => book::build().map(|counts| counts.failed == 0),
        Task::Bench => tests::bench(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(70)
        }
    }
}

/// The root of the repository: cargo runs xtask anywhere below it.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
