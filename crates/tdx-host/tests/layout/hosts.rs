//! Hosts as memory maps and CMR lists: the numbers of the logs in `fixtures/`, and shapes made up
//! from them.

use tdx_abi::{PageRange, PhysAddr};
use tdx_host::platform::{NodeId, NodeRange};

pub const GIB: u64 = 1 << 30;

/// What a layout is built from.
#[derive(Clone, Debug)]
pub struct Host {
    pub memory: Vec<NodeRange>,
    pub cmrs: Vec<PageRange>,
}

pub fn range(start: u64, end: u64) -> PageRange {
    PageRange::from_addresses(PhysAddr::new(start), PhysAddr::new(end)).expect("whole pages")
}

pub fn on_node(start: u64, end: u64, node: u32) -> NodeRange {
    NodeRange { range: range(start, end), node: NodeId(node) }
}

/// Memory of node 0.
pub fn memory(parts: &[(u64, u64)]) -> Vec<NodeRange> {
    parts.iter().map(|&(start, end)| on_node(start, end, 0)).collect()
}

pub fn ranges(parts: &[(u64, u64)]) -> Vec<PageRange> {
    parts.iter().map(|&(start, end)| range(start, end)).collect()
}

/// A log with CMR lines only: all of each CMR is memory, one node.
pub fn from_cmrs(cmrs: &[(u64, u64)]) -> Host {
    Host { memory: memory(cmrs), cmrs: ranges(cmrs) }
}

/// A list of `[start, end)`.
pub type Spans = &'static [(u64, u64)];

/// (fixture, CMRs, KB that the kernel logged).
pub const LOGGED: &[(&str, Spans, u64)] = &[
    (
        "01-canonical-385-2tib",
        &[(0x100000, 0x77800000), (0x100000000, 0x1003e000000), (0x10080000000, 0x20040000000)],
        8396820,
    ),
    ("03-canonical-135-emr-ok", EMR_CMRS, 1050644),
    (
        "04-canonical-206-512gib",
        &[(0x100000, 0x77800000), (0x100000000, 0x406e000000), (0x4080000000, 0x8070000000)],
        2101260,
    ),
    (
        "06-canonical-pr188-256gib",
        &[(0x100000, 0x77800000), (0x100000000, 0x206e000000), (0x2080000000, 0x4070000000)],
        1050636,
    ),
    (
        "24-canonical-readme-mantic-1tib",
        &[
            (0x100000, 0x77800000),
            (0x100000000, 0x407a000000),
            (0x4080000000, 0x807c000000),
            (0x8080000000, 0xc07c000000),
            (0xc080000000, 0x1007c000000),
        ],
        4202516,
    ),
];

/// CMRs of fixtures 02 and 03.
pub const EMR_CMRS: Spans = &[
    (0x100000, 0x6f800000),
    (0x100000000, 0x107a000000),
    (0x1080000000, 0x207c000000),
    (0x2080000000, 0x307c000000),
    (0x3080000000, 0x407c000000),
];

/// Usable e820 rows below 2 GiB of fixture 02: 17 holes from 1 MiB up in [0, 2 GiB).
pub const EMR_LOW_E820: Spans = &[
    (0x0, 0x9f000),
    (0x100000, 0x5d169000),
    (0x5d22b000, 0x5d3cf000),
    (0x5d46a000, 0x5e5b3000),
    (0x5e5c3000, 0x5e5d3000),
    (0x5e5e5000, 0x5eb58000),
    (0x61358000, 0x6172b000),
    (0x61795000, 0x617ff000),
    (0x61913000, 0x61999000),
    (0x619e0000, 0x619e2000),
    (0x619ea000, 0x61a27000),
    (0x61baf000, 0x623c3000),
    (0x62472000, 0x62824000),
    (0x63a25000, 0x63d58000),
    (0x64158000, 0x64159000),
    (0x64195000, 0x6e9cf000),
    (0x6f7ff000, 0x6f800000),
];

