//! The bytes of the instructions against a golden file: the functions are naked, so every build has
//! the same ones.
//!
//! Decoded with iced-x86 from this test's own executable, so that no operand order or encoding is
//! taken on trust. Write the file anew with
//! `CLEANSLATE_BLESS=1 cargo test -p tdx-host --test instructions`, and read the difference.

#![cfg(target_arch = "x86_64")]

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, IntelFormatter};
use object::{Object, ObjectSection, ObjectSymbol};
use std::fmt::Write;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/instructions.txt");

/// Bytes of the function whose mangled name holds `name`, from the symbol table of this executable.
fn function_bytes(file: &object::File<'_>, name: &str) -> Vec<u8> {
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|mangled| mangled.contains("tdx_host") && mangled.contains(name)))
        .unwrap_or_else(|| panic!("{name} is not in the symbol table"));
    let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
    section.data_range(symbol.address(), symbol.size()).unwrap().unwrap().to_vec()
}

fn disassemble(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    for instruction in &mut Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE) {
        assert_ne!(instruction.code(), Code::INVALID, "not an instruction at {:#x}", instruction.ip());
        let at = instruction.ip() as usize;
        let hex: Vec<String> = bytes[at..at + instruction.len()].iter().map(|b| format!("{b:02x}")).collect();
        let mut operation = String::new();
        formatter.format(&instruction, &mut operation);
        writeln!(text, "  {at:3x}  {:32}{operation}", hex.join(" ")).unwrap();
    }
    text
}

#[test]
fn instruction_bytes_are_the_golden_ones() {
    // Uses of the functions, so that they are linked in.
    let _ = std::hint::black_box((
        tdx_host::arch::seamcall as unsafe fn(&mut _),
        tdx_host::arch::seamcall_saved as unsafe fn(&mut _),
        tdx_host::arch::movdir64b_zero as unsafe fn(_, _) -> _,
        tdx_host::arch::clflushopt as unsafe fn(_, _) -> _,
    ));
    let executable = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = object::File::parse(&*executable).unwrap();
    let mut text = String::new();
    for name in ["seamcall_naked", "seamcall_saved_naked", "movdir64b_naked", "clflushopt_naked"] {
        writeln!(text, "{name}\n{}", disassemble(&function_bytes(&file, name))).unwrap();
    }
    if std::env::var_os("CLEANSLATE_BLESS").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    assert_eq!(text, golden, "instruction bytes differ from {GOLDEN}");
}

#[test]
fn every_seamcall_has_a_fixup() {
    let _ = std::hint::black_box((
        tdx_host::arch::seamcall as unsafe fn(&mut _),
        tdx_host::arch::seamcall_saved as unsafe fn(&mut _),
    ));
    let executable = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = object::File::parse(&*executable).unwrap();
    // The table is position independent, so it reads the same in the file and in memory.
    let table = file.section_by_name("cleanslate_fixups").expect("no fix-up table");
    let data = table.data().unwrap();
    let entries: Vec<(u64, u64)> = data
        .chunks_exact(8)
        .zip((table.address()..).step_by(8))
        .map(|(entry, at)| {
            let word = |i: usize| i64::from(i32::from_le_bytes(entry[i..i + 4].try_into().unwrap()));
            (at.wrapping_add_signed(word(0)), (at + 4).wrapping_add_signed(word(4)))
        })
        .collect();
    assert_eq!(entries.len(), tdx_host::arch::fault_fixups().len(), "the section's borders are the linker's symbols");
    for name in ["seamcall_naked", "seamcall_saved_naked"] {
        let symbol = file
            .symbols()
            .find(|symbol| symbol.name().is_ok_and(|m| m.contains("tdx_host") && m.contains(name)))
            .unwrap();
        let bytes = function_bytes(&file, name);
        let call = Decoder::with_ip(64, &bytes, symbol.address(), DecoderOptions::NONE)
            .iter()
            .find(|instruction| instruction.code() == Code::Seamcall)
            .expect("no SEAMCALL");
        let (_, fixup) = entries.iter().find(|(at, _)| *at == call.ip()).expect("SEAMCALL without fix-up");
        // Past the jump and the ten-byte load of the carry status: RAX is the handler's.
        let resume = (fixup - symbol.address()) as usize;
        let next = Decoder::with_ip(64, &bytes[resume..], *fixup, DecoderOptions::NONE).decode();
        assert!(matches!(next.code(), Code::Pop_r64), "{name} resumes at {next:?}");
    }
}
