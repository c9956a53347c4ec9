//! Typed refusals: requests that the machine does not model, or that name something it has not.

use core::fmt;
use tdx_abi::{FieldId, KeyId, Leaf, PhysAddr};

use crate::{CpuId, MachineCheck};

/// The request is outside what is modeled, or no such thing exists in this machine. Nothing has
/// changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such CPU.
    NoSuchCpu {
        /// The CPU.
        cpu: CpuId,
    },
    /// The address is not below the limit of physical addresses, which the KeyID bits lower.
    BeyondPhysicalMemory {
        /// The address, or the end of the range.
        address: PhysAddr,
    },
    /// Outside SEAM an access with a private KeyID faults in the page walk; no host code can make
    /// one.
    PrivateKeyOutsideSeam {
        /// The KeyID.
        key: KeyId,
    },
    /// The KeyID is neither 0, shared nor private.
    NoSuchKeyId {
        /// The KeyID.
        key: KeyId,
    },
    /// The real module has this leaf or may have it; the emulated one does not.
    LeafNotModeled {
        /// The leaf.
        leaf: Leaf,
    },
    /// A metadata field of the real module whose value is not known.
    FieldNotModeled {
        /// The field.
        field: FieldId,
    },
    /// TD_PARAMS ask for something whose outcome on the real module is not known.
    TdParamsNotModeled {
        /// Offset of the field in bytes.
        offset: u64,
    },
    /// The CPU runs a guest: the host does nothing there before the VCPU has left.
    CpuInGuest {
        /// The CPU.
        cpu: CpuId,
    },
    /// A SEAMCALL is in flight on the CPU: it does nothing else before that has finished.
    CpuInModule {
        /// The CPU.
        cpu: CpuId,
    },
    /// No SEAMCALL is in flight on the CPU.
    NoCallInFlight {
        /// The CPU.
        cpu: CpuId,
    },
    /// No VCPU is on the CPU.
    NoGuestOnCpu {
        /// The CPU.
        cpu: CpuId,
    },
    /// A VM exit that the module handles in a way that is not modeled.
    ExitNotModeled {
        /// The exit reason.
        reason: u64,
    },
    /// A TDCALL leaf that is not modeled.
    TdcallNotModeled {
        /// The leaf.
        leaf: u64,
    },
    /// RAX bit 63 selects the P-SEAMLDR.
    SeamldrNotModeled,
    /// A CPUID leaf that is not modeled.
    CpuidNotModeled {
        /// EAX.
        leaf: u32,
    },
    /// An MSR that is not modeled.
    MsrNotModeled {
        /// ECX.
        msr: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu { cpu } => write!(f, "there is no {cpu} in this machine"),
            Self::BeyondPhysicalMemory { address } => write!(f, "{address} is beyond the physical address space"),
            Self::PrivateKeyOutsideSeam { key } => write!(f, "KeyID {key} is private: only SEAM can use it"),
            Self::NoSuchKeyId { key } => write!(f, "KeyID {key} does not exist on this machine"),
            Self::LeafNotModeled { leaf } => write!(f, "{leaf} is not modeled"),
            Self::FieldNotModeled { field } => write!(f, "the value of {field} is not known"),
            Self::TdParamsNotModeled { offset } => {
                write!(f, "TD_PARAMS: what the module makes of the value at offset {offset} is not known")
            }
            Self::CpuInGuest { cpu } => write!(f, "{cpu} runs a guest: take its VCPU out first"),
            Self::CpuInModule { cpu } => write!(f, "{cpu} is in the TDX module: finish its SEAMCALL first"),
            Self::NoCallInFlight { cpu } => write!(f, "no SEAMCALL is in flight on {cpu}"),
            Self::NoGuestOnCpu { cpu } => write!(f, "no VCPU is on {cpu}"),
            Self::ExitNotModeled { reason } => write!(f, "VM exit reason {reason:#x} is not modeled"),
            Self::TdcallNotModeled { leaf } => write!(f, "TDCALL leaf {leaf} is not modeled"),
            Self::SeamldrNotModeled => f.write_str("RAX bit 63 selects the P-SEAMLDR, which is not modeled"),
            Self::CpuidNotModeled { leaf } => write!(f, "CPUID leaf {leaf:#x} is not modeled"),
            Self::MsrNotModeled { msr } => write!(f, "MSR {msr:#x} is not modeled"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Why an access gave no data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// The CPU took a machine check.
    MachineCheck(MachineCheck),
    /// The machine does not model such an access.
    Refused(Refusal),
}

impl From<Refusal> for AccessError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MachineCheck(check) => check.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl core::error::Error for AccessError {}
