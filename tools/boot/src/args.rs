//! Arguments of a boot: the same on the command line and in a boot file.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, FromArgMatches as _, ValueEnum};
use tdx_machine::{Injection, InjectionError};

/// What runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Guest {
    /// `bare/firstkernel`: brings TDX up with `tdx-host`, builds TDs, kexecs.
    Firstkernel,
    /// Linux, as `cargo xtask linux` provides it.
    Linux,
    /// A Linux whose KVM builds TDs and runs them, for the VMM of `bare/linux/vmm.c`.
    Kvm,
}

/// Where the VMM of `bare/linux/vmm.c` ends, or stays: behind which step of a TD's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Stop {
    /// KVM_CREATE_VM: nothing is private yet.
    CreateVm,
    /// KVM_TDX_INIT_VM: TDR, TDCS.
    InitVm,
    /// KVM_TDX_INIT_VCPU of each VCPU.
    InitVcpu,
    /// KVM_TDX_INIT_MEM_REGION: eight guest pages, Secure EPT.
    InitMemRegion,
    /// KVM_TDX_FINALIZE_VM.
    Finalize,
    /// The TD has run.
    Run,
    /// The TD has accepted a page that KVM has given it.
    Aug,
    /// The TD has made that page shared.
    Shared,
    /// And private again.
    Private,
    /// The VMM has punched a hole into the TD's memory.
    PunchHole,
    /// KVM has torn the TD down.
    Gone,
}

impl Stop {
    /// All of them, in the order of a TD's life.
    pub const ALL: [Self; 11] = [
        Self::CreateVm,
        Self::InitVm,
        Self::InitVcpu,
        Self::InitMemRegion,
        Self::Finalize,
        Self::Run,
        Self::Aug,
        Self::Shared,
        Self::Private,
        Self::PunchHole,
        Self::Gone,
    ];

    /// As on the command line and in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateVm => "create-vm",
            Self::InitVm => "init-vm",
            Self::InitVcpu => "init-vcpu",
            Self::InitMemRegion => "init-mem-region",
            Self::Finalize => "finalize",
            Self::Run => "run",
            Self::Aug => "aug",
            Self::Shared => "shared",
            Self::Private => "private",
            Self::PunchHole => "punch-hole",
            Self::Gone => "gone",
        }
    }
}

/// How the VMM ends, at its stop or when an ioctl has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum End {
    /// It does not: it and its TD are there when Linux kexecs or crashes.
    Stay,
    /// It exits.
    Exit,
    /// SIGKILL.
    Kill,
}

impl End {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Exit => "exit",
            Self::Kill => "kill",
        }
    }
}

/// The next kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum NextKernel {
    /// Itself, which uses all memory: firstkernel reports, Linux goes to user space.
    #[value(name = "self")]
    Own,
    /// From firstkernel: Linux, to user space.
    Linux,
    /// From Linux: Debian's own kernel.
    Stock,
    /// With `--policy keep`, from a Linux without TDX host code: one that has it. There
    /// `cleanslate.ko` tears the TDs down.
    #[value(name = "tdx-7.3")]
    Tdx73,
    /// Nothing: Linux ends the machine.
    None,
}

