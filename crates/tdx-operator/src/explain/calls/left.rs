//! What a failed call leaves private, and what that means for a kexec: counted for `check`, told by
//! `explain`, by one rule.

use std::collections::BTreeSet;

use tdx_abi::{Leaf, Status, StatusCode};

use crate::{bootlog::BootLog, report::LogLine, words};

/// What a failed call does to its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stays {
    /// Private, and Linux keeps it away from everybody.
    Leaked,
    /// Private, or with dirty lines of a TD's KeyID in a cache, and Linux may give it to somebody.
    Freed,
    /// All pages of a TD, leaked.
    OfTd,
    /// Dirty lines of any page of a TD in the caches of a package, and Linux frees the pages.
    InCaches,
}

/// What failed calls have left behind since boot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Left {
    /// Pages that stay private and that nobody gets.
    pub(crate) leaked: u64,
    /// Calls whose page may be private in the hands of somebody else.
    pub(crate) freed: u64,
    /// Those of them that are about caches: the number of pages is not known.
    pub(super) caches: u64,
    /// Calls by which all pages of a TD were leaked.
    pub(crate) tds: u64,
    /// KeyIDs that no TD can have again.
    pub(crate) key_ids: BTreeSet<u64>,
    /// The module has shut down.
    pub(crate) dead: bool,
    /// Warnings in TDX code of which it is not known what they left behind.
    pub(crate) unclear: u64,
    /// The log has lost lines that may be about calls.
    pub(crate) lines_lost: bool,
    /// The first line of each kind.
    pub(crate) lines: Vec<LogLine>,
}

impl Left {
    /// Pages that stay private; `None` if the log does not tell how many.
    pub(crate) fn pages(&self) -> Option<u64> {
        (self.tds == 0 && self.caches == 0 && self.unclear == 0 && !self.lines_lost)
            .then(|| self.leaked.saturating_add(self.freed))
    }

    /// KeyIDs that no TD can have again, at least: each TD whose pages are leaked keeps its own.
    pub(crate) fn lost_key_ids(&self) -> u64 {
        self.tds.max(self.key_ids.len() as u64)
    }
}

/// What a failed leaf does to its page; `None` if it leaves nothing behind.
pub(super) fn stays(leaf: Leaf) -> Option<Stays> {
    match leaf {
        Leaf::PHYMEM_PAGE_RECLAIM => Some(Stays::Leaked),
        Leaf::MNG_VPFLUSHDONE | Leaf::MNG_KEY_FREEID => Some(Stays::OfTd),
        Leaf::MEM_PAGE_REMOVE
        | Leaf::MEM_RANGE_BLOCK
        | Leaf::PHYMEM_PAGE_WBINVD
        | Leaf::MNG_CREATE
        | Leaf::MNG_ADDCX
        | Leaf::VP_CREATE
        | Leaf::VP_ADDCX => Some(Stays::Freed),
        Leaf::PHYMEM_CACHE_WB => Some(Stays::InCaches),
        _ => None,
    }
}

/// What a failed call leaves private.
pub(super) fn left_behind(leaf: Option<Leaf>, status: Option<Status>, leaked: bool, count: u64) -> Option<String> {
    let code = status.map(Status::code);
    // Freed already, or a resource that is free later: nothing stays.
    if code == Some(StatusCode::PAGE_ALREADY_FREE) {
        return None;
    }
    if leaked {
        return Some("The TD's pages stay private, and Linux leaks them".to_owned());
    }
    let pages = if count > 1 { format!("{} pages stay", words::grouped(count)) } else { "The page stays".to_owned() };
    let it = if count > 1 { "them" } else { "it" };
    let text = match leaf? {
        Leaf::PHYMEM_PAGE_RECLAIM => format!(
            "{pages} private: the module has not given {it} back, Linux does not reset {it} and leaks {it} on purpose"
        ),
        Leaf::MEM_PAGE_REMOVE | Leaf::MEM_RANGE_BLOCK => format!(
            "{pages} private and mapped in the TD: Linux 6.16 keeps {it} pinned, Linux 7.3 frees {it} without a \
             reset, so that the next user writes to private memory"
        ),
        Leaf::PHYMEM_PAGE_WBINVD => format!(
            "{pages} without a reset, and dirty lines of the TD's KeyID may still be in caches; written back \
             later, they make the page private again"
        ),
        Leaf::PHYMEM_CACHE_WB => {
            "Dirty lines of the TD's KeyID may still be in the caches of a package; written back later, they \
             make memory private again"
                .to_owned()
        }
        Leaf::MNG_VPFLUSHDONE | Leaf::MNG_KEY_FREEID => {
            "The TD keeps its KeyID, so that its pages cannot be reclaimed: they stay private, and Linux leaks \
             them"
                .to_owned()
        }
        Leaf::MNG_CREATE | Leaf::MNG_ADDCX | Leaf::VP_CREATE | Leaf::VP_ADDCX => {
            "The page passed to the call may be private already, and Linux frees it without a reset".to_owned()
        }
        _ => return None,
    };
    Some(text)
}

/// What private memory means for the next kernel.
pub(super) fn at_kexec(log: &BootLog) -> &'static str {
    match log.cpu.map(|cpu| cpu.value.has_partial_write_erratum()) {
        Some(true) => {
            "At a kexec it stays private unless the module has TDH.SYS.DISABLE (Linux 7.2 and later) or \
             cleanslate.ko resets it: on this CPU a write of less than 64 bytes to it ends in a machine check \
             of the next kernel"
        }
        Some(false) => "At a kexec this is harmless: the CPU does not have the partial-write erratum",
        None => {
            "At a kexec it stays private unless the module has TDH.SYS.DISABLE (Linux 7.2 and later) or \
             cleanslate.ko resets it: on a CPU with the partial-write erratum (Sapphire Rapids, Emerald \
             Rapids) a write of less than 64 bytes to it ends in a machine check of the next kernel"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `explain` tells of a page that stays for the same leaves for which `check` counts one.
    #[test]
    fn one_rule_for_what_stays() {
        for leaf in Leaf::KNOWN {
            let told = left_behind(Some(*leaf), None, false, 1).is_some();
            assert_eq!(told, stays(*leaf).is_some(), "{leaf}");
        }
    }
}
