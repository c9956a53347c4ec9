//! `boot`: boots a kernel under QEMU as on a TDX host. Reached as `cargo xtask boot`, `boots`,
//! `linux` and `linux-module`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots a kernel under QEMU as on a TDX host and reports the outcome.
    Boot(boot::BootArgs),
    /// Runs all boots that are tests. Prints the Test Anything Protocol.
    Boots(boot::BootsArgs),
    /// Fails every SEAMCALL of a TD's life under KVM once in each way, and jumps.
    KvmSweep(boot::SweepArgs),
    /// Builds cleanslate.ko for each kernel that Debian offers, and boots each with it.
    Kernels(boot::KernelsArgs),
    /// Compares how long the dump of a crash waits with `dump=exclude` and `dump=reset`.
    DumpWait(boot::DumpWaitArgs),
    /// Fetches or builds a Linux for `boot`.
    Linux(boot::LinuxArgs),
    /// Builds the Linux module for the kernels of `linux`, or for a kernel whose headers are
    /// installed.
    LinuxModule(boot::ModuleArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Boot(args) => boot::boot(&args),
        Command::Boots(args) => boot::run_all(&args),
        Command::KvmSweep(args) => boot::sweep(&args),
        Command::Kernels(args) => boot::kernels(&args),
        Command::DumpWait(args) => boot::dump_wait(&args),
        Command::Linux(args) => boot::provide(&args),
        Command::LinuxModule(args) => boot::build_module(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("boot: {error:#}");
            ExitCode::from(70)
        }
    }
}