/// The processor that seamvisor presents.
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
    /// The 6.12 of Debian 13, as `stock-6.12` in all that follows; gcc 14.
    #[value(name = "stock-6.12-trixie")]
    Stock612Trixie,
    /// The same with PREEMPT_RT.
    #[value(name = "stock-6.12-rt")]
    Stock612Rt,
    /// 7.2 of trixie-backports.
    #[value(name = "stock-7.2")]
    Stock72,
    /// 7.3 of trixie-backports.
    #[value(name = "stock-7.3")]
    Stock73,
    /// The same with PREEMPT_RT.
    #[value(name = "stock-7.3-rt")]
    Stock73Rt,
    /// 7.2 of Debian unstable, gcc 16.
    #[value(name = "stock-7.2-sid")]
    Stock72Sid,
    /// Debian's source of 6.12, with TDX host support and kexec.
    #[value(name = "tdx", alias = "tdx-host")]
    Tdx,
    /// Linux 6.18 with TDX host support, unchanged: KVM brings TDX up and can build TDs. It refuses
    /// every kexec image on a CPU with the erratum.
    #[value(name = "tdx-6.18")]
    Tdx618,
    /// Linux 7.1 with TDX host support, unchanged: it brings TDX up at boot, KVM can build TDs. It
    /// refuses every kexec image on a CPU with the erratum.
    #[value(name = "tdx-7.1")]
    Tdx71,
    /// Linux 7.2 with TDX host support, unchanged: as 7.3.
    #[value(name = "tdx-7.2")]
    Tdx72,
    /// Debian's source of 7.3, with TDX host support: it brings TDX up at boot, and KVM can build
    /// TDs.
    #[value(name = "tdx-7.3")]
    Tdx73,
    /// As `tdx`, with lockdep, KASAN, fault injection and the like.
    #[value(name = "tdx-debug")]
    TdxDebug,
    /// As `tdx-7.3`, with lockdep, KASAN, fault injection and the like.
    #[value(name = "tdx-7.3-debug")]
    Tdx73Debug,
    /// As `tdx-debug`, without TDX host code: `cleanslate.ko` brings TDX up, as in Debian's own.
    #[value(name = "host-debug")]
    HostDebug,
    /// As `tdx`, from a source of your own: `cargo xtask linux tdx --source DIR`.
    #[value(name = "tdx-own")]
    TdxOwn,
    /// As `tdx-7.3`, from a source of your own: `cargo xtask linux tdx-7.3 --source DIR`.
    #[value(name = "tdx-7.3-own")]
    Tdx73Own,
}

impl Kernel {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Stock612 => "stock-6.12",
            Self::Stock612Trixie => "stock-6.12-trixie",
            Self::Stock612Rt => "stock-6.12-rt",
            Self::Stock72 => "stock-7.2",
            Self::Stock73 => "stock-7.3",
            Self::Stock73Rt => "stock-7.3-rt",
            Self::Stock72Sid => "stock-7.2-sid",
            Self::Tdx => "tdx",
            Self::Tdx618 => "tdx-6.18",
            Self::Tdx71 => "tdx-7.1",
            Self::Tdx72 => "tdx-7.2",
            Self::Tdx73 => "tdx-7.3",
            Self::TdxDebug => "tdx-debug",
            Self::Tdx73Debug => "tdx-7.3-debug",
            Self::HostDebug => "host-debug",
            Self::TdxOwn => "tdx-own",
            Self::Tdx73Own => "tdx-7.3-own",
        }
    }

    /// The reference kernel: that which a kernel from a source of the user's replaces, or that
    /// which one of another release is treated as.
    pub(crate) fn reference(self) -> Self {
        match self {
            Self::Stock612Trixie
            | Self::Stock612Rt
            | Self::Stock72
            | Self::Stock73
            | Self::Stock73Rt
            | Self::Stock72Sid => Self::Stock612,
            Self::TdxOwn => Self::Tdx,
            Self::Tdx73Own | Self::Tdx73Debug => Self::Tdx73,
            other => other,
        }
    }

    /// The kernel from a source of the user's that replaces this one.
    pub(crate) fn own(self) -> Option<Self> {
        match self {
            Self::Tdx => Some(Self::TdxOwn),
            Self::Tdx73 => Some(Self::Tdx73Own),
            _ => None,
        }
    }

    /// The command that provides it.
    pub(crate) fn how(self) -> String {
        match self {
            Self::TdxOwn | Self::Tdx73Own => {
                format!("run `cargo xtask linux {} --source DIR` (or `--patch F`) first", self.reference().name())
            }
            _ => format!("run `cargo xtask linux {}` once", self.name()),
        }
    }

    /// Does `cleanslate.ko` bring TDX up in it?
    pub fn has_no_tdx_code(self) -> bool {
        matches!(self.reference(), Self::Stock612 | Self::HostDebug)
    }

    /// Can `cleanslate.ko` be the host in it?
    pub(crate) fn has_test_variant(self) -> bool {
        self.has_no_tdx_code() || self == Self::Tdx73
    }

    /// Can its KVM build TDs?
    pub(crate) fn builds_tds(self) -> bool {
        matches!(self.reference(), Self::Tdx618 | Self::Tdx71 | Self::Tdx72 | Self::Tdx73)
    }

    /// Is it built with lockdep and KASAN?
    pub fn debugs(self) -> bool {
        matches!(self, Self::TdxDebug | Self::Tdx73Debug | Self::HostDebug)
    }
}

