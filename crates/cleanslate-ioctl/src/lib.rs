//! ioctls of `/dev/cleanslate` (`linux/cleanslate_ioctl.h`) and, in the test variant of
//! `cleanslate.ko`, of `/dev/cleanslate_test` (`bare/linux/cleanslate_test_ioctl.h`).
//!
//! ```no_run
//! let device = std::fs::File::open("/dev/cleanslate")?;
//! cleanslate_ioctl::up(&device)?;
//! let test_device = std::fs::File::open("/dev/cleanslate_test")?;
//! cleanslate_ioctl::td(&test_device, cleanslate_ioctl::TdPhase::Runnable)?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![warn(missing_docs)]
#![expect(unsafe_code, reason = "ioctl() believes what it is told of its argument")]

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

/// The ioctl type of both.
const GROUP: u8 = 0xcd;
/// `CLEANSLATE_IOCTL_UP`.
pub const UP: Opcode = opcode::none(GROUP, 0);
/// `CLEANSLATE_IOCTL_VACUUM`.
pub const VACUUM: Opcode = opcode::none(GROUP, 2);
/// `CLEANSLATE_IOCTL_ADOPT`.
pub const ADOPT: Opcode = opcode::none(GROUP, 3);
/// `CLEANSLATE_IOCTL_TD`.
pub const TD: Opcode = opcode::write::<u32>(GROUP, 1);

/// In which phase of its life a TD is left that is built for a test: `CLEANSLATE_TD_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum TdPhase {
    /// Ready to run.
    Runnable = 0,
    /// With half of its control pages.
    HalfBuilt = 1,
    /// Torn down.
    Gone = 2,
    /// With a free KeyID and some of its pages reclaimed.
    HalfGone = 3,
}

/// Initializes TDX, for kernels without TDX host code.
///
/// # Errors
/// Of the module: `EEXIST` (TDX is initialized), `EBUSY` (KVM uses VMX, or the system is being
/// suspended), `ENOMEM`, `EIO`, `EPERM`. The kernel log has the reason.
pub fn up(device: impl AsFd) -> io::Result<()> {
    // SAFETY: this opcode takes no argument (linux/cleanslate_ioctl.h); another device refuses it,
    // or reads none either.
    unsafe { ioctl(device, NoArg::<UP>::new()) }.map_err(Into::into)
}

/// Tears down the TDs of the kernel before, where TDX was taken over.
///
/// # Errors
/// Of the module: `ENODEV` (there is nothing to tear down), `EIO` (a TD stays), `EPERM`. The kernel
/// log has the reason.
pub fn vacuum(device: impl AsFd) -> io::Result<()> {
    // SAFETY: as in `up`.
    unsafe { ioctl(device, NoArg::<VACUUM>::new()) }.map_err(Into::into)
}

/// Adopts the TDs of the kernel before that can run, through `/dev/cleanslate_test`.
///
/// # Errors
/// As [`vacuum`].
pub fn adopt(device: impl AsFd) -> io::Result<()> {
    // SAFETY: this opcode takes no argument (bare/linux/cleanslate_test_ioctl.h).
    unsafe { ioctl(device, NoArg::<ADOPT>::new()) }.map_err(Into::into)
}

/// Builds a TD for a test, through `/dev/cleanslate_test`. What it owns at the end stays private
/// until the next kexec.
///
/// # Errors
/// Of the module: `ENODEV` (TDX is not initialized), `ENOMEM`, `EIO`, `EPERM`. The kernel log has
/// the reason.
pub fn td(device: impl AsFd, phase: TdPhase) -> io::Result<()> {
    // SAFETY: this opcode reads 32 bits at its argument (bare/linux/cleanslate_test_ioctl.h),
    // which its number says too.
    unsafe { ioctl(device, Setter::<TD, u32>::new(phase as u32)) }.map_err(Into::into)
}
