//! Messages in a fixed array of C: ASCII, cut off where the room ends, and a zero byte after it in
//! any case.

use core::ffi::c_char;
use core::fmt::{self, Write as _};

struct Room<'t>(core::slice::IterMut<'t, c_char>);

impl fmt::Write for Room<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // In this order: the other one takes a place for the byte that is not there.
        for (byte, place) in text.bytes().zip(self.0.by_ref()) {
            *place = byte.cast_signed();
        }
        Ok(())
    }
}

/// The message in an array of `SIZE`.
pub(crate) fn text<const SIZE: usize>(message: &dyn fmt::Display) -> [c_char; SIZE] {
    let mut text = [0; SIZE];
    if let Some((_, room)) = text.split_last_mut() {
        // A message that is cut off is no failure.
        let _ = write!(Room(room.iter_mut()), "{message}");
    }
    text
}
