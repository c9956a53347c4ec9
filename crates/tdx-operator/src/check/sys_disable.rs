//! Whether a TDX module version implements TDH.SYS.DISABLE. No version is known to; known are the
//! published releases without it.

use crate::bootlog::ModuleVersion;

/// Newest releases whose published notes do not name TDH.SYS.DISABLE: of module 1.5 and of module
/// 2.0.
///
/// Source: the release notes of Intel's TDX module, read in October 2026; 1.5.34 was published on
/// 2026-08-12.
const NEWEST: [(u16, u16, u16); 2] = [(1, 5, 34), (2, 0, 14)];
/// The day of the newer of the two whose day is known, for logs that print no update number but a
/// build date.
const NEWEST_DATE: u32 = 20_260_812;

/// What is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SysDisable {
    /// The module itself has said that it does not know the call.
    Refused,
    /// A published release, and its notes do not name the call.
    NotNamed,
    /// Newer than what is known here, or of another line.
    Newer,
}

/// Looks a version up.
pub(super) fn of(version: ModuleVersion) -> SysDisable {
    let line = (version.major, version.minor);
    if line < (1, 5) {
        return SysDisable::NotNamed;
    }
    let newest = NEWEST.iter().find(|(major, minor, _)| (*major, *minor) == line);
    let old = match (newest, version.update, version.date) {
        (Some((_, _, newest)), Some(update), _) => update <= *newest,
        // A build of that day or before is in a release of that day or before.
        (Some(_), None, Some(date)) => date <= NEWEST_DATE,
        _ => false,
    };
    if old { SysDisable::NotNamed } else { SysDisable::Newer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |major, minor, update, date| ModuleVersion { major, minor, update, build: None, date };
        for (of_module, is) in [
            (version(1, 0, Some(3), None), SysDisable::NotNamed),
            (version(1, 5, Some(1), None), SysDisable::NotNamed),
            (version(1, 5, Some(34), None), SysDisable::NotNamed),
            (version(1, 5, Some(35), None), SysDisable::Newer),
            (version(2, 0, Some(14), None), SysDisable::NotNamed),
            (version(2, 0, Some(15), Some(20_250_101)), SysDisable::Newer),
            (version(1, 5, None, Some(20_240_129)), SysDisable::NotNamed),
            (version(1, 5, None, Some(20_260_813)), SysDisable::Newer),
            (version(1, 5, None, None), SysDisable::Newer),
            (version(2, 1, Some(0), Some(20_250_101)), SysDisable::Newer),
            (version(3, 0, Some(0), None), SysDisable::Newer),
        ] {
            assert_eq!(of(of_module), is, "{of_module}");
        }
    }
}
