//! SEAMCALLs that failed after the initialization, exits from a TD, and warnings in TDX code: what
//! each status means, what it leaves private, and what that means for a kexec.

mod finding;
mod group;
mod left;

use tdx_abi::{Leaf, Status, StatusCode};

pub(crate) use self::left::Left;
use self::{
    finding::finding,
    group::Group,
    left::{Stays, stays},
};
use super::status;
use crate::{
    bootlog::{
        BootLog,
        call::{self, Call, INSTALL},
    },
    input::excerpt,
    report::{Basis, Judgement, LogFinding, LogLine, Topic},
};

/// Different calls that are kept for each boot.
const MAX_GROUPS: usize = 32;
/// Lines between the message of a call and its warning.
const NEAR: u64 = 3;
/// Lines of one call that are kept.
const MAX_EVIDENCE: usize = 12;
/// A KeyID has at most 15 bits.
const KEY_IDS: u64 = 1 << 15;

/// A warning of the kernel in TDX code, until its end.
#[derive(Debug, Default)]
struct Warning {
    leaf: Option<Leaf>,
    /// For a function that makes several calls: the leaf whose failure leaves the same behind.
    like: Option<Leaf>,
    status: Option<Status>,
    evidence: Vec<LogLine>,
    /// The message of a call stands right before it: the warning is about that call.
    of_call: bool,
}

/// True for a line that says that lines of the kernel are not in the log: by the rate limit of the
/// TDX code, by a slow console or by a slow journal.
pub(crate) fn says_lost(message: &str) -> bool {
    let limited = message.strip_suffix(" callbacks suppressed").and_then(|rest| rest.split_once(": "));
    let of_tdx = ["tdx", "tdh", "seamcall"];
    limited.is_some_and(|(function, _)| of_tdx.iter().any(|name| function.contains(name)))
        || message.trim_matches(['*', ' ']).ends_with("printk messages dropped")
        || message.strip_prefix("printk: ").is_some_and(|rest| rest.ends_with(" messages dropped"))
        || message.strip_prefix("Missed ").is_some_and(|rest| rest.trim_end_matches('.').ends_with("kernel messages"))
        || message.starts_with("/dev/kmsg buffer overrun")
}

/// A leaf whose failure leaves the same behind as that of any call that a function of KVM makes, if
/// it makes several.
fn like(function: &str) -> Option<Leaf> {
    let name = function.trim_start_matches('_').split(['+', '.']).next().unwrap_or_default();
    match name {
        "tdx_sept_drop_private_spte" | "tdx_sept_remove_private_spte" | "tdx_sept_zap_private_spte" => {
            Some(Leaf::MEM_PAGE_REMOVE)
        }
        "tdx_mmu_release_hkid" => Some(Leaf::MNG_KEY_FREEID),
        "tdx_reclaim_td_control_pages" => Some(Leaf::PHYMEM_PAGE_RECLAIM),
        _ => None,
    }
}

/// The failed calls of one boot.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    groups: Vec<Group>,
    left_out: u64,
    /// Of all calls, also of those that are not kept.
    left: Left,
    warning: Option<Warning>,
    /// Warnings whose registers show no status.
    warned: Vec<LogLine>,
    /// The line of the last call by message.
    last: Option<u64>,
    /// The line, status and leaf of a warning that was just counted: a message may follow it.
    counted: Option<(u64, Option<Status>, Leaf)>,
}

impl Calls {
    /// Lines of the log are missing.
    pub(crate) fn lost_lines(&mut self) {
        self.left.lines_lost = true;
    }

    /// Takes a line about a call.
    pub(crate) fn take(&mut self, line: u64, message: &str, call: Call) {
        self.last = Some(line);
        if let Some((warned, status, like)) = self.counted.take()
            && line.saturating_sub(warned) <= NEAR
            && (status.is_none() || status == call.status)
        {
            // The call counts, and tells more than its warning.
            match status {
                Some(_) => self.put(like, false),
                None => self.left.unclear = self.left.unclear.saturating_sub(1),
            }
        }
        self.add(call, None, vec![LogLine { line, text: excerpt(message) }], false);
    }

