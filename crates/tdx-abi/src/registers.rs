//! The registers of a SEAMCALL, in and out.

use crate::{LeafCall, PhysAddr, Status};

/// General-purpose registers as a SEAMCALL takes and returns them. On entry RAX is the leaf, on
/// return the status.
///
/// RBX, RBP, RSI and RDI are left out: of the leaves modeled here only VP.ENTER uses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// Leaf and version on entry, completion status on return.
    pub rax: u64,
    /// First operand.
    pub rcx: u64,
    /// Second operand.
    pub rdx: u64,
    /// Third operand.
    pub r8: u64,
    /// Fourth operand.
    pub r9: u64,
    /// Output of a few leaves.
    pub r10: u64,
    /// Output of a few leaves.
    pub r11: u64,
    /// First page of a pair (dynamic PAMT): input of MEM.PAGE.DEMOTE, output of MEM.PAGE.PROMOTE.
    pub r12: u64,
    /// Second page of the pair.
    pub r13: u64,
}

impl Registers {
    /// A call of `leaf` with all operands 0.
    pub fn call(leaf: impl Into<LeafCall>) -> Self {
        Self { rax: leaf.into().rax(), ..Self::default() }
    }

    /// Sets RCX.
    #[must_use]
    pub const fn rcx(mut self, value: u64) -> Self {
        self.rcx = value;
        self
    }

    /// Sets RCX to an address.
    #[must_use]
    pub const fn rcx_address(self, address: PhysAddr) -> Self {
        self.rcx(address.get())
    }

    /// Sets RDX.
    #[must_use]
    pub const fn rdx(mut self, value: u64) -> Self {
        self.rdx = value;
        self
    }

    /// Sets R8.
    #[must_use]
    pub const fn r8(mut self, value: u64) -> Self {
        self.r8 = value;
        self
    }

    /// Sets R9.
    #[must_use]
    pub const fn r9(mut self, value: u64) -> Self {
        self.r9 = value;
        self
    }

    /// Sets R12.
    #[must_use]
    pub const fn r12(mut self, value: u64) -> Self {
        self.r12 = value;
        self
    }

    /// Sets R13.
    #[must_use]
    pub const fn r13(mut self, value: u64) -> Self {
        self.r13 = value;
        self
    }

    /// RAX read as the leaf of a call.
    pub const fn leaf_call(&self) -> LeafCall {
        LeafCall::from_rax(self.rax)
    }

    /// RAX read as the completion status.
    pub const fn status(&self) -> Status {
        Status::new(self.rax)
    }
}
