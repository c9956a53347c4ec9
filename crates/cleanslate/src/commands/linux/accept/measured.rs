//! Times that cleanslate.ko measures on request: WBINVD, and what its observer adds to a SEAMCALL
//! (sysfs `measure`, `linux/measure.c`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::missing::Reason;
use crate::commands::linux::NOT_LOADED;
use crate::interrupt;

/// Nanoseconds of some times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Times {
    pub(super) count: u64,
    pub(super) min_ns: u64,
    pub(super) mean_ns: u64,
    pub(super) max_ns: u64,
}

/// A function of the module, with and without the observer's probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Observer {
    pub(super) observed: Times,
    pub(super) bare: Times,
}

/// Why a time is missing.
pub(super) type Why = (Reason, Cow<'static, str>);

/// What the module has measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Measured {
    pub(super) wbinvd: Result<Times, Why>,
    pub(super) observer: Result<Observer, Why>,
}

impl Measured {
    /// Neither of them.
    pub(super) fn none(reason: Reason, why: impl Into<Cow<'static, str>>) -> Self {
        let why = why.into();
        Self { wbinvd: Err((reason, why.clone())), observer: Err((reason, why)) }
    }

    fn failed(why: impl Into<Cow<'static, str>>) -> Self {
        Self::none(Reason::Failed, why)
    }
}

const UNREADABLE: &str = "cleanslate.ko is of another version: it does not say what this program reads";

fn unreadable() -> Why {
    (Reason::Failed, UNREADABLE.into())
}

/// Why the observer has no times, as the module says it.
const OBSERVER: [(&str, (Reason, &str)); 5] = [
    (
        "none: this kernel makes no SEAMCALL",
        (Reason::NotApplicable, "this kernel makes no SEAMCALL: cleanslate.ko is the host, and observes none"),
    ),
    (
        "none: this kernel makes SEAMCALLs with preemption on",
        (Reason::NotApplicable, "this kernel makes SEAMCALLs with preemption on (before Linux 6.18)"),
    ),
    ("none: an audit runs", (Reason::Failed, "an audit ran beside it: wait for its end, and run it again")),
    (
        "failed: no kprobe in the function that is measured",
        (Reason::Failed, "this kernel took no kprobe in a function of cleanslate.ko"),
    ),
    (
        "failed: kprobes were missed or disabled",
        (Reason::Failed, "kprobes were missed or disabled (debugfs kprobes/enabled) meanwhile: try again"),
    ),
];

/// Lets the module measure.
pub(super) fn measure(root: &Path) -> Measured {
    let folder = root.join("sys/kernel/cleanslate");
    let path = folder.join("measure");
    // Appended, which is the same in sysfs, and written once: as for an audit.
    let started = fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write(b"start\n"));
    match started {
        // The module ends at a signal to this task.
        Err(error) if error.kind() == io::ErrorKind::Interrupted && interrupt::came_soon() => {
            Measured::none(Reason::Interrupted, "interrupted (Ctrl-C): run it again")
        }
        Ok(_) => match fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Measured::failed(UNREADABLE),
            Err(error) => Measured::failed(why_not(&error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => {
            Measured::failed("this cleanslate.ko is older and measures nothing")
        }
        Err(error) => Measured::failed(why_not(&error)),
    }
}

/// Why the module has not measured, or does not say what.
fn why_not(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::NotFound => NOT_LOADED.into(),
        io::ErrorKind::PermissionDenied => "the module measures for root alone: use sudo".into(),
        io::ErrorKind::ResourceBusy => "another program lets the module measure: wait for its end".into(),
        io::ErrorKind::Interrupted => "it was interrupted: run it again".into(),
        _ => format!("the module could not measure ({error}): see the kernel log (`dmesg | grep cleanslate`)").into(),
    }
}

