//! Operands of a SEAMCALL, by the id in the low half of a status.

use core::fmt;

/// An operand, by the id in DETAILS_L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(transparent)]
pub struct Operand(pub u32);

impl Operand {
    /// RAX.
    pub const RAX: Self = Self(0);
    /// RCX.
    pub const RCX: Self = Self(1);
    /// RDX.
    pub const RDX: Self = Self(2);
    /// R8.
    pub const R8: Self = Self(8);
    /// R9.
    pub const R9: Self = Self(9);
    /// R12.
    pub const R12: Self = Self(12);
    /// R13.
    pub const R13: Self = Self(13);
    /// TDR.
    pub const TDR: Self = Self(128);
    /// Secure-EPT tree.
    pub const SEPT_TREE: Self = Self(146);
    /// TD epoch.
    pub const TD_EPOCH: Self = Self(169);
    /// Operation state of the TD.
    pub const OP_STATE: Self = Self(172);
    /// Key ownership table.
    pub const KOT: Self = Self(186);
    /// Key engine.
    pub const KET: Self = Self(187);
    /// Cache write-back.
    pub const WBCACHE: Self = Self(188);

    /// The name, or `None` for an id this crate does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "RAX",
            1 => "RCX",
            2 => "RDX",
            3 => "RBX",
            5 => "RBP",
            6 => "RSI",
            7 => "RDI",
            8 => "R8",
            9 => "R9",
            10 => "R10",
            11 => "R11",
            12 => "R12",
            13 => "R13",
            14 => "R14",
            15 => "R15",
            64 => "ATTRIBUTES",
            65 => "XFAM",
            66 => "EXEC_CONTROLS",
            67 => "EPTP_CONTROLS",
            68 => "MAX_VCPUS",
            69 => "CPUID_CONFIG",
            70 => "TSC_FREQUENCY",
            71 => "NUM_L2_VMS",
            95 => "PAGE",
            96 => "TDMR_INFO_PA",
            128 => "TDR",
            129 => "TDCX",
            130 => "TDVPR",
            144 => "TDCS",
            145 => "TDVPS",
            146 => "SEPT_TREE",
            147 => "SEPT_ENTRY",
            169 => "TD_EPOCH",
            172 => "OP_STATE",
            184 => "SYS",
            185 => "TDMR",
            186 => "KOT",
            187 => "KET",
            188 => "WBCACHE",
            _ => return None,
        })
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "operand {:#x}", self.0),
        }
    }
}