    fn add(&mut self, call: Call, like: Option<Leaf>, lines: Vec<LogLine>, from_registers: bool) {
        let same = |group: &Group| {
            let key = |call: &Call, like| (call.leaf, call.status, call.loader, like);
            key(&group.call, group.like) == key(&call, like)
        };
        let found = self.groups.iter().position(same);
        // A warning and the message after it are one call.
        let is_new = match found.and_then(|at| self.groups.get(at)) {
            Some(group) => !from_registers && !group.from_registers,
            None => true,
        };
        self.count(&call, like, is_new, lines.first().filter(|_| found.is_none()));
        let leaked = call.leaked.filter(|id| *id < KEY_IDS);
        if let Some(group) = found.and_then(|at| self.groups.get_mut(at)) {
            group.count += u64::from(is_new);
            group.from_registers &= from_registers;
            group.call.key_id = group.call.key_id.or(call.key_id);
            group.leaked.extend(leaked);
            let room = MAX_EVIDENCE.saturating_sub(group.evidence.len());
            group.evidence.extend(lines.into_iter().take(room));
        } else if self.groups.len() < MAX_GROUPS {
            let leaked = leaked.into_iter().collect();
            self.groups.push(Group { call, count: 1, leaked, like, from_registers, evidence: lines });
        } else {
            self.left_out += 1;
        }
    }

    /// Counts what a call leaves behind, whether it is kept or not.
    fn count(&mut self, call: &Call, like: Option<Leaf>, is_new: bool, first: Option<&LogLine>) {
        let left = &mut self.left;
        let code = call.status.map(Status::code);
        let leaked = call.leaked.filter(|id| *id < KEY_IDS);
        left.key_ids.extend(leaked);
        // Linux shuts the module down before it installs another one.
        let dead = code == Some(StatusCode::SYS_SHUTDOWN) || call.loader == Some(INSTALL);
        left.dead |= dead;
        let leaf = call.leaf.or(like).filter(|_| code != Some(StatusCode::PAGE_ALREADY_FREE));
        let leaf = leaf.filter(|leaf| stays(*leaf).is_some());
        let says = dead || leaf.is_some() || leaked.is_some();
        left.lines.extend(first.filter(|_| says && left.lines.len() < MAX_GROUPS).cloned());
        // The kernel's line on the KeyID is about the call of the line before.
        if let Some(leaf) = leaf.filter(|leaf| is_new && (leaked.is_none() || stays(*leaf) != Some(Stays::OfTd))) {
            self.put(leaf, true);
        }
    }

    /// Counts what a failed leaf leaves behind, or takes it back.
    fn put(&mut self, leaf: Leaf, there: bool) {
        let left = &mut self.left;
        let add = |number: &mut u64| {
            *number = if there { *number + 1 } else { number.saturating_sub(1) };
        };
        match stays(leaf) {
            Some(Stays::Leaked) => add(&mut left.leaked),
            Some(Stays::Freed) => add(&mut left.freed),
            Some(Stays::InCaches) => {
                add(&mut left.freed);
                add(&mut left.caches);
            }
            Some(Stays::OfTd) => add(&mut left.tds),
            None => {}
        }
    }

