//! The Rust object as assembly that a kernel's own build can assemble. Stable Rust knows nothing of
//! return thunks, retpolines and indirect branch tracking, whose form depends on the kernel's
//! configuration; here each return and each indirect call becomes the kernel's macro for it, and
//! each function begins with ENDBR. So the module is as safe as the C code around it, in any
//! kernel, and a package with it needs no Rust where it is built. Refuses whatever it does not
//! know: a line that is passed over is a line that nobody checked.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

const HEADER: &str = "\
/* Made by `cargo xtask linux-module` from linux/object, crates/tdx-host and crates/tdx-abi: do not edit. */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/ibt.h>
#include <asm/nospec-branch.h>

";

/// SEAMCALL's software status for a fault: bit 63 and bits 47:40, beside the vector that the kernel
/// puts into RAX. No register is free there.
const FAULT_STATUS_BITS: [u32; 9] = [40, 41, 42, 43, 44, 45, 46, 47, 63];

/// Directives that say nothing to a kernel: it makes its own unwind tables.
const DROPPED: [&str; 8] = [".cfi_", ".file", ".loc", ".ident", ".addrsig", ".hidden", ".globl", ".global"];

/// Rewrites what the compiler has made. `exports` stay visible; `imports` may be wanted of others.
pub(super) fn for_kernel(made: &str, exports: &[&str], imports: &[&str]) -> Result<String> {
    let mut out = String::from(HEADER);
    for export in exports {
        // Writing to a string never fails.
        let _ = writeln!(out, "\t.globl\t{export}");
    }
    let mut rewriter = Rewriter::default();
    for (number, line) in made.lines().enumerate() {
        rewriter.line(&mut out, line).with_context(|| format!("line {} of the assembly: {line}", number + 1))?;
    }
    rewriter.fix_ups(&mut out)?;
    out.push_str("\t.section\t.note.GNU-stack,\"\",@progbits\n");
    for export in exports {
        ensure!(rewriter.labels.contains(*export), "the object does not have {export}");
    }
    let strange =
        rewriter.wanted.iter().find(|name| !rewriter.labels.contains(*name) && !imports.contains(&name.as_str()));
    ensure!(strange.is_none(), "the object wants {}, which neither it nor the shim has", strange.unwrap());
    Ok(out)
}

#[derive(Default)]
struct Rewriter {
    functions: BTreeSet<String>,
    labels: BTreeSet<String>,
    wanted: BTreeSet<String>,
    /// In the table of instructions that may fault: what it says, instead of code.
    in_fix_ups: bool,
    /// In a section for debuggers.
    in_debug: bool,
    pairs: Vec<String>,
}

impl Rewriter {
    fn line(&mut self, out: &mut String, line: &str) -> Result<()> {
        let line =
            if line.contains('"') { line.trim_end() } else { line.split('#').next().unwrap_or_default().trim_end() };
        let text = line.trim();
        if text.is_empty() || DROPPED.iter().any(|directive| text.starts_with(directive)) {
            return Ok(());
        }
        if let Some(section) = text.strip_prefix(".section") {
            return self.section(out, section.trim());
        }
        if [".text", ".data", ".bss"].contains(&text) {
            self.in_fix_ups = false;
            self.in_debug = false;
        }
        if self.in_debug {
            return Ok(());
        }
        if self.in_fix_ups {
            return self.fix_up(text);
        }
        if let Some(name) = text.strip_prefix(".type").and_then(|rest| rest.trim().strip_suffix(",@function")) {
            self.functions.insert(name.to_owned());
        }
        // Writing to a string never fails.
        if let Some(label) = text.strip_suffix(':') {
            let _ = writeln!(out, "{label}:");
            self.labels.insert(label.to_owned());
            if self.functions.contains(label) {
                out.push_str("\tENDBR\n");
            }
            return Ok(());
        }
        if text.starts_with('.') {
            self.names(text);
            let _ = writeln!(out, "{line}");
            return Ok(());
        }
        self.instruction(out, text)
    }

    fn section(&mut self, out: &mut String, rest: &str) -> Result<()> {
        let name = rest.split(',').next().unwrap_or_default().trim_matches('"');
        self.in_fix_ups = name == "cleanslate_fixups";
        self.in_debug = name.starts_with(".debug_");
        let is = |prefix: &str| name == prefix || name.starts_with(&format!("{prefix}."));
        out.push_str(match name {
            "cleanslate_fixups" => "",
            _ if is(".text") => "\t.text\n",
            _ if is(".data.rel.ro") => "\t.section\t.data.rel.ro,\"aw\",@progbits\n",
            _ if is(".rodata") => "\t.section\t.rodata,\"a\",@progbits\n",
            _ if is(".data") => "\t.data\n",
            _ if is(".bss") => "\t.bss\n",
            _ if is(".note") || self.in_debug => "",
            _ => bail!("a section that no kernel expects"),
        });
        Ok(())
    }

    /// `.long .Linstruction-.Lhere` and `.long .Lfixup-.Lhere`, in turn.
    fn fix_up(&mut self, text: &str) -> Result<()> {
        if let Some(distance) = text.strip_prefix(".long") {
            let (target, _) = distance.trim().split_once('-').context("no distance")?;
            self.pairs.push(target.to_owned());
        } else {
            ensure!(text.starts_with(".p2align") || text.ends_with(':'), "unknown line in the table of fix-ups");
        }
        Ok(())
    }

