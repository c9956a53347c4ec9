//! MSR values that TDX depends on. Registers and bits without a public source are marked
//! unverified; other registers are reported as unknown.

use tdx_abi::{KeyIdField, KeyIdPartition};
use tdx_host::platform::Msr;

use crate::report::{Basis, MsrField, MsrReport};

/// Bits 51:25: where the SEAM range begins, or its mask.
const SEAMRR_BITS: u64 = (1 << 52) - (1 << 25);

/// Registers by the names that people use.
const NAMES: [(&str, u32); 8] = [
    ("IA32_FEATURE_CONTROL", 0x3a),
    ("IA32_MKTME_KEYID_PARTITIONING", 0x87),
    ("IA32_TSX_CTRL", 0x122),
    ("IA32_TME_CAPABILITY", 0x981),
    ("IA32_TME_ACTIVATE", 0x982),
    ("IA32_SEAMRR_PHYS_BASE", 0x1400),
    ("IA32_SEAMRR_PHYS_MASK", 0x1401),
    ("IA32_MCG_STATUS", 0x17a),
];

/// Other names of the same registers: those of Linux and of older texts.
const ALIASES: [(&str, u32); 4] =
    [("IA32_FEAT_CTL", 0x3a), ("KEYID_PARTITIONING", 0x87), ("MCG_STATUS", 0x17a), ("MTRR_SEAMRR_MASK", 0x1401)];

/// A register by number or name: `0x982`, `982h`, `982`, `MSR_IA32_TME_ACTIVATE`, `TME_ACTIVATE`.
pub fn msr(text: &str) -> Option<Msr> {
    let wanted = text.trim().to_ascii_uppercase().replace('-', "_");
    let wanted = ["MSR_IA32_", "IA32_", "MSR_"].iter().find_map(|start| wanted.strip_prefix(start)).unwrap_or(&wanted);
    let bare = |name: &'static str| name.strip_prefix("IA32_").unwrap_or(name);
    if let Some((_, number)) = NAMES.iter().chain(&ALIASES).find(|(name, _)| bare(name) == wanted) {
        return Some(Msr(*number));
    }
    if let Some(bank) = bank_of_name(wanted) {
        return Some(bank);
    }
    let marked = wanted.strip_prefix("0X").or_else(|| wanted.strip_suffix('H'));
    // Bare digits may be hex or decimal: they count where one of the two is no register of ours.
    let digits = marked.unwrap_or(wanted);
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let hex = all.then(|| u32::from_str_radix(digits, 16).ok()).flatten().map(Msr);
    if marked.is_some() {
        return hex;
    }
    let decimal = digits.parse().ok().map(Msr);
    let known = |msr: &Option<Msr>| msr.is_some_and(|msr| name(msr).is_some());
    match (known(&hex), known(&decimal)) {
        (true, false) => hex,
        (false, true) => decimal,
        _ => None,
    }
}

/// First of the four registers of bank 0, and the number of banks that CPUs have at most.
const BANKS: (u32, u32) = (0x400, 64);

/// `MCI_STATUS` with a number for `I`: `MC1_STATUS`.
fn bank_of_name(wanted: &str) -> Option<Msr> {
    let number = wanted.strip_prefix("MC")?.strip_suffix("_STATUS")?;
    let number: u32 = number.parse().ok().filter(|number| *number < BANKS.1)?;
    Some(Msr(BANKS.0 + 4 * number + 1))
}

/// True for the status register of a machine-check bank.
pub(super) fn is_bank_status(msr: Msr) -> bool {
    msr.0.checked_sub(BANKS.0).is_some_and(|offset| offset % 4 == 1 && offset / 4 < BANKS.1)
}

/// The values in a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    None,
    One(u64),
    Several,
}

/// The value of a register, also as one line for each CPU.
pub(super) fn value(text: &str) -> Value {
    let mut found = Value::None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Some(value) = value_of_line(line) else { return Value::None };
        found = match found {
            Value::None => Value::One(value),
            Value::One(other) if other == value => found,
            Value::One(_) | Value::Several => Value::Several,
        };
    }
    found
}

/// What a long value of decimal digits alone is if it was printed in decimal.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let line = text.trim().lines().next()?.trim();
    let all = line.len() >= 10 && line.bytes().all(|b| b.is_ascii_digit()) && !line.starts_with('0');
    line.parse().ok().filter(|_| all)
}

