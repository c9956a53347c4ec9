//! What the types forbid: each case must not compile, and the compiler's words are golden files
//! beside it.

#![cfg(not(loom))]

#[test]
fn the_types_forbid_it() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
