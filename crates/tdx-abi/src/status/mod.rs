//! The 64-bit completion status of a SEAMCALL: what it says, under which name, about which operand.
//!
//! Bits 63:32 identify the status, bits 31:0 say more about this one occurrence. Source:
//! `tdx_abi.md` section 2.

mod class;
mod code;
mod operand;

use core::fmt;

pub use class::StatusClass;
pub use code::StatusCode;
pub use operand::Operand;

impl StatusCode {
    /// The status with these DETAILS_L2.
    pub const fn with(self, details: u32) -> Status {
        Status((self.0 as u64) << 32 | details as u64)
    }

    /// The status about this operand.
    pub const fn operand(self, operand: Operand) -> Status {
        self.with(operand.0)
    }

    /// The status with info bytes, byte 0 in bits 7:0.
    pub const fn info(self, bytes: [u8; 4]) -> Status {
        self.with(u32::from_le_bytes(bytes))
    }

    /// How DETAILS_L2 is to be read for this code.
    const fn details(self) -> Details {
        match self {
            Self::INVALID_TDMR | Self::NON_ORDERED_TDMR | Self::TDMR_OUTSIDE_CMRS => Details::Tdmr,
            Self::INVALID_RESERVED_IN_TDMR | Self::NON_ORDERED_RESERVED_IN_TDMR => Details::Area,
            Self::INVALID_PAMT | Self::PAMT_OUTSIDE_CMRS => Details::Pamt,
            Self::PAMT_OVERLAP => Details::PamtAndTdmr,
            Self::INCORRECT_MSR_VALUE | Self::INCONSISTENT_MSR => Details::Msr,
            Self::OPERAND_INVALID
            | Self::OPERAND_ADDR_RANGE_ERROR
            | Self::OPERAND_BUSY
            | Self::OPERAND_BUSY_HOST_PRIORITY
            | Self::PAGE_METADATA_INCORRECT
            | Self::PAGE_NOT_FREE
            | Self::HPA_RANGE_NOT_FREE
            | Self::NO_PAMT_PAGE_PAIR
            | Self::MISSING_PAMT_PAGE_PAIR
            | Self::TLB_TRACKING_NOT_DONE
            | Self::EPT_WALK_FAILED
            | Self::EPT_ENTRY_NOT_PRESENT
            | Self::EPT_INVALID_PROMOTE_CONDITIONS
            | Self::EPT_PAGE_NOT_FREE
            | Self::GPA_RANGE_NOT_BLOCKED
            | Self::GPA_RANGE_ALREADY_BLOCKED
            | Self::EPT_ENTRY_STATE_INCORRECT => Details::Operand,
            _ => Details::Raw,
        }
    }
}

// Constants are matched in patterns above.
impl StatusCode {
    /// The operation did not complete.
    pub const fn is_error(self) -> bool {
        self.0 >> 31 == 1
    }
}

enum Details {
    Operand,
    Tdmr,
    Area,
    Pamt,
    PamtAndTdmr,
    Msr,
    Raw,
}

/// The whole completion status, all 64 bits kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Status(u64);

impl Status {
    /// All done.
    pub const SUCCESS: Self = Self(0);
    /// SEAMCALL set the carry flag: the module is not loaded, or it died. Software code, as in
    /// Linux.
    pub const VMFAIL_INVALID: Self = Self(0x8000_FF00_FFFF_0000);
    /// SEAMCALL raised #GP: SEAM is not enabled by the BIOS. Software code, as in Linux.
    pub const GENERAL_PROTECTION: Self = Self(0x8000_FF00_0000_000D);
    /// SEAMCALL raised #UD: this CPU is not in VMX operation. Software code, as in Linux.
    pub const UNDEFINED_OPCODE: Self = Self(0x8000_FF00_0000_0006);
    /// The host did not execute SEAMCALL: its gate is closed for a handover. Software code of
    /// Cleanslate; Linux has none.
    pub const GATE_CLOSED: Self = Self(0x8000_FF00_0001_0000);

    /// From RAX.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// All 64 bits.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Bits 63:32: compare these to identify a status.
    pub const fn code(self) -> StatusCode {
        StatusCode((self.0 >> 32) as u32)
    }

    /// Bits 31:0, DETAILS_L2.
    pub const fn details(self) -> u32 {
        self.0 as u32
    }

