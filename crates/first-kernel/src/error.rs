//! `StepError`: which step of a TD's life failed, and why, without an allocator.

use core::fmt;

/// Bytes of the reason that are kept.
const ROOM: usize = 160;

/// A step that failed, and why.
pub struct StepError {
    /// The step: a leaf, or what the kernel did.
    pub step: &'static str,
    why: [u8; ROOM],
    length: usize,
}

impl StepError {
    /// Keeps the first 160 bytes of the reason.
    pub fn new(step: &'static str, why: impl fmt::Display) -> Self {
        let mut error = Self { step, why: [0; ROOM], length: 0 };
        // Writing to it never fails.
        let _ = fmt::write(&mut error, format_args!("{why}"));
        error
    }

    /// Why.
    pub fn why(&self) -> &str {
        let text = self.why.get(..self.length).unwrap_or_default();
        match core::str::from_utf8(text) {
            Ok(text) => text,
            // Cut inside a character.
            Err(error) => {
                text.get(..error.valid_up_to()).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("")
            }
        }
    }
}

impl fmt::Write for StepError {
    /// Cuts what is too long.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (place, byte) in self.why.iter_mut().skip(self.length).zip(text.bytes()) {
            *place = byte;
            self.length += 1;
        }
        Ok(())
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.why())
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for StepError {}
