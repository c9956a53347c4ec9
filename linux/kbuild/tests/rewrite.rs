//! What the rewriter makes of assembly that it accepts.

use cleanslate_kbuild::{Input, for_kernel};

fn rewritten(body: &str) -> String {
    let assembly = format!("\t.text\n\t.type\tcleanslate_f,@function\ncleanslate_f:\n{body}");
    let input = Input {
        file: "object.s",
        assembly: &assembly,
        exports: &["cleanslate_f"],
        imports: &["memcpy", "cleanslate_log"],
    };
    for_kernel(&input).unwrap()
}

fn code(body: &str) -> String {
    let out = rewritten(body);
    let code = out.split_once("cleanslate_f:\n").unwrap().1;
    code.strip_suffix("\t.text\n\t.section\t.note.GNU-stack,\"\",@progbits\n").unwrap().to_owned()
}

#[test]
fn every_function_entry_has_endbr() {
    let out = code("\t.type\t_ZN1g,@function\n_ZN1g:\n\tretq\n");
    assert_eq!(out, "\tENDBR\n\t.type\t_ZN1g,@function\n_ZN1g:\n\tENDBR\n\tRET\n");
}

#[test]
fn indirect_branches_use_the_kernels_thunks() {
    for (from, to) in [
        ("callq\t*%rbx", "CALL_NOSPEC rbx"),
        ("call\t*%r15", "CALL_NOSPEC r15"),
        ("jmpq\t*%rcx", "JMP_NOSPEC rcx"),
        ("callq\t*24(%rax)", "movq\t24(%rax), %r11\n\tCALL_NOSPEC r11"),
        ("callq\t*8(%rbx,%rax)", "movq\t8(%rbx,%rax), %r11\n\tCALL_NOSPEC r11"),
        ("jmpq\t*-88(%rbp)", "movq\t-88(%rbp), %r11\n\tJMP_NOSPEC r11"),
        ("callq\t*memcpy@GOTPCREL(%rip)", "call\tmemcpy"),
        ("jmpq\t*cleanslate_f@GOTPCREL(%rip)", "jmp\tcleanslate_f"),
        ("callq\tcleanslate_log", "call\tcleanslate_log"),
    ] {
        assert_eq!(code(&format!("\t{from}\n")), format!("\tENDBR\n\t{to}\n"), "{from}");
    }
}

#[test]
fn returns_use_the_kernels_macro() {
    assert_eq!(code("\tretq\n"), "\tENDBR\n\tRET\n");
    assert_eq!(code("\tret\n"), "\tENDBR\n\tRET\n");
}

#[test]
fn plain_instructions_are_copied() {
    for line in [
        "movq\t$-9223091657094791168, %rax",
        "lock cmpxchgq\t%rcx, 4176(%rax)",
        "rep;movsq\t(%rsi), %es:(%rdi)",
        "movdir64b\t(%rdx), %rdi",
        "clflushopt\t(%rdi)",
        "setbe\t%r14b",
        "cmovneq\t%rax, %r9",
        "wbinvd\t",
    ] {
        assert_eq!(code(&format!("\t{line}\n")), format!("\tENDBR\n\t{line}\n"), "{line}");
    }
}

#[test]
fn loads_from_the_global_offset_table_become_addresses() {
    assert_eq!(code("\tmovq\tcleanslate_log@GOTPCREL(%rip), %rax\n"), "\tENDBR\n\tleaq\tcleanslate_log(%rip), %rax\n");
}

#[test]
fn a_fault_of_seamcall_goes_to_its_fix_up() {
    let out = rewritten(
        ".Ltmp0:\n\tseamcall\n.Ltmp1:\n\tretq\n\t.section\tcleanslate_fixups,\"aR\",@progbits\n\t.p2align\t2, 0x0\n\
         .Ltmp2:\n\t.long\t.Ltmp0-.Ltmp2\n.Ltmp3:\n\t.long\t.Ltmp1-.Ltmp3\n\t.text\n",
    );
    assert!(out.contains(".Lcleanslate_fault_0:\n\tbtsq\t$40, %rax\n"));
    assert!(out.contains("\tjmp\t.Ltmp1\n\t_ASM_EXTABLE_FAULT(.Ltmp0, .Lcleanslate_fault_0)"));
    assert!(!out.contains(".long"));
}

#[test]
fn debug_information_and_unwind_tables_are_dropped() {
    let out = code(
        "\t.cfi_startproc\n\tretq\n\t.section\t.debug_info,\"\",@progbits\n.Lcu_begin0:\n\t.long\t.Lx-.Ly\n\
         \t.ascii\t\"retq\"\n\t.text\n",
    );
    assert_eq!(out, "\tENDBR\n\tRET\n\t.text\n");
}

#[test]
fn data_keeps_its_form() {
    let out = code(
        "\tretq\n\t.section\t.rodata.str1.1,\"aMS\",@progbits,1\n.L__unnamed_1:\n\t.asciz\t\"ret; jmp *%rax # \\\"\"\n\
         \t.section\t.data.rel.ro..L2,\"aw\",@progbits\n\t.p2align\t3, 0x0\n.L2:\n\t.quad\tcleanslate_f\n\t.quad\t.L__unnamed_1+4\n",
    );
    assert!(out.contains("\t.section\t.rodata,\"a\",@progbits\n.L__unnamed_1:\n\t.asciz\t\"ret; jmp *%rax # \\\"\"\n"));
    assert!(out.contains("\t.p2align\t3, 0x0\n.L2:\n\t.quad\tcleanslate_f\n\t.quad\t.L__unnamed_1+4\n"));
}
