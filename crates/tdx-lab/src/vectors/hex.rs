//! Numbers of the recorded cases: strings that start with `0x`.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A number written as `"0x..."` or `"-0x..."`. Two cases write more than 64 bits, two a negative
/// number; the recorder wrote the lower 64 bits to the register.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hex(pub(super) u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let (negative, number) = text.strip_prefix('-').map_or((false, text), |number| (true, number));
        let digits =
            number.strip_prefix("0x").ok_or_else(|| de::Error::custom(format!("`{text}` does not start with 0x")))?;
        u128::from_str_radix(digits, 16)
            .map(|wide| Self(if negative { (wide as u64).wrapping_neg() } else { wide as u64 }))
            .map_err(|error| de::Error::custom(format!("`{text}`: {error}")))
    }
}
