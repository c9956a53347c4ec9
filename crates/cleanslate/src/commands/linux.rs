//! `cleanslate linux`: status and control of the Linux module `cleanslate.ko`, through
//! /sys/kernel/cleanslate, /dev/cleanslate and, of its test variant, /dev/cleanslate_test.

mod accept;
mod audit;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tdx_operator::input::{InputError, Rule};

use crate::exit::Exit;
use crate::options::Format;
use crate::output::{json, report_error, unless_closed};
use crate::stop::Stop;

/// Queries or controls the Linux module cleanslate.ko: status, audit, TDX initialization, test TDs.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate linux status                          what may be private now, by kind
  sudo cleanslate linux audit --rate 100000        compare its ledger with the TDX module, page by page
  sudo cleanslate linux accept --json accept.json  measure, audit, and say which assumptions of docs/limits.md hold here
  sudo cleanslate linux up                         initialize TDX, in a kernel without TDX host support
  sudo cleanslate linux vacuum                     TDX was taken over: tear the TDs of the kernel before down
  sudo cleanslate linux td-test --tds 4            TDs: one runnable, one half built, one gone, one half gone;
                                                   needs the test variant of cleanslate.ko
  cleanslate linux status --format json | jq .pamt_kb

Exit codes: 0 if all went well, 1 if the module refused (why is in the kernel's log), an audit found a
private page without a mark or `accept` an assumption that does not hold, 3 if it is not loaded, the audit
did not come to its end, or a part is missing in the report of `accept`, 130 after Ctrl-C (`accept` ends what
goes on and writes its report; a second one ends it at once).")]
pub(crate) struct LinuxArgs {
    #[command(subcommand)]
    order: Order,
    /// Where /sys and /dev are, for tests.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true, global = true)]
    root: PathBuf,
}

#[derive(Subcommand, Debug)]
enum Order {
    /// Shows the memory that may be private. Does not need root.
    Status {
        /// Output format: for people or for programs.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// Asks the TDX module for every page, and compares the ledger of private memory with the
    /// answers. Changes nothing, and may run beside TDs. Ctrl-C ends it.
    Audit {
        /// Output format: for people or for programs.
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
        /// Pages per second at most; default: the module's parameter sweep_rate.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
    },
    /// Runs `check`, `bench`, measurements of the module and an audit. Reports which assumptions of
    /// docs/limits.md this host confirms or contradicts. For root. The report names no host and has
    /// no address, serial number or command line.
    ///
    /// It can be felt: for some seconds all cores write memory, at most 8 GiB; then each CPU makes
    /// a WBINVD with interrupts off, one after the other, and empties the caches of its package;
    /// the audit makes a SEAMCALL for each page. `--skip` leaves any of them out. It changes no
    /// memory; if the audit finds a page without a mark, kexec images are refused from then on.
    Accept(accept::AcceptArgs),
    /// Initializes TDX, for kernels without TDX host code; or takes it over, if the kernel before
    /// has kept it.
    Up,
    /// Tears down the TDs of the kernel before, where TDX was taken over. It stays up.
    Vacuum,
    /// Builds TDs, each left in another phase of its life. What they own stays private until the
    /// next kexec. Needs the test variant of cleanslate.ko (bare/linux/cleanslate_test.c).
    TdTest {
        /// How many; the four phases in turn.
        #[arg(long, value_name = "N", default_value_t = 4)]
        tds: u32,
        /// The phase of all of them.
        #[arg(long = "fate", value_enum)]
        phase: Option<TdPhase>,
    },
}

/// In which phase of its life a TD is left.
#[derive(ValueEnum, Clone, Copy, Debug)]
enum TdPhase {
    /// Ready to run.
    Runnable,
    /// With half of its control pages.
    HalfBuilt,
    /// Torn down.
    Gone,
    /// With a free KeyID and some of its pages reclaimed.
    HalfGone,
}

impl TdPhase {
    const ALL: [Self; 4] = [Self::Runnable, Self::HalfBuilt, Self::Gone, Self::HalfGone];

    fn request(self) -> cleanslate_ioctl::TdPhase {
        match self {
            Self::Runnable => cleanslate_ioctl::TdPhase::Runnable,
            Self::HalfBuilt => cleanslate_ioctl::TdPhase::HalfBuilt,
            Self::Gone => cleanslate_ioctl::TdPhase::Gone,
            Self::HalfGone => cleanslate_ioctl::TdPhase::HalfGone,
        }
    }

    /// As the module calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::HalfBuilt => "half-built",
            Self::Gone => "gone",
            Self::HalfGone => "half-gone",
        }
    }
}

