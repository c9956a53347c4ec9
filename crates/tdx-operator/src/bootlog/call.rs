//! SEAMCALLs that failed, and exits from a TD, in any wording: by leaf number or name, with or
//! without prefix, with the status as a number, a name or both.
//!
//! The wordings are those of the TDX backports since 5.10, of KVM since 6.16 and of QEMU.

use tdx_abi::{Leaf, Status, StatusCode};

use super::number::{bare_hex, decimal, hex};

/// What a line says of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Call {
    /// The leaf, if the line names one that is known by number.
    pub(crate) leaf: Option<Leaf>,
    /// The completion status; `None` if the line does not show it whole.
    pub(crate) status: Option<Status>,
    /// The KeyID of the TD, and how an address of page 0 looks with it.
    pub(crate) key_id: Option<(u64, u64)>,
    /// A KeyID that the kernel gave up.
    pub(crate) leaked: Option<u64>,
    /// The call is one of the P-SEAMLDR, which loads the module, by number.
    pub(crate) loader: Option<u16>,
}

/// P-SEAMLDR call that installs a module.
pub(crate) const INSTALL: u16 = 1;

/// Parses a line about a failed call or an exit from a TD; `None` for any other line.
///
/// `message` is without the prefixes of the log.
pub(crate) fn of(message: &str) -> Option<Call> {
    let text = without_tags(message);
    if let Some(exit) = text.strip_prefix("TD exit ").or_else(|| text.strip_prefix("TD vp_enter_ret ")) {
        return Some(exit_of(exit));
    }
    // Trace events have the process and the time before their name.
    let text = text.find("kvm_tdx_seamcall_exit: ").and_then(|at| text.get(at..)).unwrap_or(text);
    if let Some((_, exit)) = text.split_once("vp_enter_ret ").filter(|(before, _)| before.len() < 40) {
        return Some(exit_of(exit));
    }
    if let Some(rest) = text.strip_prefix("TDX ioctl ") {
        let (_, status) = rest.split_once("hw_errors: ")?;
        return Some(Call { status: whole(status), ..Call::default() });
    }
    if let Some((number, rest)) = loader(text) {
        let failed = text.contains("fail") || rest.contains("error");
        return failed.then(|| Call { loader: Some(number), status: status(rest), ..Call::default() });
    }
    let upper = text.to_ascii_uppercase();
    let (leaf, rest) = if let Some(at) = upper.find("SEAMCALL").filter(|at| *at < 24) {
        leaf_of(&text[at + "SEAMCALL".len()..])
    } else if let Some(at) = name_at(&upper) {
        named(text.get(at..)?)
    } else {
        return by_status(text).filter(|_| text.len() < message.trim().len());
    };
    let words = ["fail", "error", "err ", "err=", "err:", "ret ", "ret=", "ret:", "returned", "TDX_", "is leaked"];
    let named = rest.contains("status") && status(rest).is_some();
    if !named && !words.iter().any(|word| rest.contains(word)) {
        return None;
    }
    if succeeded(rest) {
        return None;
    }
    let leaked = rest.split_once("HKID ").filter(|_| rest.contains("is leaked")).and_then(|(_, rest)| first(rest));
    // `SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122`: the leaf is behind.
    let behind = |word: &str| {
        let (before, after) = rest.split_once(word)?;
        let whole = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
        number(word_of(after.trim_start_matches([' ', ':', '=']))).filter(|_| whole)
    };
    let leaf = leaf.or_else(|| behind("leaf")).or_else(|| behind("op"));
    Some(Call { leaf, status: status(rest), leaked, ..Call::default() })
}

