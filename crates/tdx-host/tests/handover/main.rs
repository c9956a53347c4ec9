//! Handing the machine over: which policy does what, in which order, on which CPU, and when it says
//! no.

mod crash;
mod explain;
mod kexec;
mod leftovers;
mod module;
mod world;