    /// Takes a line of a warning in TDX code; false if it belongs to none.
    pub(crate) fn warning(&mut self, line: u64, message: &str) -> bool {
        if message.starts_with("WARNING: ") {
            self.end_of_warning();
            if !call::is_warning(message) {
                return false;
            }
            let functions = || message.split(' ').filter(|word| word.contains("+0x"));
            let leaf = functions().find_map(call::of_function);
            let like = functions().find_map(like);
            let evidence = vec![LogLine { line, text: excerpt(message) }];
            let of_call = self.last.is_some_and(|last| line.saturating_sub(last) <= NEAR);
            self.warning = Some(Warning { leaf, like, status: None, evidence, of_call });
            return true;
        }
        let Some(warning) = &mut self.warning else { return false };
        if message.starts_with("---[ end trace") {
            self.end_of_warning();
            if let Some(counted) = &mut self.counted {
                counted.0 = line;
            }
            return true;
        }
        if let Some(status) = call::rax(message).filter(|_| warning.status.is_none()) {
            warning.status = Some(status);
            warning.evidence.push(LogLine { line, text: excerpt(message) });
            return true;
        }
        if let Some(function) = message.strip_prefix("RIP: ").and_then(|rest| rest.split_once(':')).map(|(_, f)| f) {
            warning.leaf = warning.leaf.or_else(|| call::of_function(function));
            warning.like = warning.like.or_else(|| like(function));
            return true;
        }
        false
    }

    /// The warning is over: RAX counts if it is a status that is known.
    pub(crate) fn end_of_warning(&mut self) {
        let Some(warning) = self.warning.take() else { return };
        let known = warning.status.filter(|status| {
            status.raw() > u64::from(u32::MAX)
                && (status.code().name().is_some() || status::in_linux(*status).is_some())
        });
        let Warning { leaf, like, .. } = warning;
        // A call that leaves nothing behind does not with a warning.
        let harmless = leaf.is_some_and(|leaf| stays(leaf).is_none());
        let first = warning.evidence.first().filter(|_| self.left.lines.len() < MAX_GROUPS).cloned();
        let line = first.as_ref().map_or(0, |first| first.line);
        let like = like.filter(|_| leaf.is_none());
        let same = |group: &Group| group.call.status.is_some() && group.call.status == known;
        match known {
            // The message before it was about the same call, and names it.
            Some(_) if warning.of_call && leaf.is_none() && self.groups.iter().any(same) => {}
            Some(status) => {
                let call = Call { leaf, status: Some(status), ..Call::default() };
                let is_new = !self
                    .groups
                    .iter()
                    .any(|group| group.call.status == Some(status) && group.call.leaf.or(group.like) == leaf.or(like));
                self.add(call, like, warning.evidence, true);
                match like {
                    Some(like) if is_new => self.counted = Some((line, Some(status), like)),
                    None if leaf.is_none() => {
                        self.left.unclear += 1;
                        self.left.lines.extend(first);
                    }
                    _ => {}
                }
            }
            None if warning.of_call => {}
            None => {
                if !harmless {
                    self.left.unclear += 1;
                    self.left.lines.extend(first);
                    self.counted = Some((line, None, like.or(leaf).unwrap_or(Leaf::PHYMEM_PAGE_RECLAIM)));
                }
                let room = MAX_EVIDENCE.saturating_sub(self.warned.len());
                self.warned.extend(warning.evidence.into_iter().take(room));
            }
        }
    }

    /// The bit at which KeyIDs begin, as the exits of TDs show it.
    pub(super) fn shift(&self) -> Option<u32> {
        let shift = |(key_id, address): (u64, u64)| {
            let shift = address.trailing_zeros().checked_sub(key_id.trailing_zeros())?;
            (key_id != 0 && key_id.checked_shl(shift) == Some(address)).then_some(shift)
        };
        self.groups.iter().filter_map(|group| group.call.key_id).find_map(shift)
    }

    /// The line that says that the TD with this KeyID cannot run again.
    pub(super) fn end_of(&self, key_id: u64) -> Option<u64> {
        let dead = |group: &&Group| {
            let status = group.call.status;
            group.call.key_id.is_some_and(|(id, _)| id == key_id) && status.is_some_and(Status::is_non_recoverable)
        };
        Some(self.groups.iter().find(dead)?.evidence.first()?.line)
    }

