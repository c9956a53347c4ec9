//! Facts of a machine from the collected texts, and first conclusions: is TDX enabled, may memory
//! be private. A malformed text counts as not available.

use std::io::BufReader;

use tdx_abi::{KeyIdPartition, Leaf, StatusCode};
use tdx_host::platform::{CpuidOutput, Msr, NoTdx, Processor, detect};

use super::{
    cleanslate_ko::{Host, Ko, TRACKS},
    cpuinfo::Cpus,
    item::{Item, Unseen},
    keep,
    kernel::{Config, Era, Kernel},
    machine_checks::MachineChecks,
    msrs::{Msrs, Reading},
    snapshot::Snapshot,
    sys_disable::{self, SysDisable},
};
use crate::{
    bootlog::{self, BootLog, Failure, Unfolded, Words, call},
    explain::calls::{Calls, Left, says_lost},
    input::{At, Rule, excerpt},
};

/// Whether the BIOS has turned TDX on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Tdx {
    /// On; the private KeyIDs `[first, end)` if they were seen.
    On(Option<(u64, u64)>, &'static str),
    /// Not there, or off.
    Off(String, Sure),
    /// On, and it cannot work.
    Broken(String),
    /// Not determined by the data that was seen.
    Unknown,
}

/// How well a conclusion stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sure {
    Seen,
    Deduced,
    Unverified,
}

/// Whether memory may be TDX-private now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Private {
    /// It cannot, and why.
    No(&'static str),
    /// PAMT at least.
    Yes,
    /// Not determined.
    Perhaps,
}

/// What this kernel has done with SYS.INIT, which a module takes once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SysInit {
    /// Made, by this kernel or one before: the module takes no other.
    Spent,
    /// Not made: the kernel stopped before it asked the module anything.
    NotTried,
    /// Made, and the module is not there or refused it.
    Refused,
    /// Not determined.
    Unknown,
}