/// A call of the P-SEAMLDR: `SEAMCALL (0x8000000000000001) failed: ..` (bit 63 selects it),
/// `SEAMLDR.INSTALL failed: ..`, `P-SEAMLDR ..`; and what follows it.
fn loader(text: &str) -> Option<(u16, &str)> {
    let names = [("SEAMLDR.INSTALL", INSTALL), ("SEAMLDR_INSTALL", INSTALL), ("SEAMLDR.INFO", 0), ("SEAMLDR_INFO", 0)];
    let upper = text.to_ascii_uppercase();
    for (name, number) in names {
        if let Some(at) = upper.find(name).filter(|at| *at < 24) {
            return Some((number, text.get(at + name.len()..)?));
        }
    }
    let at = upper.find("SEAMCALL").filter(|at| *at < 24)?;
    let rest = text.get(at + "SEAMCALL".len()..)?.trim_start();
    let rest = rest.strip_prefix(['(', '[']).unwrap_or(rest);
    let rest =
        ["failed: leaf: ", "failed: leaf ", "leaf "].iter().find_map(|words| rest.strip_prefix(words)).unwrap_or(rest);
    let number = hex(word_of(rest)).filter(|number| number >> 63 == 1)?;
    Some((u16::try_from(number & 0xffff).ok()?, rest.strip_prefix(word_of(rest))?))
}

/// True for a call that did not fail: `ret=0`, `err 0`, `TDX_SUCCESS`.
fn succeeded(rest: &str) -> bool {
    let zero = |word: &str| {
        rest.split_once(word).is_some_and(|(_, after)| {
            let word = word_of(after.trim_start_matches([' ', ':', '=']));
            hex(word).or_else(|| decimal(word)) == Some(0) && !word.is_empty()
        })
    };
    rest.contains("TDX_SUCCESS") || !rest.contains("fail") && ["err", "ret", "returned", "status"].into_iter().any(zero)
}

/// Where the name of a leaf begins: at the start, or behind the name of a function.
fn name_at(upper: &str) -> Option<usize> {
    let behind = |name: &str| upper.find(name).filter(|at| *at < 48 && upper[..*at].ends_with(": "));
    if upper.starts_with("TDH") { Some(0) } else { behind("TDH_").or_else(|| behind("TDH.")) }
}

/// A line of TDX code that names no call, with a status that is an error and known.
fn by_status(text: &str) -> Option<Call> {
    let lower = text.to_ascii_lowercase();
    if !["fail", "error", "status"].iter().any(|word| lower.contains(word)) {
        return None;
    }
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| word.starts_with("0x"));
    let known = |status: &Status| status.is_error() && status.code().name().is_some();
    let status = words.filter_map(whole).find(known)?;
    Some(Call { status: Some(status), ..Call::default() })
}

