//! Boot log parser: e820, CMRs, KeyIDs, NUMA nodes, CPU model and TDX messages of a kernel log;
//! also `/proc/iomem`, alone or in the same file.
//!
//! Does not interpret: [`crate::host`] builds a host from these facts. Unknown lines are skipped; a
//! malformed known line, or one that contradicts an earlier one, is an error with its line number.

pub(crate) mod call;
mod cpu;
mod cut;
mod e820;
mod iomem;
mod kind;
mod lines;
mod numa;
mod number;
mod prefix;
mod speaker;
mod structured;
mod tdx;
mod unfold;
mod words;

use std::io::BufRead;

use tdx_abi::{KeyIdPartition, Leaf, MAX_CMRS, PageRange, Status};
use tdx_host::platform::CpuModel;

use crate::input::{At, InputError, Rule, excerpt};
pub(crate) use cut::{Cut, PLAIN_LIMIT};
use kind::Kind;
pub(crate) use kind::tdx_line;
use lines::LINE_LIMIT;
pub(crate) use lines::Line;
pub(crate) use unfold::Unfolded;

pub use cpu::CpuHint;
pub use e820::{E820Map, E820Row, E820Type};
pub use lines::Fold;
pub use numa::NodeRow;
pub use number::ByteRange;
pub(crate) use prefix::{Source, Split, message, split};
pub use speaker::Speaker;
pub(crate) use tdx::{DEBUG_CONFIG, check_cmr, check_key_ids, is_bring_up};
pub use tdx::{Failure, ModuleVersion};
pub use words::Words;

/// True for a line that says something about memory, nodes, CPUs or TDX; comments are not the
/// kernel's.
pub(crate) fn is_fact(line: &str) -> bool {
    kind::of(line).is_some_and(|kind| !matches!(kind, Kind::Comment(_)))
}

/// True if what follows `virt/tdx:` on a line has a meaning here.
pub(crate) fn is_known_tdx(rest: &str) -> bool {
    tdx::parse(rest).is_ok_and(|line| line != tdx::TdxLine::Other)
}

/// The errno of a line that says that the initialization failed.
pub(crate) fn errno_of(message: &str) -> Option<u32> {
    match tdx::parse(tdx_line(message)?) {
        Ok(tdx::TdxLine::Failed(Failure::Errno(number))) => Some(number),
        _ => None,
    }
}

/// Whether the message of a line of a known kind is complete; `None` for any other line.
fn complete(line: &str) -> Option<bool> {
    let message = message(line);
    if let Some((_, bank)) = message.split_once(": Machine Check").and_then(|(_, rest)| rest.split_once(" Bank ")) {
        let status = bank.split_once(':').map_or("", |(_, status)| status.trim());
        return Some(!status.is_empty() && status.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    if let Some(call) = call::of(message) {
        return Some(call.status.is_some());
    }
    let kind = kind::of(line)?;
    Some(match kind {
        Kind::E820(map, rest) => e820::parse(map, rest).is_ok(),
        Kind::Iomem(rest) => iomem::parse(rest).is_ok(),
        Kind::Srat(rest) => numa::srat(rest).is_ok(),
        Kind::Numa(rest) => numa::merged(rest).is_ok(),
        Kind::EarlyNode(rest) => numa::early(rest).is_ok(),
        Kind::Cpu(rest) => cpu::smpboot(rest).is_ok(),
        Kind::Packages(rest) => numa::packages(rest).is_ok(),
        Kind::BroughtUp(rest) => numa::brought_up(rest).is_ok(),
        Kind::Activated(rest) => numa::activated(rest).is_ok(),
        Kind::Allowed(rest) => numa::allowed(rest).is_ok(),
        Kind::Tdx(rest) => tdx::parse(rest).is_ok_and(|line| {
            let unknown = tdx::TdxLine::Failed(Failure::Words(Words::Unknown));
            line != tdx::TdxLine::Other && line != unknown
        }),
        Kind::Kernel(_) | Kind::KexecRefused | Kind::Comment(_) => return None,
    })
}

/// Most rows of one kind that are kept: above the kernel's own limit of 3200 for e820.
const MAX_ROWS: usize = 4096;

/// The facts of a log, in the order of its lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BootLog {
    /// Rows of the firmware's (or the user's) memory map.
    pub e820: Vec<At<E820Row>>,
    /// Top-level `System RAM` rows of /proc/iomem.
    pub iomem: Vec<At<ByteRange>>,
    /// Convertible memory ranges, ascending.
    pub cmrs: Vec<At<PageRange>>,
    /// SRAT rows.
    pub srat: Vec<At<NodeRow>>,
    /// `NUMA: Node` rows, each a merged span.
    pub numa: Vec<At<NodeRow>>,
    /// Early memory node ranges: the kernel's own map with nodes.
    pub early_nodes: Vec<At<NodeRow>>,
    /// Private KeyIDs.
    pub key_ids: Option<At<KeyIdPartition>>,
    /// CPU model of the kernel's own line.
    pub cpu: Option<At<CpuModel>>,
    /// CPU model of a comment.
    pub cpu_hint: Option<At<CpuHint>>,
    /// CPU packages.
    pub packages: Option<At<u32>>,
    /// Logical processors that came up.
    pub cpus: Option<At<u32>>,
    /// Logical processors that are there, from early in the boot: some may not come up.
    pub allowed_cpus: Option<At<u32>>,
    /// Kernel version of the `Linux version` line.
    pub kernel: Option<At<String>>,
    /// Version of the TDX module; the last one if it was updated.
    pub module: Option<At<ModuleVersion>>,
    /// What the kernel allocated for PAMT, in KiB.
    pub pamt_kb: Option<At<u64>>,
    /// The kernel used Dynamic PAMT.
    pub dynamic_pamt: Option<u64>,
    /// Line that says that the module is initialized.
    pub initialized: Option<u64>,
    /// A warning from the middle of a bring-up.
    pub under_way: Option<u64>,
    /// First line that says that the bring-up failed, and what it says.
    pub failure: Option<At<(Failure, String)>>,
    /// First SEAMCALL that failed for another reason than a bring-up, or after it.
    pub later: Option<At<(Leaf, Status, String)>>,
    /// What the module returned to TDH.SYS.DISABLE at handover, if it was no success.
    pub not_disabled: Option<At<(Status, String)>>,
    /// Last line of the TDX code that says something, and its text.
    pub last_tdx: Option<At<String>>,
    /// The kernel refused an image for kexec or kdump because of the erratum.
    pub kexec_refused: Option<At<String>>,
    /// First line that tells that this is no bare-metal Linux host, and its text.
    pub speaker: Option<At<(Speaker, String)>>,
    /// First line that names the firmware's tables of a real machine.
    pub(crate) hardware: Option<u64>,
    /// First line that a mail program or the like had broken, and that was joined.
    pub fold: Option<At<Fold>>,
    /// Number of lines.
    pub lines: u64,
}

/// One boot of a file that may hold several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its facts.
    pub log: BootLog,
    /// Which boot of the file it is, from 1.
    pub number: u64,
    /// First line of this boot.
    pub first_line: u64,
    /// Boots in the file.
    pub count: u64,
}

