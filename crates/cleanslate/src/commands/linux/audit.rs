//! `cleanslate linux audit`: cleanslate.ko asks the TDX module for every page and compares its
//! ledger with the answers, while this program shows how far it is.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::Serialize;
use tdx_operator::input::{InputError, Rule};
use tdx_operator::progress::Progress;
use tdx_operator::words::{grouped, grouped_count};

use super::not_there;
use crate::interrupt;
use crate::options::Format;
use crate::output::{json, report_error, unless_closed};
use crate::progress::Line;
use crate::stop::Stop;
use crate::threads;

/// Between two looks at the progress.
const INTERVAL: Duration = Duration::from_millis(200);

/// What an audit has found.
#[derive(Serialize)]
pub(super) struct Audit {
    schema: &'static str,
    version: u32,
    /// Every page that the TDX module has is marked.
    pub(super) agree: bool,
    /// 4 KiB pages that were looked at.
    pub(super) pages: u64,
    /// SEAMCALLs for them.
    pub(super) calls: u64,
    pub(super) milliseconds: u64,
    pub(super) pages_per_second: u64,
    /// Pages that the TDX module has.
    pub(super) owned: u64,
    /// PAMT and holes in the memory of TDMRs.
    pub(super) reserved: u64,
    /// Pages in no TDMR, and of no memory.
    pub(super) outside: u64,
    /// Pages that the TDX module has and the ledger does not: they would not be reset.
    pub(super) missing: u64,
    /// The first of them.
    pub(super) missing_at: Vec<String>,
    pub(super) surplus: Surplus,
    pub(super) leaked: Leaked,
    /// Looks during which the ledger has changed, and that were repeated.
    pub(super) changed: u64,
    /// Looks that found the page in use, and that were repeated.
    pub(super) busy: u64,
    /// Looks that waited because the kernel made a SEAMCALL.
    pub(super) put_off: u64,
}

/// Marked pages that the TDX module does not have. Harmless: they are reset, too.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Surplus {
    /// Returned, or refused by a call that failed, and not yet reset.
    pub(super) returned: u64,
    /// Of a call whose answer was not seen.
    pub(super) giving: u64,
    /// Whose return was not seen.
    pub(super) stale: u64,
}

/// Marked pages that the kernel has freed, and a reference of cleanslate.ko keeps.
#[derive(Serialize)]
pub(super) struct Leaked {
    /// The TDX module does not have them.
    pub(super) returned: u64,
    /// The TDX module has them.
    pub(super) owned: u64,
    /// The first of both.
    pub(super) at: Vec<String>,
}

/// The file of the module: a name and a value per line.
struct Told {
    path: PathBuf,
    values: HashMap<String, String>,
    missing_at: Vec<String>,
    leaked_at: Vec<String>,
}

impl Told {
    fn of(path: &Path, text: &str) -> Self {
        let mut told =
            Self { path: path.to_owned(), values: HashMap::new(), missing_at: Vec::new(), leaked_at: Vec::new() };
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match name {
                "missing_at" => told.missing_at.push(value.to_owned()),
                "leaked_at" => told.leaked_at.push(value.to_owned()),
                _ => drop(told.values.insert(name.to_owned(), value.to_owned())),
            }
        }
        told
    }

    fn refuse(&self, what: String) -> Stop {
        InputError::of_file(&self.path.display().to_string(), Rule::Unreadable(what)).into()
    }

    fn number(&self, name: &str) -> Result<u64, Stop> {
        let value = self.values.get(name).ok_or_else(|| self.refuse(format!("no line `{name}`")))?;
        value.parse().map_err(|_| self.refuse(format!("`{name} {value}` has no number")))
    }

    fn state(&self) -> &str {
        self.values.get("state").map_or("", String::as_str)
    }

    /// An audit that runs. A late load is no audit, and `stop` would end it, too.
    fn is_running_audit(&self) -> bool {
        self.values.get("kind").is_some_and(|kind| kind == "audit") && self.state() == "running"
    }

    /// The sweep of a late load.
    fn is_no_audit(&self) -> bool {
        self.values.get("kind").is_some_and(|kind| kind != "audit")
    }

    fn into_audit(self) -> Result<Audit, Stop> {
        let (pages, milliseconds, missing) =
            (self.number("pages")?, self.number("milliseconds")?, self.number("missing")?);
        Ok(Audit {
            schema: "cleanslate/linux-audit",
            version: 1,
            agree: missing == 0,
            pages,
            calls: self.number("calls")?,
            milliseconds,
            pages_per_second: pages.saturating_mul(1000) / milliseconds.max(1),
            owned: self.number("owned")?,
            reserved: self.number("reserved")?,
            outside: self.number("outside")?,
            missing,
            surplus: Surplus {
                returned: self.number("returned")?,
                giving: self.number("giving")?,
                stale: self.number("stale")?,
            },
            leaked: Leaked {
                returned: self.number("leaked")?,
                owned: self.number("leaked_owned")?,
                at: self.leaked_at.clone(),
            },
            changed: self.number("changed")?,
            busy: self.number("busy")?,
            put_off: self.number("put_off")?,
            missing_at: self.missing_at,
        })
    }
}