/// Everything that the rules look at.
pub(super) struct Facts<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) cpus: Result<Cpus, Unseen>,
    pub(super) msrs: Result<Msrs, Unseen>,
    pub(super) kernel: Result<Kernel, Unseen>,
    pub(super) config: Result<Config, Unseen>,
    pub(super) log: Result<BootLog, Unseen>,
    /// The log begins where the kernel began.
    pub(super) log_is_whole: bool,
    /// The log is that of a TD, which is a guest.
    pub(super) log_of_a_guest: bool,
    /// Lines of the memory-encryption code.
    pub(super) encryption: Vec<String>,
    pub(super) tdx: Tdx,
    pub(super) private: Private,
    pub(super) ko: Ko,
    /// What failed calls have left behind.
    pub(super) left: Left,
    /// Machine checks since boot.
    pub(super) checks: MachineChecks,
    /// The line on which cleanslate.ko says that it tracks the kernel's SEAMCALLs.
    ko_tracks: Option<u64>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let text = |item| snapshot.get(item).map_err(Clone::clone);
        let cpus = text(Item::Cpuinfo).and_then(|text| Cpus::parse(text).map_err(Unseen::Malformed));
        let msrs = text(Item::Msr).and_then(|text| Msrs::parse(text).map_err(Unseen::Malformed));
        let kernel = text(Item::Osrelease).and_then(|text| Kernel::parse(text).map_err(Unseen::Malformed));
        let config = text(Item::Config).and_then(|text| Config::parse(text).map_err(Unseen::Malformed));
        let raw_log = text(Item::BootLog).unwrap_or_default();
        let read = text(Item::BootLog).map(|text| BootLog::read(Item::BootLog.file(), BufReader::new(text.as_bytes())));
        let guest = matches!(&read, Ok(Err(error)) if error.rule == Rule::Guest);
        let log = read.and_then(|log| log.map_err(|error| Unseen::Malformed(error.to_string())));
        let messages = raw_log.lines().map(bootlog::message);
        let encryption = messages.filter(|message| keep::encryption(message)).take(8).map(excerpt).collect();
        let log_is_whole = log.as_ref().is_ok_and(|log| log.kernel.is_some());
        let (left, ko_tracks) = since_boot(raw_log);
        let mut facts = Self {
            snapshot,
            cpus,
            msrs,
            kernel,
            config,
            log,
            log_is_whole,
            log_of_a_guest: guest,
            encryption,
            tdx: Tdx::Unknown,
            private: Private::Perhaps,
            ko: Ko::of(snapshot),
            left,
            checks: MachineChecks::of(raw_log),
            ko_tracks,
        };
        facts.tdx = facts.look_for_tdx(guest);
        facts.private = facts.look_for_private();
        facts
    }

    /// The erratum by the model; `None` if the CPU was not seen.
    pub(super) fn erratum(&self) -> Option<bool> {
        self.cpus.as_ref().ok().map(|cpus| cpus.model.has_partial_write_erratum())
    }

    /// What mainline of the kernel's version does; `None` if the version was not seen.
    pub(super) fn era(&self) -> Option<Era> {
        self.kernel.as_ref().ok().map(Kernel::era)
    }

    /// Version and date of the BIOS, as far as it was seen.
    pub(super) fn bios(&self) -> Option<String> {
        let part = |item| self.snapshot.get(item).ok().map(str::trim).filter(|text| !text.is_empty()).map(excerpt);
        match (part(Item::BiosVersion), part(Item::BiosDate)) {
            (Some(version), Some(date)) => Some(format!("{version} of {date}")),
            (Some(version), None) => Some(version),
            (None, date) => date.map(|date| format!("of {date}")),
        }
    }

    /// True if TDX is certainly not in use here.
    pub(super) fn no_tdx(&self) -> bool {
        matches!(self.tdx, Tdx::Off(..))
    }

    /// True if the log names another kernel or another CPU than the machine: it is not the log of
    /// this boot.
    pub(super) fn log_of_another(&self) -> bool {
        let Ok(log) = &self.log else { return false };
        let kernel = log.kernel.as_ref().zip(self.kernel.as_ref().ok());
        let model = log.cpu.zip(self.cpus.as_ref().ok());
        kernel.is_some_and(|(logged, here)| keep::release(&logged.value) != keep::release(&here.text))
            || model.is_some_and(|(logged, here)| {
                (logged.value.family, logged.value.model) != (here.model.family, here.model.model)
            })
    }

    /// True if cleanslate.ko has seen every failed call that left something behind: it brings TDX
    /// up itself, or its own line in the log stands before the call.
    pub(super) fn ko_saw_failures(&self, host: Host) -> bool {
        let first = self.left.lines.first().map(|line| line.line);
        host == Host::Module || first.is_none_or(|first| self.ko_tracks.is_some_and(|tracks| tracks < first))
    }

    /// Whether an option is on; `None` if the options were not seen.
    pub(super) fn option(&self, name: &str) -> Option<bool> {
        self.config.as_ref().ok().map(|config| config.has(name))
    }

    /// Whether the kernel can kexec: an option of the two ways to load an image.
    pub(super) fn has_kexec(&self) -> Option<bool> {
        self.config.as_ref().ok().map(|config| config.has("KEXEC") || config.has("KEXEC_FILE"))
    }

    /// True if a line of the kernel's TDX host code was seen.
    pub(super) fn tdx_line(&self) -> bool {
        self.log.as_ref().is_ok_and(|log| log.last_tdx.is_some())
    }

    /// True if this kernel cannot have asked anything of the module.
    pub(super) fn no_host_code(&self) -> bool {
        !self.tdx_line()
            && match self.option("INTEL_TDX_HOST") {
                Some(on) => !on,
                None => self.era() == Some(Era::NoTdxHost) && self.log_is_whole,
            }
    }

    /// The line on which the bring-up failed, and what it says.
    pub(super) fn failure(&self) -> Option<&At<(Failure, String)>> {
        self.log.as_ref().ok()?.failure.as_ref()
    }

    /// The failure in words, if it is one.
    pub(super) fn said(&self) -> Option<Words> {
        match self.failure()?.value.0 {
            Failure::Words(words) => Some(words),
            _ => None,
        }
    }

    /// The line on which the module says that another kernel has initialized it.
    pub(super) fn initialized_before(&self) -> Option<u64> {
        let failure = self.failure()?;
        let Failure::Seamcall(leaf, status) = failure.value.0 else { return None };
        let before = leaf == Leaf::SYS_INIT && status.code() == StatusCode::SYS_INIT_NOT_PENDING
            || status.code() == StatusCode::SYS_SHUTDOWN;
        before.then_some(failure.line)
    }

    /// What became of SYS.INIT in this kernel.
    pub(super) fn sys_init(&self) -> SysInit {
        let Ok(log) = &self.log else { return SysInit::Unknown };
        // A module that answers queries has been initialized.
        if log.initialized.is_some() || log.module.is_some() || log.pamt_kb.is_some() || !log.cmrs.is_empty() {
            return SysInit::Spent;
        }
        match self.failure().map(|failure| failure.value.0) {
            Some(Failure::Seamcall(Leaf::SYS_INIT, status)) if status.code() != StatusCode::SYS_INIT_NOT_PENDING => {
                SysInit::Refused
            }
            Some(Failure::ReservedAreasExhausted(_) | Failure::Errno(12 | 28) | Failure::Seamcall(..)) => {
                SysInit::Spent
            }
            Some(Failure::Words(words)) => match words {
                Words::TdmrsExhausted | Words::ChangesRbp | Words::BadCmrs | Words::NotConvertible => SysInit::Spent,
                Words::NotLoaded | Words::NotEnabled | Words::Outdated | Words::NoLoader | Words::NotInstalled => {
                    SysInit::Refused
                }
                Words::NeedsXsave
                | Words::NeedsMovdir64b
                | Words::NeedsSelfSnoop
                | Words::DisabledInBios
                | Words::SeamOff
                | Words::KeyIdsDiffer
                | Words::CpusOffline => SysInit::NotTried,
                _ if words.is_early() => SysInit::NotTried,
                _ => SysInit::Unknown,
            },
            Some(Failure::Errno(_)) | None => SysInit::Unknown,
        }
    }

    /// Whether the module has TDH.SYS.DISABLE; `None` if its version was not seen.
    pub(super) fn sys_disable(&self) -> Option<SysDisable> {
        let log = self.log.as_ref().ok()?;
        let answer = log.not_disabled.as_ref().map(|refused| refused.value.0.code());
        if answer == Some(StatusCode::OPERAND_INVALID) {
            return Some(SysDisable::Refused);
        }
        log.module.map(|module| sys_disable::of(module.value))
    }

    /// Why nothing is private, as evidence.
    pub(super) fn why_nothing_private(&self) -> String {
        match self.failure() {
            Some(failure) if !self.no_tdx() => format!("boot.log:{}: {}", failure.line, failure.value.1),
            _ => self.why_not(),
        }
    }

    /// How the KeyIDs are split.
    pub(super) fn key_ids(&self) -> Option<KeyIdPartition> {
        let from_msr = self.msrs.as_ref().ok().and_then(|msrs| msrs.value(Msr::MKTME_KEYID_PARTITIONING));
        let logged = || self.log.as_ref().ok()?.key_ids.map(|key_ids| key_ids.value);
        from_msr.map(KeyIdPartition::from_msr).or_else(logged)
    }

    /// Whether this kernel has noted the CPU's erratum, which 6.18 to 7.1 refuse images by. It does
    /// that at boot, once it has found two private KeyIDs and no hibernation; what becomes of the
    /// module later changes nothing.
    pub(super) fn notes_erratum(&self) -> bool {
        let noted = self.cpus.as_ref().is_ok_and(|cpus| cpus.bug("tdx_pw_mce"));
        let stopped = self.said().is_some_and(Words::is_early);
        let keys = self.key_ids().is_none_or(|key_ids| key_ids.private() >= 2);
        noted || self.erratum() == Some(true) && keys && !stopped && !self.no_tdx() && !self.no_host_code()
    }

    /// Why there is no TDX, or no code for it, as evidence.
    pub(super) fn why_not(&self) -> String {
        match &self.tdx {
            Tdx::Off(why, _) | Tdx::Broken(why) => why.clone(),
            _ => match &self.config {
                Ok(config) => config.say("INTEL_TDX_HOST"),
                Err(_) => "the kernel is older than 6.8 and its boot log has no line from TDX host code".to_owned(),
            },
        }
    }

    fn look_for_tdx(&self, guest: bool) -> Tdx {
        let cpus = self.cpus.as_ref().ok();
        if let Some(cpus) = cpus.filter(|cpus| !cpus.model.intel) {
            return Tdx::Off(format!("this CPU is not Intel's ({})", cpus.vendor), Sure::Seen);
        }
        if let Ok(msrs) = &self.msrs {
            match (msrs.get(Msr::MKTME_KEYID_PARTITIONING), cpus) {
                (Some(Reading::Fault), None) => {
                    return Tdx::Off("this CPU has no IA32_MKTME_KEYID_PARTITIONING (MSR 0x87)".to_owned(), Sure::Seen);
                }
                (Some(_), Some(cpus)) => return from_msrs(msrs, cpus),
                (None, _) if msrs.disagreements().iter().any(|text| text.starts_with("MSR 0x87 ")) => {
                    return Tdx::Broken("the CPUs do not agree on their KeyIDs (MSR 0x87)".to_owned());
                }
                _ => {}
            }
        }
        if guest && !cpus.is_some_and(|cpus| cpus.bug("tdx_pw_mce")) {
            return Tdx::Off("this machine is itself a TD (a guest)".to_owned(), Sure::Seen);
        }
        if let Ok(log) = &self.log {
            if let Some(key_ids) = log.key_ids {
                let range = (u64::from(key_ids.value.shared()) + 1, key_ids.value.private_end());
                return Tdx::On(Some(range), "the kernel's boot log");
            }
            let says =
                |failure: &At<(Failure, String)>| format!("the kernel says: {}", bootlog::message(&failure.value.1));
            match (log.failure.as_ref(), self.said()) {
                (Some(failure), Some(Words::NotEnabled | Words::SeamOff | Words::TooFewKeyIds)) => {
                    return Tdx::Broken(says(failure));
                }
                (Some(failure), Some(Words::NoPlatform | Words::DisabledInBios)) => {
                    return Tdx::Off(says(failure), Sure::Seen);
                }
                _ => {}
            }
            if log.initialized.is_some() || log.pamt_kb.is_some() {
                return Tdx::On(None, "the kernel's boot log");
            }
        }
        if cpus.is_some_and(|cpus| cpus.bug("tdx_pw_mce")) {
            return Tdx::On(None, "bug `tdx_pw_mce` in /proc/cpuinfo, which the kernel sets only if TDX is enabled");
        }
        let host_code = self.option("INTEL_TDX_HOST") == Some(true) && self.era().is_some_and(|e| e != Era::NoTdxHost);
        if host_code && self.log_is_whole && !self.tdx_line() {
            let text = "this kernel has TDX host code and its boot log reports no private KeyIDs";
            return Tdx::Off(text.to_owned(), Sure::Deduced);
        }
        if cpus.is_some_and(|cpus| cpus.flag("tme") == Some(false)) {
            return Tdx::Off("this CPU does not report memory encryption (flag `tme`)".to_owned(), Sure::Unverified);
        }
        Tdx::Unknown
    }

    fn look_for_private(&self) -> Private {
        match self.tdx {
            Tdx::Off(..) => return Private::No("there is no TDX here"),
            Tdx::Broken(_) => return Private::No("TDX cannot be brought up here"),
            Tdx::On(..) | Tdx::Unknown => {}
        }
        if let Ok(log) = &self.log {
            // A call for a TD is made when the module is up.
            if log.initialized.is_some() || log.later.is_some() || log.not_disabled.is_some() {
                return Private::Yes;
            }
            if self.initialized_before().is_some() {
                return Private::Yes;
            }
            if log.failure.is_some() && self.log_is_whole {
                return Private::No(match self.sys_init() {
                    SysInit::NotTried | SysInit::Refused => {
                        "TDX initialization failed before the module \
                        was given any memory"
                    }
                    SysInit::Spent | SysInit::Unknown => "TDX initialization failed, and Linux then resets the PAMTs",
                });
            }
        }
        if self.no_host_code() && !self.ko.may_be_host() {
            return Private::No("this kernel has no TDX host code, so the module was given no memory");
        }
        Private::Perhaps
    }
}

