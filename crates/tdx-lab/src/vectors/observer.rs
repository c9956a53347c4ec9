//! Who watches a replay: SEAMCALLs with their answers, resets, and the owner maps that were
//! observed on the real module.

use tdx_abi::{LineRange, Registers};
use tdx_machine::{Machine, OwnerRun};

/// Is told of each step of a replay. Every function does nothing unless implemented.
#[expect(unused_variables, reason = "an observer implements what it looks at")]
pub trait Observer {
    /// A case begins, on a fresh machine.
    fn begin(&mut self, case: &str, machine: &mut Machine) {}

    /// This SEAMCALL is about to be made.
    fn before(&mut self, machine: &mut Machine, call: &Registers) {}

    /// The SEAMCALL has been made. `answer` is `None` if the emulated module does not model it.
    fn after(&mut self, machine: &mut Machine, call: &Registers, answer: Option<&Registers>) {}

    /// A guest has run and left.
    fn guest_left(&mut self, machine: &mut Machine) {}

    /// The host has reset these lines, and fenced.
    fn reset(&mut self, lines: LineRange) {}

    /// A module was loaded in the place of another.
    fn loaded(&mut self) {}

    /// The private lines that the real module had here: all there were, or those in some ranges.
    fn owners(&mut self, runs: &[OwnerRun]) {}
}

/// Watches nothing.
pub(super) struct Nobody;

impl Observer for Nobody {}
