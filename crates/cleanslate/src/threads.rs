//! Threads that the kernel may refuse: pids.max of a cgroup, RLIMIT_NPROC, lack of memory.

use std::io;
use std::thread::{Builder, Scope};

/// Who starts threads.
pub(crate) trait Spawn {
    /// Starts a thread.
    ///
    /// # Errors
    /// It is not there, and `work` was dropped.
    fn spawn<'scope>(&self, scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> io::Result<()>;
}

/// The kernel. `Scope::spawn` panics where it refuses.
pub(crate) struct Kernel;

impl Spawn for Kernel {
    fn spawn<'scope>(&self, scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) -> io::Result<()> {
        Builder::new().spawn_scoped(scope, work).map(drop)
    }
}

/// What to do about a thread that was not started.
pub(crate) const TO_DO: &str = "raise pids.max of the cgroup (systemd: TasksMax=), RLIMIT_NPROC (`ulimit -u`) or \
    RLIMIT_AS (`ulimit -v`)";