/// Fixture 02: Linux fails with -28 here. Above 2 GiB the e820 rows are not published; the CMRs
/// stand in. Four nodes.
pub fn emr_fail28() -> Host {
    let low = EMR_LOW_E820.iter().map(|&(start, end)| on_node(start, end, 0));
    let high = EMR_CMRS.iter().skip(1).zip(0..).map(|(&(start, end), node)| on_node(start, end, node));
    Host { memory: low.chain(high).collect(), cmrs: ranges(EMR_CMRS) }
}

/// Fixture 22: 256 GiB, two sockets; the node border at 258 GiB lies inside a CMR (INDEX.md note
/// 2).
pub fn node_border_in_cmr() -> Host {
    let cmrs = &[
        (0x100000, 0x77800000),
        (0x100000000, 0x1ffe000000),
        (0x4000000000, 0x6000000000),
        (0x8000000000, 0x8080000000),
    ];
    let border = 258 * GIB;
    let memory = vec![
        on_node(0x100000, 0x77800000, 0),
        on_node(0x100000000, 0x1ffe000000, 0),
        on_node(0x4000000000, border, 0),
        on_node(border, 0x6000000000, 1),
        on_node(0x8000000000, 0x8080000000, 1),
    ];
    Host { memory, cmrs: ranges(cmrs) }
}

/// e820 fixture 02: 12 TiB, 16 nodes, one long e820 row.
pub fn superdome_12tib() -> Host {
    let mut memory =
        memory(&[(0x100000, 0x6d00c000), (0x6d018000, 0x6f3fc000), (0x6f3ff000, 0x78bff000), (0x7bfff000, 0x7c000000)]);
    memory.push(on_node(0x100001000, 0xc080000000, 0));
    let node_bytes = 0xc000000000;
    memory.push(on_node(0xe000001000, 0x1a000000000, 1));
    memory.extend((2..16).map(|node| {
        let start = 0x1a000000000 + (u64::from(node) - 2) * node_bytes;
        on_node(start, start + node_bytes, node)
    }));
    let cmrs = memory.iter().map(|part| part.range).collect();
    Host { memory, cmrs }
}

/// e820 fixture 01: HPE UV, 16 nodes of 252 GiB and 4 GiB reserved each.
pub fn uv_16_nodes() -> Host {
    let mut memory =
        memory(&[(0x100000, 0x68286000), (0x68287000, 0x68baf000), (0x68bb2000, 0x68c40000), (0x6ffff000, 0x70000000)]);
    memory.push(on_node(0x100000000, 0x3f80000000, 0));
    memory.extend((1..16).map(|node| {
        let base = u64::from(node) << 38;
        on_node(base + 0x80000000, base + 0x3f80000000, node)
    }));
    let cmrs = memory.iter().map(|part| part.range).collect();
    Host { memory, cmrs }
}

/// A host with `units` pieces of 3 GiB, each followed by a gap of 5 GiB, on two nodes.
pub fn many_units(units: u64) -> Host {
    let memory: Vec<_> = (0..units)
        .map(|unit| {
            let start = (4 + 8 * unit) * GIB;
            on_node(start, start + 3 * GIB, u32::from(unit >= units / 2))
        })
        .collect();
    Host { memory, cmrs: ranges(&[(4 * GIB, (4 + 8 * units) * GIB)]) }
}

/// 16 nodes of 64 GiB, two CMRs each; the firmware keeps a page in every 512 MiB: 2048 ranges of
/// memory.
pub fn fragmented() -> Host {
    let mut host = Host { memory: Vec::new(), cmrs: Vec::new() };
    for node in 0..16u32 {
        let base = u64::from(node) * 66 * GIB + 4 * GIB;
        host.cmrs.extend(ranges(&[
            (base + 0x10_0000, base + 31 * GIB + 0x100_0000),
            (base + 32 * GIB - 0x200_0000, base + 64 * GIB),
        ]));
        for part in 0..128 {
            let start = base + part * (GIB / 2);
            host.memory.push(on_node(start + 4096, start + GIB / 2, node));
        }
    }
    host
}
