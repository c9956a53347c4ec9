//! Handing the machine over: which policy does what, in which order, on which CPU, and when it says
//! no.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod crash;
mod explain;
mod keep;
mod kexec;
mod leftovers;
mod module;
#[path = "../promise/mod.rs"]
mod promise;
mod world;
