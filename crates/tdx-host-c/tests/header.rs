//! The header against the Rust side, so that the two cannot drift: every function with its
//! arguments, every struct field by field, every enum value, every size and constant, in both
//! directions. The Rust side is read from its source, the numbers from its types. No C compiler is
//! needed; where there is one it checks the sizes, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tdx_abi::Registers;
use tdx_host::arch::{FaultFixup, SavedRegisters};
use tdx_host_c::*;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// A C declaration as its tokens with single spaces.
type Tokens = String;

fn read(path: &str) -> String {
    let path = Path::new(CRATE).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words and single characters.
fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        let is_word = c.is_alphanumeric() || c == '_';
        match found.last_mut() {
            Some(word) if is_word && in_word => word.push(c),
            _ if c.is_whitespace() => {}
            _ => found.push(c.to_string()),
        }
        in_word = is_word;
    }
    found
}

fn normal(text: &str) -> Tokens {
    tokens(text).join(" ")
}

/// What stands in the header.
struct Header {
    text: String,
    functions: BTreeMap<String, Tokens>,
    structs: BTreeMap<String, Tokens>,
    enums: BTreeMap<String, Vec<(String, u32)>>,
    constants: BTreeMap<String, String>,
}

fn header() -> Header {
    let text = read("include/tdx_host.h");
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let mut header = Header {
        text: text.clone(),
        functions: BTreeMap::new(),
        structs: BTreeMap::new(),
        enums: BTreeMap::new(),
        constants: BTreeMap::new(),
    };
    for line in code.lines().filter_map(|line| line.strip_prefix("#define ")) {
        if let Some((name, value)) = line.split_once(' ')
            && name.starts_with("TDXH_")
            && !name.contains('(')
        {
            header.constants.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    // What is left are declarations; `extern "C" {` and its brace are for C++ alone.
    let is_c = |line: &&str| !line.starts_with('#') && !line.starts_with("extern \"C\"") && *line != "}";
    let code: String = code.lines().filter(is_c).collect::<Vec<_>>().join("\n");
    let (mut depth, mut declaration) = (0, String::new());
    for c in code.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                header.declare(&std::mem::take(&mut declaration));
                continue;
            }
            _ => {}
        }
        declaration.push(c);
    }
    assert_eq!(normal(&declaration), "");
    header
}

impl Header {
    fn declare(&mut self, declaration: &str) {
        let Some((head, body)) = declaration.split_once('{') else {
            let all = normal(declaration);
            if let Some((head, _)) = all.split_once(" (") {
                let name = head.rsplit(' ').next().unwrap().to_owned();
                assert!(self.functions.insert(name, all).is_none());
            } else {
                assert_eq!(all, "struct tdxh_work", "the one incomplete type");
            }
            return;
        };
        let head = normal(head);
        let body = body.trim_end().strip_suffix('}').unwrap();
        if let Some(tag) = head.strip_prefix("enum ") {
            let value = |entry: &str| {
                let (name, number) = entry.split_once('=').unwrap();
                (normal(name), number.trim().parse().unwrap())
            };
            let values = body.split(',').filter(|entry| !entry.trim().is_empty()).map(value).collect();
            self.enums.insert(tag.to_owned(), values);
        } else {
            let tag = head.strip_prefix("struct ").unwrap();
            self.structs.insert(tag.to_owned(), normal(body));
        }
    }
}

/// `TdxhNodeRange` -> `tdxh_node_range`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}