    fn fix_ups(&self, out: &mut String) -> Result<()> {
        ensure!(self.pairs.len().is_multiple_of(2), "the table of fix-ups is cut off");
        out.push_str("\t.text\n");
        for (index, pair) in self.pairs.chunks(2).enumerate() {
            // Writing to a string never fails. The kernel puts the vector into RAX.
            let _ = writeln!(out, ".Lcleanslate_fault_{index}:");
            for bit in FAULT_STATUS_BITS {
                let _ = writeln!(out, "\tbtsq\t${bit}, %rax");
            }
            let _ = writeln!(out, "\tjmp\t{}\n\t_ASM_EXTABLE_FAULT({}, .Lcleanslate_fault_{index})", pair[1], pair[0]);
        }
        Ok(())
    }

    fn instruction(&mut self, out: &mut String, text: &str) -> Result<()> {
        let vector = ["%xmm", "%ymm", "%zmm", "%st(", "%mm"].iter().find(|name| text.contains(*name));
        ensure!(vector.is_none(), "a register that a kernel must not touch");
        ensure!(!text.contains("%fs:") && !text.contains("%gs:"), "a segment that belongs to the kernel");
        let (mnemonic, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let operands = operands.trim();
        self.names(operands);
        let bare = mnemonic.trim_end_matches('q');
        // Writing to a string never fails.
        let _ = match (bare, operands) {
            ("ret", "") => writeln!(out, "\tRET"),
            ("ret", _) => bail!("a return that takes arguments away"),
            ("call" | "jmp", target) if target.starts_with('*') => {
                let target = &target[1..];
                let nospec = if bare == "call" { "CALL_NOSPEC" } else { "JMP_NOSPEC" };
                if let Some(symbol) = target.strip_suffix("@GOTPCREL(%rip)") {
                    writeln!(out, "\t{bare}\t{symbol}")
                } else if let Some(register) = target.strip_prefix('%') {
                    writeln!(out, "\t{nospec} {register}")
                } else {
                    // R11 belongs to nobody at a call.
                    writeln!(out, "\tmovq\t{target}, %r11\n\t{nospec} r11")
                }
            }
            ("mov", _) if operands.contains("@GOTPCREL(%rip)") => {
                writeln!(out, "\tleaq\t{}", operands.replacen("@GOTPCREL", "", 1))
            }
            _ if operands.contains("@GOT") => {
                bail!("a use of the global offset table that is neither a call nor a load")
            }
            ("syscall" | "sysret" | "iret" | "int" | "hlt", _) => bail!("an instruction that has no place here"),
            _ => writeln!(out, "\t{text}"),
        };
        Ok(())
    }

    /// Remembers the symbols of an operand, so that those which nobody has are found here and not
    /// by the loader.
    fn names(&mut self, operands: &str) {
        if operands.starts_with(".ascii") || operands.starts_with(".asciz") {
            return;
        }
        let words = operands.split(|c: char| !(c.is_ascii_alphanumeric() || "_.$%@".contains(c)));
        for word in words {
            let name = word.split('@').next().unwrap_or_default();
            if name.starts_with("_ZN")
                || name.starts_with("_R")
                || name.starts_with("cleanslate_")
                || name.starts_with("mem")
                || name == "bcmp"
            {
                self.wanted.insert(name.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::for_kernel;

    fn made(body: &str) -> anyhow::Result<String> {
        for_kernel(&format!("\t.type\tf,@function\nf:\n{body}"), &["f"], &["memcpy"])
    }

    #[test]
    fn returns_and_indirect_branches_are_the_kernels() {
        let out = made("\tcallq\t*%rbx\n\tcallq\t*24(%rax)\n\tjmpq\t*%rcx\n\tcallq\t*memcpy@GOTPCREL(%rip)\n\tretq\n")
            .unwrap();
        let code = out.split_once("f:\n").unwrap().1;
        assert!(code.starts_with(
            "\tENDBR\n\tCALL_NOSPEC rbx\n\tmovq\t24(%rax), %r11\n\tCALL_NOSPEC r11\n\tJMP_NOSPEC rcx\n\tcall\tmemcpy\n\tRET\n"
        ));
    }

    #[test]
    fn what_a_kernel_cannot_have_is_refused() {
        for (line, why) in [
            ("\tmovaps\t%xmm0, (%rdi)", "must not touch"),
            ("\tmovq\t%fs:0, %rax", "belongs to the kernel"),
            ("\tcallq\tmemchr", "neither it nor the shim has"),
            ("\t.section\t.init_array,\"aw\"", "no kernel expects"),
            ("\tcmpq\tx@GOTPCREL(%rip), %rax", "neither a call nor a load"),
            ("\tretq\t$8", "takes arguments away"),
        ] {
            let error = format!("{:#}", made(line).unwrap_err());
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn a_fault_of_seamcall_goes_to_its_fix_up() {
        let out = made(
            ".Ltmp0:\n\tseamcall\n.Ltmp1:\n\tretq\n\t.section\tcleanslate_fixups,\"aR\",@progbits\n\t.p2align\t2, 0x0\n.Ltmp2:\n\
             \t.long\t.Ltmp0-.Ltmp2\n.Ltmp3:\n\t.long\t.Ltmp1-.Ltmp3\n\t.text\n",
        )
        .unwrap();
        assert!(out.contains("\tjmp\t.Ltmp1\n\t_ASM_EXTABLE_FAULT(.Ltmp0, .Lcleanslate_fault_0)"));
        assert!(!out.contains(".long"));
    }
}
