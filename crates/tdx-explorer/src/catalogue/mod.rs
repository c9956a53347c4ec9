//! The catalogue: bugs that kernels have had, or could have, each with its origin. The explorer
//! must find every one; one that it cannot tell from correct behavior would be a gap of the
//! machine.

mod bring_up;
mod handover;
mod keep;
mod life;

use tdx_abi::{Leaf, LineRange, Page, Registers, Status};

use super::bug::{Bug, Moment, Past};
use super::history::Part;
use tdx_lab::platform::{Deed, Operation};

/// Every bug, by the part of the kernel it is in.
pub fn bugs() -> impl Iterator<Item = &'static Bug> {
    bring_up::BUGS.iter().chain(life::BUGS).chain(handover::BUGS).chain(keep::BUGS)
}

/// The operation is not done.
const fn skip_if(condition: bool) -> Deed {
    if condition { Deed::Skip } else { Deed::AsIs }
}

fn leaf(moment: &Moment<'_>) -> Option<Leaf> {
    match moment.act.operation {
        Operation::Seamcall(registers) => Some(registers.leaf_call().leaf()),
        _ => None,
    }
}

/// The lines that are being reset.
fn reset(moment: &Moment<'_>) -> Option<LineRange> {
    match moment.act.operation {
        Operation::Reset(lines) => Some(lines),
        _ => None,
    }
}

fn is_write_back(moment: &Moment<'_>) -> bool {
    moment.act.operation == Operation::WriteBack
}

fn is_fence(moment: &Moment<'_>) -> bool {
    moment.act.operation == Operation::Fence
}

/// The call is not made, and seems to have succeeded.
fn pretend(registers: Registers) -> Deed {
    Deed::Answer(Registers { rax: Status::SUCCESS.raw(), ..registers })
}

/// The page was given by this leaf, and the kernel does not know it.
fn given_by(past: &Past<'_>, page: Page, leaf: Leaf) -> bool {
    past.history.of(page).is_some_and(|given| given.by == leaf)
}

/// The page was given by this leaf as a page of this kind.
fn given_as(past: &Past<'_>, page: Page, leaf: Leaf, part: Part) -> bool {
    past.history.of(page).is_some_and(|given| given.by == leaf && given.part == part)
}

/// The page was given to a call of this leaf that failed.
fn refused_by(past: &Past<'_>, page: Page, leaf: Leaf) -> bool {
    past.history.of(page).is_some_and(|given| given.by == leaf && given.returned == Some(leaf))
}

/// A reset of a page that a failed call was given is left out.
fn no_reset_after(moment: &Moment<'_>, leaf: Leaf) -> Deed {
    let lines = reset(moment).filter(|_| !moment.hands_over());
    skip_if(lines.is_some_and(|lines| refused_by(&moment.past, lines.pages().start(), leaf)))
}