/// A boot while it is read.
#[derive(Default)]
struct Reading {
    log: BootLog,
    first_line: u64,
    /// The first known line that does not hold.
    error: Option<InputError>,
}

impl Reading {
    /// True if it has memory, or a line that may be of a memory map and does not hold.
    fn holds_a_map(&self) -> bool {
        self.log.has_memory() || self.error.is_some()
    }
}

impl BootLog {
    /// Reads a log to its end, in bounded memory. `file` is its name in errors. Of several boots
    /// the last one with a memory map counts.
    ///
    /// # Errors
    /// A file that is not text, or the first known line that does not hold. Whether the facts make
    /// a host is not asked here.
    pub fn read(file: &str, reader: impl BufRead) -> Result<Self, InputError> {
        Self::read_boot(file, reader, None).map(|chosen| chosen.log)
    }

    /// The same for one boot by its number, from 1.
    ///
    /// # Errors
    /// As [`Self::read`], or a file with fewer boots.
    pub fn read_boot(file: &str, reader: impl BufRead, number: Option<u64>) -> Result<Chosen, InputError> {
        let mut lines = Unfolded::new(reader);
        let mut cut = Cut::default();
        let mut boot = Reading { first_line: 1, ..Reading::default() };
        let mut count = 1;
        let mut best: Option<(Reading, u64)> = None;
        let better = |boot: &Reading, count: u64, best: &Option<(Reading, u64)>| match number {
            Some(number) => number == count,
            None => boot.holds_a_map() || best.as_ref().is_none_or(|(best, _)| !best.holds_a_map()),
        };
        loop {
            let line = match lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => return Err(InputError::of_file(file, Rule::Unreadable(error.to_string()))),
            };
            if cut.begins(&split(&String::from_utf8_lossy(line.bytes))) {
                let done = std::mem::replace(&mut boot, Reading { first_line: line.number, ..Reading::default() });
                if better(&done, count, &best) {
                    best = Some((done, count));
                }
                count += 1;
            }
            if cut.is_no_log() {
                return Err(InputError::of_file(file, Rule::NoTimeStamps { lines: PLAIN_LIMIT }));
            }
            if line.bytes.contains(&0) {
                return Err(InputError { line: Some(line.number), ..InputError::of_file(file, Rule::Binary) });
            }
            if boot.error.is_none() {
                boot.error = boot.log.line(file, &line).err();
            }
        }
        if let Some(rule) = lines.limit() {
            return Err(InputError::of_file(file, rule));
        }
        if better(&boot, count, &best) {
            best = Some((boot, count));
        }
        let Some((boot, number)) = best else {
            return Err(InputError::of_file(file, Rule::NoSuchBoot { boots: count }));
        };
        match boot.error {
            Some(error) => Err(error),
            None => Ok(Chosen { log: boot.log, number, first_line: boot.first_line, count }),
        }
    }

    /// True if no line of the log was of a kind that says something about memory, nodes or TDX.
    pub fn is_empty(&self) -> bool {
        self.last_tdx.is_none() && !self.has_memory() && self.srat.is_empty() && self.numa.is_empty()
    }

    /// True if there are rows of memory of any kind, usable or not.
    pub fn has_memory(&self) -> bool {
        !(self.e820.is_empty() && self.iomem.is_empty() && self.cmrs.is_empty() && self.early_nodes.is_empty())
    }

    /// Takes the facts of one line.
    ///
    /// # Errors
    /// A line that is known and does not hold.
    pub(crate) fn line(&mut self, file: &str, line: &Line<'_>) -> Result<(), InputError> {
        self.lines = line.number;
        if line.bytes.contains(&0) {
            return Err(InputError { line: Some(line.number), ..InputError::of_file(file, Rule::Binary) });
        }
        let text = String::from_utf8_lossy(line.bytes);
        if self.hardware.is_none() && speaker::is_hardware(message(&text)) {
            self.hardware = Some(line.number);
        }
        if let Some(speaker) = speaker::of(message(&text)) {
            let dom0 = self.hardware.is_some() && speaker::is_on_xen(message(&text));
            let speaker = if dom0 { Speaker::RootPartition } else { speaker };
            // A TD is a virtual machine, too.
            let tells_more = |at: &At<(Speaker, String)>| {
                at.value.0 == Speaker::VirtualMachine && speaker != Speaker::VirtualMachine
            };
            if self.speaker.as_ref().is_none_or(tells_more) {
                self.speaker = Some(At { line: line.number, value: (speaker, excerpt(message(&text))) });
            }
        }
        if let (None, Some(fold)) = (self.fold, line.fold) {
            self.fold = Some(At { line: line.number, value: fold });
        }
        let Some(kind) = kind::of(&text) else { return Ok(()) };
        let result = if line.too_long {
            Err(Rule::LineTooLong { limit: LINE_LIMIT })
        } else if core::str::from_utf8(line.bytes).is_err() && !matches!(kind, Kind::Comment(_)) {
            Err(Rule::NotUtf8)
        } else {
            self.fact(line.number, kind, &text)
        };
        let cut = line.last_without_end;
        result.map_err(|rule| InputError { cut, ..InputError::at_line(file, line.number, &text, rule) })
    }

    fn fact(&mut self, line: u64, kind: Kind<'_>, text: &str) -> Result<(), Rule> {
        match kind {
            Kind::E820(map, rest) => {
                let Some(row) = e820::parse(map, rest)? else { return Ok(()) };
                let of_this_map = |other: &&At<E820Row>| {
                    let usable = [row.kind, other.value.kind].contains(&E820Type::Usable);
                    other.value.map == map && usable && other.value.range.overlaps(row.range)
                };
                // A console or a log service wrote it twice.
                if self.e820.last().is_some_and(|other| other.value == row) {
                    return Ok(());
                }
                if let Some(other) = self.e820.iter().find(of_this_map) {
                    return Err(overlap(other.line, other.value.range));
                }
                push(&mut self.e820, MAX_ROWS, line, row)
            }
            Kind::Iomem(rest) => {
                let range = iomem::parse(rest)?;
                if self.iomem.last().is_some_and(|other| other.value == range) {
                    return Ok(());
                }
                if let Some(other) = self.iomem.iter().find(|other| other.value.overlaps(range)) {
                    return Err(overlap(other.line, other.value));
                }
                push(&mut self.iomem, MAX_ROWS, line, range)
            }
            Kind::Srat(rest) => push_node(&mut self.srat, line, numa::srat(rest)?),
            Kind::Numa(rest) => push_node(&mut self.numa, line, numa::merged(rest)?),
            Kind::EarlyNode(rest) => push_node(&mut self.early_nodes, line, numa::early(rest)?),
            Kind::Cpu(rest) => once(&mut self.cpu, line, cpu::smpboot(rest)?, |cpu| format!("CPU model {cpu}")),
            Kind::Packages(rest) => once(&mut self.packages, line, numa::packages(rest)?, |n| {
                format!(
                    "{n} \
                packages"
                )
            }),
            Kind::BroughtUp(rest) => once(&mut self.cpus, line, numa::brought_up(rest)?, |n| format!("{n} CPUs")),
            Kind::Activated(rest) => once(&mut self.cpus, line, numa::activated(rest)?, |n| format!("{n} CPUs")),
            Kind::Allowed(rest) => once(&mut self.allowed_cpus, line, numa::allowed(rest)?, |n| format!("{n} CPUs")),
            Kind::Kernel(rest) => {
                let version = excerpt(rest.split_whitespace().next().unwrap_or_default());
                once(&mut self.kernel, line, version, |v| format!("Linux version {v}"))
            }
            Kind::KexecRefused => {
                self.kexec_refused.get_or_insert_with(|| At { line, value: excerpt(text) });
                Ok(())
            }
            Kind::Comment(rest) => {
                if let (None, Some(value)) = (self.cpu_hint, cpu::hint(rest)) {
                    self.cpu_hint = Some(At { line, value });
                }
                Ok(())
            }
            Kind::Tdx(rest) => self.tdx(line, tdx::parse(rest)?, text),
        }
    }

    fn tdx(&mut self, line: u64, fact: tdx::TdxLine, text: &str) -> Result<(), Rule> {
        use tdx::TdxLine;
        if fact != TdxLine::Other || self.last_tdx.is_none() {
            self.last_tdx = Some(At { line, value: excerpt(text) });
        }
        match fact {
            TdxLine::KeyIds(value) => {
                let range = |split: &KeyIdPartition| {
                    format!("private KeyID range [{}, {})", split.shared() + 1, split.private_end())
                };
                once(&mut self.key_ids, line, value, range)
            }
            TdxLine::Cmr(value) if self.cmrs.last().is_some_and(|other| other.value == value) => Ok(()),
            TdxLine::Cmr(value) => {
                if let Some(previous) = self.cmrs.last().filter(|previous| previous.value.end() > value.start()) {
                    return Err(Rule::CmrOrder { previous: previous.value.to_string(), line: previous.line });
                }
                push(&mut self.cmrs, MAX_CMRS, line, value)
            }
            TdxLine::PamtKb(value) => once(&mut self.pamt_kb, line, value, |kb| {
                format!(
                    "{kb} KB allocated \
                for PAMT"
                )
            }),
            TdxLine::Module(value) => {
                self.module = Some(At { line, value });
                Ok(())
            }
            TdxLine::Initialized => {
                self.initialized = Some(line);
                Ok(())
            }
            TdxLine::DynamicPamt => {
                self.dynamic_pamt = Some(line);
                Ok(())
            }
            TdxLine::UnderWay => {
                self.under_way = Some(line);
                Ok(())
            }
            TdxLine::Later(leaf, status) => {
                self.later.get_or_insert_with(|| At { line, value: (leaf, status, excerpt(text)) });
                Ok(())
            }
            TdxLine::NotDisabled(status) => {
                self.not_disabled.get_or_insert_with(|| At { line, value: (status, excerpt(text)) });
                Ok(())
            }
            // An update of the module makes calls of a bring-up, too.
            TdxLine::Failed(Failure::Seamcall(leaf, status)) if self.initialized.is_some() => {
                self.later.get_or_insert_with(|| At { line, value: (leaf, status, excerpt(text)) });
                Ok(())
            }
            TdxLine::Failed(failure) => {
                self.failure.get_or_insert_with(|| At { line, value: (failure, excerpt(text)) });
                Ok(())
            }
            TdxLine::Other => Ok(()),
        }
    }
}

