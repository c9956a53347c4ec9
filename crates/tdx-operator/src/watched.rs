//! A reader that reports its progress on long files.

use std::io::{self, BufRead, Read};

use crate::progress::Progress;

/// Bytes between two words.
const STEP: u64 = 1 << 20;

pub(crate) struct Watched<'p, R> {
    reader: R,
    progress: &'p dyn Progress,
    read: u64,
    /// Bytes of the file; 0 if unknown.
    total: u64,
}

impl<'p, R: BufRead> Watched<'p, R> {
    /// `total` is the file's length in bytes, 0 for a pipe.
    pub(crate) fn new(reader: R, total: u64, progress: &'p dyn Progress) -> Self {
        Self { reader, progress, read: 0, total }
    }

    fn add(&mut self, bytes: usize) {
        let before = self.read / STEP;
        self.read += bytes as u64;
        if self.read / STEP > before {
            self.progress.step("MiB read", self.read / STEP, self.total.div_ceil(STEP));
        }
    }
}

impl<R: BufRead> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(buffer)?;
        self.add(bytes);
        Ok(bytes)
    }
}

impl<R: BufRead> BufRead for Watched<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.add(bytes);
    }
}

/// Standard input with progress. Its length is known if it is a file.
pub(crate) fn stdin(progress: &dyn Progress) -> Watched<'_, io::StdinLock<'static>> {
    let stat = rustix::fs::fstat(io::stdin());
    let total = stat.ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
    Watched::new(io::stdin().lock(), total, progress)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        explain,
        host::{Host, HostOptions},
    };

    #[derive(Default)]
    struct Heard(Mutex<Vec<(u64, u64)>>);

    impl Progress for Heard {
        fn step(&self, _what: &'static str, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }

    #[test]
    fn every_mebibyte_is_told() {
        let bytes = vec![b'x'; (3 << 20) + 5];
        let heard = Heard::default();
        let mut reader = Watched::new(&bytes[..], bytes.len() as u64, &heard);
        let mut copy = Vec::new();
        reader.read_until(b'\n', &mut copy).unwrap();
        assert_eq!(copy, bytes);
        let steps = heard.0.into_inner().unwrap();
        assert!(steps.last() == Some(&(3, 4)) && steps.is_sorted(), "{steps:?}");
    }

    /// Long logs report progress for every command that reads them.
    #[test]
    fn explain_and_plan_tell() {
        let line = "[    1.000000] usb 1-1: new high-speed USB device number 2 using xhci_hcd, and so on, a line of no account\n";
        let mut log = line.repeat((4 << 20) / line.len());
        log += "BIOS-e820: [mem 0x0000000000100000-0x000000007fffffff] usable\nvirt/tdx: module initialized\n";
        let path = std::env::temp_dir().join(format!("cleanslate-watched-{}", std::process::id()));
        std::fs::write(&path, log).unwrap();
        let (explained, planned) = (Heard::default(), Heard::default());
        explain::subject(path.to_str().unwrap(), &explained).unwrap();
        Host::from_path_watched(&path, &HostOptions::default(), &planned).unwrap();
        std::fs::remove_file(path).unwrap();
        for heard in [explained, planned] {
            let steps = heard.0.into_inner().unwrap();
            assert!(steps.len() >= 3 && steps.iter().all(|(_, total)| *total == 5), "{steps:?}");
        }
    }
}