/// Form of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// People.
    Human,
    /// Machines: one object, schema `cleanslate/boot`; of several runs `cleanslate/boot-runs`,
    /// which has one such object for each.
    Json,
}

/// Boots a kernel in a virtual machine that looks like a TDX host (seamvisor) and reports the
/// outcome.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "options of a command line")]
#[command(after_help = "\
Examples:
  cargo xtask boot firstkernel                          TDX up, one TD, kexec into itself: clean
  cargo xtask boot firstkernel --policy none            the next kernel dies of a machine check
  cargo xtask boot firstkernel --policy keep --kexecs 5 TDX and the TD go on in five more kernels
  cargo xtask boot firstkernel --next linux --cpus 4    kexec into Debian's kernel
  cargo xtask boot firstkernel --plain                  without seamvisor: a machine without TDX
  cargo xtask boot linux --kernel tdx --next self       Linux brings TDX up and kexecs: a machine check
  cargo xtask boot linux --kernel tdx --module          the same with cleanslate.ko: clean
  cargo xtask boot linux --kernel stock-6.12 --module --tds 4 --crash
                                                        Debian's kernel, TDX by the module, a crash, the dump is read

  cargo xtask boot linux --kernel stock-6.12 --module --policy keep --tds 4
                                                        the next kernel takes TDX over, with the TDs

  cargo xtask boot kvm --module --cpus 2                Linux 7.3's KVM runs a TD, kexec meanwhile: clean
  cargo xtask boot kvm                                  the same without cleanslate.ko: a machine check
  cargo xtask boot kvm --module --fail 6:3:dies         the TDX module dies in the third PAGE.AUG, the VMM exits, kexec

  cargo xtask boot linux --image arch/x86/boot/bzImage  a kernel of your own, which kexecs into itself

Exit codes: 0 clean, 1 machine check, memory in use overwritten, or failed, 70 the tool itself failed (no QEMU, for example).")]
pub struct BootArgs {
    /// What runs first.
    #[arg(value_enum)]
    pub guest: Guest,
    /// The processor that seamvisor presents.
    #[arg(long, value_enum, default_value = "spr")]
    pub cpu: Cpu,
    /// CPUs, 1 to 8.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// NUMA nodes, 1 to 4, of as many CPUs and as much memory each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4))]
    pub nodes: u32,
    /// What happens to private memory: tracked, module, refuse or none; firstkernel also has
    /// module-only, pamt, everything. keep, of firstkernel and of a Linux without TDX host code:
    /// the next kernel takes TDX and its TDs over. With `cleanslate.ko` and none, a test module
    /// prevents the reset; with exclude, a crash leaves it to the crash kernel, which has the
    /// module.
    #[arg(long, default_value = "tracked")]
    pub policy: String,
    /// TDs that are built, in turn: runnable, half built, gone, half gone. By firstkernel,
    /// by a test module in Linux 6.18 and later, by the test variant of `cleanslate.ko` in a Linux
    /// without TDX host code (0: the shipped `cleanslate.ko`). With kvm: VMMs, each with one TD.
    #[arg(long, default_value_t = 1)]
    pub tds: u32,
    /// With --policy keep and --next self: number of kexecs in a row that keep TDX and its TDs (16
    /// at most), which count on in each kernel. The last of these kernels resets them. With
    /// --append vacuum (Linux: cleanslate.vacuum) the next kernel tears all TDs down; with --append
    /// no-flush firstkernel does not flush their VCPUs, so that they must not be adopted.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kexecs: u32,
    /// The next kernel.
    #[arg(long, value_enum, default_value = "self")]
    pub next: NextKernel,
    /// Linux does not kexec but crashes, and the crash kernel reads the dump. Before the crash a
    /// wild pointer stores to private memory.
    #[arg(long)]
    pub crash: bool,
    /// Linux must refuse to load the next kernel; it then powers off.
    #[arg(long)]
    pub refused: bool,
    /// The n-th call of a SEAMCALL leaf answers an error and does nothing (`6:3:busy`), or the TDX
    /// module dies in it (`6:3:dies`). Leaves by name or number; statuses: busy, entropy,
    /// non-recoverable, interrupted, a name, a number. Several with commas.
    #[arg(long, value_name = "LEAF:N:STATUS", default_value = "", hide_default_value = true, value_parser = injections)]
    pub fail: String,
    /// With kvm: the VMM ends here. Without: its TD lives its whole life, and then runs on.
    #[arg(long, value_enum)]
    pub stop: Option<Stop>,
    /// With kvm: how the VMM ends, at its stop or when an ioctl fails. Without: exit with --fail,
    /// else stay.
    #[arg(long, value_enum)]
    pub end: Option<End>,
    /// With kvm: VCPUs of each TD.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub vcpus: u32,
    /// With kvm: more words for the VMM, with commas (bare/linux/vmm.c).
    #[arg(long, default_value = "")]
    pub vmm: String,
    /// With kvm: random traffic of this seed beside the TDs: conversions, holes, VCPUs that move,
    /// TDs that come and go, CPUs off and on, memory pressure.
    #[arg(long, value_name = "SEED")]
    pub traffic: Option<u64>,
    /// The guest's time counts its instructions, a nanosecond each: the same at every run, and as
    /// fast as this machine is. One CPU.
    #[arg(long)]
    pub icount: bool,
    /// Which Linux. Without: stock, with kvm tdx-7.3.
    #[arg(long, value_enum)]
    pub kernel: Option<Kernel>,
    /// A kernel of your own instead: a bzImage.
    #[arg(long, value_name = "BZIMAGE", conflicts_with_all = ["kernel", "module"])]
    pub image: Option<PathBuf>,
    /// With --image: its root file system. Without: busybox and bare/linux/init, without modules.
    #[arg(long, value_name = "INITRD", requires = "image")]
    pub initrd: Option<PathBuf>,
    /// With --image: a raw disk image, which is /dev/vda. What the guest writes stays in it.
    #[arg(long, value_name = "FILE", requires = "image")]
    pub disk: Option<PathBuf>,
    /// Linux loads `cleanslate.ko` (`cargo xtask linux-module`).
    #[arg(long)]
    pub module: bool,
    /// Memory in MiB, 320 at least. A guest with a large initrd needs more.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(320..=65536))]
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
    /// Boots this many times in a row, whatever the outcome of each.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Output for people or for programs.
    #[arg(long, value_enum, default_value = "human")]
    pub format: Format,
}