fn overlap(line: u64, other: ByteRange) -> Rule {
    Rule::Overlap { other: other.to_string(), line }
}

fn push<T>(rows: &mut Vec<At<T>>, limit: usize, line: u64, value: T) -> Result<(), Rule> {
    if rows.len() >= limit {
        return Err(Rule::TooMany { limit });
    }
    rows.push(At { line, value });
    Ok(())
}

/// Rows of one node may repeat and overlap (the kernel merges them); rows of two nodes may not.
fn push_node(rows: &mut Vec<At<NodeRow>>, line: u64, row: NodeRow) -> Result<(), Rule> {
    match rows.iter().find(|other| other.value.node != row.node && other.value.range.overlaps(row.range)) {
        Some(other) => Err(overlap(other.line, other.value.range)),
        None if rows.last().is_some_and(|other| other.value == row) => Ok(()),
        None => push(rows, MAX_ROWS, line, row),
    }
}

/// A fact that a log states once; saying it again is fine, saying something else is not.
fn once<T: PartialEq>(slot: &mut Option<At<T>>, line: u64, value: T, text: impl Fn(&T) -> String) -> Result<(), Rule> {
    match slot {
        Some(earlier) if earlier.value != value => {
            Err(Rule::Contradiction { line: earlier.line, earlier: text(&earlier.value) })
        }
        Some(_) => Ok(()),
        None => {
            *slot = Some(At { line, value });
            Ok(())
        }
    }
}
