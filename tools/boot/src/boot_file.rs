//! Boot files: `bare/boots/*.toml`, one table `[[boot]]` for each boot. Its keys are the options of
//! `cargo xtask boot`, besides `name`, `why`, `long` and `expect`. `[defaults]` is for keys that
//! all boots of a file share, `[expect.NAME]` for expectations that several boots share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::args::BootArgs;
use crate::expect::Expect;
use crate::messages::{self, Messages};
use crate::root;
use crate::toml_file::{self, BootFileError};

/// A boot that is a test.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) name: String,
    /// What would go unnoticed without it.
    pub(crate) why: String,
    /// It takes minutes: run by `boots --long` alone.
    pub(crate) long: bool,
    /// The words of `cargo xtask boot`.
    pub(crate) words: Vec<String>,
    pub(crate) args: BootArgs,
    pub(crate) expect: Expect,
}

impl Boot {
    /// Boots the kernel of the user's in place of the one it replaces.
    pub(crate) fn use_own_kernel(&mut self) {
        if let Some(own) = self.args.kernel().own() {
            self.args.kernel = Some(own);
            self.words.retain(|word| !word.starts_with("--kernel="));
            self.words.push(format!("--kernel={}", own.name()));
        }
    }
}

/// The shape of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    expect: BTreeMap<String, Value>,
    boot: Vec<Table>,
}

/// The boots of the repository, in the order of the file names.
pub(crate) fn load_all(messages: &Messages) -> Result<Vec<Boot>, BootFileError> {
    let folder = root().join(messages::FILE).with_file_name("");
    let read = |error| BootFileError::Read { file: folder.clone(), error };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with(messages::FILE) {
            files.push(path);
        }
    }
    files.sort();
    load(&files, messages)
}

/// The boots of these files.
pub(crate) fn load(files: &[PathBuf], messages: &Messages) -> Result<Vec<Boot>, BootFileError> {
    let mut boots: Vec<Boot> = Vec::new();
    for path in files {
        let file: File = toml_file::parse(path)?;
        let reader = Reader { path, defaults: &file.defaults, shared: &file.expect, messages };
        for table in &file.boot {
            let boot = reader.boot(table)?;
            if boots.iter().any(|other| other.name == boot.name) {
                return Err(reader.value(&boot.name, "name", &boot.name, "another boot has this name".to_owned()));
            }
            boots.push(boot);
        }
    }
    Ok(boots)
}

struct Reader<'f> {
    path: &'f Path,
    defaults: &'f Table,
    shared: &'f BTreeMap<String, Value>,
    messages: &'f Messages,
}

