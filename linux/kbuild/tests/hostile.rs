//! Assembly that the rewriter must not let through: each line with the reason for which it is
//! rejected.

use cleanslate_kbuild::Problem::{self, *};
use cleanslate_kbuild::{Input, Rejected, for_kernel};

const EXPORTS: [&str; 1] = ["cleanslate_f"];
const IMPORTS: [&str; 1] = ["memcpy"];

fn rewrite(assembly: &str) -> Result<String, Rejected> {
    for_kernel(&Input { file: "object.s", assembly, exports: &EXPORTS, imports: &IMPORTS })
}

/// In a function, with a second function and data behind it.
fn in_function(line: &str) -> Result<String, Rejected> {
    rewrite(&format!(
        "\t.text\n\t.type\tcleanslate_f,@function\ncleanslate_f:\n{line}\n.LBB0_1:\n\tretq\n\
         \t.section\t.rodata,\"a\",@progbits\n.Ldata:\n\t.quad\t1\n"
    ))
}

fn assert_rejected(rewrite: impl Fn(&str) -> Result<String, Rejected>, cases: &[(&str, Problem)]) {
    for (line, problem) in cases {
        let rejected = match rewrite(line) {
            Err(rejected) => rejected,
            Ok(out) => panic!("{line:?} is accepted:\n{out}"),
        };
        assert_eq!(rejected.problem, *problem, "{line:?}: {rejected}");
    }
}

#[test]
fn the_frame_of_these_tests_is_accepted() {
    in_function("\tmovq\t%rax, %rbx").unwrap();
}

#[test]
fn the_error_names_file_line_and_text() {
    let rejected = in_function("\tmovaps\t%xmm0, (%rdi)").unwrap_err();
    assert_eq!(rejected.to_string(), "object.s:4: mnemonic not allowed: movaps\t%xmm0, (%rdi)");
}

#[test]
fn forms_of_return() {
    assert_rejected(
        in_function,
        &[
            ("\tretq\t$8", Return),
            ("\tret\t$0", Return),
            ("\tretq\t%rax", Return),
            ("\tretw", Mnemonic),
            ("\tlretq", Mnemonic),
            ("\tiretq", Mnemonic),
            ("\trep\tretq", Mnemonic),
            ("\trep;retq", Mnemonic),
            ("\tRETQ", Mnemonic),
            ("\tsysretq", Mnemonic),
        ],
    );
}

#[test]
fn forms_of_branch() {
    assert_rejected(
        in_function,
        &[
            ("\tcallq\t*%rsp", BranchTarget),
            ("\tcallq\t*%eax", BranchTarget),
            ("\tjmpq\t*%rip", BranchTarget),
            ("\tjmpq\t*%xmm0", BranchTarget),
            ("\tcallq\t**%rax", BranchTarget),
            ("\tcallq\t* %rax", BranchTarget),
            ("\tcallq\t*%fs:(%rax)", BranchTarget),
            ("\tcallq\t*%gs:0", BranchTarget),
            ("\tcallq\t*4096", BranchTarget),
            ("\tcallq\t*.Ldata", BranchTarget),
            ("\tcallq\t*(%rax,%rbx,3)", BranchTarget),
            ("\tcallq\t%rax", BranchTarget),
            ("\tcallq\tmemcpy@PLT", BranchTarget),
            ("\tcallq\tmemcpy+4", BranchTarget),
            ("\tcallq\t0x1234", BranchTarget),
            ("\tjmp\t.+2", BranchTarget),
            ("\tjmp\t1f", BranchTarget),
            ("\tjmp\t.", BranchTarget),
            ("\tjmp", BranchTarget),
            ("\tje\t*%rax", BranchTarget),
            ("\tje\t.LBB0_1+1", BranchTarget),
            ("\tjmp\t.Ldata", BranchTarget),
            ("\tje\t.Ldata", BranchTarget),
            ("\tcallq\tmemchr", UndefinedSymbol),
            ("\tcallq\t*memchr@GOTPCREL(%rip)", UndefinedSymbol),
            ("\tcallq\t*memcpy@GOTPCREL(%rax)", BranchTarget),
            ("\tcallw\tmemcpy", Mnemonic),
            ("\tljmpq\t*(%rax)", Mnemonic),
            ("\tlcallq\t*(%rax)", Mnemonic),
            ("\tnotrack\tjmpq\t*%rax", Mnemonic),
            ("\tbnd\tjmp\tmemcpy", Mnemonic),
            ("\tdata16\tcallq\tmemcpy", Mnemonic),
            ("\tloop\t.LBB0_1", Mnemonic),
            ("\tjrcxz\t.LBB0_1", Mnemonic),
            ("\txbegin\t.LBB0_1", Mnemonic),
        ],
    );
}

