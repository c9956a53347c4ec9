//! Handing the machine over: which policy does what, in which order, on which CPU, and when it says no.

mod crash;
mod kexec;
mod module;
mod world;
