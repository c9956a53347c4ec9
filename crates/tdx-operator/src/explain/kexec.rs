//! Kexec and kdump images that the kernel refused: its own line, and what kexec, kdumpctl,
//! kdump-tools and systemd print. Says nothing on whether TDX came up.

use super::{errno, kdump::Kdump};
use crate::{
    bootlog::{BootLog, Speaker},
    input::excerpt,
    kernel::{Era, Kernel},
    report::{Basis, Judgement, LogFinding, LogLine, Topic},
};

/// Lines that are kept.
const MAX_LINES: usize = 12;

/// `Operation not supported` as programs print it in other languages, with the letters of ASCII in
/// lower case (source: the translations of glibc 2.36).
const TRANSLATED: [&str; 11] = [
    "die operation wird nicht unterst\u{fc}tzt",
    "op\u{e9}ration non support\u{e9}e",
    "la operaci\u{f3}n no est\u{e1} soportada",
    "operazione non supportata",
    "opera\u{e7}\u{e3}o n\u{e3}o suportada",
    "opera\u{e7}\u{e3}o sem suporte",
    "operacja nie obs\u{142}ugiwana",
    "\u{41d}\u{435}\u{43f}\u{43e}\u{434}\u{434}\u{435}\u{440}\u{436}\u{438}\u{432}\u{430}\u{435}\u{43c}\u{430}\u{44f} \u{43e}\u{43f}\u{435}\u{440}\u{430}\u{446}\u{438}\u{44f}",
    "\u{4e0d}\u{652f}\u{6301}\u{7684}\u{64cd}\u{4f5c}",
    "\u{6b64}\u{9805}\u{64cd}\u{4f5c}\u{4e26}\u{4e0d}\u{88ab}\u{652f}\u{63f4}",
    "\u{30b5}\u{30dd}\u{30fc}\u{30c8}\u{3055}\u{308c}\u{3066}\u{3044}\u{306a}\u{3044}\u{64cd}\u{4f5c}\u{3067}\u{3059}",
];

/// What one boot says on refused images.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The kernel named the erratum.
    erratum: bool,
    /// cleanslate.ko refused.
    cleanslate: bool,
    /// A program printed EOPNOTSUPP.
    not_supported: bool,
    /// A program printed another reason.
    other: Option<&'static str>,
    lines: Vec<LogLine>,
    /// Why there is no crash kernel although no image was refused.
    kdump: Kdump,
}

/// Reasons as `strerror` prints them.
const REASONS: [(&str, &str); 15] = [
    (
        "Operation not permitted",
        "EPERM: kexec is disabled (`kernel.kexec_load_disabled`), or the kernel is locked down",
    ),
    ("is restricted; see man kernel_lockdown", "the kernel is locked down: only signed images are loaded"),
    ("Permission denied", "EACCES"),
    ("Cannot allocate memory", "ENOMEM"),
    ("Cannot assign requested address", "EADDRNOTAVAIL: the image does not fit into the reserved memory"),
    ("Device or resource busy", "EBUSY: another image is being loaded, or loading is disabled for now"),
    ("Invalid argument", "EINVAL"),
    ("Exec format error", "ENOEXEC: not an image for kexec"),
    ("Required key not available", "ENOKEY: the image is not signed by a known key"),
    ("Key was rejected by service", "EKEYREJECTED: the signature of the image is not accepted"),
    ("No such file or directory", "ENOENT"),
    ("locate_hole failed", "the image does not fit into the reserved memory: ask for more by `crashkernel=`"),
    (
        "Could not find a free area of memory of",
        "the image does not fit into the reserved memory: ask for more by `crashkernel=`",
    ),
    ("Function not implemented", "ENOSYS: a kernel without kexec"),
    ("load not available", "the kernel was built without this system call"),
];

/// Messages of kexec-tools that do not name it.
fn forms_of_kexec_tools(lower: &str) -> bool {
    lower.starts_with("could not find a free area of memory of ") || lower.starts_with("locate_hole failed")
}

