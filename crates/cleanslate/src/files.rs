//! Atomic file writes: a temporary file beside the target, renamed when complete and removed on
//! interrupt.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tdx_operator::input::path_text;

/// What is being written now.
static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);

fn unfinished() -> std::sync::MutexGuard<'static, Option<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a file. What is no regular file (a pipe, /dev/stdout) is written to as it is. The error
/// names the file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    put(path, bytes).map_err(|error| of(path, &error))
}

fn of(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path_text(path)))
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let mut name = path.file_name().map(OsString::from).ok_or(io::ErrorKind::InvalidInput)?;
    name.push(format!(".{}.part", std::process::id()));
    let piece = path.with_file_name(name);
    *unfinished() = Some(piece.clone());
    let written = fs::write(&piece, bytes).and_then(|()| fs::rename(&piece, path));
    if written.is_err() {
        // It may not even be there; the first error is the one that counts.
        let _ = fs::remove_file(&piece);
    }
    *unfinished() = None;
    written
}

/// Fails as writing the file would, before the work whose result is to be written.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    try_out(path).map_err(|error| of(path, &error))
}

fn try_out(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if path.exists() {
        return fs::OpenOptions::new().append(true).open(path).map(drop);
    }
    let mut name = path.file_name().map(OsString::from).ok_or(io::ErrorKind::InvalidInput)?;
    name.push(format!(".{}.probe", std::process::id()));
    let piece = path.with_file_name(name);
    fs::write(&piece, b"")?;
    fs::remove_file(piece)
}

/// Takes away what was begun.
pub(crate) fn give_up() {
    if let Some(piece) = unfinished().take() {
        // It may be at its place already.
        let _ = fs::remove_file(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_taken_away() {
        let folder = std::env::temp_dir().join(format!("cleanslate-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("map.svg");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let piece = folder.join("begun");
        fs::write(&piece, b"ha").unwrap();
        *unfinished() = Some(piece.clone());
        give_up();
        assert!(!piece.exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write(&folder.join("no/such/folder"), b"").is_err());
        probe(&folder.join("new.html")).unwrap();
        probe(&path).unwrap();
        assert!(probe(&folder.join("no/such/folder")).is_err() && probe(&folder).is_err());
        assert_eq!((fs::read_dir(&folder).unwrap().count(), fs::read(&path).unwrap()), (1, b"new".to_vec()));
        fs::remove_dir_all(folder).unwrap();
    }
}