/// A declaration of `name` with this Rust type, in C.
fn declare(rust: &str, name: &str) -> String {
    let rust = rust.trim();
    let function = rust.strip_prefix("Option<").and_then(|rust| rust.strip_suffix('>')).unwrap_or(rust);
    if let Some(function) =
        function.strip_prefix("unsafe extern \"C\" fn").or_else(|| function.strip_prefix("fn(").map(|_| &function[2..]))
    {
        let (arguments, result) = split_function(function);
        return format!("{} (*{name})({})", result_type(result), argument_list(arguments));
    }
    if let Some(inner) = rust.strip_prefix('[').and_then(|rust| rust.strip_suffix(']')) {
        let (of, count) = inner.split_once(';').unwrap();
        return declare(of, &format!("{name}[{}]", count.trim()));
    }
    if let Some(to) = rust.strip_prefix("*const ") {
        return format!("const {}", declare(to, &format!("*{name}")));
    }
    if let Some(to) = rust.strip_prefix("*mut ") {
        return declare(to, &format!("*{name}"));
    }
    let c = match rust {
        "u8" => "uint8_t",
        "u16" => "uint16_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "i32" => "int32_t",
        "usize" => "size_t",
        "c_char" => "char",
        "c_void" => "void",
        "TdxhResult" => "enum tdxh_result",
        "TdxhWorkStep" => "enum tdxh_work_step_result",
        "Registers" => "struct tdxh_registers",
        "SavedRegisters" => "struct tdxh_saved_registers",
        "FaultFixup" => "struct tdxh_fixup",
        other if other.starts_with("Tdxh") => return format!("struct {} {name}", snake(other)),
        other => panic!("no C type is known for {other}"),
    };
    format!("{c} {name}")
}

/// `(arguments) -> result` -> both.
fn split_function(text: &str) -> (&str, Option<&str>) {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && c == ')' {
            let result = text[at + 1..].trim().strip_prefix("->").map(str::trim);
            return (&text[1..at], result.filter(|result| !result.is_empty()));
        }
    }
    panic!("no closing parenthesis in {text}");
}

fn result_type(result: Option<&str>) -> String {
    result.map_or_else(|| "void".to_owned(), |result| declare(result, ""))
}