#[test]
fn jump_tables() {
    assert_rejected(
        in_function,
        &[
            ("\tleaq\t.LBB0_1(%rip), %rax", CodeAddress),
            ("\tmovq\t$.LBB0_1, %rax", CodeAddress),
            ("\t.section\t.rodata,\"a\",@progbits\n.LJTI0_0:\n\t.quad\t.LBB0_1\n\t.text", CodeAddress),
            ("\t.section\t.rodata,\"a\",@progbits\n.LJTI0_0:\n\t.long\t.LBB0_1-.LJTI0_0\n\t.text", CodeAddress),
        ],
    );
}

#[test]
fn registers_of_the_user_and_of_the_kernel() {
    assert_rejected(
        in_function,
        &[
            ("\tmovaps\t%xmm0, (%rdi)", Mnemonic),
            ("\tmovq\t%xmm0, %rax", Operand),
            ("\tmovq\t%mm0, %rax", Operand),
            ("\tmovups\t(%rdi), %xmm1", Mnemonic),
            ("\tvmovdqu\t%ymm0, (%rdi)", Mnemonic),
            ("\tfldl\t(%rax)", Mnemonic),
            ("\tpxor\t%mm0, %mm0", Mnemonic),
            ("\tmovq\t%fs:0, %rax", Operand),
            ("\tmovq\t%gs:(%rax), %rax", Operand),
            ("\tmovq\t%es:(%rax), %rax", Operand),
            ("\tmovw\t%ds, %ax", Operand),
            ("\tmovq\t%cr4, %rax", Operand),
            ("\tmovq\t%rax, %dr7", Operand),
            ("\tmovq\t(%rax), %r16", Operand),
            ("\tmovq\t(%rax){%k1}, %rbx", Operand),
        ],
    );
}

#[test]
fn instructions_that_a_module_has_no_use_for() {
    for line in [
        "syscall",
        "sysenter",
        "hlt",
        "cli",
        "sti",
        "popfq",
        "pushfq",
        "cld",
        "std",
        "int3",
        "int\t$3",
        "ud2",
        "wrmsr",
        "rdmsr",
        "rdtsc",
        "swapgs",
        "invlpg\t(%rax)",
        "vmxoff",
        "vmcall",
        "tdcall",
        "in\t$1, %al",
        "outb\t%al, $1",
        "xsave\t(%rax)",
        "clac",
        "stac",
        "wrpkru",
        "monitor",
        "mwait",
        "endbr64",
        "nop",
        "lfence",
        "rdfsbase\t%rax",
        "movnti\t%rax, (%rdi)",
        "popcntq\t%rax, %rax",
        "tzcntq\t%rax, %rax",
        "leave",
        "enter\t$8, $0",
    ] {
        assert_rejected(in_function, &[(&format!("\t{line}"), Mnemonic)]);
    }
}

#[test]
fn prefixes() {
    assert_rejected(
        in_function,
        &[
            ("\tlock", Prefix),
            ("\tlock\tmovq\t%rax, (%rbx)", Prefix),
            ("\tlock\tjmpq\t*%rax", Prefix),
            ("\tlock\tretq", Prefix),
            ("\tlock\tlock\tincq\t(%rax)", Prefix),
            ("\tlock\tincq\t%gs:(%rax)", Operand),
            ("\trep;movsq\t(%rsi), %es:(%rax)", Operand),
            ("\trep;movsq\t%gs:(%rsi), %es:(%rdi)", Operand),
            ("\trep;movsq", Operand),
            ("\trep;stosq\t%rbx, %es:(%rdi)", Operand),
            ("\trep;cmpsb\t%es:(%rdi), (%rsi)", Mnemonic),
            ("\trepne;scasb\t%es:(%rdi), %al", Syntax),
            ("\tmovsq\t(%rsi), %es:(%rdi)", Mnemonic),
            ("\taddr32\tmovq\t%rax, %rbx", Mnemonic),
            ("\tcs\tmovq\t(%rax), %rbx", Mnemonic),
            ("\trex64\tmovq\t(%rax), %rbx", Mnemonic),
            ("\t{vex}\tmovq\t(%rax), %rbx", Mnemonic),
        ],
    );
}

#[test]
fn more_than_one_statement_on_a_line() {
    assert_rejected(
        in_function,
        &[
            ("\tmovq\t%rax, %rbx; jmpq *%rax", Syntax),
            ("\tcleanslate_g: retq", Mnemonic),
            (".LBB0_9:\tjmpq\t*%rax", Directive),
            ("\t.loc\t1 2 3; jmpq *%rax", Syntax),
            ("\t.file\t\"a\"; retq", Syntax),
            ("\t.cfi_endproc; retq", Syntax),
            ("\trep;movsq (%rsi), %es:(%rdi); retq", Syntax),
            ("\tmovq\t%rax, %rbx\rretq", Syntax),
            ("\tmovq\t%rax, %rbx\u{b}retq", Syntax),
            ("\tmovq\t%rax, %rbx /* */", Operand),
            ("/* */ retq", Mnemonic),
            ("\tmovq\t%rax, \\reg", Operand),
        ],
    );
}

