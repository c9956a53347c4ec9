//! The SEAMCALL trait, the retry rules of the ABI, and errors that keep the raw status.
//!
//! # Example
//!
//! A leaf that this crate does not wrap. [`call`] passes the gate, tries again where the ABI allows
//! it, and keeps the raw status.
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use tdx_host::{bringup, layout::{Algorithm, Layout}, platform::detect, private_memory::PrivateMemory};
//! # let hardware = kernel::Hardware::new();
//! # let platform = detect(&hardware)?;
//! # let record = <PrivateMemory>::new();
//! # let mut layout = Box::new(Layout::new());
//! # let mut kernel = kernel::Kernel::boot(&hardware);
//! # bringup::run(&mut kernel, platform, &record, &mut layout, &kernel::MEMORY, Algorithm::Fit)?;
//! use tdx_abi::{FieldId, Leaf, Registers, StatusCode};
//! use tdx_host::seamcall::call;
//!
//! let cpu = kernel.cpu();
//! let output = call(&cpu, Registers::call(Leaf::SYS_RD).rdx(FieldId::MAX_TDMRS.0))?;
//! assert_eq!(output.r8, 64);
//!
//! let error = call(&cpu, Registers::call(Leaf::SYS_CONFIG)).expect_err("configured already");
//! assert_eq!(error.status().code(), StatusCode::SYS_CONFIG_NOT_PENDING);
//! assert_eq!((error.status().raw(), error.attempts), (0xc000_050c_0000_0000, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::fmt;
use tdx_abi::{Leaf, LeafCall, Registers, Status, StatusCode};

use crate::platform::{Cpu, CpuId};

/// Immediate second calls after RND_NO_ENTROPY (`tdx_abi.md` section 1) or KEY_GENERATION_FAILED
/// (section 4: entropy, retry). Linux makes ten calls in all for the first status, and only one for
/// the second.
pub const ENTROPY_RETRIES: u32 = 10;

/// Immediate second calls after a busy status, where the ABI allows one. No leaf spins in the
/// module: the holder of the lock is on its way out, so a bound this large is only met when it
/// never comes.
pub const BUSY_RETRIES: u32 = 10_000;

/// The instruction. One call, no retry, no interpretation.
///
/// # SEAMCALL
/// Implementations execute the instruction on the CPU that calls and return all registers. If the
/// instruction fails before the module runs (carry flag, #UD, #GP) RAX is one of the software codes
/// of [`Status`] and the rest is as on entry.
pub trait Seamcall {
    /// Executes SEAMCALL with these registers.
    fn seamcall(&self, registers: Registers) -> Registers;
}

/// A SEAMCALL that did not do what was asked. The raw 64-bit status is always there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeamcallError {
    /// Leaf and version.
    pub call: LeafCall,
    /// Where.
    pub cpu: CpuId,
    /// All input registers.
    pub input: Registers,
    /// All output registers; RAX is the status.
    pub registers: Registers,
    /// Calls made, the first one included.
    pub attempts: u32,
}

impl SeamcallError {
    /// What the module (or the instruction) said.
    pub const fn status(&self) -> Status {
        self.registers.status()
    }
}

/// The operands as the module saw and left them: `{:#}` of an error.
fn operands(f: &mut fmt::Formatter<'_>, when: &str, registers: &Registers) -> fmt::Result {
    let Registers { rcx, rdx, r8, r9, .. } = registers;
    write!(f, "; {when} RCX {rcx:#x} RDX {rdx:#x} R8 {r8:#x} R9 {r9:#x}")
}

impl fmt::Display for SeamcallError {
    /// `{:#}` adds the operands, in and out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        write!(f, "SEAMCALL {} failed on {}: {:#018x} {status}", self.call.leaf(), self.cpu, status.raw())?;
        if self.attempts > 1 {
            write!(f, " after {} attempts", self.attempts)?;
        }
        if f.alternate() {
            operands(f, "in", &self.input)?;
            operands(f, "out", &self.registers)?;
        }
        Ok(())
    }
}

impl core::error::Error for SeamcallError {}

/// Second calls after INTERRUPTED_RESTARTABLE: an interrupt was pending, and the next call may come
/// to the end.
pub const RESTARTS: u32 = 1_000;

/// How often a call is made again at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// After RND_NO_ENTROPY or KEY_GENERATION_FAILED.
    pub entropy: u32,
    /// After a busy status.
    pub busy: u32,
    /// After INTERRUPTED_RESTARTABLE.
    pub restart: u32,
}

impl Retry {
    /// What the ABI allows for a leaf: entropy everywhere; busy and restart everywhere but in SYS.*
    /// leaves that take no lock, because no leaf waits, so whoever holds the lock is on its way
    /// out, and a call that finds it taken has done nothing.
    ///
    /// A VCPU inside the TD is another matter: PREVIOUS_TLB_EPOCH_BUSY is not tried again, the
    /// kernel kicks VCPUs first.
    pub const fn for_leaf(leaf: Leaf) -> Self {
        let busy = match leaf {
            Leaf::SYS_RD | Leaf::SYS_RDALL | Leaf::SYS_INFO | Leaf::VP_ENTER => 0,
            _ => BUSY_RETRIES,
        };
        let restart = match leaf {
            Leaf::MEM_PAGE_PROMOTE | Leaf::MEM_PAGE_DEMOTE => RESTARTS,
            _ => 0,
        };
        Self { entropy: ENTROPY_RETRIES, busy, restart }
    }
}

/// Makes the call, again where [`Retry::for_leaf`] allows it. Informational statuses are a success;
/// the caller reads RAX.
///
/// # Errors
/// The last status, with the number of attempts; [`tdx_abi::Status::GATE_CLOSED`] if the gate is
/// closed, and then the instruction was not executed in the last attempt.
///
/// # SEAMCALL
/// The leaf that `input` names, on this CPU, once the gate has admitted it. The CPU counts as one
/// whose caches may hold private lines from then on, also if the call fails.
pub fn call<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, SeamcallError> {
    let mut retry = Retry::for_leaf(input.leaf_call().leaf());
    let mut attempts = 1;
    loop {
        let registers = match cpu.admission().enter(input.leaf_call().leaf()) {
            Ok(_admitted) => cpu.seamcall(input),
            Err(_) => Registers { rax: Status::GATE_CLOSED.raw(), ..input },
        };
        let status = registers.status();
        if !status.is_error() {
            return Ok(registers);
        }
        let budget = match status.code() {
            StatusCode::RND_NO_ENTROPY | StatusCode::KEY_GENERATION_FAILED => &mut retry.entropy,
            StatusCode::SYS_BUSY | StatusCode::OPERAND_BUSY => &mut retry.busy,
            StatusCode::INTERRUPTED_RESTARTABLE => &mut retry.restart,
            _ => &mut 0,
        };
        if *budget == 0 {
            return Err(SeamcallError { call: input.leaf_call(), cpu: cpu.id(), input, registers, attempts });
        }
        *budget -= 1;
        attempts += 1;
        core::hint::spin_loop();
    }
}
