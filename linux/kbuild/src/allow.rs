//! Allow-lists of the rewriter: mnemonics, prefixes, registers, directives and sections.
//!
//! Integer instructions that a compiler emits for `x86_64-unknown-none`, and the few that
//! `tdx_host::arch` writes by hand. Returns, `call` and `jmp` are not in the list of mnemonics: the
//! rewriter handles each of their forms. Not in any list, and so rejected: vector and x87
//! instructions, I/O, MSRs, control registers, segments, flags (`popf`, `cli`, `std`), `int`,
//! `syscall`, `hlt`, far and interrupt returns, VMX, and all VEX- and EVEX-encoded instructions.

/// Mnemonics with a width: each with `b`, `w`, `l` or `q`.
const WITH_WIDTH: [&str; 35] = [
    "adc", "add", "and", "bsf", "bsr", "bswap", "bt", "btc", "btr", "bts", "cmp", "cmpxchg", "dec", "div", "idiv",
    "imul", "inc", "lea", "mov", "mul", "neg", "not", "or", "pop", "push", "rol", "ror", "sar", "sbb", "shl", "shld",
    "shr", "shrd", "sub", "test",
];

/// More of them.
const WITH_WIDTH_TOO: [&str; 3] = ["xadd", "xchg", "xor"];

/// Mnemonics as they are.
const PLAIN: [&str; 23] = [
    "clflushopt",
    "cltd",
    "cltq",
    "cpuid",
    "cqto",
    "cwtl",
    "mfence",
    "movabsq",
    "movdir64b",
    "movsbl",
    "movsbq",
    "movsbw",
    "movslq",
    "movswl",
    "movswq",
    "movzbl",
    "movzbq",
    "movzbw",
    "movzwl",
    "movzwq",
    "pause",
    "prefetcht0",
    "wbinvd",
];

/// Condition codes, as the disassembler of LLVM spells them.
const CONDITIONS: [&str; 16] = ["a", "ae", "b", "be", "e", "g", "ge", "l", "le", "ne", "no", "np", "ns", "o", "p", "s"];

/// Instructions that may have a `lock` prefix, without their width.
const LOCKABLE: [&str; 17] = [
    "adc", "add", "and", "btc", "btr", "bts", "cmpxchg", "dec", "inc", "neg", "not", "or", "sbb", "sub", "xadd",
    "xchg", "xor",
];

/// String instructions with their prefix, and the operands that each has.
const STRING: [(&str, &str); 8] = [
    ("rep;movsb", "(%rsi), %es:(%rdi)"),
    ("rep;movsw", "(%rsi), %es:(%rdi)"),
    ("rep;movsl", "(%rsi), %es:(%rdi)"),
    ("rep;movsq", "(%rsi), %es:(%rdi)"),
    ("rep;stosb", "%al, %es:(%rdi)"),
    ("rep;stosw", "%ax, %es:(%rdi)"),
    ("rep;stosl", "%eax, %es:(%rdi)"),
    ("rep;stosq", "%rax, %es:(%rdi)"),
];

/// Registers of an operand besides `r8` to `r15`.
const REGISTERS: [&str; 37] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp",
    "esp", "ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "al", "bl", "cl", "dl", "ah", "bh", "ch", "dh", "sil",
    "dil", "bpl", "spl",
];

/// Directives for debuggers, unwinders and the visibility of symbols: dropped. A kernel makes its
/// own unwind tables, and visibility is what the header says.
const DROPPED: [&str; 7] = [".file", ".loc", ".ident", ".addrsig", ".addrsig_sym", ".hidden", ".globl"];

/// Is this instruction, without prefix, one that may be copied as it is?
#[must_use]
pub fn is_mnemonic(mnemonic: &str) -> bool {
    PLAIN.contains(&mnemonic)
        || without_width(mnemonic).is_some_and(|bare| WITH_WIDTH.contains(&bare) || WITH_WIDTH_TOO.contains(&bare))
        || mnemonic.strip_prefix("set").is_some_and(is_condition)
        || mnemonic.strip_prefix("cmov").and_then(without_width).is_some_and(is_condition)
}

