//! KeyIDs, how BIOS splits them between shared (MKTME) and private (TDX), and where they stand in a
//! physical address.

use crate::PhysAddr;
use core::fmt;

/// The module fixes MAXPA at 52: the KeyID is in the top bits of 52, whatever CPUID reports.
pub const MAX_PHYS_BITS: u32 = 52;

/// A memory-encryption key identifier. KeyID 0 is the platform's TME key: ordinary host memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct KeyId(u16);

impl KeyId {
    /// The host's own key.
    pub const HOST: Self = Self(0);

    /// Any 16-bit number; whether it is private is a question to [`KeyIdPartition`].
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How the BIOS split the KeyIDs: MSR 0x87, IA32_MKTME_KEYID_PARTITIONING.
///
/// KeyID 0 is plain, `1 ..= shared` are shared (MKTME), `shared + 1 ..= shared + private` are
/// private to TDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyIdPartition {
    shared: u32,
    private: u32,
}

impl KeyIdPartition {
    /// From the value of MSR 0x87: bits 31:0 count shared KeyIDs, bits 63:32 private ones.
    pub const fn from_msr(value: u64) -> Self {
        Self { shared: value as u32, private: (value >> 32) as u32 }
    }

    /// From the two counts.
    pub const fn new(shared: u32, private: u32) -> Self {
        Self { shared, private }
    }

    /// Value of MSR 0x87 that says this.
    pub const fn to_msr(self) -> u64 {
        self.shared as u64 | (self.private as u64) << 32
    }

    /// Number of shared (MKTME) KeyIDs, KeyID 0 not counted.
    pub const fn shared(self) -> u32 {
        self.shared
    }

    /// Number of private KeyIDs. 0 means that TDX is off in the BIOS.
    pub const fn private(self) -> u32 {
        self.private
    }

    /// First private KeyID, or `None` if there is none or it does not fit the architecture's 16
    /// bits.
    pub const fn first_private(self) -> Option<KeyId> {
        if self.private == 0 || self.shared >= u16::MAX as u32 { None } else { Some(KeyId(self.shared as u16 + 1)) }
    }

    /// End (exclusive) of the private range, as Linux prints it: `[first, end)`.
    pub const fn private_end(self) -> u64 {
        self.shared as u64 + 1 + self.private as u64
    }

    /// True if the KeyID belongs to TDX.
    pub const fn is_private(self, key: KeyId) -> bool {
        key.0 as u64 > self.shared as u64 && (key.0 as u64) < self.private_end()
    }
}

/// Where the KeyID stands in a physical address: bits `51 : 52-K`, K from MSR 0x982 bits 35:32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyIdField {
    bits: u32,
}

/// A KeyID field that cannot exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyIdError {
    /// The number of bits asked for; 0 to 15 are possible.
    pub bits: u32,
}

impl fmt::Display for KeyIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KeyID bits: the field in IA32_TME_ACTIVATE has 4 bits, so 0 to 15 are possible", self.bits)
    }
}

impl core::error::Error for KeyIdError {}

impl KeyIdField {
    /// A field of `bits` bits.
    ///
    /// # Errors
    /// More than 15 bits: the count itself is a 4-bit field.
    pub const fn new(bits: u32) -> Result<Self, KeyIdError> {
        if bits > 15 { Err(KeyIdError { bits }) } else { Ok(Self { bits }) }
    }

    /// From MSR 0x982, IA32_TME_ACTIVATE, bits 35:32.
    pub const fn from_tme_activate(value: u64) -> Self {
        Self { bits: (value >> 32) as u32 & 0xf }
    }

    /// Number of KeyID bits, K.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// First bit of the field; the physical-address width that is left for memory.
    pub const fn shift(self) -> u32 {
        MAX_PHYS_BITS - self.bits
    }

    /// Mask of the bits that address memory.
    pub const fn memory_mask(self) -> u64 {
        (1 << self.shift()) - 1
    }

    /// The KeyID that an address carries. Bits 63:52 are ignored.
    pub const fn key_of(self, address: PhysAddr) -> KeyId {
        KeyId(((address.get() & ((1 << MAX_PHYS_BITS) - 1)) >> self.shift()) as u16)
    }

    /// The address without its KeyID.
    pub const fn strip(self, address: PhysAddr) -> PhysAddr {
        PhysAddr::new(address.get() & self.memory_mask())
    }

    /// The address with `key` in the field; a KeyID too large for the field loses its upper bits,
    /// as on the bus.
    pub const fn tag(self, address: PhysAddr, key: KeyId) -> PhysAddr {
        let field = ((key.0 as u64) << self.shift()) & ((1 << MAX_PHYS_BITS) - 1);
        PhysAddr::new((address.get() & self.memory_mask()) | field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_of_a_real_host() {
        // fixtures/hosts/01: "private KeyID range [32, 64)".
        let split = KeyIdPartition::from_msr(0x20_0000_001f);
        assert_eq!(split.first_private(), Some(KeyId::new(32)));
        assert_eq!(split.private_end(), 64);
        assert!(split.is_private(KeyId::new(63)));
        assert!(!split.is_private(KeyId::new(64)));
        assert!(!split.is_private(KeyId::new(31)));
        assert_eq!(split.to_msr(), 0x20_0000_001f);
    }

    #[test]
    fn absurd_partitions_are_values() {
        assert_eq!(KeyIdPartition::from_msr(u64::MAX).first_private(), None);
        assert_eq!(KeyIdPartition::from_msr(0).first_private(), None);
        assert!(!KeyIdPartition::new(31, 0).is_private(KeyId::new(32)));
    }

    #[test]
    fn tag_and_strip() {
        let field = KeyIdField::new(6).unwrap();
        let plain = PhysAddr::new(0x12_3456_7000);
        let tagged = field.tag(plain, KeyId::new(33));
        assert_eq!(tagged.get(), 0x12_3456_7000 | 33 << 46);
        assert_eq!(field.key_of(tagged), KeyId::new(33));
        assert_eq!(field.strip(tagged), plain);
        assert!(KeyIdField::new(16).is_err());
        assert_eq!(KeyIdField::new(0).unwrap().key_of(PhysAddr::new(u64::MAX)), KeyId::new(0));
    }
}
