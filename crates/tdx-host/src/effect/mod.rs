//! SEAMCALL page operands: which registers of each leaf and version name pages, when their lines
//! become private, and how they come back. The one table that [`seamcall::call`] and
//! [`crate::follow`] read, and of which `docs/reference/page-operands.md` is a print.
//!
//! A leaf or version that is not in [`TABLE`] may do anything: it is refused by the one and an
//! error of the other.
//!
//! [`seamcall::call`]: crate::seamcall::call

mod operand;
mod table;

use tdx_abi::{Leaf, LeafCall, StatusCode};

pub use operand::{Register, Size, There};
pub use table::TABLE;

/// What a leaf does to memory of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LeafEffect {
    /// Reads, or works on what the module already has. No page changes its owner, no memory of the
    /// host is written, and no state changes that lets another leaf or a guest do so.
    Nothing,
    /// Writes memory of the host at an address among its operands.
    WritesMemory,
    /// Changes the life of the module, a TD, a VCPU or a KeyID, or what a guest can reach.
    ChangesState,
    /// Takes pages of the host or returns them.
    MovesPages,
    /// Runs a guest, and leaves no register as it was.
    EntersGuest,
}

/// When the lines of a page that a call takes become private.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Written {
    /// In a call that succeeds, and in none that fails.
    OnSuccess,
    /// In a call that succeeds, and in one that fails with one of these statuses: the module has
    /// written the page before it found out. Whether it has the page then, [`Kept`] says.
    AlsoOn(&'static [StatusCode]),
    /// Not in the call: when the guest accepts the page.
    OnAccept,
    /// Not in the call: piece by piece in SYS.TDMR.INIT.
    ByTdmrInit,
}

/// Which calls keep a page that they were given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kept {
    /// Those that succeed.
    OnSuccess,
    /// Those that succeed, unless bit 63 of the register is set in the answer; and those that fail
    /// with all ones in it, because each page is taken by itself.
    AsAnswered,
    /// Those that succeed with bit 0 of RDX clear. If it is set there may be a page already; then
    /// the new one is not used, and the answer does not say so.
    UnlessOneMayExist,
}

/// A page that a call takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Take {
    /// Its address in the call.
    pub register: Register,
    /// Its size.
    pub size: Size,
    /// When the register names a page at all.
    pub there: There,
    /// When its lines become private.
    pub written: Written,
    /// Which calls keep it.
    pub kept: Kept,
}

impl Take {
    const fn small(register: Register) -> Self {
        let written = Written::OnSuccess;
        Self { register, size: Size::Small, there: There::Always, written, kept: Kept::OnSuccess }
    }

    const fn sized(self, size: Size) -> Self {
        Self { size, ..self }
    }

    const fn there(self, there: There) -> Self {
        Self { there, ..self }
    }

    const fn written(self, written: Written) -> Self {
        Self { written, ..self }
    }

    const fn kept(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }
}

/// A page that a call which succeeds returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Return {
    /// Its address in the answer, or in the call.
    pub register: Register,
    /// True if the call names it, false if the answer does.
    pub by_call: bool,
    /// Its size.
    pub size: Size,
    /// When the register names a page at all.
    pub there: There,
}

impl Return {
    const fn small(register: Register) -> Self {
        Self { register, by_call: false, size: Size::Small, there: There::Always }
    }

    const fn sized(self, size: Size) -> Self {
        Self { size, ..self }
    }

    const fn there(self, there: There) -> Self {
        Self { there, ..self }
    }

    const fn by_call(self) -> Self {
        Self { by_call: true, ..self }
    }
}

/// A row of the table: one leaf, and the versions of it that do the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The leaf.
    pub leaf: Leaf,
    /// Its versions.
    pub versions: &'static [u8],
    /// What it does to memory of the host.
    pub effect: LeafEffect,
    /// Pages that it takes.
    pub takes: &'static [Take],
    /// True if it takes the PAMTs that TDMR_INFO structures in memory name (SYS.CONFIG): their
    /// lines become private [`Written::ByTdmrInit`].
    pub takes_pamts: bool,
    /// Pages that it returns.
    pub returns: &'static [Return],
    /// What the columns do not say.
    pub note: &'static str,
}

/// Leaves and versions that the index below has room for; none beyond is in the table.
const LEAVES: usize = 128;
const VERSIONS: usize = 2;

/// The row of each leaf and version. An observer looks one up twice for each SEAMCALL of a running
/// host.
static INDEX: [[Option<&Row>; VERSIONS]; LEAVES] = index();

const fn index() -> [[Option<&'static Row>; VERSIONS]; LEAVES] {
    let mut index = [[None; VERSIONS]; LEAVES];
    let mut rows = TABLE;
    while let [row, rest @ ..] = rows {
        let mut versions = row.versions;
        while let [version, more @ ..] = versions {
            // Out of bounds: does not compile.
            index[row.leaf.0 as usize][*version as usize] = Some(row);
            versions = more;
        }
        rows = rest;
    }
    index
}

/// The row of a call, or `None` if its leaf or its version is not known.
pub const fn row(call: LeafCall) -> Option<&'static Row> {
    let (leaf, version) = (call.leaf().0 as usize, call.version() as usize);
    if leaf < LEAVES && version < VERSIONS { INDEX[leaf][version] } else { None }
}

/// What a leaf does to memory of the host, in every version that is known; `None` if the leaf is
/// not known.
pub const fn leaf_effect(leaf: Leaf) -> Option<LeafEffect> {
    // Each has a version 0.
    match row(LeafCall::new(leaf)) {
        Some(row) => Some(row.effect),
        None => None,
    }
}

/// What a call does that is not for the TDX module.
pub(crate) static NOT_OF_THE_MODULE: Row = Row {
    leaf: Leaf(u16::MAX),
    versions: &[],
    effect: LeafEffect::Nothing,
    takes: &[],
    takes_pamts: false,
    returns: &[],
    note: "",
};

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_leaf_with_a_name_has_version_0_and_no_version_two_rows() {
        let leaves: BTreeSet<u16> = TABLE.iter().map(|row| row.leaf.0).collect();
        assert_eq!(leaves, Leaf::KNOWN.iter().map(|leaf| leaf.0).collect());
        let mut seen = BTreeSet::new();
        for row in TABLE {
            for version in row.versions {
                assert!(seen.insert((row.leaf.0, *version)), "{} version {version}", row.leaf);
            }
            assert_eq!(leaf_effect(row.leaf), Some(row.effect), "{}: versions differ in effect", row.leaf);
        }
        assert!(leaves.iter().all(|leaf| seen.contains(&(*leaf, 0))));
    }

    /// The index against a search of the table.
    #[test]
    fn every_leaf_and_version_is_looked_up_as_the_table_has_it() {
        for leaf in 0..=u16::MAX {
            for version in 0..=u8::MAX {
                let has = |row: &&Row| row.leaf.0 == leaf && row.versions.contains(&version);
                let found = row(LeafCall::with_version(Leaf(leaf), version));
                assert_eq!(found, if leaf < 300 { TABLE.iter().find(has) } else { None }, "{leaf} {version}");
            }
        }
    }

    #[test]
    fn only_leaves_that_move_pages_have_page_operands() {
        for row in TABLE {
            let moves = !row.takes.is_empty() || !row.returns.is_empty();
            assert_eq!(moves, row.effect == LeafEffect::MovesPages, "{}", row.leaf);
        }
    }
}
