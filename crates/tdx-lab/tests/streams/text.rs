//! SEAMCALL streams as text: `fixtures/seamcalls/README.md` has the format.

use std::fmt::Write as _;

use tdx_abi::{Leaf, LeafCall, PhysAddr, Registers};

/// One line.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A machine whose module has been initialized on every CPU.
    Machine { version: String, cpus: u32, packages: u32 },
    /// The host stores words.
    Store(PhysAddr, Vec<u64>),
    /// A SEAMCALL, `times` with the same answer; `None`: the CPU is in the guest.
    Call { cpu: u32, times: u32, call: Registers, answer: Option<Registers> },
    /// The guest on this CPU accepts a page of this level.
    Accept { cpu: u32, gpa: u64, level: u64 },
    /// The guest leaves this CPU.
    Leave(u32),
    /// The host has reset so many bytes.
    Reset(PhysAddr, u64),
    /// A condition begins or ends.
    Condition(Condition, bool),
    /// The module crashes.
    Dead,
    /// A module is loaded in the place of this one.
    Load(String),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Condition {
    Interrupt,
    NoEntropy,
}

const CONDITIONS: [(&str, Condition); 2] = [("interrupt", Condition::Interrupt), ("no-entropy", Condition::NoEntropy)];

type Field = fn(&mut Registers) -> &mut u64;

const REGISTERS: [(&str, Field); 8] = [
    ("rcx", |r| &mut r.rcx),
    ("rdx", |r| &mut r.rdx),
    ("r8", |r| &mut r.r8),
    ("r9", |r| &mut r.r9),
    ("r10", |r| &mut r.r10),
    ("r11", |r| &mut r.r11),
    ("r12", |r| &mut r.r12),
    ("r13", |r| &mut r.r13),
];

/// Registers that differ from `base`.
fn changed(mut registers: Registers, mut base: Registers) -> String {
    let mut text = String::new();
    for (name, field) in REGISTERS {
        if field(&mut registers) != field(&mut base) {
            let _ = write!(text, " {name}={:#x}", field(&mut registers));
        }
    }
    text
}

/// The lines of a stream. Equal calls with equal answers are one line.
pub fn print(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        let line = match event {
            Event::Machine { version, cpus, packages } => format!("machine {version} cpus {cpus} packages {packages}"),
            Event::Store(at, words) => {
                let words: Vec<String> = words.iter().map(|word| format!("{word:#x}")).collect();
                format!("store {:#x} {}", at.get(), words.join(" "))
            }
            Event::Call { cpu, times, call, answer } => {
                let leaf = call.leaf_call();
                let mut line = format!("{cpu} {}", leaf.leaf().name().unwrap());
                if leaf.version() > 0 {
                    let _ = write!(line, ".{}", leaf.version());
                }
                if *times > 1 {
                    let _ = write!(line, " x{times}");
                }
                line += &changed(*call, Registers::default());
                match answer {
                    Some(answer) => format!("{line} -> {:#x}{}", answer.rax, changed(*answer, *call)),
                    None => format!("{line} -> inside"),
                }
            }
            Event::Accept { cpu, gpa, level } => format!("accept {cpu} {gpa:#x} {level}"),
            Event::Leave(cpu) => format!("leave {cpu}"),
            Event::Reset(at, bytes) => format!("reset {:#x} {bytes:#x}", at.get()),
            Event::Condition(what, on) => {
                let name = CONDITIONS.iter().find(|(_, condition)| condition == what).unwrap().0;
                format!("{name} {}", if *on { "on" } else { "off" })
            }
            Event::Dead => "dead".to_owned(),
            Event::Load(version) => format!("load {version}"),
        };
        text += &line;
        text.push('\n');
    }
    text
}

fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

fn set(registers: &mut Registers, words: &[&str]) {
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("`{word}` is no register"));
        let field = REGISTERS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("`{name}`"));
        *field.1(registers) = number(value);
    }
}

fn call(words: &[&str]) -> Event {
    let arrow = words.iter().position(|word| *word == "->").expect("a call has `->`");
    let (before, after) = (&words[2..arrow], &words[arrow + 1..]);
    let (name, version) = words[1]
        .rsplit_once('.')
        .map_or((words[1], 0), |(name, version)| version.parse().map_or((words[1], 0), |version| (name, version)));
    let leaf = *Leaf::KNOWN.iter().find(|leaf| leaf.name() == Some(name)).unwrap_or_else(|| panic!("`{name}`"));
    let (times, before) = match before {
        [first, rest @ ..] if first.starts_with('x') => (number(&first[1..]) as u32, rest),
        all => (1, all),
    };
    let mut call = Registers::call(LeafCall::with_version(leaf, version));
    set(&mut call, before);
    let answer = (after[0] != "inside").then(|| {
        let mut answer = Registers { rax: number(after[0]), ..call };
        set(&mut answer, &after[1..]);
        answer
    });
    Event::Call { cpu: number(words[0]) as u32, times, call, answer }
}

/// The events of a stream. Panics at a line that breaks the format.
pub fn parse(text: &str) -> Vec<Event> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["machine", version, "cpus", cpus, "packages", packages] => Event::Machine {
                    version: version.to_owned(),
                    cpus: number(cpus) as u32,
                    packages: number(packages) as u32,
                },
                ["store", at, ref words @ ..] => {
                    Event::Store(PhysAddr::new(number(at)), words.iter().map(|word| number(word)).collect())
                }
                ["accept", cpu, gpa, level] => {
                    Event::Accept { cpu: number(cpu) as u32, gpa: number(gpa), level: number(level) }
                }
                ["leave", cpu] => Event::Leave(number(cpu) as u32),
                ["reset", at, bytes] => Event::Reset(PhysAddr::new(number(at)), number(bytes)),
                ["dead"] => Event::Dead,
                ["load", version] => Event::Load(version.to_owned()),
                [name, state @ ("on" | "off")] => {
                    let what =
                        CONDITIONS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("`{name}`"));
                    Event::Condition(what.1, state == "on")
                }
                _ => call(&words),
            }
        })
        .collect()
}
