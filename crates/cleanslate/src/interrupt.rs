//! Ctrl-C: ends the program; while a report is gathered that takes hours, only what goes on.

use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use crate::exit::Exit;
use crate::files;
use crate::output::report_error;
use crate::progress;

/// Ctrl-C ends the program.
const ENDS: u8 = 0;
/// The next one is kept.
const KEPT: u8 = 1;
/// It has come. One more ends the program.
const CAME: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(ENDS);

/// Installs the handler, which has a thread of its own: it clears the progress line and removes the
/// file that is being written.
pub(crate) fn install() {
    let installed = ctrlc::set_handler(|| {
        if STATE.compare_exchange(KEPT, CAME, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            progress::clear();
            report_error(format_args!(
                "interrupted: the report is written without what is left; Ctrl-C again ends the program"
            ));
            return;
        }
        files::give_up();
        progress::interrupted();
        process::exit(Exit::Interrupted.code().into())
    });
    // The signal is caught before the thread is started.
    if let Err(ctrlc::Error::System(error)) = installed {
        report_error(format_args!("Ctrl-C does not end this program (use Ctrl-\\): {error}"));
    }
}

/// From here on the first Ctrl-C does not end the program: [`came`] says that it was there.
pub(crate) fn keep() {
    STATE.store(KEPT, Ordering::Relaxed);
}

/// Whether Ctrl-C has come since [`keep`].
pub(crate) fn came() -> bool {
    STATE.load(Ordering::Relaxed) == CAME
}

/// The same after a system call that a signal has ended: the thread of the handler may be behind.
pub(crate) fn came_soon() -> bool {
    (0..50).any(|_| {
        came() || {
            thread::sleep(Duration::from_millis(10));
            false
        }
    })
}
