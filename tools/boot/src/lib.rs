//! The task `boot`: one of the programs of `bare/`, or Linux, in a virtual machine under QEMU, and
//! what became of it. Refuses to guess: a verdict comes from what the machine said before it ended,
//! and a run that says nothing has failed.

// Stays where it is until `linux/kbuild` has it.
#[path = "../../../xtask/src/boot/assembly.rs"]
mod assembly;
mod compare;
mod initrd;
mod linux;
pub mod module;
mod qemu;
mod report;
mod set;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

pub use linux::{LinuxArgs, ModuleArgs, build_module, make_modules, provide, run, some_headers};
pub use set::run_all;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Guest {
    /// `bare/firstkernel`: brings TDX up with `tdx-host`, builds TDs, kexecs.
    Firstkernel,
    /// Linux, as `cargo xtask linux` provides it.
    Linux,
}

/// What the first kernel jumps into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum NextKernel {
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
pub enum Cpu {
    /// Sapphire Rapids, with the erratum.
    Spr,
    /// Emerald Rapids, with the erratum.
    Emr,
    /// Granite Rapids, without it.
    Gnr,
}

/// Which Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kernel {
    /// Debian's own.
    Stock,
    /// Debian's own 6.12, which has no TDX host code.
    #[value(name = "stock-6.12")]
    Stock612,
    /// Debian's source of 6.12, with TDX host support and kexec.
    #[value(name = "tdx", alias = "tdx-host")]
    Tdx,
    /// Debian's source of 7.3, with TDX host support: it brings TDX up at boot, and KVM can build
    /// TDs.
    #[value(name = "tdx-7.3")]
    Tdx73,
    /// As `tdx`, with lockdep, KASAN, fault injection and the like.
    #[value(name = "tdx-debug")]
    TdxDebug,
    /// As `tdx-debug`, without TDX host code: `cleanslate.ko` brings TDX up, as in Debian's own.
    #[value(name = "host-debug")]
    HostDebug,
}

impl Kernel {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Stock612 => "stock-6.12",
            Self::Tdx => "tdx",
            Self::Tdx73 => "tdx-7.3",
            Self::TdxDebug => "tdx-debug",
            Self::HostDebug => "host-debug",
        }
    }

    /// Does `cleanslate.ko` bring TDX up in it?
    pub fn has_no_tdx_code(self) -> bool {
        matches!(self, Self::Stock612 | Self::HostDebug)
    }

    /// Is it one that looks for faults?
    pub fn debugs(self) -> bool {
        matches!(self, Self::TdxDebug | Self::HostDebug)
    }
}

/// For whom the result is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// People.
    Human,
    /// Machines: one object, schema `cleanslate/boot`; of several runs `cleanslate/boot-runs`,
    /// which has one such object for each.
    Json,
}

/// Boots a kernel in a virtual machine that looks like a TDX host (seamvisor), and says what became
/// of it.
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
pub struct BootArgs {
    /// What runs first.
    #[arg(value_enum)]
    pub guest: Guest,
    /// The processor that is shown.
    #[arg(long, value_enum, default_value = "spr")]
    pub cpu: Cpu,
    /// CPUs, 1 to 8.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// firstkernel's policy: tracked, module, module-only, pamt, everything, none or refuse.
    #[arg(long, default_value = "tracked")]
    pub policy: String,
    /// TDs that are built: one that could run, one half built, one that is gone, one half gone, and
    /// so on. By firstkernel, or by `cleanslate.ko` in a Linux without TDX host code.
    #[arg(long, default_value_t = 1)]
    pub tds: u32,
    /// What it jumps into.
    #[arg(long, value_enum, default_value = "self")]
    pub next: NextKernel,
    /// Linux does not kexec, it crashes, and the crash kernel reads the dump. A wild pointer has
    /// hit private memory before.
    #[arg(long)]
    pub crash: bool,
    /// Which Linux.
    #[arg(long, value_enum, default_value = "stock")]
    pub kernel: Kernel,
    /// Linux loads `cleanslate.ko` (`cargo xtask linux-module`).
    #[arg(long)]
    pub module: bool,
    /// Memory in MiB, 512 at least.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(512..=65536))]
    pub memory: u32,
    /// Without seamvisor: a machine without TDX.
    #[arg(long)]
    pub plain: bool,
    /// Words for the guest's command line.
    #[arg(long, default_value = "")]
    pub append: String,
    /// Words for seamvisor's command line.
    #[arg(long, default_value = "")]
    pub seamvisor: String,
    /// Seconds after which the run has failed.
    #[arg(long, default_value_t = 180)]
    pub timeout: u64,
    /// Boots so often in a row, whatever becomes of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// For whom the result is.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Format,
}

impl BootArgs {
    /// firstkernel as it is without options.
    pub fn firstkernel() -> Self {
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
            runs: 1,
            format: Format::Human,
        }
    }
}

/// Boots; true if every verdict is "clean".
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn boot(args: &BootArgs) -> Result<bool> {
    qemu::build()?;
    if args.runs > 1 {
        return boot_often(args);
    }
    let report = qemu::run(args)?;
    match args.format {
        Format::Human => print!("{}", report.human()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.json())?),
    }
    Ok(report.verdict() == report::Verdict::Clean)
}

/// The shortest, the one in the middle, the longest: in seconds. Of an even number the mean of the
/// two in the middle.
fn spread(mut seconds: Vec<f64>) -> (f64, f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds.get(index).copied().unwrap_or_default();
    let middle = f64::midpoint(at(seconds.len().saturating_sub(1) / 2), at(seconds.len() / 2));
    (at(0), middle, at(seconds.len().saturating_sub(1)))
}

/// Boots several times in a row. The logs of a run that is not clean are kept from the next one.
fn boot_often(args: &BootArgs) -> Result<bool> {
    let mut reports = Vec::new();
    for number in 1..=args.runs {
        let mut report = qemu::run(args)?;
        let kept = if report.verdict() == report::Verdict::Clean { None } else { Some(report.keep(number)?) };
        if args.format == Format::Human {
            println!(
                "run {number}: {} ({}), {:.1} s{}",
                report.verdict().name(),
                report.why(),
                report.elapsed().as_secs_f64(),
                kept.map(|folder| format!("; logs: {}", folder.display())).unwrap_or_default()
            );
        }
        reports.push(report);
    }
    let clean = reports.iter().filter(|report| report.verdict() == report::Verdict::Clean).count();
    let (min, median, max) = spread(reports.iter().map(|report| report.elapsed().as_secs_f64()).collect());
    match args.format {
        Format::Human => {
            println!("{clean} of {} clean; min {min:.1} s, median {median:.1} s, max {max:.1} s", reports.len());
        }
        Format::Json => {
            let object = serde_json::json!({
                "schema": "cleanslate/boot-runs",
                "version": 1,
                "clean": clean,
                "seconds": { "min": min, "median": median, "max": max },
                "runs": reports.iter().map(report::Report::json).collect::<Vec<_>>(),
            });
            println!("{}", serde_json::to_string_pretty(&object)?);
        }
    }
    Ok(clean == reports.len())
}

#[cfg(test)]
mod tests {
    use crate::spread;

    #[test]
    fn the_middle_of_times() {
        assert_eq!(spread(vec![3.0, 1.0, 8.0]), (1.0, 3.0, 8.0));
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 9.0]), (1.0, 3.0, 9.0));
    }
}
