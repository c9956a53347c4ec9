//! Assembly rewriter for `cleanslate.ko`: turns what rustc emits for `linux/object` into assembly
//! that a kernel's own build assembles with its own mitigations.
//!
//! Stable rustc has no return thunks, retpolines or indirect branch tracking, whose form depends on
//! the configuration of the kernel. Here each return becomes the kernel's `RET`, each indirect
//! branch `CALL_NOSPEC` or `JMP_NOSPEC`, each function entry `ENDBR`, and each SEAMCALL gets an
//! entry in the exception table. A package with the result needs no Rust where it is built.
//!
//! The input is checked against allow-lists: mnemonics ([`allow`]), prefixes, registers, forms of
//! operands, directives, sections and symbols. A line with anything else is an error
//! ([`Rejected`]) that names file, line and text. So a new compiler that emits something new stops
//! the build, and a person decides.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod allow;
pub mod header;
mod operand;
mod rewrite;
mod statement;

pub use rewrite::{Input, Problem, Rejected, for_kernel};
