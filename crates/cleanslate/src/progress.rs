//! Progress line on standard error: only on a terminal, only after two seconds, erased at the end.
//! Also keeps the counts that are printed on Ctrl-C.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tdx_operator::{progress::Progress, words::grouped_count};

use crate::output::report_error;

/// Nothing is shown before this has passed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two updates.
const INTERVAL: Duration = Duration::from_millis(200);

pub(crate) struct Line {
    start: Instant,
    state: Mutex<State>,
    terminal: bool,
}

struct State {
    /// When it was shown last.
    shown: Option<Instant>,
    /// The part that goes on, from 1, and how many there are.
    part: (u64, u64),
    /// What goes on, how far it is, and of how many; nothing yet of a new part.
    what: &'static str,
    done: u64,
    total: u64,
    /// Since when, and how far it was then.
    since: Instant,
    from: u64,
}

/// Whether a line is on the terminal now.
static ON_TERMINAL: AtomicBool = AtomicBool::new(false);
/// What has been explored, by the whole program. None of it if nothing is explored.
static EXPLORING: AtomicBool = AtomicBool::new(false);
static CRASH_POINTS: AtomicU64 = AtomicU64::new(0);
static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

/// Takes the line away: the program ends here, and nobody looks at the report. Says how far it
/// came.
pub(crate) fn interrupted() {
    clear();
    let so_far = if EXPLORING.load(Ordering::Relaxed) {
        let points = grouped_count(CRASH_POINTS.load(Ordering::Relaxed), "crash point");
        format!(", {points}, {} so far", grouped_count(VIOLATIONS.load(Ordering::Relaxed), "violation"))
    } else {
        String::new()
    };
    report_error(format_args!("interrupted{so_far}"));
}

/// Takes the line away.
pub(crate) fn clear() {
    if ON_TERMINAL.load(Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

impl Line {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        Self { start, state: Mutex::new(State::new(start)), terminal: io::stderr().is_terminal() }
    }

    fn update(&self, change: impl FnOnce(&mut State, Instant)) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state, now);
        let due = state.shown.is_none_or(|shown| now.duration_since(shown) >= INTERVAL);
        if now.duration_since(self.start) < PATIENCE || !due {
            return;
        }
        state.shown = Some(now);
        ON_TERMINAL.store(true, Ordering::Relaxed);
        // A progress line that cannot be written is no reason to stop.
        let _ = write!(io::stderr(), "\r{}\x1b[K", state.text(now, CRASH_POINTS.load(Ordering::Relaxed)));
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { shown: None, part: (1, 1), what: "", done: 0, total: 0, since: now, from: 0 }
    }

    fn begins(&mut self, number: u64, of: u64) {
        (self.part, self.what) = ((number, of), "");
    }

    fn step(&mut self, now: Instant, what: &'static str, done: u64, total: u64) {
        if self.what != what || done < self.from {
            (self.what, self.since, self.from) = (what, now, done);
        }
        (self.done, self.total) = (done, total);
    }

    /// `part 2 of 13:  45 %  90 of 200 schedules, 12/s, about 9 s left of it`.
    fn text(&self, now: Instant, crash_points: u64) -> String {
        let (number, of) = self.part;
        let (part, of_it) = if of > 1 { (format!("part {number} of {of}: "), " of it") } else { (String::new(), "") };
        if self.what.is_empty() {
            return format!("{part}{} so far", grouped_count(crash_points, "crash point"));
        }
        let (done, total) = (self.done, self.total);
        let text = match done.saturating_mul(100).checked_div(total) {
            Some(percent) => format!("{part}{:3} %  {done} of {total} {}", percent.min(100), self.what),
            None => format!("{part}{done} {}", self.what),
        };
        let seconds = now.duration_since(self.since).as_secs_f64();
        if seconds < 0.5 || done == self.from {
            return text;
        }
        let rate = (done - self.from) as f64 / seconds;
        // Of a pipe nobody knows the end.
        if total == 0 {
            return format!("{text}, {rate:.0}/s");
        }
        format!("{text}, {rate:.0}/s, about {:.0} s left{of_it}", total.saturating_sub(done) as f64 / rate)
    }
}

impl Progress for Line {
    fn step(&self, what: &'static str, done: u64, total: u64) {
        self.update(|state, now| state.step(now, what, done, total));
    }

    fn part(&self, number: u64, of: u64) {
        EXPLORING.store(true, Ordering::Relaxed);
        self.update(|state, _| state.begins(number, of));
    }

    fn explored(&self, crash_points: u64, violations: u64) {
        CRASH_POINTS.fetch_add(crash_points, Ordering::Relaxed);
        VIOLATIONS.fetch_add(violations, Ordering::Relaxed);
        self.update(|_, _| ());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.state.get_mut().is_ok_and(|state| state.shown.is_some()) {
            clear();
            ON_TERMINAL.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_begin_anew_with_each_part() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(start);
        state.step(at(0), "SEAMCALLs", 0, 100);
        assert_eq!(state.text(at(0), 0), "  0 %  0 of 100 SEAMCALLs");
        state.step(at(10), "SEAMCALLs", 20, 100);
        assert_eq!(state.text(at(10), 0), " 20 %  20 of 100 SEAMCALLs, 2/s, about 40 s left");
        // What is left is left of the part, and the parts are counted.
        state.begins(2, 3);
        assert_eq!(state.text(at(11), 1234), "part 2 of 3: 1,234 crash points so far");
        state.step(at(11), "schedules", 50, 60);
        state.step(at(13), "schedules", 52, 60);
        assert_eq!(state.text(at(13), 0), "part 2 of 3:  86 %  52 of 60 schedules, 1/s, about 8 s left of it");
        state.begins(3, 3);
        state.step(at(14), "schedules", 1, 60);
        assert_eq!(state.text(at(14), 0), "part 3 of 3:   1 %  1 of 60 schedules");
        // Of a pipe nobody knows the end.
        let mut state = State::new(start);
        state.step(at(14), "MiB read", 1, 0);
        assert_eq!(state.text(at(14), 0), "1 MiB read");
        state.step(at(15), "MiB read", 9, 0);
        assert_eq!(state.text(at(15), 0), "9 MiB read, 8/s");
    }
}
