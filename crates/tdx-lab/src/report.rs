//! The report of `kexec`: bring-up, private lines, reset, the next kernel, the verdict. Lines and
//! machine checks are counted by the machine; what the host believed about itself stands under
//! `handover`.

use serde::Serialize;

use tdx_operator::report::{Address, HostReport, Span, TdmrReport};

/// Everything that `kexec` says.
#[derive(Clone, Debug, Serialize)]
pub struct KexecReport {
    /// Always `cleanslate/kexec`.
    pub schema: &'static str,
    /// Version of the schema: 1.
    pub version: u32,
    /// Program and version.
    pub tool: &'static str,
    /// The host.
    pub host: HostReport,
    /// What happened to the next kernel.
    pub verdict: Verdict,
    /// The policy asked for: `tracked`, `module`, `module-only`, `pamt`, `none`, `everything`,
    /// `refuse`, `keep`.
    pub policy: &'static str,
    /// What the first kernel was doing.
    pub scenario: ScenarioReport,
    /// The layout asked for: `fit` or `linux`.
    pub layout: &'static str,
    /// The first kernel's bring-up.
    pub bringup: BringupReport,
    /// The TDs of the first kernel, in the order they were begun.
    pub tds: Vec<TdReport>,
    /// The ledger just before the handover; absent without TDs.
    pub ledger: Option<LedgerReport>,
    /// Private lines just before the handover.
    pub private_before: PrivateLines,
    /// What the host says it did.
    pub handover: HandoverSummary,
    /// What the host could not clean, or cannot vouch for; the next kernel must not touch it.
    pub uncleaned: Vec<UncleanedReport>,
    /// The table of leftovers that the first kernel wrote for the next one, read back.
    pub leftover_table: Option<LeftoverTableReport>,
    /// What the reset did, as the machine saw it.
    pub reset: ResetReport,
    /// The next kernel; absent if it was never started.
    pub next_kernel: Option<NextKernelReport>,
    /// What the next kernel did with inherited TDs; absent under other policies than
    /// `keep`.
    pub kept: Option<KeptReport>,
    /// What the software machine does not model.
    pub limits: &'static [&'static str],
}

impl Verdict {
    /// The verdict over a next kernel; `None` if it was never started.
    pub fn over(next: Option<&NextKernelReport>) -> Self {
        match next {
            None => Self::Refused,
            Some(next) if next.machine_checks > 0 => Self::MachineCheck,
            Some(next) if next.lines_lost > 0 => Self::DataLost,
            Some(_) => Self::Clean,
        }
    }

    /// The verdict of a next kernel that has taken TDX over.
    pub fn with_kept(self, kept: Option<&KeptReport>) -> Self {
        match kept {
            Some(kept) if self == Self::Clean && !kept.is_good() => Self::TdxLost,
            _ => self,
        }
    }

    /// The first kernel did no harm.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Clean | Self::Refused)
    }
}

/// What happened to the next kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It wrote and read all of memory.
    Clean,
    /// It died of a machine check.
    MachineCheck,
    /// It lives, but old cache lines of the first kernel were written over its data.
    DataLost,
    /// The policy refused the kexec: it was never started.
    Refused,
    /// It lives, but TDX or an inherited TD does not go on.
    TdxLost,
}

/// What a next kernel did with inherited TDs.
#[derive(Clone, Debug, Serialize)]
pub struct KeptReport {
    /// The takeover table, as the next kernel read it.
    pub record: RecordReport,
    /// Memory that the next kernel kept off before it had an allocator: PAMTs and marked pages.
    pub reserved_bytes: u64,
    /// `run`: it adopts TDs that can run and tears the others down; `vacuum`: it tears down all.
    pub next: &'static str,
    /// TDs of the table under `run`, by their number in the first kernel.
    pub tds: Vec<KeptTdReport>,
    /// What was torn down.
    pub vacuum: VacuumReport,
    /// What came of a TD of its own: `built, ran, torn down`, or the error.
    pub new_td: String,
    /// Private lines at the end, counted by the machine.
    pub private_lines: u64,
    /// PAMT, and the pages of TDs that were adopted, counted before the takeover.
    pub private_lines_computed: u64,
}

impl KeptReport {
    /// TDs that can run, run; all others are gone, TDX is up, and nothing else is private.
    pub fn is_good(&self) -> bool {
        // After a crash no TD can: what the CPUs held of its VCPUs is lost.
        let in_order = self.record.written_by == WRITTEN_BY_KEXEC;
        self.tds.iter().filter(|td| td.adopted || (in_order && td.runnable)).all(|td| td.runs)
            && self.vacuum.error.is_none()
            && self.new_td == NEW_TD
            && self.private_lines == self.private_lines_computed
    }
}

/// A TD of the next kernel's own has lived.
pub(crate) const NEW_TD: &str = "built, ran, torn down";