impl Refusals {
    /// Takes a message of the kernel or of a program; false if it is not about a refused image.
    pub(super) fn take(&mut self, line: u64, ident: Option<&str>, text: &str) -> bool {
        let lower = text.to_ascii_lowercase();
        if self.kdump.take(line, text, &lower) {
            return true;
        }
        let by_erratum = lower.contains("not allowed on platform with tdx_pw_mce");
        let cleanslate =
            text.contains("refusing kexec images") || text.contains("preserve_context kexec is not supported");
        let speaks = ["kexec", "kdump"]
            .iter()
            .any(|word| lower.contains(word) || ident.is_some_and(|ident| ident.to_ascii_lowercase().contains(word)));
        // Prose names kexec and a failure, too: without a program's name, the form of a message.
        let forms = [
            "kexec_",
            "kexec:",
            "kexec-",
            "kexec[",
            "kexec -",
            "kdump:",
            "kdump-",
            "kdump.",
            "kdumpctl",
            "kdump kernel",
            "kexec kernel",
            "kexec image",
            "kexec load",
            "crashkernel",
            "load not available",
            "not ready to kdump",
            "locate_hole failed",
            "could not find a free area of memory of ",
        ];
        let speaks = speaks || forms_of_kexec_tools(&lower);
        let speaks = speaks && (ident.is_some() || forms.iter().any(|form| lower.contains(form)));
        // A dump that could not be saved: its image was loaded.
        let speaks = speaks && !lower.contains("vmcore");
        let fails = [
            "fail",
            "not supported",
            "eopnotsupp",
            "errno 95",
            "not permitted",
            "not reserved",
            "errno=95",
            "load not available",
            "is restricted",
            "not ready to kdump",
            "is not operational",
            "could not find a free area of memory of ",
        ];
        let success = lower.contains("loaded kdump kernel") && !lower.contains("fail");
        if !(by_erratum || cleanslate || speaks && !success && fails.iter().any(|word| lower.contains(word))) {
            return false;
        }
        // A line of the kernel on something else of kexec.
        if ident.is_none() && lower.contains("kexec_core: ") && !by_erratum {
            return false;
        }
        self.erratum |= by_erratum;
        self.cleanslate |= cleanslate;
        let not_supported = ["operation not supported", "eopnotsupp", "errno 95", "errno=95"];
        let number = lower.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == "-95");
        let translated = TRANSLATED.iter().any(|words| lower.contains(words));
        self.not_supported |= number || translated || not_supported.iter().any(|word| lower.contains(word));
        let reason = REASONS.iter().find(|(words, _)| lower.contains(&words.to_ascii_lowercase()));
        self.other = self.other.or(reason.map(|(_, reason)| *reason));
        if self.lines.len() < MAX_LINES {
            self.lines.push(LogLine { line, text: excerpt(text) });
        }
        true
    }

    /// True if the kernel of this boot refuses images, and says so.
    pub(super) fn any(&self) -> bool {
        !self.lines.is_empty() || !self.kdump.lines().is_empty()
    }

    /// The finding, if there is one.
    pub(super) fn finding(&self, log: &BootLog) -> Option<LogFinding> {
        use Basis::{Deduced, Sourced};
        use Judgement::{Failed, Undecidable};
        if !self.any() {
            return None;
        }
        let (era, erratum) = (era(log), log.cpu.map(|cpu| cpu.value.has_partial_write_erratum()));
        let guest = log.speaker.as_ref().map(|at| at.value.0);
        let guest = matches!(guest, Some(Speaker::TdGuest | Speaker::VirtualMachine));
        let contradicts = erratum == Some(false) || era.is_some_and(|era| era != Era::Refused);
        let refused = "the kexec or kdump image was refused by this kernel (EOPNOTSUPP): Linux 6.18 to 7.1 load no \
            image on a CPU with the partial-write erratum while TDX is enabled in the BIOS. This is not a failed \
            TDX initialization, and it does not depend on whether TDX is in use";
        let (judgement, rule, basis, cause, remedy) = match () {
            () if guest && !self.cleanslate && (self.erratum || self.not_supported) => (
                Undecidable,
                "kexec-in-a-guest",
                Deduced,
                "a TD or another virtual machine wrote this log, and its kernel refused an image (EOPNOTSUPP): the \
                 erratum of the host's CPU is one reason of several there (a TD refuses images as long as its CPUs \
                 cannot be turned off)"
                    .to_owned(),
                "`dmesg | grep -i kexec` in the guest shows the reason; it says nothing of a kexec of the host",
            ),
            () if self.erratum && erratum == Some(false) => (
                Undecidable,
                "kexec-refused-by-erratum",
                Deduced,
                "the kernel refused the image for the partial-write erratum, and this log names a CPU without it: the \
                 lines may be of two machines"
                    .to_owned(),
                "give the log of one boot of one machine; until then take it that no image is loaded",
            ),
            () if self.erratum => {
                let once = "; the kernel prints its line once for each boot";
                (Failed, "kexec-refused-by-erratum", Sourced, format!("{refused}{once}"), errno::REFUSED)
            }
            () if self.cleanslate => (
                Failed,
                "kexec-refused-by-cleanslate",
                Sourced,
                "cleanslate.ko refused the kexec image: it does not know all private memory, or kexec would come \
                 back to this kernel (preserve_context)"
                    .to_owned(),
                "reboot through the firmware, and load cleanslate.ko before TDX is initialized",
            ),
            () if self.not_supported && !contradicts => (
                Failed,
                "kexec-refused-by-erratum",
                Deduced,
                format!(
                    "{refused}. The kernel's own line (`kexec: Not allowed on platform with tdx_pw_mce bug`) is not in this log"
                ),
                errno::REFUSED,
            ),
            () if self.not_supported => (
                Undecidable,
                "kexec-not-supported",
                Deduced,
                if erratum == Some(false) {
                    "the image was refused with EOPNOTSUPP, but this log names a CPU without the partial-write erratum, \
                     for which no kernel refuses images"
                } else {
                    "the image was refused with EOPNOTSUPP. Mainline of this version does not refuse images for the \
                     partial-write erratum (6.18 to 7.1 do); a distribution's kernel may have the refusal of a newer one"
                }
                .to_owned(),
                "`dmesg | grep -i kexec` shows the reason; `cleanslate check` tells what this machine does",
            ),
            () if self.other.is_none() && self.kdump.cause().is_some() => return self.without_memory(log),
            () => {
                let reason = self.other.map_or_else(String::new, |reason| format!(" ({reason})"));
                (
                    Undecidable,
                    "kexec-load-failed",
                    Deduced,
                    format!("no kexec or kdump image was loaded{reason}; no line tells that this is for TDX"),
                    "run the same command by hand: a refusal for TDX is `Operation not supported`",
                )
            }
        };
        let mut remedy = remedy.to_owned();
        let mut cause = cause;
        if let Some((_, more, help)) = self.kdump.cause() {
            cause = format!("{cause}. Besides, {more}");
            remedy = format!("{remedy}; and {help}");
        }
        let evidence = self.evidence();
        Some(LogFinding { topic: Topic::Kexec, judgement, rule, basis, evidence, cause, remedy, boot: 0 })
    }
}

