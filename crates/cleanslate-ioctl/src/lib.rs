//! The orders that `/dev/cleanslate` takes: `linux/cleanslate_ioctl.h` for Rust programs. It knows
//! the numbers and makes the call, and refuses to know what the orders are for.
//!
//! ```no_run
//! let device = std::fs::OpenOptions::new().read(true).open("/dev/cleanslate")?;
//! cleanslate_ioctl::up(&device)?;
//! cleanslate_ioctl::td(&device, cleanslate_ioctl::Fate::Runnable)?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![warn(missing_docs)]
#![expect(unsafe_code, reason = "ioctl() believes what it is told of its argument")]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

/// The letter of all of them.
const GROUP: u8 = 0xcd;
/// `CLEANSLATE_IOCTL_UP`.
pub const UP: Opcode = opcode::none(GROUP, 0);
/// `CLEANSLATE_IOCTL_TD`.
pub const TD: Opcode = opcode::write::<u32>(GROUP, 1);

/// How far a TD comes that is built for a test: `CLEANSLATE_TD_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Fate {
    /// It could run.
    Runnable = 0,
    /// Half of its control pages are there.
    HalfBuilt = 1,
    /// It has lived and is gone.
    Gone = 2,
    /// Its KeyID is free, and some of its pages are back.
    HalfGone = 3,
}

/// Initializes TDX, for kernels without TDX host code.
///
/// # Errors
/// What the module says: `EEXIST` (TDX is up), `EBUSY` (KVM is in VMX operation), `ENOMEM`, `EIO`,
/// `EPERM`. The kernel's log says why.
pub fn up(device: impl AsFd) -> io::Result<()> {
    // SAFETY: this opcode takes no argument (linux/cleanslate_ioctl.h); another device refuses it,
    // or reads none either.
    unsafe { ioctl(device, NoArg::<UP>::new()) }.map_err(Into::into)
}

/// Builds a TD for a test. What it holds at the end it holds until the next kexec.
///
/// # Errors
/// What the module says: `EPERM` (TDX is not up), `ENOMEM`, `EIO`. The kernel's log says why.
pub fn td(device: impl AsFd, fate: Fate) -> io::Result<()> {
    // SAFETY: this opcode reads 32 bits at its argument (linux/cleanslate_ioctl.h), which its
    // number says too.
    unsafe { ioctl(device, Setter::<TD, u32>::new(fate as u32)) }.map_err(Into::into)
}
