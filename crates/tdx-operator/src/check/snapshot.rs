//! Texts collected from a machine, the same for a live and a collected one, so that the same rules
//! apply. Holds only what [`super::keep`] allows.

use std::collections::BTreeMap;

use super::item::{Item, Unseen};

/// An item's text, or why there is none.
pub type Seen = Result<String, Unseen>;

/// A machine at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    items: BTreeMap<Item, Seen>,
}

impl Snapshot {
    /// Puts an item in; an earlier one is replaced.
    pub fn put(&mut self, item: Item, seen: Seen) {
        self.items.insert(item, seen);
    }

    /// The text of an item.
    ///
    /// # Errors
    /// Why it was not seen; [`Unseen::Absent`] if it was not looked for.
    pub fn get(&self, item: Item) -> Result<&str, &Unseen> {
        match self.items.get(&item) {
            Some(seen) => seen.as_deref(),
            None => Err(&Unseen::Absent),
        }
    }
}

/// The bytes as text without NUL.
pub(super) fn text(bytes: Vec<u8>) -> Seen {
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Unseen::NotText),
    }
}
