//! Snapshots of a machine whose Linux waits before the first VMM (`cleanslate.wait` of
//! bare/linux/init). Boots that differ only in words that come late go on from it; everything else
//! is of the first boot, its logs included.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::BootArgs;
use crate::machine::{self, Machine, Start};

/// What seamvisor says once a snapshot can be taken.
const WAITS: &str = "seamvisor: waits for words";

/// A machine that waits for words. Its state is removed with it.
pub(crate) struct Snapshot {
    folder: PathBuf,
    /// The option by which QEMU goes on from here.
    incoming: String,
    /// The call of QEMU that all its boots share.
    line: String,
}

/// QEMU's file, in the folder of a snapshot.
const STATE: &str = "state";

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.folder.join(STATE));
    }
}

impl Snapshot {
    /// Boots a machine until it waits, and keeps it.
    pub(crate) fn take(args: &BootArgs) -> Result<Self> {
        ensure!(args.cpus == 1, "a snapshot needs one CPU: QEMU 7.2 loads no state of a CPU that is in a guest");
        let folder = machine::logs(args)?.join("snapshot");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let state = folder.join(STATE);
        let path =
            state.to_str().filter(|path| !path.contains('\'')).context("a path with a quote or without UTF-8")?;
        let mut machine = Machine::new(args, &folder, Start::Wait)?;
        let snapshot = Self { incoming: format!("exec:cat '{path}'"), line: machine.line.clone(), folder };
        machine.empty_logs()?;
        machine.command.current_dir(&snapshot.folder);
        let mut child = machine.spawn()?;
        let taken = write_state(args, &machine, &mut child);
        if taken.is_err() {
            let _ = child.kill();
        }
        child.wait()?;
        machine.clean_up();
        taken.with_context(|| format!("no snapshot; the boot's log: {}", machine.serial.display()))?;
        Ok(snapshot)
    }

    /// Can this boot go on from here?
    pub(crate) fn suits(&self, args: &BootArgs) -> Result<bool> {
        Ok(Machine::new(args, &self.folder, Start::Wait)?.line == self.line)
    }

    /// The option by which QEMU goes on from here.
    pub(crate) fn incoming(&self) -> &str {
        &self.incoming
    }

    /// Gives the logs of a boot that goes on from here what was said before.
    pub(crate) fn begin_logs(&self, machine: &Machine) -> Result<()> {
        for log in [&machine.serial, &machine.seamvisor] {
            let name = log.file_name().context("a log has a name")?;
            fs::copy(self.folder.join(name), log).with_context(|| format!("cannot write {}", log.display()))?;
        }
        Ok(())
    }
}

/// Waits until the machine waits, lets QEMU write its state and ends it.
fn write_state(args: &BootArgs, machine: &Machine, child: &mut Child) -> Result<()> {
    let start = Instant::now();
    while !String::from_utf8_lossy(&fs::read(&machine.seamvisor)?).contains(WAITS) {
        if let Some(status) = child.try_wait()? {
            bail!("QEMU ended before Linux waited, with {status}");
        }
        ensure!(start.elapsed() < Duration::from_secs(args.timeout), "Linux does not wait for words");
        thread::sleep(Duration::from_millis(20));
    }
    // The machine runs until its state is complete, so that it runs again where it is loaded.
    let question = format!("migrate \"exec:cat > {STATE}\"\ninfo migrate\nquit");
    let said = machine.ask(&question, Duration::from_mins(1))?;
    let said = String::from_utf8_lossy(&said);
    ensure!(said.contains("Migration status: completed"), "QEMU did not write the machine's state: {said}");
    Ok(())
}
