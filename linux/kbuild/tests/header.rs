//! `linux/object.h` against the Rust object: every function with its arguments, every structure
//! field by field, every constant, in both directions. Both sides are read from their source.

use std::collections::BTreeMap;
use std::path::Path;

use cleanslate_kbuild::header;

/// Tokens with single spaces between them.
fn normal(text: &str) -> String {
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
    found.join(" ")
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Everything of an interface, as C.
#[derive(Default)]
struct Interface {
    /// Declarations of functions of the object.
    exports: BTreeMap<String, String>,
    /// Declarations of functions that it calls.
    imports: BTreeMap<String, String>,
    structs: BTreeMap<String, String>,
    constants: BTreeMap<String, u64>,
}

fn number(text: &str) -> u64 {
    let text = text.trim().replace('_', "");
    match (text.as_str(), text.strip_prefix("0x")) {
        ("u32::MAX", _) => u64::from(u32::MAX),
        (_, Some(digits)) => u64::from_str_radix(digits, 16).unwrap(),
        _ => text.parse().unwrap_or_else(|_| panic!("no number: {text}")),
    }
}

/// The header without its comments.
fn of_header() -> Interface {
    let text = read("object.h");
    let (exports, imports) = header::functions(&text).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let mut interface = Interface::default();
    let mut declarations = String::new();
    for line in code.lines() {
        if let Some(constant) = line.strip_prefix("#define CLEANSLATE_") {
            if let Some((name, value)) = constant.split_once(char::is_whitespace) {
                interface.constants.insert(format!("CLEANSLATE_{name}"), number(value));
            }
        } else if !line.starts_with('#') {
            declarations.push_str(line);
            declarations.push('\n');
        }
    }
    let mut rest = declarations.as_str();
    while let Some((declaration, after)) = rest.split_once(';') {
        rest = after;
        if let Some(name) = declaration.trim().strip_prefix("struct ").filter(|text| text.contains('{')) {
            let (name, first) = name.split_once('{').unwrap();
            let (fields, after) = rest.split_once("};").unwrap();
            interface.structs.insert(name.trim().to_owned(), normal(&format!("{first};{fields}")));
            rest = after;
            continue;
        }
        let declaration = declaration.trim().trim_end_matches("__noreturn");
        let name = declaration.split('(').next().unwrap().rsplit([' ', '*']).next().unwrap();
        let map = match (exports.contains(&name), imports.contains(&name)) {
            (true, false) => &mut interface.exports,
            (false, true) => &mut interface.imports,
            _ => panic!("{name} is in neither part of the header"),
        };
        assert!(map.insert(name.to_owned(), normal(declaration)).is_none(), "{name} is declared twice");
    }
    assert!(rest.trim().is_empty(), "{rest}");
    interface
}

/// A declaration of `name` with this Rust type, in C.
fn declare(rust: &str, name: &str) -> String {
    let rust = rust.trim();
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
        "u8" | "c_char" => "char",
        "u32" => "u32",
        "u64" => "u64",
        "i32" => "int",
        "usize" => "size_t",
        "bool" => "bool",
        "c_void" => "void",
        "Work" => return format!("void (*{name})(void *task)"),
        "Memory" => "struct cleanslate_memory",
        "Handover" => "struct cleanslate_handover",
        "Status" => "struct cleanslate_status",
        "Pages" => "struct cleanslate_pages",
        "Sweep" => "struct cleanslate_sweep",
        "Registers" => "struct cleanslate_registers",
        "Dump" => "struct cleanslate_dump",
        "DumpFacts" => "struct cleanslate_dump_facts",
        "Vacuumed" => "struct cleanslate_vacuumed",
        other => panic!("no C type is known for {other}"),
    };
    format!("{c} {name}")
}

/// A function in C, from `name(argument: type, ...) -> type`.
fn prototype(signature: &str) -> (String, String) {
    let (name, rest) = signature.split_once('(').unwrap();
    let (arguments, result) = rest.rsplit_once(')').unwrap();
    let result = result.trim().strip_prefix("->").map_or("void", str::trim);
    let arguments: Vec<String> = arguments
        .split(',')
        .filter(|argument| !argument.trim().is_empty())
        .map(|argument| {
            let (name, of) = argument.split_once(':').unwrap();
            declare(of, name.trim())
        })
        .collect();
    let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
    let function = format!("{name}({arguments})");
    let whole = if ["void", "!"].contains(&result) { format!("void {function}") } else { declare(result, &function) };
    (name.to_owned(), normal(&whole))
}

/// The fields of a struct in C, in order.
fn fields(body: &str) -> String {
    let field = |line: &str| {
        let (name, of) = line.trim().trim_end_matches(',').strip_prefix("pub ").unwrap().split_once(':').unwrap();
        declare(of, name.trim()) + "; "
    };
    normal(&body.lines().filter(|line| line.contains(':')).map(field).collect::<String>())
}