    /// Bits 39:32, the code inside the class.
    pub const fn details_l1(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// DETAILS_L2 read as an operand id; only some codes mean it so.
    pub const fn operand(self) -> Operand {
        Operand(self.0 as u32)
    }

    /// Bit 63: the operation did not complete.
    pub const fn is_error(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Bit 62: the same call cannot succeed.
    pub const fn is_non_recoverable(self) -> bool {
        self.0 >> 62 & 1 == 1
    }

    /// Bit 61: fatal for the TD.
    pub const fn is_fatal(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    /// No call of the module stands behind this: VMfailInvalid, #GP, #UD or a closed gate.
    pub const fn is_software(self) -> bool {
        matches!(self.class(), StatusClass::Software)
    }

    /// Bits 47:40.
    pub const fn class(self) -> StatusClass {
        StatusClass::from_byte((self.0 >> 40) as u8)
    }
}

impl fmt::Display for Status {
    /// The kernel's name with what DETAILS_L2 says, e.g. `TDX_OPERAND_BUSY (RCX)`; an unknown
    /// status as its 64 bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VMFAIL_INVALID => return f.write_str("TDX_SEAMCALL_VMFAILINVALID"),
            Self::GENERAL_PROTECTION => return f.write_str("TDX_SEAMCALL_GP"),
            Self::UNDEFINED_OPCODE => return f.write_str("TDX_SEAMCALL_UD"),
            Self::GATE_CLOSED => return f.write_str("SEAMCALL not made: the machine is being handed over"),
            _ => {}
        }
        let Some(name) = self.code().name() else {
            return write!(f, "unknown status {:#018x}", self.0);
        };
        f.write_str(name)?;
        let [b0, b1, b2, _] = self.details().to_le_bytes();
        match self.code().details() {
            Details::Operand => write!(f, " ({})", self.operand()),
            Details::Tdmr => write!(f, " (TDMR {b0})"),
            Details::Area => write!(f, " (TDMR {b0}, reserved area {b1})"),
            Details::Pamt => write!(f, " (TDMR {b0}, {})", level(b1)),
            Details::PamtAndTdmr => write!(f, " ({} of TDMR {b0}, TDMR {b2})", level(b1)),
            Details::Msr => write!(f, " (MSR {:#x})", self.details()),
            Details::Raw if self.details() != 0 => write!(f, " ({:#x})", self.details()),
            Details::Raw => Ok(()),
        }
    }
}

fn level(code: u8) -> &'static str {
    match code {
        0 => "PAMT_4K",
        1 => "PAMT_2M",
        2 => "PAMT_1G",
        _ => "PAMT of unknown level",
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:#018x}]", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{collections::BTreeSet, format, string::ToString};

    #[test]
    fn names_and_operands() {
        assert_eq!(StatusCode::OPERAND_BUSY.operand(Operand::RCX).to_string(), "TDX_OPERAND_BUSY (RCX)");
        assert_eq!(Status::new(0xc000050500000000).to_string(), "TDX_SYS_NOT_READY");
        assert_eq!(Status::new(0xc000092100000122).to_string(), "TDX_INCORRECT_MSR_VALUE (MSR 0x122)");
        assert_eq!(
            StatusCode::INVALID_RESERVED_IN_TDMR.info([3, 2, 0, 0]).to_string(),
            "TDX_INVALID_RESERVED_IN_TDMR (TDMR 3, reserved area 2)"
        );
        assert_eq!(
            StatusCode::PAMT_OVERLAP.info([3, 1, 2, 0]).to_string(),
            "TDX_PAMT_OVERLAP (PAMT_2M of TDMR 3, TDMR 2)"
        );
        assert_eq!(Status::VMFAIL_INVALID.to_string(), "TDX_SEAMCALL_VMFAILINVALID");
        assert_eq!(
            format!("{:?}", StatusCode::OPERAND_INVALID.operand(Operand::RDX)),
            "TDX_OPERAND_INVALID (RDX) [0xc000010000000002]"
        );
    }

    #[test]
    fn unknown_codes_are_values() {
        let status = Status::new(0xc0004242_00000007);
        assert!(status.is_error() && status.is_non_recoverable() && !status.is_fatal());
        assert_eq!(status.class(), StatusClass::Unknown(0x42));
        assert_eq!(status.to_string(), "unknown status 0xc000424200000007");
        assert_eq!(status.raw(), 0xc0004242_00000007);
    }

    #[test]
    fn classes_and_flags() {
        assert_eq!(Status::UNDEFINED_OPCODE.class(), StatusClass::Software);
        assert!(Status::GENERAL_PROTECTION.is_software() && Status::GENERAL_PROTECTION.is_error());
        assert!(!StatusCode::KEY_CONFIGURED.with(0).is_error());
        assert!(StatusCode::TD_FATAL.with(0).is_fatal());
    }

    #[test]
    fn codes_are_distinct() {
        let all: BTreeSet<_> = StatusCode::KNOWN.iter().map(|c| c.0).collect();
        assert_eq!(all.len(), StatusCode::KNOWN.len());
    }
}
