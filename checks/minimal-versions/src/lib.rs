//! Nothing: it is here to be built with the oldest dependencies.

#![no_std]
