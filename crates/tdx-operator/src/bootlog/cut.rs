//! Where one boot ends and the next begins in a file: at `Linux version`, at the marks of
//! `journalctl`, and where the time since boot falls back.

use std::hash::{Hash, Hasher};

use super::prefix::Split;

/// Microseconds by which lines of one boot may be out of order: several CPUs write at once.
const DISORDER: u64 = 500_000;

/// Lines in a row without a time stamp or a syslog header, after which a file is taken for no log.
pub(crate) const PLAIN_LIMIT: u64 = 1 << 21;

/// Watches for a new boot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    version: bool,
    anything: bool,
    latest: u64,
    plain: u64,
    /// The line before was the same `Linux version`: a console that prints each line twice.
    before: Option<u64>,
}

impl Cut {
    /// True if this line is the first of a new boot. Marks of `journalctl` belong to none.
    pub(crate) fn begins(&mut self, line: &Split<'_>) -> bool {
        let version = line.text.starts_with("Linux version ");
        let hash = version.then(|| {
            let mut hasher = std::hash::DefaultHasher::new();
            (line.text, line.since_boot).hash(&mut hasher);
            hasher.finish()
        });
        let before = std::mem::replace(&mut self.before, hash);
        let again = version && before == hash;
        let version = version && !again;
        let mark = line.text.starts_with("-- Boot ") || line.text.starts_with("-- Reboot --");
        let fell_back = line.since_boot.is_some_and(|now| now.saturating_add(DISORDER) < self.latest);
        let begins = self.anything && (version && self.version || mark || fell_back);
        if begins {
            *self = Self { plain: self.plain, before: self.before, ..Self::default() };
        }
        self.plain = if line.stamped { 0 } else { self.plain + 1 };
        self.version |= version;
        self.anything |= !mark && !line.text.is_empty() && !line.text.starts_with('#');
        self.latest = self.latest.max(line.since_boot.unwrap_or(0));
        begins
    }

    /// True if so many lines in a row have no time stamp that this is no log.
    pub(crate) fn is_no_log(&self) -> bool {
        self.plain >= PLAIN_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootlog::split;

    fn cuts(lines: &[&str]) -> Vec<usize> {
        let mut cut = Cut::default();
        let begins = |(index, line): (usize, &&str)| cut.begins(&split(line)).then_some(index);
        lines.iter().enumerate().filter_map(begins).collect()
    }

    #[test]
    fn boots_are_told_apart() {
        assert_eq!(cuts(&["Linux version 6.1", "x", "Linux version 6.2", "y"]), [2]);
        assert_eq!(
            cuts(&["[ 1.0] Linux version 6.1", "[ 20.0] x", "[ 0.0] microcode", "[ 0.0] Linux version 6.2"]),
            [2]
        );
        assert_eq!(cuts(&["x", "-- Boot 0123 --", "y", "-- Reboot --", "z"]), [1, 3]);
        assert_eq!(cuts(&["[ 9.0] a", "[ 8.6] b", "[ 9.1] c"]), [0usize; 0], "out of order");
        assert_eq!(cuts(&["-- Boot 0123 --", "y"]), [0usize; 0]);
        assert_eq!(cuts(&["Linux version 6.1", "Linux version 6.1", "x", "x"]), [0usize; 0], "doubled");
        assert_eq!(cuts(&["Linux version 6.1", "x", "Linux version 6.1"]), [2]);
        let mut endless = Cut { plain: PLAIN_LIMIT - 1, ..Cut::default() };
        assert!(!endless.begins(&split("[ 1.0] x")) && endless.plain == 0);
        endless.plain = PLAIN_LIMIT - 1;
        assert!(!endless.begins(&split("y")) && endless.is_no_log());
        assert_eq!(cuts(&["[Tue Mar 21 09:40:00 2023] a", "[Tue Mar 21 09:39:00 2023] b"]), [0usize; 0]);
    }
}
