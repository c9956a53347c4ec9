//! The TDX host memory stack: brings up Intel's TDX module, knows which physical memory is TDX-private, and hands a clean
//! machine to the next kernel at kexec and after a failed bring-up.
//!
//! It refuses to allocate, to take a lock, and to know which machine it runs on: the kernel brings memory and CPUs through
//! the traits of [`platform`], the instructions stand behind them, and no feature ever swaps one for an emulation.
//!
//! Data flows one way: [`layout`] -> [`bringup`] -> [`private_memory`], [`ledger`], [`page`], [`dynamic_pamt`], [`td`] -> [`reset`] -> [`handover`].
//! Every SEAMCALL passes the [`gate`].

#![no_std]
#![warn(missing_docs)]

pub mod arch;
pub mod bringup;
pub mod dynamic_pamt;
pub mod gate;
pub mod handover;
pub mod key_ids;
pub mod layout;
pub mod ledger;
pub mod page;
pub mod platform;
pub mod private_memory;
pub mod reset;
pub mod seamcall;
mod sync;
pub mod td;
