//! The command line of the next kernel: does it keep everything that runs before this module's next
//! load out of the pool? Read as Linux reads it, and as the kernel's decompressor does, which
//! chooses a random place for the kernel (KASLR, `arch/x86/boot/compressed/kaslr.c`). What is not
//! certain is no.

use core::ffi::CStr;

/// Ranges of `memmap=` that KASLR heeds, over all words (`MAX_MEMMAP_REGIONS`). It drops a further
/// word without notice.
const SLOTS: u32 = 4;

/// A number as `memparse()` reads it, and what is behind it. `None` if there is none, or if it does
/// not fit.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (radix, mut rest) = match text {
        [b'0', b'x' | b'X', digits @ ..] if digits.first().is_some_and(u8::is_ascii_hexdigit) => (16, digits),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    if !rest.first()?.is_ascii_hexdigit() {
        return None;
    }
    let (mut value, mut digits) = (0u64, 0u32);
    while let [first, behind @ ..] = rest
        && let Some(digit) = char::from(*first).to_digit(radix)
    {
        value = value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
        digits += 1;
        rest = behind;
    }
    let shift = match rest.first().map(u8::to_ascii_uppercase) {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        Some(b'P') => 50,
        Some(b'E') => 60,
        _ => 0,
    };
    let rest = if shift == 0 { rest } else { rest.get(1..)? };
    (digits > 0).then_some(())?;
    Some((value.checked_mul(1 << shift)?, rest))
}

/// What a part of `memmap=` says.
enum Part {
    /// `SIZE`: no memory above it.
    Limit,
    /// `SIZE$BASE`.
    Reserved(u64, u64),
    /// `SIZE#BASE`, ACPI data: KASLR counts it. `SIZE@BASE`, memory: it does not.
    Other { base: u64, bytes: u64, is_counted: bool },
}

/// `None` for `exactmap`, which forgets all ranges before it, `%`, which changes what a range is,
/// `!`, which gives it to a driver, and whatever Linux cannot read.
fn part(text: &[u8]) -> Option<Part> {
    let (bytes, rest) = number(text)?;
    let (kind, base) = match rest {
        [] => return Some(Part::Limit),
        [kind @ (b'$' | b'#' | b'@'), base @ ..] => (*kind, number(base)?),
        _ => return None,
    };
    let (base, []) = base else { return None };
    Some(if kind == b'$' { Part::Reserved(base, bytes) } else { Part::Other { base, bytes, is_counted: kind == b'#' } })
}

/// Why a kernel with this command line could use the pool before this module is loaded there, or
/// `None`.
pub(crate) fn refusal(line: &[u8], pool: u64, pool_bytes: u64) -> Option<&'static CStr> {
    if line.iter().any(|byte| !(b' '..=b'~').contains(byte) || *byte == b'"') {
        return Some(c"the next kernel's command line has quotes, tabs or other such characters");
    }
    // What is behind "--" is for the init process.
    let words = || line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).take_while(|word| *word != b"--");
    // Without KASLR the kernel stays where the kexec has put it.
    let is_random = !words().any(|word| word == b"nokaslr");
    let (mut is_reserved, mut is_heeded) = (false, false);
    // Does KASLR read on, and how many ranges has it heeded?
    let (mut reads, mut slots) = (true, 0);
    for word in words() {
        if word == b"mem" {
            return Some(c"the next kernel's command line has mem without a value");
        }
        if let Some(limit) = word.strip_prefix(b"mem=") {
            let is_zero = number(limit).is_none_or(|(bytes, _)| bytes == 0);
            // KASLR ends its search there.
            reads = reads && (limit == b"nopentium" || !is_zero);
        }
        let Some(parts) = word.strip_prefix(b"memmap=") else { continue };
        for text in parts.split(|byte| *byte == b',') {
            let Some(part) = part(text) else {
                return Some(c"the next kernel's command line has a memmap= that may undo the reservation of the pool");
            };
            let (base, is_counted, covers) = match part {
                Part::Limit => continue,
                Part::Reserved(base, bytes) => {
                    let covers = pool
                        .checked_sub(base)
                        .and_then(|before| bytes.checked_sub(before))
                        .is_some_and(|rest| pool_bytes <= rest);
                    (base, true, covers)
                }
                Part::Other { base, bytes, is_counted } => {
                    if base < pool.saturating_add(pool_bytes) && pool < base.saturating_add(bytes) {
                        return Some(c"the next kernel's command line makes the pool something else (memmap=)");
                    }
                    (base, is_counted, false)
                }
            };
            is_reserved |= covers;
            // A range at 0 is a limit to KASLR.
            if is_counted && base != 0 && slots < SLOTS && reads {
                is_heeded |= covers;
                slots += 1;
            }
        }
    }
    if !is_reserved {
        Some(c"the next kernel's command line does not reserve the pool (memmap=)")
    } else if is_random && !is_heeded {
        Some(c"KASLR of the next kernel would not heed the reservation of the pool (memmap= further ahead, or nokaslr)")
    } else {
        None
    }
}
