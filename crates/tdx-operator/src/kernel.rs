//! Kernel versions, and the behavior of mainline with TDX and kexec in each.
//!
//! A version tells the behavior of mainline. Distributions may differ.

use crate::input::excerpt;

/// A kernel version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// As the kernel gives it.
    pub(crate) text: String,
    numbers: (u16, u16),
}

/// What mainline does about TDX at kexec and at a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Era {
    /// To 6.7: no TDX host code.
    NoTdxHost,
    /// 6.8 to 6.17: the TDX host code and kexec exclude each other at build time.
    Excluded,
    /// 6.18 to 7.1: on a CPU with the erratum no image can be loaded.
    Refused,
    /// 7.2 and 7.3: asks the module by TDH.SYS.DISABLE and jumps, whatever it answers.
    AsksModule,
    /// Newer than what is known here.
    Newer,
}

impl Era {
    /// One word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoTdxHost => "no-tdx-host",
            Self::Excluded => "excluded",
            Self::Refused => "refused",
            Self::AsksModule => "asks-module",
            Self::Newer => "newer",
        }
    }
}

impl Kernel {
    /// Reads `6.14.0-1009-intel`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number = |digits: &str| {
            let end = digits.bytes().take_while(u8::is_ascii_digit).count();
            digits.get(..end).and_then(|digits| digits.parse::<u16>().ok())
        };
        let numbers = text.split_once('.').and_then(|(major, rest)| Some((major.parse().ok()?, number(rest)?)));
        let numbers = numbers.ok_or_else(|| format!("`{}` is no kernel version", excerpt(text)))?;
        Ok(Self { text: excerpt(text), numbers })
    }

    /// True for this major and minor version.
    pub(crate) fn is(&self, version: (u16, u16)) -> bool {
        self.numbers == version
    }

    /// What mainline of this version does.
    pub(crate) fn era(&self) -> Era {
        match self.numbers {
            (0..=5, _) | (6, 0..=7) => Era::NoTdxHost,
            (6, 8..=17) => Era::Excluded,
            (6, _) | (7, 0..=1) => Era::Refused,
            (7, 2..=3) => Era::AsksModule,
            _ => Era::Newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eras() {
        for (version, era) in [
            ("5.19.17", Era::NoTdxHost),
            ("6.7.12", Era::NoTdxHost),
            ("6.8.0-1028-intel", Era::Excluded),
            ("6.17", Era::Excluded),
            ("6.18.44-fc-v669", Era::Refused),
            ("6.19.0-3-generic", Era::Refused),
            ("7.1.3\n", Era::Refused),
            ("7.2.0-rc1+", Era::AsksModule),
            ("7.3-rc7", Era::AsksModule),
            ("7.4.0", Era::Newer),
            ("10.0", Era::Newer),
        ] {
            assert_eq!(Kernel::parse(version).unwrap().era(), era, "{version}");
        }
        for bad in ["", "6", "six.1", "6.", "99999.1", "-6.1"] {
            assert!(Kernel::parse(bad).is_err(), "{bad}");
        }
    }
}
