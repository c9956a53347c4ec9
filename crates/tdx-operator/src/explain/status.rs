//! Completion status: from number or name to meaning. An unknown one is reported as unknown
//! together with its class bits.

use tdx_abi::{Status, StatusClass, StatusCode};

use super::{leaves, meanings};
use crate::report::{Given, Retry, StatusReport};

/// Software statuses by name: calls that did not reach the module.
const SOFTWARE: [(&str, Status, &str, &str); 4] = [
    (
        "TDX_SEAMCALL_VMFAILINVALID",
        Status::VMFAIL_INVALID,
        "SEAMCALL set CF (VMfailInvalid): no TDX module is loaded, or the module died",
        "enable the SEAM loader in the BIOS and check for `module not loaded`; if SEAMCALLs worked before, \
            the module died: memory stays private, so do not kexec without a reset",
    ),
    (
        "TDX_SEAMCALL_GP",
        Status::GENERAL_PROTECTION,
        "SEAMCALL raised #GP: SEAM is not enabled by the BIOS",
        "turn TDX on in the BIOS",
    ),
    (
        "TDX_SEAMCALL_UD",
        Status::UNDEFINED_OPCODE,
        "SEAMCALL raised #UD: this CPU is not in VMX operation",
        "execute VMXON on this CPU before the call; no SEAMCALL is possible after VMXOFF",
    ),
    (
        "GATE_CLOSED",
        Status::GATE_CLOSED,
        "no SEAMCALL was made: SEAMCALLs are disabled for a handover",
        "nothing: a handover is in progress",
    ),
];

/// Statuses of TDH.VP.ENTER beyond those that `tdx-abi` names, and values that Linux uses for them.
/// Names and numbers: error codes of the TDX module's public source, and Linux's `tdx_errno.h`.
/// Meanings: the module's TD exit; none of these was observed.
struct OfEntry {
    code: u32,
    name: &'static str,
    text: &'static str,
    todo: &'static str,
    retry: Retry,
}

const STOPPED: &str = "tear the TD down and reset its pages";

const OF_ENTRY: [OfEntry; 6] = [
    OfEntry {
        code: 0x4000_0002,
        name: "TDX_NON_RECOVERABLE_TD",
        text: "the TD cannot run again (the value that Linux uses; that of the module is 0x60000002)",
        todo: STOPPED,
        retry: Retry::No,
    },
    OfEntry {
        code: 0x6000_0007,
        name: "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE",
        text: "the TD cannot run again: the host's local APIC is not in x2APIC mode (the value that Linux uses)",
        todo: "boot the host in x2APIC mode (no `nox2apic`); tear the TD down and reset its pages",
        retry: Retry::No,
    },
    OfEntry {
        code: 0xe000_0007,
        name: "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE",
        text: "the TD cannot run again: the host's local APIC is not in x2APIC mode",
        todo: "boot the host in x2APIC mode (no `nox2apic`); tear the TD down and reset its pages",
        retry: Retry::No,
    },
    OfEntry {
        code: 0x8000_0008,
        name: "TDX_CROSS_TD_FAULT",
        text: "a call of one TD about another (a service TD) was left with a fault of the other (from the module's source, not observed)",
        todo: "end or restart the other TD's operation, then enter again",
        retry: Retry::After,
    },
    OfEntry {
        code: 0x9000_0009,
        name: "TDX_CROSS_TD_TRAP",
        text: "a call of one TD about another (a service TD) was done, and the other needs the host (from the module's source, not observed)",
        todo: "see the other TD's state, then enter again",
        retry: Retry::After,
    },
    OfEntry {
        code: 0x6000_000a,
        name: "TDX_NON_RECOVERABLE_TD_CORRUPTED_MD",
        text: "the TD cannot run again: the module found its metadata corrupted (from the module's source, not observed)",
        todo: STOPPED,
        retry: Retry::No,
    },
];

/// What a status means that is not one of `tdx-abi`'s; `None` if it is not known here either.
pub(super) fn in_linux(status: Status) -> Option<&'static str> {
    of_entry(status).map(|known| known.name)
}

fn of_entry(status: Status) -> Option<&'static OfEntry> {
    OF_ENTRY.iter().find(|known| known.code == status.code().0)
}

/// Bits 59:48 are reserved and 0 in every completion status.
pub(super) fn is_impossible(status: Status) -> bool {
    status.raw() >> 48 & 0xfff != 0
}

