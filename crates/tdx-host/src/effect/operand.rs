//! How a register names a page: which register, how large the page is, whether there is one.

use core::fmt;
use tdx_abi::{PageSize, Registers};

/// "No page": all ones.
const NULL_PA: u64 = u64::MAX;
/// Set by the module beside an address: the page was not used. It is ignored in a call.
const NOT_USED: u64 = 1 << 63;
/// Bits 2:0 of RCX: the level of a guest page.
const LEVEL: u64 = 0b111;

/// A register that names a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// RCX.
    Rcx,
    /// RDX.
    Rdx,
    /// R8.
    R8,
    /// R9.
    R9,
    /// R10.
    R10,
    /// R11.
    R11,
    /// R12.
    R12,
    /// R13.
    R13,
}

impl Register {
    /// Its value.
    pub const fn of(self, registers: &Registers) -> u64 {
        match self {
            Self::Rcx => registers.rcx,
            Self::Rdx => registers.rdx,
            Self::R8 => registers.r8,
            Self::R9 => registers.r9,
            Self::R10 => registers.r10,
            Self::R11 => registers.r11,
            Self::R12 => registers.r12,
            Self::R13 => registers.r13,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rcx => "RCX",
            Self::Rdx => "RDX",
            Self::R8 => "R8",
            Self::R9 => "R9",
            Self::R10 => "R10",
            Self::R11 => "R11",
            Self::R12 => "R12",
            Self::R13 => "R13",
        }
    }

    /// The answer says that the page was not used.
    pub(crate) const fn says_not_used(self, answer: &Registers) -> bool {
        let value = self.of(answer);
        value & NOT_USED != 0 && value != NULL_PA
    }

    /// The answer says that no page is left to give: the one of the call was used.
    pub(crate) const fn says_used(self, answer: &Registers) -> bool {
        self.of(answer) == NULL_PA
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How large a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// 4 KiB.
    Small,
    /// Of the level in bits 2:0 of RCX of the call.
    LevelInRcx,
    /// Of the level in R8 of the answer.
    LevelInR8,
}

impl Size {
    /// The size by a level. A level that cannot be is refused by the module.
    fn of_level(level: u64) -> PageSize {
        PageSize::from_level(level).unwrap_or(PageSize::Size4K)
    }

    /// For a page of this call, before there is an answer.
    pub(crate) fn in_call(self, call: &Registers) -> PageSize {
        match self {
            Self::LevelInRcx => Self::of_level(call.rcx & LEVEL),
            Self::Small | Self::LevelInR8 => PageSize::Size4K,
        }
    }

    /// For a page that this answer returns.
    pub(crate) fn in_answer(self, call: &Registers, answer: &Registers) -> PageSize {
        match self {
            Self::LevelInR8 => Self::of_level(answer.r8),
            Self::Small | Self::LevelInRcx => self.in_call(call),
        }
    }
}

/// When a register names a page at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum There {
    /// Always.
    Always,
    /// Unless it is all ones. Bit 63 is not part of the address.
    UnlessAllOnes,
    /// Unless it is all ones or 0. The module ignores it for an L2 VM that the TD does not have,
    /// and a host that has none leaves it 0; the page at 0 lies in no CMR. Bit 63 is not part of
    /// the address.
    UnlessAllOnesOrZero,
    /// With Dynamic PAMT on, if the level in RCX of the call is 2 MiB: the pair of a page that is
    /// split or merged.
    PairOf2M,
}

impl There {
    /// The address that the register names.
    pub(crate) fn address(self, value: u64, call: &Registers, dynamic_pamt: bool) -> Option<u64> {
        match self {
            Self::Always => Some(value),
            Self::UnlessAllOnes => (value != NULL_PA).then_some(value & !NOT_USED),
            Self::UnlessAllOnesOrZero => Some(value & !NOT_USED).filter(|address| value != NULL_PA && *address != 0),
            Self::PairOf2M => Some(value).filter(|_| dynamic_pamt && call.rcx & LEVEL == PageSize::Size2M as u64),
        }
    }
}