/// Of a table that an orderly kexec wrote.
pub(crate) const WRITTEN_BY_KEXEC: &str = "kexec";

/// A takeover table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RecordReport {
    /// `kexec` or `crash`.
    pub written_by: &'static str,
    /// Bytes.
    pub bytes: usize,
    /// Entries.
    pub entries: usize,
    /// TDs among them.
    pub tds: u64,
}

/// A TD of the table in the next kernel.
#[derive(Clone, Debug, Serialize)]
pub struct KeptTdReport {
    /// Its number in the first kernel.
    pub td: u32,
    /// Its KeyID.
    pub key_id: Option<u16>,
    /// Page of its TDR.
    pub tdr: Option<Address>,
    /// The takeover table says that it can run.
    pub runnable: bool,
    /// It is a TD of the next kernel's.
    pub adopted: bool,
    /// Its guest was entered, and found its memory as it was.
    pub runs: bool,
    /// The CPU on which it was entered.
    pub cpu: Option<u32>,
    /// Why it was not adopted, or does not run.
    pub why: Option<String>,
}

impl KeptTdReport {
    pub(crate) fn not_adopted(td: u32, runnable: bool, why: &impl ToString) -> Self {
        let why = Some(why.to_string());
        Self { td, key_id: None, tdr: None, runnable, adopted: false, runs: false, cpu: None, why }
    }
}

/// What a vacuum did.
#[derive(Clone, Debug, Serialize)]
pub struct VacuumReport {
    /// TDs torn down.
    pub tds: u64,
    /// 4 KiB pages that came back clean.
    pub pages: u64,
    /// 4 KiB pages that stay marked: those of adopted TDs, and what a failed call has left.
    pub pages_kept: u64,
    /// The first call that failed.
    pub error: Option<String>,
}

/// The situation of the handover.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioReport {
    /// `kexec` or `crash`.
    pub kind: &'static str,
    /// Which module is emulated.
    pub module: &'static str,
    /// `old-module`, `bring-up`, `returned` or `dead-module`, and what it is.
    pub hole: Option<HoleReport>,
    /// Memory of the crash kernel.
    pub crash_kernel: Option<Span>,
    /// Lines that a wild pointer of the dying kernel poisoned, one of each kind of private memory.
    pub stray_lines: Vec<StrayReport>,
}

/// A hole.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HoleReport {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub story: &'static str,
}

/// A partial write of the dying kernel to private memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StrayReport {
    /// The line.
    pub address: Address,
    /// What it was.
    pub kind: &'static str,
}

/// A TD of the first kernel.
#[derive(Clone, Debug, Serialize)]
pub struct TdReport {
    /// Its number, from 0.
    pub td: u32,
    /// Its KeyID.
    pub key_id: Option<u16>,
    /// Page of its TDR.
    pub tdr: Option<Address>,
    /// How far it is: `running`, `half-built`, `half-torn-down` or `gone`.
    pub state: &'static str,
    /// What happened to it, in order.
    pub story: Vec<String>,
}

/// The ledger, as the host reads it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LedgerReport {
    /// Memory it takes.
    pub bytes: u64,
    /// Memory it covers: all TDMRs.
    pub covered_bytes: u64,
    /// 4 KiB pages that may be private.
    pub marked_pages: u64,
    /// Of these: what the module may not know.
    pub unknown_to_module_pages: u64,
    /// Pages that a failed release left marked for good.
    pub leaked_pages: u64,
}

/// The table of leftovers (`tdx_host::handover::LeftoverTable`), and what it is good for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LeftoverTableReport {
    /// Bytes.
    pub bytes: usize,
    /// Ranges in it; `None`: it says that all old memory may be private.
    pub entries: Option<u32>,
    /// What becomes of a next kernel that reads the table and keeps off what it lists; absent if
    /// there is nothing to keep off.
    pub verdict_if_heeded: Option<Verdict>,
}

/// Something that could not be cleaned.
#[derive(Clone, Debug, Serialize)]
pub struct UncleanedReport {
    /// The memory, if it is known which.
    pub range: Option<Span>,
    /// Why.
    pub why: String,
}

/// The bring-up.
#[derive(Clone, Debug, Serialize)]
pub struct BringupReport {
    /// `ok`, or the negative errno that Linux gives for this failure.
    pub result: String,
    /// What failed.
    pub error: Option<String>,
    /// What the kernel prints.
    pub log: Vec<String>,
    /// Version of the emulated module.
    pub module: Option<String>,
    /// Number of TDMRs.
    pub tdmrs: usize,
    /// KiB of PAMT.
    pub pamt_kb: u64,
    /// The log's kernel allocated as much; `None` if the log does not say.
    pub equals_log: Option<bool>,
    /// The table.
    pub tdmr_table: Vec<TdmrReport>,
    /// SEAMCALLs that the module got, by leaf and status.
    pub seamcalls: Vec<SeamcallCount>,
    /// After a failure: PAMT lines reset and bytes given back.
    pub unwound: Option<UnwoundReport>,
}