/// `--fail`: words that seamvisor takes.
fn injections(words: &str) -> Result<String, InjectionError> {
    for one in words.split(',').filter(|_| !words.is_empty()) {
        one.parse::<Injection>()?;
    }
    Ok(words.to_owned())
}

impl BootArgs {
    /// Does the next kernel take TDX over?
    pub(crate) fn keeps(&self) -> bool {
        self.policy == "keep"
    }

    /// The Linux that is booted.
    pub fn kernel(&self) -> Kernel {
        let default = if self.guest == Guest::Kvm { Kernel::Tdx73 } else { Kernel::Stock };
        self.kernel.unwrap_or(default)
    }

    /// Is a Linux first?
    pub fn linux_is_first(&self) -> bool {
        matches!(self.guest, Guest::Linux | Guest::Kvm)
    }

    /// How the VMM ends.
    pub fn end(&self) -> End {
        self.end.unwrap_or(if self.fail.is_empty() { End::Stay } else { End::Exit })
    }

    /// Parses the arguments of `cargo xtask boot`.
    ///
    /// # Errors
    /// clap's, which names the option, its value and what is allowed.
    pub(crate) fn from_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("boot").no_binary_name(true));
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    /// The options that a boot file may set: all but those that are about the output.
    pub(crate) fn keys() -> Vec<String> {
        let command = Self::augment_args(clap::Command::new("boot"));
        let ids = command.get_arguments().map(|argument| argument.get_id().as_str().to_owned());
        ids.filter(|id| !["runs", "format"].contains(&id.as_str())).collect()
    }

    /// Words as for a shell, so that they can be copied from the output.
    pub(crate) fn shell(words: &[String]) -> String {
        let mut line = String::from("cargo xtask boot");
        for word in words {
            let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=.,/:".contains(&byte));
            // Writing to a string never fails.
            let _ = if plain { write!(line, " {word}") } else { write!(line, " '{word}'") };
        }
        line
    }
}