/// Reads what the module says: a name and a value per line. Whatever it says, a time is only what
/// can be one.
fn parse(text: &str) -> Measured {
    let mut values = HashMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        if values.insert(name, value).is_some() {
            return Measured::failed(UNREADABLE);
        }
    }
    if values.get("state") != Some(&"done") {
        return Measured::failed("the module did not come to the end of its measurement");
    }
    let number = |name: &str, what: &str| -> Option<u64> { values.get(&*format!("{name}_{what}"))?.parse().ok() };
    let times = |name: &str| -> Option<Times> {
        let (count, mean_ns) = (number(name, "count")?, number(name, "mean_ns")?);
        let (min_ns, max_ns) = (number(name, "min_ns")?, number(name, "max_ns")?);
        let possible = count > 0 && min_ns <= mean_ns && mean_ns <= max_ns;
        possible.then_some(Times { count, min_ns, mean_ns, max_ns })
    };
    let observer = match values.get("observer") {
        Some(&"done") => match (times("observed"), times("bare")) {
            (Some(observed), Some(bare)) => Ok(Observer { observed, bare }),
            _ => Err(unreadable()),
        },
        Some(said) => {
            let known = OBSERVER.into_iter().find(|(state, _)| state == said);
            Err(known.map_or_else(unreadable, |(_, (reason, why))| (reason, why.into())))
        }
        None => Err(unreadable()),
    };
    Measured { wbinvd: times("wbinvd").ok_or_else(unreadable), observer }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "state done\nobserver done\n\
        wbinvd_count 448\nwbinvd_min_ns 30000\nwbinvd_mean_ns 100000\nwbinvd_max_ns 9000000\n\
        bare_count 1000\nbare_min_ns 20\nbare_mean_ns 25\nbare_max_ns 900\n\
        observed_count 1000\nobserved_min_ns 1500\nobserved_mean_ns 1700\nobserved_max_ns 20000\n";

    #[test]
    fn what_the_module_says() {
        let found = parse(GOOD);
        assert_eq!(found.wbinvd, Ok(Times { count: 448, min_ns: 30_000, mean_ns: 100_000, max_ns: 9_000_000 }));
        let observer = found.observer.unwrap();
        assert_eq!((observer.observed.mean_ns, observer.bare.max_ns), (1700, 900));
        for (state, (reason, why)) in OBSERVER {
            let found = parse(&GOOD.replace("observer done", &format!("observer {state}")));
            assert_eq!((found.observer, found.wbinvd.is_ok()), (Err((reason, why.into())), true));
        }
    }

    #[test]
    fn garbage_is_no_time() {
        let wbinvd = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            parse(&GOOD.replace(from, to)).wbinvd
        };
        for (from, to) in [
            ("wbinvd_count 448", "wbinvd_count 0"),
            ("wbinvd_count 448", "wbinvd_count -1"),
            ("wbinvd_count 448", "wbinvd_count 99999999999999999999"),
            ("wbinvd_count 448", "wbinvd_count"),
            ("wbinvd_min_ns 30000", "wbinvd_min_ns 100001"),
            ("wbinvd_max_ns 9000000", "wbinvd_max_ns 99999"),
            ("wbinvd_max_ns 9000000", "wbinvd_max_ns 9ms"),
            ("wbinvd_mean_ns 100000\n", ""),
            ("state done", "state stopped"),
            ("state done\n", ""),
            ("bare_count 1000", "wbinvd_count 448"),
        ] {
            assert!(wbinvd(from, to).is_err(), "{from}: {to}");
        }
        assert!(parse(&GOOD.replace("observer done", "observer secret")).observer.is_err());
        assert!(parse(&GOOD.replace("observed_count 1000", "observed_count 0")).observer.is_err());
        // Every beginning of it, and every byte another one.
        for end in 0..GOOD.len() {
            let _ = parse(&GOOD[..end]);
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[end] ^= 0x15;
            let found = parse(&String::from_utf8_lossy(&bytes));
            for times in found.wbinvd.into_iter().chain(found.observer.map(|found| found.observed)) {
                assert!(times.min_ns <= times.mean_ns && times.mean_ns <= times.max_ns && times.count > 0);
            }
        }
        assert_eq!(
            parse("\u{0} \u{fffd}\n\n  \n"),
            Measured::failed("the module did not come to the end of its measurement")
        );
    }

    #[test]
    fn every_state_is_one_of_the_module() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linux/measure.c");
        let source = fs::read_to_string(path).unwrap();
        for (state, _) in OBSERVER {
            assert!(source.contains(&format!("observer_state = \"{state}\"")), "{state}");
        }
        assert_eq!(
            source.matches("observer_state = \"failed").count() + source.matches("observer_state = \"none:").count(),
            OBSERVER.len()
        );
    }
}
