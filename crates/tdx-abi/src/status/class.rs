//! What a status is about: bits 47:40 of a completion status.

/// What a status is about: bits 47:40.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StatusClass {
    /// General.
    General,
    /// An operand is wrong.
    Operand,
    /// Something is in use right now.
    ResourceBusy,
    /// PAMT says no.
    PageMetadata,
    /// Something else depends on it.
    DependentResources,
    /// The module's state.
    ModuleState,
    /// The TD's state.
    TdState,
    /// The VCPU's state.
    VcpuState,
    /// Keys and caches.
    KeyManagement,
    /// CPUID, MSRs, packages.
    Platform,
    /// TDMR, PAMT, CMR.
    PhysicalMemory,
    /// Secure-EPT.
    GuestMemory,
    /// Metadata fields.
    Metadata,
    /// Service TDs.
    ServiceTd,
    /// Migration.
    Migration,
    /// Attestation.
    Attestation,
    /// Partitioning and entry.
    Partitioning,
    /// Made up by the host for a call that did not reach the module.
    Software,
    /// A class this crate does not know.
    Unknown(u8),
}

impl StatusClass {
    /// From bits 47:40.
    pub(super) const fn from_byte(byte: u8) -> Self {
        match byte {
            0x00 => Self::General,
            0x01 => Self::Operand,
            0x02 => Self::ResourceBusy,
            0x03 => Self::PageMetadata,
            0x04 => Self::DependentResources,
            0x05 => Self::ModuleState,
            0x06 => Self::TdState,
            0x07 => Self::VcpuState,
            0x08 => Self::KeyManagement,
            0x09 => Self::Platform,
            0x0A => Self::PhysicalMemory,
            0x0B => Self::GuestMemory,
            0x0C => Self::Metadata,
            0x0D => Self::ServiceTd,
            0x0E => Self::Migration,
            0x10 => Self::Attestation,
            0x11 => Self::Partitioning,
            0xFF => Self::Software,
            other => Self::Unknown(other),
        }
    }
}
