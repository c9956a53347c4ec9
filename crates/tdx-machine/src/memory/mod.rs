//! The memory controller: for each 64-byte line the private KeyID that owns it, if any, and whether
//! it is poisoned.
//!
//! It sees only what reaches it: full lines and partial writes. What still sits in a cache is
//! [`crate::cache`]'s matter.

mod content;

use core::ops::ControlFlow;
use tdx_abi::{KeyId, Line, LineRange};

use crate::poison::CauseId;
use crate::tree::Tree;

pub(crate) use content::Content;

/// State of one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LineState {
    /// The private KeyID that wrote it last; KeyID 0 if a shared one did, or none.
    pub(crate) owner: KeyId,
    /// Why it is poisoned, if it is.
    pub(crate) poison: CauseId,
}

impl LineState {
    const NORMAL: Self = Self { owner: KeyId::HOST, poison: CauseId::CLEAN };

    pub(crate) fn is_private(self) -> bool {
        self.owner != KeyId::HOST
    }
}

/// All of memory.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    lines: Tree<LineState>,
    pub(crate) content: Content,
}

impl Memory {
    /// Every line normal, every byte 0.
    pub(crate) fn new() -> Self {
        Self { lines: Tree::new(LineState::NORMAL), content: Content::default() }
    }

    pub(crate) fn state(&self, line: Line) -> LineState {
        self.lines.get(line.index())
    }

    /// Maximal runs of lines in one state, ascending.
    pub(crate) fn runs<B>(
        &self,
        lines: LineRange,
        mut function: impl FnMut(LineRange, LineState) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.lines
            .runs(lines.start().index(), lines.end().index(), |start, end, state| function(range(start, end), state))
    }

    /// Full lines arrive, written with a key whose owner is `owner` (KeyID 0 for every shared key).
    /// The data is valid unless the line came from a cache that had read poison: then the poison
    /// comes back with it.
    pub(crate) fn full_write(&mut self, lines: LineRange, owner: KeyId, poison: CauseId) {
        self.lines.set(lines.start().index(), lines.end().index(), LineState { owner, poison });
    }

    /// Partial writes with a shared key arrive. Returns the number of lines that were poisoned by
    /// them.
    ///
    /// On an erratum CPU a TD-owned line is poisoned, silently, and keeps its owner. Without the
    /// erratum the controller merges into what a shared read gives and writes the whole line back,
    /// which ends the ownership. Poison stays.
    pub(crate) fn partial_write(&mut self, lines: LineRange, erratum: bool, cause: CauseId) -> u64 {
        let mut poisoned = 0;
        self.lines.update(lines.start().index(), lines.end().index(), |start, end, state| {
            match (state.poison.is_poison(), state.is_private()) {
                (true, _) | (_, false) => state,
                (false, true) if erratum => {
                    poisoned += end - start;
                    LineState { poison: cause, ..state }
                }
                (false, true) => LineState::NORMAL,
            }
        });
        poisoned
    }
}

/// The lines `[start, end)`.
pub(crate) const fn range(start: u64, end: u64) -> LineRange {
    LineRange::new(Line::new(start), Line::new(end))
}
