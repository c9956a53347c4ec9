//! The rows of the sweep: which call fails and how, how the VMM ends, and what comes then.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tdx_abi::Leaf;

use crate::args::BootArgs;

/// SEAMCALLs that KVM makes in the life of a TD of bare/linux/vmm.c, and which of the calls of each
/// fail: the first and, where there are more, a later one.
pub(super) const CALLS: [(Leaf, &[u64]); 24] = [
    (Leaf::MNG_CREATE, &[1]),
    (Leaf::MNG_KEY_CONFIG, &[1]),
    (Leaf::MNG_ADDCX, &[1, 4]),
    (Leaf::MNG_INIT, &[1]),
    (Leaf::MNG_RD, &[1]),
    (Leaf::VP_CREATE, &[1]),
    (Leaf::VP_ADDCX, &[1, 3]),
    (Leaf::VP_INIT, &[1]),
    (Leaf::VP_WR, &[1]),
    (Leaf::MEM_SEPT_ADD, &[1, 2]),
    (Leaf::MEM_PAGE_ADD, &[1, 3]),
    (Leaf::MR_EXTEND, &[1, 20]),
    (Leaf::MR_FINALIZE, &[1]),
    (Leaf::VP_ENTER, &[1, 5]),
    (Leaf::MEM_PAGE_AUG, &[1, 3]),
    (Leaf::MEM_RANGE_BLOCK, &[1, 2]),
    (Leaf::MEM_TRACK, &[1]),
    (Leaf::MEM_PAGE_REMOVE, &[1, 3]),
    (Leaf::PHYMEM_PAGE_WBINVD, &[1, 3]),
    (Leaf::VP_FLUSH, &[1]),
    (Leaf::MNG_VPFLUSHDONE, &[1]),
    (Leaf::PHYMEM_CACHE_WB, &[1]),
    (Leaf::MNG_KEY_FREEID, &[1]),
    (Leaf::PHYMEM_PAGE_RECLAIM, &[1, 5]),
];

pub(super) const FAILURES: [&str; 5] = ["dies", "busy", "non-recoverable", "interrupted", "entropy"];

/// How the VMM ends and what comes then. The order in which rows are run: breadth first.
pub(super) const ENDINGS: [(&str, &str); 4] =
    [("exit", "kexec"), ("kill", "crash"), ("kill", "kexec"), ("exit", "crash")];

/// One boot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) leaf: String,
    pub(super) call: u64,
    pub(super) failure: String,
    pub(super) end: String,
    pub(super) jump: String,
}

impl Row {
    pub(super) fn name(&self) -> String {
        format!("{} {} {} {} {}", self.leaf, self.call, self.failure, self.end, self.jump)
    }

    pub(super) fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for (end, jump) in ENDINGS {
            for failure in FAILURES {
                for (leaf, calls) in CALLS {
                    let leaf = leaf.name().unwrap_or_default();
                    rows.extend(calls.iter().map(|call| Self {
                        leaf: leaf.to_owned(),
                        call: *call,
                        failure: failure.to_owned(),
                        end: end.to_owned(),
                        jump: jump.to_owned(),
                    }));
                }
            }
        }
        rows
    }

    /// One whose failure makes KVM free private pages.
    pub(super) fn sample() -> Self {
        let text = |text: &str| text.to_owned();
        let (leaf, failure) = (text("MEM.PAGE.AUG"), text("dies"));
        Self { leaf, call: 3, failure, end: text("exit"), jump: text("kexec") }
    }

    /// Options of `cargo xtask boot`.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ["kvm", "--module", "--timeout=300"].map(str::to_owned).into();
        words.push(format!("--fail={}:{}:{}", self.leaf, self.call, self.failure));
        words.push(format!("--end={}", self.end));
        // Emulated, the SHA-256 of the next kernel takes a second with vector instructions, half of
        // it without them; a kernel that looks at PCI and mitigates takes a second more.
        let (memory, next) = if self.jump == "crash" {
            words.push("--crash".to_owned());
            (400, "crash-next")
        } else {
            (320, "next")
        };
        words.push(format!("--memory={memory}"));
        words.push(format!("--append=clearcpuid=ssse3,avx,avx2 cleanslate.{next}=pci=off,mitigations=off"));
        words
    }

    pub(super) fn args(&self) -> Result<BootArgs> {
        Ok(BootArgs::from_words(self.words().iter().map(String::as_str))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernels, machine};

    #[test]
    fn every_row_is_a_boot() {
        let rows = Row::all();
        for row in &rows {
            let words = row.words();
            let args = BootArgs::from_words(words.iter().map(String::as_str)).unwrap();
            assert_eq!((args.end().name(), args.crash), (row.end.as_str(), row.jump == "crash"), "{}", row.name());
        }
        let names: std::collections::BTreeSet<String> = rows.iter().map(Row::name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.contains(&Row::sample()));
    }

    #[test]
    fn rows_differ_only_in_words_that_come_late() {
        let words = |row: &Row| machine::shared_words(&row.args().unwrap());
        let shared: std::collections::BTreeSet<String> = Row::all().iter().map(words).collect();
        assert_eq!(shared.len(), 2, "kexec and crash: {shared:?}");
        for row in Row::all() {
            let args = row.args().unwrap();
            let (early, late) = (kernels::early_words(&args), kernels::late_words(&args));
            assert!(words(&row).ends_with(&early));
            assert_eq!(kernels::command_line(&args), format!("{early} {late}"));
            assert!(late.contains(&format!("end={}", row.end)), "{late}");
        }
    }
}
