//! `explain`: meaning of a completion status, an errno, an MSR value or a kernel log: name, cause,
//! action, and the rule used. Unknown input is reported as unknown, undecidable logs as
//! undecidable; never guesses. Does not access the machine.

mod bank;
mod boot;
mod boot_facts;
pub(crate) mod calls;
pub(crate) mod causes;
mod errno;
mod handover;
mod kdump;
mod kexec;
mod key_id;
mod leaves;
mod log;
mod machine_check;
mod meanings;
mod msr;
mod odd;
mod record;
mod records;
mod registers;
mod status;
mod system;
mod update;
mod values;
mod vmm;

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use tdx_host::platform::Msr;

use crate::{
    input::{InputError, Rule},
    progress::Progress,
    report::{ExplainReport, Given, Subject},
    watched::{self, Watched},
};

pub use leaves::may_return;
pub use log::{from_reader, from_reader_of_boot};
pub use msr::msr;

/// Longest line that is given as an argument.
const LINE: usize = 4096;
/// Bytes of what a program printed of a register: a line for each of some thousand CPUs.
const PRINTED: u64 = 1 << 20;
/// Longest name of a file in an error.
const NAME_LIMIT: usize = 512;

/// A status or an errno by number or name, else a file; `-` is standard input. A long file tells
/// how far it is.
///
/// # Errors
/// A text that is neither, or a file that cannot be used.
pub fn subject(text: &str, progress: &dyn Progress) -> Result<ExplainReport, InputError> {
    subject_of_boot(text, None, progress)
}

/// The same for one boot of a log, by its number from 1.
///
/// # Errors
/// As [`subject`], or a log with fewer boots.
pub fn subject_of_boot(text: &str, boot: Option<u64>, progress: &dyn Progress) -> Result<ExplainReport, InputError> {
    if text == "-" {
        return from_reader_of_boot("<stdin>", watched::stdin(progress), boot);
    }
    if let Some(subject) = value(text) {
        return Ok(ExplainReport::new(text, subject));
    }
    if let Some(errno) = small(text) {
        let rule = format!(
            "is no completion status, which has 64 bits, and an errno of the kernel is negative: did you mean -{errno}?"
        );
        return Err(InputError::of_file(text.trim(), Rule::NotAValue(rule)));
    }
    if !Path::new(text).exists() {
        if let Some(subject) = odd::value(text) {
            return Ok(ExplainReport::new(text, subject));
        }
        // A line of a log.
        if text.len() <= LINE && text.trim().contains([' ', '=']) {
            let report = from_reader(text, text.as_bytes()).ok();
            let report = report.filter(|report| report.is_known() && !values::are_all(report));
            if let Some(subject) = report.map(|report| report.subject).or_else(|| odd::word(text)) {
                return Ok(ExplainReport::new(text, subject));
            }
        }
        if let Some(report) = values::explain(text, &odd::several(text)) {
            return Ok(report);
        }
        if let Some(rule) = odd::why_not(text) {
            return Err(InputError::of_file(&crate::input::excerpt(text), Rule::NotAValue(rule)));
        }
        if odd::is_command(text) {
            let rule = "is a command, not its output: run it and pipe it in, `dmesg | cleanslate explain -`";
            return Err(InputError::of_file(&crate::input::excerpt(text), Rule::NotAValue(rule.to_owned())));
        }
    }
    file(text, boot, progress)
}

/// A value in its usual writing: an errno, the status of a bank, a completion status.
fn value(text: &str) -> Option<Subject> {
    if let Some(number) = errno::named(text) {
        return Some(Subject::Errno(errno::explain(number)));
    }
    if small(text).is_some() {
        return None;
    }
    if let Some(value) = status::number(text) {
        if let Some(number) = odd::negative(value) {
            return Some(Subject::Errno(errno::explain(number)));
        }
        if bank::is_bank_status(value) {
            return Some(Subject::Msr(bank::explain(value)));
        }
        // All digits of a status, though the upper ones are 0.
        let digits = text.trim().trim_start_matches("0x").trim_start_matches("0X");
        let whole = digits.bytes().filter(u8::is_ascii_hexdigit).count() == 16;
        let (found, given) = if whole { (tdx_abi::Status::new(value), Given::Whole) } else { status::from_bits(value) };
        return Some(Subject::Status(status::explain(found, given)));
    }
    Some(Subject::Status(status::explain(status::named(text)?, Given::Name)))
}