/// The module's file.
trait File: Sync {
    /// Gives an order. The module audits in the task that writes it, so that the end of this
    /// program ends the audit.
    fn order(&self, text: &str) -> io::Result<()>;
    /// What the module says.
    fn read(&self) -> io::Result<Told>;
}

/// That of sysfs.
struct Sysfs<'a>(&'a Path);

impl File for Sysfs<'_> {
    // Appended, which is the same in sysfs: a file that stands for it in a test keeps its text.
    fn order(&self, text: &str) -> io::Result<()> {
        order(&mut fs::OpenOptions::new().append(true).open(self.0)?, text)
    }

    fn read(&self) -> io::Result<Told> {
        Ok(Told::of(self.0, &fs::read_to_string(self.0)?))
    }
}

/// One write, and no other: EINTR says that the audit was ended (`stop`, or the task was frozen),
/// and `write_all` would start it again.
fn order(file: &mut impl Write, text: &str) -> io::Result<()> {
    let taken = file.write(text.as_bytes())?;
    if taken == text.len() { Ok(()) } else { Err(io::Error::other("the module has not taken all of the order")) }
}

/// Errors of an audit that has begun, or whose `state` says why it has not: EPERM, EINTR, EIO,
/// ENODEV, EOPNOTSUPP, ECANCELED (`cleanslate_audit()` of `linux/sweep.c`). After any other the
/// file has the numbers of an earlier one.
const OF_AN_AUDIT: [i32; 6] = [1, 4, 5, 19, 95, 125];

/// Why there was no audit, or none to its end.
enum Ended {
    /// The thread that waits for the module was not started.
    NoThread(io::Error),
    /// The write to the module's file has failed.
    Order(io::Error),
}

/// Why there was no audit, or `None`: the file says how it ended.
fn refusal(ended: &Ended) -> Option<Cow<'static, str>> {
    let error = match ended {
        Ended::NoThread(error) => {
            let todo = threads::TO_DO;
            return Some(format!("there was no audit: its thread could not be started: {error}; {todo}").into());
        }
        Ended::Order(error) => error,
    };
    if error.raw_os_error().is_some_and(|errno| OF_AN_AUDIT.contains(&errno)) {
        return None;
    }
    Some(match error.kind() {
        io::ErrorKind::NotFound => super::NOT_LOADED.into(),
        io::ErrorKind::PermissionDenied => "an audit is for root: use sudo".into(),
        io::ErrorKind::ResourceBusy => {
            "an audit runs already, or pages of TDs are being learned: wait for its end".into()
        }
        _ => format!("sysfs `audit` did not take the order: {error}; there was no audit").into(),
    })
}

/// Lets the module audit, and shows how far it is. Ends it when the report is `interrupted`.
fn carry_out(file: &impl File, rate: Option<u32>, interrupted: impl Fn() -> bool) -> Result<(), Ended> {
    let line = Line::new();
    let text = rate.map_or("start\n".to_owned(), |rate| format!("start {rate}\n"));
    thread::scope(|scope| {
        let audit = thread::Builder::new().spawn_scoped(scope, || file.order(&text)).map_err(Ended::NoThread)?;
        while !audit.is_finished() {
            let told = file.read().ok();
            if let Some(told) = &told
                && let (Ok(pages), Ok(total)) = (told.number("pages"), told.number("total"))
            {
                line.step("pages", pages, total);
            }
            if interrupted() && told.is_some_and(|told| told.is_running_audit()) {
                // One that fails is repeated in the next turn.
                let _ = file.order("stop\n");
            }
            thread::park_timeout(INTERVAL);
        }
        let ended = audit.join();
        let ended = ended.unwrap_or_else(|_| Err(io::Error::other("the thread that waits for the module has failed")));
        ended.map_err(Ended::Order)
    })
}