/// `200000001f`, `0x200000001f`, `0x00000020_0000001f`, `200000001fh`, `cpu0: 0x200000001f`,
/// `MSR 0x87: 0x200000001f`. `rdmsr` prints hex without 0x: a decimal reading of it would be wrong
/// and silent.
fn value_of_line(line: &str) -> Option<u64> {
    // `turbostat` explains what it prints: `cpu0: MSR_IA32_FEATURE_CONTROL: 0x00000005 (Locked )`.
    let line = line.split(" (").next().unwrap_or_default().trim();
    let value = match line.rsplit_once([':', '=', ' ']) {
        Some((before, value)) => {
            let word = before.trim().trim_end_matches([':', '=']).to_ascii_lowercase();
            let head = word.split([' ', ':', '=']).next().unwrap_or_default();
            let of_cpu = head.strip_prefix("cpu").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
            let named = of_cpu || head == "msr" || msr(head).is_some();
            Some(value.trim()).filter(|_| named)?
        }
        None => line,
    };
    let lower = value.to_ascii_lowercase().replace('_', "");
    let digits = lower.trim_end_matches(['u', 'l']);
    let marked = digits.strip_prefix("0x");
    let digits = marked.or_else(|| digits.strip_suffix('h')).unwrap_or(digits);
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The name of a register.
pub(super) fn name(msr: Msr) -> Option<&'static str> {
    if is_bank_status(msr) {
        return Some("IA32_MCi_STATUS");
    }
    NAMES.iter().find(|(_, number)| *number == msr.0).map(|(name, _)| *name)
}

/// What a value says.
pub fn explain(msr: Msr, value: u64) -> MsrReport {
    if is_bank_status(msr) {
        return super::bank::of_register(msr, value);
    }
    let mut fields = Vec::new();
    let mut field = |bits: &str, shift: u32, width: u32, text: String, basis| {
        let value = (value >> shift) & (u64::MAX >> (64 - width));
        fields.push(MsrField { bits: bits.to_owned(), value: format!("{value:#x}"), text, basis });
    };
    let bit = |number: u32, yes: &str, no: &str| (if value >> number & 1 == 1 { yes } else { no }).to_owned();
    let (meaning, todo) = match msr.0 {
        0x3a => {
            let general = Basis::Unverified;
            field("0", 0, 1, bit(0, "locked", "not locked: software may change it"), general);
            field("2", 2, 1, bit(2, "VMX outside SMX is enabled", "VMX outside SMX is disabled"), general);
            if value & 0b101 == 0b101 {
                ("VMX can be used".to_owned(), None)
            } else {
                let todo = "enable virtualization (VMX) in the BIOS: SEAMCALL requires VMX operation";
                ("VMX is disabled, or not locked by the BIOS".to_owned(), Some(todo.to_owned()))
            }
        }
        0x87 => {
            let split = KeyIdPartition::from_msr(value);
            field("31:0", 0, 32, "shared (MKTME) KeyIDs, KeyID 0 not counted".to_owned(), Basis::Sourced);
            field("63:32", 32, 32, "private KeyIDs, for TDX only".to_owned(), Basis::Sourced);
            key_ids(split)
        }
        0x982 => {
            let keys = KeyIdField::from_tme_activate(value);
            field("0", 0, 1, bit(0, "locked", "not locked: rejected by the module"), Basis::Sourced);
            field("1", 1, 1, bit(1, "encryption is enabled", "encryption is disabled"), Basis::Unverified);
            let width = format!("KeyID bits; {} bits of an address are left for memory", keys.shift());
            field("35:32", 32, 4, width, Basis::Sourced);
            if value & 1 == 0 {
                let todo = "enable memory encryption (TME, multi-key) and TDX in the BIOS";
                ("not locked, so SYS.INIT fails".to_owned(), Some(todo.to_owned()))
            } else if keys.bits() == 0 {
                let todo = "enable multi-key memory encryption and TDX in the BIOS";
                ("addresses have no KeyID bits, so there is no private memory".to_owned(), Some(todo.to_owned()))
            } else {
                (format!("the KeyID is in address bits 51:{}", keys.shift()), None)
            }
        }
        0x1400 | 0x1401 => {
            let base = msr.0 == 0x1400;
            let what =
                if base { "base of the module's memory (SEAMRR)" } else { "mask of the module's memory (SEAMRR)" };
            field("51:25", 25, 27, format!("{what}: {:#x}", value & SEAMRR_BITS), Basis::Sourced);
            if !base {
                field("10", 10, 1, bit(10, "locked", "not locked"), Basis::Unverified);
                field("11", 11, 1, bit(11, "on", "off"), Basis::Unverified);
            }
            // As `check` reads it: an address alone is no memory while the range is off.
            if !base && value >> 11 & 1 == 0 {
                let todo = "enable TDX and its SEAM loader in the BIOS";
                let text = "the range is disabled (bit 11, unverified): no memory is reserved, so no TDX module \
                        can be loaded";
                (text.to_owned(), Some(todo.to_owned()))
            } else if value & SEAMRR_BITS == 0 {
                let todo = "enable TDX and its SEAM loader in the BIOS";
                ("no memory is reserved for a TDX module".to_owned(), Some(todo.to_owned()))
            } else {
                let text = "the BIOS reserved memory for a TDX module; whether a module is loaded is not known from this register";
                (text.to_owned(), None)
            }
        }
        0x17a => {
            let general = Basis::Unverified;
            field("0", 0, 1, bit(0, "execution can restart at RIP", "execution cannot restart at RIP"), general);
            field("1", 1, 1, bit(1, "RIP is that of the error", "RIP is not that of the error"), general);
            field("2", 2, 1, bit(2, "a machine check is in progress", "no machine check is in progress"), general);
            field("3", 3, 1, bit(3, "signaled to this CPU only", "signaled to all CPUs"), general);
            field("12", 12, 1, bit(12, "the CPU was running a TD", "the CPU was not running a TD"), Basis::Sourced);
            ("state of a machine check".to_owned(), None)
        }
        _ => {
            let text = match name(msr) {
                Some(_) => "read by the TDX module; the meaning of its bits is not known to this program".to_owned(),
                None => "unknown register".to_owned(),
            };
            (text, None)
        }
    };
    let (meaning, todo) = or_field(msr, value, meaning, todo);
    MsrReport {
        msr: format!("{:#x}", msr.0),
        name: name(msr),
        known: !fields.is_empty(),
        value: format!("{value:#x}"),
        fields,
        meaning,
        todo,
    }
}