/// Calls of one leaf that ended alike.
#[derive(Clone, Debug, Serialize)]
pub struct SeamcallCount {
    /// Leaf, as `TDH.SYS.INIT`.
    pub leaf: String,
    /// Status, as `TDX_SUCCESS`.
    pub status: String,
    /// Calls.
    pub count: u64,
}

/// What the way back of a failed bring-up did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct UnwoundReport {
    /// PAMT lines reset.
    pub reset_lines: u64,
    /// Bytes of PAMT given back.
    pub freed_bytes: u64,
}

/// Private lines by kind: owned by a private KeyID in memory, or about to be when the caches are
/// written back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PrivateLines {
    /// All.
    pub lines: u64,
    /// In PAMTs for 4 KiB pages.
    pub pamt_4k: u64,
    /// In PAMTs for 2 MiB pages.
    pub pamt_2m: u64,
    /// In PAMTs for 1 GiB pages.
    pub pamt_1g: u64,
    /// TDR pages, under the global KeyID.
    pub tdr: u64,
    /// TDCS and TDVPS pages.
    pub control: u64,
    /// Secure-EPT pages.
    pub sept: u64,
    /// Guest pages.
    pub guest: u64,
    /// Pages of dynamic PAMT.
    pub dynamic_pamt: u64,
    /// Pages that the module has returned, or only written to: it does not know them any more.
    pub returned: u64,
    /// None of these.
    pub other: u64,
    /// By TDMR, in the order of the table.
    pub by_tdmr: Vec<TdmrLines>,
}

/// Private lines in the PAMTs of one TDMR.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TdmrLines {
    /// Index of the TDMR.
    pub tdmr: usize,
    /// In its PAMT for 4 KiB pages.
    pub pamt_4k: u64,
    /// In its PAMT for 2 MiB pages.
    pub pamt_2m: u64,
    /// In its PAMT for 1 GiB pages.
    pub pamt_1g: u64,
}

/// The host's own account.
#[derive(Clone, Debug, Serialize)]
pub struct HandoverSummary {
    /// `reset`, `nothing-to-do`, `left-private`, `kept`, `refused` or `not-alone`.
    pub outcome: &'static str,
    /// Why, in words.
    pub why: String,
    /// What the module said, if it was asked to clean up, or if a VCPU was not flushed.
    pub module: Option<String>,
    /// Lines the host says it reset.
    pub lines: u64,
    /// Ranges the host reset, one fence each.
    pub ranges: u64,
}

/// The reset as the machine saw it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ResetReport {
    /// Lines that direct stores reached between the end of bring-up and the jump.
    pub lines: u64,
    /// Private lines left in memory at the jump.
    pub private_lines_left: u64,
    /// Lines still dirty in a cache under a private KeyID at the jump.
    pub dirty_private_lines_left: u64,
    /// Poisoned lines at the jump.
    pub poisoned_lines_left: u64,
}

/// What the next kernel did and met.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NextKernelReport {
    /// Bytes of usable memory, each line of which it wrote partially.
    pub bytes_written: u64,
    /// Bytes it read back before it ended or died.
    pub bytes_checked: u64,
    /// Lines its stores poisoned, silently. One that came back from a cache and was poisoned again
    /// counts twice.
    pub lines_poisoned: u64,
    /// Lines of it that dirty private lines of the first kernel's caches were written over.
    pub lines_lost: u64,
    /// Lines whose read is fatal; a kernel dies of the first.
    pub fatal_lines: u64,
    /// Machine checks it took: 0, or 1 because the first is the end.
    pub machine_checks: u64,
    /// The machine check.
    pub machine_check: Option<MachineCheckReport>,
    /// What came of its own bring-up of TDX; absent if it did not try.
    pub tdx: Option<String>,
}

/// A machine check and its story.
#[derive(Clone, Debug, Serialize)]
pub struct MachineCheckReport {
    /// The line.
    pub address: Address,
    /// What the line was, as `PAMT_4K`; `unknown` if it is in no PAMT.
    pub kind: &'static str,
    /// Index of the TDMR whose PAMT it was.
    pub tdmr: Option<usize>,
    /// That TDMR.
    pub tdmr_range: Option<Span>,
    /// Private KeyID that owned the line.
    pub key_id: Option<u16>,
    /// Who made it poison: kernel, CPU and kind of store.
    pub poisoned_by: String,
    /// Who read it.
    pub read_by: String,
    /// IA32_MCi_STATUS, as the hardware fills it.
    pub mci_status: String,
    /// IA32_MCi_MISC.
    pub mci_misc: String,
    /// IA32_MCG_STATUS.
    pub mcg_status: String,
    /// What the kernel prints of it.
    pub log: String,
    /// What the first kernel's record and ledger say of the address.
    pub explained: String,
    /// What happened, in order.
    pub story: Vec<String>,
}
