//! Assumptions about a host: what its log does not contain. Each is printed with every result.

use core::fmt;

use tdx_abi::{KeyIdPartition, PhysAddr};
use tdx_host::platform::CpuModel;

use crate::{bootlog::Fold, cpu_model, size};

/// One thing that was assumed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Assumption {
    /// The log is that of a virtual machine: its memory map is what the VMM made up.
    VirtualMachine {
        /// The line that says so.
        line: u64,
    },
    /// The log is that of the kernel that a hypervisor below it gives the hardware: its memory map
    /// is what the hypervisor left it.
    RootPartition {
        /// The line that says so.
        line: u64,
    },
    /// The file holds several boots.
    Boot {
        /// The one that is used, from 1.
        number: u64,
        /// Boots in the file.
        count: u64,
        /// First line of the boot.
        line: u64,
    },
    /// Broken lines were joined.
    Joined {
        /// The first of them.
        line: u64,
        /// What broke it.
        fold: Fold,
    },
    /// No memory rows: the CMRs are the memory map.
    MemoryFromCmrs,
    /// The e820 rows end below the CMRs: above them the CMRs are the memory map.
    MemoryAboveRows {
        /// End of the last row.
        from: PhysAddr,
        /// Bytes taken from CMRs.
        bytes: u64,
    },
    /// No CMRs: made from the memory map.
    CmrsFromMemory,
    /// No KeyID line.
    KeyIds(KeyIdPartition),
    /// No CPU line, but a comment of the file names the model.
    CpuFromComment {
        /// The model.
        model: CpuModel,
        /// Line of the comment.
        line: u64,
    },
    /// No CPU model at all.
    Cpu(CpuModel),
    /// The log's CPU cannot have TDX.
    CpuReplaced {
        /// Line that names the log's CPU.
        line: u64,
        /// The model that is taken.
        model: CpuModel,
    },
    /// No NUMA rows: each long range above 4 GiB but the first starts a node.
    NodesFromRanges {
        /// Nodes.
        nodes: u32,
    },
    /// No NUMA rows, and nothing to tell nodes from: all memory is node 0.
    OneNode,
    /// Node borders given by the user.
    NodeBorders(Vec<PhysAddr>),
    /// Memory in no NUMA row counts to node 0.
    OutsideNodes {
        /// Bytes.
        bytes: u64,
    },
    /// No count of packages.
    Packages {
        /// Packages.
        packages: u32,
        /// One for each NUMA node of the log.
        per_node: bool,
    },
    /// No count of CPUs.
    Cpus(u32),
    /// The log ends after CMR lines, before the kernel says what came of it.
    MayBeCut {
        /// Last CMR line.
        line: u64,
    },
    /// The kernel of this log could not bring TDX up.
    LinuxFailed {
        /// The line that says so.
        line: u64,
        /// Its text.
        text: String,
    },
    /// The kernel of this log used Dynamic PAMT, which the software module does not.
    DynamicPamt {
        /// The line that says so.
        line: u64,
    },
}

impl Assumption {
    /// A short stable key, for machines.
    pub fn key(&self) -> &'static str {
        match self {
            Self::VirtualMachine { .. } => "virtual-machine",
            Self::RootPartition { .. } => "root-partition",
            Self::Boot { .. } => "boot",
            Self::Joined { .. } => "joined-lines",
            Self::MemoryFromCmrs | Self::MemoryAboveRows { .. } => "memory",
            Self::CmrsFromMemory => "cmrs",
            Self::KeyIds(_) => "key-ids",
            Self::CpuFromComment { .. } | Self::Cpu(_) | Self::CpuReplaced { .. } => "cpu",
            Self::NodesFromRanges { .. } | Self::OneNode | Self::NodeBorders(_) | Self::OutsideNodes { .. } => "nodes",
            Self::Packages { .. } => "packages",
            Self::Cpus(_) => "cpus",
            Self::MayBeCut { .. } => "cut",
            Self::LinuxFailed { .. } => "linux-failed",
            Self::DynamicPamt { .. } => "dynamic-pamt",
        }
    }
}

