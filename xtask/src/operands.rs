//! The task `operands`: writes the table of page operands of `tdx_host::effect` as a page of the
//! book. `lint` compares the page with the table.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::PathBuf;
use tdx_host::effect::{Kept, LeafEffect, Return, Row, Size, TABLE, Take, There, Written};

const PAGE: &str = "docs/reference/page-operands.md";

fn path() -> PathBuf {
    crate::root().join(PAGE)
}

/// Writes the page.
pub(crate) fn write() -> Result<bool> {
    std::fs::write(path(), page()).with_context(|| format!("cannot write {PAGE}"))?;
    println!("{PAGE}");
    Ok(true)
}

/// True if the page is what the table says.
pub(crate) fn check() -> Result<bool> {
    let there = std::fs::read_to_string(path()).with_context(|| format!("cannot read {PAGE}"))?;
    let current = there == page();
    if !current {
        println!("{PAGE}: not what crates/tdx-host/src/effect/table.rs says; run `cargo xtask operands`");
    }
    Ok(current)
}

const HEAD: &str = "\
# Page operands of SEAMCALL leaves

Which registers of each leaf and version name pages, when their lines become private, and how they
come back. Written by `cargo xtask operands` from `tdx_host::effect::TABLE`
([table.rs](../../crates/tdx-host/src/effect/table.rs), which names its sources); `cargo xtask lint`
compares. `seamcall::call` refuses by it, `follow` tracks the TDs of other code by it, and
`crates/tdx-lab/tests/page_operands.rs` compares it with the owner maps of the conformance vectors.

A leaf or a version that is not here may move any page: it is refused, and a follower loses track.
A page is marked before the call that names it, whatever becomes of the call, and keeps its mark
until it was reset. \"Private in\" says when the module writes to it, \"the module has it\" which
calls keep it: after others the host may give it again or reset it. A page that was returned is as
private as before.
";

/// The page as the table has it.
fn page() -> String {
    let mut text = HEAD.to_owned();
    text += "\n## Pages that a call takes\n\n";
    text += "| leaf | version | register | size | there is a page | private in | the module has it |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for row in TABLE {
        for take in row.takes {
            line(&mut text, &takes(row, take));
        }
        if row.takes_pamts {
            let place = "PAMTs of the TDMR_INFOs in memory (RCX: addresses, RDX: how many)";
            let cells = [name(row), versions(row), place.into(), "as in TDMR_INFO".into()];
            let when = ["always", "SYS.TDMR.INIT, piece by piece", "on success"].map(String::from);
            line(&mut text, &[&cells[..], &when[..]].concat());
        }
    }
    text += "\n## Pages that a call returns, if it succeeds\n\n";
    text += "| leaf | version | register | size | there is a page |\n| --- | --- | --- | --- | --- |\n";
    for row in TABLE {
        for back in row.returns {
            line(&mut text, &returns(row, *back));
        }
    }
    text += "\n## Leaves that move no page\n\n| what they do | leaves |\n| --- | --- |\n";
    for effect in [LeafEffect::Nothing, LeafEffect::WritesMemory, LeafEffect::ChangesState, LeafEffect::EntersGuest] {
        let leaves: Vec<String> = TABLE.iter().filter(|row| row.effect == effect).map(with_versions).collect();
        line(&mut text, &[kind(effect).into(), leaves.join(", ")]);
    }
    text += "\n## Notes\n\n";
    for row in TABLE.iter().filter(|row| !row.note.is_empty()) {
        let _ = writeln!(text, "- {}: {}.", with_versions(row), row.note);
    }
    text
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// Without `TDH.`.
fn name(row: &Row) -> String {
    row.leaf.name().unwrap_or("?").to_owned()
}

fn versions(row: &Row) -> String {
    row.versions.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

fn with_versions(row: &Row) -> String {
    if row.versions == [0] { name(row) } else { format!("{} (version {})", name(row), versions(row)) }
}

fn takes(row: &Row, take: &Take) -> [String; 7] {
    let written = match take.written {
        Written::OnSuccess => "a call that succeeds".to_owned(),
        Written::AlsoOn(statuses) => {
            let names: Vec<&str> = statuses.iter().filter_map(|status| status.name()).collect();
            format!("a call that succeeds, or fails with {}", names.join(", ").replace("TDX_", ""))
        }
        Written::OnAccept => "the guest's accept".to_owned(),
        _ => "?".to_owned(),
    };
    let kept = match take.kept {
        Kept::OnSuccess => "on success",
        Kept::AsAnswered => "on success, unless bit 63 of the register is set; on failure, if the register is all ones",
        Kept::UnlessOneMayExist => "on success, if bit 0 of RDX is clear; else it is not known",
        _ => "?",
    };
    let Take { register, size, there, .. } = take;
    let register = register.name().to_owned();
    [name(row), versions(row), register, sized(*size), when(*there), written, kept.to_owned()]
}

fn returns(row: &Row, back: Return) -> [String; 5] {
    let by = if back.by_call { " of the call" } else { "" };
    [name(row), versions(row), format!("{}{by}", back.register.name()), sized(back.size), when(back.there)]
}

fn sized(size: Size) -> String {
    match size {
        Size::Small => "4 KiB",
        Size::LevelInRcx => "level in RCX of the call",
        Size::LevelInR8 => "level in R8 of the answer",
    }
    .to_owned()
}

fn when(there: There) -> String {
    match there {
        There::Always => "always",
        There::UnlessAllOnes => "unless all ones",
        There::UnlessAllOnesOrZero => "unless all ones or 0",
        There::PairOf2M => "Dynamic PAMT is on and the level in RCX is 2 MiB",
    }
    .to_owned()
}

const fn kind(effect: LeafEffect) -> &'static str {
    match effect {
        LeafEffect::Nothing => "read, or work on what the module has",
        LeafEffect::WritesMemory => "write memory of the host",
        LeafEffect::ChangesState => "change the life of the module, a TD, a VCPU or a KeyID",
        LeafEffect::EntersGuest => "run a guest",
        _ => "?",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_current_and_has_no_gap() {
        assert!(super::check().unwrap());
        assert!(!super::page().contains('?'));
    }
}
