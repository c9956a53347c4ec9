//! Bytes of a debug TD's private memory, which its host may read and write.

use alloc::collections::BTreeMap;

/// Bytes that MEM.RD reads.
pub(super) const WORD: u64 = 8;

/// The bytes of a debug TD's private memory, as 64-bit words by guest address / 8; those that are
/// not here are 0. What its guest stores has no bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct DebugMemory {
    words: BTreeMap<u64, u64>,
}

impl DebugMemory {
    pub(super) fn get(&self, gpa: u64) -> u64 {
        self.words.get(&(gpa / WORD)).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, gpa: u64, value: u64) {
        if value == 0 {
            self.words.remove(&(gpa / WORD));
        } else {
            self.words.insert(gpa / WORD, value);
        }
    }

    /// The page `[gpa, gpa + bytes)` is zero.
    pub(super) fn clear(&mut self, gpa: u64, bytes: u64) {
        let range = gpa / WORD..(gpa + bytes) / WORD;
        self.words.retain(|word, _| !range.contains(word));
    }

    /// The page at `gpa` has this content.
    pub(super) fn fill(&mut self, gpa: u64, content: &[u8]) {
        self.clear(gpa, content.len() as u64);
        let (words, _) = content.as_chunks::<{ WORD as usize }>();
        for (word, at) in words.iter().zip((gpa..).step_by(WORD as usize)) {
            self.set(at, u64::from_le_bytes(*word));
        }
    }
}