/// The status as findings name it.
pub(super) fn shown(status: Status) -> String {
    match in_linux(status) {
        Some(name) if status.code().name().is_none() => format!("{name} ({:#018x})", status.raw()),
        None if !explain(status, Given::Whole).known => format!("{:#018x}", status.raw()),
        _ => status.to_string(),
    }
}

/// Exit reasons in bits 15:0 of a status of TDH.VP.ENTER: of those statuses that have one, as in
/// Linux's `tdx_has_exit_reason()`. TDX_NON_RECOVERABLE_TD_CORRUPTED_MD has none.
fn exit_reason(status: Status) -> Option<String> {
    let general = [0x4000_0001, 0x4000_0002, 0x6000_0002, 0x6000_0005, 0x6000_0007, 0xe000_0007];
    if !general.contains(&status.code().0) {
        return None;
    }
    let reason = status.raw() & 0xffff;
    let text = match reason {
        // As well an exception as nothing at all.
        0 => return None,
        1 => "external interrupt",
        2 => "triple fault of the guest",
        6 => "SMI, by which firmware-first platforms signal a machine check",
        41 => "machine check during VM entry",
        48 => "EPT violation",
        49 => "EPT misconfiguration",
        77 => "TDCALL",
        _ => "not known to this program",
    };
    Some(format!("exit reason {reason}: {text}"))
}

/// A number as people write a status: hex with `0x`, 16 digits or any hex letter without, else
/// decimal, also as a signed number.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return hex(digits);
    }
    if let Some(digits) = text.strip_prefix('-').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())) {
        return format!("-{digits}").parse::<i64>().ok().map(i64::cast_unsigned);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let decimal = text.bytes().all(|b| b.is_ascii_digit()) && text.len() != 16;
    if decimal { text.parse().ok() } else { hex(text).filter(|_| text.len() >= 8) }
}

fn hex(digits: &str) -> Option<u64> {
    // The kernel separates nothing, people do.
    let digits = digits.replace('_', "");
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u64::from_str_radix(&digits, 16).ok()).flatten()
}

/// A name, with or without `TDX_`, in any case.
pub(super) fn named(text: &str) -> Option<Status> {
    let text = text.trim().to_ascii_uppercase();
    let same = |name: &str| name == text || name.strip_prefix("TDX_") == Some(text.as_str());
    let known = StatusCode::KNOWN.iter().find(|code| code.name().is_some_and(same));
    let software = SOFTWARE.iter().find(|(name, ..)| same(name)).map(|(_, status, ..)| *status);
    // Of two values the module's own is the last one.
    let entry = || OF_ENTRY.iter().rev().find(|known| same(known.name)).map(|known| StatusCode(known.code).with(0));
    known.map(|code| code.with(0)).or(software).or_else(entry)
}

/// A status from its 64 bits, or from bits 63:32 alone: of fewer than 33 bits that are not 0, no
/// whole status is meant, or it was written with all 16 digits.
pub(super) fn from_bits(value: u64) -> (Status, Given) {
    match u32::try_from(value) {
        Ok(half) if half != 0 => (StatusCode(half).with(0), Given::UpperHalf),
        _ => (Status::new(value), Given::Whole),
    }
}

/// The name of the status with these bits 63:32.
pub(super) fn of_upper_half(half: u32) -> Option<&'static str> {
    StatusCode(half).name().filter(|_| half != 0).or_else(|| in_linux(StatusCode(half).with(0)))
}

/// What a status says.
pub(super) fn explain(status: Status, given: Given) -> StatusReport {
    let code = status.code();
    let software = SOFTWARE.iter().find(|(_, known, ..)| *known == status);
    let meaning = if software.is_some() { None } else { meanings::of(code) };
    let entry = if meaning.is_some() { None } else { of_entry(status) };
    let name = software.map(|(name, ..)| *name).or_else(|| code.name()).or(entry.map(|known| known.name));
    let detail = meaning.filter(|_| given == Given::Whole).and_then(|_| {
        let text = status.to_string();
        let inside = text.split_once(" (")?.1.strip_suffix(')')?;
        Some(inside.to_owned())
    });
    let detail = exit_reason(status).filter(|_| given == Given::Whole).or(detail);
    let (text, todo, retry) = match (software, meaning) {
        (None, None) if entry.is_some() => {
            let known = entry.into_iter().next();
            known.map_or_else(|| unknown(status), |known| (known.text.to_owned(), known.todo.to_owned(), known.retry))
        }
        (Some((_, _, text, todo)), _) => ((*text).to_owned(), (*todo).to_owned(), Retry::No),
        (None, Some(meaning)) => (meaning.text.to_owned(), meaning.todo.to_owned(), meaning.retry),
        (None, None) if given == Given::UpperHalf => half(status),
        (None, None) => unknown(status),
    };
    let any_leaf_but = leaves::any_leaf_but(code);
    StatusReport {
        raw: format!("{:#018x}", status.raw()),
        known: name.is_some(),
        name: name.map(str::to_owned),
        given,
        class: class(status.class()),
        error: status.is_error(),
        non_recoverable: status.is_non_recoverable(),
        fatal: status.is_fatal(),
        detail,
        meaning: text,
        retry,
        todo,
        any_leaf: meaning.is_some() && any_leaf_but.is_some(),
        any_leaf_but: any_leaf_but.unwrap_or_default().iter().map(ToString::to_string).collect(),
        leaves: match (meaning, entry) {
            (Some(_), _) => leaves::returning(code).iter().map(ToString::to_string).collect(),
            (None, Some(_)) => vec!["TDH.VP.ENTER".to_owned()],
            (None, None) => vec![],
        },
    }
}