/// `rdmsr -f HIGH:LOW` prints a field, not the register: a small value of a register whose fields
/// are all higher up may be either.
fn or_field(msr: Msr, value: u64, meaning: String, todo: Option<String>) -> (String, Option<String>) {
    let high = matches!(msr.0, 0x87 | 0x982 | 0x1400 | 0x1401);
    if !high || !(1..0x100).contains(&value) {
        return (meaning, todo);
    }
    let text = format!("if this is the whole register: {meaning}; if `rdmsr -f` printed it, it is one field of it");
    let asks = "give the whole register, as `rdmsr` prints it without `-f`";
    (text, Some(todo.map_or_else(|| asks.to_owned(), |todo| format!("{asks}; then: {todo}"))))
}

fn key_ids(split: KeyIdPartition) -> (String, Option<String>) {
    let range = format!("[{}, {})", u64::from(split.shared()) + 1, split.private_end());
    match split.private() {
        0 => ("no private KeyIDs: TDX is disabled".to_owned(), Some("turn TDX on in the BIOS".to_owned())),
        1 => {
            let todo = "assign at least two private KeyIDs to TDX in the BIOS: one is used by the module";
            (format!("private KeyIDs {range}: one for the module, none left for TDs"), Some(todo.to_owned()))
        }
        _ if split.private_end() > 1 << 15 => {
            let todo = "read the register again: an address has at most 15 KeyID bits";
            (format!("private KeyIDs {range}: impossible value"), Some(todo.to_owned()))
        }
        count => (format!("private KeyIDs {range}: one for the module, {} for TDs", count - 1), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_by_number_and_name() {
        assert_eq!(msr("0x87"), Some(Msr(0x87)));
        assert_eq!(msr("ia32_feature_control"), Some(Msr(0x3a)));
        assert_eq!(msr("TME_ACTIVATE"), Some(Msr(0x982)));
        for (text, number) in [
            ("MSR_IA32_MKTME_KEYID_PARTITIONING", 0x87),
            ("msr_ia32_feat_ctl", 0x3a),
            ("982h", 0x982),
            ("0982H", 0x982),
            ("982", 0x982),
            ("2434", 0x982),
            ("87", 0x87),
            ("135", 0x87),
            ("1401", 0x1401),
            ("0x401", 0x401),
            ("IA32_MC1_STATUS", 0x405),
            ("MC0_STATUS", 0x401),
        ] {
            assert_eq!(msr(text), Some(Msr(number)), "{text}");
        }
        for text in ["", "0x", "h", "99", "0x1ffffffff", "0x-1", "NONE", "MC99_STATUS", "MCx_STATUS"] {
            assert_eq!(msr(text), None, "{text}");
        }
    }

    #[test]
    fn values_as_programs_print_them() {
        for text in [
            "200000001f",
            "0x200000001f",
            "0X200000001F",
            "0x200000001fULL",
            "200000001fh",
            "0x00000020_0000001f",
            "200000001f\n200000001f\n200000001f\n",
            "cpu0: 0x200000001f",
            "cpu0: 0x000000200000001f\ncpu1: 0x000000200000001f\n",
            "MSR 0x87: 0x200000001f",
            "MSR_IA32_MKTME_KEYID_PARTITIONING: 0x200000001f",
            "0x87 = 0x200000001f",
            "cpu0: MSR_IA32_MKTME_KEYID_PARTITIONING: 0x200000001f (31 shared)",
        ] {
            assert_eq!(value(text), Value::One(0x20_0000_001f), "{text}");
        }
        assert_eq!(value("200000001f\n200000001e\n"), Value::Several);
        for text in ["", "\n", "xyz", "0x", "h", "1ffffffffffffffff", "cpu0:", "rdmsr: open: No such file", "x: 5"] {
            assert_eq!(value(text), Value::None, "{text}");
        }
    }

    #[test]
    fn digits_that_may_be_decimal() {
        assert_eq!(decimal("137438953503"), Some(0x20_0000_001f));
        for text in ["200000001f", "0x200000001f", "5", "0000000200000001", "cpu0: 137438953503"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn status_of_a_bank() {
        let report = explain(Msr(0x405), 0xbd80_0000_0010_0134);
        assert!(report.known && report.meaning.starts_with("bank 1 holds an error"), "{report:?}");
        assert!(explain(Msr(0x401), 0).meaning.contains("holds no error"));
        assert!(!explain(Msr(0x402), 5).known, "an address");
    }

    #[test]
    fn the_partition() {
        // fixtures/hosts/01: "private KeyID range [32, 64)".
        let report = explain(Msr(0x87), 0x20_0000_001f);
        assert_eq!(report.meaning, "private KeyIDs [32, 64): one for the module, 31 for TDs");
        assert_eq!((report.fields[0].value.as_str(), report.fields[1].value.as_str()), ("0x1f", "0x20"));
        assert!(explain(Msr(0x87), 0x20).meaning.contains("`rdmsr -f`"), "32 private KeyIDs, or a field");
        assert!(!explain(Msr(0x87), 0x20_0000_001f).meaning.contains("rdmsr"));
        assert!(explain(Msr(0x87), 0x1f).todo.is_some() && explain(Msr(0x87), 1 << 32).todo.is_some());
        assert!(explain(Msr(0x87), u64::MAX).meaning.contains("impossible"));
    }

    #[test]
    fn encryption_and_seam() {
        assert_eq!(explain(Msr(0x982), 0x6_0000_0003).meaning, "the KeyID is in address bits 51:46");
        assert!(explain(Msr(0x982), 0x6_0000_0002).todo.is_some());
        assert!(explain(Msr(0x982), 1).todo.is_some_and(|todo| todo.starts_with("give the whole register")));
        // fixtures/hosts/21.
        let base = explain(Msr(0x1400), 0x3f_fe00_0008);
        assert!(base.fields[0].text.ends_with("0x3ffe000000"), "{}", base.fields[0].text);
        assert!(explain(Msr(0x1401), 0).todo.is_some());
        // An address, and the range off: `check` warns of the same value.
        let off = explain(Msr(0x1401), 0x3ff_fe00_0400);
        assert!(off.fields[2].text == "off" && off.meaning.contains("no TDX module") && off.todo.is_some(), "{off:?}");
        let on = explain(Msr(0x1401), 0x3ff_fe00_0c00);
        assert!(
            on.fields[2].text == "on" && on.meaning.contains("BIOS reserved memory") && on.todo.is_none(),
            "{on:?}"
        );
        assert!(explain(Msr(0x17a), 0x1007).fields[4].text.contains("running a TD"));
    }

    #[test]
    fn unknown_registers_are_named_so() {
        let report = explain(Msr(0x10), 5);
        assert!(!report.known && report.name.is_none() && report.meaning == "unknown register");
        assert!(!explain(Msr(0x122), 0).known);
    }
}