impl Refusals {
    /// All lines, in their order.
    fn evidence(&self) -> Vec<LogLine> {
        let mut lines: Vec<_> = self.lines.iter().chain(self.kdump.lines()).cloned().collect();
        lines.sort_by_key(|line| line.line);
        lines.truncate(MAX_LINES);
        lines
    }

    /// There is no crash kernel for another reason than a refusal.
    fn without_memory(&self, log: &BootLog) -> Option<LogFinding> {
        let (rule, mut cause, remedy) = self.kdump.cause()?;
        let mut remedy = remedy.to_owned();
        let mut judgement = Judgement::Failed;
        if let Some(line) = self.kdump.contradicted() {
            judgement = Judgement::Undecidable;
            cause =
                format!("{cause}. But line {line} says that the kernel reserved memory: the lines may be of two boots");
            "give the log of one boot; /sys/kernel/kexec_crash_size tells what is reserved now".clone_into(&mut remedy);
        }
        let refuses = era(log) == Some(Era::Refused)
            && log.cpu.is_some_and(|cpu| cpu.value.has_partial_write_erratum())
            && (log.key_ids.is_some() || log.initialized.is_some());
        if refuses {
            remedy += ". With memory reserved, this kernel still refuses the image while TDX is enabled in the BIOS \
                (`cleanslate explain EOPNOTSUPP`)";
        }
        let (topic, evidence) = (Topic::Kexec, self.evidence());
        Some(LogFinding { topic, judgement, rule, basis: Basis::Sourced, evidence, cause, remedy, boot: 0 })
    }
}

/// What mainline of the log's version does at kexec.
pub(super) fn era(log: &BootLog) -> Option<Era> {
    Kernel::parse(&log.kernel.as_ref()?.value).ok().map(|kernel| kernel.era())
}