    /// A finding for each call, and one for the warnings that show no status.
    pub(super) fn findings(&self, log: &BootLog) -> Vec<LogFinding> {
        let mut findings: Vec<_> = self.groups.iter().map(|group| finding(group, log)).collect();
        if !self.warned.is_empty() {
            findings.push(LogFinding {
                topic: Topic::Seamcall,
                judgement: Judgement::Undecidable,
                rule: "warning-in-tdx-code",
                basis: Basis::Deduced,
                evidence: self.warned.clone(),
                cause: "a warning in the kernel's TDX code; RAX of its registers holds no known completion status"
                    .to_owned(),
                remedy: "look up file and line in the source of that kernel, and for messages before the warning"
                    .to_owned(),
                boot: 0,
            });
        }
        findings
    }

    /// What the calls have left behind.
    pub(crate) fn left(&self) -> Left {
        let mut left = self.left.clone();
        left.tds = left.lost_key_ids();
        left
    }

    /// Calls that were not kept.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// True if there is something to say.
    pub(super) fn any(&self) -> bool {
        !self.groups.is_empty() || !self.warned.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_left_is_counted() {
        let mut calls = Calls::default();
        for (number, line) in (1..).zip([
            "SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001, rcx 0x0",
            "SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001, rcx 0x0",
            "SEAMCALL (0x1c) failed: 0x0000030100000000",
            "SEAMCALL (0x29) failed: 0x8000020000000092",
            "SEAMCALL TDH_MNG_KEY_FREEID failed: 0xc000061000000000",
            "tdh_mng_key_freeid() failed. HKID 33 is leaked.",
            "SEAMCALL TDH_MEM_RD failed: 0xc000010000000000",
        ]) {
            calls.take(number, line, call::of(line).unwrap_or_else(|| panic!("{line}")));
        }
        let left = calls.left();
        assert_eq!((left.leaked, left.freed, left.tds, left.dead), (2, 1, 1, false));
        assert_eq!(left.key_ids, BTreeSet::from([33]));
        assert_eq!(left.lines.iter().map(|line| line.line).collect::<Vec<_>>(), [1, 4, 5, 6]);
        assert_eq!((left.pages(), left.lost_key_ids()), (None, 1));
    }

    #[test]
    fn warnings_of_functions_with_several_calls() {
        let of = |function: &str, rax: &str, then: Option<&str>| {
            let mut calls = Calls::default();
            let at = format!("arch/x86/kvm/vmx/tdx.c:1679 {function}+0x1c4/0x290 [kvm_intel]");
            assert!(calls.warning(1, &format!("WARNING: CPU: 3 PID: 4411 at {at}")));
            assert!(calls.warning(2, &format!("RIP: 0010:{function}+0x1c4/0x290 [kvm_intel]")));
            assert!(calls.warning(3, &format!("RAX: {rax} RBX: 0000000000000001")));
            assert!(calls.warning(4, "---[ end trace 0000000000000000 ]---"));
            if let Some(then) = then {
                calls.take(5, then, call::of(then).unwrap());
            }
            let left = calls.left();
            assert_eq!(left.lines[0].line, 1);
            (left.freed, left.leaked, left.tds, left.unclear)
        };
        let busy = "8000020000000092";
        for function in ["tdx_sept_drop_private_spte", "tdx_sept_remove_private_spte", "tdx_sept_zap_private_spte"] {
            assert_eq!(of(function, busy, None), (1, 0, 0, 0), "{function}");
            assert_eq!(of(function, "0000000000000001", None), (0, 0, 0, 1), "{function}");
        }
        let named = Some("SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0x8000020000000092");
        assert_eq!(of("tdx_sept_drop_private_spte", busy, named), (1, 0, 0, 0), "the message is about the same call");
        assert_eq!(of("tdx_mmu_release_hkid", busy, None), (0, 0, 1, 0));
        assert_eq!(of("tdx_reclaim_td_control_pages", busy, None), (0, 1, 0, 0));
        assert_eq!(of("tdx_reclaim_page", "0000000000000001", None), (0, 0, 0, 1));
        assert_eq!(of("tdx_a_new_function", busy, None), (0, 0, 0, 1));
    }

    #[test]
    fn a_message_and_its_warning_are_one_call() {
        let mut calls = taken(["SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0x8000020000000092".to_owned()]);
        calls.warning(2, "WARNING: arch/x86/kvm/vmx/tdx.c:1780 at tdx_sept_drop_private_spte+0x1/0x2, CPU#3: qemu/77");
        calls.warning(3, "RAX: 8000020000000092 RBX: 1");
        calls.warning(4, "---[ end trace 0000000000000000 ]---");
        assert_eq!((calls.left().freed, calls.left().unclear, calls.groups.len()), (1, 0, 1));
    }

    fn taken(lines: impl IntoIterator<Item = String>) -> Calls {
        let mut calls = Calls::default();
        for (number, line) in (1..).zip(lines) {
            calls.take(number, &line, call::of(&line).unwrap_or_else(|| panic!("{line}")));
        }
        calls
    }

    /// More different calls than are shown: those after the limit count, too.
    #[test]
    fn calls_that_are_not_shown_are_counted() {
        let reads = (0..40).map(|n| format!("SEAMCALL TDH_MEM_RD failed: 0xc0000100000000{n:02x}"));
        let freed = "SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0xc0000b0000000001".to_owned();
        let calls = taken(reads.chain([freed]));
        assert_eq!(calls.left_out(), 9);
        let left = calls.left();
        assert_eq!((left.freed, left.pages(), left.lines[0].line), (1, Some(1), 41));
    }

    #[test]
    fn logs_that_have_lost_lines() {
        for line in [
            "__tdx_reclaim_page: 12 callbacks suppressed",
            "tdx_sept_remove_private_spte: 1 callbacks suppressed",
            "** 48 printk messages dropped **",
            "printk: 48 messages dropped",
            "Missed 34 kernel messages",
            "/dev/kmsg buffer overrun, some messages lost.",
        ] {
            assert!(says_lost(line), "{line}");
        }
        for line in ["net_ratelimit: 12 callbacks suppressed", "virt/tdx: x", "Missed 3 beats", "callbacks suppressed"]
        {
            assert!(!says_lost(line), "{line}");
        }
        let mut calls = taken(["SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001".to_owned()]);
        assert_eq!(calls.left().pages(), Some(1));
        calls.lost_lines();
        assert_eq!(calls.left().pages(), None);
    }

    #[test]
    fn each_lost_key_id_is_counted_and_named() {
        let lines = [33, 34, 33, 35, 36].map(|id| format!("tdh_mng_key_freeid() failed. HKID {id} is leaked."));
        let calls = taken(lines);
        assert_eq!(calls.left().key_ids, BTreeSet::from([33, 34, 35, 36]));
        let found = &calls.findings(&BootLog::default())[0];
        assert!(found.cause.contains("KeyIDs 33, 34, 35, 36 stay in use"), "{}", found.cause);
        let many = taken((1..100).map(|id| format!("tdh_mng_key_freeid() failed. HKID {id} is leaked.")));
        assert_eq!(many.left().lost_key_ids(), 99);
        assert!(many.findings(&BootLog::default())[0].cause.contains("8 and 91 more stay in use"));
        // No number of a KeyID.
        assert_eq!(taken(["tdh_mng_key_freeid() failed. HKID 99999 is leaked.".to_owned()]).left().tds, 1);
    }

    /// The number of pages is not known where all pages of a TD are leaked, or where a cache may
    /// hold lines of any page.
    #[test]
    fn a_number_that_no_line_tells_is_not_stated() {
        let one = |line: &str| taken([line.to_owned()]).left();
        let td = one("SEAMCALL TDH_MNG_VPFLUSHDONE failed: 0x8000081500000000");
        assert_eq!((td.pages(), td.lost_key_ids()), (None, 1));
        let cache = one("SEAMCALL TDH_PHYMEM_CACHE_WB failed: 0xc000010000000000");
        assert_eq!((cache.freed, cache.pages(), cache.lost_key_ids()), (1, None, 0));
        let page = one("SEAMCALL TDH_PHYMEM_PAGE_WBINVD failed: 0xc000010000000000");
        assert_eq!((page.pages(), page.lost_key_ids()), (Some(1), 0));
    }
}
