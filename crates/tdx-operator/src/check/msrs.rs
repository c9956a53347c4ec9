//! MSRs that are read, and their text form in a collected machine: one line for each MSR, value and
//! set of CPUs. Does not interpret values.

use std::collections::BTreeMap;

use tdx_host::platform::Msr;

/// IA32_TME_CAPABILITY.
pub(super) const TME_CAPABILITY: Msr = Msr(0x981);
/// IA32_SEAMRR_PHYS_BASE.
pub(super) const SEAMRR_BASE: Msr = Msr(0x1400);
/// IA32_SEAMRR_PHYS_MASK.
pub(super) const SEAMRR_MASK: Msr = Msr(0x1401);

/// What is read on every CPU.
pub(super) const READ_MSRS: [Msr; 5] =
    [Msr::MKTME_KEYID_PARTITIONING, TME_CAPABILITY, Msr::TME_ACTIVATE, SEAMRR_BASE, SEAMRR_MASK];

/// Most lines of a saved file: every register with another value on each of many CPUs.
const MAX_LINES: usize = 16 << 10;

/// What reading a register gave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Reading {
    /// The value.
    Value(u64),
    /// #GP: the CPU has no such register.
    Fault,
}

/// The registers of a machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Msrs {
    found: BTreeMap<u32, Vec<(Reading, String)>>,
}

impl Msrs {
    /// Reads the lines that [`write`] writes.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut msrs = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let bad = || format!("line {number} is not `MSR VALUE CPUS`, e.g. `0x87 0x200000001f 0-127`");
            if number > MAX_LINES {
                return Err(format!("has more than {MAX_LINES} lines"));
            }
            let mut words = line.split(' ');
            let (Some(msr), Some(value), Some(cpus), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(bad());
            };
            let msr = hex(msr).and_then(|msr| u32::try_from(msr).ok()).ok_or_else(bad)?;
            let reading = if value == "fault" { Reading::Fault } else { Reading::Value(hex(value).ok_or_else(bad)?) };
            if cpus.is_empty() || !cpus.bytes().all(|b| b.is_ascii_digit() || b",-".contains(&b)) {
                return Err(bad());
            }
            msrs.found.entry(msr).or_default().push((reading, cpus.to_owned()));
        }
        if msrs.found.is_empty() { Err("holds no register".to_owned()) } else { Ok(msrs) }
    }

    /// The reading on which all CPUs agree; `None` if it was not read or they do not agree.
    pub(super) fn get(&self, msr: Msr) -> Option<Reading> {
        match self.found.get(&msr.0).map(Vec::as_slice) {
            Some([(reading, _)]) => Some(*reading),
            _ => None,
        }
    }

    /// The value on which all CPUs agree.
    pub(super) fn value(&self, msr: Msr) -> Option<u64> {
        match self.get(msr) {
            Some(Reading::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// `MSR 0x87 is 0x1f on CPUs 0-3, 0x3f on CPUs 4-7` for each register on which the CPUs do not
    /// agree.
    pub(super) fn disagreements(&self) -> Vec<String> {
        let several = self.found.iter().filter(|(_, readings)| readings.len() > 1);
        several
            .map(|(msr, readings)| {
                let parts = readings.iter().take(4).map(|(reading, cpus)| {
                    let value = match reading {
                        Reading::Value(value) => format!("{value:#x}"),
                        Reading::Fault => "absent".to_owned(),
                    };
                    format!("{value} on CPUs {}", crate::input::excerpt(cpus))
                });
                format!("MSR {msr:#x} is {}", parts.collect::<Vec<_>>().join(", "))
            })
            .collect()
    }
}

fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u64::from_str_radix(digits, 16).ok()
}

/// The file of a saved machine.
pub(super) fn write(found: &BTreeMap<(u32, Reading), Vec<u32>>) -> String {
    let lines = found.iter().map(|((msr, reading), cpus)| {
        let value = match reading {
            Reading::Value(value) => format!("{value:#x}"),
            Reading::Fault => "fault".to_owned(),
        };
        format!("{msr:#x} {value} {}\n", ranges(cpus))
    });
    lines.collect()
}

/// `0-3,8` for ascending numbers.
fn ranges(cpus: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(cpu) => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let text = parts.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut found = BTreeMap::new();
        found.insert((0x87, Reading::Value(0x20_0000_001f)), vec![0, 1, 2, 3, 8]);
        found.insert((0x982, Reading::Value(5)), vec![0]);
        found.insert((0x982, Reading::Fault), vec![1]);
        let text = write(&found);
        assert_eq!(text, "0x87 0x200000001f 0-3,8\n0x982 0x5 0\n0x982 fault 1\n");
        let msrs = Msrs::parse(&text).unwrap();
        assert_eq!(msrs.value(Msr::MKTME_KEYID_PARTITIONING), Some(0x20_0000_001f));
        assert_eq!(msrs.get(Msr::TME_ACTIVATE), None);
        assert_eq!(msrs.disagreements(), ["MSR 0x982 is 0x5 on CPUs 0, absent on CPUs 1"]);
    }

    #[test]
    fn bad_lines() {
        for bad in ["", "0x87", "0x87 0x1", "0x87 1 0", "87 0x1 0", "0x87 0x1 all", "0x87 0x1 0 0", "0x87 0x+1 0"] {
            assert!(Msrs::parse(bad).is_err(), "{bad}");
        }
        assert!(Msrs::parse("0x1ffffffff 0x1 0").is_err());
    }
}