/// Splits at commas that stand in no bracket.
fn split_list(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '<' | '{' => depth += 1,
            '>' if previous == '-' => {}
            ')' | ']' | '>' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        previous = c;
    }
    parts.push(&text[from..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn argument_list(arguments: &str) -> String {
    let list: Vec<String> = split_list(arguments)
        .into_iter()
        .map(|argument| {
            let (name, of) = argument.split_once(':').unwrap();
            declare(of, name.trim())
        })
        .collect();
    if list.is_empty() { "void".to_owned() } else { list.join(", ") }
}

/// All Rust source of this crate without comments and attributes, and the two files that define
/// types which C sees.
fn source() -> String {
    let folder = Path::new(CRATE).join("src");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(Path::new(CRATE).join("../tdx-abi/src/registers.rs"));
    files.push(Path::new(CRATE).join("../tdx-host/src/arch/x86_64.rs"));
    files.sort();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let strip = |text: String| text.lines().filter(is_code).map(|line| line.to_owned() + "\n").collect::<String>();
    files.into_iter().map(|file| strip(std::fs::read_to_string(file).unwrap())).collect()
}

/// Prototypes of all exported functions, in C.
fn rust_functions(source: &str) -> BTreeMap<String, Tokens> {
    let mut functions = BTreeMap::new();
    for part in source.split("#[unsafe(no_mangle)]").skip(1) {
        let part = part.trim_start().strip_prefix("pub ").unwrap();
        let part = part.strip_prefix("unsafe ").unwrap_or(part).strip_prefix("extern \"C\" fn ").unwrap();
        let (name, rest) = part.split_at(part.find('(').unwrap());
        let signature = rest.split(" {\n").next().unwrap();
        let (arguments, result) = split_function(signature);
        let prototype = format!("{} {name}({})", result_type(result), argument_list(arguments));
        assert!(functions.insert(name.to_owned(), normal(&prototype)).is_none());
    }
    functions
}

/// Fields in C: `name: type,` of a struct.
fn fields(body: &str) -> Tokens {
    let field = |field: &str| {
        // Attributes stand on lines of their own.
        let field = field.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join(" ");
        let (name, of) = field.split_once(':').unwrap();
        let name = name.trim();
        declare(of, name.strip_prefix("pub ").unwrap_or(name)) + ";"
    };
    normal(&split_list(body).into_iter().map(field).collect::<String>())
}

/// Every struct that is laid out as in C, but for opaque ones and for `TdxhWork`, which C never
/// looks into.
fn rust_structs(source: &str) -> BTreeMap<String, Tokens> {
    let mut structs = BTreeMap::new();
    for part in source.split("#[repr(C").skip(1) {
        let Some((_, rest)) = part.split_once("pub struct ") else { continue };
        let Some((name, rest)) = rest.split_once(" {") else { continue };
        let body = &rest[..rest.find("\n}").unwrap()];
        let name = match name {
            "Registers" => "tdxh_registers".to_owned(),
            "SavedRegisters" => "tdxh_saved_registers".to_owned(),
            "FaultFixup" => "tdxh_fixup".to_owned(),
            name if name.starts_with("Tdxh") => snake(name),
            _ => continue,
        };
        if !body.contains("opaque:") && !["tdxh_work", "tdxh_work_local"].contains(&name.as_str()) {
            structs.insert(name, fields(body));
        }
    }
    // The tables of functions: `TdxhKernel { fields } => Functions { functions }`.
    for part in source.split("\nfunctions! {").skip(1) {
        let part = &part[..part.find("\n}").unwrap()];
        let (before, functions) = part.split_once("=>").unwrap();
        let (name, before) = before.split_once('{').unwrap();
        let functions = functions.split_once('{').unwrap().1.trim_end().strip_suffix('}').unwrap();
        let functions = functions.replace(';', ",");
        let all = fields(before.trim_end().strip_suffix('}').unwrap()) + " " + &fields(&functions);
        structs.insert(snake(name.trim()), normal(&all));
    }
    structs
}

/// The first difference, with both sides.
fn assert_same<V: PartialEq + std::fmt::Debug>(header: &BTreeMap<String, V>, rust: &BTreeMap<String, V>) {
    for (name, there) in header {
        assert_eq!(Some(there), rust.get(name), "{name}: header on the left, Rust on the right");
    }
    for name in rust.keys() {
        assert!(header.contains_key(name), "{name} is not in the header");
    }
}

#[test]
fn functions_are_the_same() {
    let functions = rust_functions(&source());
    assert!(functions.len() > 50);
    assert_same(&header().functions, &functions);
}

#[test]
fn structs_are_the_same() {
    let mut structs = header().structs;
    let opaque = |name: &str| {
        let upper = name.to_uppercase();
        normal(&format!("TDXH_ALIGNED({upper}_ALIGN) unsigned char opaque[{upper}_SIZE];"))
    };
    for name in OPAQUE.map(|(name, ..)| snake(name)) {
        assert_eq!(structs.remove(&name), Some(opaque(&name)), "{name}");
    }
    assert_same(&structs, &rust_structs(&source()));
}

macro_rules! enums {
    ($($name:ident),* $(,)?) => {
        [$(($name::TAG, $name::VALUES)),*]
    };
}

#[test]
fn enums_are_the_same() {
    let rust = enums![
        TdxhAddressKind,
        TdxhAlgorithm,
        TdxhBorder,
        TdxhCameBack,
        TdxhGiveUp,
        TdxhHandoverKind,
        TdxhKexecKind,
        TdxhLeftoverKind,
        TdxhLeftoverReason,
        TdxhModuleAnswer,
        TdxhOutcome,
        TdxhPageState,
        TdxhPolicy,
        TdxhResult,
        TdxhStep,
        TdxhWorkStep,
    ];
    let owned = |values: &[(&str, u32)]| values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let rust: BTreeMap<String, Vec<(String, u32)>> =
        rust.iter().map(|(tag, values)| ((*tag).to_owned(), owned(values))).collect();
    assert_eq!(rust.len(), source().matches("c_enum! {").count(), "an enum is not in the list of this test");
    assert_same(&header().enums, &rust);
    // Enumerators share one name space in C.
    let names: Vec<&String> = rust.values().flatten().map(|(name, _)| name).collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
}

macro_rules! sizes {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), size_of::<$name>(), align_of::<$name>())),*]
    };
}

/// Types whose size and alignment stand in the header.
const OPAQUE: [(&str, usize, usize); 8] =
    sizes![TdxhPlatform, TdxhHost, TdxhCpuSlot, TdxhNodeRange, TdxhLayout, TdxhReport, TdxhReturning, TdxhWorkLocal,];

