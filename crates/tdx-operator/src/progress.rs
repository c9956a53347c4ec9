//! How far a long run is, for a progress line. Never changes a result.

/// Receives the progress of a long run; has no influence on the result.
pub trait Progress: Sync {
    /// `done` of `total` steps of what is going on now; called often.
    fn step(&self, what: &'static str, done: u64, total: u64);

    /// Part `number`, from 1, of `of` begins; its steps are counted from 0.
    fn part(&self, _number: u64, _of: u64) {}

    /// So many crash points more, and so many rules that they broke. Called from every thread that
    /// explores.
    fn explored(&self, _crash_points: u64, _violations: u64) {}
}

/// Discards progress.
impl Progress for () {
    fn step(&self, _what: &'static str, _done: u64, _total: u64) {}
}