/// A decimal number from 1 to 4095: an errno without its sign.
fn small(text: &str) -> Option<u32> {
    let digits = text.trim();
    let all = !digits.is_empty() && digits.len() < 5 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|number| all && (1..4096).contains(number))
}

/// The value of a register, in a form in which `rdmsr` and others print one: `200000001f`,
/// `0x200000001f`, `0x200000001FULL`, `200000001fh`, `cpu0: ..`, the same once for each CPU; or the
/// file of it, or `-` for standard input.
///
/// # Errors
/// A text that is no number, or that holds different values.
pub fn register(msr: Msr, text: &str) -> Result<ExplainReport, InputError> {
    let refused = |rule: &str| Err(InputError::of_file(&crate::input::excerpt(text), Rule::NotAValue(rule.to_owned())));
    let unreadable =
        |error: io::Error| InputError::of_file(&crate::input::excerpt(text), Rule::Unreadable(error.to_string()));
    let mut read = String::new();
    if text == "-" {
        io::stdin().lock().take(PRINTED).read_to_string(&mut read).map_err(unreadable)?;
    } else if msr::value(text) == msr::Value::None && Path::new(text).is_file() {
        File::open(text).and_then(|file| file.take(PRINTED).read_to_string(&mut read)).map_err(unreadable)?;
    }
    let values = if read.is_empty() { text } else { &read };
    match msr::value(values) {
        msr::Value::One(value) => {
            let mut report = msr::explain(msr, value);
            if let Some(other) = msr::decimal(values) {
                report.meaning = format!(
                    "{}. Read as hex, as `rdmsr` prints it; printed in decimal (`rdmsr -d`) it is {other:#x}",
                    report.meaning
                );
            }
            Ok(ExplainReport::new(values.trim(), Subject::Msr(report)))
        }
        msr::Value::Several => refused(
            "holds different values: CPUs that differ make the module refuse them (INCONSISTENT_MSR); explain one \
             value at a time",
        ),
        msr::Value::None if values.contains("cannot read MSR") => refused(
            "says that the CPU does not have this register: no multi-key memory encryption and no TDX, or this is a \
             virtual machine",
        ),
        msr::Value::None if values.to_ascii_lowercase().contains("operation not permitted") => {
            refused("says that reading is not permitted: run as root, and without the kernel's lockdown (Secure Boot)")
        }
        msr::Value::None if values.contains("No such file") || values.contains("No such device") => {
            refused("says that the register's file is not there: `modprobe msr` first")
        }
        msr::Value::None => {
            refused("is not an MSR value: expected up to 64 bits in hex as printed by `rdmsr` (0x200000001f)")
        }
    }
}

fn file(text: &str, boot: Option<u64>, progress: &dyn Progress) -> Result<ExplainReport, InputError> {
    let path = Path::new(text);
    let name = crate::input::excerpt(text);
    if text.len() > NAME_LIMIT || !path.exists() {
        let rule = "is not the name of a known completion status, not a 64-bit number and not a file";
        return Err(InputError::of_file(&name, Rule::NotAValue(rule.to_owned())));
    }
    let unreadable = |error: io::Error| InputError::of_file(&name, Rule::Unreadable(error.to_string()));
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if about.is_dir() {
        return Err(InputError::of_file(
            &name,
            Rule::NotAValue(
                "is a directory; expected a kernel log \
            file"
                    .to_owned(),
            ),
        ));
    }
    from_reader_of_boot(&name, Watched::new(BufReader::with_capacity(1 << 16, file), about.len(), progress), boot)
}
