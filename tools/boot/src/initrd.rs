//! The root file system of a Linux that is booted: busybox, `bare/linux/init`, modules. A cpio
//! archive in the "newc" format (Linux Documentation/driver-api/early-userspace/buffer-format.rst),
//! written here so that `cpio` need not be installed.

use std::path::Path;

use anyhow::{Context, Result};

use crate::root;

struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let fields =
            [self.inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The last files, and the archive is written.
    fn end(mut self, path: &Path, files: &[Entry<'_>]) -> Result<()> {
        for (name, file) in files {
            self.add(name, PROGRAM, (0, 0), &read(file)?);
        }
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        std::fs::write(path, self.bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

const DIRECTORY: u32 = 0o40755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o20600;

/// A file of a root file system: its name there, and the file that is copied.
pub(crate) type Entry<'p> = (&'p str, &'p Path);

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a root file system with more files than this one has, in one new directory. Linux unpacks
/// archives that follow each other into one root.
pub(crate) fn append(path: &Path, base: &Path, directory: &str, files: &[Entry<'_>]) -> Result<()> {
    let mut archive = Archive { bytes: read(base)?, inode: 0 };
    archive.add(directory, DIRECTORY, (0, 0), &[]);
    archive.end(path, files)
}

/// Writes a root file system: busybox, `/init`, and these files.
pub(crate) fn write(path: &Path, busybox: &Path, files: &[Entry<'_>]) -> Result<()> {
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    let next = ["next", "next/self", "next/stock", "next/crash", "next/lib"];
    for directory in
        ["dev", "proc", "sys", "bin", "lib64", "modules", "modules/last", "test", "unknown"].into_iter().chain(next)
    {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("dev/ttyS0", CHARACTER_DEVICE, (4, 64), &[]);
    archive.add("dev/kmsg", CHARACTER_DEVICE, (1, 11), &[]);
    archive.add("bin/busybox", PROGRAM, (0, 0), &read(busybox)?);
    archive.add("init", PROGRAM, (0, 0), &read(&root().join("bare/linux/init"))?);
    archive.end(path, files)
}
