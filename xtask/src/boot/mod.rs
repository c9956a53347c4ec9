//! The task `boot`: one of the programs of `bare/`, or Linux, in a virtual machine under QEMU, and what became of it. Refuses to guess:
//! a verdict comes from what the machine said before it ended, and a run that says nothing has failed.

mod assembly;
mod compare;
mod initrd;
mod linux;
pub(crate) mod module;
mod qemu;
mod report;
mod set;

use anyhow::Result;
use clap::{Args, ValueEnum};

pub(crate) use linux::{LinuxArgs, ModuleArgs, build_module, make_modules, provide, run, some_headers};
pub(crate) use set::run_all;

/// What runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Guest {
    /// `bare/firstkernel`: brings TDX up with `tdx-host`, builds TDs, kexecs.
    Firstkernel,
    /// Linux, as `cargo xtask linux` provides it.
    Linux,
}

/// What the first kernel jumps into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum NextKernel {
    /// Itself, which uses all memory: firstkernel reports, Linux goes to user space.
    #[value(name = "self")]
    Own,
    /// From firstkernel: Linux, to user space.
    Linux,
    /// From Linux: Debian's own kernel.
    Stock,
    /// Nothing: Linux ends the machine.
    None,
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
    /// Debian's own 6.12, which has no TDX host code.
    #[value(name = "stock-6.12")]
    Stock612,
    /// Debian's source of 6.12, with TDX host support and kexec.
    #[value(name = "tdx", alias = "tdx-host")]
    Tdx,
    /// Debian's source of 7.3, with TDX host support: it brings TDX up at boot, and KVM can build TDs.
    #[value(name = "tdx-7.3")]
    Tdx73,
}

impl Kernel {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Stock612 => "stock-6.12",
            Self::Tdx => "tdx",
            Self::Tdx73 => "tdx-7.3",
        }
    }
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
  cargo xtask boot linux --kernel tdx --next self       Linux brings TDX up and kexecs: a machine check
  cargo xtask boot linux --kernel tdx --module          the same with cleanslate.ko: clean
  cargo xtask boot linux --kernel stock-6.12 --module --tds 4 --crash
                                                        Debian's kernel, TDX by the module, a crash, the dump is read

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
    /// TDs that are built: one that could run, one half built, one that is gone, one half gone, and so on. By firstkernel, or by
    /// `cleanslate.ko` in a Linux without TDX host code.
    #[arg(long, default_value_t = 1)]
    pub(crate) tds: u32,
    /// What it jumps into.
    #[arg(long, value_enum, default_value = "self")]
    pub(crate) next: NextKernel,
    /// Linux does not kexec, it crashes, and the crash kernel reads the dump. A wild pointer has hit private memory before.
    #[arg(long)]
    pub(crate) crash: bool,
    /// Which Linux.
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Kernel,
    /// Linux loads `cleanslate.ko` (`cargo xtask linux-module`).
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
            crash: false,
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
