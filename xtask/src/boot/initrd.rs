//! The root file system of a Linux that is booted: busybox, a script as `/init`, modules. A cpio archive in the "newc" format, by
//! hand, because `cpio` would be one tool more to install.

use std::path::Path;

use anyhow::{Context, Result};

/// What `/init` does: loads what modules there are, says that user space is there, jumps into the next Linux if the command line has
/// `cleanslate.kexec`, or else ends the machine.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev 2> /dev/null
exec > /dev/ttyS0 2>&1
for module in /modules/*.ko; do
    [ -e "$module" ] || continue
    /bin/busybox insmod "$module" && echo "linux: loaded $module"
done
echo "linux: $(/bin/busybox grep -o -m 1 tdx_pw_mce /proc/cpuinfo || echo "no tdx_pw_mce") in /proc/cpuinfo"
echo "linux: user space, $(/bin/busybox uname -r), $(/bin/busybox grep -c ^processor /proc/cpuinfo) CPUs"
if /bin/busybox grep -q cleanslate.kexec /proc/cmdline; then
    echo "linux: kexec"
    /next/jump /next/bzImage /next/initrd "console=ttyS0 panic=-1 nokaslr rdinit=/init"
fi
/bin/busybox poweroff -f
"#;

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
}

const DIRECTORY: u32 = 0o40755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o20600;

/// A program or a file of a root file system: where it goes, and what it is.
pub(super) type Entry<'p> = (&'p str, &'p Path);

/// Writes a root file system: busybox, `/init`, and these files.
pub(super) fn write(path: &Path, busybox: &Path, files: &[Entry<'_>]) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive { bytes: Vec::new(), inode: 0 };
    for directory in ["dev", "proc", "bin", "modules", "next"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("dev/ttyS0", CHARACTER_DEVICE, (4, 64), &[]);
    archive.add("bin/busybox", PROGRAM, (0, 0), &read(busybox)?);
    archive.add("init", PROGRAM, (0, 0), INIT.as_bytes());
    for (name, file) in files {
        archive.add(name, PROGRAM, (0, 0), &read(file)?);
    }
    archive.add("TRAILER!!!", 0, (0, 0), &[]);
    std::fs::write(path, archive.bytes).with_context(|| format!("cannot write {}", path.display()))
}
