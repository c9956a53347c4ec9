//! The machine check that a CPU takes when it consumes poison, with the registers as the hardware
//! fills them.
//!
//! Values: Sapphire Rapids logs of `fixtures/mce` 01, 02 and 12: software-recoverable action
//! required, data load, bank 1.

use core::fmt;
use tdx_abi::{Line, PhysAddr};

use crate::{CpuId, PoisonCause};

/// MCi_STATUS of a poisoned data load: valid, uncorrected, enabled, MISC and ADDR valid, S and AR
/// set, MCACOD 0x134.
pub const MCI_STATUS_DATA_LOAD: u64 = 0xbd80_0000_0010_0134;
/// MCi_MISC: address is physical (mode 2 in bits 8:6), valid from bit 6 on.
pub const MCI_MISC_PHYSICAL_LINE: u64 = 0x86;
/// MCG_STATUS: RIPV, EIPV, MCIP, LMCE.
pub const MCG_STATUS_LOCAL: u64 = 0xf;
/// The bank of the data cache unit.
pub const DATA_CACHE_BANK: u32 = 1;

/// Why a read failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineCheckReason {
    /// The line was poisoned by a partial write.
    Poison(PoisonCause),
    /// SEAM read a line with a private KeyID that did not write it: integrity failure. Only inside
    /// SEAM.
    Integrity,
}

/// A machine check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck {
    /// The CPU that read.
    pub cpu: CpuId,
    /// Bank number.
    pub bank: u32,
    /// IA32_MCi_STATUS.
    pub status: u64,
    /// IA32_MCi_ADDR.
    pub address: PhysAddr,
    /// IA32_MCi_MISC.
    pub misc: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// Why: known to the machine, not to the hardware.
    pub reason: MachineCheckReason,
}

impl MachineCheck {
    /// A data load of this line by this CPU.
    pub(crate) const fn data_load(cpu: CpuId, line: Line, reason: MachineCheckReason) -> Self {
        Self {
            cpu,
            bank: DATA_CACHE_BANK,
            status: MCI_STATUS_DATA_LOAD,
            address: line.start(),
            misc: MCI_MISC_PHYSICAL_LINE,
            mcg_status: MCG_STATUS_LOCAL,
            reason,
        }
    }

    /// The line.
    pub const fn line(&self) -> Line {
        self.address.line()
    }
}

impl fmt::Display for MachineCheck {
    /// As the kernel prints it, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPU {}: Machine Check Exception: {:x} Bank {}: {:016x} ADDR {:x} MISC {:x}",
            self.cpu.0,
            self.mcg_status,
            self.bank,
            self.status,
            self.address.get(),
            self.misc
        )
    }
}
