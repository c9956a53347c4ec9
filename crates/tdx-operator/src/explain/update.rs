//! An update of the TDX module that failed, as the kernel's firmware interface or people say it.
//! The call that failed has a line of its own.

use crate::{
    input::excerpt,
    report::{Basis, Judgement, LogFinding, LogLine, Topic},
};

/// Lines that are kept.
const MAX_LINES: usize = 12;
/// Steps of an upload, as /sys/class/firmware/tdx_module/error names them.
const STEPS: [&str; 5] = ["idle", "receiving", "preparing", "transferring", "programming"];

/// What one boot says on updates.
#[derive(Debug, Default)]
pub(super) struct Updates(Vec<LogLine>);

impl Updates {
    /// Takes a message; false if it is none of these.
    pub(super) fn take(&mut self, line: u64, text: &str) -> bool {
        let step =
            text.trim().split_once(':').filter(|(step, error)| STEPS.contains(step) && *error == "firmware-invalid");
        let lower = text.to_ascii_lowercase();
        let of_tdx = lower.contains("tdx") || lower.contains("seamldr");
        let words = ["module update failed", "failed to install new tdx module", "failed to initialize new tdx module"];
        let said = of_tdx && words.iter().any(|words| lower.contains(words));
        if step.is_none() && !said {
            return false;
        }
        if self.0.len() < MAX_LINES {
            self.0.push(LogLine { line, text: excerpt(text) });
        }
        true
    }

    /// The finding, if there is one.
    pub(super) fn finding(&self) -> Option<LogFinding> {
        (!self.0.is_empty()).then(|| LogFinding {
            topic: Topic::Seamcall,
            judgement: Judgement::Failed,
            rule: "module-update-failed",
            basis: Basis::Deduced,
            evidence: self.0.clone(),
            cause: "the update of the TDX module failed. Linux gives one error for every reason: an image that is not \
                one for this interface is refused before anything is done, and the old module goes on; a step that \
                fails after the shutdown of the old module leaves none, and TDX cannot be used"
                .to_owned(),
            remedy: "look for `SEAMCALL` lines of the same time in the kernel log: with one, save the work and reset \
                the machine through the firmware, no kexec; without one check the image (its format, and that it is \
                for this CPU), and that a TD still starts"
                .to_owned(),
            boot: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wordings() {
        for text in
            ["transferring:firmware-invalid", "tdx: Module update failed, state unknown", "TDX module update failed"]
        {
            let mut updates = Updates::default();
            assert!(updates.take(1, text) && updates.finding().is_some(), "{text}");
        }
        for text in
            ["idle", "transferring:none", "bmc: module update failed", "seamldr: module update", "firmware-invalid"]
        {
            assert!(!Updates::default().take(1, text), "{text}");
        }
    }
}
