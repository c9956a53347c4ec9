//! A progress line on standard error, for people who wait: only on a terminal, only after two seconds, gone at the end.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tdx_lab::platform::Progress;

/// Nothing is shown before this has passed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two updates.
const INTERVAL: Duration = Duration::from_millis(200);

pub(crate) struct Line {
    start: Instant,
    last: Mutex<Option<Instant>>,
    terminal: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: Mutex::new(None), terminal: io::stderr().is_terminal() }
    }
}

impl Progress for Line {
    fn step(&self, what: &'static str, done: u64, total: u64) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if !self.terminal || now.duration_since(self.start) < PATIENCE || !due {
            return;
        }
        *last = Some(now);
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(100);
        // A progress line that cannot be written is no reason to stop.
        let _ = write!(io::stderr(), "\r{percent:3} %  {done} of {total} {what}\x1b[K");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.last.get_mut().is_ok_and(|last| last.is_some()) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