#[test]
fn constants_are_the_same() {
    let mut rust: BTreeMap<String, String> = [
        ("TDXH_ABI_VERSION", TDXH_ABI_VERSION as usize),
        ("TDXH_TEXT_SIZE", TDXH_TEXT_SIZE),
        ("TDXH_EXPLANATION_TEXT_SIZE", TDXH_EXPLANATION_TEXT_SIZE),
        ("TDXH_MAX_RESERVED", TDXH_MAX_RESERVED),
        ("TDXH_MAX_CMRS", TDXH_MAX_CMRS),
        ("TDXH_TABLE_HEADER_BYTES", TDXH_TABLE_HEADER_BYTES),
        ("TDXH_TABLE_ENTRY_BYTES", TDXH_TABLE_ENTRY_BYTES),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    .into();
    for (name, size, align) in OPAQUE {
        let name = snake(name).to_uppercase();
        rust.insert(format!("{name}_SIZE"), size.to_string());
        rust.insert(format!("{name}_ALIGN"), align.to_string());
    }
    assert_eq!((TDXH_ANY_NODE, TDXH_NO_TDMR), (u32::MAX, u32::MAX));
    for name in ["TDXH_ANY_NODE", "TDXH_NO_TDMR"] {
        rust.insert(name.to_owned(), "UINT32_MAX".to_owned());
    }
    rust.insert("TDXH_VERSION".to_owned(), format!("\"{}\"", env!("CARGO_PKG_VERSION")));
    assert_same(&header().constants, &rust);
}

/// Each function has its words right above it.
#[test]
fn the_header_documents_every_function() {
    let header = header();
    for name in header.functions.keys() {
        let at = header.text.find(&format!("{name}(")).unwrap();
        // The first mention may be in a comment; the declaration is the one at the start of a line.
        let declaration = header.text.match_indices(&format!("{name}(")).map(|(at, _)| at).find(|at| {
            let line = header.text[..*at].rsplit('\n').next().unwrap();
            !line.is_empty() && !line.starts_with([' ', '\t', '/'])
        });
        let above = &header.text[..declaration.unwrap_or(at)];
        let above = above[..above.rfind('\n').unwrap()].trim_end();
        assert!(above.ends_with("*/"), "{name} has no comment");
    }
}

/// What the C compiler makes of the structs has the size and alignment that the Rust compiler gives
/// them.
#[test]
fn compilers_agree_on_sizes() {
    let transparent = sizes![
        TdxhCpuid,
        TdxhError,
        TdxhExplanation,
        TdxhFrameRequest,
        TdxhFrames,
        TdxhGivenUp,
        TdxhHandover,
        TdxhKernel,
        TdxhLayoutInfo,
        TdxhLeftover,
        TdxhLimits,
        TdxhModule,
        TdxhPlatformInfo,
        TdxhProcessor,
        TdxhRange,
        TdxhTable,
        TdxhTdmr,
        TdxhWritten,
    ];
    let foreign = [
        ("tdxh_registers", size_of::<Registers>(), align_of::<Registers>()),
        ("tdxh_saved_registers", size_of::<SavedRegisters>(), align_of::<SavedRegisters>()),
        ("tdxh_fixup", size_of::<FaultFixup>(), align_of::<FaultFixup>()),
    ];
    let named = |(name, size, align): (&str, usize, usize)| (snake(name), size, align);
    let all: Vec<_> = OPAQUE.into_iter().chain(transparent).chain(foreign).map(named).collect();
    let names: BTreeSet<&String> = all.iter().map(|(name, ..)| name).collect();
    assert_eq!(names, header().structs.keys().collect(), "a struct is not in the list of this test");

    let mut file = "#include \"tdx_host.h\"\n".to_owned();
    for (name, size, align) in &all {
        writeln!(file, "_Static_assert(sizeof(struct {name}) == {size}, \"size of {name}\");").unwrap();
        writeln!(file, "_Static_assert(_Alignof(struct {name}) == {align}, \"alignment of {name}\");").unwrap();
    }
    for tag in header().enums.keys() {
        writeln!(file, "_Static_assert(sizeof(enum {tag}) == 4, \"size of {tag}\");").unwrap();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tdx_host_sizes.c");
    std::fs::write(&path, file).unwrap();
    for compiler in ["gcc", "clang"] {
        let mut command = Command::new(compiler);
        command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"]);
        command.arg(Path::new(CRATE).join("include")).arg(&path);
        let Ok(output) = command.output() else {
            skip::test("sizes of structs in C", compiler, &format!("apt-get install {compiler}"));
            continue;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
