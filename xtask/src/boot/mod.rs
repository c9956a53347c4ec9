//! The task `boot`: one of the programs of `bare/`, or Linux, in a virtual machine under QEMU, and what became of it. Refuses to guess:
//! a verdict comes from what the machine said before it ended, and a run that says nothing has failed.

mod compare;
mod initrd;
mod linux;
mod module;
mod qemu;
mod report;
mod set;

use anyhow::Result;
use clap::{Args, ValueEnum};

pub(crate) use linux::{LinuxArgs, build_module, provide};
pub(crate) use set::run_all;

/// What runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Guest {
    /// `bare/firstkernel`: brings TDX up with `tdx-host`, builds TDs, kexecs.
    Firstkernel,
    /// Linux, as `cargo xtask linux` provides it.
    Linux,
}

/// What firstkernel jumps into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum NextKernel {
    /// Itself: it uses all memory and reports.
    #[value(name = "self")]
    Own,
    /// Linux, to user space.
    Linux,
}

/// The processor that seamvisor shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Cpu {
    /// Sapphire Rapids, with the erratum.
    Spr,
    /// Emerald Rapids, with the erratum.
    Emr,
    /// Granite Rapids, without it.
    Gnr,
}

/// Which Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian's own.
    Stock,
    /// Debian's source, with TDX host support and kexec.
    Tdx,
}

/// For whom the result is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// People.
    Human,
    /// Machines: one object, schema `cleanslate/boot`.
    Json,
}

/// Boots a kernel in a virtual machine that looks like a TDX host (seamvisor), and says what became of it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  cargo xtask boot firstkernel                          TDX up, one TD, kexec into itself: clean
  cargo xtask boot firstkernel --policy none            the next kernel dies of a machine check
  cargo xtask boot firstkernel --next linux --cpus 4    kexec into Debian's kernel
  cargo xtask boot firstkernel --plain                  without seamvisor: a machine without TDX
  cargo xtask boot linux --kernel tdx                   Linux finds TDX

Exit codes: 0 clean, 1 machine check or failed, 70 this task itself failed (no QEMU, for example).")]
pub(crate) struct BootArgs {
    /// What runs first.
    #[arg(value_enum)]
    pub(crate) guest: Guest,
    /// The processor that is shown.
    #[arg(long, value_enum, default_value = "spr")]
    pub(crate) cpu: Cpu,
    /// CPUs, 1 to 8.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) cpus: u32,
    /// firstkernel's policy: tracked, module, module-only, pamt, everything, none or refuse.
    #[arg(long, default_value = "tracked")]
    pub(crate) policy: String,
    /// TDs that firstkernel builds: one that could run, one half built, one that is gone, and so on.
    #[arg(long, default_value_t = 1)]
    pub(crate) tds: u32,
    /// What firstkernel jumps into.
    #[arg(long, value_enum, default_value = "self")]
    pub(crate) next: NextKernel,
    /// Which Linux.
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Kernel,
    /// Linux loads `cleanslate.ko` (`cargo xtask linux-module`) before it brings TDX up.
    #[arg(long)]
    pub(crate) module: bool,
    /// Memory in MiB, 512 at least.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(512..=65536))]
    pub(crate) memory: u32,
    /// Without seamvisor: a machine without TDX.
    #[arg(long)]
    pub(crate) plain: bool,
    /// Words for the guest's command line.
    #[arg(long, default_value = "")]
    pub(crate) append: String,
    /// Words for seamvisor's command line.
    #[arg(long, default_value = "")]
    pub(crate) seamvisor: String,
    /// Seconds after which the run has failed.
    #[arg(long, default_value_t = 180)]
    pub(crate) timeout: u64,
    /// For whom the result is.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) format: Format,
}

impl BootArgs {
    /// firstkernel as it is without options.
    pub(crate) fn firstkernel() -> Self {
        Self {
            guest: Guest::Firstkernel,
            cpu: Cpu::Spr,
            cpus: 1,
            policy: "tracked".to_owned(),
            tds: 1,
            next: NextKernel::Own,
            kernel: Kernel::Stock,
            module: false,
            memory: 512,
            plain: false,
            append: String::new(),
            seamvisor: String::new(),
            timeout: 180,
            format: Format::Human,
        }
    }
}

/// Boots once; true if the verdict is "clean".
pub(crate) fn boot(args: &BootArgs) -> Result<bool> {
    qemu::build()?;
    let report = qemu::run(args)?;
    match args.format {
        Format::Human => print!("{}", report.human()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.json())?),
    }
    Ok(report.verdict() == report::Verdict::Clean)
}
