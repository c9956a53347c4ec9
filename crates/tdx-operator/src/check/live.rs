//! Reads the machine this runs on. Only reads files: no ioctl, no subprocess, no network. What
//! cannot be read is recorded with its reason.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{
    item::{Item, Unseen},
    keep,
    msrs::{self, READ_MSRS, Reading},
    snapshot::{Seen, Snapshot, text},
};

/// Longest record of the kernel's log.
const RECORD: usize = 16 << 10;

/// A live machine.
#[derive(Debug)]
pub struct Live {
    root: PathBuf,
}

impl Live {
    /// This machine.
    pub fn here() -> Self {
        Self::at(Path::new("/"))
    }

    /// The machine whose file system is mounted at `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Looks at everything.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for item in Item::ALL {
            let raw = self.raw(item);
            snapshot.put(item, raw.map(|raw| keep::kept(item, &raw)));
        }
        snapshot
    }

    fn raw(&self, item: Item) -> Seen {
        match item {
            Item::Msr => self.msrs(),
            Item::Config => self.config(),
            Item::BootLog => self.boot_log(),
            _ => self.file(item, item.place()),
        }
    }

    fn path(&self, place: &str) -> PathBuf {
        self.root.join(place.trim_start_matches('/'))
    }

    fn file(&self, item: Item, place: &str) -> Seen {
        let file = File::open(self.path(place)).map_err(|error| Unseen::from_io(&error))?;
        text(limited(file, item.limit())?)
    }

    /// The options of the running kernel: from the kernel itself, or from the file that
    /// distributions install.
    fn config(&self) -> Seen {
        let own = match File::open(self.path("/proc/config.gz")) {
            Ok(file) => {
                let bytes = limited(flate2::read::GzDecoder::new(file), Item::Config.limit());
                return bytes.and_then(text);
            }
            Err(error) => Unseen::from_io(&error),
        };
        let release = self.raw(Item::Osrelease).unwrap_or_default();
        let release = release.trim();
        let plain = release.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+~-".contains(&b));
        if release.is_empty() || !plain || release.starts_with('.') {
            return Err(own);
        }
        self.file(Item::Config, &format!("/boot/config-{release}"))
    }

    /// Every record that the kernel itself has written. The log of user programs is not read.
    fn boot_log(&self) -> Seen {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path(Item::BootLog.place()), flags, Mode::empty())
            .map_err(|error| Unseen::from_io(&error.into()))?;
        let mut file = File::from(fd);
        let mut all = Vec::new();
        let mut record = vec![0; RECORD];
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => all.extend_from_slice(record.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The kernel has overwritten the record that would be next.
                Err(error) if error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(EPIPE) => {}
                Err(error) => return Err(Unseen::from_io(&error)),
            }
            if all.len() as u64 > Item::BootLog.limit() {
                return Err(Unseen::TooLarge { limit: Item::BootLog.limit() });
            }
        }
        Ok(records(&String::from_utf8_lossy(&all)))
    }

    /// The registers of every CPU that lets itself be read.
    fn msrs(&self) -> Seen {
        let folder = fs::read_dir(self.path("/dev/cpu")).map_err(|error| Unseen::from_io(&error))?;
        let numbers = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut cpus: Vec<u32> = numbers.collect();
        cpus.sort_unstable();
        let mut why = Unseen::Absent;
        let mut found: BTreeMap<(u32, Reading), Vec<u32>> = BTreeMap::new();
        for cpu in cpus {
            let file = match File::open(self.path(&format!("/dev/cpu/{cpu}/msr"))) {
                Ok(file) => file,
                Err(error) => {
                    why = Unseen::from_io(&error);
                    continue;
                }
            };
            for msr in READ_MSRS {
                let mut value = [0; 8];
                let reading = match file.read_exact_at(&mut value, u64::from(msr.0)) {
                    Ok(()) => Reading::Value(u64::from_le_bytes(value)),
                    // The kernel turns the #GP of an MSR that does not exist into EIO.
                    Err(error) if error.raw_os_error() == Some(EIO) => Reading::Fault,
                    Err(error) => {
                        why = Unseen::from_io(&error);
                        continue;
                    }
                };
                found.entry((msr.0, reading)).or_default().push(cpu);
            }
        }
        if found.is_empty() { Err(why) } else { Ok(msrs::write(&found)) }
    }
}

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
const EPIPE: i32 = rustix::io::Errno::PIPE.raw_os_error();

/// All bytes, or [`Unseen::TooLarge`] if there are more than `limit`.
pub(super) fn limited(reader: impl Read, limit: u64) -> Result<Vec<u8>, Unseen> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Unseen::from_io(&error))?;
    if bytes.len() as u64 > limit { Err(Unseen::TooLarge { limit }) } else { Ok(bytes) }
}

/// `6,12,3456789,-;text` of /dev/kmsg as `[    3.456789] text`. Records of user programs and
/// dictionary lines fall away.
fn records(raw: &str) -> String {
    let mut out = String::new();
    for line in raw.lines() {
        let Some((head, message)) = line.split_once(';') else { continue };
        let mut fields = head.split(',');
        let priority = fields.next().and_then(|field| field.parse::<u32>().ok());
        let time = fields.nth(1).and_then(|field| field.parse::<u64>().ok());
        // The facility stands above the three bits of the level, and the kernel's is 0.
        let (Some(0..8), Some(time)) = (priority, time) else { continue };
        out.extend([&format!("[{:5}.{:06}] ", time / 1_000_000, time % 1_000_000), message, "\n"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_records_only() {
        let raw = "6,1,0,-;Linux version 7.2.0 (x)\n SUBSYSTEM=acpi\n12,2,5,-;virt/tdx: forged by a user\n\
                   3,3,12345678,-,caller=T1;virt/tdx: module initialized\nnonsense\n";
        assert_eq!(
            records(raw),
            "[    0.000000] Linux version 7.2.0 (x)\n[   12.345678] virt/tdx: module initialized\n"
        );
    }

    #[test]
    fn limits() {
        assert_eq!(limited(&b"1234"[..], 4), Ok(b"1234".to_vec()));
        assert_eq!(limited(&b"12345"[..], 4), Err(Unseen::TooLarge { limit: 4 }));
    }
}
