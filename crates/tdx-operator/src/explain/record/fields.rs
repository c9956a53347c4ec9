//! Fields that the forms of a machine-check record share.

use tdx_host::platform::CpuModel;

/// Hex digits, with or without `0x`.
pub(super) fn hex(text: &str) -> Option<u64> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let all = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    all.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The hex number after a word.
pub(super) fn value_of(text: &str, word: &str) -> Option<u64> {
    let mut words = text.split(' ');
    words.find(|found| *found == word)?;
    words.next().and_then(hex)
}

/// The number in `key=0x5`, `key= 5`, `key: 0x5`: hex, as all tools print it.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let (before, from) = rest.split_at(at);
        let after = &from[key.len()..];
        let whole = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if whole && let Some(value) = after.strip_prefix(['=', ':']) {
            let value = value.trim_start();
            let end = value.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(value.len());
            if let Some(number) = hex(&value[..end]) {
                return Some(number);
            }
        }
        rest = after;
    }
    None
}

/// `0:806f4`: vendor (0 is Intel) and CPUID.1:EAX.
pub(super) fn signature(text: &str) -> Option<CpuModel> {
    let (vendor, eax) = text.split_once(':')?;
    // A letter for a digit, as a photo is read, is no other vendor.
    vendor.parse::<u8>().ok()?;
    Some(CpuModel { intel: vendor == "0", ..of_eax(hex(eax)?)? })
}

/// CPUID.1:EAX of an Intel CPU.
pub(super) fn of_eax(eax: u64) -> Option<CpuModel> {
    let eax = u32::try_from(eax).ok().filter(|eax| *eax != 0)?;
    let (base_family, base_model) = (eax >> 8 & 0xf, eax >> 4 & 0xf);
    let family = if base_family == 0xf { base_family + (eax >> 20 & 0xff) } else { base_family };
    let model = if matches!(base_family, 6 | 0xf) { base_model | (eax >> 16 & 0xf) << 4 } else { base_model };
    Some(CpuModel { intel: true, family, model, stepping: eax & 0xf })
}

/// True if the words name a failed check of a memory controller. Poison that was only read from
/// memory is none: that is what a partial write leaves.
pub(super) fn names_memory_failure(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let names =
        ["ecc", "read error", "scrub", "scrubbing", "spare", "parity", "chipkill", "memory read", "memory write"];
    !text.contains("poison") && names.iter().any(|name| text.contains(name))
}

/// `corrected`, and not `uncorrected`.
pub(super) fn says_corrected(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("corrected") && !text.contains("uncorrected") || text.contains(" ce ")
}
