//! A progress line on standard error, for people who wait: only on a terminal, only after two seconds, gone at the end.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tdx_lab::platform::Progress;

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
    /// What goes on, since when, and how far it was then.
    what: &'static str,
    since: Instant,
    from: u64,
}

impl Line {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        let state = State { shown: None, what: "", since: start, from: 0 };
        Self { start, state: Mutex::new(state), terminal: io::stderr().is_terminal() }
    }
}

/// Whether a line is on the terminal now.
static ON_TERMINAL: AtomicBool = AtomicBool::new(false);

/// Takes the line away: the program ends here.
pub(crate) fn clear() {
    if ON_TERMINAL.load(Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

impl State {
    /// `, 120/s, about 4 s left`, as far as this part of the work has shown.
    fn estimate(&mut self, what: &'static str, now: Instant, done: u64, total: u64) -> String {
        if self.what != what || done < self.from {
            (self.what, self.since, self.from) = (what, now, done);
        }
        let seconds = now.duration_since(self.since).as_secs_f64();
        let rate = (done - self.from) as f64 / seconds;
        if seconds < 0.5 || done == self.from {
            return String::new();
        }
        // Of a pipe nobody knows the end.
        if total == 0 {
            return format!(", {rate:.0}/s");
        }
        format!(", {rate:.0}/s, about {:.0} s left", total.saturating_sub(done) as f64 / rate)
    }

    /// The line.
    fn text(&mut self, what: &'static str, now: Instant, done: u64, total: u64) -> String {
        let estimate = self.estimate(what, now, done, total);
        match done.saturating_mul(100).checked_div(total) {
            Some(percent) => format!("{:3} %  {done} of {total} {what}{estimate}", percent.min(100)),
            None => format!("{done} {what}{estimate}"),
        }
    }
}

impl Progress for Line {
    fn step(&self, what: &'static str, done: u64, total: u64) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = state.text(what, now, done, total);
        let due = state.shown.is_none_or(|shown| now.duration_since(shown) >= INTERVAL);
        if now.duration_since(self.start) < PATIENCE || !due {
            return;
        }
        state.shown = Some(now);
        ON_TERMINAL.store(true, Ordering::Relaxed);
        // A progress line that cannot be written is no reason to stop.
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
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
        let mut state = State { shown: None, what: "", since: start, from: 0 };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.estimate("lines", at(0), 0, 100), "");
        assert_eq!(state.estimate("lines", at(10), 20, 100), ", 2/s, about 40 s left");
        assert_eq!(state.estimate("pages", at(11), 50, 60), "");
        assert_eq!(state.estimate("pages", at(13), 52, 60), ", 1/s, about 8 s left");
        assert_eq!(state.text("pages", at(13), 52, 60), " 86 %  52 of 60 pages, 1/s, about 8 s left");
        assert_eq!(state.text("MiB read", at(14), 1, 0), "1 MiB read");
        assert_eq!(state.text("MiB read", at(15), 9, 0), "9 MiB read, 8/s");
    }
}