/// Is this a conditional branch?
#[must_use]
pub fn is_conditional_branch(mnemonic: &str) -> bool {
    mnemonic.strip_prefix('j').is_some_and(is_condition)
}

/// May this instruction have a `lock` prefix?
#[must_use]
pub fn is_lockable(mnemonic: &str) -> bool {
    without_width(mnemonic).is_some_and(|bare| LOCKABLE.contains(&bare))
}

/// The operands that a string instruction with its prefix must have.
#[must_use]
pub fn string_operands(mnemonic: &str) -> Option<&'static str> {
    STRING.iter().find(|(name, _)| *name == mnemonic).map(|(_, operands)| *operands)
}

/// Is this a general-purpose register, or RIP? Without its `%`.
#[must_use]
pub fn is_register(name: &str) -> bool {
    let numbered = || {
        let number = name.strip_prefix('r')?.trim_end_matches(['b', 'w', 'd']);
        let width = name.len() - number.len() - 1;
        Some(width <= 1 && ["8", "9", "10", "11", "12", "13", "14", "15"].contains(&number))
    };
    REGISTERS.contains(&name) || numbered() == Some(true)
}

/// May an indirect branch go through this register? The kernel has thunks for all but RSP.
#[must_use]
pub fn is_branch_register(name: &str) -> bool {
    is_register(name) && name.starts_with('r') && !name.ends_with(['b', 'w', 'd']) && !["rsp", "rip"].contains(&name)
}

/// Is this directive dropped?
#[must_use]
pub fn is_dropped(directive: &str) -> bool {
    directive.starts_with(".cfi_") || DROPPED.contains(&directive)
}

/// What a section becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// `.text`.
    Text,
    /// `.data`, `.rodata`, `.data.rel.ro` or `.bss`: the directive that selects it.
    Data(&'static str),
    /// `cleanslate_fixups`: the table of instructions that may fault.
    FixUps,
    /// Sections for debuggers, and the mark that the stack is not executable: dropped.
    Dropped,
}

/// The section of this name, with these flags.
#[must_use]
pub fn section(name: &str, flags: Option<&str>) -> Option<Section> {
    let is = |section: &str| name.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let found = match name {
        "cleanslate_fixups" => Section::FixUps,
        ".note.GNU-stack" => Section::Dropped,
        _ if name.starts_with(".debug_") => Section::Dropped,
        _ if is(".text") => Section::Text,
        _ if is(".data.rel.ro") => Section::Data("\t.section\t.data.rel.ro,\"aw\",@progbits\n"),
        _ if is(".rodata") => Section::Data("\t.section\t.rodata,\"a\",@progbits\n"),
        _ if is(".data") => Section::Data("\t.data\n"),
        _ if is(".bss") => Section::Data("\t.bss\n"),
        _ => return None,
    };
    let executable = flags.is_some_and(|flags| flags.contains('x'));
    (executable == (found == Section::Text) || flags.is_none()).then_some(found)
}

fn is_condition(text: &str) -> bool {
    CONDITIONS.contains(&text)
}

/// `movq` -> `mov`.
fn without_width(mnemonic: &str) -> Option<&str> {
    mnemonic.strip_suffix(['b', 'w', 'l', 'q'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_with_and_without_width() {
        for good in ["movq", "cmovnel", "setbe", "movzbl", "wbinvd", "xchgb", "btsq"] {
            assert!(is_mnemonic(good), "{good}");
        }
        for bad in ["mov", "retq", "callq", "jmp", "movaps", "movnti", "popfq", "wrmsr", "lock", "setq", "cmove", ""] {
            assert!(!is_mnemonic(bad), "{bad}");
        }
    }

    #[test]
    fn only_general_purpose_registers() {
        for good in ["rax", "r8", "r15d", "r9b", "sil", "rip"] {
            assert!(is_register(good), "{good}");
        }
        for bad in ["xmm0", "r16", "r8bb", "cr0", "fs", "es", "st", "k1", "r", "r1", "bnd0", "dr7"] {
            assert!(!is_register(bad), "{bad}");
        }
        for bad in ["rsp", "rip", "eax", "r8d", "al"] {
            assert!(!is_branch_register(bad), "{bad}");
        }
    }
}