/// The name of a struct in C: `_dump_facts` of `DumpFacts`.
fn in_c(name: &str) -> String {
    let letter = |c: char| if c.is_uppercase() { format!("_{}", c.to_lowercase()) } else { c.to_string() };
    name.chars().map(letter).collect()
}

/// The Rust object, without comments.
fn of_object() -> Interface {
    let mut source = String::new();
    let folder = root().join("object/src");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for file in files.chain([root().join("../crates/tdx-abi/src/registers.rs")]) {
        let text = std::fs::read_to_string(file).unwrap();
        source.extend(
            text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| line.to_owned() + "\n"),
        );
    }
    let mut interface = Interface::default();
    for part in source.split("#[unsafe(no_mangle)]").skip(1) {
        let part = part.trim_start().strip_prefix("pub ").unwrap();
        let part = part.strip_prefix("unsafe ").unwrap_or(part).strip_prefix("extern \"C\" fn ").unwrap();
        let (name, prototype) = prototype(&part[..part.find(" {\n").unwrap()]);
        assert!(interface.exports.insert(name, prototype).is_none());
    }
    let (_, imports) = source.split_once("unsafe extern \"C\" {").unwrap();
    let imports = &imports[..imports.find("\n    }\n").unwrap()];
    for import in imports.split(';').map(str::trim).filter(|import| !import.is_empty()) {
        let import = import.strip_prefix("pub ").unwrap();
        let import = import.strip_prefix("safe ").unwrap_or(import).strip_prefix("fn ").unwrap();
        let (name, prototype) = prototype(import);
        assert!(interface.imports.insert(name, prototype).is_none());
    }
    for part in source.split("#[repr(C)]").skip(1) {
        let (_, rest) = part.split_once("pub struct ").unwrap();
        let (name, rest) = rest.split_once(" {").unwrap();
        let body = &rest[..rest.find("\n}").unwrap()];
        interface.structs.insert(format!("cleanslate{}", in_c(name)), fields(body));
    }
    for line in source.lines().filter_map(|line| line.strip_prefix("pub const CLEANSLATE_")) {
        let (name, rest) = line.split_once(':').unwrap();
        let value = rest.split_once('=').unwrap().1.trim_end_matches(';');
        interface.constants.insert(format!("CLEANSLATE_{name}"), number(value));
    }
    interface
}

/// The first difference, with both sides.
fn assert_same<V: PartialEq + std::fmt::Debug>(header: &BTreeMap<String, V>, object: &BTreeMap<String, V>) {
    assert!(!header.is_empty());
    for (name, there) in header {
        assert_eq!(Some(there), object.get(name), "{name}: header on the left, object on the right");
    }
    for name in object.keys() {
        assert!(header.contains_key(name), "{name} is not in the header");
    }
}

#[test]
fn functions_of_the_object_are_the_same() {
    assert_same(&of_header().exports, &of_object().exports);
}

#[test]
fn functions_for_the_object_are_the_same() {
    assert_same(&of_header().imports, &of_object().imports);
}

#[test]
fn structures_are_the_same() {
    assert_same(&of_header().structs, &of_object().structs);
}

#[test]
fn constants_are_the_same() {
    assert_same(&of_header().constants, &of_object().constants);
}

/// Nothing that frees or maps memory by number can be called without `unsafe`.
#[test]
fn what_frees_or_maps_memory_is_unsafe() {
    let shim = read("object/src/shim.rs");
    for name in ["free", "hold", "release", "map", "on_all", "on_each_package", "lost", "log", "rdmsr"] {
        assert!(shim.contains(&format!("pub fn cleanslate_{name}(")), "cleanslate_{name} is declared safe");
        assert!(!shim.contains(&format!("cleanslate_{name} as ")), "cleanslate_{name} is exported as it is");
    }
}

/// kernel-doc: a comment right above each function of the header, with its name and its arguments.
#[test]
fn every_function_has_kernel_doc() {
    let text = read("object.h");
    let (exports, imports) = header::functions(&text).unwrap();
    for name in exports.iter().chain(&imports) {
        let at = text.find(&format!("\n/**\n * {name}() - ")).unwrap_or_else(|| panic!("{name} has no kernel-doc"));
        let (comment, rest) = text[at..].split_once("*/\n").unwrap();
        let declaration = rest.split(';').next().unwrap();
        assert!(declaration.contains(&format!("{name}(")), "{name}: its declaration is not below its comment");
        let arguments = declaration.split_once('(').unwrap().1.rsplit_once(')').unwrap().0;
        let depth_0 = arguments.split("(*").next().unwrap();
        for argument in depth_0.split(',').map(str::trim).filter(|argument| !["", "void"].contains(argument)) {
            let argument = argument.rsplit([' ', '*']).next().unwrap();
            assert!(
                argument.is_empty() || comment.contains(&format!("@{argument}:")),
                "{name}: @{argument} is missing"
            );
        }
    }
}