/// Why an audit did not come to its end, as the module says it (`linux/sweep.c`), and what to do.
const STATES: [(&str, &str); 13] = [
    ("failed: TDX is not initialized, or pages are not tracked", "TDX is not initialized, or pages are not tracked"),
    (
        "failed: this kernel makes SEAMCALLs with preemption on",
        "this kernel makes SEAMCALLs with preemption on (before Linux 6.18): no audit",
    ),
    (
        "failed: with Dynamic PAMT not every page can be asked for",
        "Dynamic PAMT is on, and an audit does not ask for page pairs: no audit",
    ),
    (
        "failed: SEAMCALLs were missed, so that looks cannot keep out of their way",
        "SEAMCALLs were missed: `cleanslate linux status` has the reason",
    ),
    (
        "failed: SEAMCALLs of the kernel put off every look for a minute",
        "SEAMCALLs of the kernel put off every look for a minute: try again",
    ),
    (
        "failed: a SEAMCALL of the kernel did not wait for the end of a look",
        "a SEAMCALL of the kernel did not wait for the end of a look: try again",
    ),
    ("failed: TDX is not up", "TDX is not up: `cleanslate linux up`, then again"),
    ("failed: not in VMX operation (load kvm_intel)", "the CPU is not in VMX operation: load kvm_intel, then again"),
    ("failed: no pages of TDs are tracked", "no pages of TDs are tracked"),
    ("failed: the TDX module refused", REFUSED),
    ("running", ANOTHER),
    ("stopped", "the audit was stopped"),
    ("none", "the audit did not begin"),
];

/// The TDX module has given an answer that no audit can go on with.
pub(super) const REFUSED: &str = "the TDX module refused an answer: the kernel log has its status";