/// Status of the module.
#[derive(Serialize)]
struct Status {
    schema: &'static str,
    version: u32,
    /// `host`, `watching`, `failed` (the kernel's own bring-up; nothing is private), `learning N %`
    /// (pages of TDs that were there before), or `unknown` and why.
    mode: String,
    /// What a kexec does with private memory.
    policy: String,
    pamt_kb: u64,
    /// Pages owned by the TDX module.
    given_kb: u64,
    /// Pages of SEAMCALLs in flight.
    giving_kb: u64,
    /// Pages returned by the TDX module and not reset, which are leaked.
    returned_kb: u64,
    /// Pages that the kernel has freed although they may be private, and a reference keeps; part of
    /// `given_kb` and `returned_kb`.
    held: u64,
    tds: u64,
    /// The last decision on a kexec image or a kexec, and why.
    verdict: String,
    /// 4 KiB pages by kind, from the TDX module; only where cleanslate.ko can ask it, and for root.
    pages: Option<Pages>,
}

#[derive(Serialize)]
struct Pages {
    tdr: u64,
    tdcx: u64,
    tdvpr: u64,
    sept: u64,
    guest: u64,
    /// Pages that hold PAMT entries (Dynamic PAMT), two for each 2 MiB. `None`: an older module.
    pamt_pair: Option<u64>,
}

/// Why there is nothing of the module.
const NOT_LOADED: &str =
    "cleanslate.ko is not loaded, or has nothing to do here (`modprobe cleanslate`, then `dmesg | grep cleanslate`)";

pub(crate) fn run(args: &LinuxArgs, out: &mut impl Write) -> Result<Exit, Stop> {
    let good = match &args.order {
        Order::Accept(more) => return accept::run(&args.root, more, out),
        Order::Status { format } => {
            let status = Status::read(&args.root)?;
            unless_closed(match format {
                Format::Human => status.print(out),
                Format::Json => json(out, &status),
            })?;
            true
        }
        Order::Audit { format, rate } => audit::run(&args.root, *format, *rate, out)?,
        Order::Up => {
            let done = request(&args.root.join("dev/cleanslate"), "up", |device| cleanslate_ioctl::up(device), out)?;
            say_takeover(&args.root, done, out)?
        }
        Order::Vacuum => {
            let device = args.root.join("dev/cleanslate");
            let done = request(&device, "vacuum", |device| cleanslate_ioctl::vacuum(device), out)?;
            say_takeover(&args.root, done, out)?
        }
        Order::TdTest { tds, phase } => {
            let device = args.root.join("dev/cleanslate_test");
            for number in 0..*tds {
                let phase = phase.unwrap_or(TdPhase::ALL[number as usize % TdPhase::ALL.len()]);
                let text = format!("td {}", phase.name());
                if !request(&device, &text, |device| cleanslate_ioctl::td(device, phase.request()), out)? {
                    return Ok(Exit::Bad);
                }
            }
            true
        }
    };
    Ok(good.into())
}