/// What the failed calls of a log have left behind, those of the initialization apart, and the line
/// from which cleanslate.ko tracks them.
fn since_boot(log: &str) -> (Left, Option<u64>) {
    let mut calls = Calls::default();
    let mut tracks = None;
    // A log that someone put into the folder by hand may have each line twice.
    let mut lines = Unfolded::new(log.as_bytes());
    while let Ok(Some(line)) = lines.next_line() {
        let (number, text) = (line.number, String::from_utf8_lossy(line.bytes));
        let message = bootlog::message(&text);
        if calls.warning(number, message) {
            continue;
        }
        if says_lost(message) {
            calls.lost_lines();
        } else if message.starts_with(TRACKS) {
            tracks = tracks.or(Some(number));
        } else if let Some(call) = call::of(message)
            && !call.leaf.is_some_and(bootlog::is_bring_up)
        {
            calls.take(number, message, call);
        }
    }
    calls.end_of_warning();
    (calls.left(), tracks)
}

/// Asks the product's own detection.
fn from_msrs(msrs: &Msrs, cpus: &Cpus) -> Tdx {
    if msrs.get(Msr::TME_ACTIVATE).is_none() {
        // Without the width of a KeyID there is half of an answer.
        let value = msrs.value(Msr::MKTME_KEYID_PARTITIONING).unwrap_or_default();
        let key_ids = KeyIdPartition::from_msr(value);
        return match key_ids.private() {
            0 => Tdx::Off(NoTdx::BiosOff { shared: key_ids.shared() }.to_string(), Sure::Seen),
            _ => Tdx::On(Some((u64::from(key_ids.shared()) + 1, key_ids.private_end())), "MSR 0x87"),
        };
    }
    match detect(&Saved { msrs, cpus }) {
        Ok(platform) => {
            let key_ids = platform.key_ids();
            Tdx::On(Some((u64::from(key_ids.shared()) + 1, key_ids.private_end())), "MSR 0x87")
        }
        Err(no @ (NoTdx::NotThere { .. } | NoTdx::BiosOff { .. })) => Tdx::Off(no.to_string(), Sure::Seen),
        Err(no) => Tdx::Broken(no.to_string()),
    }
}

/// A processor as it was saved.
struct Saved<'a> {
    msrs: &'a Msrs,
    cpus: &'a Cpus,
}

impl Processor for Saved<'_> {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidOutput {
        let model = self.cpus.model;
        match leaf {
            0 => CpuidOutput { eax: 7, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
            1 => {
                let (base, extended) = (model.family.min(0xf), model.family.saturating_sub(0xf) & 0xff);
                let number = (model.model & 0xf) << 4 | (model.model >> 4 & 0xf) << 16;
                CpuidOutput {
                    eax: extended << 20 | base << 8 | number | model.stepping & 0xf,
                    ..CpuidOutput::default()
                }
            }
            // Flags that were not seen are taken for granted here; the rule on MOVDIR64B says that
            // they were not.
            7 => CpuidOutput { ecx: u32::from(self.cpus.flag("movdir64b") != Some(false)) << 28, ..Default::default() },
            _ => CpuidOutput::default(),
        }
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        self.msrs.value(msr)
    }
}
