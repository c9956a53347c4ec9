//! `cleanslate kexec`: bring-up, TDs, handover, and what the next kernel finds.

use std::io::Write;

use clap::{Args, ValueEnum};
use first_kernel::{AnyPolicy, Comparison};
use tdx_host::handover::Policy;
use tdx_lab::kexec::{self, Hole, KexecOptions, Next};

use crate::options::{Format, HostArgs, LayoutArgs, OutputArgs};
use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::{human, progress};

/// Initializes TDX on a host, runs TDs, does a kexec or panics under a policy, and lets the next
/// kernel use all memory.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate kexec                                       the bundled host, a real one with 2 TiB
  cleanslate kexec --host boot.log --policy none         what a kernel without a reset does to the next one
  cleanslate kexec --tds 4                               TDs in every phase of their life
  cleanslate kexec --tds 4 --crash                       the same, and the kernel panics
  cleanslate kexec --tds 4 --policy keep                 TDs run on in the next kernel
  cleanslate kexec --tds 4 --policy keep --next vacuum   the next kernel tears them down, and TDX stays up
  cleanslate kexec --hole returned --policy module-only  what asking the module alone leaves behind
  cleanslate kexec --host boot.log --layout linux        compares PAMT with what the log's kernel printed
  cleanslate kexec --host boot.log --format json | jq .verdict

A log without NUMA rows may need --node-border to give the kilobytes that its kernel printed.")]
pub(crate) struct KexecArgs {
    #[command(flatten)]
    host: HostArgs,
    /// What the first kernel does with private memory before it jumps.
    #[arg(long, value_enum, default_value_t = PolicyName::Tracked)]
    policy: PolicyName,
    /// Number of TDs in the first kernel: running, half built, half torn down and destroyed, in
    /// turn. [default: 0, or 3 with a hole that is about TDs]
    #[arg(long, value_name = "N")]
    tds: Option<u32>,
    /// Situation at the start of the handover: one of four in which TDH.SYS.DISABLE is not enough.
    #[arg(long, value_enum)]
    hole: Option<HoleName>,
    /// The first kernel panics after partial writes to private memory, and the crash kernel reads
    /// all of /proc/vmcore.
    #[arg(long)]
    crash: bool,
    /// With `--policy keep`: what the next kernel does with the TDs. [default: run; a crash kernel:
    /// vacuum]
    #[arg(long, value_enum)]
    next: Option<NextName>,
    #[command(flatten)]
    layout: LayoutArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl KexecArgs {
    fn options(&self) -> KexecOptions {
        let hole = self.hole.map(Hole::from);
        KexecOptions {
            policy: self.policy.into(),
            layout: self.layout.name(),
            tds: self.tds.unwrap_or(KexecOptions::default_tds(hole)),
            hole,
            crash: self.crash,
            next: self.next.map(Next::from),
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum NextName {
    /// Adopts the TDs that can run, runs them, and tears the others down.
    Run,
    /// Tears all TDs down.
    Vacuum,
}

impl From<NextName> for Next {
    fn from(name: NextName) -> Self {
        match name {
            NextName::Run => Self::Run,
            NextName::Vacuum => Self::Vacuum,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum HoleName {
    /// The module has no TDH.SYS.DISABLE.
    OldModule,
    /// The initialization stopped half-way through SYS.TDMR.INIT.
    BringUp,
    /// The module returned pages that the host has not reset yet.
    Returned,
    /// The module has died.
    DeadModule,
}

impl From<HoleName> for Hole {
    fn from(name: HoleName) -> Self {
        match name {
            HoleName::OldModule => Self::OldModule,
            HoleName::BringUp => Self::BringUp,
            HoleName::Returned => Self::Returned,
            HoleName::DeadModule => Self::DeadModule,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum PolicyName {
    /// Resets PAMTs and every page marked in the ledger, with MOVDIR64B.
    Tracked,
    /// Calls TDH.SYS.DISABLE, then resets what the module cannot know; like `tracked` if the leaf
    /// is missing or fails.
    Module,
    /// Calls TDH.SYS.DISABLE and jumps regardless of its status, as Linux 7.2 does; for comparison.
    ModuleOnly,
    /// Resets the PAMTs only; for comparison.
    Pamt,
    /// Resets nothing; for comparison.
    None,
    /// Resets all memory except that of the kernel and of the next image.
    Everything,
    /// Refuses kexec while memory may be private on a CPU with the erratum. A crash cannot be
    /// refused: it resets like `tracked`.
    Refuse,
    /// Resets what no TD needs, and leaves TDX and its TDs to a next kernel that reads the takeover
    /// table. At a crash it resets nothing.
    Keep,
}

impl From<PolicyName> for AnyPolicy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Tracked => Policy::Tracked.into(),
            PolicyName::Module => Policy::Module.into(),
            PolicyName::ModuleOnly => Comparison::ModuleOnly.into(),
            PolicyName::Pamt => Comparison::Pamt.into(),
            PolicyName::None => Comparison::None.into(),
            PolicyName::Everything => Policy::Everything.into(),
            PolicyName::Refuse => Policy::Refuse.into(),
            PolicyName::Keep => Policy::Keep.into(),
        }
    }
}

/// True if the next kernel is clean and the bring-up has succeeded.
pub(crate) fn run(args: &KexecArgs, out: &mut impl Write) -> Result<bool, Stop> {
    if args.next.is_some() && !matches!(args.policy, PolicyName::Keep) {
        let what = "`--next` is about the TDs that `--policy keep` leaves: say both";
        return Err(Stop::Usage(what.to_owned()));
    }
    let host = args.host.read(&progress::Line::new())?;
    let report = kexec::run(&host, args.options(), &progress::Line::new())?;
    unless_closed(match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => human::kexec::print(out, &report),
    })?;
    Ok(report.verdict.is_good() && report.bringup.error.is_none())
}
