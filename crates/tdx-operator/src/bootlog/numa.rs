//! NUMA nodes of memory: SRAT entries, the kernel's merged NUMA lines, early node ranges; number of
//! packages and CPUs.

use tdx_host::platform::NodeId;

use super::number::{ByteRange, decimal};
use crate::input::Rule;

/// A range and its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// The node.
    pub node: NodeId,
    /// Which bytes.
    pub range: ByteRange,
}

/// `rest` is what follows `SRAT: Node `: `0 PXM 0 [mem 0x00000000-0x7fffffff] hotplug`.
pub(super) fn srat(rest: &str) -> Result<NodeRow, Rule> {
    let form = "SRAT: Node N PXM N [mem 0xSTART-0xLAST]";
    row(rest, " PXM ", form)
}

/// `rest` is what follows `NUMA: Node `: `0 [mem A] + [mem B] -> [mem C]`; C counts. `None` without
/// a range at the end.
pub(super) fn merged(rest: &str) -> Result<NodeRow, Rule> {
    let form = "NUMA: Node N [mem 0xSTART-0xLAST] + [mem ..] -> [mem 0xSTART-0xLAST]";
    let (node, _) = rest.split_once(' ').ok_or(Rule::Malformed { form })?;
    let (_, result) = rest.rsplit_once("-> ").ok_or(Rule::Malformed { form })?;
    let (range, _) = ByteRange::parse_mem(result).ok_or(Rule::Malformed { form })?;
    Ok(NodeRow { node: node_id(node).ok_or(Rule::Malformed { form })?, range: range? })
}

/// `rest` is what follows `node` in `  node   0: [mem 0x0000000000001000-0x000000000009efff]`.
pub(super) fn early(rest: &str) -> Result<NodeRow, Rule> {
    row(rest.trim_start(), ":", "node N: [mem 0xSTART-0xLAST]")
}

/// True for the part after `node` of an early node range.
pub(super) fn is_early(rest: &str) -> bool {
    let digits = rest.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
    rest.starts_with(' ') && digits.len() < rest.trim_start().len() && digits.starts_with(": [mem")
}

/// `N<separator>... [mem ..]`.
fn row(rest: &str, separator: &str, form: &'static str) -> Result<NodeRow, Rule> {
    let malformed = || Rule::Malformed { form };
    let (node, rest) = rest.split_once(separator).ok_or_else(malformed)?;
    let range = &rest[rest.find("[mem ").ok_or_else(malformed)?..];
    let (range, _) = ByteRange::parse_mem(range).ok_or_else(malformed)?;
    Ok(NodeRow { node: node_id(node).ok_or_else(malformed)?, range: range? })
}

fn node_id(text: &str) -> Option<NodeId> {
    // The kernel's limit is MAX_NUMNODES = 1024; a larger number is not a node.
    decimal(text).filter(|&n| n < 1024).and_then(|n| u32::try_from(n).ok()).map(NodeId)
}

/// How many nodes and CPUs came up: `Brought up 2 nodes, 256 CPUs`. `rest` is what follows
/// `Brought up ` or `Booted up `.
pub(super) fn brought_up(rest: &str) -> Result<u32, Rule> {
    let malformed = || Rule::Malformed { form: "Brought up N nodes, N CPUs" };
    let (_, cpus) = rest.split_once(", ").ok_or_else(malformed)?;
    let (count, unit) = cpus.split_once(' ').ok_or_else(malformed)?;
    if !unit.starts_with("CPU") {
        return Err(malformed());
    }
    small_count(count).ok_or_else(malformed)
}

/// True for `224 processors activated (1126400.00 BogoMIPS)`, which follows `Total of `.
pub(super) fn is_activated(rest: &&str) -> bool {
    rest.contains(" processors activated")
}

/// How many CPUs came up, in the words of the line before the kernel goes on. `rest` is as
/// [`is_activated`] has it.
pub(super) fn activated(rest: &str) -> Result<u32, Rule> {
    let count = rest.split_once(' ').and_then(|(count, _)| small_count(count));
    count.ok_or(Rule::Malformed { form: "Total of N processors activated" })
}