/// Strips the tags of kernel modules and programs: `kvm_intel: `, `kvm [5101]: `, `virt/tdx: `,
/// `qemu-system-x86_64: `.
fn without_tags(message: &str) -> &str {
    let mut rest = message.trim();
    for _ in 0..4 {
        let Some((tag, after)) = rest.split_once(": ") else { break };
        let name = tag.split(' ').next().unwrap_or_default();
        let known = ["kvm_intel", "kvm", "virt/tdx", "tdx", "seamldr", "kvm-intel"].contains(&name)
            || tag == "TDX"
            || name.starts_with("qemu");
        if !known || tag.len() > 40 {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

/// `0x6000000500000006, 6 hkid 0x43 hkid pa 0x8600000000000`.
fn exit_of(text: &str) -> Call {
    let value = |word: &str| text.split_once(word).and_then(|(_, rest)| hex(word_of(rest)));
    let key_id = value(" hkid 0x").or_else(|| text.split_once(" hkid ").and_then(|(_, rest)| first(rest)));
    Call {
        leaf: Some(Leaf::VP_ENTER),
        // All 16 digits: 0 in the upper half is TDX_SUCCESS, with an exit reason.
        status: hex(word_of(text))
            .filter(|raw| *raw > u64::from(u32::MAX) || word_of(text).len() == 18 || is_followed(text))
            .map(Status::new),
        key_id: key_id.zip(value("hkid pa ")),
        leaked: None,
        loader: None,
    }
}

/// True if more of the line follows the number: it is not cut, and zeros in front are not printed.
fn is_followed(text: &str) -> bool {
    text.trim_start().strip_prefix(word_of(text)).is_some_and(|rest| rest.starts_with(", "))
}

/// The leaf after the word SEAMCALL, and what follows it.
fn leaf_of(text: &str) -> (Option<Leaf>, &str) {
    if let Some((inside, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        // `[TDH_MEM_RD(12)]`, `[TDH_MEM_RD(0xc)]`, `[TDHMEMRD]`, `[12]`.
        let (name, number_in) = inside.split_once('(').unwrap_or((inside, ""));
        let by_number = number(number_in.trim_end_matches(')')).or_else(|| number(name));
        return (by_number.or_else(|| by_name(name)), rest);
    }
    let text = text.trim_start();
    if let Some((inside, rest)) = text.strip_prefix('(').and_then(|text| text.split_once(')')) {
        return (number(inside).or_else(|| by_name(inside)), rest);
    }
    let text = text.strip_prefix("leaf ").unwrap_or(text);
    if text.starts_with("TDH") || text.starts_with("tdh") {
        return named(text);
    }
    let word = word_of(text);
    (number(word), text.strip_prefix(word).filter(|_| number(word).is_some()).unwrap_or(text))
}

/// `TDH_PHYMEM_PAGE_RECLAIM failed: ..`, `TDH_VP_RD[VMCS.0x4] failed ..`, `tdh_mng_key_freeid()
/// failed. ..`.
fn named(text: &str) -> (Option<Leaf>, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.trim_end_matches('.');
    // A field in brackets holds numbers that are no status.
    let rest = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(rest, |(_, rest)| rest);
    (by_name(name), rest)
}

/// A leaf by name: `TDH_MEM_RD`, `TDH.MEM.RD`, `tdh_mem_rd_2`.
pub(crate) fn by_name(name: &str) -> Option<Leaf> {
    let flat = |text: &str| text.replace(['_', '.'], "").to_ascii_uppercase();
    let wanted = flat(name);
    let wanted = wanted.strip_prefix("SEAMCALL").unwrap_or(&wanted);
    let wanted = wanted.strip_prefix("TDH").unwrap_or(wanted);
    // Linux names the KeyID or the TDR that a leaf is used with.
    let wanted = ["TDR", "HKID"].iter().find_map(|end| wanted.strip_suffix(end)).unwrap_or(wanted);
    Leaf::KNOWN.iter().find(|leaf| leaf.name().is_some_and(|name| flat(name) == wanted)).copied()
}

/// A leaf by number, in hex or decimal; its version is in the bits above.
fn number(text: &str) -> Option<Leaf> {
    let text = text.trim();
    let number = hex(text).or_else(|| decimal(text).filter(|_| !text.is_empty()))?;
    u16::try_from(number & 0xffff).ok().filter(|_| number >> 24 == 0).map(Leaf)
}

/// The status in what follows the call: the first whole number, or a name.
fn status(text: &str) -> Option<Status> {
    let mut named = None;
    // `op_value 0x.. failed: STATUS`: what stands before the word is no status.
    let after = text.split_once("fail").map_or(text, |(_, rest)| rest);
    // `leaf 0x.., rcx 0x.., error STATUS`.
    let after = after.split_once(", error 0x").map_or(after, |(before, _)| &after[before.len() + ", error ".len()..]);
    for word in after.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        if let Some(found) = whole(word) {
            return Some(found);
        }
        if named.is_none() && word.starts_with("TDX_") {
            named = StatusCode::KNOWN.iter().find(|code| code.name() == Some(word));
        }
        if matches!(word, "rcx" | "RCX" | "entry") {
            break;
        }
    }
    named.map(|code| code.with(0))
}

/// Every known status of an error on a line, by number.
pub(crate) fn statuses(text: &str) -> impl Iterator<Item = Status> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter_map(whole).filter(|status| status.is_error() && status.code().name().is_some())
}

/// A number that can be a whole completion status: more than 32 bits, with `0x` or of 16 digits.
fn whole(word: &str) -> Option<Status> {
    let word = word_of(word);
    let bare = || bare_hex(word).filter(|_| word.len() == 16);
    hex(word).or_else(bare).filter(|raw| *raw > u64::from(u32::MAX)).map(Status::new)
}

/// The first number, decimal or hex.
fn first(text: &str) -> Option<u64> {
    let word = word_of(text);
    hex(word).or_else(|| decimal(word).filter(|_| !word.is_empty()))
}

fn word_of(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    &text[..end]
}

/// RAX of a register dump: `RAX: c000030000000001 RBX: ..`.
pub(crate) fn rax(message: &str) -> Option<Status> {
    let (_, rest) = message.split_once("RAX: ").filter(|(before, _)| before.trim().is_empty())?;
    let word = word_of(rest);
    bare_hex(word).filter(|_| word.len() == 16).map(Status::new)
}

/// True for the first line of a warning in the kernel's TDX code.
pub(crate) fn is_warning(message: &str) -> bool {
    let code = ["arch/x86/kvm/vmx/tdx", "arch/x86/virt/vmx/tdx"];
    message.starts_with("WARNING: ") && code.iter().any(|path| message.contains(path))
}

/// The leaf that a function of the kernel makes, if it makes one only.
pub(crate) fn of_function(name: &str) -> Option<Leaf> {
    let name = name.trim_start_matches('_');
    let name = name.split(['+', '.']).next().unwrap_or_default();
    let known = [
        ("tdx_reclaim_page", Leaf::PHYMEM_PAGE_RECLAIM),
        ("tdx_reclaim_control_page", Leaf::PHYMEM_PAGE_RECLAIM),
        ("tdx_sept_free_private_spt", Leaf::PHYMEM_PAGE_RECLAIM),
        ("tdx_mem_page_aug", Leaf::MEM_PAGE_AUG),
        ("tdx_mem_page_add", Leaf::MEM_PAGE_ADD),
        ("tdx_track", Leaf::MEM_TRACK),
        ("tdx_flush_vp", Leaf::VP_FLUSH),
        ("tdx_flush_vp_on_cpu", Leaf::VP_FLUSH),
        ("smp_func_do_phymem_cache_wb", Leaf::PHYMEM_CACHE_WB),
        ("tdx_do_tdh_phymem_cache_wb", Leaf::PHYMEM_CACHE_WB),
        ("tdx_do_tdh_mng_key_config", Leaf::MNG_KEY_CONFIG),
        ("tdx_td_finalizemr", Leaf::MR_FINALIZE),
        ("tdx_td_finalize", Leaf::MR_FINALIZE),
        ("tdx_sys_disable", Leaf::SYS_DISABLE),
    ];
    let known = known.iter().find(|(function, _)| *function == name).map(|(_, leaf)| *leaf);
    known.or_else(|| name.strip_prefix("tdh_").and_then(by_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wording() {
        let reclaim = (Some(Leaf::PHYMEM_PAGE_RECLAIM), Some(0xc000_0300_0000_0001));
        for (line, leaf_and_status) in [
            ("SEAMCALL (0x000000000000001c) failed: 0xc000030000000001 RCX 0x0000000000000000 RDX 0x0", reclaim),
            ("virt/tdx: SEAMCALL (28) failed: 0xc000030000000001", reclaim),
            (
                "kvm_intel: SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001, rcx 0x0, rdx 0x0, r8 0x0",
                reclaim,
            ),
            ("SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001", reclaim),
            ("kvm_intel: SEAMCALL[TDH_PHYMEM_PAGE_RECLAIM] failed on cpu 3: 0xc000030000000001", reclaim),
            (
                "SEAMCALL[TDH_PHYMEM_PAGE_RECLAIM(0x1c)] failed: TDX_PAGE_METADATA_INCORRECT (0xc000030000000001)",
                reclaim,
            ),
            ("SEAMCALL[TDH_PHYMEM_PAGE_RECLAIM(28)] failed: TDX_PAGE_METADATA_INCORRECT(0xc000030000000001)", reclaim),
            ("SEAMCALL failed: CPU 94: leaf 28, error 0xc000030000000001.", reclaim),
            ("tdx: SEAMCALL leaf 0x1c failed, error 0xc000030000000001", reclaim),
            ("tdx: SEAMCALL failed: leaf: 0x1c, error: 0xc000030000000001", reclaim),
            ("tdx: SEAMCALL failed: leaf 0x1c, rcx 0x123456789000, error 0xc000030000000001.", reclaim),
            ("seamcall TDH.PHYMEM.PAGE.RECLAIM failed: 0xc000030000000001", reclaim),
            (
                "SEAMCALL[TDH_MEM_RD(12)] failed: Unknown SEAMCALL status code(0xe000060400000000)",
                (Some(Leaf::MEM_RD), Some(0xe000_0604_0000_0000)),
            ),
            (
                "SEAMCALL[TDH_MEM_PAGE_AUG(6)] TDX_EPT_WALK_FAILED(0xc0000b0000000001) Secure EPT walk error: SEPTE 0x0, level 1, SEPT_FREE",
                (Some(Leaf::MEM_PAGE_AUG), Some(0xc000_0b00_0000_0001)),
            ),
            (
                "kvm_intel: TDH_VP_RD[VMCS.0x4816] failed 0xc000070000000000",
                (Some(Leaf::VP_RD), Some(0xc000_0700_0000_0000)),
            ),
            (
                "kvm_intel: TDH_VP_WR[VMCS.0x4816]=0x1122334455667788 failed: 0xc000070000000000",
                (Some(Leaf::VP_WR), Some(0xc000_0700_0000_0000)),
            ),
            (
                "kvm_intel: TDH_MNG_RD[EXEC.0x10] failed: 0xc0000c0000000000",
                (Some(Leaf::MNG_RD), Some(0xc000_0c00_0000_0000)),
            ),
            ("TDH.SYS.DISABLE failed: 0xc000010000000000", (Some(Leaf::SYS_DISABLE), Some(0xc000_0100_0000_0000))),
            (
                "SEAMCALL TDH_MEM_PAGE_REMOVE failed: 0x8000020000000092, entry 0x1, level_state 0x2",
                (Some(Leaf::MEM_PAGE_REMOVE), Some(0x8000_0200_0000_0092)),
            ),
            ("SEAMCALL TDH_MNG_CREATE failed: TDX_OPERAND_BUSY", (Some(Leaf::MNG_CREATE), Some(0x8000_0200_0000_0000))),
            ("tdh_mng_key_freeid() failed. HKID 33 is leaked.", (Some(Leaf::MNG_KEY_FREEID), None)),
            (
                "qemu-system-x86_64: TDX ioctl 2 return with -5, hw_errors: 0xc000010000000040",
                (None, Some(0xc000_0100_0000_0040)),
            ),
            ("kvm_intel: tdh_phymem_page_reclaim() failed: c000030000000001", reclaim),
            ("kvm: TDX: tdh_phymem_page_reclaim returned 0xC000030000000001", reclaim),
            (
                "kvm_intel: Unexpected exit: vp_enter_ret 0x6000000500000006",
                (Some(Leaf::VP_ENTER), Some(0x6000_0005_0000_0006)),
            ),
            ("BUG: KVM: SEAMCALL leaf 0x1c status 0xC000030000000001", reclaim),
            ("tdx_clear_page: TDH_PHYMEM_PAGE_RECLAIM failed 0xc000030000000001", reclaim),
            ("tdx_seamcall: leaf=0x1c ret=0xc000030000000001", reclaim),
            ("tdx_seamcall_exit: op 28 err c000030000000001 name TDX_PAGE_METADATA_INCORRECT", reclaim),
            ("<...>-77 [003] d... 1234.5: kvm_tdx_seamcall_exit: op: 28 err: 0xc000030000000001", reclaim),
            // Cut: the status is not whole.
            ("SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc00003", (Some(Leaf::PHYMEM_PAGE_RECLAIM), None)),
            ("SEAMCALL (0x1c) failed:", (Some(Leaf::PHYMEM_PAGE_RECLAIM), None)),
            ("SEAMCALL[TDH_NEW_ONE(99)] failed: 0xc000030000000001", (Some(Leaf(99)), Some(0xc000_0300_0000_0001))),
        ] {
            let call = of(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((call.leaf, call.status.map(Status::raw)), leaf_and_status, "{line}");
        }
        for (line, number, status) in [
            ("seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000000003", 1, Some(0x8000_0000_0000_0003)),
            ("virt/tdx: SEAMCALL (0x8000000000000000) failed: 0x8000000000000003", 0, Some(0x8000_0000_0000_0003)),
            ("seamldr: SEAMLDR.INSTALL failed: 0x8000000000000003", 1, Some(0x8000_0000_0000_0003)),
            ("SEAMLDR_INSTALL failed on CPU 3, error 0x8000000000000003", 1, Some(0x8000_0000_0000_0003)),
            ("seamldr: SEAMCALL (0x8000000000000001) failed:", 1, None),
            (
                "seamldr: SEAMCALL failed: leaf 0x8000000000000001, rcx 0x123456000, error 0x8000000000000003.",
                1,
                Some(0x8000_0000_0000_0003),
            ),
        ] {
            let call = of(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((call.leaf, call.loader, call.status.map(Status::raw)), (None, Some(number), status), "{line}");
        }
        assert_eq!(of("seamldr: SEAMLDR.INFO: version 0"), None);
        let by_status = of("kvm_intel: Failed to reclaim page: status=0xc000030000000001").unwrap();
        assert_eq!((by_status.leaf, by_status.status.map(Status::raw)), (None, reclaim.1));
        // No tag of TDX code, no status that is known, no failure.
        for line in [
            "usb: failed: status=0xc000030000000001",
            "kvm_intel: failed at 0xc0ff030000000001",
            "kvm: gpa 0xc000030000000001",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        for line in [
            "tdx_seamcall_exit: op 28 err 0 (TDX_SUCCESS)",
            "SEAMCALL (0x1c) ret=0x0",
            "SEAMCALL TDH_PHYMEM_PAGE_RECLAIM returned 0",
            "<...>-77 [003] d... 1234.5: kvm_tdx_seamcall_exit: op: 28 err: 0x0",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        for line in ["usb 1-1: SEAMCALL", "TDX module: x", "virt/tdx: module initialized", "SEAMCALL (0x1c)", "tdh_x"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn exits_of_a_td() {
        let exit =
            of("kvm_intel: kvm [5101]: TD exit 0x6000000500000006, 6 hkid 0x43 hkid pa 0x8600000000000").unwrap();
        assert_eq!((exit.leaf, exit.status.map(Status::raw)), (Some(Leaf::VP_ENTER), Some(0x6000_0005_0000_0006)));
        assert_eq!(exit.key_id, Some((0x43, 0x8_6000_0000_0000)));
        let later = of("kvm_intel: TD vp_enter_ret 0x4000000200000000, hkid 0x21 hkid pa 0x420000000000").unwrap();
        assert_eq!(later.key_id, Some((0x21, 0x4200_0000_0000)));
        let short = of("kvm_intel: kvm [900]: TD exit 0x26, 38 hkid 0x41 hkid pa 0x8200000000000").unwrap();
        assert_eq!(short.status.map(Status::raw), Some(0x26), "zeros in front are not printed");
        assert_eq!(of("kvm_intel: kvm [900]: TD exit 0x60000").unwrap().status, None, "cut");
        assert_eq!(of("tdh_mng_vpflushdone() failed. HKID 33 is leaked.").unwrap().leaked, Some(33));
    }

    #[test]
    fn a_register_dump() {
        assert_eq!(rax("RAX: c000030000000001 RBX: 0000000000000001").map(Status::raw), Some(0xc000_0300_0000_0001));
        assert_eq!(
            (rax("RAX: c00003000000"), rax("XRAX: c000030000000001"), rax("RBX: 1 RAX: c000030000000001")),
            (None, None, None)
        );
        assert_eq!(of_function("__tdx_reclaim_page+0xac/0xe0"), Some(Leaf::PHYMEM_PAGE_RECLAIM));
        assert_eq!(of_function("tdh_mem_page_aug+0x1/0x2"), Some(Leaf::MEM_PAGE_AUG));
        assert_eq!(of_function("tdx_handle_exit+0x1/0x2"), None);
    }
}
