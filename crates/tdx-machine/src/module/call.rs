//! One SEAMCALL while it runs: its registers, the CPU, the hardware under it, and the ways in which
//! a leaf can end early.

use tdx_abi::{KeyId, LineRange, Operand, PhysAddr, Registers, Status, StatusCode};

use crate::fault::Conditions;
use crate::hardware::Hardware;
use crate::{CpuId, MachineCheck, ModuleProfile, PackageId, Refusal};

/// What a leaf does not return from in the ordinary way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// A completion status, as an early return.
    Status(Status),
    /// The module consumed poison or data of another key.
    MachineCheck(MachineCheck),
    /// The emulator does not know what the module would do.
    Refused(Refusal),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<StatusCode> for Stop {
    fn from(code: StatusCode) -> Self {
        Self::Status(code.with(0))
    }
}

impl From<MachineCheck> for Stop {
    fn from(check: MachineCheck) -> Self {
        Self::MachineCheck(check)
    }
}

/// The end of a leaf.
pub(super) type Leaf = Result<Status, Stop>;

/// A busy or invalid operand as an early return.
pub(super) fn operand<T>(code: StatusCode, operand: Operand) -> Result<T, Stop> {
    Err(Stop::Status(code.operand(operand)))
}

/// The call.
pub(super) struct Call<'a> {
    pub(super) hardware: &'a mut Hardware,
    pub(super) cpu: CpuId,
    /// Registers on entry.
    pub(super) input: Registers,
    /// Registers on return; RAX is set at the end.
    pub(super) out: Registers,
    pub(super) conditions: Conditions,
}

impl Call<'_> {
    /// Version of the leaf, 0 or 1.
    pub(super) fn version(&self) -> u8 {
        self.input.leaf_call().version()
    }

    /// Package of the CPU.
    pub(super) fn package(&self) -> PackageId {
        self.hardware.package_of(self.cpu)
    }

    /// Does this module know SYS.DISABLE?
    pub(super) fn has_sys_disable(&self) -> bool {
        self.hardware.config.module.is_some_and(ModuleProfile::has_sys_disable)
    }

    /// Does this module know dynamic PAMT?
    pub(super) fn has_dynamic_pamt(&self) -> bool {
        self.hardware.config.module.is_some_and(ModuleProfile::has_dynamic_pamt)
    }

    /// Clears RCX, RDX and R8 to R11, as leaves with many outputs do first.
    pub(super) fn clear_outputs(&mut self) {
        let out = &mut self.out;
        (out.rcx, out.rdx, out.r8, out.r9, out.r10, out.r11) = (0, 0, 0, 0, 0, 0);
    }

    /// MOVDIR64B of whole lines.
    pub(super) fn direct_store(&mut self, lines: LineRange, key: KeyId) {
        self.hardware.seam_direct_store(lines, key);
    }

    /// Ordinary stores to lines the module has written before.
    pub(super) fn store(&mut self, lines: LineRange, key: KeyId) -> Result<(), Stop> {
        Ok(self.hardware.seam_store(self.cpu, lines, key)?)
    }

    /// A read of private memory.
    pub(super) fn load(&mut self, lines: LineRange, key: KeyId) -> Result<(), Stop> {
        Ok(self.hardware.seam_load(self.cpu, lines, key)?)
    }

    /// Reads 64-bit words of host memory. The KeyID bits of the address are shared ones.
    pub(super) fn read_words<const N: usize>(&mut self, address: PhysAddr) -> Result<[u64; N], Stop> {
        let address = self.hardware.config.key_id_field.strip(address);
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.hardware.seam_read(self.cpu, PhysAddr::new(address.get() + 8 * index as u64), &mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }

    /// Reads bytes of host memory.
    pub(super) fn read_bytes(&mut self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Stop> {
        let address = self.hardware.config.key_id_field.strip(address);
        Ok(self.hardware.seam_read(self.cpu, address, bytes)?)
    }

    /// Writes host memory.
    pub(super) fn write_bytes(&mut self, address: PhysAddr, bytes: &[u8]) {
        let address = self.hardware.config.key_id_field.strip(address);
        self.hardware.seam_write(self.cpu, address, bytes);
    }

    /// Is this a host buffer the module may use: aligned, below 2^52, without a private KeyID,
    /// outside SEAMRR?
    pub(super) fn is_shared_buffer(&self, address: PhysAddr, align: u64, bytes: u64) -> bool {
        if !address.is_aligned(align) || address.get() >> tdx_abi::MAX_PHYS_BITS != 0 {
            return false;
        }
        let field = self.hardware.config.key_id_field;
        if self.hardware.key_ids().is_private(field.key_of(address)) {
            return false;
        }
        let start = field.strip(address).get();
        self.hardware
            .config
            .seamrr
            .is_none_or(|seamrr| start >= seamrr.limit().get() || start + bytes <= seamrr.base().get())
    }

    /// Below 2^52 and without KeyID bits?
    pub(super) fn is_plain(&self, address: PhysAddr) -> bool {
        address.get() & !self.hardware.config.key_id_field.memory_mask() == 0
    }
}