impl Reader<'_> {
    fn value(&self, place: &str, key: &str, value: &dyn ToString, rule: String) -> BootFileError {
        let (file, place) = (self.path.to_owned(), format!("boot \"{place}\""));
        BootFileError::Value { file, place, key: key.to_owned(), value: value.to_string(), rule }
    }

    fn boot(&self, table: &Table) -> Result<Boot, BootFileError> {
        let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
        let missing = |key, rule| {
            let place = format!("boot \"{name}\"");
            BootFileError::Missing { file: self.path.to_owned(), place, key, rule }
        };
        if name.is_empty() {
            return Err(missing("name", "a text by which `cargo xtask boots NAME` finds it"));
        }
        let why = table.get("why").and_then(Value::as_str).filter(|why| !why.is_empty());
        let why = why.ok_or_else(|| missing("why", "what would go unnoticed without this boot"))?;
        let (words, args) = self.args(name, table)?;
        let long = match table.get("long") {
            None => false,
            Some(Value::Boolean(long)) => *long,
            Some(other) => return Err(self.value(name, "long", other, "true or false".to_owned())),
        };
        let expect = table.get("expect").ok_or_else(|| missing("expect", "what the outcome must be"))?;
        let expect = self.expect(name, expect, 0)?;
        if expect.verdict.is_none() {
            return Err(missing("expect.verdict", "clean, machine-check, overwritten or failed"));
        }
        Ok(Boot { name: name.to_owned(), why: why.to_owned(), long, words, args, expect })
    }

    /// The options as the command line has them, which knows what is allowed.
    fn args(&self, name: &str, table: &Table) -> Result<(Vec<String>, BootArgs), BootFileError> {
        let known = BootArgs::keys();
        let own = ["name", "why", "long", "expect"];
        let places = [("[defaults]".to_owned(), self.defaults, &[][..]), (format!("boot \"{name}\""), table, &own[..])];
        for (place, table, more) in places {
            let unknown = table.keys().find(|key| !known.contains(key) && !more.contains(&key.as_str()));
            if let Some(key) = unknown {
                let known = more.iter().copied().map(str::to_owned).chain(known.iter().cloned()).collect();
                return Err(BootFileError::UnknownKey { file: self.path.to_owned(), place, key: key.clone(), known });
            }
        }
        let mut words = Vec::new();
        // The order of the options, so that the same boot has the same words.
        for key in &known {
            let Some(value) = table.get(key).or_else(|| self.defaults.get(key)) else { continue };
            let word = match value {
                Value::String(text) if key == "guest" => text.clone(),
                Value::String(text) => format!("--{key}={text}"),
                Value::Integer(number) => format!("--{key}={number}"),
                Value::Boolean(true) => format!("--{key}"),
                Value::Boolean(false) => continue,
                other => return Err(self.value(name, key, other, "a text, a number, true or false".to_owned())),
            };
            // One at a time, so that an error is about this key.
            let guest = if key == "guest" { None } else { Some("firstkernel") };
            if let Err(error) = BootArgs::from_words(guest.into_iter().chain([word.as_str()])) {
                let rule = error.to_string();
                let rule = rule.trim_start_matches("error: ").split("\n\nFor more").next().unwrap_or_default();
                let rule = rule.split_whitespace().collect::<Vec<_>>().join(" ");
                return Err(self.value(name, key, value, rule));
            }
            words.push(word);
        }
        let args = BootArgs::from_words(words.iter().map(String::as_str))
            .map_err(|error| self.value(name, "boot", &words.join(" "), error.to_string()))?;
        Ok((words, args))
    }

    /// What is expected, with what it uses of the shared expectations.
    fn expect(&self, name: &str, value: &Value, depth: usize) -> Result<Expect, BootFileError> {
        let mut expect: Expect = value
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| self.value(name, "expect", value, error.message().to_owned()))?;
        for message in expect.messages.iter().chain(&expect.no_messages) {
            if self.messages.get(message).is_none() {
                let rule = format!("a name in {}: {}", messages::FILE, self.messages.names().join(", "));
                return Err(self.value(name, "expect.messages", message, rule));
            }
        }
        if depth > self.shared.len() {
            return Err(self.value(name, "expect.use", value, "it uses itself".to_owned()));
        }
        for used in std::mem::take(&mut expect.use_) {
            let Some(shared) = self.shared.get(&used) else {
                let names: Vec<&str> = self.shared.keys().map(String::as_str).collect();
                let rule = format!("the name of a table [expect.NAME] of this file: {}", names.join(", "));
                return Err(self.value(name, "expect.use", &used, rule));
            };
            expect.add(self.expect(name, shared, depth + 1)?);
        }
        Ok(expect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Guest;

    fn boots() -> Vec<Boot> {
        load_all(&messages::load().unwrap()).unwrap()
    }

    /// The boots of the day on which they became data. A boot leaves this list only with a reason:
    /// seven of Debian's 6.12 have `--tds=0` since the shipped module cannot build TDs; a late load
    /// of 7.3 is not refused since it learns the pages of TDs.
    #[test]
    fn no_boot_is_lost() {
        let wanted = include_str!("../tests/boots.txt");
        let there: Vec<String> = boots().iter().map(|boot| BootArgs::shell(&minimal(&boot.args))).collect();
        let lost: Vec<&str> = wanted.lines().filter(|line| !there.iter().any(|boot| boot == line)).collect();
        assert!(lost.is_empty(), "lost:\n{}\nthere:\n{}", lost.join("\n"), there.join("\n"));
        assert_eq!(wanted.lines().count(), 79);
    }

    /// The options that differ from the command line's defaults.
    fn minimal(args: &BootArgs) -> Vec<String> {
        use clap::ValueEnum as _;
        let name = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        let mut words: Vec<String> = name(args.guest.to_possible_value()).into_iter().collect();
        let mut option = |key: &str, value: String, default: &str| {
            if value != default {
                words.push(format!("--{key}={value}"));
            }
        };
        option("cpu", name(args.cpu.to_possible_value()).unwrap_or_default(), "spr");
        option("cpus", args.cpus.to_string(), "1");
        option("nodes", args.nodes.to_string(), "1");
        option("policy", args.policy.clone(), "tracked");
        option("tds", args.tds.to_string(), "1");
        option("kexecs", args.kexecs.to_string(), "1");
        option("next", name(args.next.to_possible_value()).unwrap_or_default(), "self");
        option("kernel", args.kernel().name().to_owned(), if args.guest == Guest::Kvm { "tdx-7.3" } else { "stock" });
        option("memory", args.memory.to_string(), "1024");
        option("append", args.append.clone(), "");
        option("seamvisor", args.seamvisor.clone(), "");
        option("timeout", args.timeout.to_string(), "180");
        let flags = [
            ("crash", args.crash),
            ("refused", args.refused),
            ("module", args.module),
            ("plain", args.plain),
            ("icount", args.icount),
        ];
        words.extend(flags.into_iter().filter(|(_, on)| *on).map(|(flag, _)| format!("--{flag}")));
        words
    }

    #[test]
    fn every_shared_expectation_is_used() {
        for file in
            ["firstkernel", "linux-stock-6.12", "linux-tdx", "linux-tdx-6.18", "linux-tdx-7.3", "linux-debug", "kvm"]
        {
            let text = std::fs::read_to_string(root().join(format!("bare/boots/{file}.toml"))).unwrap();
            for name in text.lines().filter_map(|line| line.strip_prefix("[expect.")?.strip_suffix(']')) {
                assert!(text.matches(&format!("\"{name}\"")).count() > 0, "{file}: {name}");
            }
        }
    }

    fn error(text: &str) -> String {
        let file = std::env::temp_dir().join(format!("cleanslate-boot-{:?}.toml", std::thread::current().id()));
        std::fs::write(&file, text).unwrap();
        let error = load(std::slice::from_ref(&file), &messages::load().unwrap()).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        error.replace(&file.display().to_string(), "FILE")
    }

    #[test]
    fn an_error_names_file_key_value_and_rule() {
        let head = "[[boot]]\nname = \"b\"\nwhy = \"w\"\nexpect.verdict = \"clean\"\nguest = \"firstkernel\"\n";
        let of = |line: &str| error(&format!("{head}{line}\n"));
        let many = of("cpus = 9");
        assert!(many.starts_with("FILE: boot \"b\": cpus = 9: ") && many.contains("9 is not in 1..=8"), "{many}");
        let kernel = of("kernel = \"5.10\"");
        assert!(kernel.contains("kernel = \"5.10\"") && kernel.contains("tdx-7.3"), "{kernel}");
        let unknown = of("cpuss = 4");
        assert!(unknown.starts_with("FILE: boot \"b\": unknown key `cpuss`, expected one of name, why"), "{unknown}");
        assert!(of("runs = 2").contains("unknown key `runs`"));
        assert!(of("crash = 1.5").contains("crash = 1.5: a text, a number, true or false"));
        let kind = of("expect.kinds = 1");
        assert!(kind.contains("unknown field `kinds`") && kind.contains("pages_match"), "{kind}");
        assert!(of("expect.memory = \"clear\"").contains("unknown variant `clear`"));
        assert!(of("expect.messages = [\"hello\"]").contains("a name in bare/boots/messages.toml: linux-version"));
        assert!(of("expect.use = [\"x\"]").contains("[expect.NAME] of this file"));
        assert!(of("expect.use = [\"x\"]\n[expect.x]\nuse = [\"x\"]").contains("it uses itself"));
        assert!(of("[boots]").contains("unknown field `boots`, expected one of `defaults`, `expect`, `boot`"));
        let syntax = of("cpus =");
        assert!(syntax.contains("FILE: TOML parse error at line 6"), "{syntax}");
        assert!(error(&format!("{head}{head}")).contains("another boot has this name"));
        assert!(error("[[boot]]\nwhy = \"w\"").contains("`name` is missing"));
        assert!(error("[[boot]]\nname = \"b\"").contains("`why` is missing"));
        assert!(error("[[boot]]\nname = \"b\"\nwhy = \"w\"\nguest = \"linux\"").contains("`expect` is missing"));
        let none = error("[[boot]]\nname = \"b\"\nwhy = \"w\"\nguest = \"linux\"\nexpect.kind = \"x\"");
        assert!(none.contains("`expect.verdict` is missing"), "{none}");
        let guest = error("[[boot]]\nname = \"b\"\nwhy = \"w\"\nexpect.verdict = \"clean\"");
        assert!(guest.contains("<GUEST>"), "{guest}");
    }
}