/// Makes one ioctl; false if it fails.
fn request(
    device: &Path,
    text: &str,
    ioctl: impl FnOnce(&fs::File) -> io::Result<()>,
    out: &mut impl Write,
) -> Result<bool, Stop> {
    match fs::File::open(device).and_then(|file| ioctl(&file)) {
        Ok(()) => {
            unless_closed(writeln!(out, "{text}: done"))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(not_there(device, &error)),
        Err(error) => {
            report_error(format_args!("{text}: {error}; see the kernel log (`dmesg | grep cleanslate`)"));
            Ok(false)
        }
    }
}

/// After a request that was done: what became of TDX and TDs of the kernel before.
fn say_takeover(root: &Path, done: bool, out: &mut impl Write) -> Result<bool, Stop> {
    // An older module has no such file.
    let state = fs::read_to_string(root.join("sys/kernel/cleanslate/takeover")).unwrap_or_default();
    if done && !matches!(state.trim(), "" | "none") {
        unless_closed(writeln!(out, "{}", state.trim()))?;
    }
    Ok(done)
}

fn not_there(path: &Path, error: &io::Error) -> Stop {
    let what = format!(
        "{error}; the module is not loaded or not active (`modprobe cleanslate`, then `dmesg | grep cleanslate`)"
    );
    InputError::of_file(&path.display().to_string(), Rule::Unreadable(what)).into()
}

impl Status {
    fn read(root: &Path) -> Result<Self, Stop> {
        let folder = root.join("sys/kernel/cleanslate");
        let text = |path: &Path| {
            let read = fs::read_to_string(path).map(|text| text.trim().to_owned());
            read.map_err(|error| not_there(path, &error))
        };
        let number = |name: &str| -> Result<u64, Stop> {
            let path = folder.join(name);
            let found = text(&path)?;
            let malformed = Rule::Malformed { form: "NUMBER" };
            found.parse().map_err(|_| InputError::at_line(&path.display().to_string(), 1, &found, malformed).into())
        };
        let readable = match fs::File::open(folder.join("pages/tdr")) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied),
        };
        let pages = if readable {
            Some(Pages {
                tdr: number("pages/tdr")?,
                tdcx: number("pages/tdcx")?,
                tdvpr: number("pages/tdvpr")?,
                sept: number("pages/sept")?,
                guest: number("pages/guest")?,
                pamt_pair: folder.join("pages/pamt_pair").exists().then(|| number("pages/pamt_pair")).transpose()?,
            })
        } else {
            None
        };
        Ok(Self {
            schema: "cleanslate/linux-status",
            version: 1,
            mode: text(&folder.join("mode"))?,
            policy: text(&root.join("sys/module/cleanslate/parameters/policy"))?,
            pamt_kb: number("pamt_kb")?,
            given_kb: number("given_kb")?,
            giving_kb: number("giving_kb")?,
            returned_kb: number("returned_kb")?,
            held: number("held")?,
            tds: number("tds")?,
            verdict: text(&folder.join("verdict"))?,
            pages,
        })
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let private = self.pamt_kb + self.given_kb + self.giving_kb + self.returned_kb;
        writeln!(out, "mode     {}", self.mode)?;
        writeln!(out, "policy   {}", self.policy)?;
        writeln!(out, "private  {private} KB: PAMT {}, pages of TDs {}", self.pamt_kb, self.given_kb)?;
        writeln!(
            out,
            "         on their way {}, leaked {} ({} pages held)",
            self.giving_kb, self.returned_kb, self.held
        )?;
        if let Some(Pages { tdr, tdcx, tdvpr, sept, guest, pamt_pair }) = self.pages {
            write!(out, "pages    TDR {tdr}, TDCX {tdcx}, TDVPR {tdvpr}, SEPT {sept}, guest {guest}")?;
            if let Some(pages @ 1..) = pamt_pair {
                write!(out, ", PAMT pair pages {pages}")?;
            }
            writeln!(out, "; {} TDs", self.tds)?;
        }
        writeln!(out, "verdict  {}", self.verdict)
    }
}