/// Fewer than 33 bits that name no status.
fn half(status: Status) -> (String, String, Retry) {
    let code = status.code().0;
    let text = format!(
        "not decided: as bits 63:32 of a status it is none that is known; as all of one it would be TDX_SUCCESS with \
         {code:#x} in bits 31:0"
    );
    let todo = "give RAX of the SEAMCALL: 16 hex digits, from the kernel's line";
    (text, todo.to_owned(), Retry::Unknown)
}

/// What the bits alone say.
fn unknown(status: Status) -> (String, String, Retry) {
    if is_impossible(status) {
        let text =
            "impossible: no completion status has any of the bits 59:48 set; this is another number, or a damaged one";
        let todo = "give RAX of the SEAMCALL: 16 hex digits, from the kernel's line";
        return (text.to_owned(), todo.to_owned(), Retry::Unknown);
    }
    let first = match (status.is_error(), status.is_non_recoverable()) {
        (true, true) => "by its bits, the call failed and cannot succeed if repeated unchanged",
        (true, false) => "by its bits, the call failed and may succeed later",
        (false, true) => "by its bits, a VCPU or TD is lost",
        (false, false) => "by its bits, the call completed with additional information",
    };
    let todo = "see the ABI specification of the module release; until then treat every page of the call as private";
    (format!("unknown status; {first}"), todo.to_owned(), Retry::Unknown)
}