/// What an audit has found, for a report that does not depend on it.
pub(super) enum Found {
    /// What it has found, how many pages could not be looked at, and why it did not come to its
    /// end, if it did not.
    Pages { audit: Audit, not_seen: u64, ended: Option<Cow<'static, str>> },
    /// The same of an audit that Ctrl-C has ended.
    Interrupted { audit: Audit, not_seen: u64, why: Cow<'static, str> },
    /// Why it has found nothing.
    Nothing(Cow<'static, str>),
}

/// Audits.
pub(super) fn find(root: &Path, rate: Option<u32>) -> Found {
    let path = root.join("sys/kernel/cleanslate/audit");
    let file = Sysfs(&path);
    let started = carry_out(&file, rate, interrupt::came);
    let was_ended = matches!(&started, Err(Ended::Order(error)) if error.kind() == io::ErrorKind::Interrupted);
    found(&started, file.read(), was_ended && interrupt::came_soon())
}

/// What an audit has found that ended so, by what the file says then.
fn found(started: &Result<(), Ended>, told: io::Result<Told>, interrupted: bool) -> Found {
    if let Some(why) = started.as_ref().err().and_then(refusal) {
        return Found::Nothing(why);
    }
    let told = match told {
        Ok(told) => told,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing(super::NOT_LOADED.into()),
        Err(error) => return Found::Nothing(format!("sysfs `audit` cannot be read: {error}").into()),
    };
    if told.is_no_audit() {
        return Found::Nothing(ANOTHER.into());
    }
    let complete = started.is_ok() && told.state() == "done";
    let why = STATES.into_iter().find(|(state, _)| *state == told.state()).map(|(_, why)| why);
    let (Ok(not_seen), Ok(missing)) = (told.number("not_seen"), told.number("missing")) else {
        return Found::Nothing(UNREADABLE.into());
    };
    if interrupted && told.state() == "stopped" {
        let number = |name| told.number(name).map_or("?".to_owned(), grouped);
        let why = format!(
            "interrupted (Ctrl-C) after {} of {} pages: run it again, or leave it out (--skip audit)",
            number("pages"),
            number("total")
        );
        return match told.into_audit() {
            Ok(audit) => Found::Interrupted { audit, not_seen, why: why.into() },
            Err(_) => Found::Nothing(UNREADABLE.into()),
        };
    }
    let ended = (!complete).then(|| why.unwrap_or("the audit failed: the kernel log has the reason").into());
    match (told.into_audit(), ended) {
        (_, Some(why)) if missing == 0 => Found::Nothing(why),
        (Ok(audit), ended) => Found::Pages { audit, not_seen, ended },
        (Err(_), _) => Found::Nothing(UNREADABLE.into()),
    }
}

/// The file is not about the audit that has just ended.
const ANOTHER: &str = "another sweep began before the result was read: run it again when that has ended";
const UNREADABLE: &str = "cleanslate.ko is of another version: it does not say what this program reads";

/// True if ledger and TDX module agree.
pub(super) fn run(root: &Path, format: Format, rate: Option<u32>, out: &mut impl Write) -> Result<bool, Stop> {
    let path = root.join("sys/kernel/cleanslate/audit");
    let file = Sysfs(&path);
    // Ctrl-C ends the program, and with it the task that audits.
    let started = carry_out(&file, rate, || false);
    match &started {
        Err(Ended::Order(error)) if error.kind() == io::ErrorKind::NotFound => return Err(not_there(&path, error)),
        Err(ended) => {
            if let Some(why) = refusal(ended) {
                let what = Rule::Unreadable(why.into_owned());
                return Err(InputError::of_file(&path.display().to_string(), what).into());
            }
        }
        Ok(()) => {}
    }
    let told = file.read().map_err(|error| not_there(&path, &error))?;
    if told.is_no_audit() {
        return Err(told.refuse(ANOTHER.to_owned()));
    }
    let missing = told.number("missing").unwrap_or(0);
    if missing > 0 && told.state() != "done" {
        // Whatever ended it: the one fault that matters was found.
        report_error(format_args!("audit {}: not all pages were looked at", told.state()));
    } else if started.is_err() || told.state() != "done" {
        let why =
            started.err().map_or(String::new(), |(Ended::Order(error) | Ended::NoThread(error))| format!(" ({error})"));
        return Err(told.refuse(format!("audit {}{why}; see the kernel log", told.state())));
    }
    let not_seen = told.number("not_seen")?;
    if not_seen > 0 && missing == 0 {
        let pages = grouped_count(not_seen, "page");
        return Err(
            told.refuse(format!("{pages} could not be looked at, because other SEAMCALLs had them all the time"))
        );
    }
    let audit = told.into_audit()?;
    unless_closed(match format {
        Format::Human => audit.print(out),
        Format::Json => json(out, &audit),
    })?;
    Ok(audit.agree)
}

impl Audit {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let seconds = self.milliseconds as f64 / 1000.0;
        let (pages, rate) = (grouped_count(self.pages, "page"), grouped(self.pages_per_second));
        writeln!(out, "audit    {pages} in {seconds:.1} s ({rate} per second), {} SEAMCALLs", grouped(self.calls))?;
        writeln!(
            out,
            "module   has {}; {} PAMT or holes, {} in no TDMR",
            grouped(self.owned),
            grouped(self.reserved),
            grouped(self.outside)
        )?;
        let Surplus { returned, giving, stale } = self.surplus;
        writeln!(
            out,
            "surplus  {returned} returned or refused and not reset, {giving} in flight, {stale} given: harmless"
        )?;
        writeln!(
            out,
            "leaked   {}, {} of them the TDX module has{}",
            self.leaked.returned.saturating_add(self.leaked.owned),
            self.leaked.owned,
            list(&self.leaked.at)
        )?;
        writeln!(
            out,
            "looks    {} put off for SEAMCALLs of the kernel, {} found a page busy, {} changed",
            self.put_off, self.busy, self.changed
        )?;
        writeln!(out, "missing  {}{}", self.missing, list(&self.missing_at))?;
        writeln!(
            out,
            "verdict  {}",
            if self.agree {
                "every page that the TDX module has is marked"
            } else {
                "PRIVATE PAGES WITHOUT A MARK: a kexec would leave them private. Please report this"
            }
        )
    }
}

/// `: 0x1000, 0x2000`.
fn list(addresses: &[String]) -> String {
    if addresses.is_empty() { String::new() } else { format!(": {}", addresses.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// As the module when the audit is ended.
    struct Ended(Vec<Vec<u8>>);

    impl Write for Ended {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.push(text.to_vec());
            Err(io::ErrorKind::Interrupted.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_state_is_one_of_the_module() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linux/sweep.c");
        let source = fs::read_to_string(path).unwrap();
        for (state, _) in STATES {
            assert!(source.contains(&format!("\"{state}\"")), "{state}");
        }
        let all = source.split("\"failed: ").skip(1).map(|rest| rest.split('"').next().unwrap());
        // One of a late load alone.
        let missed: Vec<_> = all
            .filter(|state| !state.starts_with("track of private memory") && !state.starts_with("pages stayed busy"))
            .filter(|state| !STATES.iter().any(|(known, _)| known.ends_with(state)))
            .collect();
        assert_eq!(missed, [""; 0]);
    }

    #[test]
    fn an_audit_that_was_ended_is_not_started_again() {
        let mut file = Ended(Vec::new());
        let ended = order(&mut file, "start 7\n").unwrap_err();
        assert_eq!((ended.kind(), file.0), (io::ErrorKind::Interrupted, vec![b"start 7\n".to_vec()]));
    }

    /// As the module's file: `start` returns when a `stop` has come, or after so many looks at it.
    struct Fake {
        kind: &'static str,
        looks: u32,
        said: Mutex<(u32, Vec<String>)>,
        change: Condvar,
    }

    impl Fake {
        fn new(kind: &'static str, looks: u32) -> Self {
            Self { kind, looks, said: Mutex::default(), change: Condvar::new() }
        }

        fn orders(&self) -> Vec<String> {
            self.said.lock().unwrap().1.clone()
        }
    }

    const NUMBERS: &str = "total 262144\npages 4096\ncalls 4096\nmilliseconds 1050\nowned 99\nreserved 8\noutside 0\n\
        missing 0\nreturned 4\ngiving 0\nstale 0\nleaked 3\nleaked_owned 1\nchanged 0\nbusy 2\nput_off 5\nnot_seen 2\n";

    impl File for Fake {
        fn order(&self, text: &str) -> io::Result<()> {
            let mut said = self.said.lock().unwrap();
            said.1.push(text.to_owned());
            self.change.notify_all();
            if !text.starts_with("start") {
                return Ok(());
            }
            let ended = |said: &mut (u32, Vec<String>)| said.0 < self.looks && !said.1.contains(&"stop\n".to_owned());
            said = self.change.wait_while(said, ended).unwrap();
            if said.1.contains(&"stop\n".to_owned()) { Err(io::Error::from_raw_os_error(4)) } else { Ok(()) }
        }

        fn read(&self) -> io::Result<Told> {
            let mut said = self.said.lock().unwrap();
            said.0 += 1;
            self.change.notify_all();
            let state = match said.1.last().map(String::as_str) {
                None => "none",
                Some("stop\n") => "stopped",
                Some(_) => "running",
            };
            Ok(Told::of(Path::new("audit"), &format!("kind {}\nstate {state}\n{NUMBERS}", self.kind)))
        }
    }

    #[test]
    fn an_interrupt_ends_the_audit_and_keeps_what_it_has_found() {
        let file = Fake::new("audit", u32::MAX);
        let started = carry_out(&file, Some(9), || true);
        assert_eq!(file.orders(), ["start 9\n", "stop\n"]);
        match found(&started, file.read(), true) {
            Found::Interrupted { audit, not_seen, why } => {
                assert_eq!((audit.pages, audit.owned, not_seen), (4096, 99, 2));
                assert!(why.contains("interrupted (Ctrl-C) after 4,096 of 262,144 pages"), "{why}");
            }
            _ => panic!("what was found until then is lost"),
        }
        // Something else has ended it: a suspend, or another program.
        match found(&started, file.read(), false) {
            Found::Nothing(why) => assert_eq!(why, "the audit was stopped"),
            _ => panic!("it is not complete"),
        }
    }

    #[test]
    fn nothing_is_stopped_but_an_audit_and_only_after_an_interrupt() {
        for (kind, interrupted) in [("learn", true), ("audit", false)] {
            let file = Fake::new(kind, 3);
            assert!(carry_out(&file, None, || interrupted).is_ok());
            assert_eq!(file.orders(), ["start\n"], "{kind}");
        }
    }
}
