//! A collected machine: a directory with one regular file for each item and `machine.toml`, which
//! lists what is missing. Reading is defensive: symlinks are not followed, only regular files are
//! opened, and each up to its size limit.
//!
//! Hard links are indistinguishable from files; `fs.protected_hardlinks` covers those.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    item::{Item, Unseen},
    live::limited,
    snapshot::{Seen, Snapshot, text},
};
use crate::{
    input::{InputError, Rule, path_text},
    report::TOOL,
};

/// Says what the folder is.
const ABOUT: &str = "machine.toml";
const ABOUT_LIMIT: u64 = 64 << 10;
const SCHEMA: &str = "cleanslate-machine";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    schema: String,
    version: u32,
    tool: String,
    /// Files that are not there, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unseen: BTreeMap<String, Reason>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    Absent,
    Denied,
    NotAFile,
    NotText,
    TooLarge,
    Unreadable,
    Malformed,
}

impl From<&Unseen> for Reason {
    fn from(why: &Unseen) -> Self {
        match why {
            Unseen::Absent => Self::Absent,
            Unseen::Denied => Self::Denied,
            Unseen::NotAFile => Self::NotAFile,
            Unseen::NotText => Self::NotText,
            Unseen::TooLarge { .. } => Self::TooLarge,
            Unseen::Unreadable(_) => Self::Unreadable,
            Unseen::Malformed(_) => Self::Malformed,
        }
    }
}

impl Reason {
    fn unseen(self, item: Item) -> Unseen {
        let then = || "when the machine was saved".to_owned();
        match self {
            Self::Absent => Unseen::Absent,
            Self::Denied => Unseen::Denied,
            Self::NotAFile => Unseen::NotAFile,
            Self::NotText => Unseen::NotText,
            Self::TooLarge => Unseen::TooLarge { limit: item.limit() },
            Self::Unreadable => Unseen::Unreadable(then()),
            Self::Malformed => Unseen::Malformed(then()),
        }
    }
}

/// Saves a machine in a new or empty folder, and returns the names of the files.
///
/// # Errors
/// A folder that is not empty, or that cannot be made or written. Nothing that was there before is
/// changed.
pub fn save(folder: &Path, snapshot: &Snapshot) -> Result<Vec<&'static str>, InputError> {
    let name = path_text(folder);
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let name = if what.is_empty() { name.clone() } else { format!("{name}/{what}") };
        InputError::of_file(&name, Rule::Unwritable(error.to_string()))
    };
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(folder).map_err(|error| failed("", &error))?;
            if entries.next().is_some() {
                return Err(InputError::of_file(&name, Rule::FolderTaken));
            }
        }
        Err(error) => return Err(failed("", &error)),
    }
    let fd = open_folder(folder).map_err(|error| failed("", &error))?;
    let mut about =
        About { schema: SCHEMA.to_owned(), version: VERSION, tool: TOOL.to_owned(), unseen: BTreeMap::new() };
    let mut files = Vec::new();
    for item in Item::ALL {
        match snapshot.get(item) {
            Ok(text) => {
                create(fd.as_fd(), item.file(), text).map_err(|error| failed(item.file(), &error))?;
                files.push(item.file());
            }
            Err(why) => {
                about.unseen.insert(item.file().to_owned(), why.into());
            }
        }
    }
    // Last: a folder without it is not taken for a machine.
    let text = toml::to_string(&about).map_err(|error| failed(ABOUT, &error))?;
    create(fd.as_fd(), ABOUT, &text).map_err(|error| failed(ABOUT, &error))?;
    files.push(ABOUT);
    Ok(files)
}

fn create(folder: BorrowedFd<'_>, name: &str, text: &str) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?;
    File::from(fd).write_all(text.as_bytes())
}

/// Reads a saved machine.
///
/// # Errors
/// A folder that cannot be read or that no `collect` has written. An item that cannot be used is no
/// error: it is unseen.
pub fn load(folder: &Path) -> Result<Snapshot, InputError> {
    let name = path_text(folder);
    let fd = open_folder(folder)
        .map_err(|error| InputError::of_file(&name, Rule::Unreadable(std::io::Error::from(error).to_string())))?;
    let about = about(fd.as_fd())
        .map_err(|why| InputError::of_file(&format!("{name}/{ABOUT}"), Rule::NotASavedMachine(why)))?;
    let mut snapshot = Snapshot::default();
    for item in Item::ALL {
        let seen = read(fd.as_fd(), item.file(), item.limit());
        snapshot.put(
            item,
            match (seen, about.unseen.get(item.file())) {
                // A file that `collect` did not see is one of an earlier collection.
                (_, Some(reason)) => Err(reason.unseen(item)),
                (seen, None) => seen,
            },
        );
    }
    Ok(snapshot)
}

fn open_folder(folder: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn about(folder: BorrowedFd<'_>) -> Result<About, String> {
    let text = read(folder, ABOUT, ABOUT_LIMIT).map_err(|why| format!("it {why}"))?;
    let about: About = toml::from_str(&text).map_err(|error| crate::input::excerpt(error.message()))?;
    if about.schema != SCHEMA {
        return Err(format!("its schema is not `{SCHEMA}`"));
    }
    if about.version != VERSION {
        return Err(format!("version {} is not supported, expected {VERSION}", about.version));
    }
    Ok(about)
}

/// The text of a plain file of the folder. A name of ours has no `/`, so the last step is the only
/// one.
fn read(folder: BorrowedFd<'_>, name: &str, limit: u64) -> Seen {
    let failed = |error: rustix::io::Errno| Unseen::from_io(&error.into());
    // Opening a device can do things, so that the type is asked first; and again afterwards,
    // because names can be changed.
    let plain = |mode: u32| FileType::from_raw_mode(mode) == FileType::RegularFile;
    if !plain(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?.st_mode) {
        return Err(Unseen::NotAFile);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => return Err(Unseen::NotAFile),
        fd => fd.map_err(failed)?,
    };
    if !plain(rustix::fs::fstat(&fd).map_err(failed)?.st_mode) {
        return Err(Unseen::NotAFile);
    }
    text(limited(File::from(fd), limit)?)
}
