//! What a kernel does to the platform, operation by operation, and who may watch it: the explorer,
//! which looks at every point between two operations, and the catalogue of bugs, which does some
//! operation wrongly. The product does not know that it is watched.

use tdx_abi::{LineRange, PageRange, PhysAddr, Registers};
use tdx_machine::CpuId;

use super::Lab;

/// An operation of a kernel on the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// SEAMCALL.
    Seamcall(Registers),
    /// MOVDIR64B of zeros to each line.
    Reset(LineRange),
    /// MFENCE.
    Fence,
    /// WBINVD.
    WriteBack,
    /// CLFLUSHOPT of each line, under KeyID 0.
    Flush(LineRange),
    /// Bytes written to shared memory.
    Write(PhysAddr, usize),
    /// The allocator is asked for so many pages.
    Allocate(u64),
    /// It has given them: what [`Watcher::after`] gets for [`Operation::Allocate`].
    Allocated(PageRange),
    /// A range goes back to the allocator.
    Free(PageRange),
    /// Work for another CPU, by IPI.
    Ipi(CpuId),
    /// Another CPU is stopped for a kexec, by IPI.
    Stop(CpuId),
    /// Another CPU is stopped at a crash, by NMI.
    Nmi(CpuId),
}

/// An operation, and the CPU that does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Act {
    /// The CPU.
    pub cpu: CpuId,
    /// What it does.
    pub operation: Operation,
}

/// What is done when a kernel wants to do something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Deed {
    /// What it wants.
    #[default]
    AsIs,
    /// Nothing.
    Skip,
    /// Nothing, and it counts as done: a CPU that is taken for stopped.
    Pretend,
    /// The same, but to these lines only.
    Lines(Vec<LineRange>),
    /// A reset by ordinary stores to cached memory.
    CachedStores,
    /// A reset by MOVNTI.
    NonTemporalStores,
    /// Another SEAMCALL.
    Call(Registers),
    /// No SEAMCALL, but this answer.
    Answer(Registers),
}

/// Observes every operation of a kernel.
pub trait Watcher: Sync {
    /// It is about to be done. Says what is done instead.
    fn before(&self, _lab: &Lab<'_>, _act: &Act) -> Deed {
        Deed::AsIs
    }

    /// SEAMCALLs have a middle, in which [`Self::inside`] is called. Others begin and end at once.
    fn overlaps(&self) -> bool {
        false
    }

    /// The CPU of this SEAMCALL is in the module, or in a guest that it has entered: what the call
    /// does is done, and it has not returned. Other CPUs may go on meanwhile.
    fn inside(&self, _lab: &Lab<'_>, _act: &Act) {}

    /// It has been done. `answer` is what a SEAMCALL gives back, and may be changed.
    fn after(&self, _lab: &Lab<'_>, _act: &Act, _answer: Option<&mut Registers>) {}
}

/// Observes nothing.
impl Watcher for () {}