/// How many CPUs there are: `224 CPUs, 0 hotplug CPUs`, the second number among the first, and
/// since 6.9 `224 present CPUs plus 0 hotplug CPUs`. `rest` is what follows `Allowing `.
pub(super) fn allowed(rest: &str) -> Result<u32, Rule> {
    parse_allowed(rest.trim()).ok_or(Rule::Malformed { form: "Allowing N CPUs, N hotplug CPUs" })
}

fn parse_allowed(rest: &str) -> Option<u32> {
    let (count, rest) = rest.split_once(' ')?;
    let count = small_count(count)?;
    if rest.starts_with("present CPU") {
        return Some(count);
    }
    let hotplug = match rest.strip_prefix("CPUs")?.strip_prefix(", ") {
        Some(rest) => decimal(rest.strip_suffix(" hotplug CPUs")?)?,
        None => 0,
    };
    count.checked_sub(u32::try_from(hotplug).ok()?).filter(|count| *count > 0)
}

/// `Max logical packages: 2` and `Max. logical packages:   2`. `rest` is what follows the colon.
pub(super) fn packages(rest: &str) -> Result<u32, Rule> {
    small_count(rest.trim()).ok_or(Rule::Malformed { form: "Max logical packages: N" })
}

fn small_count(text: &str) -> Option<u32> {
    decimal(text).filter(|n| (1..=8192).contains(n)).and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_form() {
        let row = srat("15 PXM 15 [mem 0xb6000000000-0xc1fffffffff] hotplug").unwrap();
        assert_eq!((row.node, row.range.start.get()), (NodeId(15), 0xb60_0000_0000));
        let row = merged("0 [mem 0x00000000-0x0009ffff] + [mem 0x00100000-0x7fffffff] -> [mem 0x00000000-0x7fffffff]");
        assert_eq!(row.unwrap().range.end.get(), 0x8000_0000);
        assert!(is_early("   0: [mem 0x0000000000001000-0x000000000009efff]"));
        assert_eq!(early("   1: [mem 0x1000-0x1fff]").unwrap().node, NodeId(1));
        assert!(!is_early(" 0 deferred pages initialised in 12ms"));
        assert!(!is_early(": [mem 0x1000-0x1fff]"));
    }

    #[test]
    fn malformed_rows() {
        for rest in ["", "0", "0 PXM 0", "0 PXM 0 [mem 0x0-", "x PXM 0 [mem 0x0-0xfff]", "1024 PXM 0 [mem 0x0-0xfff]"] {
            assert!(srat(rest).is_err(), "{rest}");
        }
        for rest in ["", "0", "0 [mem 0x0-0xfff]", "0 [mem 0x0-0xfff] -> ", "-> [mem 0x0-0xfff]"] {
            assert!(merged(rest).is_err(), "{rest}");
        }
    }

    #[test]
    fn counts() {
        assert_eq!(brought_up("2 nodes, 256 CPUs"), Ok(256));
        assert!(brought_up("2 nodes, 0 CPUs").is_err());
        assert!(brought_up("2 nodes").is_err());
        assert_eq!(activated("224 processors activated (1126400.00 BogoMIPS)"), Ok(224));
        assert!(activated("0 processors activated").is_err());
        assert_eq!(allowed("224 CPUs, 0 hotplug CPUs"), Ok(224));
        assert_eq!(allowed("256 CPUs, 32 hotplug CPUs"), Ok(224));
        assert_eq!(allowed("224 present CPUs plus 32 hotplug CPUs"), Ok(224));
        assert_eq!(allowed("224 CPUs"), Ok(224));
        for wrong in
            ["", "224", "0 CPUs", "x CPUs, 0 hotplug CPUs", "2 CPUs, 2 hotplug CPUs", "2 CPUs, 1 hot", "2 users"]
        {
            assert!(allowed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(packages("   2"), Ok(2));
        assert!(packages("99999").is_err());
    }
}
