//! Faults of single calls by words: `LEAF:N:STATUS` or `LEAF:N:dies`, as on a command line.

use core::fmt;
use core::str::FromStr;

use alloc::borrow::ToOwned;
use alloc::string::String;
use tdx_abi::{Leaf, Status, StatusCode};

use crate::{Fault, Machine, When};

/// The n-th call of a leaf answers a status without running, or the module crashes in it.
///
/// ```
/// use tdx_machine::{Fault, Injection, When};
/// use tdx_abi::Leaf;
///
/// let injection: Injection = "MEM.PAGE.AUG:3:dies".parse()?;
/// assert_eq!(injection.fault, Fault::Crash);
/// assert_eq!(injection.when(), When::CallOf(Leaf::MEM_PAGE_AUG, 3));
/// assert_eq!(injection, "6:3:dies".parse()?);
/// # Ok::<(), tdx_machine::InjectionError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// The leaf that fails.
    pub leaf: Leaf,
    /// Which of its calls from now on; 1 is the next.
    pub call: u64,
    /// [`Fault::Answer`] or [`Fault::Crash`].
    pub fault: Fault,
}

/// Short names of statuses that a host has to expect, for [`Injection`].
const STATUSES: [(&str, Status); 4] = [
    ("busy", StatusCode::OPERAND_BUSY.with(0)),
    ("entropy", StatusCode::RND_NO_ENTROPY.with(0)),
    (NON_RECOVERABLE, StatusCode::TD_FATAL.with(0)),
    ("interrupted", StatusCode::INTERRUPTED_RESUMABLE.with(0)),
];

/// TD_FATAL; of VP.ENTER NON_RECOVERABLE_TD, which has bit 63 clear.
const NON_RECOVERABLE: &str = "non-recoverable";

const DIES: &str = "dies";

/// Why words are no [`Injection`]. Displays the word and what is allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InjectionError {
    /// Not three words with colons between them.
    Form(String),
    /// Neither a number nor the name of a leaf.
    Leaf(String),
    /// Not a number of 1 or more.
    Call(String),
    /// Neither a number nor the name of an error status.
    Status(String),
}

impl fmt::Display for InjectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(words) => write!(f, "{words:?} is not LEAF:N:STATUS or LEAF:N:dies"),
            Self::Leaf(word) => {
                write!(f, "{word:?} is no SEAMCALL leaf: a name as MEM.PAGE.AUG, or a number up to 65535")
            }
            Self::Call(word) => write!(f, "{word:?} is no number of a call: 1 is the first"),
            Self::Status(word) => {
                write!(f, "{word:?} is no error status:")?;
                for (name, _) in STATUSES {
                    write!(f, " {name},")?;
                }
                f.write_str(" dies, a name as TDX_OPERAND_BUSY, or a number with bit 63 or 62 set")
            }
        }
    }
}

impl core::error::Error for InjectionError {}

/// Decimal, or hex after `0x`.
fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

fn leaf(word: &str) -> Option<Leaf> {
    let name = word.strip_prefix("TDH.").unwrap_or(word);
    let named = Leaf::KNOWN.iter().find(|leaf| leaf.name() == Some(name)).copied();
    named.or_else(|| Some(Leaf(u16::try_from(number(word)?).ok()?)))
}

/// A status that a host takes for a failure: an error, or one that says that the same call cannot
/// succeed.
fn status(leaf: Leaf, word: &str) -> Option<Status> {
    if leaf == Leaf::VP_ENTER && word == NON_RECOVERABLE {
        return Some(StatusCode::NON_RECOVERABLE_TD.with(0));
    }
    let short = STATUSES.iter().find(|(name, _)| *name == word).map(|(_, status)| *status);
    let named = || StatusCode::KNOWN.iter().find(|code| code.name() == Some(word)).map(|code| code.with(0));
    let status = short.or_else(named).or_else(|| number(word).map(Status::new))?;
    (status.is_error() || status.is_non_recoverable()).then_some(status)
}

impl FromStr for Injection {
    type Err = InjectionError;

    fn from_str(words: &str) -> Result<Self, InjectionError> {
        let mut parts = words.split(':');
        let (Some(which), Some(call), Some(what), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InjectionError::Form(words.to_owned()));
        };
        let leaf = leaf(which).ok_or_else(|| InjectionError::Leaf(which.to_owned()))?;
        let call = number(call).filter(|call| *call > 0).ok_or_else(|| InjectionError::Call(call.to_owned()))?;
        let fault = match what {
            DIES => Fault::Crash,
            _ => Fault::Answer(status(leaf, what).ok_or_else(|| InjectionError::Status(what.to_owned()))?),
        };
        Ok(Self { leaf, call, fault })
    }
}

impl Injection {
    /// The calls that the fault applies to.
    pub const fn when(&self) -> When {
        When::CallOf(self.leaf, self.call)
    }

    /// Calls are counted from here on.
    pub fn inject(&self, machine: &mut Machine) {
        machine.inject(self.fault, self.when());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    fn parse(words: &str) -> Result<Injection, InjectionError> {
        words.parse()
    }

    #[test]
    fn leaves_and_statuses_by_name_or_number() {
        let busy =
            Injection { leaf: Leaf::MEM_PAGE_AUG, call: 3, fault: Fault::Answer(StatusCode::OPERAND_BUSY.with(0)) };
        for words in
            ["6:3:busy", "0x6:3:TDX_OPERAND_BUSY", "MEM.PAGE.AUG:3:busy", "TDH.MEM.PAGE.AUG:0x3:0x8000020000000000"]
        {
            assert_eq!(parse(words), Ok(busy), "{words}");
        }
        assert_eq!(parse("29:1:dies").unwrap().fault, Fault::Crash);
        // VP.ENTER answers these with bit 63 clear.
        assert_eq!(parse("0:1:non-recoverable").unwrap().fault, Fault::Answer(StatusCode::NON_RECOVERABLE_TD.with(0)));
        let vcpu = StatusCode::NON_RECOVERABLE_VCPU.with(2);
        assert_eq!(parse("0:1:0x4000000100000002").unwrap().fault, Fault::Answer(vcpu));
    }

    #[test]
    fn every_status_by_its_short_name_is_one() {
        for (name, status) in STATUSES {
            let words = alloc::format!("PHYMEM.CACHE.WB:1:{name}");
            assert_eq!(parse(&words).unwrap().fault, Fault::Answer(status), "{words}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |words: &str| parse(words).unwrap_err().to_string();
        assert_eq!(wrong("6.3.busy"), "\"6.3.busy\" is not LEAF:N:STATUS or LEAF:N:dies");
        assert!(wrong("6:3").contains("LEAF:N:STATUS") && wrong("6:3:busy:1").contains("LEAF:N:STATUS"));
        assert!(wrong("PAGE.AUG:1:busy").starts_with("\"PAGE.AUG\" is no SEAMCALL leaf"));
        assert!(wrong("65536:1:busy").starts_with("\"65536\" is no SEAMCALL leaf"));
        assert!(wrong("6:0:busy").starts_with("\"0\" is no number of a call"));
        assert!(wrong("6:x:busy").starts_with("\"x\" is no number of a call"));
        let status = wrong("6:1:bussy");
        assert!(
            status.starts_with("\"bussy\" is no error status: busy, entropy,") && status.contains("dies"),
            "{status}"
        );
        // A call that has not run cannot have succeeded.
        assert!(wrong("6:1:TDX_SUCCESS").contains("no error status") && wrong("6:1:0").contains("no error status"));
    }
}