/// `Sapphire Rapids (06_8F, has the erratum)`.
fn cpu(model: CpuModel) -> String {
    let erratum = if model.has_partial_write_erratum() { "has the erratum" } else { "without the erratum" };
    format!("{} ({model}, {erratum})", cpu_model::name(model).unwrap_or("unnamed CPU"))
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualMachine { line } => write!(
                f,
                "this is the log of a virtual machine (line {line}): its memory is not that of a host, so no \
                 figure here is one of the hardware"
            ),
            Self::RootPartition { line } => write!(
                f,
                "a hypervisor runs below this kernel (root partition of Hyper-V or dom0 of Xen, line {line}): it keeps \
                 memory for itself and calls the module, so that this map is not the whole one, and the layout is its \
                 own to make"
            ),
            Self::Boot { number, count, line } => {
                write!(
                    f,
                    "the file holds {count} boots; this is boot {number}, from line {line} (--boot N for another)"
                )
            }
            Self::Joined { line, fold } => {
                write!(f, "broken lines were joined, the first is line {line}: {}", fold.text())
            }
            Self::MemoryFromCmrs => f.write_str("memory map: not in the log, assuming the CMRs are usable memory"),
            Self::MemoryAboveRows { from, bytes } => {
                let size = size::human(*bytes);
                write!(f, "memory map: the log's entries end at {from}, assuming the CMRs above are usable ({size})")
            }
            Self::CmrsFromMemory => f.write_str(
                "CMRs: not in the log, made from the memory map (one from 1 MiB to the end of low \
                     memory, one for each \
                 usable range above 4 GiB)",
            ),
            Self::KeyIds(split) => {
                write!(f, "private KeyIDs: not in the log, assuming [{}, {})", split.shared() + 1, split.private_end())
            }
            Self::CpuFromComment { model, line } => {
                write!(f, "CPU: {}, from the comment in line {line}", cpu(*model))
            }
            Self::Cpu(model) => write!(f, "CPU: not in the log, assuming {}", cpu(*model)),
            Self::CpuReplaced { line, model } => {
                write!(f, "CPU: that of line {line} has no TDX, assuming {} with this memory map", cpu(*model))
            }
            Self::NodesFromRanges { nodes } => {
                write!(
                    f,
                    "NUMA nodes: not in the log, assuming {nodes}: one for each range of 1 GiB or \
                    more above 4 GiB"
                )
            }
            Self::OneNode => f.write_str("NUMA nodes: not in the log, assuming node 0 for all memory"),
            Self::NodeBorders(borders) => {
                f.write_str("NUMA nodes: borders given at")?;
                borders.iter().try_for_each(|border| write!(f, " {border}"))
            }
            Self::OutsideNodes { bytes } => {
                write!(f, "NUMA nodes: {} in no NUMA entry of the log, assuming node 0", size::human(*bytes))
            }
            Self::Packages { packages, per_node: true } => {
                write!(f, "packages: not in the log, assuming {packages}, one for each NUMA node")
            }
            Self::Packages { packages, per_node: false } => write!(
                f,
                "packages: not in the log, assuming \
                {packages}"
            ),
            Self::Cpus(cpus) => write!(f, "CPUs: not in the log, assuming {cpus}"),
            Self::MayBeCut { line } => {
                write!(f, "the log ends without a PAMT line: CMRs after line {line} may be missing")
            }
            Self::LinuxFailed { line, text } => write!(f, "the log's kernel failed, line {line}: `{text}`"),
            Self::DynamicPamt { line } => write!(
                f,
                "the log's kernel used Dynamic PAMT (line {line}); the software module does not, so PAMT sizes differ"
            ),
        }
    }
}