/// Bits 47:40 in words.
fn class(class: StatusClass) -> String {
    let words = match class {
        StatusClass::General => "general",
        StatusClass::Operand => "operand",
        StatusClass::ResourceBusy => "resource busy",
        StatusClass::PageMetadata => "page metadata",
        StatusClass::DependentResources => "dependent resources",
        StatusClass::ModuleState => "module state",
        StatusClass::TdState => "TD state",
        StatusClass::VcpuState => "VCPU state",
        StatusClass::KeyManagement => "key management",
        StatusClass::Platform => "platform",
        StatusClass::PhysicalMemory => "physical memory",
        StatusClass::GuestMemory => "guest memory",
        StatusClass::Metadata => "metadata fields",
        StatusClass::ServiceTd => "service TD",
        StatusClass::Migration => "migration",
        StatusClass::Attestation => "attestation",
        StatusClass::Partitioning => "TD partitioning or entry",
        StatusClass::Software => "made by the host: the call did not reach the module",
        StatusClass::Unknown(number) => return format!("unknown ({number:#04x})"),
        _ => "unknown",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        let not_ready = Some(0xc000_0505_0000_0000);
        for text in [
            "0xc000050500000000",
            "0XC000050500000000",
            "c000050500000000",
            "13835063574315139072",
            "-4611680499394412544",
        ] {
            assert_eq!(number(text), not_ready, "{text}");
        }
        assert_eq!(number("0xc000_0505_0000_0000"), not_ready);
        // Sixteen digits are what the kernel prints, so they are hex.
        assert_eq!(number("8000020300000000"), Some(0x8000_0203_0000_0000));
        assert_eq!(number("0"), Some(0));
        for text in ["", "0x", "0x1ffffffffffffffff", "boot.log", "beef", "-", "-0x1", "99999999999999999999", "0x_"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["TDX_SYS_NOT_READY", "sys_not_ready", " SYS_NOT_READY "] {
            assert_eq!(named(text), Some(StatusCode::SYS_NOT_READY.with(0)), "{text}");
        }
        assert_eq!(named("tdx_seamcall_gp"), Some(Status::GENERAL_PROTECTION));
        let mode = named("TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE");
        assert_eq!(mode.map(Status::raw), Some(0xe000_0007_0000_0000));
        assert!(OF_ENTRY.iter().all(|known| named(known.name).is_some()));
        assert_eq!(named("TDX_NOTHING"), None);
        assert_eq!(named(""), None);
    }

    #[test]
    fn a_status_with_an_operand() {
        let report = explain(Status::new(0x8000_0200_0000_0001), Given::Whole);
        assert_eq!((report.name.as_deref(), report.detail.as_deref()), (Some("TDX_OPERAND_BUSY"), Some("RCX")));
        assert_eq!((report.class.as_str(), report.retry), ("resource busy", Retry::Later));
        assert!(report.leaves.contains(&"TDH.MNG.CREATE".to_owned()) && !report.any_leaf);
    }

    #[test]
    fn statuses_of_an_entry() {
        for (raw, name, detail) in [
            (0x6000_0005_0000_0006, "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE", Some("exit reason 6: SMI")),
            (0x4000_0002_0000_0000, "TDX_NON_RECOVERABLE_TD", None),
            (0x6000_0007_0000_0000, "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE", None),
            (0xe000_0007_0000_0000, "TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE", None),
            (0x8000_0008_0000_0000, "TDX_CROSS_TD_FAULT", None),
            (0x9000_0009_0000_0000, "TDX_CROSS_TD_TRAP", None),
            // No exit reason, whatever the low bits say.
            (0x6000_000a_0000_0000, "TDX_NON_RECOVERABLE_TD_CORRUPTED_MD", None),
            (0x6000_000a_0000_0029, "TDX_NON_RECOVERABLE_TD_CORRUPTED_MD", None),
        ] {
            let report = explain(Status::new(raw), Given::Whole);
            assert_eq!((report.known, report.name.as_deref()), (true, Some(name)), "{raw:#x}");
            assert_eq!(report.leaves, ["TDH.VP.ENTER"], "{raw:#x}");
            let said = report.detail.as_deref();
            let as_wanted = |words: &str| said.is_some_and(|text| text.starts_with(words));
            assert!(detail.map_or(said.is_none_or(|text| !text.starts_with("exit")), as_wanted), "{said:?}");
        }
    }

    #[test]
    fn impossible_values_are_said_to_be_so() {
        for raw in [0x1234_0000_0000_0000, 0xc001_0300_0000_0000, 0x0f00_0000_0000_0001] {
            let report = explain(Status::new(raw), Given::Whole);
            assert!(!report.known && report.meaning.starts_with("impossible"), "{raw:#x}");
        }
        for software in [Status::VMFAIL_INVALID, Status::GENERAL_PROTECTION, Status::UNDEFINED_OPCODE] {
            assert!(!is_impossible(software));
        }
        assert!(!is_impossible(Status::new(0xc000_4242_0000_0007)));
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let report = explain(Status::new(0xc000_4242_0000_0007), Given::Whole);
        assert!(!report.known && report.leaves.is_empty() && report.meaning.starts_with("unknown status"));
        assert_eq!((report.class.as_str(), report.retry), ("unknown (0x42)", Retry::Unknown));
        // A known upper half alone.
        assert_eq!(from_bits(0xc000_0505), (StatusCode::SYS_NOT_READY.with(0), Given::UpperHalf));
        for (half, name) in [
            (0x4000_0002, Some("TDX_NON_RECOVERABLE_TD")),
            (0xe000_0007, Some("TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE")),
            (0x8000_0008, Some("TDX_CROSS_TD_FAULT")),
            (0x9000_0009, Some("TDX_CROSS_TD_TRAP")),
            (0x6000_000a, Some("TDX_NON_RECOVERABLE_TD_CORRUPTED_MD")),
            (0x6000_0007, Some("TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE")),
            (0xc000_0007, None),
            (0xc000_4242, None),
            (0x30, None),
        ] {
            let (status, given) = from_bits(half);
            let report = explain(status, given);
            assert_eq!((report.name.as_deref(), report.known), (name, name.is_some()), "{half:#x}");
            assert_eq!((given, status.raw()), (Given::UpperHalf, half << 32), "{half:#x}");
            assert!(name.is_some() || report.meaning.starts_with("not decided"), "{half:#x}: {}", report.meaning);
        }
        assert_eq!(from_bits(0), (Status::SUCCESS, Given::Whole));
        let software = explain(Status::VMFAIL_INVALID, Given::Whole);
        assert!(software.known && software.error && software.leaves.is_empty());
    }
}
