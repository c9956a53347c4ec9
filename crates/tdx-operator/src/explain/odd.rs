//! Values in the writing of people and of other programs: quotes, punctuation, C suffixes, groups
//! of digits, an errno as an unsigned number or as `strerror` says it, a value in the middle of a
//! line.

use super::{errno, status, value as usual};
use crate::report::{Given, Subject};

/// What `strerror` prints, and its name.
const STRERROR: [(&str, &str); 11] = [
    ("resource temporarily unavailable", "EAGAIN"),
    ("operation not supported", "EOPNOTSUPP"),
    ("no space left on device", "ENOSPC"),
    ("no such device", "ENODEV"),
    ("input/output error", "EIO"),
    ("invalid argument", "EINVAL"),
    ("cannot allocate memory", "ENOMEM"),
    ("device or resource busy", "EBUSY"),
    ("permission denied", "EACCES"),
    ("operation not permitted", "EPERM"),
    ("exec format error", "ENOEXEC"),
];

/// An errno from its number as 32 or 64 unsigned bits: 0xffffffe4 is -28.
pub(super) fn negative(value: u64) -> Option<u32> {
    let errno = match u32::try_from(value) {
        Ok(half) => half.wrapping_neg(),
        Err(_) => u32::try_from(value.wrapping_neg()).ok()?,
    };
    (1..4096).contains(&errno).then_some(errno)
}

/// The text without what people and C put around a value.
fn bare(text: &str) -> String {
    let text = text.trim().replace(['\u{2212}', '\u{2013}'], "-");
    let around = |c: char| "\"'`()[]{}<>.,;:!?=".contains(c);
    let mut bare = text.trim_matches(around);
    // `-28` keeps its sign, `status: ` has lost its colon.
    if bare.starts_with("0x")
        || bare.starts_with("0X")
        || bare.bytes().all(|b| b.is_ascii_hexdigit() || b"uUlL".contains(&b))
    {
        bare = bare.trim_end_matches(['u', 'U', 'l', 'L']);
    }
    // Assemblers' hex: 16 digits and an h.
    if let Some(digits) = bare.strip_suffix(['h', 'H'])
        && digits.trim_start_matches("0x").len() == 16
    {
        bare = digits;
    }
    bare.to_owned()
}

/// The whole text as one value.
pub(super) fn value(text: &str) -> Option<Subject> {
    let bare = bare(text);
    if let Some((_, name)) = STRERROR.iter().find(|(words, _)| bare.eq_ignore_ascii_case(words)) {
        return usual(name);
    }
    if let Some(subject) = usual(&bare).or_else(|| after_errno(&bare).filter(|_| !bare.contains("0x"))) {
        return Some(subject);
    }
    // Groups of digits: `c000 0505 0000 0000`, `0xc0000505 00000000`, `c000'0505'0000'0000`.
    if let Some(subject) = joined(&bare) {
        return Some(subject);
    }
    let hex = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")).unwrap_or(&bare);
    // Addresses of network cards, and GUIDs, are written so.
    if hex.contains([':', '-']) && hex.split([':', '-']).any(|group| group.len() != 8) {
        return None;
    }
    let groups = hex.split([' ', '\'', '_', '`', ':', '-']).filter(|group| !group.is_empty());
    let digits: String = groups.clone().collect();
    let even = groups.clone().all(|group| [2, 4, 8, 16].contains(&group.len()));
    let all = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    (all && even).then(|| usual(&format!("0x{digits}"))).flatten()
}

/// A name and its operand, as the kernel's source writes them: `TDX_OPERAND_BUSY |
/// TDX_OPERAND_ID_RCX`.
fn joined(text: &str) -> Option<Subject> {
    let (name, operand) = text.split_once('|')?;
    let (status, operand) = (status::named(name)?, operand.trim().to_ascii_uppercase());
    let operand = operand.trim_start_matches("TDX_").trim_start_matches("OPERAND_ID_");
    let shown = |id: &u32| status.code().with(*id).to_string().ends_with(&format!(" ({operand})"));
    let id = (1..=0xff).find(shown)?;
    Some(Subject::Status(status::explain(status.code().with(id), Given::Whole)))
}

/// An errno after its word: `[Errno 28]`, `errno: 28`, `errno=-28`.
fn after_errno(line: &str) -> Option<Subject> {
    let lower = line.to_ascii_lowercase();
    let mut numbers = lower.match_indices("errno").filter_map(|(at, word)| {
        let rest = lower.get(at + word.len()..)?.trim_start_matches([' ', ':', '=', '(', '-', '\u{2212}']);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        errno::named(&format!("-{}", rest.get(..end)?))
    });
    let number = numbers.next().filter(|first| numbers.all(|other| other == *first))?;
    Some(Subject::Errno(errno::explain(number)))
}

/// RAX, in which the status of a SEAMCALL is, among other registers: `rax=..,rcx=..`.
fn of_rax(line: &str) -> Option<Subject> {
    let lower = line.to_ascii_lowercase();
    let (before, rest) = lower.split_once("rax")?;
    let alone = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
    let rest = rest.trim_start().strip_prefix([':', '='])?.trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    usual(rest.get(..end)?).filter(|_| alone)
}

/// The one value among the words of a line; `None` if there is none, or more than one.
pub(super) fn word(line: &str) -> Option<Subject> {
    if let Some(subject) = of_rax(line).or_else(|| after_errno(line)) {
        return Some(subject);
    }
    let mut found: Option<Subject> = None;
    for word in line.split([' ', '\t', '=', '(', ')', ',']).filter(|word| word.len() > 1) {
        let bare = bare(word);
        // A plain decimal number in a line is anything.
        let hex = bare.starts_with("0x") || bare.starts_with("0X") || bare.len() == 16;
        let named = bare.starts_with("TDX_") || bare.starts_with('E') && bare.bytes().all(|b| b.is_ascii_uppercase());
        if !(hex || named || bare.starts_with('-')) {
            continue;
        }
        let Some(subject) = usual(&bare).filter(known) else { continue };
        if found.as_ref().is_some_and(|found| !same(found, &subject)) {
            return None;
        }
        // A number says more than its name.
        found = found.filter(|_| named).or(Some(subject));
    }
    // `Operation not supported (95)`.
    let lower = line.to_ascii_lowercase();
    let mut said = STRERROR.iter().filter(|(words, _)| lower.contains(words));
    let only = said.next().filter(|_| said.next().is_none());
    found.or_else(|| only.and_then(|(_, name)| usual(name)))
}

fn known(subject: &Subject) -> bool {
    match subject {
        Subject::Status(status) => status.known,
        Subject::Errno(errno) => errno.known,
        Subject::Msr(msr) => msr.known,
        Subject::Log(_) => false,
    }
}

/// Two writings of one value: a status by number and by name.
fn same(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Status(a), Subject::Status(b)) => a.name == b.name,
        _ => a == b,
    }
}

/// A line of a shell whose output is wanted.
pub(super) fn is_command(text: &str) -> bool {
    let text = text.trim_start_matches(['$', '#', ' ']).trim_start_matches("sudo ");
    ["dmesg", "journalctl", "cat ", "ras-mc-ctl", "mcelog", "rdmsr "].iter().any(|program| text.starts_with(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_errnos() {
        assert_eq!((negative(0xffff_ffff_ffff_ffe4), negative(0xffff_ffe4)), (Some(28), Some(28)));
        assert_eq!(
            (negative(0), negative(28), negative(0xc000_0300_0000_0001), negative(1 << 63)),
            (None, None, None, None)
        );
    }
}
