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
    bare.trim().to_owned()
}

/// The whole text as one value.
pub(super) fn value(text: &str) -> Option<Subject> {
    let bare = bare(text);
    if let Some((_, name)) = STRERROR.iter().find(|(words, _)| bare.eq_ignore_ascii_case(words)) {
        return usual(name);
    }
    // Of a cut time stamp, `[    0.`, a 0 is left.
    let quoted = text.trim().trim_matches(|c| "\"'`(),;".contains(c)).trim_end_matches(['u', 'U', 'l', 'L']);
    if is_plain(&bare) && bare != quoted {
        return None;
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

/// A short decimal number, which in a text may be anything.
pub(super) fn is_plain(text: &str) -> bool {
    text.len() < 16 && text.bytes().all(|b| b.is_ascii_digit())
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

/// The completion statuses among the words of a line, by number or name; and RAX among registers.
pub(super) fn statuses(line: &str) -> Vec<Subject> {
    let is_status = |subject: &Subject| match subject {
        Subject::Status(status) => status.known && status.error,
        _ => false,
    };
    // Other registers of a dump hold anything.
    let is_register = |word: &str| (3..5).contains(&word.len()) && word.starts_with('R') && word.ends_with(':');
    if line.to_ascii_uppercase().split_whitespace().any(is_register) {
        return of_rax(line).filter(is_status).into_iter().collect();
    }
    let mut found: Vec<Subject> = Vec::new();
    for word in line.split(|c: char| c.is_whitespace() || "=(),;|:".contains(c)) {
        let bare = bare(word);
        let named = bare.starts_with("TDX_");
        let whole = bare.trim_start_matches("0x").len() == 16 && (bare.starts_with("0x") || bare.len() == 16);
        if !(named || whole) {
            continue;
        }
        let Some(subject) = usual(&bare).filter(is_status) else { continue };
        match found.iter_mut().find(|other| same(other, &subject) || named && code_of(other) == code_of(&subject)) {
            // A number says more than its name.
            Some(other) if !named => *other = subject,
            Some(_) => {}
            None => found.push(subject),
        }
    }
    found
}

/// The name of a status without its operand.
fn code_of(subject: &Subject) -> Option<&str> {
    let Subject::Status(status) = subject else { return None };
    status.name.as_deref().and_then(|name| name.split(' ').next())
}

pub(super) fn known(subject: &Subject) -> bool {
    match subject {
        Subject::Status(status) => status.known,
        Subject::Errno(errno) => errno.known,
        Subject::Msr(msr) => msr.known,
        Subject::Log(_) => false,
    }
}

/// Two writings of one value: a status by number and by name.
pub(super) fn same(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Status(a), Subject::Status(b)) => a.name == b.name,
        _ => a == b,
    }
}

/// The values of a text that is nothing but values.
pub(super) fn several(text: &str) -> Vec<Subject> {
    let words = text.split([' ', '\t', ',', ';', '\n']).map(bare).filter(|word| word.len() > 1);
    let values: Option<Vec<Subject>> = words.take(MOST_VALUES + 1).map(|word| usual(&word).filter(known)).collect();
    values.filter(|values| (2..=MOST_VALUES).contains(&values.len())).unwrap_or_default()
}

/// Why a text with values in it is none: there are several, or letters stand where digits belong.
pub(super) fn why_not(text: &str) -> Option<String> {
    let words = || text.split([' ', '\t', ',', ';', '\n']).map(bare).filter(|word| word.len() > 1);
    let is_value = |word: &String| {
        let marked = word.starts_with("0x") || word.starts_with("TDX_") || word.len() == 16;
        marked && usual(word).is_some_and(|subject| known(&subject))
    };
    let values: Vec<String> = words().filter(is_value).take(MOST_VALUES).collect();
    if values.len() > 1 {
        return Some(format!("holds several values; explain one at a time: {}", values.join(", ")));
    }
    let digits = |word: &str| word.replace(['O', 'o'], "0").replace(['l', 'I'], "1");
    let meant = words().map(|word| digits(&word)).find(|word| {
        let long = word.starts_with("0x") && word.len() > 10 || word.len() == 16;
        long && !text.contains(word.as_str()) && usual(word).is_some_and(|subject| known(&subject))
    })?;
    Some(format!("has letters where digits belong: was {meant} meant?"))
}

/// Values of a text that are explained or named.
const MOST_VALUES: usize = 8;

/// A line of a shell whose output is wanted.
pub(super) fn is_command(text: &str) -> bool {
    let text = text.trim_start_matches(['$', '#', ' ']).trim_start_matches("sudo ");
    ["dmesg", "journalctl", "cat ", "ras-mc-ctl", "mcelog", "rdmsr "].iter().any(|program| text.starts_with(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_no_value() {
        assert_eq!(several("0xc000050500000000 0x8000020000000092").len(), 2);
        assert_eq!(several("TDX_OPERAND_BUSY, -28; EIO").len(), 3);
        assert!(several("0xc000050500000000").is_empty() && several("0xc000050500000000 and -28").is_empty());
        for (text, says) in [
            ("OxcOOO0505OOOOOOOO", "was 0xc000050500000000 meant"),
            ("0xcOO0050500000000", "was 0xc000050500000000 meant"),
            ("0xc000050500000000 0x8000020000000092", "one at a time: 0xc000050500000000, 0x8000020000000092"),
            ("TDX_OPERAND_BUSY, TDX_PAGE_METADATA_INCORRECT", "several values"),
        ] {
            assert!(why_not(text).is_some_and(|why| why.contains(says)), "{text}: {:?}", why_not(text));
        }
        for text in ["0xc000050500000000", "TDX_OPERAND_BUSY", "hello world", "Ohello0000000000", "0xOO"] {
            assert_eq!(why_not(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_left_of_a_time_stamp() {
        for text in ["[    0.", "[0", "0.", "<0>", "0:"] {
            assert_eq!(value(text), None, "{text}");
        }
        for text in ["0ULL", "(0)", "`0`", "0,", "[0x0000000000000000]"] {
            assert!(value(text).is_some(), "{text}");
        }
    }

    #[test]
    fn unsigned_errnos() {
        assert_eq!((negative(0xffff_ffff_ffff_ffe4), negative(0xffff_ffe4)), (Some(28), Some(28)));
        assert_eq!(
            (negative(0), negative(28), negative(0xc000_0300_0000_0001), negative(1 << 63)),
            (None, None, None, None)
        );
    }
}