#[test]
fn directives() {
    assert_rejected(
        in_function,
        &[
            ("\t.byte\t0xc3", Directive),
            ("\t.byte\t255, 224", Directive),
            ("\t.quad\t0", Directive),
            ("\t.long\t0", Directive),
            ("\t.zero\t16", Directive),
            ("\t.ascii\t\"\\303\"", Directive),
            ("\t.fill\t1, 1, 0xc3", Directive),
            ("\t.skip\t4", Directive),
            ("\t.org\t.+16", Directive),
            ("\t.p2align\t4, 0xc3", Directive),
            ("\t.p2align\t4, , 5", Directive),
            ("\t.p2align\t60", Directive),
            ("\t.align\t16", Directive),
            ("\t.macro\tmovq", Directive),
            ("\t.rept\t4", Directive),
            ("\t.irp\tx, rax", Directive),
            ("\t.if\t1", Directive),
            ("\t.include\t\"x.s\"", Directive),
            ("\t.incbin\t\"x\"", Directive),
            ("\t.set\tmemcpy, 4096", Directive),
            ("\tmemcpy = 4096", Mnemonic),
            ("\t.equ\tx, 1", Directive),
            ("\t.reloc\t., R_X86_64_64, memcpy", Directive),
            ("\t.intel_syntax\tnoprefix", Directive),
            ("\t.att_syntax", Directive),
            ("\t.code32", Directive),
            ("\t.arch\tgeneric64", Directive),
            ("\t.weak\tcleanslate_f", Directive),
            ("\t.symver\tcleanslate_f, f@V1", Directive),
            ("\t.comm\tx,8,8", Directive),
            ("\t.pushsection\t.rodata", Directive),
            ("\t.popsection", Directive),
            ("\t.previous", Directive),
            ("\t.subsection\t1", Directive),
            ("\t.type\tcleanslate_f,@gnu_indirect_function", Directive),
            ("\t.data\t1", Directive),
        ],
    );
}

#[test]
fn sections() {
    assert_rejected(
        in_function,
        &[
            ("\t.section\t.init_array,\"aw\"", Section),
            ("\t.section\t.ctors,\"aw\"", Section),
            ("\t.section\t.init.text,\"ax\"", Section),
            ("\t.section\t.modinfo,\"a\"", Section),
            ("\t.section\t.gnu.linkonce.this_module,\"aw\"", Section),
            ("\t.section\t__ex_table,\"a\"", Section),
            ("\t.section\t__ksymtab,\"a\"", Section),
            ("\t.section\t.altinstructions,\"a\"", Section),
            ("\t.section\t.retpoline_sites,\"a\"", Section),
            ("\t.section\t.tdata,\"awT\"", Section),
            ("\t.section\t.eh_frame,\"a\"", Section),
            ("\t.section\t.note.gnu.property,\"a\"", Section),
            ("\t.section\t.textual,\"ax\"", Section),
            ("\t.section\t.data.x,\"awx\"", Section),
            ("\t.section\t.rodata.x,\"ax\"", Section),
            ("\t.section\t.text.x,\"aw\"", Section),
            ("\t.section", Section),
        ],
    );
    assert_rejected(
        rewrite,
        &[
            ("\tmovq\t%rax, %rbx", Placement),
            ("\t.data\n\tmovq\t%rax, %rbx", Placement),
            ("\t.section\tcleanslate_fixups,\"a\"\n\tretq", Placement),
            ("\t.quad\t1", Directive),
            (".Lx:", Placement),
        ],
    );
}

#[test]
fn symbols_and_relocations() {
    assert_rejected(
        in_function,
        &[
            ("\tleaq\tinit_task(%rip), %rax", UndefinedSymbol),
            ("\tmovq\t$commit_creds, %rax", UndefinedSymbol),
            ("\tleaq\t.Lnone(%rip), %rax", UndefinedSymbol),
            ("\tcmpq\tmemcpy@GOTPCREL(%rip), %rax", Operand),
            ("\tmovq\tmemcpy@GOTPCREL(%rip), %xmm0", Operand),
            ("\tmovq\tmemcpy@GOTTPOFF(%rip), %rax", Operand),
            ("\tmovl\tx@TPOFF, %eax", Operand),
            ("\tleaq\tmemcpy@PLT(%rip), %rax", Operand),
            ("\tmovq\t4096, %rax", Operand),
            ("\t.section\t.rodata,\"a\"\n\t.quad\tcommit_creds\n\t.text", UndefinedSymbol),
            ("\t.section\t.rodata,\"a\"\n\t.quad\tmemcpy@GOT\n\t.text", Operand),
            ("\t.section\t.rodata,\"a\"\n\t.quad\t1 << 3", Operand),
            ("\t.section\t.rodata,\"a\"\n\t.asciz\t\"a\", \"b\"", Directive),
        ],
    );
}

#[test]
fn labels() {
    assert_rejected(
        in_function,
        &[
            ("init_module:", SymbolName),
            ("memcpy:", SymbolName),
            ("RET:", SymbolName),
            ("1:", Syntax),
            ("_ZN1g:", UntypedFunction),
            ("_ZN1g:\n\t.type\t_ZN1g,@function", UntypedFunction),
            (".Lx:\n.Lx:", DuplicateLabel),
            ("cleanslate_f:", DuplicateLabel),
            ("\t.section\t.data,\"aw\"\n\t.type\t_ZN1g,@function\n_ZN1g:", Placement),
            ("\t.type\t_ZN1g,@function", UndefinedSymbol),
        ],
    );
    // An export that is data, or a label without a function.
    let data = "\t.text\n\t.data\ncleanslate_f:\n\t.quad\t1\n";
    assert_eq!(rewrite(data).unwrap_err().problem, NoExport);
    assert_eq!(rewrite("\t.text\n").unwrap_err().to_string(), "object.s:1: exported function is missing: cleanslate_f");
}

#[test]
fn the_table_of_fix_ups() {
    let table = |lines: &str| {
        in_function(&format!(
            ".Ltmp0:\n\tseamcall\n.Ltmp1:\n\t.section\tcleanslate_fixups,\"aR\"\n.Lt:\n{lines}\n\t.text"
        ))
    };
    table("\t.long\t.Ltmp0-.Lt\n\t.long\t.Ltmp1-.Lt").unwrap();
    assert_rejected(
        table,
        &[
            ("", NoFixUp),
            ("\t.long\t.Ltmp1-.Lt\n\t.long\t.Ltmp0-.Lt", NoFixUp),
            ("\t.long\t.Ltmp0-.Lt", FixUps),
            ("\t.long\t.Ltmp0-.Lt\n\t.long\t.Ldata-.Lt", FixUps),
            ("\t.long\t.Ltmp0-.Lt\n\t.long\tmemcpy-.Lt", FixUps),
            ("\t.long\t.Ltmp0\n\t.long\t.Ltmp1", FixUps),
            ("\t.long\t.Ltmp0-.Lt, .Ltmp1-.Lt", FixUps),
            ("\t.quad\t1", Directive),
            ("\t.asciz\t\"x\"", Directive),
            ("_ZN1g:", Placement),
        ],
    );
    assert_rejected(in_function, &[("\tseamcall", NoFixUp), ("\tseamcall\t%rax", Mnemonic)]);
}

/// All pairs of fragments as a line: accepted or rejected, and no output has a return, an indirect
/// branch or a byte of code that is not the kernel's macro.
#[test]
fn no_combination_lets_a_bare_branch_through() {
    let first =
        ["ret", "retq", "rep;ret", "jmp", "jmpq", "callq", "lock", "movq", ".byte", ".ascii", "notrack", "#", "x:", ""];
    let second = [
        "",
        "*%rax",
        "*(%rax)",
        "retq",
        "jmp *%rax",
        "%rax, %rbx",
        "$195",
        "\"\\303\"",
        "; ret",
        "*x@GOTPCREL(%rip)",
        ":",
        "memcpy",
        "\n\tret",
        "\r ret",
    ];
    let third = ["", "; ret", "# ; ret", "\tjmp *%rax", ", $8", "\\n ret", "*/ ret"];
    let (mut accepted, mut rejected) = (0, 0);
    for a in first {
        for b in second {
            for c in third {
                let Ok(out) = in_function(&format!("\t{a} {b} {c}")) else {
                    rejected += 1;
                    continue;
                };
                accepted += 1;
                for line in out.lines().map(str::trim) {
                    let bare = line.split('#').next().unwrap_or_default();
                    assert!(!bare.starts_with("ret") && !bare.contains('*') || line.starts_with(['/', '*']), "{line}");
                    assert!(!bare.starts_with(".byte") && !bare.starts_with(".ascii"), "{line}");
                    assert!(!bare.contains(';'), "{line}");
                }
            }
        }
    }
    assert!(accepted > 50 && rejected > 500, "{accepted} accepted, {rejected} rejected");
}
